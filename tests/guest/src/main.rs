//! Serve in a guest: `tidegate-guest-service <merge type> <address to listen at> [<MiB to keep checksums of>]`.
#![forbid(unsafe_code)]

use std::{
    env, fs, io,
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
};

use tidegate_guest_service::{
    PORT, READY,
    checksum::Checked,
    counters::{Counters, CountersError},
    identity::{self, Identity},
    server::{Service, serve},
};
use tidegate_region::MergeType;

const DEVICES: &str = "/sys/bus/pci/devices";

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("`{0}` is not a merge type")]
    MergeType(String),
    #[error("`{0}` is not an address to listen at")]
    Listen(String),
    #[error("`{0}` is not a number of mebibytes")]
    Checksums(String),
    #[error("no ivshmem device under {DEVICES}: the guest has no region")]
    NoRegion,
    #[error("{path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Counters(#[from] CountersError),
    #[error("port {PORT}: {0}")]
    Serve(io::Error),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("tidegate-guest: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let wanted = env::args().nth(1).unwrap_or_else(|| "sum".to_owned());
    let merge_type = MergeType::ALL
        .into_iter()
        .find(|merge_type| merge_type.name() == wanted)
        .ok_or(Error::MergeType(wanted))?;

    let listen = match env::args().nth(2) {
        None => Ipv4Addr::UNSPECIFIED.into(),
        Some(text) => text.parse::<IpAddr>().map_err(|_| Error::Listen(text))?,
    };

    let checked = match env::args().nth(3) {
        None => None,
        Some(text) => Some(text.parse::<usize>().map_err(|_| Error::Checksums(text))?),
    };

    let device = region_device()?;
    // Memory access of a device without driver is off until asked for.
    let enable = device.join("enable");
    fs::write(&enable, "1").map_err(in_file(&enable))?;
    let bar = device.join("resource2");
    let file = fs::OpenOptions::new().read(true).write(true).open(&bar).map_err(in_file(&bar))?;
    let size_bytes = file.metadata().map_err(in_file(&bar))?.len();
    let size_bytes = usize::try_from(size_bytes).unwrap_or(usize::MAX);
    let (counters, attached) = Counters::attach(file, size_bytes, merge_type)?;

    let path = Path::new(identity::PATH);
    let identity = Identity::open(path).map_err(in_file(path))?;
    let name = identity.read().map_err(in_file(path))?;
    let listener = TcpListener::bind((listen, PORT)).map_err(Error::Serve)?;
    println!("{READY}, {name} serves on port {PORT}, region {attached:?} ({merge_type})");
    if let Some(mib) = checked.filter(|mib| *mib > 0) {
        thread::spawn(move || Checked::new(mib).run());
    }
    serve(&listener, Service { identity, counters }).map_err(Error::Serve)
}

/// The first ivshmem device, by bus address.
fn region_device() -> Result<PathBuf, Error> {
    let devices = Path::new(DEVICES);
    let mut paths: Vec<PathBuf> = fs::read_dir(devices)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(in_file(devices))?;
    paths.sort();
    let is = |path: &Path, file: &str, id: &str| {
        fs::read_to_string(path.join(file)).is_ok_and(|text| text.trim() == id)
    };
    paths
        .into_iter()
        .find(|path| is(path, "vendor", "0x1af4") && is(path, "device", "0x1110"))
        .ok_or(Error::NoRegion)
}

fn in_file(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}
