use std::path::Path;

use proptest::prelude::*;

use super::{ram::*, *};

const RAM_PAGES: usize = 16;
const ROM_PAGES: usize = 2;
const REGION_PAGES: usize = 1;
const DEVICES: &[u8] = b"\x04what only QEMU knows\0";

/// A page in a stream: block, page, its byte; 0 is sent as a page of zeros.
type Page = (usize, usize, u8);

const BLOCKS: [(&str, usize); 3] =
    [("ram0", RAM_PAGES), ("pc.bios", ROM_PAGES), ("0000:00:02.0/region0", REGION_PAGES)];

/// Bytes as QEMU writes them.
#[derive(Default)]
struct Stream(Vec<u8>);

impl Stream {
    fn begin(ignores_shared: bool) -> Self {
        let mut stream = Self::default();
        stream.put(b"QEVM").u32(3).put(&[7]).u32(6).put(b"pc-q35");
        if ignores_shared {
            stream.put(&[5]).name(CAPABILITIES).u32(1).u32(1).name(IGNORE_SHARED);
        }
        stream.put(&[1]).u32(2).name("ram").u32(0).u32(4);
        let pages: usize = BLOCKS.iter().map(|(_, pages)| pages).sum();
        stream.u64((pages * PAGE_BYTES) as u64 | FLAG_BLOCKS);
        for (name, pages) in BLOCKS {
            stream.name(name).u64((pages * PAGE_BYTES) as u64);
            if ignores_shared {
                stream.u64(0xfeb0_0000);
            }
        }
        stream.end();
        stream
    }

    fn section(&mut self, kind: u8, pages: &[Page]) -> &mut Self {
        self.put(&[kind]).u32(2);
        let mut before = None;
        for &(block, page, byte) in pages {
            let same = if before == Some(block) { FLAG_SAME_BLOCK } else { 0 };
            let kind = if byte == 0 { FLAG_ZERO } else { FLAG_PAGE };
            self.u64((page * PAGE_BYTES) as u64 | kind | same);
            if same == 0 {
                self.name(BLOCKS[block].0);
            }
            if byte == 0 {
                self.put(&[0])
            } else {
                self.put(&[byte; PAGE_BYTES])
            };
            before = Some(block);
        }
        self.end()
    }

    fn whole(passes: &[Vec<Page>]) -> Vec<u8> {
        let mut stream = Self::begin(false);
        for (index, pages) in passes.iter().enumerate() {
            stream.section(if index + 1 == passes.len() { 3 } else { 2 }, pages);
        }
        stream.put(DEVICES);
        stream.0
    }

    fn end(&mut self) -> &mut Self {
        self.u64(FLAG_END).put(&[FOOTER]).u32(2)
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.put(&value.to_be_bytes())
    }

    fn name(&mut self, name: &str) -> &mut Self {
        self.put(&[name.len() as u8]).put(name.as_bytes())
    }
}

struct Twins {
    _dir: tempfile::TempDir,
    ram: Mapping,
    region: Mapping,
    arrived: Arrived,
}

impl Twins {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        let create = |name: &str, pages: usize| {
            Mapping::create(&dir.path().join(name), (pages * PAGE_BYTES) as u64).expect("twin")
        };
        let (ram, region) = (create("ram", RAM_PAGES), create("region", REGION_PAGES));
        Self { _dir: dir, ram, region, arrived: Arrived::default() }
    }

    fn read(&self, stream: &[u8]) -> Result<DeviceState, Malformed> {
        let size = |pages: usize| (pages * PAGE_BYTES) as u64;
        let known = |id: &str, pages, twin| Known { id: id.into(), size_bytes: size(pages), twin };
        let known = [
            known("ram0", RAM_PAGES, Some(Twin::Kept(&self.ram))),
            known("region0", REGION_PAGES, Some(Twin::Kept(&self.region))),
        ];
        read(stream, &known, &self.arrived)
    }

    /// The first byte of each page, which all others of it must be.
    fn pages(&self) -> (Vec<u8>, Vec<u8>) {
        let pages = |mapping: &Mapping| {
            let mut bytes = vec![0; mapping.size_bytes() as usize];
            mapping.read(0, &mut bytes).expect("read");
            let page = |page: &[u8]| {
                assert!(page.iter().all(|byte| *byte == page[0]), "a torn page");
                page[0]
            };
            bytes.chunks(PAGE_BYTES).map(page).collect()
        };
        (pages(&self.ram), pages(&self.region))
    }

    fn refuse(&self, stream: &[u8]) -> String {
        self.read(stream).expect_err("refused").to_string()
    }
}

/// A device state without pages of files, as it is read: those are not awaited.
fn reread(state: &DeviceState) -> DeviceState {
    let mut bytes = Vec::new();
    state.write(&mut bytes).expect("written");
    let known = |id: &str, pages: usize| Known {
        id: id.into(),
        size_bytes: (pages * PAGE_BYTES) as u64,
        twin: None,
    };
    let known = [known("ram0", RAM_PAGES), known("region0", REGION_PAGES)];
    read(&*bytes, &known, &Arrived::default()).expect("a device state is a stream")
}

#[test]
fn the_last_of_each_page_counts() {
    let stream = Stream::whole(&[
        vec![(0, 0, 1), (0, 1, 2), (0, 2, 0), (1, 0, 7), (2, 0, 8)],
        vec![(0, 1, 3), (0, 0, 0)],
        vec![(1, 1, 6), (0, 2, 9)],
    ]);
    let twins = Twins::new();
    let state = twins.read(&stream).expect("read");
    let mut ram = vec![0; RAM_PAGES];
    ram[1..3].copy_from_slice(&[3, 9]);
    assert_eq!(twins.pages(), (ram, vec![8]));
    let bios = state.blocks[1].bytes.as_ref().expect("kept");
    assert_eq!((bios[0], bios[2 * PAGE_BYTES - 1]), (7, 6));
    assert_eq!(twins.arrived.pages.load(Ordering::Relaxed), 7);
    assert_eq!(twins.arrived.zero_pages.load(Ordering::Relaxed), 2);
    assert_eq!(twins.arrived.stream_bytes.load(Ordering::Relaxed), stream.len() as u64);
    assert_eq!((state.machine.as_str(), &*state.devices), ("pc-q35", DEVICES));
    let again = reread(&state);
    assert_eq!(again.blocks, state.blocks);
    assert_eq!((again.machine, again.devices), (state.machine, state.devices));
}

#[test]
fn a_state_saved_without_shared_memory_becomes_the_same() {
    let mut stream = Stream::begin(true);
    stream.section(3, &[(1, 0, 7), (1, 1, 0)]).put(DEVICES);
    let known = |id: &str, pages: usize| Known {
        id: id.into(),
        size_bytes: (pages * PAGE_BYTES) as u64,
        twin: None,
    };
    let known = [known("ram0", RAM_PAGES), known("region0", REGION_PAGES)];
    let ignoring = read(&*stream.0, &known, &Arrived::default()).expect("read");
    let twins = Twins::new();
    let full = twins.read(&Stream::whole(&[vec![(0, 3, 3), (1, 0, 7)]])).expect("read");
    let bytes = |state: &DeviceState| {
        let mut bytes = Vec::new();
        state.write(&mut bytes).expect("written");
        bytes
    };
    assert_eq!(bytes(&ignoring), bytes(&full));

    // A page that QEMU was told to leave out.
    let mut stream = Stream::begin(true);
    stream.section(3, &[(0, 0, 7)]);
    let error = read(&*stream.0, &known, &Arrived::default()).expect_err("refused").to_string();
    assert!(error.contains("`ram0`, which QEMU was told to leave out"), "{error}");
}

#[test]
fn what_is_not_as_it_should_be_is_named() {
    let good = Stream::whole(&[vec![(0, 0, 1)]]);
    let twins = Twins::new();
    let changed = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        twins.refuse(&bad)
    };
    assert!(changed(0, b"QEVN").contains("it begins with"));
    assert!(changed(4, &4_u32.to_be_bytes()).contains("version 4 is not supported"));
    assert!(changed(9, &u32::MAX.to_be_bytes()).contains("4294967295 bytes is too long"));
    assert!(changed(19, &[8]).contains("section kind 8 is not the start"));
    // Name of the section at 24, instance at 28, version at 32, list of blocks at 36.
    assert!(changed(25, b"R").contains("section `Ram`"));
    assert!(changed(32, &3_u32.to_be_bytes()).contains("version 3"));
    assert!(changed(36, &(4096_u64 | FLAG_BLOCKS).to_be_bytes()).contains("does not fit in 4096"));
    assert!(changed(36, &FLAG_PAGE.to_be_bytes()).contains("are not the list of blocks"));
    assert!(changed(45, b"rom0").contains("block `ram0` is not listed exactly once"));
    assert!(changed(49, &8192_u64.to_be_bytes()).contains("has 8192 bytes, its file 65536"));

    let page = |word: u64, rest: &[u8]| {
        let mut stream = Stream::begin(false);
        stream.put(&[2]).u32(2).u64(word).put(rest);
        twins.refuse(&stream.0)
    };
    assert!(page(FLAG_PAGE | FLAG_SAME_BLOCK, &[0; 5000]).contains("names no block"));
    assert!(page(FLAG_PAGE, b"\x04ram1").contains("block `ram1` was not listed"));
    assert!(page(FLAG_ZERO | 0x10000, b"\x04ram0\0").contains("a page at 65536 is not in block"));
    assert!(page(FLAG_ZERO | !0xfff, b"\x04ram0\0").contains("is not in block"));
    assert!(page(FLAG_ZERO, b"\x04ram0\x01").contains("a page of value 1"));
    assert!(page(0x48, b"").contains("flag 0x40 (xbzrle) is not supported"));
    assert!(page(0x200, b"").contains("flags 0x200 at offset 0 are unknown"));
    assert!(page(FLAG_END | 0x1000, b"").contains("unknown"));

    let mut stream = Stream::begin(false);
    stream.section(3, &[]).put(b"\x09");
    assert!(twins.refuse(&stream.0).contains("the devices are missing"));
    let mut stream = Stream::begin(false);
    stream.put(&[4]).u32(3).name("timer");
    assert!(twins.refuse(&stream.0).contains("section kind 4 comes before the end of `ram`"));
    let mut stream = Stream::begin(false);
    stream.put(&[2]).u32(2).u64(FLAG_END).put(&[FOOTER]).u32(3);
    assert!(twins.refuse(&stream.0).contains("footer 0x7e of section 3"));
}

#[test]
fn a_stream_that_ends_anywhere_before_the_devices_is_refused() {
    let good = Stream::whole(&[vec![(0, 0, 1), (1, 0, 0)], vec![(0, 1, 1)]]);
    let twins = Twins::new();
    for cut in 0..=good.len() - DEVICES.len() {
        let error = twins.read(&good[..cut]).expect_err("refused");
        let named = ["it ends where", "devices are missing"];
        assert!(named.iter().any(|reason| error.reason.contains(reason)), "{cut}: {error}");
    }
    assert!(twins.read(&good).is_ok());
}

#[test]
fn a_recorded_stream_is_read() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/streams");
    let recorded = std::fs::read(dir.join("qemu-7.2-microvm.stream")).expect("recorded");
    let twin_dir = tempfile::tempdir().expect("dir");
    let ram = Mapping::create(&twin_dir.path().join("ram"), 1 << 20).expect("twin");
    let known = [Known { id: "ram0".into(), size_bytes: 1 << 20, twin: Some(Twin::Kept(&ram)) }];
    let arrived = Arrived::default();
    let state = read(&*recorded, &known, &arrived).expect("read");
    assert_eq!(state.machine, "microvm");
    let names: Vec<_> = state.blocks.iter().map(|block| block.name.as_str()).collect();
    assert!(names.contains(&"ram0"), "{names:?}");
    let pages = arrived.pages.load(Ordering::Relaxed) + arrived.zero_pages.load(Ordering::Relaxed);
    assert!(pages >= 256, "every page at least once, not {pages}");
}

fn passes() -> impl Strategy<Value = Vec<Vec<Page>>> {
    let page = (0..BLOCKS.len(), any::<prop::sample::Index>(), 0_u8..4)
        .prop_map(|(block, page, byte)| (block, page.index(BLOCKS[block].1), byte));
    prop::collection::vec(prop::collection::vec(page, 0..12), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn a_twin_is_what_was_sent_last(passes in passes()) {
        let twins = Twins::new();
        let state = twins.read(&Stream::whole(&passes)).expect("read");
        let mut model = BLOCKS.map(|(_, pages)| vec![0; pages]);
        for (block, page, byte) in passes.into_iter().flatten() {
            model[block][page] = byte;
        }
        let [ram, bios, region] = model;
        prop_assert_eq!(twins.pages(), (ram, region));
        let kept = state.blocks[1].bytes.as_ref().expect("kept");
        let kept: Vec<_> = kept.chunks(PAGE_BYTES).map(|page| page[1]).collect();
        prop_assert_eq!(kept, bios);
        prop_assert_eq!(&reread(&state).blocks, &state.blocks);
    }

    #[test]
    fn a_damaged_stream_never_panics(
        passes in passes(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut stream = Stream::whole(&passes);
        for (at, byte) in damage {
            // Where it hurts: pages' bytes are not looked at.
            let at = at.index(stream.len().min(400));
            stream[at] = byte;
        }
        let _ = Twins::new().read(&stream);
        let _ = Twins::new().read(&stream[..cut.index(stream.len())]);
    }

    #[test]
    fn noise_behind_the_list_of_blocks_never_panics(
        noise in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut stream = Stream::begin(false);
        stream.put(&[2]).u32(2).put(&noise);
        let _ = Twins::new().read(&stream.0);
    }
}
