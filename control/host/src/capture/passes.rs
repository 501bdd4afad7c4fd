//! Passes: QEMU sends the memory of the running guest, then what changed meanwhile, and so on. The last pass is
//! taken while the guest stands. QEMU's log of changes sees what processors and devices write, and what the packet path
//! writes, because the switch box's vhost-user ports keep a log for it.
//!
//! Under TCG that log is not exact. QEMU 7.2 clears a page's mark in each look at the log, but has the processor mark the page's next
//! write again only when the look found a page that was not still to be sent (`cpu_physical_memory_sync_dirty_bitmap`
//! counts only those): writes between are lost. So under TCG there are two looks at the log only, both while the guest stands: a
//! first one for a moment, as the passes begin, and the last. Between them is one pass. Under KVM the log is the
//! processor's.
//!
//! QEMU stops the guest by itself as soon as what is left takes less than [`LAST_PASS`](super::choice). A guest that
//! changes more than that, pass after pass, is to be stopped when another pass would not leave less: the pause is then the copy
//! of what it changes all the time, and never that of its RAM. Where a copy of all is even faster (QEMU sends by one thread,
//! and looks at each page twice), the passes are given up for that, unless they were asked for, or RAM goes
//! [`straight`](super::straight).

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tidegate_memory::{copy::Window, twin::Prepared};
use tokio::sync::MutexGuard;

use super::{
    Failed, Plan, Way, audit,
    choice::{LAST_PASS, MOST_PASSES},
    device_state, go_on,
    outgoing::{Outgoing, Room, save},
    stop,
    straight::Straight,
};
use crate::{
    HostError,
    guest::{Guest, tail},
    inner::{Inner, blocking},
    migration::Taken,
    qmp::{Event, Qmp},
};

/// A pass that leaves more than this share of what the one before left is not worth another.
const WORTHWHILE: f64 = 0.75;
/// The most that QEMU takes.
const ANY_DOWNTIME_MS: u64 = 2_000_000;
/// Longest the guest may stand until QEMU is through.
const LAST_PATIENCE: Duration = Duration::from_secs(60);
/// Longest nothing may arrive.
const SILENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);

/// The guest's monitor, and the turn on it.
type Monitor<'a> = (Qmp, MutexGuard<'a, ()>);

pub(super) async fn take(
    inner: &Arc<Inner>,
    id: &str,
    plan: &Plan,
    dir: &Path,
    prepared: Arc<Prepared>,
    monitor: Monitor<'_>,
) -> Result<Taken, Failed> {
    let Some(to) = &plan.straight else {
        return pass(id, plan, dir, prepared, monitor, None).await;
    };
    // The guest has heard of nothing yet.
    let mut straight = Straight::begin(inner, id, plan, to, dir).await?;
    match pass(id, plan, dir, prepared, monitor, Some(&mut straight)).await {
        Err(Failed { error, source_paused }) => {
            Err(Failed { error: straight.abandon().await.unwrap_or(error), source_paused })
        }
        taken => taken,
    }
}

async fn pass(
    id: &str,
    plan: &Plan,
    dir: &Path,
    prepared: Arc<Prepared>,
    (mut qmp, turn): Monitor<'_>,
    mut straight: Option<&mut Straight>,
) -> Result<Taken, Failed> {
    let guest = &plan.guest;
    let window = straight.as_ref().map(|straight| straight.window.clone());
    let room = Room { prepared: prepared.clone(), window: window.clone() };
    let (outgoing, first_pause) = match begin(plan, &mut qmp, room).await {
        Ok(begun) => begun,
        Err(error) => return go_on(guest, qmp, Err(error)).await,
    };
    let running = Running::new(guest);
    let (leaving, passing) = (window.clone(), running.0.clone());
    qmp.at_stop(move || {
        passing.store(false, Ordering::Relaxed);
        if let Some(window) = &leaving {
            // Its pause is not to wait for another host; nor can QEMU answer while it waits for us.
            window.lift();
        }
    });
    // Without room for all of RAM there is nothing to copy it to.
    let copy = plan.choice.free.then_some(plan.choice.copy).filter(|_| straight.is_none());
    let mut passes = Passes::new(copy);
    let followed = passes.follow(&mut qmp, &outgoing, window.as_deref()).await;
    let held = match followed {
        Ok(End::StopIsShorter(why)) => {
            drop(running);
            return instead(id, plan, dir, prepared, qmp, outgoing, why).await;
        }
        Ok(End::Sent) if plan.audit => {
            read_and_audited(plan, prepared, outgoing, straight.as_deref_mut()).await
        }
        // What is still in the socket is T0 already: the guest need not wait for us to read it.
        Ok(End::Sent) => Ok(Through::Sent(outgoing)),
        Err(error) => {
            if let Some(straight) = &mut straight {
                // Or who reads QEMU's stream waits for room.
                straight.give_up();
            }
            outgoing.abandon(&mut qmp).await;
            Err(error)
        }
    };
    drop(running);
    let through = go_on(guest, qmp, held).await.map_err(|failed| ended(guest, failed))?;
    let last_pause = passes.paused_at.map_or(Duration::ZERO, |at| at.elapsed());
    // What the last pass holds may take its time to leave, and QEMU is not asked for it any more.
    drop(turn);
    let pause_ns = last_pause.max(first_pause).as_nanos() as u64;
    let state = match through {
        Through::Read(state) => state,
        Through::Sent(outgoing) => outgoing.finish(guest).await?,
    };
    let device_state_bytes = save(state, device_state(dir)).await?;
    let went = match straight {
        Some(straight) => Some(straight.keep(dir).await?),
        None => None,
    };
    Ok(Taken {
        pause_ns,
        ram_bytes: plan.ram_bytes,
        region_bytes: plan.region_bytes,
        device_state_bytes,
        way: Some(Way::Passes),
        why: plan.choice.why.clone(),
        pass_bytes: passes.bytes,
        straight: went,
    })
}

/// Have QEMU begin; how long the guest stood for that.
async fn begin(plan: &Plan, qmp: &mut Qmp, room: Room) -> Result<(Outgoing, Duration), HostError> {
    let guest = &plan.guest;
    if plan.choice.exact_log {
        let outgoing = Outgoing::begin(guest, qmp, Some(room), LAST_PASS).await?;
        return Ok((outgoing, Duration::ZERO));
    }
    let paused_at = Instant::now();
    qmp.execute("stop", json!({})).await?;
    // No other look at the log: nothing is ever little enough for QEMU to look whether it grew.
    let outgoing = Outgoing::begin(guest, qmp, Some(room), Duration::ZERO).await?;
    let looked = looked(qmp).await;
    let went_on = match looked {
        Ok(()) => qmp.execute("cont", json!({})).await.map(drop),
        Err(error) => Err(error),
    };
    match went_on {
        Ok(()) => Ok((outgoing, paused_at.elapsed())),
        Err(error) => {
            outgoing.abandon(qmp).await;
            Err(error)
        }
    }
}

/// Wait until QEMU has looked at its log for the first time.
async fn looked(qmp: &mut Qmp) -> Result<(), HostError> {
    let until = Instant::now() + SILENCE;
    while Instant::now() < until {
        if qmp.event(LOOK).await?.is_some_and(|event| event.name == "MIGRATION_PASS") {
            return Ok(());
        }
    }
    Err(HostError::Precondition(format!("QEMU does not begin its passes within {SILENCE:?}")))
}

/// Stop and copy, although passes were begun.
async fn instead(
    id: &str,
    plan: &Plan,
    dir: &Path,
    prepared: Arc<Prepared>,
    mut qmp: Qmp,
    outgoing: Outgoing,
    why: String,
) -> Result<Taken, Failed> {
    outgoing.abandon(&mut qmp).await;
    let touched = prepared.clone();
    blocking(move || Ok(touched.look_at_sources()?)).await?;
    let taken = stop::take(id, plan, dir, prepared, qmp, false).await?;
    Ok(Taken { why, ..taken })
}

/// A guest runs while it is captured: it can be said without asking it.
struct Running(Arc<AtomicBool>);

impl Running {
    fn new(guest: &Guest) -> Self {
        // Relaxed: nothing hangs on it.
        guest.passing.store(true, Ordering::Relaxed);
        Self(guest.passing.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// How passes end.
enum End {
    /// QEMU has sent everything, and the guest stands.
    Sent,
    /// The guest runs; for this reason it is better to stop and copy.
    StopIsShorter(String),
}

/// Wait for all that was sent, and see that the twin is as the source's memory, byte for byte.
async fn read_and_audited(
    plan: &Plan,
    prepared: Arc<Prepared>,
    outgoing: Outgoing,
    straight: Option<&mut Straight>,
) -> Result<Through, HostError> {
    let state = outgoing.finish(&plan.guest).await?;
    audit(plan, prepared).await?;
    if let Some(straight) = straight {
        straight.audit(&plan.guest).await?;
    }
    Ok(Through::Read(state))
}

/// How far the state is when the guest may go on.
enum Through {
    Sent(Outgoing),
    Read(crate::qemu_stream::DeviceState),
}

/// A source that died says most in its own words.
fn ended(guest: &Guest, failed: Failed) -> Failed {
    if guest.is_alive() {
        return failed;
    }
    let error = HostError::Qemu {
        guest: guest.name().to_owned(),
        what: format!("ended while it was captured ({})", failed.error),
        log: guest.places.log(),
        tail: tail(&guest.places.log()),
    };
    Failed { error, source_paused: false }
}

/// The passes so far.
struct Passes {
    /// What arrived in each, the last included: that is everything since the guest stands.
    bytes: Vec<u64>,
    /// What was left to send when each began.
    left: Vec<u64>,
    paused_at: Option<Instant>,
    heard_bytes: u64,
    began_at: Instant,
    /// How long a copy of everything takes, if that is an alternative.
    copy: Option<Duration>,
}

impl Passes {
    fn new(copy: Option<Duration>) -> Self {
        let (bytes, left) = (Vec::new(), Vec::new());
        Self { bytes, left, paused_at: None, heard_bytes: 0, began_at: Instant::now(), copy }
    }

    /// Follow QEMU until it has sent everything, or need not.
    async fn follow(
        &mut self,
        qmp: &mut Qmp,
        outgoing: &Outgoing,
        window: Option<&Window>,
    ) -> Result<End, HostError> {
        let mut heard_at = Instant::now();
        let mut seen = 0;
        loop {
            let event = qmp.event(LOOK).await?;
            let now = outgoing.arrived.stream_bytes();
            // Who waits for another host is not silent.
            if now != seen || window.is_some_and(Window::is_full) {
                (seen, heard_at) = (now, Instant::now());
            }
            match event {
                Some(event) if self.hear(&event, outgoing)? => return Ok(End::Sent),
                Some(event) if event.name == "MIGRATION_PASS" => {
                    self.left.push(left(qmp).await?);
                    if self.paused_at.is_none() && enough(&self.left) {
                        if let Some(why) = self.stop_is_shorter() {
                            return Ok(End::StopIsShorter(why));
                        }
                        // Not `stop`: while that waits for the processors, the migration takes the guest for stopped, sends the
                        // last pass, and what they still write is lost. So QEMU is made to end by itself.
                        let arguments = json!({ "downtime-limit": ANY_DOWNTIME_MS });
                        qmp.execute("migrate-set-parameters", arguments).await?;
                    }
                }
                Some(_) => {}
                None => self.check(outgoing, heard_at)?,
            }
        }
    }

    /// Take note of an event; true when QEMU is through.
    fn hear(&mut self, event: &Event, outgoing: &Outgoing) -> Result<bool, HostError> {
        match (event.name.as_str(), event.data["status"].as_str()) {
            ("STOP", _) if self.paused_at.is_none() => {
                self.passed(outgoing);
                self.paused_at = Some(event.at);
            }
            // The first begins the first.
            ("MIGRATION_PASS", _)
                if event.data["pass"].as_u64() > Some(1) && self.paused_at.is_none() =>
            {
                self.passed(outgoing);
            }
            ("MIGRATION", Some("completed")) => {
                self.passed(outgoing);
                return Ok(true);
            }
            ("MIGRATION", Some(status @ ("failed" | "cancelled" | "cancelling"))) => {
                return Err(HostError::Precondition(format!(
                    "QEMU's state transfer is `{status}`; its log says why"
                )));
            }
            _ => {}
        }
        Ok(false)
    }

    fn passed(&mut self, outgoing: &Outgoing) {
        let bytes = outgoing.arrived.page_bytes();
        self.bytes.push(bytes - self.heard_bytes);
        self.heard_bytes = bytes;
    }

    /// Whether a copy of everything would be done before the last pass; what speaks for it.
    fn stop_is_shorter(&self) -> Option<String> {
        let (copy, left) = (self.copy?, *self.left.last()?);
        let seconds = self.began_at.elapsed().as_secs_f64();
        let last = Duration::from_secs_f64(left as f64 * seconds / self.heard_bytes.max(1) as f64);
        (copy < last).then(|| {
            format!(
                "the guest keeps changing {} MiB, which take {} ms to send; a copy of all takes {} ms",
                left >> 20,
                last.as_millis(),
                copy.as_millis()
            )
        })
    }

    /// Nothing was heard for a while.
    fn check(&self, outgoing: &Outgoing, heard_at: Instant) -> Result<(), HostError> {
        let stuck =
            |what: &str| Err(HostError::Precondition(format!("QEMU's state transfer {what}")));
        if outgoing.has_ended() && heard_at.elapsed() > LOOK {
            return stuck("was cut in the middle, or is not understood");
        }
        if heard_at.elapsed() > SILENCE {
            return stuck(&format!("is silent for {} s", SILENCE.as_secs()));
        }
        if self.paused_at.is_some_and(|at| at.elapsed() > LAST_PATIENCE) {
            return stuck(&format!("keeps the guest for {} s", LAST_PATIENCE.as_secs()));
        }
        Ok(())
    }
}

/// Bytes that QEMU has still to send.
async fn left(qmp: &mut Qmp) -> Result<u64, HostError> {
    let answer = qmp.execute("query-migrate", json!({})).await?;
    Ok(answer["ram"]["remaining"].as_u64().unwrap_or(0))
}

/// Whether the guest is to be stopped, given what was left when each pass began.
fn enough(left: &[u64]) -> bool {
    match left {
        // The first sends everything, so what the second has to do says nothing about how fast it shrinks.
        [.., before, now] if left.len() > 2 => {
            left.len() > MOST_PASSES || *now as f64 > *before as f64 * WORTHWHILE
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_end_when_they_help_no_more() {
        assert!(!enough(&[]));
        assert!(!enough(&[1000]));
        assert!(!enough(&[1000, 900]), "a second pass is always made");
        assert!(enough(&[1000, 300, 300]), "it rewrites the same all the time");
        assert!(!enough(&[1000, 300, 200]));
        assert!(enough(&[1000, 300, 200, 180]));
        let shrinking: Vec<_> = (0..=MOST_PASSES).map(|pass| 1 << (40 - pass)).collect();
        assert!(enough(&shrinking) && !enough(&shrinking[..MOST_PASSES]));
    }
}
