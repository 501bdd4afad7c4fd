//! What fuzz targets reach into. Not an interface.

use std::io::{self, Read};

use tidegate_memory::{Mapping, mapping::PAGE_BYTES};

use super::{
    Arrived, DeviceState, Known, MAX_DEVICES_BYTES, Malformed, Twin, ram::MAX_LOOSE_BYTES, read,
};

/// The blocks of memory that are in files, and their pages.
pub const BLOCKS: [(&str, usize); 2] = [("ram0", 16), ("region0", 1)];

/// More bytes of memory in no file than this are not composed again: that takes its time.
const COMPOSED_BYTES: usize = 1 << 20;

/// Take a stream apart, once as it is and once as it trickles in, each into twins of its own that are zeros before: both find
/// the same. What is composed of it is read as the same again.
///
/// # Panics
/// When it is not, or when more is kept than may be.
pub fn qemu_stream(stream: &[u8], twins: &[[Mapping; 2]; 2]) {
    let [whole, trickled] = twins.each_ref().map(|set| (set, Arrived::default()));
    let state = into(stream, whole.0, &whole.1);
    let again = into(Trickle { bytes: stream, reads: 0 }, trickled.0, &trickled.1);
    let text =
        |state: &Result<DeviceState, Malformed>| state.as_ref().err().map(Malformed::to_string);
    assert_eq!(text(&state), text(&again));
    assert!(state.as_ref().ok() == again.as_ref().ok(), "device states differ");
    assert_eq!(whole.1.page_bytes(), trickled.1.page_bytes());
    for (whole, trickled) in whole.0.iter().zip(trickled.0) {
        assert!(bytes(whole) == bytes(trickled), "twins differ");
    }
    let Ok(state) = state else { return };
    let loose: usize = state.blocks.iter().filter_map(|it| it.bytes.as_ref()).map(Vec::len).sum();
    assert!(loose as u64 <= MAX_LOOSE_BYTES && state.devices.len() <= MAX_DEVICES_BYTES);
    if loose > COMPOSED_BYTES {
        return;
    }
    let mut composed = Vec::new();
    state.write(&mut composed).expect("memory takes all");
    let read_again = read(&*composed, &known(None), &Arrived::default());
    assert!(read_again.expect("a device state is a stream") == state, "composed, it is another");
}

fn into(
    source: impl Read,
    twins: &[Mapping; 2],
    arrived: &Arrived,
) -> Result<DeviceState, Malformed> {
    read(source, &known(Some(twins)), arrived)
}

fn known(twins: Option<&[Mapping; 2]>) -> [Known<'_>; 2] {
    [0, 1].map(|index| {
        let (id, pages) = BLOCKS[index];
        let twin = twins.map(|twins| Twin::Kept(&twins[index]));
        Known { id: id.to_owned(), size_bytes: (pages * PAGE_BYTES) as u64, twin }
    })
}

fn bytes(mapping: &Mapping) -> Vec<u8> {
    let mut bytes = vec![0; mapping.size_bytes() as usize];
    mapping.read(0, &mut bytes).expect("read");
    bytes
}

/// A source that gives a few bytes at a time.
struct Trickle<'a> {
    bytes: &'a [u8],
    reads: usize,
}

impl Read for Trickle<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.reads += 1;
        let most = [1, 7, 4099][self.reads % 3].min(into.len());
        (&mut self.bytes).take(most as u64).read(into)
    }
}
