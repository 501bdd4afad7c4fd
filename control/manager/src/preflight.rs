//! Everything that can be checked before anything changes.

mod rules;
mod sessions;
mod switch;

pub use rules::state_word;
use rules::{clone_card, regions, rewrite, room};
use tidegate_api::host::{self as host_proto, CheckCaptureResponse, GuestState};

use crate::{
    error::Error,
    guest::{GuestSpec, identity},
    pace::{CALL, Pace},
    peers::{Inventory, Peer},
    record::Outcome,
    spec::{CaptureWay, Carriage, DestinationKind, FinishMode, Quiesce, Spec, Unknown},
    steps::clone_use,
};

/// One check's result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What was found; or what is wrong, and what to do.
    pub result: Result<String, String>,
    /// Good, and yet something to know.
    pub warning: bool,
}

/// All checks, and what they settled when all are good.
#[derive(Debug, Default)]
pub struct Findings {
    /// In the order they were made.
    pub checks: Vec<Check>,
    settled: Option<Outcome>,
}

impl Findings {
    /// What was settled.
    ///
    /// # Errors
    /// [`Error::Preflight`] with the first failed check.
    pub fn outcome(self) -> Result<Outcome, Error> {
        let failed = self.checks.iter().find_map(|check| {
            check.result.as_ref().err().map(|detail| (check.name, detail.clone()))
        });
        match (failed, self.settled) {
            (Some((check, detail)), _) => Err(Error::Preflight { check, detail }),
            (None, Some(outcome)) => Ok(outcome),
            (None, None) => {
                let detail = "the checks settled nothing; this is a defect".to_owned();
                Err(Error::Preflight { check: "preflight", detail })
            }
        }
    }

    /// Whether every check is good.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.checks.iter().all(|check| check.result.is_ok())
    }

    fn note(&mut self, name: &'static str, result: Result<String, String>) -> bool {
        let ok = result.is_ok();
        self.checks.push(Check { name, result, warning: false });
        ok
    }

    fn warn(&mut self, name: &'static str, detail: String) {
        self.checks.push(Check { name, result: Ok(detail), warning: true });
    }

    fn take<T>(&mut self, name: &'static str, result: Result<(T, String), String>) -> Option<T> {
        let (value, result) = match result {
            Ok((value, detail)) => (Some(value), Ok(detail)),
            Err(problem) => (None, Err(problem)),
        };
        self.note(name, result);
        value
    }
}

/// Check `order`. `busy` is the migration that has the address in this manager already, if one has.
pub async fn check(
    order: &Spec,
    inventory: &Inventory,
    pace: Pace,
    busy: Option<String>,
) -> Findings {
    let mut findings = Findings::default();
    let ours = busy.is_some();
    let free = match busy {
        None => Ok("no migration of it runs here".to_owned()),
        Some(id) => Err(format!("migration {id} of {} runs; watch or abort it", order.address)),
    };
    findings.note("address free", free);
    let switch = switch::check(order, inventory, pace, ours, &mut findings).await;
    let destination = host_status(&order.destination_host, inventory).await;
    let data_endpoint = destination.as_ref().map(|((_, status), _)| status.data_endpoint.clone());
    let data_endpoint = data_endpoint.unwrap_or_default();
    let source = source_checks(order, data_endpoint, inventory, &mut findings).await;
    if let (Some(switch), Some(_)) = (&switch, &source) {
        sessions::check(order, inventory, switch, &mut findings).await;
    }
    let destination_host = destination_checks(order, destination, &mut findings).await;
    if let (Some(source), Some(destination), DestinationKind::Clone) =
        (&source, &destination_host, order.kind)
    {
        let (from, to) = (&source.status.qemu_version, &destination.qemu_version);
        let same = if from == to {
            Ok(format!("both have QEMU {from}"))
        } else {
            Err(format!(
                "the source's host has QEMU {from}, the destination's {to}; install the same"
            ))
        };
        findings.note("qemu versions", same);
    }
    let Some(source) = source else { return findings };
    let mac = match order.kind {
        DestinationKind::Clone => findings.take("network card", clone_card(order, &source.spec)),
        DestinationKind::Boot => order.mac,
    };
    if let Some(switch) = &switch {
        findings.note("rewrite", rewrite(order, &switch.home, mac));
        policies(order, switch.speaks_quic(), &mut findings);
    }
    let Some(mac) = mac else { return findings };
    let destination = Box::new(GuestSpec::destination(&source.capture, order, mac));
    if let Some(status) = &destination_host {
        findings.note("destination memory", room(order, &destination, status));
    }
    findings.settled = Some(Outcome::Preflight {
        destination,
        mac,
        regions: source.capture.regions.iter().map(|region| region.name.clone()).collect(),
        twin_bytes: source.capture.ram_bytes + source.capture.region_bytes,
        generation_id: source.capture.generation_id.clone(),
        identity: identity(&source.spec),
    });
    findings
}

fn policies(order: &Spec, speaks_quic: bool, findings: &mut Findings) {
    let detail = order.policies.to_string();
    if speaks_quic || order.policies.unknown_quic == Unknown::default() {
        findings.note("policies", Ok(detail));
    } else {
        let none = format!("; but {} speaks no QUIC at the box: all UDP is alike", order.address);
        findings.warn("policies", detail + &none);
    }
}

struct Source {
    status: host_proto::Status,
    spec: host_proto::GuestSpec,
    capture: CheckCaptureResponse,
}

async fn source_checks(
    order: &Spec,
    data_endpoint: String,
    inventory: &Inventory,
    findings: &mut Findings,
) -> Option<Source> {
    let reached = host_status(&order.source_host, inventory).await;
    let (peer, status) = findings.take("source host reachable", reached)?;
    let guest = findings.take("source running", running(order, peer).await)?;
    let capture =
        findings.take("source can be captured", capture(order, data_endpoint, peer).await)?;
    let spec = capture.spec.clone().or(guest.spec)?;
    let wanted = match capture.twin_room_bytes {
        // An earlier version.
        0 => capture.ram_bytes + capture.region_bytes,
        room => room,
    };
    findings.note(
        "twin space",
        if wanted <= status.twin_free_bytes {
            let kept = match capture.twin_kept.as_str() {
                "" => String::new(),
                kept => format!("; of RAM is kept: {kept}"),
            };
            Ok(format!("{wanted} of {} bytes free{kept}", status.twin_free_bytes))
        } else {
            Err(format!(
                "the twin needs {wanted} bytes, {} has {} free; make room in its twin directory",
                peer.title(),
                status.twin_free_bytes
            ))
        },
    );
    findings.note("regions", regions(order, &spec));
    for safety in &capture.safety {
        let detail = format!("{}: {}", safety.name, safety.detail);
        match (safety.ok, safety.warning) {
            (true, true) => findings.warn("clone safety", detail),
            (true, false) => drop(findings.note("clone safety", Ok(detail))),
            (false, _) => drop(findings.note("clone safety", Err(detail))),
        }
    }
    match &capture.carriage {
        Some(way) if !way.ok => drop(findings.note("carriage", Err(way.detail.clone()))),
        // A host of an earlier version has not looked.
        _ if order.carriage != Carriage::default() => {
            findings.note("carriage", Ok(order.carriage.to_string()));
        }
        _ => {}
    }
    if order.quiesce != Quiesce::Stop {
        findings.note("quiescence", Ok(order.quiesce.to_string()));
    }
    Some(Source { status, spec, capture })
}

type Reached<'a> = Result<((&'a Peer, host_proto::Status), String), String>;

async fn host_status<'a>(name: &str, inventory: &'a Inventory) -> Reached<'a> {
    let ask = async {
        let peer = inventory.host(name)?;
        let mut host = peer.host().await?;
        let call = host.get_status(host_proto::GetStatusRequest {});
        Ok::<_, Error>((peer, peer.answer("GetStatus", CALL, call).await?))
    };
    let (peer, status) = ask.await.map_err(|error| error.to_string())?;
    let detail = format!("{}, QEMU {}", peer.title(), status.qemu_version);
    Ok(((peer, status), detail))
}

async fn running(order: &Spec, peer: &Peer) -> Result<(host_proto::Guest, String), String> {
    let ask = async {
        let mut host = peer.host().await?;
        let request = host_proto::GetGuestRequest { name: order.source_guest.clone() };
        peer.answer("GetGuest", CALL, host.get_guest(request)).await
    };
    let guest = ask.await.map_err(|error| error.to_string())?;
    match guest.state() {
        GuestState::Running => {
            let detail = format!("`{}`, process {}", order.source_guest, guest.pid);
            Ok((guest, detail))
        }
        state => Err(format!(
            "`{}` on {} is {}; a migration starts from a running guest",
            order.source_guest,
            peer.title(),
            state_word(state)
        )),
    }
}

async fn capture(
    order: &Spec,
    data_endpoint: String,
    peer: &Peer,
) -> Result<(CheckCaptureResponse, String), String> {
    let ask = async {
        let mut host = peer.host().await?;
        let request = host_proto::CheckCaptureRequest {
            guest: order.source_guest.clone(),
            clone: order.kind == DestinationKind::Clone,
            regions: order.regions.clone(),
            clone_use: clone_use(order).into(),
            merge: order.finish == FinishMode::Merge,
            way: order.capture.to_proto().into(),
            straight: order.kind == DestinationKind::Clone,
            transport: order.carriage.transport_name(),
            data_endpoint,
        };
        peer.answer("CheckCapture", CALL, host.check_capture(request)).await
    };
    let answer = ask.await.map_err(|error| error.to_string())?;
    let detail = format!(
        "RAM {} bytes, regions {} bytes; by {} ({}), a pause of about {} ms",
        answer.ram_bytes,
        answer.region_bytes,
        CaptureWay::from_proto(answer.way()),
        answer.why,
        answer.predicted_pause_ns.div_ceil(1_000_000)
    );
    Ok((answer, detail))
}

async fn destination_checks(
    order: &Spec,
    reached: Reached<'_>,
    findings: &mut Findings,
) -> Option<host_proto::Status> {
    let (peer, status) = findings.take("destination host reachable", reached)?;
    let ask = async {
        let mut host = peer.host().await?;
        let request = host_proto::GetGuestRequest { name: order.destination_guest.clone() };
        peer.answer("GetGuest", CALL, host.get_guest(request)).await
    };
    let name = &order.destination_guest;
    findings.note(
        "destination name free",
        match ask.await {
            Err(error) if error.is_not_found() => Ok(format!("`{name}`")),
            Err(error) => Err(error.to_string()),
            Ok(_) => Err(format!(
                "{} has a guest `{name}` already; choose another name or delete it",
                peer.title()
            )),
        },
    );
    Some(status)
}
