//! What a copy consists of: objects, cut into sections.

use crate::{
    MemoryError, Object, copy::MAX_SECTIONS, transport::MAX_PIECE_BYTES, transport::Piece,
};

/// Bytes of every section but an object's last.
pub const SECTION_BYTES: u64 = 64 << 20;

/// The objects of a copy in their order. Sections are numbered through all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    objects: Vec<Object>,
    /// Number of each object's first section.
    firsts: Vec<u32>,
    sections: u32,
}

/// A part of an object that is committed by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Section {
    /// Its number in the layout.
    pub number: u32,
    /// Index of its object.
    pub object: usize,
    /// Where it begins in the object.
    pub offset: u64,
    /// Its length, never zero.
    pub len_bytes: u64,
}

impl Layout {
    /// A layout of objects that are not empty.
    ///
    /// # Errors
    /// [`MemoryError::Protocol`] when they are more than a copy can have.
    pub fn new(objects: Vec<Object>) -> Result<Self, MemoryError> {
        let mut firsts = Vec::with_capacity(objects.len());
        let mut sections = 0_u64;
        for object in &objects {
            firsts.push(sections as u32);
            sections = sections.saturating_add(object.size_bytes.div_ceil(SECTION_BYTES));
            if sections > u64::from(MAX_SECTIONS) {
                return Err(MemoryError::Protocol(format!(
                    "the objects have more than {MAX_SECTIONS} sections of {SECTION_BYTES} bytes"
                )));
            }
        }
        Ok(Self { objects, firsts, sections: sections as u32 })
    }

    /// The objects.
    #[must_use]
    pub fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// Bytes of all objects.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.size_bytes).sum()
    }

    /// Number of sections.
    #[must_use]
    pub fn sections(&self) -> u32 {
        self.sections
    }

    /// The section of this number, if there is one.
    #[must_use]
    pub fn section(&self, number: u32) -> Option<Section> {
        if number >= self.sections {
            return None;
        }
        // The first object's first is 0, so there is one before.
        let object = self.firsts.partition_point(|first| *first <= number) - 1;
        let offset = u64::from(number - self.firsts[object]) * SECTION_BYTES;
        let len_bytes = (self.objects[object].size_bytes - offset).min(SECTION_BYTES);
        Some(Section { number, object, offset, len_bytes })
    }

    /// The section a piece lies in.
    ///
    /// # Errors
    /// [`MemoryError::Protocol`] when it is not a piece of one section.
    pub fn section_of(&self, piece: Piece) -> Result<Section, MemoryError> {
        let Piece { object: index, offset, len_bytes } = piece;
        let wrong = |how: String| {
            Err(MemoryError::Protocol(format!(
                "{len_bytes} bytes at {offset} of object {index}: {how}"
            )))
        };
        let Some(object) = self.objects.get(index) else {
            return wrong(format!("there are {} objects", self.objects.len()));
        };
        let page = crate::mapping::PAGE_BYTES as u64;
        if offset % page != 0 {
            return wrong("they do not start at a page".to_owned());
        }
        let end = offset.checked_add(len_bytes).filter(|end| *end <= object.size_bytes);
        let Some(end) = end else {
            return wrong(format!("it has {} bytes", object.size_bytes));
        };
        if len_bytes == 0 || len_bytes > MAX_PIECE_BYTES {
            return wrong(format!("1 to {MAX_PIECE_BYTES} are allowed"));
        }
        if end % page != 0 && end != object.size_bytes {
            return wrong("they do not end at a page".to_owned());
        }
        if offset / SECTION_BYTES != (end - 1) / SECTION_BYTES {
            return wrong("they lie in two sections".to_owned());
        }
        let number = self.firsts[index] + (offset / SECTION_BYTES) as u32;
        self.section(number).map_or_else(|| wrong("there is no such section".to_owned()), Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ObjectKind;

    fn layout() -> Layout {
        let object = |kind, size_bytes| Object { kind, size_bytes };
        Layout::new(vec![
            object(ObjectKind::Ram, 2 * SECTION_BYTES + 4096),
            object(ObjectKind::DeviceState, 5001),
        ])
        .expect("layout")
    }

    #[test]
    fn sections_are_numbered_through() {
        let layout = layout();
        assert_eq!(layout.sections(), 4);
        let last = layout.section(2).expect("section");
        assert_eq!((last.object, last.offset, last.len_bytes), (0, 2 * SECTION_BYTES, 4096));
        let state = layout.section(3).expect("section");
        assert_eq!((state.object, state.offset, state.len_bytes), (1, 0, 5001));
        assert_eq!(layout.section(4), None);
    }

    #[test]
    fn pieces_are_whole_pages_of_one_section() {
        let layout = layout();
        let of = |object, offset, len_bytes| layout.section_of(Piece { object, offset, len_bytes });
        assert_eq!(of(0, SECTION_BYTES, 4096).expect("piece").number, 1);
        assert_eq!(of(1, 4096, 905).expect("to the end").number, 3);
        for (object, offset, len) in [
            (2, 0, 4096),
            (0, 1, 4096),
            (0, 0, 0),
            (0, 0, 100),
            (1, 0, 5002),
            (1, 4096, 904),
            (0, u64::MAX - 4095, 4096),
            (0, SECTION_BYTES - 4096, 8192),
            (0, 0, MAX_PIECE_BYTES + 4096),
        ] {
            assert!(of(object, offset, len).is_err(), "{object} {offset} {len}");
        }
    }
}
