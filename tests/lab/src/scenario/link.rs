//! The managed address on the clients' link.

use std::time::Duration;

use anyhow::ensure;

use crate::{
    clients::{self, Clients},
    neighbours,
    process::wait_until,
    rig::Rig,
    switch_box::UPLINK_MAC,
    view::View,
};

use super::OLD;

const GO_ON: Duration = Duration::from_secs(10);

/// What must hold once the box hosts the address.
pub(super) fn hosted(rig: &Rig, view: &View) -> anyhow::Result<()> {
    let (managed, resolution) = (rig.managed(), rig.family.resolution());
    let announced = neighbours::known(&rig.lab, rig.family)?;
    ensure!(announced.as_deref() == Some(UPLINK_MAC), "announced for {managed}: {announced:?}");
    ensure!(neighbours::answered(&rig.lab, rig.family)?, "the box does not answer for {managed}");
    view.hold(&format!("the box announced {managed} by {resolution} unasked, and answers for it"));
    Ok(())
}

/// Take the clients' route by the box away: they have to find the address on the link, and nobody but the box
/// answers for it there.
pub(super) fn leave_route(rig: &Rig, clients: &mut Clients, view: &View) -> anyhow::Result<()> {
    // So that what is known afterwards was answered to a question.
    neighbours::note_announcements(&rig.lab, rig.family, false)?;
    clients::through_box(&rig.lab, rig.family, false)?;
    let before = clients.report()?;
    let opened = before.records.len();
    wait_until("old and new sessions go on without a route", GO_ON, || {
        let now = clients.report()?;
        let on = now.records.iter().zip(&before.records).filter(|(now, before)| {
            now.session < OLD && now.answered >= before.answered + 3 && now.error.is_none()
        });
        // The first was perhaps begun before the route went.
        let new = now.records.iter().skip(opened + 1).filter(|record| record.closed_us != 0);
        Ok((on.count() == OLD as usize && new.count() >= 3).then_some(()))
    })?;
    let (managed, resolution) = (rig.managed(), rig.family.resolution());
    let known = neighbours::known(&rig.lab, rig.family)?;
    ensure!(known.as_deref() == Some(UPLINK_MAC), "the link says {managed} is at {known:?}");
    view.hold(&format!(
        "taken over: without a route the clients find {managed} at {UPLINK_MAC} by {resolution}, old and new sessions go on"
    ));
    Ok(())
}

/// Give the clients their route by the box back, before the box stops answering for the address.
pub(super) fn take_route(rig: &Rig, view: &View) -> anyhow::Result<()> {
    clients::through_box(&rig.lab, rig.family, true)?;
    view.say("the clients' route by the box is back");
    Ok(())
}
