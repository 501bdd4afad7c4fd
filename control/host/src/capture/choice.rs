//! Which way a capture is taken, and what its pause will be.
//!
//! Stop-and-copy reads each byte once, by several threads, and its pause is the copy. Passes read what changes meanwhile again, by
//! QEMU's one thread, cost the guest some of its speed while they last, and their pause is what the guest changes during one copy of
//! that: the same whatever RAM it has. So what changes in a tenth of a second is looked at before.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidegate_memory::forecast::Forecast;

use crate::HostError;

/// A copy that takes no longer is not worth passes: saving the devices and the last pass take as long.
const SHORT: Duration = Duration::from_millis(25);
/// What either way needs for the devices and to continue the guest.
const DEVICES: Duration = Duration::from_millis(10);
/// QEMU ends passes by itself when what is left takes no longer than this.
pub(super) const LAST_PASS: Duration = Duration::from_millis(10);
/// What QEMU's one thread sends into a socket, and what is read there, on the slowest machine seen.
const PASS_BYTES_PER_SECOND: f64 = 8e8;
/// Passes before the last.
pub(super) const MOST_PASSES: usize = 8;

/// What was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asked {
    #[default]
    Auto,
    Only(Way),
}

/// How T0 is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// Everything is copied while the guest stands.
    Stop,
    /// It is copied while the guest runs, and what changed meanwhile again; the last pass while the guest stands.
    Passes,
}

/// What was chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) way: Way,
    pub(crate) why: String,
    pub(crate) predicted_pause: Duration,
    /// Nobody asked for this way.
    pub(crate) free: bool,
    /// How long a copy of everything takes.
    pub(crate) copy: Duration,
    /// QEMU's log of changes misses none, however often it is looked at.
    pub(crate) exact_log: bool,
}

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Passes => "passes",
        }
    }
}

impl Choice {
    /// Choose by what there is to copy and how fast that goes. Passes are no faster than `cap`, in bytes per second, while the guest
    /// runs: RAM goes straight to another host then.
    pub(super) fn new(
        asked: Asked,
        clone: bool,
        freeze_disks: bool,
        exact_log: bool,
        forecast: &Forecast,
        cap: Option<u64>,
    ) -> Result<Self, HostError> {
        let per_second = cap.map_or(PASS_BYTES_PER_SECOND, |cap| cap as f64);
        let per_second = per_second.min(PASS_BYTES_PER_SECOND);
        let (copy, last_pass) = (forecast.copy(), last_pass(forecast, exact_log, per_second));
        let copied = format!(
            "{} MiB in use take {} ms to copy",
            forecast.used_bytes >> 20,
            copy.as_millis()
        );
        let passed = format!("the last pass takes about {} ms", last_pass.as_millis());
        let (way, why) = match asked {
            Asked::Only(Way::Passes) if !clone => {
                return Err(HostError::Invalid {
                    field: "way",
                    reason:
                        "passes are QEMU's way to send RAM, and only regions are captured; use \
                             CAPTURE_WAY_STOP or leave it out"
                            .to_owned(),
                });
            }
            Asked::Only(Way::Passes) if freeze_disks => {
                return Err(HostError::Invalid {
                    field: "way",
                    reason: "the guest has disks with overlays, which are frozen while it stands before its devices \
                             are saved, and QEMU does both at once after passes; use CAPTURE_WAY_STOP or leave it out"
                        .to_owned(),
                });
            }
            Asked::Only(way) => (way, format!("asked for; {copied}")),
            Asked::Auto if !clone => (Way::Stop, format!("only regions; {copied}")),
            Asked::Auto if freeze_disks => (Way::Stop, format!("disks are frozen; {copied}")),
            Asked::Auto if copy <= SHORT => (Way::Stop, copied),
            Asked::Auto if copy <= last_pass => {
                let [_, changed] = forecast.changed_bytes;
                let changed = format!("{} MiB changed within 100 ms", changed >> 20);
                (Way::Stop, format!("{copied}; {changed}, so {passed}"))
            }
            Asked::Auto => (Way::Passes, format!("{copied}; {passed}")),
        };
        let predicted_pause = match way {
            Way::Stop if clone => copy + DEVICES,
            Way::Stop => copy,
            Way::Passes => last_pass + DEVICES,
        };
        Ok(Self { way, why, predicted_pause, free: asked == Asked::Auto, copy, exact_log })
    }
}

/// How long the last pass will take, after others that send so many bytes a second. A log that is looked at only while the guest
/// stands allows for one before it. What the last one sends is taken in as it comes, whatever the way to another host is.
fn last_pass(forecast: &Forecast, exact_log: bool, per_second: f64) -> Duration {
    // A cap may be next to nothing.
    let takes =
        |bytes: u64, per_second: f64| Duration::from_secs_f64((bytes as f64 / per_second).min(1e6));
    let mut left_bytes = forecast.used_bytes;
    for _ in 0..if exact_log { MOST_PASSES } else { 1 } {
        let changed_bytes = forecast.changed_within(takes(left_bytes, per_second));
        if changed_bytes >= left_bytes {
            break;
        }
        left_bytes = changed_bytes;
        if takes(left_bytes, per_second) <= LAST_PASS {
            break;
        }
    }
    takes(left_bytes, PASS_BYTES_PER_SECOND).max(LAST_PASS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MIB: u64 = 1 << 20;

    fn choose(asked: Asked, clone: bool, used_bytes: u64) -> Choice {
        let forecast = Forecast { used_bytes, bytes_per_second: 4 * GIB, ..Default::default() };
        Choice::new(asked, clone, false, true, &forecast, None).expect("chosen")
    }

    #[test]
    fn what_is_copied_in_no_time_is_stopped_for() {
        let small = choose(Asked::Auto, true, 64 << 20);
        assert_eq!(small.way, Way::Stop);
        assert_eq!(small.why, "64 MiB in use take 15 ms to copy");
        let large = choose(Asked::Auto, true, GIB);
        assert_eq!(large.way, Way::Passes);
        assert_eq!(
            large.why,
            "1024 MiB in use take 250 ms to copy; the last pass takes about 10 ms"
        );
        assert!(large.predicted_pause < small.predicted_pause);
        assert_eq!(choose(Asked::Auto, true, 64 * GIB).predicted_pause, large.predicted_pause);
        let regions = choose(Asked::Auto, false, GIB);
        assert_eq!((regions.way, regions.predicted_pause), (Way::Stop, Duration::from_millis(250)));
        let asked = choose(Asked::Only(Way::Stop), true, GIB);
        assert_eq!((asked.way, asked.predicted_pause), (Way::Stop, Duration::from_millis(260)));
        assert!(asked.why.starts_with("asked for"), "{}", asked.why);
    }

    #[test]
    fn a_guest_that_changes_much_is_stopped_for() {
        let choose = |changed: [u64; 2], exact_log| {
            let forecast = Forecast {
                used_bytes: GIB,
                bytes_per_second: 4 * GIB,
                changed_bytes: changed.map(|mib| mib * MIB),
            };
            Choice::new(Asked::Auto, true, false, exact_log, &forecast, None).expect("chosen")
        };
        // It rewrites 16 MiB, 256 MiB, and ever more of what it has.
        let little = choose([16, 16], false);
        assert_eq!((little.way, little.predicted_pause.as_millis()), (Way::Passes, 30));
        let much = choose([200, 256], false);
        assert_eq!((much.way, much.predicted_pause.as_millis()), (Way::Stop, 260));
        assert_eq!(
            much.why,
            "1024 MiB in use take 250 ms to copy; 256 MiB changed within 100 ms, so the last pass takes about 1342 ms"
        );
        // More passes leave less of what is changed slowly.
        let [once, often] = [false, true].map(|exact_log| choose([2, 4], exact_log));
        assert_eq!((once.way, often.way), (Way::Passes, Way::Passes));
        assert!(often.predicted_pause < once.predicted_pause, "{once:?} {often:?}");
    }

    #[test]
    fn a_cap_leaves_the_guest_more_time_to_change_its_memory() {
        let choose = |asked, cap| {
            let forecast = Forecast {
                used_bytes: GIB,
                bytes_per_second: 4 * GIB,
                changed_bytes: [2 * MIB, 4 * MIB],
            };
            Choice::new(asked, true, false, false, &forecast, cap).expect("chosen")
        };
        // A pass of 1.3 s at QEMU's speed, and of 10.7 s at the cap; what changes meanwhile is taken in at QEMU's.
        let passes = Asked::Only(Way::Passes);
        let pause_ms = |cap| choose(passes, cap).predicted_pause.as_millis();
        assert_eq!([None, Some(1 << 40), Some(100_000_000)].map(pause_ms), [80, 80, 572]);
        assert!(pause_ms(Some(1)) > 1000, "all of it changes");
        assert_eq!(choose(Asked::Auto, None).way, Way::Passes);
        assert_eq!(choose(Asked::Auto, Some(100_000_000)).way, Way::Stop);
    }

    #[test]
    fn passes_need_ram() {
        let forecast = Forecast::default();
        let error = Choice::new(Asked::Only(Way::Passes), false, false, true, &forecast, None)
            .expect_err("refused");
        assert!(error.to_string().starts_with("way: passes"), "{error}");
        assert_eq!(choose(Asked::Only(Way::Passes), true, 1).way, Way::Passes);
    }

    #[test]
    fn disks_are_frozen_while_the_guest_stands() {
        let forecast =
            Forecast { used_bytes: 64 * GIB, bytes_per_second: 4 * GIB, ..Default::default() };
        let choice = Choice::new(Asked::Auto, true, true, true, &forecast, None).expect("chosen");
        assert_eq!(choice.way, Way::Stop);
        assert!(choice.why.starts_with("disks are frozen"), "{}", choice.why);
        let passes = Choice::new(Asked::Only(Way::Passes), true, true, true, &forecast, None);
        let error = passes.expect_err("refused").to_string();
        assert!(error.contains("CAPTURE_WAY_STOP"), "{error}");
    }
}
