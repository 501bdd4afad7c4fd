//! Following a migration: the manager may be restarted meanwhile, and an interrupt does not end anything.

use std::time::Duration;

use tidegate_api::{
    Code, Status,
    endpoint::{self, Endpoint},
    manager::{WatchMigrationRequest, manager_client::ManagerClient},
};
use tokio::time::{Instant, sleep};

use crate::{
    domain::migration::{Event, Happening, State},
    error::{Error, Exit},
    show::Show,
};

/// How long a manager may be away.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between attempts to reach it.
const PAUSE: Duration = Duration::from_millis(300);

/// What ended a stream.
enum Seen {
    End(State),
    Broken,
    Interrupted,
}

/// Follow migration `id` to its end.
///
/// # Errors
/// [`Error::Lost`] when the manager stays away, [`Error::Refused`] when it does not know the migration.
pub async fn follow(
    manager: &Endpoint,
    id: &str,
    show: &mut Show<'_>,
    interrupts: &mut Interrupts,
) -> Result<Exit, Error> {
    let mut last = None;
    let mut away_since = None;
    let mut told = false;
    loop {
        let before = last;
        match stream(manager, id, &mut last, show, interrupts, &mut told).await? {
            Seen::End(State::Completed) => return Ok(Exit::Done),
            Seen::End(State::Aborted) => return Ok(Exit::Aborted),
            Seen::End(State::Failed) => return Ok(Exit::Failed),
            Seen::Interrupted => return Ok(Exit::Interrupted),
            Seen::End(State::Running) | Seen::Broken => {}
        }
        let since = match away_since {
            Some(since) if last == before => since,
            _ => Instant::now(),
        };
        away_since = Some(since);
        if since.elapsed() >= PATIENCE {
            return Err(Error::Lost { id: id.to_owned() });
        }
        tokio::select! {
            () = sleep(PAUSE) => {}
            () = interrupts.next() => {
                if told {
                    return Ok(Exit::Interrupted);
                }
                told = true;
                tell(id, show)?;
            }
        }
    }
}

async fn stream(
    manager: &Endpoint,
    id: &str,
    last: &mut Option<u64>,
    show: &mut Show<'_>,
    interrupts: &mut Interrupts,
    told: &mut bool,
) -> Result<Seen, Error> {
    let Ok(channel) = endpoint::connect(manager).await else { return Ok(Seen::Broken) };
    let request = WatchMigrationRequest { id: id.to_owned() };
    let answer = ManagerClient::new(channel).watch_migration(request).await;
    let mut events = match answer {
        Ok(answer) => answer.into_inner(),
        Err(status) if passes(&status) => return Ok(Seen::Broken),
        Err(status) => return Err(status.into()),
    };
    loop {
        let message = tokio::select! {
            message = events.message() => message,
            () = interrupts.next() => {
                if *told {
                    return Ok(Seen::Interrupted);
                }
                *told = true;
                tell(id, show)?;
                continue;
            }
        };
        let event = match message {
            Ok(Some(event)) => Event::try_from(event)?,
            Ok(None) => return Ok(Seen::Broken),
            Err(status) if passes(&status) => return Ok(Seen::Broken),
            Err(status) => return Err(status.into()),
        };
        // After a reconnect the journal comes again from its start.
        if event.what.is_recorded() {
            if last.is_some_and(|last| event.sequence <= last) {
                continue;
            }
            *last = Some(event.sequence);
        }
        show.event(&event)?;
        // A failed migration that was resumed has an end in the middle of its journal.
        if let Happening::Ended { migration, .. } = &event.what
            && migration.state != State::Running
        {
            return Ok(Seen::End(migration.state));
        }
    }
}

fn passes(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
        || matches!(status.code(), Code::Unavailable | Code::Unknown)
}

fn tell(id: &str, show: &mut Show<'_>) -> Result<(), Error> {
    show.line(&format!(
        "\nmigration {id} goes on in the background; once more Ctrl-C leaves it to itself\n\
         watch it:  tidegate watch {id}\nabort it:  tidegate abort {id}"
    ))?;
    Ok(())
}

/// Ctrl-C, as often as it is pressed.
pub struct Interrupts(Option<tokio::signal::unix::Signal>);

impl Interrupts {
    /// Listen from now on; where that is impossible Ctrl-C ends the program as usual.
    #[must_use]
    pub fn listen() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self(signal(SignalKind::interrupt()).ok())
    }

    async fn next(&mut self) {
        match &mut self.0 {
            Some(signal) => {
                signal.recv().await;
            }
            None => std::future::pending().await,
        }
    }
}
