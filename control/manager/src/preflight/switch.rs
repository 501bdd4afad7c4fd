//! Whether the switch box can do its part.

use tidegate_api::switch::{self as switch_proto, AddressState, Port};

use super::Findings;
use crate::{
    error::Error,
    link,
    pace::{CALL, Pace},
    peers::{Inventory, Peer},
    spec::{DestinationKind, Encap, Spec},
};

/// What later checks need of it.
pub(super) struct Switch {
    pub(super) longest_silence_ms: u64,
    pub(super) home: switch_proto::Backend,
    pub(super) address: switch_proto::Address,
}

impl Switch {
    pub(super) fn speaks_quic(&self) -> bool {
        self.address.quic.is_some()
    }
}

/// `ours`: this manager migrates the address already.
pub(super) async fn check(
    order: &Spec,
    inventory: &Inventory,
    pace: Pace,
    ours: bool,
    findings: &mut Findings,
) -> Option<Switch> {
    let (peer, status) =
        findings.take("switch reachable", switch_status(order, inventory).await)?;
    let address = findings.take("address known", address(order, peer).await)?;
    // A migration of our own is named by the first check already.
    if !ours {
        findings.note("address not in a migration", unsteered(order, peer, &address));
    }
    findings.note("destination port", destination_port(order, peer, &status.ports));
    let Some(home) = address.home.clone() else {
        findings.note("home", Err(format!("{} has no home backend", order.address)));
        return None;
    };
    // A booted one begins anew; what a clone takes over from its source must be connected there.
    if order.kind == DestinationKind::Clone && home.encap.is_none() {
        let up = link::wait_until_up(peer, &home.port, pace.link).await;
        let detail = |()| format!("`{}` has its link", home.port);
        findings.note("source port", up.map(detail).map_err(|error| error.to_string()));
    }
    Some(Switch { longest_silence_ms: status.longest_silence_ms, home, address })
}

fn unsteered(order: &Spec, peer: &Peer, address: &switch_proto::Address) -> Result<String, String> {
    let cut_over = matches!(address.state(), AddressState::Draining | AddressState::Drained);
    if address.destination.is_none() && !cut_over {
        return Ok(format!("epoch {}", address.epoch));
    }
    let (address, switch) = (order.address, peer.title());
    Err(format!(
        "{address} is in a migration on {switch} that this manager does not drive; abort it there first"
    ))
}

async fn switch_status<'a>(
    order: &Spec,
    inventory: &'a Inventory,
) -> Result<((&'a Peer, switch_proto::Status), String), String> {
    let ask = async {
        let peer = inventory.switch(&order.switch)?;
        let mut switch = peer.switch().await?;
        let call = switch.get_status(switch_proto::GetStatusRequest {});
        Ok::<_, Error>((peer, peer.answer("GetStatus", CALL, call).await?))
    };
    let (peer, status) = ask.await.map_err(|error| error.to_string())?;
    let detail = format!("{}, version {}", peer.title(), status.version);
    Ok(((peer, status), detail))
}

async fn address(order: &Spec, peer: &Peer) -> Result<(switch_proto::Address, String), String> {
    let ask = async {
        let mut switch = peer.switch().await?;
        let request = switch_proto::GetAddressRequest { address: order.address.to_string() };
        peer.answer("GetAddress", CALL, switch.get_address(request)).await
    };
    match ask.await {
        Ok(address) => {
            let home = address.home.as_ref().map_or("none", |home| home.name.as_str());
            let detail = format!("home is `{home}`, {} session(s)", address.home_sessions);
            Ok((address, detail))
        }
        Err(error) if error.is_not_found() => Err(format!(
            "{} does not know {}; configure it there with its home backend",
            peer.title(),
            order.address
        )),
        Err(error) => Err(error.to_string()),
    }
}

/// The destination's port may be down until its guest is there; a tunnel is made when it is needed.
fn destination_port(order: &Spec, peer: &Peer, ports: &[Port]) -> Result<String, String> {
    if let Some(name) = &order.port
        && ports.iter().all(|port| port.name != *name)
    {
        let there: Vec<_> = ports.iter().map(|port| port.name.as_str()).collect();
        return Err(format!("{} has no port `{name}`; it has {}", peer.title(), there.join(", ")));
    }
    match (&order.encap, &order.port) {
        (Some(encap), _) => tunnel(encap, peer, ports),
        (None, Some(name)) => Ok(format!("`{name}` is there")),
        (None, None) => Err("neither a port nor a tunnel is named".to_owned()),
    }
}

/// The tunnel's end must be the box's, and the other end must not.
fn tunnel(encap: &Encap, peer: &Peer, ports: &[Port]) -> Result<String, String> {
    let Encap { local, remote, .. } = encap;
    let own = |text: &str| text.split_once('/').map_or(text, |(address, _)| address).parse().ok();
    let owner = |address| {
        let mut ports = ports.iter();
        ports.find(|port| port.addresses.iter().any(|it| own(it) == Some(address)))
    };
    let switch = peer.title();
    if let Some(port) = owner(*remote) {
        let name = &port.name;
        return Err(format!(
            "{remote} is an address of {switch} itself, on port `{name}`; name the machine at the \
             tunnel's other end"
        ));
    }
    let Some(port) = owner(*local) else {
        let all = ports.iter().flat_map(|port| &port.addresses);
        let known = all.map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(format!("{local} is no address of {switch}; it has {known}"));
    };
    Ok(format!("{encap}, at port `{}`", port.name))
}
