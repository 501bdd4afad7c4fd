//! The messages of the copy protocol: a head, and what follows it as each of the types it may be.

use tidegate_memory::copy::message::{
    Commitment, HEAD_BYTES, Join, Plan, Verdict, encode, encode_layout, parse_barrier, parse_head,
    parse_hello, parse_layout, parse_piece, parse_versions,
};

pub(crate) fn run(bytes: &[u8]) {
    let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>() else { return };
    if let Ok(parsed) = parse_head(head) {
        // What a receiver reads next is bounded.
        assert!(parsed.len <= (1 << 20) + 16, "{parsed:?}");
        assert_eq!(encode(parsed.kind, &vec![0; parsed.len])[..HEAD_BYTES], head[..]);
        if let Ok(piece) = parse_piece(parsed, body)
            && let Ok(proposal) = parse_layout(body)
        {
            // Whether it fits is for the layout to say, whatever the numbers are.
            let _ = proposal.layout.section_of(piece);
        }
    }
    let _ = (parse_hello(body), parse_versions(body), parse_barrier(body), Join::parse(body));
    let _ = (Commitment::parse(body), Verdict::parse(body));
    for sections in [0, 1, 7, 8, 9] {
        if let Ok(plan) = Plan::parse(body, sections, 2) {
            assert!(plan.path < 2 && plan.committed.len() == sections as usize);
        }
    }
    if let Ok(proposal) = parse_layout(body) {
        let layout = &proposal.layout;
        assert_eq!(encode_layout(layout.objects(), &proposal.paths), body);
        for number in [0, layout.sections() / 2, layout.sections() - 1] {
            let section = layout.section(number).expect("there is one");
            let object = &layout.objects()[section.object];
            assert!(section.offset + section.len_bytes <= object.size_bytes);
        }
        assert_eq!(layout.section(layout.sections()), None);
    }
}
