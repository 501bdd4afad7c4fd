//! What the kernel knows of routes and neighbours, told as it changes.

use std::{
    collections::{HashMap, HashSet},
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_CREATE, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia},
};
use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
};
use tidegate_dataplane::{
    packet::Mac,
    steering::{IpPrefix, NextHop, PortId},
};

use super::{Change, KernelError, KernelRoute, netlink::Netlink};

/// Groups of rtnetlink(7): links, neighbours, addresses, routes, next hops.
const GROUPS: [u32; 7] = [1, 3, 5, 7, 9, 11, 32];
/// Changes that come within this time are told together.
const GATHER: Duration = Duration::from_micros(500);
const WHAT: &str = "following the kernel";
/// How often stale neighbours are asked whether they are there.
const REFRESH: Duration = Duration::from_secs(5);
/// So many of them at once.
const REFRESHED: usize = 2048;

/// A port and the kernel's interface for it: a twin, or a VLAN interface on one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirroredPort {
    /// The port.
    pub port: PortId,
    /// The interface's name.
    pub interface: String,
}

/// The running mirror. Dropping it ends it.
pub struct Mirror {
    wanted: mpsc::Sender<(PortId, IpAddr)>,
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Mirror {
    /// Follow the kernel from now on: what there is, and then each change, is given to `tell` in batches.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel cannot be asked.
    pub fn start(
        ports: &[MirroredPort],
        tell: impl FnMut(Vec<Change>) + Send + 'static,
    ) -> Result<Self, KernelError> {
        let (wanted, wants) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let failed = |source| KernelError::Netlink { what: "starting the mirror", source };
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(eventfd(0, flags).map_err(|error| failed(error.into()))?);
        let told = (wants, Arc::clone(&stop), Arc::clone(&wake));
        let mut follower = Follower::new(ports, Box::new(tell), told)?;
        follower.read_all()?;
        follower.give();
        let run = move || follower.run();
        let spawned = thread::Builder::new().name("kernel-mirror".to_owned()).spawn(run);
        Ok(Self { wanted, stop, wake, thread: Some(spawned.map_err(failed)?) })
    }

    /// Have the kernel find this neighbour. Not more than once in a while for each: the caller sees to that.
    pub fn find(&self, port: PortId, address: IpAddr) {
        // A mirror that has ended has said why.
        let _ = self.wanted.send((port, address));
        self.wake();
    }

    fn wake(&self) {
        // It cannot be full, and if it were the mirror would wake up all the same.
        let _ = rustix::io::write(&*self.wake, &1u64.to_ne_bytes());
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // Its panic, if it had one, is on record.
            let _ = thread.join();
        }
    }
}

/// The mirror's thread.
struct Follower {
    events: Netlink,
    requests: Netlink,
    ports: HashMap<String, PortId>,
    tell: Box<dyn FnMut(Vec<Change>) + Send>,
    wants: mpsc::Receiver<(PortId, IpAddr)>,
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    /// Ports by interface index.
    interfaces: HashMap<u32, PortId>,
    routes: HashMap<IpPrefix, KernelRoute>,
    neighbours: HashMap<(PortId, IpAddr), Mac>,
    stale: HashSet<(PortId, IpAddr)>,
    changes: Vec<Change>,
    refreshed_at: Instant,
}

/// What the mirror's owner tells it: neighbours to find, to end, and that there is something of either.
type Told = (mpsc::Receiver<(PortId, IpAddr)>, Arc<AtomicBool>, Arc<OwnedFd>);

/// What has to be read again.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Again {
    routes: bool,
    everything: bool,
}

impl Follower {
    fn new(
        ports: &[MirroredPort],
        tell: Box<dyn FnMut(Vec<Change>) + Send>,
        (wants, stop, wake): Told,
    ) -> Result<Self, KernelError> {
        // Heard before read, so that nothing falls between.
        let events = Netlink::open(&GROUPS)?;
        let failed = |source| KernelError::Netlink { what: "a netlink socket", source };
        events.set_waiting(false).map_err(failed)?;
        Ok(Self {
            events,
            requests: Netlink::open(&[])?,
            ports: ports.iter().map(|it| (it.interface.clone(), it.port)).collect(),
            tell,
            wants,
            stop,
            wake,
            interfaces: HashMap::new(),
            routes: HashMap::new(),
            neighbours: HashMap::new(),
            stale: HashSet::new(),
            changes: Vec::new(),
            refreshed_at: Instant::now(),
        })
    }

    fn run(mut self) {
        while !self.stop.load(Relaxed) {
            if let Err(error) = self.round() {
                tracing::error!(%error, "the kernel's routes are not followed; trying again");
                thread::sleep(Duration::from_secs(1));
                // Whatever was missed is found by reading everything.
                if let Err(error) = self.read_all() {
                    tracing::error!(%error, "the kernel's routes cannot be read");
                }
            }
            self.give();
        }
    }

    fn round(&mut self) -> Result<(), KernelError> {
        self.wait()?;
        let mut again = self.hear()?;
        if again != Again::default() || !self.changes.is_empty() {
            thread::sleep(GATHER);
            let more = self.hear()?;
            again.routes |= more.routes;
            again.everything |= more.everything;
        }
        if again.everything {
            self.read_all()?;
        } else if again.routes {
            self.read_routes()?;
        }
        while let Ok((port, address)) = self.wants.try_recv() {
            self.use_neighbour(port, address);
        }
        if self.refreshed_at.elapsed() > REFRESH {
            self.refreshed_at = Instant::now();
            let stale: Vec<_> = self.stale.iter().take(REFRESHED).copied().collect();
            stale.into_iter().for_each(|(port, address)| self.use_neighbour(port, address));
        }
        Ok(())
    }

    fn give(&mut self) {
        if !self.changes.is_empty() {
            (self.tell)(std::mem::take(&mut self.changes));
        }
    }

    /// Until something has happened, is wanted, or is due.
    fn wait(&self) -> Result<(), KernelError> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.events.fd(), PollFlags::IN),
            PollFd::new(&*self.wake, PollFlags::IN),
        ];
        let refresh = Timespec { tv_sec: REFRESH.as_secs() as i64, tv_nsec: 0 };
        match poll(&mut fds, Some(&refresh)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(KernelError::Netlink { what: WHAT, source: error.into() }),
        }
        // Whether it was told anything is in the other two of what it is told by.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        Ok(())
    }

    /// Take in what has happened.
    fn hear(&mut self) -> Result<Again, KernelError> {
        let failed = |source| KernelError::Netlink { what: WHAT, source };
        let mut again = Again::default();
        loop {
            match self.events.read() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(again),
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => {
                    tracing::warn!(
                        "the kernel has told more than could be heard; reading all again"
                    );
                    again.everything = true;
                    continue;
                }
                Err(error) => return Err(failed(error)),
            }
            let mut heard = Vec::new();
            self.events.messages(WHAT, |payload| {
                if let NetlinkPayload::InnerMessage(message) = payload {
                    heard.push(message);
                }
                Ok(())
            })?;
            for message in heard {
                match message {
                    RouteNetlinkMessage::NewNeighbour(it) => self.neighbour(&it, true),
                    RouteNetlinkMessage::DelNeighbour(it) => self.neighbour(&it, false),
                    RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => {
                        again.everything = true;
                    }
                    _ => again.routes = true,
                }
            }
        }
    }

    /// Read interfaces, routes and neighbours, and note down what differs.
    fn read_all(&mut self) -> Result<(), KernelError> {
        self.read_interfaces()?;
        self.read_routes()?;
        let mut seen = HashSet::new();
        let mut found = Vec::new();
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        self.requests.dump("reading neighbours", request, |message| {
            if let RouteNetlinkMessage::NewNeighbour(message) = message {
                found.push(message);
            }
        })?;
        for message in &found {
            if let Some((key, Some(_))) = self.read_neighbour(message) {
                seen.insert(key);
            }
            self.neighbour(message, true);
        }
        let gone: Vec<_> =
            self.neighbours.keys().filter(|key| !seen.contains(*key)).copied().collect();
        for (port, address) in gone {
            self.forget(port, address);
        }
        Ok(())
    }

    fn read_interfaces(&mut self) -> Result<(), KernelError> {
        let mut interfaces = HashMap::new();
        let ports = &self.ports;
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.requests.dump("reading interfaces", request, |message| {
            let RouteNetlinkMessage::NewLink(link) = message else { return };
            for attribute in &link.attributes {
                if let LinkAttribute::IfName(name) = attribute
                    && let Some(port) = ports.get(name)
                {
                    interfaces.insert(link.header.index, *port);
                }
            }
        })?;
        self.interfaces = interfaces;
        Ok(())
    }

    fn read_routes(&mut self) -> Result<(), KernelError> {
        // By prefix, with the metric: of several routes the kernel uses the one with the least, the first of equals.
        let mut best: HashMap<IpPrefix, (u32, KernelRoute)> = HashMap::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let interfaces = &self.interfaces;
            let request = RouteNetlinkMessage::GetRoute(request);
            self.requests.dump("reading routes", request, |message| {
                let RouteNetlinkMessage::NewRoute(route) = message else { return };
                let Some((prefix, metric, target)) = read_route(&route, interfaces) else { return };
                let entry = best.entry(prefix).or_insert((metric, target));
                if metric < entry.0 {
                    *entry = (metric, target);
                }
            })?;
        }
        let before = std::mem::take(&mut self.routes);
        for (prefix, (_, target)) in &best {
            if before.get(prefix) != Some(target) {
                self.changes.push(Change::Route(*prefix, Some(*target)));
            }
        }
        let gone = before.keys().filter(|prefix| !best.contains_key(prefix));
        self.changes.extend(gone.map(|prefix| Change::Route(*prefix, None)));
        self.routes = best.into_iter().map(|(prefix, (_, target))| (prefix, target)).collect();
        Ok(())
    }

    /// The neighbour a message is about, and its MAC if that is known.
    fn read_neighbour(
        &self,
        message: &NeighbourMessage,
    ) -> Option<((PortId, IpAddr), Option<Mac>)> {
        let port = *self.interfaces.get(&message.header.ifindex)?;
        if message.header.flags.contains(NeighbourFlags::Proxy) {
            return None;
        }
        let (mut address, mut mac) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(it)) => {
                    address = Some(IpAddr::V4(*it));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(it)) => {
                    address = Some(IpAddr::V6(*it));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = bytes.first_chunk::<6>().map(|bytes| Mac(*bytes));
                }
                _ => {}
            }
        }
        use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
        let is_known =
            matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent);
        let address = address.filter(|it| !it.is_multicast())?;
        Some(((port, address), mac.filter(|mac| is_known && !mac.is_group())))
    }

    fn neighbour(&mut self, message: &NeighbourMessage, is_there: bool) {
        let Some((key, mac)) = self.read_neighbour(message) else { return };
        let Some(mac) = mac.filter(|_| is_there) else {
            // Looked for again: until that has failed, the old MAC is the best there is.
            if message.header.state != NeighbourState::Incomplete || !is_there {
                self.forget(key.0, key.1);
            }
            return;
        };
        if message.header.state == NeighbourState::Stale {
            self.stale.insert(key);
        } else {
            self.stale.remove(&key);
        }
        if self.neighbours.insert(key, mac) != Some(mac) {
            self.changes.push(Change::Neighbour(key.0, key.1, Some(mac)));
        }
    }

    fn forget(&mut self, port: PortId, address: IpAddr) {
        self.stale.remove(&(port, address));
        if self.neighbours.remove(&(port, address)).is_some() {
            self.changes.push(Change::Neighbour(port, address, None));
        }
    }

    /// Have the kernel look whether this neighbour is there.
    fn use_neighbour(&mut self, port: PortId, address: IpAddr) {
        let interface = self.interfaces.iter().find(|(_, it)| **it == port);
        let Some((index, _)) = interface else { return };
        let mut message = NeighbourMessage::default();
        message.header.ifindex = *index;
        message.header.flags = NeighbourFlags::Use;
        let (family, destination) = match address {
            IpAddr::V4(it) => (AddressFamily::Inet, NeighbourAddress::Inet(it)),
            IpAddr::V6(it) => (AddressFamily::Inet6, NeighbourAddress::Inet6(it)),
        };
        message.header.family = family;
        message.attributes.push(NeighbourAttribute::Destination(destination));
        let request = RouteNetlinkMessage::NewNeighbour(message);
        if let Err(error) = self.requests.order("looking for a neighbour", request, NLM_F_CREATE) {
            tracing::debug!(%address, %error, "neighbour not looked for");
        }
    }
}

/// The table of the kernel's own addresses (rtnetlink(7)).
const TABLE_LOCAL: u32 = 255;
/// `ENOBUFS` of errno(3): messages were lost.
const ENOBUFS: i32 = 105;

/// Prefix, metric and target of a route of the main table; `None` of others.
fn read_route(
    message: &RouteMessage,
    interfaces: &HashMap<u32, PortId>,
) -> Option<(IpPrefix, u32, KernelRoute)> {
    let header = &message.header;
    let mut table = u32::from(header.table);
    let mut metric = 0;
    let (mut destination, mut gateway, mut interface) = (None, None, None);
    let mut first = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(priority) => metric = *priority,
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => gateway = router(attribute),
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::MultiPath(hops) => first = hops.first(),
            _ => {}
        }
    }
    let is_local = header.kind == RouteType::Local;
    let wanted = if is_local { TABLE_LOCAL } else { u32::from(RouteHeader::RT_TABLE_MAIN) };
    if table != wanted {
        return None;
    }
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::from([0; 4]),
        AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
        _ => return None,
    };
    let destination = destination.unwrap_or(any);
    let prefix = IpPrefix::new(destination, header.destination_prefix_length)?;
    if let Some(hop) = first {
        interface = Some(hop.interface_index);
        gateway = hop.attributes.iter().find_map(router);
    }
    let is_nobodys = match destination {
        IpAddr::V4(it) => it.is_loopback(),
        IpAddr::V6(it) => it.is_loopback() || it.is_unicast_link_local() || it.is_multicast(),
    };
    if is_nobodys {
        return None;
    }
    let target = match header.kind {
        RouteType::Unicast => {
            let port = interface.and_then(|index| interfaces.get(&index));
            port.map_or(KernelRoute::Unreachable, |port| {
                KernelRoute::Next(NextHop { port: *port, via: gateway })
            })
        }
        RouteType::Local => KernelRoute::Host,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit => {
            KernelRoute::Unreachable
        }
        _ => return None,
    };
    Some((prefix, metric, target))
}

/// The router an attribute names, which may be of the other family (RFC 8950).
fn router(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}
