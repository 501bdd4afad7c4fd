//! DPDK's version numbers: year, month, and a patch level that does not change the API.

use std::fmt;
use std::str::FromStr;

/// A DPDK release, for example 22.11. Patch levels (22.11.**3**) and candidates (`-rc1`) are dropped:
/// the API is fixed by year and month.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Two-digit year.
    pub year: u16,
    /// Month, 1 to 12.
    pub month: u16,
}

/// The text is not `YEAR.MONTH[.PATCH]`.
#[derive(Debug, PartialEq, Eq, PartialOrd)]
pub struct NotAVersion;

impl FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        let mut parts = text.split(['.', '-', '~', '+']);
        let mut number = || parts.next().and_then(|part| part.parse().ok()).ok_or(NotAVersion);
        let (year, month) = (number()?, number()?);
        if !(1..=12).contains(&month) {
            return Err(NotAVersion);
        }
        Ok(Self { year, month })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.year, self.month)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_orders() {
        let version = |text: &str| text.parse::<Version>();
        assert_eq!(version("22.11.11"), Ok(Version { year: 22, month: 11 }));
        assert_eq!(version("23.03"), Ok(Version { year: 23, month: 3 }));
        assert_eq!(version("24.11-rc2"), Ok(Version { year: 24, month: 11 }));
        assert!(version("21.11.9") < version("22.11.0"));
        assert!(version("22.07.0") < version("22.11.0"));
        assert!(version("23.03.0") > version("22.11.11"));
    }

    #[test]
    fn rejects_what_is_not_a_version() {
        for text in ["", "22", "22.", "x.y", "22.13", "22.0", "-1.11"] {
            assert_eq!(text.parse::<Version>(), Err(NotAVersion), "{text:?}");
        }
    }

    #[test]
    fn prints_as_dpdk_does() {
        assert_eq!(Version { year: 23, month: 3 }.to_string(), "23.03");
    }
}
