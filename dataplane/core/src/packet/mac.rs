//! Ethernet addresses.

use std::{fmt, str::FromStr};

/// An EUI-48 address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

/// The text is not an address that one station can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MacError {
    /// Not six hexadecimal bytes.
    #[error("`{0}` is not a MAC address; write six hexadecimal bytes, as in 02:00:00:00:00:01")]
    Syntax(String),
    /// A group address or all zeros.
    #[error("{0} cannot be a station's address: it is all zeros or a group address")]
    NotUnicast(Mac),
}

impl Mac {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Broadcast or multicast.
    #[inline]
    #[must_use]
    pub fn is_group(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// The address in the first six bytes of `bytes`.
    ///
    /// # Panics
    /// When there are fewer.
    #[inline]
    #[must_use]
    pub fn read(bytes: &[u8]) -> Self {
        Self([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let syntax = || MacError::Syntax(text.to_owned());
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or_else(syntax)?;
            if part.len() != 2 || !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(syntax());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| syntax())?;
        }
        if parts.next().is_some() {
            return Err(syntax());
        }
        let mac = Self(bytes);
        if mac.is_group() || mac.0 == [0; 6] { Err(MacError::NotUnicast(mac)) } else { Ok(mac) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_refuses() {
        let mac: Mac = "02:00:5e:10:00:Ff".parse().expect("valid");
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        for bad in [
            "",
            "02:00:00:00:00",
            "02:00:00:00:00:01:02",
            "2:0:0:0:0:1",
            "02-00-00-00-00-01",
            "+2:00:00:00:00:01",
        ] {
            assert!(matches!(bad.parse::<Mac>(), Err(MacError::Syntax(_))), "{bad}");
        }
        assert!(matches!("ff:ff:ff:ff:ff:ff".parse::<Mac>(), Err(MacError::NotUnicast(_))));
        assert!(matches!("00:00:00:00:00:00".parse::<Mac>(), Err(MacError::NotUnicast(_))));
    }
}
