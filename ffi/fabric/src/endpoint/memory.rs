//! Memory of an endpoint: what peers may write into, what is written from, where messages go.

use std::fs::File;
use std::io::Read as _;
use std::sync::Arc;

use tidegate_fabric_sys as sys;
use vm_memory::MmapRegion;

use super::{Endpoint, Places, Registered, Source, Window};
use crate::object::Owned;
use crate::{Errno, Error};

impl Endpoint {
    /// Let peers that know the window write anywhere into this memory, until the endpoint is dropped.
    ///
    /// # Errors
    /// [`Error::Register`] when the provider cannot, for instance because so much may not be pinned.
    pub fn expose(&mut self, memory: Arc<MmapRegion>) -> Result<Window, Error> {
        let mr = self.register(&memory, sys::FI_REMOTE_WRITE)?;
        // SAFETY: the registration is open.
        let key = unsafe { sys::tg_fi_mr_key(mr.get()) };
        let by_address = self.offer.mr_mode & sys::FI_MR_VIRT_ADDR != 0;
        let base = if by_address { memory.as_ptr().addr() as u64 } else { 0 };
        let window = Window { key, base, len: memory.size() as u64 };
        self.registered.push(Registered { mr: Some(mr), memory });
        Ok(window)
    }

    /// Make memory a source of writes and messages, until the endpoint is dropped.
    ///
    /// # Errors
    /// [`Error::Register`] when the provider wants it registered and cannot.
    pub fn attach(&mut self, memory: Arc<MmapRegion>) -> Result<Source, Error> {
        self.use_locally(memory, sys::FI_WRITE | sys::FI_SEND)
    }

    /// Let messages of peers go to this memory, which is cut into places of `place_bytes`. Once for an endpoint.
    ///
    /// # Errors
    /// [`Error::Register`], [`Error::Call`].
    pub fn receive_into(&mut self, memory: Arc<MmapRegion>, place_bytes: u64) -> Result<(), Error> {
        let places = (memory.size() as u64).checked_div(place_bytes).unwrap_or(0);
        if self.places.is_some() || places == 0 {
            return Err(self.failed("fi_recv", Errno::EINVAL));
        }
        let memory = self.use_locally(memory, sys::FI_RECV)?;
        self.places = Some(Places { memory, bytes: place_bytes });
        (0..places).try_for_each(|place| self.give_back(place))
    }

    /// Memory that only this side names, registered if the provider wants that.
    fn use_locally(&mut self, memory: Arc<MmapRegion>, access: u32) -> Result<Source, Error> {
        let wanted = self.offer.mr_mode & sys::FI_MR_LOCAL != 0;
        let mr = wanted.then(|| self.register(&memory, access)).transpose()?;
        self.registered.push(Registered { mr, memory });
        Ok(Source(self.registered.len() - 1))
    }

    fn register(&mut self, memory: &MmapRegion, access: u32) -> Result<Owned<sys::fid_mr>, Error> {
        let (provider, len) = (self.provider, memory.size());
        let provider_chooses = self.offer.mr_mode & sys::FI_MR_PROV_KEY != 0;
        let key = if provider_chooses { 0 } else { random_key()? };
        let domain = self.domain.get();
        // SAFETY: the domain is open; the region is mapped for `len` bytes and stays so while the registration
        // lives: the caller keeps a share of it beside the registration (see `Drop`). The mapping is all that the
        // provider is promised: whoever else reads or writes it does so volatile (vm-memory).
        let mr = Owned::open(provider, |new| unsafe {
            sys::tg_fi_mr_reg(domain, memory.as_ptr().cast(), len, u64::from(access), key, new)
        });
        mr.map_err(|error| match error {
            Error::Call { errno, .. } => Error::Register { provider, len: len as u64, errno },
            other => other,
        })
    }
}

/// A key that cannot be guessed: with some providers it is all that guards the memory.
fn random_key() -> Result<u64, Error> {
    let mut bytes = [0; 8];
    let mut random = File::open("/dev/urandom").map_err(Error::Random)?;
    random.read_exact(&mut bytes).map_err(Error::Random)?;
    Ok(u64::from_ne_bytes(bytes))
}
