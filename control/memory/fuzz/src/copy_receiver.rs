//! A whole receiver: what is said on its control stream, and on the data stream that joins it.
//!
//! The first two bytes, little-endian, are the length of the former; the latter is the rest.

use std::{
    io,
    path::PathBuf,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use tidegate_memory::{
    Mapping, MemoryError, Object, ObjectKind,
    copy::{
        Landing, MAX_LANES, Place, Received, Receiver, VERSION,
        image::Becoming,
        message::{HEAD_BYTES, Kind, Plan, encode, parse_head},
    },
    transport::{Cut, Stream},
};

/// Of the memory that becomes an image.
const RAM_BYTES: u64 = (1 << 20) + 4096;
/// Most bytes of an object that is taken.
const MAX_BYTES: u64 = 1 << 20;

/// Where copies land, one at a time.
static SHELF: LazyLock<Mutex<tempfile::TempDir>> = LazyLock::new(|| {
    let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
    Mutex::new(dir.expect("a directory"))
});

pub(crate) fn run(bytes: &[u8]) {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else { return };
    let (control, data) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    let dir = SHELF.lock().expect("no run panicked");
    // Each begins alike.
    let _ = std::fs::remove_file(dir.path().join("ledger"));
    let receiver = Arc::new(Receiver::new(false, Vec::new()));
    let shelf = Arc::new(Shelf(dir.path().to_owned()));
    let lanes = Some((receiver.clone(), shelf.clone(), data.to_vec()));
    let stream = Said { bytes: control.to_vec(), at: 0, lanes };
    if let Ok(Some(received)) = receiver.serve(Box::new(stream), &*shelf) {
        // Whatever was confirmed is there, in its size.
        for (index, object) in received.objects.iter().enumerate() {
            let file = std::fs::metadata(shelf.file(index)).expect("file");
            assert_eq!(file.len(), object.size_bytes);
        }
    }
}

struct Shelf(PathBuf);

impl Shelf {
    fn file(&self, index: usize) -> PathBuf {
        self.0.join(index.to_string())
    }
}

impl Landing for Shelf {
    fn admit(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn place(&self, _: &str, objects: &[Object]) -> Result<Place, String> {
        if objects.len() > 4 || objects.iter().any(|object| object.size_bytes > MAX_BYTES) {
            return Err("too large".to_owned());
        }
        let files = (0..objects.len()).map(|index| self.file(index)).collect();
        Ok(Place { files, ledger: self.0.join("ledger"), zeros: false })
    }

    fn arrived(&self, _: &Received) -> Result<(), String> {
        Ok(())
    }

    fn becoming(&self, _: &str, _: bool) -> Result<Becoming, String> {
        let ram = self.0.join("ram");
        let ram = if ram.exists() { Mapping::open(&ram) } else { Mapping::create(&ram, RAM_BYTES) };
        let ram = ram.map_err(|error| error.to_string())?;
        let device_state = self.0.join("device-state");
        Ok(Becoming { memory: Arc::new(vec![(ObjectKind::Ram, ram)]), device_state })
    }
}

/// A stream that says some bytes and then ends. Told of a plan, it has data streams join: the first says what there is to
/// say, and all others nothing, so that none is waited for.
struct Said {
    bytes: Vec<u8>,
    at: usize,
    lanes: Option<(Arc<Receiver>, Arc<Shelf>, Vec<u8>)>,
}

impl Said {
    fn join(&mut self, plan: &[u8]) {
        let Some((receiver, shelf, mut data)) = self.lanes.take() else { return };
        // The number of sections stands behind the offer; a token is 16 bytes.
        let sections = u32::from_le_bytes(plan[24..28].try_into().expect("four bytes"));
        let plan = Plan::parse(plan, sections, 8).expect("a plan");
        for lane in 0..MAX_LANES as u32 {
            let mut join = b"TIDEGATE".to_vec();
            join.extend(VERSION.to_le_bytes());
            join.extend([0; 2]);
            join.extend(lane.to_le_bytes());
            join.extend(&plan.offer);
            let mut bytes = encode(Kind::Join, &join);
            bytes.append(&mut data);
            let stream = Self { bytes, at: 0, lanes: None };
            receiver.serve(Box::new(stream), &*shelf).expect("its end is the copy's matter");
        }
    }
}

impl Stream for Said {
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (head, body) = bytes.split_first_chunk::<HEAD_BYTES>().expect("whole messages");
        let head = parse_head(head).expect("a receiver says what it may");
        assert_eq!(head.len, body.len());
        if head.kind == Kind::Plan {
            self.join(body);
        }
        Ok(())
    }

    fn send_memory(&mut self, _: &[u8], _: &Mapping, _: u64, _: u64) -> Result<(), MemoryError> {
        unreachable!("a receiver sends no memory")
    }

    fn receive(&mut self, into: &mut [u8]) -> io::Result<()> {
        let end = self.at.saturating_add(into.len());
        let Some(bytes) = self.bytes.get(self.at..end) else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        };
        into.copy_from_slice(bytes);
        self.at = end;
        Ok(())
    }

    fn receive_memory(&mut self, memory: &Mapping, at: u64, len: u64) -> Result<(), MemoryError> {
        let mut bytes = vec![0; len as usize];
        let received = self.receive(&mut bytes);
        received.map_err(|source| MemoryError::Connection { during: "fuzzing", source })?;
        memory.write(at, &bytes)
    }

    fn set_patience(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }

    fn end_sending(&mut self) {}

    fn drain(&mut self, _: Duration) {}

    fn cut(&self) -> io::Result<Cut> {
        Ok(Box::new(|| {}))
    }
}
