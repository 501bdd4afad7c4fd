//! Random commands against an oracle that knows only the table of states.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use proptest::prelude::*;
use tidegate_dataplane::{
    packet::{Address as _, Mac, tunnel::Encap},
    steering::{Link, Port, PortId, PortRole, Routing, Snapshot, Tunnel},
};

use super::*;

const ADDRESSES: u32 = 3;
const PLACES: u8 = 4;

#[derive(Clone, Debug)]
enum Command {
    Add(u32, u8),
    Remove(u32),
    Takeover(u32),
    SetDestination(u32, u8),
    Cutover(u32),
    Drained(u32),
    Abort(u32),
    Release(u32, bool, bool),
    ReleaseWithSessions(u32, bool),
    /// The shards forget what no address names any more.
    Sweep,
}

fn command() -> impl Strategy<Value = Command> {
    let address = 0..ADDRESSES;
    let place = 0..PLACES;
    prop_oneof![
        (address.clone(), place.clone()).prop_map(|(address, place)| Command::Add(address, place)),
        address.clone().prop_map(Command::Remove),
        address.clone().prop_map(Command::Takeover),
        (address.clone(), place)
            .prop_map(|(address, place)| Command::SetDestination(address, place)),
        address.clone().prop_map(Command::Cutover),
        address.clone().prop_map(Command::Drained),
        address.clone().prop_map(Command::Abort),
        (address.clone(), any::<bool>())
            .prop_map(|(address, keep)| Command::ReleaseWithSessions(address, keep)),
        (address, any::<bool>(), any::<bool>())
            .prop_map(|(a, keep, force)| Command::Release(a, keep, force)),
        Just(Command::Sweep),
    ]
}

/// Place `n` of an address: even ones are on the link, each behind a port; odd ones have a locator.
fn backend(address: u32, place: u8) -> BackendSpec {
    let rewrite = if place.is_multiple_of(2) {
        Rewrite::L2
    } else {
        Rewrite::Nat((1000 + address * 10 + u32::from(place)).ip())
    };
    BackendSpec {
        name: format!("b{place}"),
        port: PortId(place.into()),
        mac: Mac([2, 0, 0, 0, address as u8, place]),
        rewrite,
        // Through a tunnel that all addresses share.
        tunnel: (place == 2).then(|| tunnel(2)),
    }
}

/// A tunnel to another switch.
fn tunnel(vni: u32) -> Tunnel {
    let (local, remote) = (9001_u32.ip(), 9002_u32.ip());
    Tunnel { encap: Encap::Vxlan { port: 4789, vni }, local, remote }
}

/// The oracle: what an address should look like.
#[derive(Clone, Debug, PartialEq)]
struct Model {
    hosted: bool,
    tracked: bool,
    epoch: u32,
    home: u8,
    destination: Option<(u8, Phase)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Preparing,
    Draining,
    Drained,
}

/// What should happen: the address after the command, or `None` when it is refused.
fn expected(model: Option<&Model>, command: &Command) -> Option<Option<Model>> {
    let mut next = match (model, command) {
        (None, Command::Add(_, place)) => {
            let home = *place;
            return Some(Some(Model {
                hosted: false,
                tracked: true,
                epoch: 1,
                home,
                destination: None,
            }));
        }
        (None, _) | (Some(_), Command::Add(..)) => return None,
        (Some(model), _) => model.clone(),
    };
    match (command, next.destination) {
        (Command::Remove(_), None) => return Some(None),
        (Command::Takeover(_), _) => (next.hosted, next.tracked) = (true, true),
        (Command::SetDestination(_, place), None) if *place != next.home => {
            next.tracked = true;
            next.destination = Some((*place, Phase::Preparing));
        }
        (Command::Cutover(_), Some((place, Phase::Preparing))) if next.hosted => {
            next.epoch += 1;
            next.destination = Some((place, Phase::Draining));
        }
        (Command::Drained(_), Some((place, Phase::Draining))) => {
            next.destination = Some((place, Phase::Drained));
        }
        // An observation is never refused.
        (Command::Drained(_), _) => {}
        (Command::Abort(_), destination) if next.hosted || destination.is_some() => {
            (next.hosted, next.destination) = (false, None);
        }
        (Command::Release(_, keep, force), Some((place, phase)))
            if phase == Phase::Drained || (*force && phase == Phase::Draining) =>
        {
            next = Model { hosted: false, tracked: *keep, home: place, destination: None, ..next };
        }
        (Command::ReleaseWithSessions(_, keep), Some((place, _)))
            if place.is_multiple_of(2) && next.home.is_multiple_of(2) =>
        {
            next = Model { hosted: false, tracked: *keep, home: place, destination: None, ..next };
        }
        _ => return None,
    }
    Some(Some(next))
}

fn apply(steering: &mut Steering, command: &Command, in_use: SlotInUse<'_>) -> bool {
    match *command {
        Command::Add(address, place) => {
            let (home, address) = (backend(address, place), address.ip());
            steering.add(AddressSpec { address, home, quic: None }, in_use).is_ok()
        }
        Command::Remove(address) => steering.remove(address.ip()).is_ok(),
        Command::Takeover(address) => steering.takeover(address.ip(), in_use).is_ok(),
        Command::SetDestination(address, place) => {
            steering.set_destination(address.ip(), backend(address, place), in_use).is_ok()
        }
        Command::Cutover(address) => steering.cutover(address.ip(), DrainPolicy::default()).is_ok(),
        Command::Drained(address) => {
            let known = steering.get(address.ip()).is_ok();
            steering.observe_drained(address.ip());
            known
        }
        Command::Abort(address) => steering.abort(address.ip()).is_ok(),
        Command::Release(address, keep, force) => {
            steering.release(address.ip(), keep, force).is_ok()
        }
        Command::ReleaseWithSessions(address, keep) => {
            steering.release_with_sessions(address.ip(), keep).is_ok()
        }
        Command::Sweep => true,
    }
}

fn seen(address: &Address) -> Model {
    let place = |placed: &Placed| placed.spec.port.0 as u8;
    let phase = |target: &Target| match (target.cut_over, target.drained) {
        (None, _) => Phase::Preparing,
        (Some(_), false) => Phase::Draining,
        (Some(_), true) => Phase::Drained,
    };
    Model {
        hosted: address.hosted,
        tracked: address.tracked,
        epoch: address.epoch,
        home: place(&address.home),
        destination: address
            .destination
            .as_ref()
            .map(|target| (place(&target.placed), phase(target))),
    }
}

fn state(model: &Model) -> AddressState {
    match (model.destination, model.hosted, model.tracked) {
        (Some((_, Phase::Drained)), ..) => AddressState::Drained,
        (Some((_, Phase::Draining)), ..) => AddressState::Draining,
        (_, true, _) => AddressState::Hosted,
        (_, false, true) => AddressState::Tracked,
        (_, false, false) => AddressState::Bound,
    }
}

proptest! {
    #[test]
    fn follows_the_table(commands in prop::collection::vec(command(), 0..60)) {
        let mut steering = Steering::default();
        let mut models: BTreeMap<u32, Model> = BTreeMap::new();
        // Slots that some shard has entries of: every slot a tracked address ever had, until a sweep.
        let entries: RefCell<BTreeSet<BackendSlot>> = RefCell::default();
        for command in commands {
            let address = match command {
                Command::Add(a, _) | Command::Remove(a) | Command::Takeover(a) | Command::SetDestination(a, _)
                | Command::Cutover(a) | Command::Drained(a) | Command::Abort(a) | Command::Release(a, ..)
                | Command::ReleaseWithSessions(a, _) => a,
                Command::Sweep => {
                    let live: BTreeSet<_> = steering.addresses().filter(|record| record.tracked)
                        .flat_map(Address::backends).map(|placed| placed.slot).collect();
                    entries.borrow_mut().retain(|slot| live.contains(slot));
                    continue;
                }
            };
            let before = format!("{steering:?}");
            let owned_before: BTreeMap<_, _> = steering.get(address.ip()).into_iter().flat_map(Address::backends)
                .map(|placed| (placed.slot, placed.spec.clone())).collect();
            let home_before = steering.get(address.ip()).ok().map(|record| record.home.slot);
            let stale = entries.borrow().clone();
            let accepted = apply(&mut steering, &command, &|slot| entries.borrow().contains(&slot));
            let wanted = expected(models.get(&address), &command);
            prop_assert_eq!(accepted, wanted.is_some(), "{:?} on {:?}", command, models.get(&address));
            match wanted {
                None => prop_assert_eq!(&format!("{steering:?}"), &before, "a refusal changes nothing"),
                Some(None) => { models.remove(&address); }
                Some(Some(model)) => { models.insert(address, model); }
            }
            prop_assert_eq!(steering.addresses().count(), models.len());
            let mut slots = BTreeSet::new();
            for record in steering.addresses() {
                let number = u32::of(record.address).expect("IPv4");
                prop_assert_eq!(&seen(record), &models[&number]);
                prop_assert_eq!(record.state(), state(&models[&number]));
                let goes_on = number == address && matches!(command, Command::ReleaseWithSessions(..));
                if goes_on {
                    prop_assert_eq!(Some(record.home.slot), home_before, "its sessions know it by that");
                }
                for placed in record.backends() {
                    prop_assert!(slots.insert(placed.slot), "one slot, one backend");
                    let is_new = number == address && !goes_on
                        && owned_before.get(&placed.slot).is_none_or(|spec| *spec != placed.spec);
                    prop_assert!(!(is_new && stale.contains(&placed.slot)), "no entry changes its owner");
                    if record.tracked {
                        entries.borrow_mut().insert(placed.slot);
                    }
                }
            }
            let port = |device| Some(Port {
                mac: Mac([2, 0, 0, 0, 0, 1]),
                addresses: vec![],
                role: PortRole::Access,
                link: Link::untagged(PortId(device)),
                twin: None,
            });
            let mut ports: Vec<_> = (0..PLACES.into()).map(port).collect();
            let behind: BTreeSet<_> = steering.addresses().flat_map(Address::backends)
                .filter(|placed| placed.spec.tunnel.is_some()).map(|placed| placed.port).collect();
            let tunnels: Vec<_> = steering.tunnels().collect();
            prop_assert_eq!(tunnels.iter().map(|it| it.id).collect::<BTreeSet<_>>(), behind, "one for all, while there is one");
            for TunnelPort { id, tunnel, .. } in tunnels {
                ports.resize(usize::from(id.0), None);
                ports.push(port(0).map(|port| Port { link: Link::Tunnel(tunnel), ..port }));
            }
            let snapshot = Snapshot::new(1, ports, steering.managed(), Routing::default());
            prop_assert!(snapshot.is_ok(), "what was accepted fits together: {:?}", snapshot.err());
        }
    }
}
