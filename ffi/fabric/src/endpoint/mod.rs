//! An endpoint: memory that others may write into, memory to write from, and what has completed.

mod completion;
mod memory;
mod transfer;

use std::ffi::c_void;
use std::mem;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tidegate_fabric_sys as sys;
use vm_memory::MmapRegion;

use crate::address::{self, MAX_ADDRESS_BYTES};
use crate::info::Offer;
use crate::object::Owned;
use crate::{Errno, Error, Provider};

/// Most bytes of one write.
pub const MAX_WRITE_BYTES: u64 = 1 << 20;

/// Places in the completion queue: more than writes in flight, and arrivals between two polls.
const QUEUE_PLACES: usize = 2048;
/// Completions taken from the queue at once.
const BATCH: usize = 32;
/// How often the kernel is asked, while nothing completes, whether a peer's process lives.
const LOOK: Duration = Duration::from_millis(5);

/// A peer that takes nothing for this long, while something waits for it, is given up. Providers try
/// to reach one that is gone without end.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Memory of this side that may be written from: its number at the endpoint that gave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source(usize);

/// Another endpoint that this one knows: its number at the endpoint that gave it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(usize);

/// Memory of an endpoint that peers may write into: what they need to know of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The right to write.
    pub key: u64,
    /// What the transport calls the first byte.
    pub base: u64,
    /// Bytes.
    pub len: u64,
}

/// One write.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Bytes of this side,
    pub source: Source,
    /// from here on,
    pub from: u64,
    /// so many, 1 to [`MAX_WRITE_BYTES`].
    pub len: u64,
    /// Who gets them,
    pub peer: Peer,
    /// into which memory,
    pub to: &'a Window,
    /// and where in it.
    pub at: u64,
    /// What the peer is told when they are there.
    pub data: u32,
    /// What this side is told when the source is needed no more.
    pub id: u64,
}

/// One message, into one of the places that the peer has for messages ([`Endpoint::receive_into`]).
#[derive(Clone, Copy, Debug)]
pub struct Message {
    /// Bytes of this side,
    pub source: Source,
    /// from here on,
    pub from: u64,
    /// so many, 1 to the size of the peer's places.
    pub len: u64,
    /// Who gets them.
    pub peer: Peer,
    /// What this side is told when the source is needed no more.
    pub id: u64,
}

/// What a poll found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A write or a message of this side has left: its source is needed no more.
    Sent {
        /// Its number.
        id: u64,
    },
    /// A write of a peer is in this side's memory.
    Arrived {
        /// What the peer sent with it.
        data: u32,
    },
    /// A message of a peer is in one of the places for them, which is then this side's until
    /// [`Endpoint::give_back`].
    Received {
        /// Which place.
        place: u64,
        /// Length of the message.
        len: u64,
    },
}

/// An open endpoint with all that hangs on it. One thread at a time uses it.
#[derive(Debug)]
pub struct Endpoint {
    provider: Provider,
    offer: Offer,
    address: Vec<u8>,
    in_flight: usize,
    peers: Vec<Known>,
    /// When the kernel was last asked about the peers' processes.
    looked: Instant,
    /// Since when something waits and nothing of this side has left.
    waits_since: Option<Instant>,
    /// Where messages go.
    places: Option<Places>,
    // From here on in the order in which they are closed; see `Drop`.
    ep: Owned<sys::fid_ep>,
    registered: Vec<Registered>,
    av: Owned<sys::fid_av>,
    cq: Owned<sys::fid_cq>,
    domain: Owned<sys::fid_domain>,
    _fabric: Owned<sys::fid_fabric>,
}

// SAFETY: libfabric's objects belong to no thread; every use of one domain's objects has to be serial
// (FI_THREAD_DOMAIN, fi_domain(3)). The domain is this endpoint's own, and all calls take `&mut self` or `self`.
unsafe impl Send for Endpoint {}

/// Memory that the transport may reach, and its registration where the provider wants one.
#[derive(Debug)]
struct Registered {
    mr: Option<Owned<sys::fid_mr>>,
    memory: Arc<MmapRegion>,
}

/// The places for messages: equal parts of one registered memory.
#[derive(Clone, Copy, Debug)]
struct Places {
    memory: Source,
    bytes: u64,
}

impl Registered {
    /// What the provider wants to see with each use of the memory here.
    fn desc(&self) -> *mut c_void {
        // SAFETY: the registration is open.
        self.mr.as_ref().map_or(ptr::null_mut(), |mr| unsafe { sys::tg_fi_mr_desc(mr.get()) })
    }
}

#[derive(Debug)]
struct Known {
    address: u64,
    /// With `shm`: the process, and the kernel's handle of it.
    process: Option<(i32, OwnedFd)>,
}

impl Endpoint {
    /// Open one that peers reach at `local`, an address of this host on the network that is to carry the
    /// bytes. `shm` takes no notice of it.
    ///
    /// # Errors
    /// [`Error::Missing`] when the provider is not there, [`Error::Call`].
    pub fn open(provider: Provider, local: IpAddr) -> Result<Self, Error> {
        let info =
            provider.info(Some(local)).map_err(|missing| Error::Missing { provider, missing })?;
        let offer = info.offer();
        let call = |call: &'static str, answer: i32| match answer {
            0 => Ok(()),
            answer => Err(Error::Call { provider, call, errno: Errno::of(answer) }),
        };
        let mut cq_attr = sys::fi_cq_attr {
            size: QUEUE_PLACES,
            format: sys::FI_CQ_FORMAT_DATA,
            wait_obj: sys::FI_WAIT_NONE,
            ..Default::default()
        };
        let mut av_attr = sys::fi_av_attr { type_: sys::FI_AV_TABLE, ..Default::default() };
        let (attr, info) = (info.fabric(), info.get());
        // SAFETY: of all calls in this block: the library is loaded, for `info` exists, and `info` outlives them; objects
        // passed are open, for their `Owned` live; each opening call writes an object of its own or fails.
        // Locals are dropped in reverse order, so that what was opened is closed rightly on an error.
        let (fabric, domain, cq, av, ep) = unsafe {
            let fabric = Owned::open(provider, |new| sys::tg_fi_fabric(attr, new))?;
            let domain = Owned::open(provider, |new| sys::tg_fi_domain(fabric.get(), info, new))?;
            let cq = Owned::open(provider, |new| {
                sys::tg_fi_cq_open(domain.get(), &raw mut cq_attr, new)
            })?;
            let av = Owned::open(provider, |new| {
                sys::tg_fi_av_open(domain.get(), &raw mut av_attr, new)
            })?;
            let ep = Owned::open(provider, |new| sys::tg_fi_endpoint(domain.get(), info, new))?;
            let both = u64::from(sys::FI_TRANSMIT | sys::FI_RECV);
            call("fi_ep_bind", sys::tg_fi_bind_cq(ep.get(), cq.get(), both))?;
            call("fi_ep_bind", sys::tg_fi_bind_av(ep.get(), av.get()))?;
            call("fi_enable", sys::tg_fi_enable(ep.get()))?;
            (fabric, domain, cq, av, ep)
        };
        let mut endpoint = Self {
            provider,
            offer,
            address: vec![0; MAX_ADDRESS_BYTES],
            in_flight: 0,
            peers: Vec::new(),
            looked: Instant::now(),
            waits_since: None,
            places: None,
            ep,
            registered: Vec::new(),
            av,
            cq,
            domain,
            _fabric: fabric,
        };
        let mut len = endpoint.address.len();
        let room = endpoint.address.as_mut_ptr().cast();
        // SAFETY: the endpoint is open and enabled, and the buffer has the room that is said.
        call("fi_getname", unsafe { sys::tg_fi_getname(endpoint.ep.get(), room, &raw mut len) })?;
        endpoint.address.truncate(len);
        Ok(endpoint)
    }

    /// The provider.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// What a peer needs for [`Endpoint::connect`].
    #[must_use]
    pub fn address(&self) -> &[u8] {
        &self.address
    }

    /// Writes and messages that may be in flight at once.
    #[must_use]
    pub fn most_in_flight(&self) -> usize {
        self.offer.most_in_flight
    }

    /// Allow fewer at once.
    pub fn limit_in_flight(&mut self, most: usize) {
        self.offer.most_in_flight = self.offer.most_in_flight.min(most.max(1));
    }

    /// Writes and messages in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Make a peer known, by what its [`Endpoint::address`] said. With `shm`, also watch its process from now on;
    /// a target does this, too, though it writes nothing.
    ///
    /// # Errors
    /// [`Error::Address`] when it is no address of this provider, or, with `shm`, one of this same process;
    /// [`Error::PeerGone`], [`Error::Call`].
    pub fn connect(&mut self, address: &[u8]) -> Result<Peer, Error> {
        let provider = self.provider;
        address::check(provider, self.offer.address_format, address)?;
        let process = match address::process_of(address) {
            Some(pid) if provider == Provider::Shm => Some((pid, watch(provider, pid)?)),
            _ => None,
        };
        if process.as_ref().is_some_and(|(pid, _)| pid.cast_unsigned() == std::process::id()) {
            // Two endpoints of one process share one mapping of each queue, and closing one takes it from the other.
            let reason = "it is of this process, and shm is for two".to_owned();
            return Err(Error::Address { provider, reason });
        }
        let mut known = u64::MAX;
        // SAFETY: the address vector is open; the bytes are a whole address of its format (checked), and the call copies
        // them.
        let taken =
            unsafe { sys::tg_fi_av_insert(self.av.get(), address.as_ptr().cast(), &raw mut known) };
        if taken != 1 || known == u64::MAX {
            let errno = if taken < 0 { Errno::of(taken) } else { Errno::EINVAL };
            return Err(self.failed("fi_av_insert", errno));
        }
        self.peers.push(Known { address: known, process });
        Ok(Peer(self.peers.len() - 1))
    }

    fn failed(&self, call: &'static str, errno: Errno) -> Error {
        Error::Call { provider: self.provider, call, errno }
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // First the endpoint: what is in flight ends. Then the registrations, and only then their memory.
        let mut closed = self.ep.close();
        for registered in &mut self.registered {
            closed &= registered.mr.as_mut().is_none_or(Owned::close);
        }
        if !closed {
            // The transport may still reach this memory: it stays mapped as long as the process lives.
            for registered in self.registered.drain(..) {
                mem::forget(registered.memory);
            }
        }
        // The other fields follow in their order.
    }
}

fn watch(provider: Provider, pid: i32) -> Result<OwnedFd, Error> {
    let gone = || Error::PeerGone { provider, pid };
    pidfd_open(Pid::from_raw(pid).ok_or_else(gone)?, PidfdFlags::empty()).map_err(|_| gone())
}
