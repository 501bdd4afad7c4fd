//! Stop and copy: the twin is there and touched, and everything is copied into it while the guest stands.

use std::{path::Path, sync::Arc, time::Instant};

use serde_json::json;
use tidegate_memory::twin::Prepared;

use super::{Failed, Plan, Way, audit, device_state, go_on, outgoing::save_device_state};
use crate::{disks, inner::blocking, migration::Taken, qmp::Qmp};

/// The twin was [`Prepared::prefault`]ed; it is `fresh` when nothing is in it yet.
pub(super) async fn take(
    id: &str,
    plan: &Plan,
    dir: &Path,
    prepared: Arc<Prepared>,
    mut qmp: Qmp,
    fresh: bool,
) -> Result<Taken, Failed> {
    let paused_at = Instant::now();
    let mut stopped = qmp.execute("stop", json!({})).await.map(drop);
    if stopped.is_ok() && plan.freeze_disks {
        stopped = disks::freeze(&plan.guest, &mut qmp, id).await;
    }
    let held = match stopped {
        Ok(()) => {
            // Nothing runs in the guest now, so memory and device state can be taken side by side.
            let filled = prepared.clone();
            let fill = blocking(move || {
                let done = if fresh { filled.fill() } else { filled.fill_again() };
                Ok(done?)
            });
            let save = async {
                if !plan.clone {
                    return Ok(0);
                }
                save_device_state(&plan.guest, &mut qmp, &device_state(dir)).await
            };
            match tokio::join!(fill, save) {
                (Ok(()), Ok(saved)) => audit(plan, prepared).await.map(|()| saved),
                (Err(error), _) | (_, Err(error)) => Err(error),
            }
        }
        Err(error) => Err(error),
    };
    // Whatever happened, the source goes on.
    let device_state_bytes = go_on(&plan.guest, qmp, held).await?;
    Ok(Taken {
        pause_ns: paused_at.elapsed().as_nanos() as u64,
        ram_bytes: plan.ram_bytes,
        region_bytes: plan.region_bytes,
        device_state_bytes,
        way: Some(Way::Stop),
        why: plan.choice.why.clone(),
        pass_bytes: Vec::new(),
        straight: None,
    })
}
