//! Which guest this is, as its host says.
//!
//! A clone shares the source's memory, so nothing in memory can tell them apart; what QEMU answers can. It is
//! asked anew for each request, and never remembered.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

/// Where the host's word for this guest is read, with the `qemu_fw_cfg` module.
pub const PATH: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/tidegate/guest/raw";

/// An open source of the guest's name.
pub struct Identity {
    file: File,
    path: PathBuf,
}

impl Identity {
    /// Open `path`, normally [`PATH`].
    ///
    /// # Errors
    /// When it is not there: the host did not name the guest.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { file: File::open(path)?, path: path.to_owned() })
    }

    /// The guest's name now.
    ///
    /// # Errors
    /// When it cannot be read, or is not one word of text.
    pub fn read(&self) -> io::Result<String> {
        let mut bytes = [0; 256];
        let len = self.file.read_at(&mut bytes, 0)?;
        let name = str::from_utf8(&bytes[..len]).unwrap_or_default();
        // The kernel remembers the length the name had at boot; a clone's shorter name is padded.
        let name = name.trim_end_matches(['\0', ' ', '\n']);
        if name.is_empty() || name.contains(char::is_whitespace) {
            let message = format!("{}: not a name: {:?}", self.path.display(), &bytes[..len]);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(name.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn reads_anew() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let path = dir.path().join("raw");
        fs::write(&path, "vm-a").expect("write");
        let identity = Identity::open(&path).expect("open");
        assert_eq!(identity.read().expect("name"), "vm-a");
        fs::write(&path, "vm-b\0\0").expect("write");
        assert_eq!(identity.read().expect("name"), "vm-b");
        for bad in ["", "\0", "two words"] {
            fs::write(&path, bad).expect("write");
            assert!(identity.read().is_err(), "{bad:?}");
        }
        assert!(Identity::open(&dir.path().join("absent")).is_err());
    }
}
