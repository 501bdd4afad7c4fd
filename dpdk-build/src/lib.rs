//! Finds libdpdk and its full compiler flags for build scripts.
//!
//! `pkg-config` is asked directly: crates that wrap it keep only include paths and library names, and
//! drop `-include rte_config.h` and `-march=…`. Without the first, DPDK's inline functions do not
//! compile; without the second, they are compiled for another CPU than the installed library was.
//!
//! DPDK is linked shared. EAL then loads the drivers it finds in its plugin folder by itself, and the
//! binary does not have to name them.
//!
//! ```no_run
//! // build.rs
//! let dpdk = tidegate_dpdk_build::find().unwrap_or_else(|error| {
//!     eprintln!("{error}");
//!     std::process::exit(1);
//! });
//! dpdk.emit_cargo_metadata();
//! ```

#![forbid(unsafe_code)]

mod flags;
mod version;

use std::ffi::{OsStr, OsString};
use std::io;
use std::process::Command;

pub use flags::{CompileFlags, Link};
pub use version::Version;

/// The oldest DPDK whose API Tidegate is written against.
pub const OLDEST: Version = Version { year: 22, month: 11 };

/// What to do about a libdpdk that is missing or too old; the tail of every such error.
const REMEDY: &str = "\
do one of:
  - apt-get install libdpdk-dev pkg-config        (Debian 12 and newer)
  - dpdk-build/build-dpdk.sh --prefix DIR         (builds DPDK from source, prints the PKG_CONFIG_PATH to set)
  - export PKG_CONFIG_PATH=DIR                    (DIR holds the libdpdk.pc of a DPDK you already built)";

/// Why libdpdk cannot be used. The message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// `pkg-config` itself could not be started.
    #[error(
        "cannot run `{program}`: {source}\nDPDK is found through pkg-config; {REMEDY}\n(or set PKG_CONFIG to the program to use)"
    )]
    NoPkgConfig {
        /// The program that was tried.
        program: String,
        /// Why it did not start.
        source: io::Error,
    },
    /// `pkg-config` knows no `libdpdk`.
    #[error("libdpdk (DPDK {OLDEST} or newer) was not found.\npkg-config says: {said}\n{REMEDY}")]
    Missing {
        /// What `pkg-config` printed on its standard error.
        said: String,
    },
    /// The libdpdk found is older than [`OLDEST`].
    #[error("libdpdk {found} is too old: DPDK {OLDEST} or newer is needed.\n{REMEDY}")]
    TooOld {
        /// The version found, as `pkg-config` prints it.
        found: String,
    },
    /// `pkg-config` printed a version that is not a DPDK version.
    #[error(
        "pkg-config says that libdpdk has version {printed:?}, which is not YEAR.MONTH[.PATCH]"
    )]
    BadVersion {
        /// What was printed.
        printed: String,
    },
    /// `pkg-config` failed for another reason, for example a missing dependency of libdpdk.
    #[error("`{command}` failed.\npkg-config says: {said}\n{REMEDY}")]
    Failed {
        /// The command line.
        command: String,
        /// What it printed on its standard error.
        said: String,
    },
}

/// A libdpdk that can be compiled against and linked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dpdk {
    /// Full version, as `pkg-config` prints it, for example `22.11.11`.
    pub version: String,
    /// Everything the C compiler (and libclang) must be given.
    pub compile: CompileFlags,
    /// Everything the linker must be given, in order.
    pub link: Vec<Link>,
}

impl Dpdk {
    /// Prints the cargo directives that link libdpdk (shared) and rerun the build script when the
    /// environment that decides which libdpdk is found changes.
    pub fn emit_cargo_metadata(&self) {
        for line in self.cargo_metadata() {
            println!("{line}");
        }
    }

    /// The lines that [`Dpdk::emit_cargo_metadata`] prints.
    ///
    /// `version` is metadata for dependents of a crate that sets `links`.
    pub fn cargo_metadata(&self) -> Vec<String> {
        let mut lines = rerun_directives();
        lines.extend(self.link.iter().map(Link::cargo_directive));
        lines.push(format!("cargo::metadata=version={}", self.version));
        lines
    }
}

/// Environment variables that change what `pkg-config` finds.
const ENVIRONMENT: [&str; 5] =
    ["PKG_CONFIG", "PKG_CONFIG_PATH", "PKG_CONFIG_LIBDIR", "PKG_CONFIG_SYSROOT_DIR", "PATH"];

/// Cargo directives that rerun a build script when the place to look for libdpdk changes; print them
/// also when [`find`] fails.
pub fn rerun_directives() -> Vec<String> {
    ENVIRONMENT.iter().map(|name| format!("cargo::rerun-if-env-changed={name}")).collect()
}

/// Finds libdpdk with the `pkg-config` named by the environment variable `PKG_CONFIG`, or else the one
/// in `PATH`.
///
/// # Errors
/// [`FindError`], whose message says what to install or set.
pub fn find() -> Result<Dpdk, FindError> {
    PkgConfig::from_environment().find()
}

/// The `pkg-config` to ask, and what to set in its environment.
#[derive(Debug, Clone)]
pub struct PkgConfig {
    program: OsString,
    environment: Vec<(OsString, OsString)>,
}

impl PkgConfig {
    /// The program in `PKG_CONFIG`, or else `pkg-config`.
    pub fn from_environment() -> Self {
        Self::new(std::env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into()))
    }

    /// A given program.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self { program: program.into(), environment: Vec::new() }
    }

    /// Sets an environment variable for the program alone.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Finds libdpdk.
    ///
    /// # Errors
    /// [`FindError`], whose message says what to install or set.
    pub fn find(&self) -> Result<Dpdk, FindError> {
        if let Err(FindError::Failed { said, .. }) = self.run(&["--print-errors", "--exists"]) {
            return Err(FindError::Missing { said });
        }
        let printed = self.run(&["--modversion"])?;
        let version: Version = printed
            .parse()
            .map_err(|version::NotAVersion| FindError::BadVersion { printed: printed.clone() })?;
        if version < OLDEST {
            return Err(FindError::TooOld { found: printed });
        }
        Ok(Dpdk {
            version: printed,
            compile: CompileFlags::parse(&self.run(&["--cflags"])?),
            // pkg-config leaves out the system's own library folder, so this is the whole truth.
            link: flags::parse_link(&self.run(&["--libs"])?),
        })
    }

    /// Runs the program on `libdpdk`; its trimmed standard output.
    fn run(&self, arguments: &[&str]) -> Result<String, FindError> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("libdpdk");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let program = self.program.to_string_lossy().into_owned();
        let output = command
            .output()
            .map_err(|source| FindError::NoPkgConfig { program: program.clone(), source })?;
        if !output.status.success() {
            return Err(FindError::Failed {
                command: format!("{program} {} libdpdk", arguments.join(" ")),
                said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            });
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

#[cfg(test)]
mod tests;
