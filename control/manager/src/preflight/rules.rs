//! What must fit together, from what was asked of the peers.

use tidegate_api::{
    host::{self as host_proto, GuestState},
    switch::{self as switch_proto, Rewrite},
};

use crate::{
    guest::GuestSpec,
    spec::{DestinationKind, FinishMode, Mac, NewSessions, Spec},
};

pub(super) fn regions(order: &Spec, spec: &host_proto::GuestSpec) -> Result<String, String> {
    let there: Vec<_> = spec.regions.iter().map(|region| region.name.as_str()).collect();
    if let Some(missing) = order.regions.iter().find(|name| !there.contains(&name.as_str())) {
        let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
        return Err(format!("`{}` has no region `{missing}`; it has {there}", order.source_guest));
    }
    if order.kind == DestinationKind::Clone
        && !order.regions.is_empty()
        && order.regions.len() < there.len()
    {
        return Err("a clone needs all of the source's regions; name all or none".to_owned());
    }
    Ok(there.join(", "))
}

/// Whether the destination's host has room for its RAM and regions, and for what is kept of T0 beside them.
pub(super) fn room(
    order: &Spec,
    destination: &GuestSpec,
    host: &host_proto::Status,
) -> Result<String, String> {
    let copies = if order.finish == FinishMode::Mirror(NewSessions::Cut) { 2 } else { 1 };
    let needed = destination.memory_bytes().saturating_mul(copies);
    let free = host.memory_free_bytes;
    if needed <= free {
        return Ok(format!("{needed} of {free} bytes free"));
    }
    let name = &order.destination_host;
    Err(format!(
        "the destination needs {needed} bytes, host `{name}` has {free} free for guests' memory; make room in its \
         memory directory, or choose another host"
    ))
}

/// A clone's device state fits only the devices it was saved from.
pub(super) fn clone_card(
    order: &Spec,
    source: &host_proto::GuestSpec,
) -> Result<(Mac, String), String> {
    let [card] = source.nics.as_slice() else {
        return Err(format!(
            "`{}` has {} network cards; only a guest with one can be cloned",
            order.source_guest,
            source.nics.len()
        ));
    };
    let own: Mac = card.mac.parse()?;
    match order.mac {
        Some(mac) if mac != own => {
            Err(format!("a clone has the source's MAC {own}, not {mac}; leave the MAC out"))
        }
        _ => Ok((own, format!("{own}"))),
    }
}

/// Whether packets can be told apart by what the destination is given.
pub(super) fn rewrite(
    order: &Spec,
    home: &switch_proto::Backend,
    mac: Option<Mac>,
) -> Result<String, String> {
    if home.name == order.destination_guest {
        return Err(format!("`{}` is the address's home already", home.name));
    }
    let l2_home = home.rewrite() == Rewrite::L2;
    match (order.kind, order.locator) {
        (DestinationKind::Clone, Some(_)) => {
            return Err(
                "a clone has the source's addresses and none of its own; leave the locator \
                out, or boot the destination"
                    .to_owned(),
            );
        }
        (DestinationKind::Clone, None) if !l2_home => {
            return Err(format!(
                "home `{}` is reached by nat at {}, which a clone would answer to as well; boot the \
                 destination with a locator of its own",
                home.name, home.locator
            ));
        }
        _ => {}
    }
    if let Some(locator) = order.locator {
        if locator == order.address {
            return Err(format!(
                "the locator {locator} is the managed address; give the guest's own"
            ));
        }
        if home.locator.parse() == Ok(locator) {
            return Err(format!(
                "the locator {locator} is the source's; the destination needs its own"
            ));
        }
    } else {
        apart(order, home)?;
    }
    if order.kind == DestinationKind::Boot && mac.is_some_and(|mac| mac.to_string() == home.mac) {
        return Err(format!("MAC {} is the source's; give the destination its own", home.mac));
    }
    let how = order.locator.map_or_else(|| "l2".to_owned(), |locator| format!("nat to {locator}"));
    Ok(order.encap.map_or_else(|| how.clone(), |encap| format!("{how}, in {encap}")))
}

/// With l2, nothing but the port or the tunnel tells the guests apart.
fn apart(order: &Spec, home: &switch_proto::Backend) -> Result<(), String> {
    match (&home.encap, order.encap) {
        (None, None) if order.port.as_ref() == Some(&home.port) => Err(format!(
            "port `{}` is the source's; with l2 the port tells the guests apart, put the \
             destination behind another port",
            home.port
        )),
        (Some(theirs), Some(ours)) if *theirs == ours.to_proto() => Err(format!(
            "{ours} is the source's tunnel; with l2 the tunnel tells the guests apart, put the \
             destination behind another, or boot it with a locator of its own"
        )),
        _ => Ok(()),
    }
}

/// A guest's state in a word.
#[must_use]
pub fn state_word(state: GuestState) -> &'static str {
    match state {
        GuestState::Running => "running",
        GuestState::Paused => "paused",
        GuestState::Exited => "not running",
        GuestState::Unspecified => "in an unknown state",
    }
}
