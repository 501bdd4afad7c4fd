//! The kernel's routes by prefix, kept by its notifications.
//!
//! A notification says what was done to which prefix, and with its flags where among the routes of one metric: as the
//! only one, in front, behind, or in place of the first. IPv6 has routes of several next hops that are added and taken
//! away hop by hop: who is added comes with all its siblings, who goes comes alone. Where IPv6 routes of one metric
//! lead to routers and to links, what is replaced by what is hard to tell, and the kernel does not even list them all. So
//! each step says how sure it is ([`Fit`]).

use std::collections::HashMap;

use tidegate_dataplane::steering::IpPrefix;

use super::read::{KernelHop, Rank, Route, Way};

/// Where a notification puts a route among those of its rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// There are no others.
    Alone,
    /// Before them.
    First,
    /// Behind them.
    Last,
    /// In place of the first.
    Instead,
}

/// Whether what a notification came to is what the kernel has. The greater, the less sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fit {
    /// It is, whatever was known before.
    Sure,
    /// It is, if what was known was right at that moment.
    AsKnown,
    /// There was nothing to take away.
    Missing,
    /// There is no telling: the table has to be read.
    Strange,
}

/// All routes, those of a prefix by rank.
#[derive(Debug, Default)]
pub(super) struct Table(HashMap<IpPrefix, Vec<Route>>);

impl Table {
    /// The routes to `prefix`, the first to be used first.
    pub(super) fn of(&self, prefix: IpPrefix) -> &[Route] {
        self.0.get(&prefix).map_or(&[], Vec::as_slice)
    }

    /// All prefixes there are routes to.
    pub(super) fn prefixes(&self) -> impl Iterator<Item = IpPrefix> {
        self.0.keys().copied()
    }

    /// A route as the table lists it: behind those of its rank.
    pub(super) fn list(&mut self, prefix: IpPrefix, route: Route) {
        let routes = self.0.entry(prefix).or_default();
        let at = routes.partition_point(|other| other.rank <= route.rank);
        routes.insert(at, route);
    }

    /// These, and those of another IP family.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// A route that was added. One that is there already changes nothing: the table was read after it came.
    pub(super) fn add(&mut self, prefix: IpPrefix, route: Route, place: Place) -> Fit {
        let is_ipv6 = prefix.address().is_ipv6();
        let routes = self.0.entry(prefix).or_default();
        let group = group(routes, route.rank);
        if place == Place::Alone {
            routes.splice(group, [route]);
            return Fit::Sure;
        }
        let known = &mut routes[group.clone()];
        // IPv6 may have the very same route twice.
        let of_several = if is_ipv6 { Fit::Strange } else { Fit::AsKnown };
        if let Some(same) = known.iter_mut().find(|it| it.way.is(&route.way)) {
            *same = route;
            return if group.len() == 1 { Fit::Sure } else { of_several };
        }
        let Some(first) = known.first_mut() else {
            routes.insert(group.start, route);
            // Of several IPv6 hops that are added at once the last is notified, with the others.
            return if is_ipv6 && place != Place::Instead { Fit::Sure } else { Fit::Strange };
        };
        if !is_ipv6 && place != Place::Instead {
            routes.insert(if place == Place::First { group.start } else { group.end }, route);
            return Fit::AsKnown;
        }
        let is_sure = match place {
            _ if group.len() > 1 => false,
            Place::Instead => !is_ipv6 || by_routers(first) == by_routers(&route),
            // Its siblings come with it.
            _ => contains(route.way.hops(), first.way.hops()),
        };
        *first = route;
        if is_sure { Fit::Sure } else { of_several }
    }

    /// A route that was taken away, or one hop of it.
    pub(super) fn remove(&mut self, prefix: IpPrefix, route: &Route) -> Fit {
        let Some(routes) = self.0.get_mut(&prefix) else { return Fit::Missing };
        let group = group(routes, route.rank);
        if prefix.address().is_ipv6() && group.len() > 1 {
            return Fit::Strange;
        }
        let known = &mut routes[group.clone()];
        if let Some(at) = known.iter().position(|it| it.way.is(&route.way)) {
            routes.remove(group.start + at);
        } else {
            let gone = route.way.hops();
            let whole = |it: &&mut Route| contains(it.way.hops(), gone);
            let Some(Route { way: Way::By(hops), .. }) = known.iter_mut().find(whole) else {
                return Fit::Missing;
            };
            hops.retain(|hop| !gone.iter().any(|gone| gone.is(hop)));
            routes.retain(|it| it.way != Way::By(Vec::new()));
        }
        if routes.is_empty() {
            self.0.remove(&prefix);
        }
        if group.len() == 1 { Fit::Sure } else { Fit::AsKnown }
    }
}

/// Where the routes of a rank are.
fn group(routes: &[Route], rank: Rank) -> std::ops::Range<usize> {
    let start = routes.partition_point(|other| other.rank < rank);
    start..start + routes[start..].partition_point(|other| other.rank == rank)
}

/// Whether `whole` has all of `part`, which is not nothing.
fn contains(whole: &[KernelHop], part: &[KernelHop]) -> bool {
    !part.is_empty() && part.iter().all(|hop| whole.iter().any(|other| other.is(hop)))
}

/// Whether it leads to routers only.
fn by_routers(route: &Route) -> bool {
    let hops = route.way.hops();
    !hops.is_empty() && hops.iter().all(|hop| hop.router.is_some())
}
