//! How fast memory is compared with its twin, and packed runs are applied, beside what the machine can do.
//!
//! `cargo run --release -p tidegate-memory --example diff_rate [-- MIB [DIRECTORY]]`: 512 MiB in `/dev/shm`, where guests'
//! memory is. All rates are GB of guest memory in a second, medians of seven rounds in turn, so that a noisy machine is
//! as noisy for all of them.
#![forbid(unsafe_code)]

use std::{
    env, hint,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use tidegate_memory::{
    Mapping, Object, ObjectKind, PageHashes, image_diff,
    mapping::PAGE_BYTES,
    scan::{Compared, Figures, Twin},
};

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ROUNDS: usize = 7;
/// Shares of pages that have changed, in each of them three words.
const CHANGED: [(&str, f64); 3] = [("0 %", 0.0), ("0.1 %", 0.001), ("10 %", 0.1)];

fn main() -> Outcome<()> {
    let mut args = env::args().skip(1);
    let mib = args.next().map_or(Ok(512), |text| text.parse())?;
    let directory = args.next().unwrap_or_else(|| "/dev/shm".to_owned());
    let directory = tempfile::tempdir_in(directory)?;
    let size = mib << 20;
    println!(
        "{:9} {:>7}  {:>7} {:>7} {:>7}  {:>7} {:>7}",
        "changed", "threads", "memcmp", "scan", "ratio", "hashes", "ratio"
    );
    for (name, share) in CHANGED {
        let rig = Rig::new(directory.path(), size, share)?;
        for threads in [1, cores()] {
            on_cores(threads, || rig.scan_row(name, threads))?;
        }
        rig.apply_row(name)?;
    }
    Ok(())
}

/// As many as the engine takes.
fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from).min(4)
}

/// Run `job` on one core or on all: the engine takes as many threads as it finds cores.
fn on_cores(count: usize, job: impl FnOnce() -> Outcome<()> + Send) -> Outcome<()> {
    thread::scope(|scope| {
        let run = || {
            let first = core_affinity::get_core_ids().and_then(|cores| cores.first().copied());
            if count == 1 && !first.is_some_and(core_affinity::set_for_current) {
                return Err("a thread cannot be kept on one core here".into());
            }
            job()
        };
        scope.spawn(run).join().map_err(|_| "the measurement panicked")?
    })
}

/// Memory and its twin, mapped from files and as private copies.
struct Rig {
    twin: Mapping,
    now: Mapping,
    target: Mapping,
    hashes: PageHashes,
    private: [Vec<u8>; 2],
}

impl Rig {
    fn new(directory: &Path, size: usize, share: f64) -> Outcome<Self> {
        // Not zeros, and no two pages alike.
        let base: Vec<u8> =
            (0..size / 8).flat_map(|at| (at as u64 * 0x9e37_79b9).to_le_bytes()).collect();
        let mut now = base.clone();
        let pages = size / PAGE_BYTES;
        let changed = (pages as f64 * share) as usize;
        for index in 0..changed {
            let page = index * pages / changed * PAGE_BYTES;
            for word in [8, 1024, 3000] {
                now[page + word..][..8].fill(0xa5);
            }
        }
        let map = |name: &str, bytes: &[u8]| -> Outcome<Mapping> {
            let mapping = Mapping::create(&directory.join(name), size as u64)?;
            mapping.write(0, bytes)?;
            Ok(mapping)
        };
        let (twin, target) = (map("twin", &base)?, map("target", &base)?);
        let hashes = PageHashes::of(&twin)?;
        Ok(Self { now: map("now", &now)?, twin, target, hashes, private: [base, now] })
    }

    fn compared<'a>(&'a self, twin: Twin<'a>) -> [Compared<'a>; 1] {
        let object = Object { kind: ObjectKind::Ram, size_bytes: self.now.size_bytes() };
        [Compared { object, twin, now: &self.now }]
    }

    /// Look for all changes, and throw away what is found.
    fn scan(&self, twin: Twin<'_>) -> Outcome<Figures> {
        Ok(image_diff::write(std::io::sink(), &self.compared(twin))?[0])
    }

    fn scan_row(&self, name: &str, threads: usize) -> Outcome<()> {
        let mut times = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            times[0].push(timed(|| self.memcmp(threads)));
            times[1].push(timed(|| self.scan(Twin::Bytes(&self.twin)).is_ok()));
            times[2].push(timed(|| self.scan(Twin::Hashes(&self.hashes)).is_ok()));
        }
        let [memcmp, scan, hashes] = times.map(|times| self.gb_per_s(median(times)));
        println!(
            "{name:9} {threads:>7}  {memcmp:>7.2} {scan:>7.2} {:>7.2}  {hashes:>7.2} {:>7.2}",
            scan / memcmp,
            hashes / memcmp
        );
        Ok(())
    }

    /// Whether pages differ, each by itself: one call would stop at the first.
    fn memcmp(&self, threads: usize) -> bool {
        let [a, b] = &self.private;
        let part = a.len() / threads;
        thread::scope(|scope| {
            let differing = |(a, b): (&[u8], &[u8])| {
                let pages = a.chunks(PAGE_BYTES).zip(b.chunks(PAGE_BYTES));
                pages.filter(|(a, b)| a != b).count()
            };
            let parts = a.chunks(part).zip(b.chunks(part));
            let workers: Vec<_> = parts.map(|part| scope.spawn(move || differing(part))).collect();
            workers.into_iter().map(|worker| worker.join().unwrap_or(0)).sum::<usize>() > 0
        })
    }

    fn apply_row(&self, name: &str) -> Outcome<()> {
        let mut diff = Vec::new();
        let figures = image_diff::write(&mut diff, &self.compared(Twin::Bytes(&self.twin)))?[0];
        if figures.runs == 0 {
            return Ok(());
        }
        let target = [(ObjectKind::Ram, &self.target)];
        let mut page = vec![0; PAGE_BYTES];
        let (mut packed, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            packed.push(timed(|| image_diff::apply(&diff[..], &target).is_ok()));
            // The same pages as wholes, from memory to memory: no network could do it faster.
            whole.push(timed(|| {
                let step = self.now.size_bytes() / figures.dirty_pages;
                (0..figures.dirty_pages).all(|index| {
                    let at = index * step / PAGE_BYTES as u64 * PAGE_BYTES as u64;
                    self.now.read(at, &mut page).and_then(|()| self.target.write(at, &page)).is_ok()
                })
            }));
        }
        let (packed, whole) = (median(packed).as_secs_f64(), median(whole).as_secs_f64());
        let pages = figures.dirty_pages as f64;
        println!(
            "{name:9} apply: {:.1} million runs/s, {:.2} million pages/s; {:.2} GB/s of those pages, {:.1} % of their bytes \
             travel; page by page in memory {:.2} million pages/s",
            figures.runs as f64 / packed / 1e6,
            pages / packed / 1e6,
            pages * PAGE_BYTES as f64 / packed / 1e9,
            diff.len() as f64 / (pages * PAGE_BYTES as f64) * 100.0,
            pages / whole / 1e6
        );
        Ok(())
    }

    fn gb_per_s(&self, time: Duration) -> f64 {
        self.now.size_bytes() as f64 / time.as_secs_f64() / 1e9
    }
}

fn timed(job: impl FnOnce() -> bool) -> Duration {
    let begun = Instant::now();
    hint::black_box(job());
    begun.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
