//! A copy that was confirmed is confirmed once more, by who has only hashes of it left.

use super::{
    Arc, Controls, Dial, Digest, Kind, Layout, MemoryError, Object, PageHashes, Progress, Sent,
    Verdict, answer, digest_of_copy, expect, explained, parse_digest, propose, write_message,
};
use crate::{
    copy::message::Commitment, mapping::PAGE_BYTES, page_hashes::digest_of, transport::tcp,
};

/// Ask a receiver that has confirmed a copy of `objects` to confirm it again; nothing is sent. It cannot be taken for another:
/// every section's digest is compared.
///
/// # Errors
/// [`MemoryError::Gone`] when the receiver does not have all of it; as `Sending`'s.
pub fn confirm_again(
    dial: &dyn Dial,
    migration: &str,
    objects: Vec<(Object, Arc<PageHashes>)>,
    controls: &Controls,
) -> Result<Sent, MemoryError> {
    let (objects, hashes): (Vec<_>, Vec<_>) = objects.into_iter().unzip();
    let layout = Layout::new(objects)?;
    let mut control = dial.dial()?;
    let control = &mut *control;
    // Every receiver has it, and no stream is joined to it.
    let plan = propose(control, migration, &layout, &[tcp::NAME.to_owned()])?;
    let mut digests = Vec::with_capacity(layout.sections() as usize);
    // All before the first question: to a receiver that lacks one, the others are of no use.
    for (number, there) in (0_u32..).zip(&plan.committed) {
        if !there {
            return Err(gone(&layout, number));
        }
        digests.push(digest_of_section(&layout, &hashes, number)?);
    }
    let mut ask = || {
        for (section, digest) in (0_u32..).zip(&digests) {
            controls.check()?;
            let asked = Commitment { section, lane: 0, mark: 0, digest: *digest };
            write_message(control, Kind::Section, &asked.encode())?;
            let verdict = answer(control, Kind::Committed, "waiting for a section's digest")?;
            if !Verdict::parse(&verdict)?.same {
                return Err(gone(&layout, section));
            }
        }
        let digest = digest_of_copy(layout.objects(), &digests);
        write_message(control, Kind::Commit, digest.as_bytes())?;
        let confirmed = expect(control, Kind::Confirm, "waiting for the confirmation")?;
        if parse_digest(&confirmed)? != *digest.as_bytes() {
            return Err(MemoryError::Protocol("it confirmed another digest".to_owned()));
        }
        Ok(digest)
    };
    let digest = match ask() {
        Err(error @ MemoryError::Connection { .. }) => return Err(explained(control, error)),
        asked => asked?,
    };
    let total_bytes = layout.size_bytes();
    let progress =
        Progress { sent_bytes: 0, covered_bytes: total_bytes, total_bytes, rate_bytes_per_s: 0 };
    let digest = digest.to_hex().to_string();
    Ok(Sent { progress, digest, path: tcp::NAME.to_owned(), hashes })
}

fn digest_of_section(
    layout: &Layout,
    hashes: &[Arc<PageHashes>],
    number: u32,
) -> Result<Digest, MemoryError> {
    let section = layout.section(number).ok_or_else(|| {
        MemoryError::Protocol(format!("PLAN has section {number} of {}", layout.sections()))
    })?;
    let first = (section.offset / PAGE_BYTES as u64) as usize;
    let pages = section.len_bytes.div_ceil(PAGE_BYTES as u64) as usize;
    let of_object = hashes[section.object].hashes();
    let given = of_object.get(first..first + pages).ok_or_else(|| MemoryError::Damaged {
        what: "a list of page hashes",
        reason: format!("it is too short for the {}", layout.objects()[section.object].kind),
    })?;
    Ok(digest_of(given))
}

fn gone(layout: &Layout, section: u32) -> MemoryError {
    let object = layout.section(section).map(|section| section.object).unwrap_or_default();
    MemoryError::Gone { section, object: layout.objects()[object].kind.clone() }
}
