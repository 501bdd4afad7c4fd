//! The library, loaded once.

use std::ffi::CStr;
use std::sync::OnceLock;

use tidegate_fabric_sys as sys;

use crate::Missing;

/// What the headers say they are, `major.minor`.
#[must_use]
pub fn library_version() -> String {
    // SAFETY: a constant of the shims.
    readable(unsafe { sys::TG_FI_VERSION })
}

fn readable(version: u32) -> String {
    format!("{}.{}", version >> 16, version & 0xffff)
}

/// Proof that the library is loaded and may be called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Library(());

static LOADED: OnceLock<Result<Library, Missing>> = OnceLock::new();

impl Library {
    /// Load it, if that was not tried before: a failure stays for the life of the process.
    pub(crate) fn load() -> Result<Self, Missing> {
        LOADED.get_or_init(load).clone()
    }
}

fn load() -> Result<Library, Missing> {
    let mut why = [0_u8; 256];
    let mut version = 0;
    // SAFETY: the buffer has the room that is said, and `OnceLock` lets one thread at a time in here.
    let loaded = unsafe { sys::tg_fi_load(why.as_mut_ptr().cast(), why.len(), &raw mut version) };
    match loaded {
        sys::TG_FI_LOADED => Ok(Library(())),
        sys::TG_FI_OTHER_VERSION => {
            Err(Missing::OtherVersion { found: readable(version), wanted: library_version() })
        }
        _ => Err(Missing::NoLibrary { said: text(&why) }),
    }
}

/// A C text in a buffer, up to its zero.
pub(crate) fn text(buffer: &[u8]) -> String {
    CStr::from_bytes_until_nul(buffer)
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}
