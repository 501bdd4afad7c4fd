//! How long a destination is stopped for a merge, by how much both sides changed.
//!
//! `cargo run --release -p tidegate-memory --example merge_rate [-- MIB [DIRECTORY]]`: a region of 16 MiB in `/dev/shm`, all of it
//! sums of 8 bytes; the merge's own file is in a temporary directory. Medians of five.
#![forbid(unsafe_code)]

use std::{
    env,
    time::{Duration, Instant},
};

use tidegate_memory::{Mapping, diff::Diff, merge};
use tidegate_region::{HEADER_BYTES, Header, MergeType, Range};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 5;
const WIDTH: usize = 8;

fn main() -> Outcome<()> {
    let mut args = env::args().skip(1);
    let mib: usize = args.next().map_or(Ok(16), |text| text.parse())?;
    let memory = tempfile::tempdir_in(args.next().unwrap_or_else(|| "/dev/shm".to_owned()))?;
    let files = tempfile::tempdir()?;
    let size = mib << 20;
    let values = (size - HEADER_BYTES) / WIDTH;
    let range = Range {
        offset: HEADER_BYTES as u64,
        len_bytes: (values * WIDTH) as u64,
        merge_type: MergeType::Sum,
        width: WIDTH as u32,
    };
    let mut base = vec![0; size];
    let mut header = [0; HEADER_BYTES];
    Header::new(1, 1, size as u64, &[range])?.encode(&mut header);
    base[..HEADER_BYTES].copy_from_slice(&header);
    println!(
        "{:>14} {:>12} {:>12} {:>14}",
        "values changed", "diff bytes", "compared in", "stopped for"
    );
    for every in [values, 1000, 100, 10] {
        let map = |name: &str, by: u64| -> Outcome<Mapping> {
            let mapping = Mapping::create(&memory.path().join(name), size as u64)?;
            mapping.write(0, &base)?;
            for value in (0..values).step_by(every).filter(|_| by > 0) {
                mapping.write((HEADER_BYTES + value * WIDTH) as u64, &by.to_le_bytes())?;
            }
            Ok(mapping)
        };
        let (twin, now) = (map("twin", 0)?, map("now", 3)?);
        let mut times = [const { Vec::new() }; 2];
        let mut bytes = 0;
        for round in 0..ROUNDS {
            let mut diff = Diff::default();
            let begun = Instant::now();
            diff.compare("r", &twin, &now)?;
            times[0].push(begun.elapsed());
            bytes = diff.encode().len();
            let regions = [("r".to_owned(), map("ours", 5)?)];
            let dir = files.path().join(format!("{every}-{round}"));
            std::fs::create_dir(&dir)?;
            let begun = Instant::now();
            merge::merge(&dir, &diff, &regions)?;
            times[1].push(begun.elapsed());
        }
        let [compared, stopped] = times.map(median);
        println!("{:>14} {bytes:>12} {compared:>12.1?} {stopped:>14.1?}", values.div_ceil(every));
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
