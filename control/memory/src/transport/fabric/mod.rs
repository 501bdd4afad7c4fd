//! Guest bytes by one-sided writes over libfabric: RDMA hardware, TCP sockets, or memory of one machine.
//!
//! The receiver's files are mapped and exposed; the sender writes out of its own mapping straight into them,
//! up to 1 MiB at a time and 16 MiB in flight. Pieces too small to be worth a write of their own, and zeros, are
//! packed into messages ([`packed`]), which the receiver unpacks.
//!
//! There is one lane. Its writes and messages are numbered; a write's number comes with it as completion data. The
//! lane's count is of those that have arrived without a gap, which only the receiver can say: no reliance on what a
//! completion at the sender means. A message and a write may overtake each other, so a page is put once between
//! two marks that are waited for, as the [copy](crate::copy) does it.
//!
//! Nothing is encrypted, and no end is authenticated but by the offer that came over the control stream.
//!
//! | offset in the offer | bytes | what |
//! |---|---|---|
//! | 0 | 2 | version of this, 1 |
//! | 2 | 2 | length of the endpoint's address, 1 to 128 |
//! | 4 | 4 | number of windows: one for each object |
//! | 8 | 16 | the machine, for `shm` |
//! | 24 | | the address |
//! | | 24 each | windows: key (8), base (8), length (8) |

mod arrivals;
mod choose;
mod lane;
mod offer;
mod packed;

use std::{
    net::{IpAddr, UdpSocket},
    sync::Arc,
};

use tidegate_fabric::{Endpoint, Error, Provider, ip_of};

use crate::{
    Mapping, MemoryError,
    copy::ground::Ground,
    transport::{Arrivals, Lane, Transport},
};

pub use choose::{Candidates, Encryption, Situation, Wanted, candidates};

use arrivals::Arriving;
use lane::FabricLane;
use offer::{Offer, this_machine};

/// Writes in flight: enough for the way's length, and few enough that a cap or a cancellation is felt.
const IN_FLIGHT: usize = 16;

/// How far in front of the first that is missing a number may arrive.
const OUT_OF_ORDER: u32 = 1024;

/// What a data path over a provider is called.
#[must_use]
pub fn name_of(provider: Provider) -> String {
    format!("fabric:{}", provider.name())
}

/// The sending end.
pub struct FabricSender {
    /// The way.
    pub provider: Provider,
    /// The receiver, as its control stream was reached: nowhere else do bytes go.
    pub peer: IpAddr,
}

/// The receiving end.
pub struct FabricReceiver {
    /// The way.
    pub provider: Provider,
    /// This host's address on the network that carries the bytes.
    pub local: IpAddr,
}

/// The receiving ends that a host has, which is reached at `local`. Those that senders take by themselves are there only if they
/// can be used; the others say what is missing when they are asked for.
#[must_use]
pub fn receivers(local: IpAddr) -> Vec<Arc<dyn Transport>> {
    let usable =
        |provider: &Provider| *provider != Provider::Verbs || provider.probe(Some(local)).is_ok();
    let receiver = |provider| Arc::new(FabricReceiver { provider, local }) as Arc<dyn Transport>;
    Provider::ALL.into_iter().filter(usable).map(receiver).collect()
}

impl Transport for FabricSender {
    fn name(&self) -> String {
        name_of(self.provider)
    }

    fn is_encrypted(&self) -> bool {
        false
    }

    fn connect(
        &self,
        offer: &[u8],
        memory: &[Option<Arc<Mapping>>],
    ) -> Result<Vec<Box<dyn Lane>>, MemoryError> {
        let memory: Option<Vec<_>> = memory.iter().cloned().collect();
        let memory = memory.ok_or_else(|| MemoryError::DataPath {
            path: self.name(),
            reason: "it takes memory that stays where it is, and there is none; take tcp"
                .to_owned(),
        })?;
        let offer = Offer::parse(offer, &memory)?;
        self.check_where(&offer)?;
        let local = local_towards(self.peer)?;
        let mut endpoint =
            Endpoint::open(self.provider, local).map_err(|error| cannot(self.provider, error))?;
        endpoint.limit_in_flight(IN_FLIGHT);
        let peer = endpoint.connect(&offer.address).map_err(broken("reaching the receiver"))?;
        let lane = FabricLane::new(endpoint, peer, offer.windows, &memory)?;
        Ok(vec![Box::new(lane)])
    }

    fn accept(&self, _: &Arc<Ground>) -> Result<Box<dyn Arrivals>, MemoryError> {
        Err(MemoryError::Protocol("this end of a data path only sends".to_owned()))
    }
}

impl FabricSender {
    /// The offer leads to where the control stream does.
    fn check_where(&self, offer: &Offer) -> Result<(), MemoryError> {
        if !self.provider.has_ip() {
            if offer.machine != this_machine()? {
                let reason =
                    "the receiver is on another machine, or in another container".to_owned();
                return Err(MemoryError::DataPath { path: self.name(), reason });
            }
            return Ok(());
        }
        let ip = ip_of(self.provider, &offer.address)
            .map_err(|error| MemoryError::Protocol(error.to_string()))?;
        if ip.to_canonical() != self.peer.to_canonical() {
            return Err(MemoryError::Protocol(format!(
                "the receiver was reached at {}, and offers to take memory at {ip}",
                self.peer
            )));
        }
        Ok(())
    }
}

impl Transport for FabricReceiver {
    fn name(&self) -> String {
        name_of(self.provider)
    }

    fn is_encrypted(&self) -> bool {
        false
    }

    fn connect(
        &self,
        _: &[u8],
        _: &[Option<Arc<Mapping>>],
    ) -> Result<Vec<Box<dyn Lane>>, MemoryError> {
        Err(MemoryError::Protocol("this end of a data path only receives".to_owned()))
    }

    fn accept(&self, ground: &Arc<Ground>) -> Result<Box<dyn Arrivals>, MemoryError> {
        for file in ground.files() {
            // Nobody asks before a write lands: a hole of a full file system must not be met then.
            file.make_room(0, file.size_bytes())?;
        }
        let path = |error| cannot(self.provider, error);
        let mut endpoint = Endpoint::open(self.provider, self.local).map_err(path)?;
        let windows = ground.files().iter().map(|file| endpoint.expose(file.region()));
        let windows = windows.collect::<Result<Vec<_>, _>>().map_err(path)?;
        let address = endpoint.address().to_vec();
        let offer = Offer { address, machine: this_machine()?, windows }.encode()?;
        Ok(Box::new(Arriving::start(endpoint, ground.clone(), offer)?))
    }
}

/// Why a path cannot be taken at all.
fn cannot(provider: Provider, error: Error) -> MemoryError {
    MemoryError::DataPath { path: name_of(provider), reason: error.to_string() }
}

/// A path that was taken has broken.
fn broken(during: &'static str) -> impl Fn(Error) -> MemoryError {
    move |error| MemoryError::connection(during)(std::io::Error::other(error))
}

/// This host's address from which it reaches a peer. Nothing is sent.
fn local_towards(peer: IpAddr) -> Result<IpAddr, MemoryError> {
    let any = if peer.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let found = UdpSocket::bind(any).and_then(|socket| {
        // The port means nothing.
        socket.connect((peer, 9))?;
        socket.local_addr()
    });
    Ok(found.map_err(MemoryError::connection("looking for the way to the receiver"))?.ip())
}
