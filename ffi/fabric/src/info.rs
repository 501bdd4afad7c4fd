//! What a provider offers: `fi_info`, asked for with our hints.

use std::ffi::CString;
use std::net::IpAddr;
use std::ptr::{self, NonNull};

use tidegate_fabric_sys as sys;

use crate::{Errno, Provider, library::Library};

/// Ways of registering memory that we can follow. The provider answers with those that it needs.
const MR_MODES: u32 =
    sys::FI_MR_LOCAL | sys::FI_MR_VIRT_ADDR | sys::FI_MR_ALLOCATED | sys::FI_MR_PROV_KEY;
/// Bytes of data with a write: all providers can do that many.
const DATA_BYTES: usize = 4;

/// An owned list of `fi_info`, not empty; the first is what we use.
#[derive(Debug)]
pub(crate) struct Info(NonNull<sys::fi_info>);

/// What of it matters after the endpoint is open.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Offer {
    pub(crate) mr_mode: u32,
    pub(crate) address_format: u32,
    pub(crate) most_in_flight: usize,
}

impl Info {
    /// Ask. `local` is this host's address to be reached at; `shm` needs none.
    pub(crate) fn ask(
        _: Library,
        provider: Provider,
        local: Option<IpAddr>,
    ) -> Result<Self, Errno> {
        let hints = hints(provider)?;
        let node = local.filter(|_| provider.has_ip()).map(|ip| ip.to_string());
        let node = node.and_then(|node| CString::new(node).ok());
        let flags = node.as_ref().map_or(0, |_| sys::FI_SOURCE | sys::FI_NUMERICHOST);
        let node = node.as_ref().map_or(ptr::null(), |node| node.as_ptr());
        let mut found = ptr::null_mut();
        // SAFETY: the library is loaded; node is null or a C string that outlives the call, hints are allocated
        // by the library, and it writes a list, which is ours, or leaves null.
        let answer = unsafe { sys::tg_fi_getinfo(node, flags, hints.0.as_ptr(), &raw mut found) };
        match NonNull::new(found) {
            Some(found) if answer == 0 => Ok(Self(found)),
            _ => Err(Errno::of(answer)),
        }
    }

    /// For calls that borrow it.
    pub(crate) fn get(&self) -> *mut sys::fi_info {
        self.0.as_ptr()
    }

    /// The attributes to open the fabric with.
    pub(crate) fn fabric(&self) -> *mut sys::fi_fabric_attr {
        // SAFETY: the library made it, with all its parts (fi_getinfo(3)), and `self` owns it.
        unsafe { self.0.as_ref() }.fabric_attr
    }

    pub(crate) fn offer(&self) -> Offer {
        // SAFETY: as in `fabric`: all parts are there and live as long as `self`; they are copied out.
        unsafe {
            let info = self.0.as_ref();
            let domain = &*info.domain_attr;
            Offer {
                mr_mode: domain.mr_mode.cast_unsigned(),
                address_format: info.addr_format,
                most_in_flight: (*info.tx_attr).size,
            }
        }
    }
}

impl Drop for Info {
    fn drop(&mut self) {
        // SAFETY: the library made it and nobody has freed it.
        unsafe { sys::tg_fi_freeinfo(self.0.as_ptr()) };
    }
}

/// What we need of any provider.
fn hints(provider: Provider) -> Result<Info, Errno> {
    // SAFETY: the library is loaded (the caller holds the proof); it allocates or answers null.
    let info = NonNull::new(unsafe { sys::tg_fi_allocinfo() }).ok_or(Errno::ENOMEM)?;
    let owned = Info(info);
    let name = CString::new(provider.name()).map_err(|_| Errno::ENODATA)?;
    // SAFETY: `fi_allocinfo` allocates the structure with all its parts, and nobody else has it. The name is
    // allocated by `strdup`, because `fi_freeinfo` frees it.
    unsafe {
        let info = owned.get();
        let writes = sys::FI_RMA | sys::FI_WRITE | sys::FI_REMOTE_WRITE;
        (*info).caps = u64::from(writes | sys::FI_MSG | sys::FI_SEND | sys::FI_RECV);
        (*(*info).ep_attr).type_ = sys::FI_EP_RDM;
        let domain = (*info).domain_attr;
        (*domain).mr_mode = MR_MODES.cast_signed();
        (*domain).cq_data_size = DATA_BYTES;
        // An endpoint has a domain of its own and is used through `&mut`: no locks are needed.
        (*domain).threading = sys::FI_THREAD_DOMAIN;
        (*domain).data_progress = sys::FI_PROGRESS_MANUAL;
        (*domain).control_progress = sys::FI_PROGRESS_MANUAL;
        (*domain).resource_mgmt = sys::FI_RM_ENABLED;
        (*(*info).fabric_attr).prov_name = sys::tg_fi_strdup(name.as_ptr());
    }
    Ok(owned)
}
