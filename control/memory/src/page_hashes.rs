//! One hash for each page of a piece of memory, and the digest over them.
//!
//! | what | is |
//! |---|---|
//! | page | 4096 bytes; zeros follow the bytes of a short last one |
//! | a page's hash | 0 when all its bytes are zero; else XXH3-128 of them, and 1 where that is 0 |
//! | digest | BLAKE3 over the hashes of the pages in order, 16 bytes each, little-endian |
//!
//! So each byte is hashed once, whatever it is needed for: the twin of memory that has no full one, what of it
//! has to be sent, the digest of a copy. Two pages with the same hash are taken for the same. XXH3 is not made
//! against those who want two pages to collide: a guest that does deceives only itself, about its own memory.

use std::{fmt, ops::Range};

use twox_hash::XxHash3_128;

use crate::{Mapping, MemoryError, mapping::PAGE_BYTES};

/// Hash of a page of zeros, and of no other.
pub const ZERO_PAGE: u128 = 0;
/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;
/// Hashes that are digested at once.
const GROUP: usize = 16;

/// BLAKE3 over page hashes.
pub type Digest = [u8; DIGEST_BYTES];

/// The hashes of all pages of a piece of memory.
#[derive(Clone, PartialEq, Eq)]
pub struct PageHashes {
    hashes: Vec<u128>,
    size_bytes: u64,
}

/// Not millions of hashes.
impl fmt::Debug for PageHashes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = blake3::Hash::from(self.digest()).to_hex();
        write!(f, "PageHashes({} bytes, {digest})", self.size_bytes)
    }
}

/// The hash of one page of our own, of at most [`PAGE_BYTES`].
#[must_use]
pub fn hash_page(bytes: &[u8]) -> u128 {
    let Ok(page) = <&[u8; PAGE_BYTES]>::try_from(bytes) else {
        let mut padded = [0; PAGE_BYTES];
        padded[..bytes.len()].copy_from_slice(bytes);
        return hash_page(&padded);
    };
    if is_zero(page) {
        return ZERO_PAGE;
    }
    match XxHash3_128::oneshot(page) {
        ZERO_PAGE => 1,
        hash => hash,
    }
}

/// Most pages that are not zero say so in their first bytes.
fn is_zero(page: &[u8; PAGE_BYTES]) -> bool {
    const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
    page[..64] == ZEROS[..64] && *page == ZEROS
}

/// Hash the pages of a range of memory as they are now into the first of `into`. The range starts at a page, and
/// ends at one or at the memory's end.
///
/// # Errors
/// [`MemoryError::OutOfBounds`].
pub fn hash_pages(
    memory: &Mapping,
    range: Range<u64>,
    into: &mut [u128],
) -> Result<(), MemoryError> {
    for (at, hash) in range.clone().step_by(PAGE_BYTES).zip(into) {
        *hash = hash_page_in(memory, at, (range.end - at).min(PAGE_BYTES as u64))?;
    }
    Ok(())
}

/// The hash of the page at `at` as it is now, where it lies. It has `len_bytes`: fewer than [`PAGE_BYTES`] at the memory's end.
///
/// # Errors
/// [`MemoryError::OutOfBounds`].
pub(crate) fn hash_page_in(memory: &Mapping, at: u64, len_bytes: u64) -> Result<u128, MemoryError> {
    if let Some(hash) = tidegate_guestmem::hash_page(&memory.slice(at, len_bytes)?) {
        return Ok(hash);
    }
    let mut short = [0; PAGE_BYTES];
    let short = &mut short[..len_bytes as usize];
    memory.read(at, short)?;
    Ok(hash_page(short))
}

impl PageHashes {
    /// Of `size_bytes` zeros.
    #[must_use]
    pub fn zeros(size_bytes: u64) -> Self {
        let pages = size_bytes.div_ceil(PAGE_BYTES as u64);
        Self { hashes: vec![ZERO_PAGE; pages as usize], size_bytes }
    }

    /// Of all of a mapping as it is now.
    ///
    /// # Errors
    /// None that a mapping of its own size has.
    pub fn of(memory: &Mapping) -> Result<Self, MemoryError> {
        let mut hashes = Self::zeros(memory.size_bytes());
        hashes.update(memory, 0, 0..memory.size_bytes())?;
        Ok(hashes)
    }

    /// From hashes that were kept, one for each page.
    ///
    /// # Errors
    /// [`MemoryError::Damaged`] when there are more or fewer than `size_bytes` need.
    pub fn from_hashes(hashes: Vec<u128>, size_bytes: u64) -> Result<Self, MemoryError> {
        let needed = size_bytes.div_ceil(PAGE_BYTES as u64);
        if hashes.len() as u64 != needed {
            return Err(MemoryError::Damaged {
                what: "a list of page hashes",
                reason: format!("it has {} entries, {needed} are needed", hashes.len()),
            });
        }
        Ok(Self { hashes, size_bytes })
    }

    /// Bytes of the memory they are of.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Each page's, in order.
    #[must_use]
    pub fn hashes(&self) -> &[u128] {
        &self.hashes
    }

    /// Each page's, in order, to be changed.
    pub fn hashes_mut(&mut self) -> &mut [u128] {
        &mut self.hashes
    }

    /// Hash the pages of `range` of these hashes' memory, which begins at `base` of the mapping, as they are now.
    /// The range starts at a page, and ends at one or at the memory's end.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`].
    pub fn update(
        &mut self,
        memory: &Mapping,
        base: u64,
        range: Range<u64>,
    ) -> Result<(), MemoryError> {
        if range.end > self.size_bytes {
            return Err(MemoryError::OutOfBounds {
                path: memory.path().to_owned(),
                offset: range.start,
                len_bytes: range.end.saturating_sub(range.start),
                size_bytes: self.size_bytes,
            });
        }
        let first = (range.start / PAGE_BYTES as u64) as usize;
        let range = base + range.start..base + range.end;
        hash_pages(memory, range, &mut self.hashes[first..])?;
        Ok(())
    }

    /// The digest over all pages.
    #[must_use]
    pub fn digest(&self) -> Digest {
        digest_of(&self.hashes)
    }
}

/// The digest over some pages' hashes.
#[must_use]
pub fn digest_of(hashes: &[u128]) -> Digest {
    let mut digest = blake3::Hasher::new();
    let mut bytes = [0; GROUP * 16];
    for piece in hashes.chunks(GROUP) {
        for (place, hash) in bytes.chunks_exact_mut(16).zip(piece) {
            place.copy_from_slice(&hash.to_le_bytes());
        }
        digest.update(&bytes[..piece.len() * 16]);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_zero_for_zeros_only() {
        assert_eq!(hash_page(&[0; PAGE_BYTES]), ZERO_PAGE);
        assert_eq!(hash_page(&[0; 100]), ZERO_PAGE);
        let mut page = [0; PAGE_BYTES];
        page[PAGE_BYTES - 1] = 1;
        assert_ne!(hash_page(&page), ZERO_PAGE);
        let mut short = [0; PAGE_BYTES];
        short[..3].copy_from_slice(b"abc");
        assert_eq!(hash_page(b"abc"), hash_page(&short));
        // As others compute it.
        assert_eq!(hash_page(&page), XxHash3_128::oneshot(&page));
    }

    #[test]
    fn what_is_updated_is_as_if_hashed_anew() {
        let dir = tempfile::tempdir().expect("dir");
        let size = 48 * PAGE_BYTES as u64 + 5000;
        let memory = Mapping::create(&dir.path().join("m"), size).expect("create");
        let mut hashes = PageHashes::of(&memory).expect("hash");
        assert_eq!(hashes, PageHashes::zeros(size));
        let zeros = hashes.digest();
        memory.write(70_000, &[7; 9000]).expect("write");
        memory.write(size - 1, b"x").expect("write");
        hashes.update(&memory, 0, 17 * 4096..20 * 4096).expect("update");
        assert_ne!(hashes, PageHashes::of(&memory).expect("hash"));
        hashes.update(&memory, 0, 49 * 4096..size).expect("update");
        assert_eq!(hashes, PageHashes::of(&memory).expect("hash"));
        assert_ne!(hashes.digest(), zeros);
        assert!(hashes.update(&memory, 0, 0..size + 1).is_err());

        // A window into the memory.
        let mut window = PageHashes::zeros(8192);
        window.update(&memory, 17 * 4096, 0..8192).expect("update");
        assert_eq!(window.hashes(), &hashes.hashes()[17..19]);
        assert!(PageHashes::from_hashes(vec![0; 3], 8192).is_err());
    }
}
