//! What time does to sessions, and what the control core tells of them.

use tidegate_dataplane::{
    packet::protocol,
    session::{ImportedState, SessionState, Tuple},
    steering::{Cutover, ManagedAddress},
};

use super::{Model, Receiver, Session, life::Fin};

impl Model {
    /// Every session is looked at.
    pub(crate) fn sweep(&mut self) {
        let (now_ms, timeouts) = (self.now_ms, self.timeouts);
        let before = self.clone();
        self.sessions.retain(|tuple, session| {
            if before.session(tuple).is_none() || before.is_ended(tuple, session) {
                return false;
            }
            let is_expired = now_ms - session.last_ms > session.limit_ms(tuple.protocol, &timeouts);
            if is_expired && session.state == SessionState::Resetting {
                // Nobody went on after the RST, so it was meant.
                (session.state, session.last_ms) = (SessionState::Lingering, now_ms);
                return true;
            }
            !is_expired
        });
    }

    /// The source's, not TCP, and given no more time.
    fn is_ended(&self, tuple: &Tuple, session: &Session) -> bool {
        let (Receiver::Managed(address) | Receiver::Locator(address, _)) =
            self.receiver(tuple.address)
        else {
            return false;
        };
        let deadline = deadline_ms(address).is_some_and(|deadline_ms| self.now_ms > deadline_ms);
        deadline && tuple.protocol != protocol::TCP && session.owner == address.home.slot
    }

    /// Take up a session that the box has not seen. Gives whether it was new; `None` when its address is not tracked.
    pub(crate) fn import(&mut self, tuple: Tuple, state: ImportedState) -> Option<bool> {
        let address = *self.addresses.get(&tuple.address).filter(|address| address.tracked)?;
        if self.session(&tuple).is_some() {
            return Some(false);
        }
        let epoch = address.epoch - u32::from(super::cut_over(&address).is_some());
        let session = Session::known(address.home.slot, epoch);
        let mut session = Session { last_ms: self.now_ms, ..session };
        // The number of a FIN that was acknowledged is of no use any more.
        let fin = Some(Fin { end: 0, acknowledged: true });
        match state {
            ImportedState::ClosedByClient => session.fin_of_client = fin,
            ImportedState::ClosedByBackend => session.fin_of_vm = fin,
            // The streams leave it out: which number acknowledges the last FIN is not known.
            ImportedState::Closing => unreachable!("not in the streams"),
            ImportedState::Established => {}
        }
        session.state = session.state_by_fins();
        self.sessions.insert(tuple, session);
        Some(true)
    }
}

/// When the source has no more time for sessions that are not TCP.
pub(crate) fn deadline_ms(address: &ManagedAddress) -> Option<u64> {
    let Cutover { datagrams_end_ms, .. } = address.destination.as_ref()?.cut_over?;
    datagrams_end_ms
}
