//! Headers as services write them and as they must not be.

use proptest::prelude::*;
use tidegate_region::{
    HEADER_BYTES, Header, HeaderError, LogError, MAX_RANGES, MergeType, Range, RangeError, log,
};

fn sum(offset: u64, len_bytes: u64) -> Range {
    Range { offset, len_bytes, merge_type: MergeType::Sum, width: 8 }
}

fn encoded(header: &Header) -> [u8; HEADER_BYTES] {
    let mut bytes = [0xff; HEADER_BYTES];
    header.encode(&mut bytes);
    bytes
}

fn valid() -> [u8; HEADER_BYTES] {
    let last = Range { offset: 4112, len_bytes: 3, merge_type: MergeType::Abort, width: 1 };
    encoded(&Header::new(3, 7, 8192, &[sum(4096, 16), last]).expect("valid header"))
}

/// Change one byte range of a valid header and say what `parse` makes of it.
fn broken(at: usize, with: &[u8]) -> HeaderError {
    let mut bytes = valid();
    bytes[at..at + with.len()].copy_from_slice(with);
    Header::parse(&bytes).expect_err("must be refused")
}

fn in_range(index: usize, error: RangeError) -> HeaderError {
    HeaderError::Range { index, error }
}

#[test]
fn layout_is_the_documented_one() {
    let bytes = valid();
    assert_eq!(&bytes[..8], b"TGREGION");
    assert_eq!(&bytes[8..16], &[2, 0, 0, 0, 2, 0, 0, 0]);
    assert_eq!(&bytes[16..24], &8192u64.to_le_bytes());
    assert_eq!(&bytes[24..32], &7u64.to_le_bytes());
    assert_eq!(&bytes[32..40], &[3, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(&bytes[64..72], &4096u64.to_le_bytes());
    assert_eq!(&bytes[72..80], &16u64.to_le_bytes());
    assert_eq!(&bytes[80..88], &[1, 0, 0, 0, 8, 0, 0, 0]);
    assert_eq!(&bytes[112..120], &[7, 0, 0, 0, 1, 0, 0, 0]);
    assert!(bytes[128..].iter().all(|byte| *byte == 0));
}

#[test]
fn each_field_is_checked() {
    assert_eq!(Header::parse(&valid()[..4095]), Err(HeaderError::TooShort { bytes: 4095 }));
    assert_eq!(Header::parse(&[0; HEADER_BYTES]), Err(HeaderError::Magic { found: [0; 8] }));
    assert_eq!(broken(8, &[0]), HeaderError::Version { found: 0 });
    assert_eq!(broken(8, &[3]), HeaderError::Version { found: 3 });
    assert_eq!(broken(32, &[0]), HeaderError::Schema);
    assert_eq!(broken(12, &[0]), HeaderError::RangeCount { found: 0 });
    assert_eq!(broken(12, &[65]), HeaderError::RangeCount { found: 65 });
    assert_eq!(broken(12, &[0xff; 4]), HeaderError::RangeCount { found: u32::MAX });
    assert_eq!(broken(40, &[1]), HeaderError::Reserved { offset: 40 });
    assert_eq!(broken(95, &[1]), HeaderError::Reserved { offset: 95 });
    assert_eq!(broken(4095, &[1]), HeaderError::Reserved { offset: 4095 });
    // A count of one leaves the second range as bytes that must be zero.
    assert_eq!(broken(12, &[1]), HeaderError::Reserved { offset: 96 });
}

#[test]
fn each_range_is_checked() {
    assert_eq!(broken(80, &[0]), in_range(0, RangeError::MergeType { code: 0 }));
    assert_eq!(broken(80, &[9]), in_range(0, RangeError::MergeType { code: 9 }));
    let width = |merge_type, width| RangeError::Width { merge_type, width };
    assert_eq!(broken(84, &[3]), in_range(0, width(MergeType::Sum, 3)));
    assert_eq!(broken(84, &[0]), in_range(0, width(MergeType::Sum, 0)));
    assert_eq!(broken(116, &[2]), in_range(1, width(MergeType::Abort, 2)));
    assert_eq!(broken(72, &[0]), in_range(0, RangeError::Empty));
    let misaligned = |offset, len_bytes| RangeError::Misaligned { offset, len_bytes, unit: 8 };
    assert_eq!(broken(64, &[4]), in_range(0, misaligned(4100, 16)));
    assert_eq!(broken(72, &[12]), in_range(0, misaligned(4096, 12)));
    // As a log: its length is 8 bytes whatever the width.
    assert_eq!(broken(112, &[8]), in_range(1, misaligned(4112, 3)));
    assert_eq!(
        broken(104, &[8, 0, 0, 0, 0, 0, 0, 0, 8]),
        in_range(1, RangeError::NoRoom { len_bytes: 8 })
    );
    let out =
        |offset, len_bytes, size_bytes| RangeError::OutOfBounds { offset, len_bytes, size_bytes };
    assert_eq!(broken(64, &8u64.to_le_bytes()), in_range(0, out(8, 16, 8192)));
    assert_eq!(broken(16, &4100u64.to_le_bytes()), in_range(0, out(4096, 16, 4100)));
    assert_eq!(broken(64, &(u64::MAX - 7).to_le_bytes()), in_range(0, out(u64::MAX - 7, 16, 8192)));
    assert_eq!(broken(104, &u64::MAX.to_le_bytes()), in_range(1, out(4112, u64::MAX, 8192)));
    let overlap = RangeError::Overlap { offset: 4111, previous_end: 4112 };
    assert_eq!(broken(96, &4111u64.to_le_bytes()), in_range(1, overlap));
}

#[test]
fn messages_name_the_place_and_the_values() {
    let message = broken(96, &4111u64.to_le_bytes()).to_string();
    assert_eq!(
        message,
        "range 1 of the region: it starts at 4111, before the previous one ends at 4112"
    );
    let message = Header::parse(&[0; HEADER_BYTES]).expect_err("unformatted").to_string();
    assert!(message.contains("not formatted"), "{message}");
}

#[test]
fn the_first_layout_version_is_read() {
    let mut bytes = valid();
    bytes[8] = 1;
    // It has no schema version, and zero there.
    assert_eq!(Header::parse(&bytes), Err(HeaderError::Reserved { offset: 32 }));
    bytes[32] = 0;
    let header = Header::parse(&bytes).expect("version 1");
    assert_eq!((header.schema_version(), header.generation()), (0, 7));
    assert_eq!(encoded(&header), bytes);
    // Nor logs.
    bytes[80] = 8;
    let error = Header::parse(&bytes).expect_err("no such type");
    assert_eq!(error, in_range(0, RangeError::MergeType { code: 8 }));
}

#[test]
fn a_log_is_appended_to_until_it_is_full() {
    let mut range = [0xff; 32];
    let capacity_bytes = 24;
    let found = u64::MAX;
    let error = LogError::Length { found, capacity_bytes, width: 4 };
    assert_eq!(log::records(&range, 4), Err(error));
    assert_eq!(log::append(&mut range, 4, &[1; 4]), Err(error));
    range[..8].fill(0);
    assert_eq!(log::records(&range, 4), Ok(&[][..]));
    log::append(&mut range, 4, &[1; 8]).expect("room");
    log::append(&mut range, 4, &[2; 12]).expect("room");
    assert_eq!(range[..9], [20, 0, 0, 0, 0, 0, 0, 0, 1]);
    assert_eq!(log::records(&range, 4).expect("valid")[7..9], [1, 2]);
    let before = range;
    let full = LogError::Full { record_bytes: 8, free_bytes: 4 };
    assert_eq!(log::append(&mut range, 4, &[3; 8]), Err(full));
    for record_bytes in [0, 3] {
        let odd = LogError::Record { record_bytes, width: 4 };
        assert_eq!(log::append(&mut range, 4, &before[..record_bytes]), Err(odd));
    }
    assert_eq!(range, before, "a refused record leaves no trace");
    log::append(&mut range, 4, &[3; 4]).expect("to the last byte");
    assert!(log::append(&mut range[..7], 1, &[0]).is_err());
}

#[test]
fn as_many_ranges_as_fit() {
    let ranges: Vec<Range> = (0..65).map(|index| sum(4096 + index * 8, 8)).collect();
    let header = Header::new(1, 0, 1 << 20, &ranges[..MAX_RANGES]).expect("64 fit");
    assert_eq!(Header::parse(&encoded(&header)), Ok(header));
    assert_eq!(Header::new(1, 0, 1 << 20, &ranges), Err(HeaderError::RangeCount { found: 65 }));
}

/// Any valid header: gaps and lengths in units of each range's width.
fn headers() -> impl Strategy<Value = Header> {
    let range = (0u64..100, 1u64..100, 0usize..8, 0u32..4);
    let ranges = prop::collection::vec(range, 1..=MAX_RANGES);
    (1..=u32::MAX, any::<u64>(), 0u64..5000, ranges).prop_map(|(schema, generation, slack, raw)| {
        let mut end = HEADER_BYTES as u64;
        let mut ranges = Vec::new();
        for (gap, len, merge, width) in raw {
            let merge_type = MergeType::ALL[merge];
            let width = merge_type.widths()[width as usize % merge_type.widths().len()];
            let is_log = merge_type == MergeType::AppendLog;
            let unit = if is_log { 8 } else { u64::from(width) };
            let offset = (end + gap).next_multiple_of(unit);
            let len_bytes = (len + u64::from(is_log)) * unit;
            end = offset + len_bytes;
            ranges.push(Range { offset, len_bytes, merge_type, width });
        }
        Header::new(schema, generation, end + slack, &ranges).expect("built to be valid")
    })
}

proptest! {
    #[test]
    fn what_is_encoded_is_parsed(header in headers()) {
        prop_assert_eq!(Header::parse(&encoded(&header)), Ok(header));
    }

    /// Whatever a guest writes, parsing neither panics nor lets a range out of bounds or order through.
    #[test]
    fn what_is_parsed_is_valid(
        header in headers(),
        changes in prop::collection::vec((0usize..200, any::<u8>()), 1..4),
    ) {
        let mut bytes = encoded(&header);
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Ok(parsed) = Header::parse(&bytes) {
            let mut previous_end = HEADER_BYTES as u64;
            for range in parsed.ranges() {
                let width = u64::from(range.width);
                prop_assert!(range.offset >= previous_end && range.len_bytes > 0);
                prop_assert!(range.offset % width == 0 && range.len_bytes % width == 0);
                previous_end = range.offset.checked_add(range.len_bytes).expect("no overflow");
            }
            prop_assert!(previous_end <= parsed.size_bytes());
            prop_assert_eq!(encoded(&parsed), bytes, "nothing in a valid header is ignored");
        }
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..5000)) {
        prop_assert!(Header::parse(&bytes).is_err());
    }
}
