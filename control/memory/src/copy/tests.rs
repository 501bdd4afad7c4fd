//! Copies between two ends in one process, over streams that tests can cut, shorten and damage.

#[path = "../../examples/authority/mod.rs"]
mod authority;
mod broken;
mod doubles;
mod faults;
mod hostile;
mod image;
mod passes;
mod whole;
mod window;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use crate::{
    Mapping, MemoryError, Object, ObjectKind,
    copy::{
        Controls, Landing, Place, Progress, Received, Receiver, SECTION_BYTES, Sending, Sent,
        Source, image::Becoming,
    },
    image_diff::Applied,
    transport::{Compression, Dial, Stream, TcpSender, Transport},
};

/// Takes one migration's objects into a directory.
pub(super) struct Shelf {
    pub(super) dir: PathBuf,
    pub(super) taken: Mutex<Vec<Received>>,
    /// Images that were applied: the last or ahead of it.
    pub(super) became: Mutex<Vec<bool>>,
}

impl Shelf {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), taken: Mutex::default(), became: Mutex::default() }
    }

    pub(super) fn path(&self, index: usize) -> PathBuf {
        self.dir.join(format!("received-{index}"))
    }

    pub(super) fn ledger(&self) -> PathBuf {
        self.dir.join("ledger")
    }
}

impl Landing for Shelf {
    fn admit(&self, migration: &str) -> Result<(), String> {
        if migration == "m1" { Ok(()) } else { Err(format!("`{migration}` was not prepared")) }
    }

    fn place(&self, _: &str, objects: &[Object]) -> Result<Place, String> {
        if objects.iter().any(|object| object.size_bytes > 1 << 30) {
            return Err("too large".to_owned());
        }
        let files = (0..objects.len()).map(|index| self.path(index)).collect();
        Ok(Place { files, ledger: self.ledger(), zeros: false })
    }

    fn arrived(&self, received: &Received) -> Result<(), String> {
        self.taken.lock().expect("lock").push(received.clone());
        Ok(())
    }

    fn becoming(&self, migration: &str, _: bool) -> Result<Becoming, String> {
        let ram = self.path(0);
        if !ram.exists() {
            return Err(format!("nothing of `{migration}` becomes an image here"));
        }
        let ram = Mapping::open(&ram).map_err(|error| error.to_string())?;
        let memory = Arc::new(vec![(ObjectKind::Ram, ram)]);
        Ok(Becoming { memory, device_state: self.path(9) })
    }

    fn became(&self, _: &str, last: bool, _: &Applied) -> Result<(), String> {
        self.became.lock().expect("lock").push(last);
        Ok(())
    }
}

/// A receiver whose streams are served by threads of its own; the copies' outcomes come out of `outcomes`.
pub(super) struct Host {
    pub(super) receiver: Arc<Receiver>,
    pub(super) shelf: Arc<Shelf>,
    outcomes: (mpsc::Sender<Outcome>, Mutex<mpsc::Receiver<Outcome>>),
}

pub(super) type Outcome = Result<Received, MemoryError>;

impl Host {
    pub(super) fn new(dir: &Path) -> Self {
        let shelf = Arc::new(Shelf::new(dir));
        let receiver = Arc::new(Receiver::new(false, Vec::new()));
        let (told, heard) = mpsc::channel();
        Self { receiver, shelf, outcomes: (told, Mutex::new(heard)) }
    }

    /// Serve a stream on a thread.
    pub(super) fn serve(&self, stream: Box<dyn Stream>) {
        let (receiver, shelf) = (self.receiver.clone(), self.shelf.clone());
        let outcomes = self.outcomes.0.clone();
        thread::spawn(move || {
            let outcome = receiver.serve(stream, &*shelf);
            if let Some(outcome) = outcome.transpose() {
                // The test may be over.
                let _ = outcomes.send(outcome);
            }
        });
    }

    /// How the next copy ended.
    pub(super) fn outcome(&self) -> Outcome {
        let outcomes = self.outcomes.1.lock().expect("lock");
        outcomes.recv_timeout(Duration::from_secs(60)).expect("an outcome")
    }
}

/// What tests copy: RAM with holes over two sections, device state, a region of zeros.
pub(super) fn sources(dir: &Path) -> Vec<Source> {
    let mut ram = vec![0; SECTION_BYTES as usize + (3 << 20)];
    ram[5000] = 1;
    ram[(1 << 20) - 1..(2 << 20) + 77].fill(9);
    let last = ram.len() - 4096 * 3;
    ram[last..last + 10].fill(4);
    let contents = [
        (ObjectKind::Ram, ram),
        (ObjectKind::DeviceState, vec![7; 5001]),
        (ObjectKind::Region("r".into()), vec![0; 8192]),
    ];
    let contents = contents.into_iter().enumerate();
    contents.map(|(index, (kind, bytes))| source(dir, index, kind, &bytes)).collect()
}

pub(super) fn source(dir: &Path, index: usize, kind: ObjectKind, bytes: &[u8]) -> Source {
    let path = dir.join(format!("sent-{index}"));
    fs::write(&path, bytes).expect("write");
    let memory = Arc::new(Mapping::open(&path).expect("map"));
    let object = Object { kind, size_bytes: bytes.len() as u64 };
    Source { object, memory: Some(memory), hashes: None }
}

pub(super) fn memory(source: &Source) -> &Mapping {
    source.memory.as_ref().expect("memory")
}

pub(super) fn assert_arrived(dir: &Path, shelf: &Shelf, objects: usize) {
    for index in 0..objects {
        let was = fs::read(dir.join(format!("sent-{index}"))).expect("sent");
        assert!(was == fs::read(shelf.path(index)).expect("received"), "object {index}");
    }
}

/// Send over so many TCP lanes.
pub(super) fn send_over(
    dial: &Arc<dyn Dial>,
    lanes: usize,
    migration: &str,
    sources: Vec<Source>,
) -> Result<Sent, MemoryError> {
    begin(dial, lanes, Compression::Off, migration, sources)?.finish(&mut |_: Progress| {})
}

pub(super) fn begin(
    dial: &Arc<dyn Dial>,
    streams: usize,
    compression: Compression,
    migration: &str,
    sources: Vec<Source>,
) -> Result<Sending, MemoryError> {
    let controls = Arc::new(Controls::new(None));
    let tcp: Arc<dyn Transport> = Arc::new(TcpSender {
        dial: dial.clone(),
        streams,
        compression,
        controls: controls.clone(),
    });
    Sending::begin(&**dial, migration, sources, &[tcp], controls)
}
