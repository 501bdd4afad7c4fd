//! Changes packed into large writes and applied at the other end, beside one RMA write for each changed page.

use std::{
    io::{self, Read},
    sync::Arc,
    time::Instant,
};

use tidegate_fabric::Provider;
use tidegate_memory::{
    Mapping, Object, ObjectKind, image_diff,
    mapping::PAGE_BYTES,
    scan::{Compared, Twin},
};
use vm_memory::{Bytes as _, MmapRegion, VolatileMemory as _};

use super::{Context, Outcome};
use crate::{
    engine::{Place, memory, rma::Rma},
    machine::on_all_cpus,
    result::Metric,
    samples::Samples,
};

const SIZE_BYTES: u64 = 256 << 20;
/// One page of so many is changed.
const EVERY_PAGES: u64 = 4;
const CHANGED_PAGES: u64 = SIZE_BYTES / PAGE_BYTES as u64 / EVERY_PAGES;
/// A packed diff goes over in pieces of this.
const PIECE_BYTES: u64 = 1 << 20;

/// How much of a changed page is changed.
#[derive(Clone, Copy)]
enum Changed {
    /// All of it: there is nothing to pack but pages.
    Whole,
    /// A cache line.
    Line,
}

impl Changed {
    fn bytes(self) -> usize {
        match self {
            Self::Whole => PAGE_BYTES,
            Self::Line => 64,
        }
    }
}

pub(super) fn run(context: &Context) -> anyhow::Result<Outcome> {
    on_all_cpus(context.machine.cpus, || {
        let [whole, pages] = measure(context, Changed::Whole)?;
        let [line, pages_again] = measure(context, Changed::Line)?;
        let unit = "changed pages per second";
        let versus = "one RMA write for each page";
        let note = format!(
            "tcp;ofi_rxm, a cache line changed in each of {CHANGED_PAGES} pages of 256 MiB; ours: write the image diff in pieces of \
             1 MiB, wait until it is there, apply it; looking for changes is in neither"
        );
        Ok(Outcome {
            metrics: vec![
                Metric::beside("packed_apply_vs_page_writes", unit, line, versus, pages_again)
                    .note(note),
                Metric::beside("packed_whole_pages_vs_page_writes", unit, whole, versus, pages)
                    .note("for information: all of each of these pages changed, so that there is nothing to pack"),
            ],
            curves: Vec::new(),
        })
    })
}

/// Pages per second, packed and page by page.
fn measure(context: &Context, changed: Changed) -> anyhow::Result<[Samples; 2]> {
    let place = Place::new("packed")?;
    let at_t0 = memory::noise(&place.dir().join("t0"), SIZE_BYTES, 1)?;
    let now = memory::noise(&place.dir().join("now"), SIZE_BYTES, 1)?;
    let pages = change(&now, changed)?;
    let diff = diff(&at_t0, &now)?;
    let ram = region(SIZE_BYTES)?;
    let mut bytes = vec![0; SIZE_BYTES as usize];
    now.read(0, &mut bytes)?;
    ram.as_volatile_slice().copy_from(&bytes[..]);
    let diff_bytes = diff.len() as u64;
    let packed = region(diff_bytes)?;
    packed.as_volatile_slice().copy_from(&diff[..]);
    let (staging, theirs) = (region(diff_bytes)?, region(SIZE_BYTES)?);
    let mut rma = Rma::new(Provider::Tcp, vec![Arc::clone(&staging), Arc::clone(&theirs)])?;
    let (packed, ram) = (rma.attach(packed)?, rma.attach(ram)?);
    let pieces: Vec<_> = (0..diff_bytes)
        .step_by(PIECE_BYTES as usize)
        .map(|at| (at, PIECE_BYTES.min(diff_bytes - at)))
        .collect();

    let [mut ours, mut by_page]: [Samples; 2] = Default::default();
    for run in 0..=context.runs {
        // A destination as of T0, all of it there.
        let destination = memory::noise(&place.dir().join("destination"), SIZE_BYTES, 1)?;
        let began = Instant::now();
        rma.write(packed, 0, &pieces)?;
        let applied = image_diff::apply(
            Reading { memory: &staging, at: 0 },
            &[(ObjectKind::Ram, &*destination)],
        )?;
        let packed_rate = CHANGED_PAGES as f64 / began.elapsed().as_secs_f64();
        anyhow::ensure!(
            applied.bytes >= CHANGED_PAGES * changed.bytes() as u64 && is_same(&destination, &now)?,
            "the diff did not make the destination what the source is"
        );
        let began = Instant::now();
        rma.write(ram, 1, &pages)?;
        let page_rate = CHANGED_PAGES as f64 / began.elapsed().as_secs_f64();
        // The first round warms up.
        if run > 0 {
            ours.push(packed_rate);
            by_page.push(page_rate);
        }
    }
    Ok([ours, by_page])
}

/// Change pages; where they are.
fn change(memory: &Mapping, changed: Changed) -> anyhow::Result<Vec<(u64, u64)>> {
    let page = PAGE_BYTES as u64;
    let mut bytes = vec![0; changed.bytes()];
    let mut pages = Vec::new();
    for at in (0..SIZE_BYTES).step_by((EVERY_PAGES * page) as usize) {
        memory.read(at, &mut bytes)?;
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        memory.write(at, &bytes)?;
        pages.push((at, page));
    }
    Ok(pages)
}

fn compared<'a>(at_t0: &'a Mapping, now: &'a Mapping) -> Compared<'a> {
    let object = Object { kind: ObjectKind::Ram, size_bytes: now.size_bytes() };
    Compared { object, twin: Twin::Bytes(at_t0), now }
}

fn diff(at_t0: &Mapping, now: &Mapping) -> anyhow::Result<Vec<u8>> {
    let mut diff = Vec::new();
    image_diff::write(&mut diff, &[compared(at_t0, now)])?;
    Ok(diff)
}

fn is_same(left: &Mapping, right: &Mapping) -> anyhow::Result<bool> {
    let figures = image_diff::write(io::sink(), &[compared(left, right)])?;
    Ok(figures.iter().all(|each| each.changed_bytes == 0))
}

fn region(size_bytes: u64) -> anyhow::Result<Arc<MmapRegion>> {
    let region = MmapRegion::new(size_bytes as usize)?;
    // All of it there.
    for at in (0..size_bytes as usize).step_by(PAGE_BYTES) {
        region.as_volatile_slice().write_obj(0_u8, at)?;
    }
    Ok(Arc::new(region))
}

/// Reads memory from its beginning.
struct Reading<'a> {
    memory: &'a MmapRegion,
    at: usize,
}

impl Read for Reading<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.memory.as_volatile_slice().read(into, self.at).map_err(io::Error::other)?;
        self.at += read;
        Ok(read)
    }
}
