//! The source's port, held while the source is paused: its queue takes nothing then, and what clients send would be lost.
//!
//! A hold makes a migration smoother and is not needed for it: a switch that cannot hold is noted, and the migration goes on.

use std::time::Duration;

use tidegate_api::switch as proto;
use tracing::warn;

use crate::{error::Error, pace::CALL, peers::Peer};

/// The switch ends a hold by itself after so long: this manager may have died.
const DEADLINE: Duration = Duration::from_secs(15);

/// Hold `port` while `work` is done, prolonged every `again`. Gives what came of it, and how many packets had to wait, if the
/// port was held.
pub(crate) async fn while_held<T>(
    peer: &Peer,
    port: &str,
    again: Duration,
    work: impl Future<Output = T>,
) -> (T, Option<u64>) {
    let mut work = std::pin::pin!(work);
    if let Err(error) = hold(peer, port, CALL).await {
        warn!(%error, port, "the source's port is not held: what clients send while it is paused they send again");
        return (work.await, None);
    }
    loop {
        if let Ok(done) = tokio::time::timeout(again, &mut work).await {
            let held = release(peer, port).await;
            let noted = held
                .inspect_err(|error| warn!(%error, port, "the port is held until its deadline"));
            return (done, noted.ok());
        }
        // Not for long: neither the work's end nor the next attempt is to wait for a switch that hangs.
        if let Err(error) = hold(peer, port, again / 2).await {
            warn!(%error, port, "the hold of the source's port was not prolonged; it is tried again");
        }
    }
}

async fn hold(peer: &Peer, port: &str, limit: Duration) -> Result<(), Error> {
    let mut switch = peer.switch().await?;
    let deadline_ms = DEADLINE.as_millis() as u32;
    let request = proto::HoldPortRequest { name: port.to_owned(), deadline_ms };
    peer.answer("HoldPort", limit, switch.hold_port(request)).await.map(drop)
}

async fn release(peer: &Peer, port: &str) -> Result<u64, Error> {
    let mut switch = peer.switch().await?;
    let request = proto::ReleasePortRequest { name: port.to_owned() };
    let released = peer.answer("ReleasePort", CALL, switch.release_port(request)).await?;
    Ok(released.held_packets)
}
