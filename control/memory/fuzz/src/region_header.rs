//! What a guest may have written at the start of a region.

use tidegate_region::{HEADER_BYTES, Header, MergeType, log};

pub(crate) fn run(bytes: &[u8]) {
    // Zeros follow: inputs are short, and a header is a page.
    let mut page = [0; HEADER_BYTES];
    let len = bytes.len().min(HEADER_BYTES);
    page[..len].copy_from_slice(&bytes[..len]);
    let Ok(header) = Header::parse(&page) else { return };
    let mut again = [0xff; HEADER_BYTES];
    header.encode(&mut again);
    assert!(again == page, "nothing in a valid header is ignored");
    let mut free_from = HEADER_BYTES as u64;
    for range in header.ranges() {
        assert!(range.offset >= free_from && range.len_bytes > 0);
        free_from = range.offset.checked_add(range.len_bytes).expect("no overflow");
        assert!(range.merge_type.widths().contains(&range.width));
        if range.merge_type == MergeType::AppendLog {
            // Whatever is in it, it is read or refused.
            let content = &bytes[len.min(128)..];
            let _ = log::records(content, range.width);
            let mut content = content.to_vec();
            let before = content.clone();
            if log::append(&mut content, range.width, &bytes[..len.min(16)]).is_err() {
                assert!(content == before, "what is refused changes nothing");
            }
        }
    }
    assert!(free_from <= header.size_bytes());
}
