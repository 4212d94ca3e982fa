//! Turns: which business number may place a queued call now; pure.
//!
//! A number places one call at a time, in the order of its queue, so a number that waits holds up no other. The store has
//! the calls; only the numbers are here.

use std::collections::HashMap;
use std::time::Instant;

use crate::whatsapp::PhoneNumberId;

/// The numbers that have queued calls.
#[derive(Default)]
pub(super) struct Turns(HashMap<PhoneNumberId, Turn>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Its next call may be placed at this time.
    Due { at: Instant, waits_for_room: bool },
    /// A call of it is being placed. More have been queued since.
    Placing { came: bool },
}

impl Turns {
    /// A call of this number was queued.
    pub fn came(&mut self, number: &PhoneNumberId, now: Instant) {
        let turn = self.0.entry(number.clone()).or_insert(Turn::Due { at: now, waits_for_room: false });
        if let Turn::Placing { came } = turn {
            *came = true;
        }
    }

    /// A number whose turn it is: of several, the one that has waited longest. It places one call and says what became of
    /// that: [`placed`](Self::placed), [`held`](Self::held), [`no_room`](Self::no_room) or [`emptied`](Self::emptied).
    pub fn next(&mut self, now: Instant) -> Option<PhoneNumberId> {
        let due = self.0.iter().filter_map(|(number, turn)| match turn {
            Turn::Due { at, .. } if *at <= now => Some((*at, number)),
            Turn::Due { .. } | Turn::Placing { .. } => None,
        });
        let number = due.min_by(|one, other| one.cmp(other)).map(|(_, number)| number.clone())?;
        self.0.insert(number.clone(), Turn::Placing { came: false });
        Some(number)
    }

    /// A call was placed, or left the queue otherwise: the next may be placed at once.
    pub fn placed(&mut self, number: &PhoneNumberId, now: Instant) {
        self.held(number, now);
    }

    /// No call may be placed before this time.
    pub fn held(&mut self, number: &PhoneNumberId, until: Instant) {
        self.0.insert(number.clone(), Turn::Due { at: until, waits_for_room: false });
    }

    /// There is no room for a call. It is tried again at this time, or when a call ends.
    pub fn no_room(&mut self, number: &PhoneNumberId, until: Instant) {
        self.0.insert(number.clone(), Turn::Due { at: until, waits_for_room: true });
    }

    /// No call of the number was queued when it looked.
    pub fn emptied(&mut self, number: &PhoneNumberId, now: Instant) {
        match self.0.get(number) {
            Some(Turn::Placing { came: true }) => self.placed(number, now),
            Some(Turn::Placing { came: false } | Turn::Due { .. }) | None => drop(self.0.remove(number)),
        }
    }

    /// A call has ended, so there may be room.
    pub fn room(&mut self, now: Instant) {
        for turn in self.0.values_mut() {
            if let Turn::Due { at, waits_for_room: true } = turn {
                *at = now.min(*at);
            }
        }
    }

    /// When [`next`](Self::next) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.0.values().filter_map(|turn| match turn {
            Turn::Due { at, .. } => Some(*at),
            Turn::Placing { .. } => None,
        });
        due.min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn number(id: &str) -> PhoneNumberId {
        PhoneNumberId::parse(id).unwrap()
    }

    #[test]
    fn a_number_places_one_call_at_a_time_and_holds_up_no_other() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let (one, two) = (number("1"), number("2"));
        turns.came(&one, now);
        turns.came(&one, now);
        assert_eq!(turns.next(now), Some(one.clone()));
        assert_eq!(turns.next(now), None);
        turns.came(&two, now + SECOND);
        assert_eq!(turns.next(now + SECOND), Some(two.clone()));
        assert_eq!(turns.poll_timeout(), None, "both are placing");
        turns.held(&two, now + 3 * SECOND);
        turns.placed(&one, now + 2 * SECOND);
        assert_eq!(turns.next(now + 3 * SECOND), Some(one), "it has waited longest");
        assert_eq!(turns.next(now + 3 * SECOND), Some(two));
    }

    #[test]
    fn a_call_that_comes_while_the_number_looks_is_not_missed() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let one = number("1");
        turns.came(&one, now);
        assert_eq!(turns.next(now), Some(one.clone()));
        turns.came(&one, now);
        turns.emptied(&one, now);
        assert_eq!(turns.next(now), Some(one.clone()));
        turns.emptied(&one, now);
        assert_eq!((turns.next(now), turns.poll_timeout()), (None, None));
    }

    #[test]
    fn a_number_without_room_is_tried_when_a_call_ends() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let (one, two) = (number("1"), number("2"));
        for number in [&one, &two] {
            turns.came(number, now);
            assert_eq!(turns.next(now).as_ref(), Some(number));
        }
        turns.no_room(&one, now + 5 * SECOND);
        turns.held(&two, now + 2 * SECOND);
        assert_eq!(turns.poll_timeout(), Some(now + 2 * SECOND));
        turns.room(now + SECOND);
        assert_eq!(turns.next(now + SECOND), Some(one));
        assert_eq!(turns.next(now + SECOND), None, "the pace does not change");
    }
}
