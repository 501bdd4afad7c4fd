//! Memory that goes to another host while it comes in: here is only what has not arrived there yet.
//!
//! Two sparse files of the memory's size take turns. Pages are put into one of them, and each is noted. [`Window::forward`] takes
//! what was noted and turns the files, brings the pages over ([`Sending::pass`]), and empties the file that it took.
//!
//! | file | who touches it |
//! |---|---|
//! | the one that fills | [`Window::put`], under the lock |
//! | the other | [`Window::forward`] alone; it is empty when the files are turned |
//!
//! So a page does not change between being hashed and having arrived: one that is put again goes into the file that fills, is noted
//! there, and is of a later pass, which wins. What is emptied has arrived, by the pass's barrier, and nothing was put there since.
//!
//! Who puts pages waits while as many as the limit are here, until [`Window::lift`].

use std::{
    fs,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    Mapping, MemoryError,
    copy::{Progress, Sending, Stretch},
    locked,
    mapping::PAGE_BYTES,
};

const PAGE: u64 = PAGE_BYTES as u64;
/// Least that may be here. Half of it is sent at once.
const LEAST_BYTES: u64 = 8 << 20;
/// With more memory, this part of it: the time that a pass takes to and fro is paid for less often.
const PART: u64 = 64;
/// How often it is looked whether the copy is to go on.
const TICK: Duration = Duration::from_millis(100);

/// Pages of one object on their way to another host.
#[derive(Debug)]
pub struct Window {
    files: [Arc<Mapping>; 2],
    limit_pages: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Index of the file that fills.
    filling: usize,
    /// Pages put into it, in the order they came.
    noted: Vec<u64>,
    /// Pages of the other file.
    leaving_pages: u64,
    /// Most pages that were here.
    most_pages: u64,
    /// Pages that are zeros and need not be put.
    zero_pages: u64,
    limited: bool,
    /// Somebody waits for room.
    full: bool,
    /// Nothing more is put, or what is put is brought over no more.
    over: bool,
}

/// What is to be done next.
enum Next {
    Pages(Vec<u64>, Arc<Mapping>),
    Nothing,
    End,
}

/// Most bytes that are here of an object of `size_bytes` while who puts them can wait.
#[must_use]
pub fn limit_bytes(size_bytes: u64) -> u64 {
    (size_bytes / PART).max(LEAST_BYTES).min(size_bytes)
}

impl Window {
    /// For an object of `size_bytes`, its files in `dir`.
    ///
    /// # Errors
    /// [`MemoryError::File`].
    pub fn new(dir: &Path, size_bytes: u64) -> Result<Self, MemoryError> {
        Self::with_limit(dir, size_bytes, limit_bytes(size_bytes))
    }

    pub(super) fn with_limit(
        dir: &Path,
        size_bytes: u64,
        limit_bytes: u64,
    ) -> Result<Self, MemoryError> {
        let file = |name| Mapping::create(&dir.join(name), size_bytes).map(Arc::new);
        let state = State {
            filling: 0,
            noted: Vec::new(),
            leaving_pages: 0,
            most_pages: 0,
            zero_pages: 0,
            limited: true,
            full: false,
            over: false,
        };
        Ok(Self {
            files: [file("window-0")?, file("window-1")?],
            limit_pages: limit_bytes.div_ceil(PAGE).max(2),
            state: Mutex::new(state),
            changed: Condvar::new(),
        })
    }

    /// Put a page, in place of what was put or sent for it before. A page that was never put is zeros. Waits while there is no room.
    ///
    /// # Errors
    /// [`MemoryError::OutOfBounds`], [`MemoryError::NoSpace`], [`MemoryError::File`]; [`MemoryError::Cancelled`] when nothing is brought over any more, of which
    /// [`Self::forward`] has said why.
    pub fn put(&self, offset: u64, page: &[u8]) -> Result<(), MemoryError> {
        let mut state = locked(&self.state);
        while state.limited && state.here_pages() >= self.limit_pages && !state.over {
            state.full = true;
            self.changed.notify_all();
            state = self.wait(state, None);
        }
        state.full = false;
        if state.over {
            return Err(MemoryError::Cancelled("nothing is brought over any more".to_owned()));
        }
        self.files[state.filling].write_through(offset, page)?;
        state.noted.push(offset / PAGE);
        state.most_pages = state.most_pages.max(state.here_pages());
        if state.noted.len() as u64 == self.batch_pages() {
            self.changed.notify_all();
        }
        Ok(())
    }

    /// A page that is zeros, and was never put, need not be.
    pub fn leave_out(&self) {
        locked(&self.state).zero_pages += 1;
    }

    /// Let everything in from now on: who puts pages does not wait any more.
    pub fn lift(&self) {
        locked(&self.state).limited = false;
        self.changed.notify_all();
    }

    /// Whether somebody waits for room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        locked(&self.state).full
    }

    /// Whether nothing can be put any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        locked(&self.state).over
    }

    /// Nothing more is put.
    pub fn close(&self) {
        locked(&self.state).over = true;
        self.changed.notify_all();
    }

    /// Most bytes that were here.
    #[must_use]
    pub fn most_bytes(&self) -> u64 {
        locked(&self.state).most_pages * PAGE
    }

    /// Of a copy that gets its object from here: pages that were left out are dealt with too.
    #[must_use]
    pub fn progress(&self, copy: Progress) -> Progress {
        let covered_bytes = copy.covered_bytes + locked(&self.state).zero_pages * PAGE;
        // One that is told again was covered before.
        Progress { covered_bytes: covered_bytes.min(copy.total_bytes), ..copy }
    }

    /// Remove its files.
    ///
    /// # Errors
    /// [`MemoryError::File`].
    pub fn remove(&self) -> Result<(), MemoryError> {
        for path in self.files.iter().map(|file| file.path()) {
            fs::remove_file(path).map_err(MemoryError::file("remove", path))?;
        }
        Ok(())
    }

    /// Bring over what is put, as `object` of a copy that was begun without its bytes, until nothing more is put. The copy has no bytes
    /// of it then, and can be finished.
    ///
    /// # Errors
    /// The copy's; nobody can put anything any more then.
    pub fn forward(
        &self,
        sending: &mut Sending,
        object: usize,
        report: &mut dyn FnMut(Progress),
    ) -> Result<(), MemoryError> {
        let _until_then = Open(self);
        loop {
            match self.next() {
                Next::Pages(pages, file) => {
                    let stretches = stretches(object, pages, file.size_bytes());
                    sending.read_from(object, Some(file.clone()));
                    sending.pass(&stretches, report)?;
                    file.punch(0, file.size_bytes())?;
                    locked(&self.state).leaving_pages = 0;
                    self.changed.notify_all();
                }
                Next::Nothing => sending.keep_up(report)?,
                Next::End => {
                    sending.read_from(object, None);
                    return Ok(());
                }
            }
        }
    }

    /// Turn the files when enough was noted, or when nothing more comes.
    fn next(&self) -> Next {
        let mut state = locked(&self.state);
        let ready = |state: &State| state.over || state.noted.len() as u64 >= self.batch_pages();
        if !ready(&state) {
            state = self.wait(state, Some(TICK));
        }
        if !ready(&state) {
            return Next::Nothing;
        }
        if state.noted.is_empty() {
            return Next::End;
        }
        let pages = std::mem::take(&mut state.noted);
        state.leaving_pages = pages.len() as u64;
        let file = self.files[state.filling].clone();
        state.filling ^= 1;
        Next::Pages(pages, file)
    }

    fn batch_pages(&self) -> u64 {
        self.limit_pages / 2
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        patience: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match patience {
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.changed.wait_timeout(state, patience);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
        }
    }
}

impl State {
    /// Those that came twice count twice.
    fn here_pages(&self) -> u64 {
        self.noted.len() as u64 + self.leaving_pages
    }
}

/// However the forwarding ends: nobody may wait for it for ever.
struct Open<'a>(&'a Window);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Pages in any order as stretches.
fn stretches(object: usize, mut pages: Vec<u64>, size_bytes: u64) -> Vec<Stretch> {
    pages.sort_unstable();
    let mut stretches: Vec<Stretch> = Vec::new();
    for page in pages {
        let range = page * PAGE..((page + 1) * PAGE).min(size_bytes);
        match stretches.last_mut() {
            // The same page, or the next.
            Some(last) if last.range.end >= range.start => last.range.end = range.end,
            _ => stretches.push(Stretch { object, range }),
        }
    }
    stretches
}
