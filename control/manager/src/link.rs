//! Whether a guest is connected to its port of the switch.

use std::time::Duration;

use tidegate_api::switch as proto;
use tokio::time::Instant;

use crate::{error::Error, pace::CALL, peers::Peer};

/// Between looks at a port.
const POLL: Duration = Duration::from_millis(100);

/// Wait until the port named `port` has its link. A vhost-user port of a switch that has just been started has none
/// until the guest's QEMU has found the socket again, which it tries once a second.
///
/// # Errors
/// [`Error::LinkDown`] after `limit`; [`Error::Unexpected`] without such a port; what the switch says.
pub async fn wait_until_up(peer: &Peer, port: &str, limit: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    let mut switch = peer.switch().await?;
    loop {
        let call = switch.get_status(proto::GetStatusRequest {});
        let status = peer.answer("GetStatus", CALL, call).await?;
        match status.ports.iter().find(|there| there.name == port) {
            Some(there) if there.link_up => return Ok(()),
            Some(_) if Instant::now() >= deadline => {
                let (peer, port) = (peer.title().clone(), port.to_owned());
                return Err(Error::LinkDown { peer, port, waited: limit });
            }
            Some(_) => tokio::time::sleep(POLL).await,
            None => {
                return Err(Error::Unexpected {
                    peer: peer.title().clone(),
                    found: format!("the source's port `{port}` is not there"),
                    remedy: "see which port the address's home is behind",
                });
            }
        }
    }
}
