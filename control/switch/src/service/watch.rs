//! A migration's progress as a stream of events.

use std::time::Duration;

use tidegate_api::{Status, switch::MigrationEvent};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_stream::wrappers::ReceiverStream;

use super::answer;
use crate::core::{MigrationState, Progress};

/// Events of the migration that `progress` follows: the present at once, each change of state, counts every
/// `interval` while draining; ends after DRAINED, RELEASED or ABORTED. Only the latest progress is kept for a client
/// that reads slowly.
pub(super) fn events(
    mut progress: watch::Receiver<Progress>,
    interval: Duration,
    mut stopping: watch::Receiver<bool>,
) -> ReceiverStream<Result<MigrationEvent, Status>> {
    let (events, stream) = mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let now = *progress.borrow_and_update();
            let next = Instant::now() + interval;
            // The client went away: nothing is left to do.
            if events.send(Ok(answer::event(now))).await.is_err() || now.state.is_last() {
                return;
            }
            let until_next = async {
                match now.state {
                    MigrationState::Draining => sleep_until(next).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                // The guards `wait_for` gives must not be held across an await.
                goes_on = async { progress.wait_for(|latest| latest.state != now.state).await.is_ok() } => {
                    if !goes_on {
                        let _ = events.send(Err(stopped())).await;
                        return;
                    }
                }
                () = until_next => {}
                () = events.closed() => return,
                () = async { drop(stopping.wait_for(|stopping| *stopping).await) } => {
                    let _ = events.send(Err(stopped())).await;
                    return;
                }
            }
        }
    });
    ReceiverStream::new(stream)
}

fn stopped() -> Status {
    Status::unavailable("tidegated is stopping; watch again once it is back")
}
