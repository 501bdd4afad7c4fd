//! The thread that follows the kernel: reads all there is once, then what is notified.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::LinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::RouteMessage,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use tidegate_dataplane::steering::PortId;

use super::{
    Change, KernelError, MirroredPort,
    follow::{Followed, Silent},
    netlink::{Message, Netlink},
    read::{self, KernelNeighbour, Known},
    table::{Fit, Place, Table},
};

/// Groups of rtnetlink(7): links, neighbours, addresses, routes, next hops.
const GROUPS: [u32; 7] = [1, 3, 5, 7, 9, 11, 32];
/// The kernel's word that a next hop object is gone (`RTM_DELNEXTHOP`).
const NEXT_HOP_GONE: u16 = 105;
/// The words about links, addresses, routes and neighbours (`RTM_NEWLINK` to `RTM_GETNEIGH`).
const ABOUT_US: std::ops::RangeInclusive<u16> = 16..=30;
/// `ENOBUFS` of errno(3): messages were lost.
const ENOBUFS: i32 = 105;
const WHAT: &str = "following the kernel";
/// Changes that come within this time are told together.
const GATHER: Duration = Duration::from_micros(500);
/// So many reads at most before what they came to is told.
const READS: usize = 4096;
/// How often stale neighbours are asked whether they are there.
const REFRESH: Duration = Duration::from_secs(5);
/// So many of them at once.
const REFRESHED: usize = 2048;
/// How long after routes were read that changed meanwhile they are read again, at first and at most.
const READ_AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(8)];

/// What the mirror's owner tells it: neighbours to find, to end, and that there is something of either.
pub(super) type Told = (mpsc::Receiver<(PortId, IpAddr)>, Arc<AtomicBool>, Arc<OwnedFd>);

/// The mirror's thread.
pub(super) struct Follower {
    events: Netlink,
    requests: Netlink,
    followed: Followed,
    tell: Box<dyn FnMut(Vec<Change>) + Send>,
    wants: mpsc::Receiver<(PortId, IpAddr)>,
    stop: Arc<AtomicBool>,
    wake: Arc<OwnedFd>,
    refreshed_at: Instant,
    /// When routes are to be read again, because they changed while they were read.
    read_again_at: Option<Instant>,
    /// How long that was put off.
    put_off: Duration,
}

/// What was heard.
#[derive(Clone, Copy)]
struct Heard {
    /// How sure routes are.
    routes: Fit,
    /// Whether something may have been missed, of whatever kind.
    all_unsure: bool,
}

impl Follower {
    /// Listen, read all there is, and tell it.
    ///
    /// # Errors
    /// [`KernelError`] when the kernel cannot be asked.
    pub(super) fn start(
        ports: &[MirroredPort],
        tell: Box<dyn FnMut(Vec<Change>) + Send>,
        (wants, stop, wake): Told,
    ) -> Result<Self, KernelError> {
        // Heard before read, so that nothing falls between.
        let events = Netlink::open(&GROUPS)?;
        let failed = |reason| KernelError::Netlink { what: "a netlink socket", reason };
        events.set_waiting(false).map_err(failed)?;
        let ports = ports.iter().map(|it| (it.interface.clone(), it.port)).collect();
        let mut this = Self {
            events,
            requests: Netlink::open(&[])?,
            followed: Followed::new(ports),
            tell,
            wants,
            stop,
            wake,
            refreshed_at: Instant::now(),
            read_again_at: None,
            put_off: READ_AGAIN[0],
        };
        this.read_all()?;
        this.give();
        Ok(this)
    }

    pub(super) fn run(mut self) {
        while !self.stop.load(Relaxed) {
            if let Err(error) = self.round() {
                tracing::error!(%error, "the kernel's routes are not followed; trying again");
                self.recover();
            }
            self.give();
        }
    }

    /// Whatever was missed is found by reading everything.
    fn recover(&mut self) {
        while !self.stop.load(Relaxed) {
            thread::sleep(Duration::from_secs(1));
            match self.read_all() {
                Ok(()) => return,
                Err(error) => tracing::error!(%error, "the kernel's routes cannot be read"),
            }
        }
    }

    fn round(&mut self) -> Result<(), KernelError> {
        self.wait()?;
        let mut heard = self.hear(false)?;
        if heard.all_unsure || self.followed.has_news() {
            thread::sleep(GATHER);
            heard.and(self.hear(false)?);
        }
        // What is known of a link that went down need not wait until a long table has been read.
        self.give();
        let now = Instant::now();
        if heard.all_unsure {
            self.read_all()?;
        } else if heard.routes >= Fit::Missing || self.read_again_at.is_some_and(|at| at <= now) {
            self.read_routes()?;
        }
        while let Ok((port, address)) = self.wants.try_recv() {
            self.use_neighbour(port, address);
        }
        if now.saturating_duration_since(self.refreshed_at) >= REFRESH {
            self.refreshed_at = now;
            for (port, address) in self.followed.stale(REFRESHED) {
                self.use_neighbour(port, address);
            }
        }
        Ok(())
    }

    fn give(&mut self) {
        let changes = self.followed.take_changes();
        if !changes.is_empty() {
            (self.tell)(changes);
        }
    }

    /// Until something has happened, is wanted, or is due.
    fn wait(&self) -> Result<(), KernelError> {
        let mut fds = [
            PollFd::from_borrowed_fd(self.events.fd(), PollFlags::IN),
            PollFd::new(&*self.wake, PollFlags::IN),
        ];
        let due = self.refreshed_at + REFRESH;
        let due = self.read_again_at.map_or(due, |at| at.min(due));
        let left = due.saturating_duration_since(Instant::now());
        // Rounded up, or the last millisecond would be spent in turning round.
        let left = left + Duration::from_millis(1);
        let left =
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(KernelError::Netlink { what: WHAT, reason: error.into() }),
        }
        // Whether it was told anything is in the other two of what it is told by.
        let _ = rustix::io::read(&*self.wake, &mut [0; 8]);
        Ok(())
    }

    /// Take in what has happened; `late` when what was read since may have it already.
    fn hear(&mut self, late: bool) -> Result<Heard, KernelError> {
        let mut heard = Heard { routes: Fit::Sure, all_unsure: false };
        for _ in 0..READS {
            match self.events.read() {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(ENOBUFS) => {
                    tracing::info!("more notifications than could be heard; reading all again");
                    heard.all_unsure = true;
                    continue;
                }
                Err(reason) => return Err(KernelError::Netlink { what: WHAT, reason }),
            }
            let followed = &mut self.followed;
            self.events.messages(WHAT, |message| {
                heard.take(message, late, followed);
                Ok(())
            })?;
        }
        Ok(heard)
    }

    /// Read interfaces, routes and neighbours.
    fn read_all(&mut self) -> Result<(), KernelError> {
        let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let gather = |interfaces: &mut HashMap<_, _>, message| {
            if let RouteNetlinkMessage::NewLink(link) = message {
                interfaces.extend(read::interface(&link));
            }
        };
        let interfaces = self.requests.dump("reading interfaces", request, gather)?;
        self.followed.set_interfaces(interfaces);
        let request = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        let gather = |neighbours: &mut Vec<_>, message| {
            if let RouteNetlinkMessage::NewNeighbour(message) = message {
                neighbours.extend(read::neighbour(&message));
            }
        };
        let neighbours = self.requests.dump("reading neighbours", request, gather)?;
        self.followed.set_neighbours(neighbours);
        self.read_routes()
    }

    /// Read routes. What is notified meanwhile may be in what was read, or not; where that matters they are read once more.
    fn read_routes(&mut self) -> Result<(), KernelError> {
        let mut table = Table::default();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = RouteMessage::default();
            request.header.address_family = family;
            let request = RouteNetlinkMessage::GetRoute(request);
            let gather = |table: &mut Table, message| {
                if let RouteNetlinkMessage::NewRoute(message) = message
                    && let Some((prefix, route)) = read::route(&message)
                {
                    table.list(prefix, route);
                }
            };
            table = table.and(self.requests.dump("reading routes", request, gather)?);
        }
        self.followed.set_table(table);
        let meanwhile = self.hear(true)?;
        if meanwhile.routes == Fit::Sure && !meanwhile.all_unsure {
            self.read_again_at = None;
            self.put_off = READ_AGAIN[0];
        } else {
            self.read_again_at = Some(Instant::now() + self.put_off);
            self.put_off = (self.put_off * 2).min(READ_AGAIN[1]);
        }
        Ok(())
    }

    /// Have the kernel look whether this neighbour is there.
    fn use_neighbour(&mut self, port: PortId, address: IpAddr) {
        let Some(index) = self.followed.index(port) else { return };
        let mut message = NeighbourMessage::default();
        message.header.ifindex = index;
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

impl Heard {
    /// Take in a message; `late` when what was read since may have it already.
    fn take(&mut self, message: Message, late: bool, followed: &mut Followed) {
        let read = match message.payload {
            Some(NetlinkPayload::InnerMessage(read)) => read,
            Some(_) => return,
            None if message.kind == NEXT_HOP_GONE => return self.take_fit(Fit::Strange),
            None => {
                self.all_unsure |= ABOUT_US.contains(&message.kind);
                return;
            }
        };
        match read {
            RouteNetlinkMessage::NewRoute(it) => {
                if let Some(route) = read::route(&it) {
                    self.take_fit(followed.add(route, place(message.flags)));
                }
            }
            RouteNetlinkMessage::DelRoute(it) => {
                if let Some(route) = read::route(&it) {
                    let fit = followed.remove(route);
                    let is_fine = late && fit == Fit::Missing;
                    self.take_fit(if is_fine { Fit::Sure } else { fit });
                }
            }
            RouteNetlinkMessage::NewNeighbour(it) => {
                read::neighbour(&it).into_iter().for_each(|it| followed.neighbour(it));
            }
            RouteNetlinkMessage::DelNeighbour(it) => {
                let gone =
                    read::neighbour(&it).map(|it| KernelNeighbour { state: Known::Not, ..it });
                gone.into_iter().for_each(|it| followed.neighbour(it));
            }
            // Those of a bridge say what is plugged into it.
            RouteNetlinkMessage::NewLink(it) | RouteNetlinkMessage::DelLink(it)
                if it.header.interface_family != AddressFamily::Unspec => {}
            RouteNetlinkMessage::NewLink(it) => {
                let now = read::interface(&it);
                let silent = now.map(|(index, now)| followed.interface(index, Some(now)));
                self.take_silent(silent.unwrap_or(Silent::Everything));
            }
            RouteNetlinkMessage::DelLink(it) => {
                self.take_silent(followed.interface(it.header.index, None));
            }
            // IPv4's routes from an address that is gone may be gone silently.
            RouteNetlinkMessage::DelAddress(_) => self.take_fit(Fit::Strange),
            _ => {}
        }
    }

    fn take_fit(&mut self, fit: Fit) {
        self.routes = self.routes.max(fit);
    }

    fn take_silent(&mut self, silent: Silent) {
        match silent {
            Silent::Nothing => {}
            Silent::Routes => self.take_fit(Fit::Strange),
            Silent::Everything => self.all_unsure = true,
        }
    }

    fn and(&mut self, other: Self) {
        self.take_fit(other.routes);
        self.all_unsure |= other.all_unsure;
    }
}

/// Where a notification with these flags puts a route. `NLM_F_EXCL` is the kernel's word that there was none.
fn place(flags: u16) -> Place {
    if flags & NLM_F_EXCL != 0 {
        Place::Alone
    } else if flags & NLM_F_REPLACE != 0 {
        Place::Instead
    } else if flags & NLM_F_APPEND != 0 {
        Place::Last
    } else {
        Place::First
    }
}
