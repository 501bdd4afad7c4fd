//! Watching the source's memory until it stops changing. Nothing is changed by it: it can be given up at any time.

use tidegate_api::host as proto;
use tokio::time::timeout;

use super::Work;
use crate::{
    error::Error,
    live::{self, Advance},
    pace::{CALL, COPY_SILENCE},
    phase::Phase,
    record::Outcome,
    spec::{FinishMode, Quiesce, Unsettled},
};

const ASKED: &str = "Settle";

pub(super) async fn settle(work: &Work) -> Result<Outcome, Error> {
    let spec = &work.progress.spec;
    let Quiesce::Settle { settle_ms, deadline_s, unsettled } = spec.quiesce else {
        return Err(Error::Missing { phase: Phase::Settle });
    };
    let Outcome::Preflight { regions, .. } = work.outcome(Phase::Preflight)? else {
        return Err(Error::Missing { phase: Phase::Preflight });
    };
    let (peer, mut host) = work.source_host().await?;
    let request = proto::SettleRequest {
        guest: spec.source_guest.clone(),
        // What will be carried over is what has to come to rest.
        ram: matches!(spec.finish, FinishMode::Mirror(_)),
        regions: regions.clone(),
        settle_ms,
        deadline_s,
    };
    let mut stream = peer.answer(ASKED, CALL, host.settle(request)).await?;
    loop {
        let message = timeout(COPY_SILENCE, stream.message()).await;
        let timed_out =
            |_| Error::TimedOut { peer: peer.title().clone(), call: ASKED, after: COPY_SILENCE };
        let message = message.map_err(timed_out)?.map_err(|status| peer.refusal(ASKED, &status))?;
        let Some(seen) = message else {
            return Err(Error::Broken {
                peer: peer.title().clone(),
                call: ASKED,
                reason: "it ended before the memory had settled or the deadline passed".to_owned(),
            });
        };
        let proto::SettleProgress { changed_pages, watched_pages, watched_ms, .. } = seen;
        live::advance(
            &work.live,
            Advance::Settle {
                unchanged_ms: seen.unchanged_ms,
                settle_ms: settle_ms.into(),
                changed_pages,
                watched_pages,
            },
        );
        if !seen.done {
            continue;
        }
        if !seen.settled && unsettled == Unsettled::Abort {
            return Err(Error::Unsettled { changed_pages, watched_pages, watched_ms });
        }
        let settled = seen.settled;
        return Ok(Outcome::Settle { settled, watched_ms, changed_pages, watched_pages });
    }
}
