//! Little-endian numbers in and out of byte buffers, every length checked.

/// Takes values off the front of a buffer.
pub(crate) struct Reader<'a>(&'a [u8]);

/// There are fewer bytes than the value needs.
#[derive(Debug)]
pub(crate) struct Short;

impl std::fmt::Display for Short {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("it ends in the middle of a value")
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Result<&'a [u8], Short> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Short)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Short> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }

    /// A length as a `usize`, which on every supported machine holds a `u32`.
    pub(crate) fn len(&mut self) -> Result<usize, Short> {
        self.u32().map(|len| len as usize)
    }

    /// A name: `u16` length, then UTF-8.
    pub(crate) fn name(&mut self) -> Result<&'a str, Short> {
        let len = usize::from(self.u16()?);
        std::str::from_utf8(self.bytes(len)?).map_err(|_| Short)
    }

    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }
}

/// Appends values to a buffer.
#[derive(Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Lengths come from checked or bounded data, far below 4 GiB.
    pub(crate) fn len(&mut self, len: usize) -> &mut Self {
        debug_assert!(u32::try_from(len).is_ok());
        self.u32(len as u32)
    }

    /// A name of at most 65535 bytes.
    pub(crate) fn name(&mut self, name: &str) -> &mut Self {
        debug_assert!(u16::try_from(name.len()).is_ok());
        self.u16(name.len() as u16).bytes(name.as_bytes())
    }
}
