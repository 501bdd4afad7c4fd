//! What the model leaves out: room. Floods of first packets and stray segments against small tables; what was there before
//! the cutover stays, whatever comes, and nothing grows beyond its bound.

use std::collections::BTreeMap;

use tidegate_dataplane::{
    packet::TcpFlags,
    pipeline::Outcome,
    session::{SessionState, Tuple},
    steering::{BackendSlot, Cutover, Destination, ManagedAddress, Timeouts, Unknown},
};

use crate::{
    chance::Chance,
    model::speaks_as,
    packet::{Body, Packet, Segment},
    real::{Frame, RealBox},
    world::{Family, backend, clients, mac_of, managed, port_mac, port_of, wire},
};

const NOW_MS: u64 = 1000;
/// Sessions of each shard and family.
const CAPACITY: u32 = 512;
/// Those of them that may be half open.
const HALF_OPEN: u32 = CAPACITY / 4;
const PACKETS: u64 = 20_000;

const SYN: TcpFlags = TcpFlags::SYN;
const ACK: TcpFlags = TcpFlags::ACK;
const SYN_ACK: TcpFlags = TcpFlags(0x12);

/// One address cut over from slot 1 to slot 2.
struct Flooded {
    real: RealBox,
    address: ManagedAddress,
    chance: Chance,
    /// Sessions from before the cutover, with their owner and epoch.
    old: BTreeMap<Tuple, (BackendSlot, u32)>,
}

fn frame(packet: &Packet) -> Frame {
    (wire(packet.port).0, packet.frame(mac_of(packet.source), port_mac(packet.port)))
}

impl Flooded {
    fn new(shards: u16, family: Family, nat: bool, seed: u64) -> Self {
        let address = ManagedAddress {
            address: managed(family, 0),
            hosted: true,
            tracked: true,
            epoch: 1,
            home: backend(family, 0, BackendSlot(1), nat),
            destination: None,
            quic: None,
        };
        let real = RealBox::new(shards, CAPACITY);
        let mut flooded = Self { real, address, chance: Chance::new(seed), old: BTreeMap::new() };
        flooded.install(&[]);
        flooded
    }

    fn install(&mut self, counted: &[BackendSlot]) {
        self.real.install(std::iter::once(&self.address), Timeouts::default(), counted);
    }

    fn cut_over(&mut self, unknown_tcp: Unknown) {
        self.old = self.sessions().into_iter().map(|(tuple, it)| (tuple, (it.0, it.1))).collect();
        let nat = speaks_as(&self.address, &self.address.home) != self.address.address;
        let family = crate::world::family(self.address.address);
        let backend = backend(family, 1, BackendSlot(2), nat);
        let cut_over = Some(Cutover { unknown_tcp, ..Cutover::default() });
        self.address.destination = Some(Destination { backend, cut_over });
        self.address.epoch += 1;
        self.install(&[BackendSlot(1)]);
        assert_eq!(self.real.at_install(BackendSlot(1)).0 as usize, self.old.len());
    }

    fn sessions(&self) -> BTreeMap<Tuple, (BackendSlot, u32, SessionState)> {
        let listed = self.real.sessions(NOW_MS).into_iter();
        listed.map(|(tuple, it)| (tuple, (it.owner, it.birth_epoch, it.state))).collect()
    }

    fn by_client(&self, client: usize, port: u16, body: Body) -> Packet {
        let source = clients(crate::world::family(self.address.address))[client];
        Packet {
            port: port_of(source),
            source,
            source_port: port,
            destination: self.address.address,
            destination_port: 80,
            ttl: 64,
            body,
            len: 0,
            salt: port,
        }
    }

    fn by_home(&self, client: usize, port: u16, body: Body) -> Packet {
        let there = self.by_client(client, port, body);
        let home = self.address.home;
        Packet {
            port: home.port,
            source: speaks_as(&self.address, &home),
            source_port: there.destination_port,
            destination: there.source,
            destination_port: there.source_port,
            ..there
        }
    }

    fn feed(&mut self, packets: &[Packet]) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for burst in packets.chunks(64) {
            let frames: Vec<Frame> = burst.iter().map(frame).collect();
            let ended = self.real.burst(NOW_MS, &frames);
            outcomes.extend(ended.into_iter().map(|(outcome, _)| outcome));
        }
        self.real.check_sum();
        outcomes
    }

    /// A handshake of `client` on each of these ports.
    fn establish(&mut self, client: usize, ports: std::ops::Range<u16>) {
        for port in ports {
            let packets = [
                self.by_client(client, port, tcp(SYN, 1, 0)),
                self.by_home(client, port, tcp(SYN_ACK, 7, 2)),
                self.by_client(client, port, tcp(ACK, 2, 8)),
            ];
            self.feed(&packets);
        }
    }

    fn half_open(&mut self, client: usize, ports: std::ops::Range<u16>) {
        let packets: Vec<_> =
            ports.map(|port| self.by_client(client, port, tcp(SYN, 1, 0))).collect();
        self.feed(&packets);
    }

    /// Anything that might begin a session, from anywhere.
    fn flood(&mut self, count: u64) -> Vec<Outcome> {
        let packets: Vec<_> = (0..count).map(|_| self.flood_packet()).collect();
        self.feed(&packets)
    }

    fn flood_packet(&mut self) -> Packet {
        // Clients 0 and 1 have the old sessions.
        let client = 2 + self.chance.below(3) as usize;
        let (port, numbers) = (self.chance.number() as u16, self.chance.number() as u32);
        let udp = Body::Udp { checksum: true };
        match self.chance.below(8) {
            0..3 => self.by_client(client, port, tcp(SYN, numbers, 0)),
            3 => self.by_client(client, port, tcp(ACK, numbers, numbers)),
            4 => self.by_client(client, port, udp),
            5 => self.by_home(client, port, udp),
            6 => self.by_home(client, port, tcp(SYN, numbers, 0)),
            _ => self.by_home(client, port, tcp(SYN_ACK, numbers, numbers)),
        }
    }

    /// What was there before the cutover is there, as it was, and what has come since is within its bounds.
    fn check(&self) {
        let sessions = self.sessions();
        for (tuple, (owner, epoch)) in &self.old {
            let session = sessions.get(tuple).unwrap_or_else(|| panic!("{tuple} was lost"));
            assert_eq!((session.0, session.1), (*owner, *epoch), "{tuple}");
        }
        let shards = self.real.shards();
        assert!(sessions.len() <= CAPACITY as usize * shards, "{} sessions", sessions.len());
        let opening = sessions.values().filter(|it| it.2 == SessionState::Opening).count();
        // One quota for those that the cutover has made old, one for those that came later, and an eighth while those who may go
        // are looked for.
        let most = 2 * HALF_OPEN + HALF_OPEN / 8;
        assert!(opening <= most as usize * shards, "{opening} half open");
        let counts = self.real.counts();
        for slot in [1, 2].map(BackendSlot) {
            let listed = sessions.values().filter(|it| it.0 == slot).count();
            let counted = counts.get(&slot).map_or(0, |counts| counts.entries);
            assert_eq!(counted as usize, listed, "{slot:?}");
        }
    }

    /// The old sessions' clients speak, and reach the source.
    fn old_ones_go_on(&mut self) {
        let old: Vec<_> = self.old.keys().copied().collect();
        for tuple in old {
            let body = match tuple.protocol {
                6 => tcp(ACK, 2, 8),
                _ => Body::Udp { checksum: true },
            };
            let clients = clients(crate::world::family(tuple.client));
            let client = clients.iter().position(|it| *it == tuple.client).expect("a client");
            let packet = self.by_client(client, tuple.client_port, body);
            assert_eq!(self.feed(&[packet]), [Outcome::ToSource], "{tuple}");
        }
    }
}

fn tcp(flags: TcpFlags, sequence: u32, acknowledgement: u32) -> Body {
    Body::Tcp(Segment { flags, sequence, acknowledgement })
}

const POLICIES: [Unknown; 3] = [Unknown::Source, Unknown::Destination, Unknown::Drop];

#[test]
fn takes_nothing_from_old_sessions() {
    for (shards, (family, nat)) in (1..=4).zip([
        (Family::V4, true),
        (Family::V6, false),
        (Family::V4, false),
        (Family::V6, true),
    ]) {
        let policy = POLICIES[usize::from(shards) % 3];
        let mut flooded = Flooded::new(shards, family, nat, shards.into());
        flooded.establish(0, 0..40);
        flooded.half_open(1, 0..30);
        let udp = Body::Udp { checksum: true };
        let datagrams: Vec<_> =
            (0..20).map(|port| flooded.by_client(0, port, udp.clone())).collect();
        flooded.feed(&datagrams);
        flooded.cut_over(policy);
        assert_eq!(flooded.old.len(), 90);
        for _ in 0..PACKETS / 1000 {
            flooded.flood(1000);
            flooded.check();
            flooded.old_ones_go_on();
        }
        let refused = flooded.real.outcome(Outcome::TableFull);
        assert!(refused > 0, "a flood that fills no table is none");
    }
}

/// Half-open sessions from before the cutover keep their quota, and newcomers have one of their own.
#[test]
fn of_first_packets_finds_a_quota_beside_the_old_ones() {
    let mut flooded = Flooded::new(1, Family::V4, true, 9);
    flooded.half_open(0, 0..HALF_OPEN as u16);
    flooded.cut_over(Unknown::Source);
    let packets: Vec<_> = (0..500).map(|port| flooded.by_client(2, port, tcp(SYN, 5, 0))).collect();
    let outcomes = flooded.feed(&packets);
    assert!(outcomes.iter().all(|outcome| *outcome == Outcome::ToDestination));
    flooded.check();
    // Segments of sessions that exist are not half open, and still adopted.
    let known = flooded.by_client(2, 1000, tcp(ACK, 5, 5));
    assert_eq!(flooded.feed(&[known]), [Outcome::ToSource]);
}

/// The newest first packet always gets in while there are others that may go.
#[test]
fn of_first_packets_pushes_out_its_own() {
    for shards in 1..=4 {
        let mut flooded = Flooded::new(shards, Family::V6, false, 10);
        flooded.establish(0, 0..40);
        flooded.cut_over(Unknown::Source);
        for port in 0..4000 {
            let packet = flooded.by_client(2, port, tcp(SYN, 5, 0));
            assert_eq!(flooded.feed(&[packet]), [Outcome::ToDestination]);
        }
        flooded.check();
        let last = flooded.by_client(2, 3999, tcp(SYN, 5, 0));
        let sessions = flooded.sessions();
        assert!(sessions.keys().any(|it| (it.client, it.client_port) == (last.source, 3999)));
        flooded.old_ones_go_on();
    }
}
