//! Asking for the list.

use std::net::{IpAddr, SocketAddr};

use tidegate_api::{
    host::{self as proto, SocketSource, SocketState},
    switch as switch_proto,
};
use tokio::time::timeout;

use super::{Protocol, Session, SessionList, State, file};
use crate::{
    error::Error,
    pace::CALL,
    peers::{Inventory, Peer},
    spec::Spec,
};

/// The source's sessions at `address`, as the switch has it.
///
/// # Errors
/// Why there is no list.
pub async fn list(
    order: &Spec,
    inventory: &Inventory,
    address: &switch_proto::Address,
) -> Result<Vec<Session>, Error> {
    let host = inventory.host(&order.source_host)?;
    // The source's end has its own address when packets are rewritten to that.
    let locator = address.home.as_ref().and_then(|home| home.locator.parse().ok());
    let addresses: Vec<_> = std::iter::once(order.address).chain(locator).collect();
    let mut sessions = match &order.session_list {
        SessionList::None => Vec::new(),
        SessionList::Auto | SessionList::Agent => {
            ask(order, host, &addresses, SocketSource::Agent).await?
        }
        SessionList::Conntrack => ask(order, host, &addresses, SocketSource::Conntrack).await?,
        SessionList::File(path) => {
            let path = path.clone();
            let read = tokio::task::spawn_blocking(move || file::load(&path)).await;
            // It does not panic; if it did, the manager's own end would be the reason.
            read.map_err(|_| Error::Stopping)??
        }
    };
    sessions.retain(|session| session.is_of(&addresses));
    Ok(sessions)
}

async fn ask(
    order: &Spec,
    peer: &Peer,
    addresses: &[IpAddr],
    source: SocketSource,
) -> Result<Vec<Session>, Error> {
    const ASKED: &str = "ListSockets";
    let mut host = peer.host().await?;
    let request = proto::ListSocketsRequest {
        guest: order.source_guest.clone(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        source: source.into(),
    };
    let mut stream = peer.answer(ASKED, CALL, host.list_sockets(request)).await?;
    let listed = async {
        let mut sessions = Vec::new();
        while let Some(socket) = stream.message().await? {
            sessions.push(socket);
        }
        Ok(sessions)
    };
    let timed_out = |_| Error::TimedOut { peer: peer.title().clone(), call: ASKED, after: CALL };
    let sockets = timeout(CALL, listed).await.map_err(timed_out)?;
    let sockets = sockets.map_err(|status| peer.refusal(ASKED, &status))?;
    let understood = |socket: &proto::Socket| {
        session(socket).ok_or_else(|| Error::Unexpected {
            peer: peer.title().clone(),
            found: format!("a socket that makes no sense: {socket:?}"),
            remedy: "see that manager and host are of the same version",
        })
    };
    sockets.iter().map(understood).collect()
}

fn session(socket: &proto::Socket) -> Option<Session> {
    let end = |address: &str, port: u32| {
        Some(SocketAddr::new(address.parse().ok()?, u16::try_from(port).ok()?))
    };
    Some(Session {
        protocol: match socket.protocol {
            6 => Protocol::Tcp,
            17 => Protocol::Udp,
            _ => return None,
        },
        local: end(&socket.local_address, socket.local_port)?,
        client: end(&socket.remote_address, socket.remote_port)?,
        state: match socket.state() {
            SocketState::Opening => State::Opening,
            SocketState::Established => State::Established,
            SocketState::ClosedLocally => State::ClosedLocally,
            SocketState::ClosedRemotely => State::ClosedRemotely,
            SocketState::Closing => State::Closing,
            SocketState::Unspecified => return None,
        },
    })
}
