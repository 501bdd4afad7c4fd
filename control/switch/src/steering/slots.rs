//! Numbers of backends towards the workers.

use std::collections::HashSet;

use tidegate_dataplane::{counters::MAX_BACKENDS, steering::BackendSlot};

use super::{Refused, SlotInUse};

/// Slots in turn, so that a number comes back as late as possible, and only when no shard has entries that name it:
/// such an entry would otherwise belong to the new backend.
#[derive(Clone, Debug, Default)]
pub(super) struct Slots {
    taken: HashSet<u32>,
    next: u32,
}

impl Slots {
    pub(super) fn take(&mut self, in_use: SlotInUse<'_>) -> Result<BackendSlot, Refused> {
        let limit = MAX_BACKENDS as u32;
        let in_turn = (0..limit).map(|offset| (self.next + offset) % limit);
        let free = |slot: &u32| !self.taken.contains(slot) && !in_use(BackendSlot(*slot));
        let slot = in_turn.into_iter().find(free).ok_or(Refused::NoSlot(MAX_BACKENDS))?;
        self.taken.insert(slot);
        self.next = (slot + 1) % limit;
        Ok(BackendSlot(slot))
    }

    pub(super) fn give_back(&mut self, slot: BackendSlot) {
        self.taken.remove(&slot.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_comes_back_last_and_never_while_named() {
        let mut slots = Slots::default();
        let idle = |_| false;
        let first = slots.take(&idle).expect("free");
        slots.give_back(first);
        for expected in 1..MAX_BACKENDS as u32 {
            assert_eq!(slots.take(&idle), Ok(BackendSlot(expected)));
        }
        assert_eq!(slots.take(&|slot| slot == first), Err(Refused::NoSlot(MAX_BACKENDS)));
        assert_eq!(slots.take(&idle), Ok(first));
        assert_eq!(slots.take(&idle), Err(Refused::NoSlot(MAX_BACKENDS)));
    }
}
