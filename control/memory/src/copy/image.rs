//! A guest's image, over the control stream of the [copy protocol](super#image).
//!
//! Nothing of it is kept anywhere on its way: what the sender finds to have changed is in the receiver's memory a moment later, so that
//! comparing, sending and applying take as long as the slowest of them, and not as long as all three. Its bytes depend on
//! each other's order no more than that: pieces of a mebibyte, each with its own hash.

use std::{
    fs::File,
    io::{self, Read, Write},
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use crate::{
    Mapping, MemoryError, ObjectKind,
    ahead::Ahead,
    copy::{
        Controls, Landing,
        message::{Kind, connection, encode_hello, expect, write_message},
        send::explained,
    },
    image_diff::{self, Figures},
    page_hashes::DIGEST_BYTES,
    scan::Compared,
    transport::{Dial, Stream},
};

/// More than any guest's device state.
pub const MAX_DEVICE_STATE_BYTES: u64 = 4 << 30;
/// A sender may look through a terabyte in which nothing changed, or wait for a device state, and say nothing meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);
/// Sent at once, so that a cap holds.
const SLICE_BYTES: usize = 64 * 1024;

/// Where an image goes to.
#[derive(Clone, Debug)]
pub struct Becoming {
    /// The memory that becomes it.
    pub memory: Arc<Vec<(ObjectKind, Mapping)>>,
    /// Where the device state is put.
    pub device_state: PathBuf,
}

/// An image on its way to another host.
pub struct Outgoing {
    control: Box<dyn Stream>,
    controls: Arc<Controls>,
    sent_bytes: u64,
}

impl Outgoing {
    /// Ask the receiver to take an image, the `last` of a migration or what goes ahead of it.
    ///
    /// # Errors
    /// [`MemoryError::Refused`] with the receiver's reason, [`MemoryError::Version`], [`MemoryError::Connection`],
    /// [`MemoryError::Protocol`].
    pub fn begin(
        dial: &dyn Dial,
        migration: &str,
        last: bool,
        controls: Arc<Controls>,
    ) -> Result<Self, MemoryError> {
        let mut outgoing = Self { control: dial.dial()?, controls, sent_bytes: 0 };
        let control = &mut *outgoing.control;
        let mut asked = || {
            write_message(control, Kind::Hello, &encode_hello(migration))?;
            expect(control, Kind::Welcome, "waiting to be admitted")?;
            write_message(control, Kind::Image, &[u8::from(last)])?;
            expect(control, Kind::Welcome, "waiting for the image to be accepted").map(drop)
        };
        match asked() {
            Ok(()) => Ok(outgoing),
            Err(error) => Err(outgoing.parted(error)),
        }
    }

    /// Send what changed, as [`image_diff::write_beside`] finds it.
    ///
    /// # Errors
    /// As that, and as [`Self::begin`]; [`MemoryError::Cancelled`].
    pub fn memory(
        &mut self,
        compared: &[Compared<'_>],
        ahead: &[Ahead],
    ) -> Result<Vec<Figures>, MemoryError> {
        let written = image_diff::write_beside(&mut *self, compared, ahead);
        written.map_err(|error| self.parted(error))
    }

    /// Send the device state, none with what goes ahead, and wait until everything is where it should be; the bytes that went.
    ///
    /// # Errors
    /// As [`Self::memory`].
    pub fn finish(mut self, device_state: &[u8]) -> Result<u64, MemoryError> {
        let mut say = || {
            let failed = connection("sending the device state");
            self.write_all(&(device_state.len() as u64).to_le_bytes())
                .and_then(|()| self.write_all(device_state))
                .and_then(|()| self.write_all(blake3::hash(device_state).as_bytes()))
                .map_err(failed)?;
            expect(&mut *self.control, Kind::Passed, "waiting for the image to be applied")
        };
        match say() {
            Ok(_) => Ok(self.sent_bytes),
            Err(error) => Err(self.parted(error)),
        }
    }

    /// Which of the errors counts, when a stream breaks.
    fn parted(&mut self, error: MemoryError) -> MemoryError {
        match (error, self.controls.check()) {
            (MemoryError::Connection { .. }, Err(cancelled)) => cancelled,
            (error @ MemoryError::Connection { .. }, Ok(())) => {
                explained(&mut *self.control, error)
            }
            (error, _) => error,
        }
    }
}

/// What is written goes out under the cap.
impl Write for Outgoing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let is_capped = self.controls.cap_bytes_per_s().is_some();
        let slice = if is_capped { &bytes[..bytes.len().min(SLICE_BYTES)] } else { bytes };
        self.controls.check().map_err(io::Error::other)?;
        self.control.send(slice)?;
        self.sent_bytes += slice.len() as u64;
        let halted = AtomicBool::new(false);
        self.controls.spend(slice.len() as u64, &halted).map_err(io::Error::other)?;
        Ok(slice.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Take an image: what follows IMAGE.
pub(super) fn take(
    control: &mut dyn Stream,
    landing: &dyn Landing,
    migration: &str,
    body: &[u8],
) -> Result<(), MemoryError> {
    let last = match body {
        [0] => false,
        [1] => true,
        _ => return Err(MemoryError::Protocol("IMAGE is malformed".to_owned())),
    };
    let becoming = landing.becoming(migration, last).map_err(MemoryError::Refused)?;
    let memory = becoming.memory.iter();
    let borrowed: Vec<_> = memory.map(|(kind, mapping)| (kind.clone(), mapping)).collect();
    write_message(control, Kind::Welcome, &[])?;
    control.set_patience(Some(PATIENCE)).map_err(connection(RECEIVING))?;
    let applied = image_diff::apply(Incoming(control), &borrowed)?;
    let mut input = Incoming(control);
    let length = u64::from_le_bytes(array(&mut input)?);
    if length > MAX_DEVICE_STATE_BYTES || (length == 0) == last {
        return Err(MemoryError::Protocol(format!("a device state of {length} bytes")));
    }
    let mut digest = blake3::Hasher::new();
    if last {
        let path = &becoming.device_state;
        let mut file = File::create(path).map_err(MemoryError::file("create", path))?;
        let mut left = length as usize;
        let mut buffer = [0; SLICE_BYTES];
        while left > 0 {
            let slice = &mut buffer[..left.min(SLICE_BYTES)];
            input.read_exact(slice).map_err(connection(RECEIVING))?;
            digest.update(slice);
            file.write_all(slice).map_err(MemoryError::file("write", path))?;
            left -= slice.len();
        }
    }
    if digest.finalize() != array::<DIGEST_BYTES>(&mut input)? {
        let reason = "its bytes do not have its digest; send the image again".to_owned();
        return Err(MemoryError::Damaged { what: "the device state", reason });
    }
    landing.became(migration, last, &applied).map_err(MemoryError::Refused)?;
    write_message(control, Kind::Passed, &[])
}

const RECEIVING: &str = "receiving the device state";

fn array<const N: usize>(input: &mut Incoming<'_>) -> Result<[u8; N], MemoryError> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes).map_err(connection(RECEIVING))?;
    Ok(bytes)
}

/// Gives whole buffers.
struct Incoming<'a>(&'a mut dyn Stream);

impl Read for Incoming<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.receive(into)?;
        Ok(into.len())
    }
}
