//! For how long a guest does nothing, as whoever waits for it sees it. A guest's own clock stands with it, and a `downtime` leaves out
//! what a brake takes; its console tells both: its program writes there every [`BEAT`].

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tidegate_guest_service::BEAT;

/// How often it is looked whether something was written.
const LOOK: Duration = Duration::from_millis(1);
/// A guest that is late by more was kept from running, by whatever.
const LATE: Duration = Duration::from_millis(BEAT.as_millis() as u64 * 4);

/// Somebody who listens to a guest, wherever it runs.
pub struct Listening {
    consoles: Arc<Mutex<Vec<PathBuf>>>,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Instant>>,
}

/// When a guest was heard.
#[derive(Clone, Debug)]
pub struct Heard(Vec<Instant>);

impl Listening {
    /// Begin with this console.
    #[must_use]
    pub fn to(console: PathBuf) -> Self {
        let (consoles, is_over) = (Arc::new(Mutex::new(vec![console])), Arc::default());
        let (listened, over) = (Arc::clone(&consoles), Arc::clone(&is_over));
        let thread = thread::spawn(move || listen(&listened, &over));
        Self { consoles, is_over, thread }
    }

    /// The guest may also be heard there.
    pub fn and_to(&self, console: PathBuf) {
        self.consoles.lock().unwrap_or_else(PoisonError::into_inner).push(console);
    }

    /// Listen for so much longer, and say what was heard.
    #[must_use]
    pub fn end(self, longer: Duration) -> Heard {
        thread::sleep(longer);
        self.is_over.store(true, Relaxed);
        Heard(self.thread.join().unwrap_or_default())
    }
}

fn listen(consoles: &Mutex<Vec<PathBuf>>, is_over: &AtomicBool) -> Vec<Instant> {
    let mut heard = vec![Instant::now()];
    let mut lengths = Vec::new();
    while !is_over.load(Relaxed) {
        let consoles = consoles.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // One that is not there yet is empty.
        let now: Vec<u64> = consoles
            .iter()
            .map(|console| fs::metadata(console).map_or(0, |meta| meta.len()))
            .collect();
        if now != lengths {
            lengths = now;
            heard.push(Instant::now());
        }
        thread::sleep(LOOK);
    }
    // The silence that is still on counts, too.
    heard.push(Instant::now());
    heard
}

impl Heard {
    fn silences(&self, until: Option<Instant>) -> impl Iterator<Item = Duration> {
        let pairs =
            self.0.windows(2).filter(move |pair| until.is_none_or(|until| pair[1] <= until));
        pairs.map(|pair| pair[1] - pair[0])
    }

    /// Whether the guest was heard since.
    #[must_use]
    pub fn since(&self, then: Instant) -> bool {
        // The last is the end of listening.
        self.0.iter().rev().skip(1).any(|heard| *heard >= then)
    }

    /// The longest silence, of those that were over at `until`.
    #[must_use]
    pub fn longest_ms(&self, until: Option<Instant>) -> f64 {
        self.silences(until).max().unwrap_or_default().as_secs_f64() * 1e3
    }

    /// All silences that were longer than they should be.
    #[must_use]
    pub fn lost_ms(&self) -> f64 {
        let late = self.silences(None).filter(|silence| *silence > LATE);
        late.sum::<Duration>().as_secs_f64() * 1e3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silences_are_told_by_when_they_ended() {
        let began = Instant::now();
        let heard = [0, 5, 10, 80, 85, 385, 390].map(|ms| began + Duration::from_millis(ms));
        let heard = Heard(heard.to_vec());
        assert_eq!(heard.longest_ms(None), 300.0);
        assert_eq!(heard.longest_ms(Some(began + Duration::from_millis(384))), 70.0);
        assert_eq!(heard.lost_ms(), 370.0);
        assert!(heard.since(began + Duration::from_millis(385)));
        assert!(
            !heard.since(began + Duration::from_millis(386)),
            "the last is the end of listening"
        );
        assert_eq!(Heard(Vec::new()).longest_ms(None), 0.0);
    }

    #[test]
    fn a_console_that_grows_is_heard() {
        let dir = tempfile::tempdir().expect("dir");
        let [one, other] = ["one", "other"].map(|name| dir.path().join(name));
        let listening = Listening::to(one.clone());
        listening.and_to(other.clone());
        for console in [&one, &other] {
            thread::sleep(Duration::from_millis(60));
            fs::write(console, "x").expect("written");
        }
        let Heard(heard) = listening.end(Duration::from_millis(50));
        assert!((4..=5).contains(&heard.len()), "{heard:?}");
    }
}
