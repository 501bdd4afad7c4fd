//! Data streams at the receiver: who they belong to, and what has come over them.

use std::{
    collections::HashMap,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use rustix::rand::{GetRandomFlags, getrandom};

use crate::{
    MemoryError,
    copy::{
        MAX_LANES, SILENCE,
        ground::Ground,
        message::{
            CHUNK_HEAD_BYTES, Head, Join, Kind, TOKEN_BYTES, connection, parse_piece, read_head,
            write_message,
        },
    },
    locked,
    transport::{Arrivals, Cut, Piece, Stream, pack::Unpacker},
};

type Token = [u8; TOKEN_BYTES];

/// The copies that data streams can be joined to.
#[derive(Default)]
pub struct Joins(Mutex<HashMap<Token, Weak<Copy>>>);

/// The receiving end of one copy's data streams.
pub(super) struct Arriving {
    joins: Arc<Joins>,
    token: Token,
    copy: Arc<Copy>,
}

struct Copy {
    ground: Arc<Ground>,
    state: Mutex<State>,
    moved: Condvar,
}

#[derive(Default)]
struct State {
    lanes: HashMap<usize, LaneState>,
    /// The copy is over: no stream joins, and none lands anything.
    closed: bool,
}

#[derive(Default)]
struct LaneState {
    /// Messages that are dealt with.
    messages: u64,
    /// How the lane ended.
    ended: Option<MemoryError>,
    cut: Option<Cut>,
}

impl Joins {
    /// Let a stream that said JOIN carry its copy's bytes until it ends.
    ///
    /// # Errors
    /// [`MemoryError`] for a copy that is not there; what ends a lane is told to its copy.
    pub fn serve(&self, stream: &mut dyn Stream, join: Join) -> Result<(), MemoryError> {
        let copy = locked(&self.0).get(&join.token).and_then(Weak::upgrade);
        let unknown = || MemoryError::Refused("no copy waits for this data stream".to_owned());
        let copy = copy.ok_or_else(unknown)?;
        copy.enlist(stream, join.lane)?;
        let ended = carry(&copy, stream, join.lane);
        copy.change(|state| {
            let lane = state.lanes.entry(join.lane).or_default();
            lane.ended = Some(ended);
            lane.cut = None;
        });
        Ok(())
    }
}

impl Copy {
    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.moved.notify_all();
    }

    fn enlist(&self, stream: &dyn Stream, number: usize) -> Result<(), MemoryError> {
        let cut = stream.cut().map_err(connection("joining a data stream"))?;
        let mut state = self.state();
        if state.closed || number >= MAX_LANES || state.lanes.contains_key(&number) {
            return Err(MemoryError::Refused(format!("lane {number} cannot join this copy")));
        }
        state.lanes.insert(number, LaneState { cut: Some(cut), ..LaneState::default() });
        drop(state);
        self.moved.notify_all();
        Ok(())
    }

    /// Whether the lane may go on after one more message.
    fn count(&self, number: usize) -> bool {
        let mut goes_on = false;
        self.change(|state| {
            goes_on = !state.closed;
            state.lanes.entry(number).or_default().messages += 1;
        });
        goes_on
    }
}

/// Land what comes over one stream; why it ended.
fn carry(copy: &Copy, stream: &mut dyn Stream, number: usize) -> MemoryError {
    let welcomed = write_message(stream, Kind::Welcome, &[]);
    // A lane may be silent as long as its copy is not: who waits for it watches the time, and cuts it.
    let patient = stream.set_patience(None).map_err(connection("joining a data stream"));
    if let Err(error) = welcomed.and(patient) {
        return error;
    }
    let mut unpacker = Unpacker::default();
    loop {
        let landed = read_head(stream, "receiving memory")
            .and_then(|head| land(&copy.ground, stream, head, &mut unpacker));
        match landed {
            Ok(()) if copy.count(number) => {}
            Ok(()) => return MemoryError::Refused("the copy is over".to_owned()),
            Err(error) => return error,
        }
    }
}

fn land(
    ground: &Ground,
    stream: &mut dyn Stream,
    head: Head,
    unpacker: &mut Unpacker,
) -> Result<(), MemoryError> {
    const DURING: &str = "receiving a chunk's place";
    let mut place = [0; CHUNK_HEAD_BYTES + 8];
    let place_len = match head.kind {
        Kind::Chunk | Kind::Packed => CHUNK_HEAD_BYTES,
        Kind::Zero => CHUNK_HEAD_BYTES + 8,
        other => return Err(MemoryError::Protocol(format!("{other:?} came on a data stream"))),
    };
    stream.receive(&mut place[..place_len]).map_err(connection(DURING))?;
    let piece: Piece = parse_piece(head, &place[..place_len])?;
    match head.kind {
        Kind::Chunk => ground.land(piece, |file, at, len| {
            // Straight from the socket to where the guest will find it.
            stream.receive_memory(file, at, len)
        }),
        Kind::Packed => {
            // Looked at before anything is read for it: what it says must be a piece.
            ground.layout().section_of(piece)?;
            let bytes = unpacker.unpack(stream, head.len - CHUNK_HEAD_BYTES, piece.len_bytes)?;
            ground.land(piece, |file, at, len| {
                let start = (at - piece.offset) as usize;
                file.write(at, &bytes[start..start + len as usize])
            })
        }
        _ => ground.zero(piece),
    }
}

impl Arriving {
    pub(super) fn new(joins: &Arc<Joins>, ground: &Arc<Ground>) -> Result<Self, MemoryError> {
        let mut token = Token::default();
        // Sixteen bytes come whole.
        getrandom(&mut token, GetRandomFlags::empty())
            .map_err(|error| connection("making a token")(error.into()))?;
        let copy = Arc::new(Copy {
            ground: ground.clone(),
            state: Mutex::default(),
            moved: Condvar::new(),
        });
        locked(&joins.0).insert(token, Arc::downgrade(&copy));
        Ok(Self { joins: joins.clone(), token, copy })
    }
}

impl Arrivals for Arriving {
    fn offer(&self) -> Vec<u8> {
        self.token.to_vec()
    }

    fn wait(&self, lane: usize, mark: u64, patience: Duration) -> Result<u64, MemoryError> {
        let until = Instant::now() + patience;
        let mut state = self.copy.state();
        loop {
            let mut count = 0;
            if let Some(lane) = state.lanes.get_mut(&lane) {
                count = lane.messages;
                if count < mark
                    && let Some(error) = lane.ended.take()
                {
                    return Err(error);
                }
            }
            let now = Instant::now();
            if count >= mark || now >= until {
                return Ok(count);
            }
            state = self
                .copy
                .moved
                .wait_timeout(state, until - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn check(&self) -> Result<(), MemoryError> {
        let mut state = self.copy.state();
        state.lanes.values_mut().find_map(|lane| lane.ended.take()).map_or(Ok(()), Err)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        locked(&self.joins.0).remove(&self.token);
        let mut state = self.copy.state();
        state.closed = true;
        for lane in state.lanes.values() {
            if let Some(cut) = &lane.cut {
                cut();
            }
        }
        // Nothing lands any more when the last lane has seen its end.
        let until = Instant::now() + SILENCE;
        while state.lanes.values().any(|lane| lane.cut.is_some()) && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            state =
                self.copy.moved.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
