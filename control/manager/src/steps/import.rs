//! The source's sessions, told to the switch: those it has seen it knows, the others it must not miss.

use tidegate_api::switch::{self as proto, switch_client::SwitchClient};
use tonic::transport::Channel;

use super::Work;
use crate::{
    error::Error,
    pace::CALL,
    peers::Peer,
    sessions::{self, Import, SessionList},
};

/// The most the switch takes in one call.
const MOST: usize = 10_000;

/// List the source's sessions and import them at the switch, which has `address`. None when it was not asked for.
/// A repeated import finds most of them known.
pub(super) async fn import(
    work: &Work,
    peer: &Peer,
    switch: &mut SwitchClient<Channel>,
    address: &proto::Address,
) -> Result<Option<Import>, Error> {
    let list = &work.progress.spec.session_list;
    if *list == SessionList::None {
        return Ok(None);
    }
    match try_import(work, peer, switch, address).await {
        // Later steps need the same peers: what is only away for a while is not a missing list.
        Err(error) if *list == SessionList::Auto && !error.is_transient() => {
            tracing::warn!(migration = %work.id, "no list of the source's sessions: {error}");
            Ok(Some(Import::missing(error.to_string())))
        }
        imported => imported.map(Some),
    }
}

async fn try_import(
    work: &Work,
    peer: &Peer,
    switch: &mut SwitchClient<Channel>,
    address: &proto::Address,
) -> Result<Import, Error> {
    let spec = &work.progress.spec;
    let sessions = sessions::list(spec, &work.inventory, address).await?;
    let sessions: Vec<_> = sessions.iter().filter_map(sessions::Session::to_proto).collect();
    let mut import = Import { listed: sessions.len() as u64, ..Import::default() };
    for part in sessions.chunks(MOST) {
        let request =
            proto::ImportSessionsRequest { address: work.address(), sessions: part.to_vec() };
        let call = switch.import_sessions(request);
        import.add(peer.answer("ImportSessions", CALL, call).await?);
    }
    Ok(import)
}
