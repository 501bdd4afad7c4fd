//! The source goes on, whatever happened.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::sleep;
use tracing::warn;

use super::outgoing::settle;
use crate::{HostError, guest::Guest, inner::Inner, migration::Capture, qmp::Qmp, records};

/// How long QEMU may need, after it has said that its state is saved, until it lets the guest go on.
const FINISHING: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_micros(200);

/// Continue a source; when its monitor is out of step, on a fresh connection.
pub(super) async fn resume(guest: &Guest, mut qmp: Qmp) -> Result<(), HostError> {
    let first = match cont(&mut qmp).await {
        Ok(()) => return Ok(()),
        Err(error) => error,
    };
    warn!(guest = guest.name(), error = %first, "the source did not continue, trying again");
    drop(qmp);
    let mut qmp = guest.qmp().await?;
    settle(&mut qmp).await?;
    cont(&mut qmp).await
}

async fn cont(qmp: &mut Qmp) -> Result<(), HostError> {
    let until = Instant::now() + FINISHING;
    loop {
        match qmp.execute("cont", json!({})).await {
            // It says `completed` a moment before it is.
            Err(HostError::Refused { description, .. })
                if description.contains("not finalized") && Instant::now() < until =>
            {
                sleep(POLL).await;
            }
            done => return done.map(drop),
        }
    }
}

impl Inner {
    /// Continue a source that may have been left paused in the middle of a capture, by an earlier run of this program or
    /// by one of this run that could not continue it.
    pub(crate) async fn recover_capture(
        &self,
        id: &str,
        capture: &Capture,
    ) -> Result<(), HostError> {
        warn!(migration = id, guest = capture.guest, "an interrupted capture is undone");
        if let Ok(guest) = self.guest(&capture.guest)
            && guest.is_alive()
        {
            let _turn = guest.monitor.lock().await;
            let mut qmp = guest.qmp().await?;
            settle(&mut qmp).await?;
            cont(&mut qmp).await?;
        }
        records::remove_dir(&self.twin_dir(id))?;
        self.migrations
            .update(id, |migration| {
                migration.capture = None;
                Ok(())
            })
            .map(drop)
    }
}
