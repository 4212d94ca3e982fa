//! One agent of the queues: which callers it may take, and its current state.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::{Entry, PlaceId, QueueName, RingEnd, Skill, Unreached, Waiting, Wanted};
use crate::call::event::CallId;

/// An agent that is signed in, or still talks.
#[derive(Debug, Default)]
pub(super) struct Agent {
    queues: BTreeSet<QueueName>,
    skills: BTreeSet<Skill>,
    shift: Shift,
    presence: Presence,
    /// Rings in a row that were not answered.
    missed: u32,
    /// The agent's last call until it answers the next one.
    last_call: Option<CallId>,
}

/// What an agent does.
#[derive(Debug, Default)]
pub(super) enum Presence {
    /// It takes no calls.
    #[default]
    Away,
    /// It waits for a call since then.
    Idle { since: Instant },
    /// A call rings.
    Ringing { call: CallId },
    /// It has this caller, which waits no more.
    Talking { with: Box<Waiting> },
    /// It writes up the last call until then.
    WrapUp { until: Instant },
}

/// What an agent that is busy does afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Shift {
    /// It takes the next call.
    On,
    /// It is away.
    #[default]
    Paused,
    /// It is gone.
    Over,
}

impl Agent {
    pub(super) fn sign_in(&mut self, queues: BTreeSet<QueueName>, skills: BTreeSet<Skill>) {
        (self.queues, self.skills) = (queues, skills);
        if self.shift == Shift::Over {
            self.shift = Shift::Paused;
        }
    }

    /// A ring must have been taken from it before.
    pub(super) fn sign_out(&mut self) {
        self.shift = Shift::Over;
        if !matches!(self.presence, Presence::Talking { .. }) {
            self.presence = Presence::Away;
        }
    }

    /// Whether nothing holds it here any more.
    pub(super) fn has_left(&self) -> bool {
        self.shift == Shift::Over && !matches!(self.presence, Presence::Talking { .. })
    }

    pub(super) fn become_available(&mut self, now: Instant) {
        if self.shift == Shift::Over {
            return;
        }
        (self.shift, self.missed) = (Shift::On, 0);
        if matches!(self.presence, Presence::Away | Presence::WrapUp { .. }) {
            self.presence = Presence::Idle { since: now };
        }
    }

    /// What rings or is talked about goes on.
    pub(super) fn go_away(&mut self) {
        if self.shift == Shift::On {
            self.shift = Shift::Paused;
        }
        if matches!(self.presence, Presence::Idle { .. } | Presence::WrapUp { .. }) {
            self.presence = Presence::Away;
        }
    }

    pub(super) fn rings(&mut self, call: CallId) {
        self.presence = Presence::Ringing { call };
    }

    pub(super) fn answered(&mut self, waiting: Waiting) {
        (self.missed, self.last_call) = (0, None);
        self.presence = Presence::Talking { with: Box::new(waiting) };
    }

    /// An agent that misses too many in a row is away: its callers would wait for an empty chair.
    pub(super) fn stops_ringing(&mut self, end: RingEnd, max_missed: u32, now: Instant) {
        match end {
            RingEnd::Missed => self.missed += 1,
            RingEnd::Declined | RingEnd::AgentLeft | RingEnd::CallerLeft | RingEnd::Overflowed => {}
        }
        if self.missed >= max_missed && self.shift == Shift::On {
            self.shift = Shift::Paused;
        }
        self.presence = self.next(now);
    }

    /// Gives the caller that it had.
    pub(super) fn finished(&mut self, wrap_up: Duration, now: Instant) -> Option<Waiting> {
        let next = match self.shift {
            Shift::On if !wrap_up.is_zero() => Presence::WrapUp { until: now + wrap_up },
            Shift::On | Shift::Paused | Shift::Over => self.next(now),
        };
        match std::mem::replace(&mut self.presence, next) {
            Presence::Talking { with } => {
                self.last_call = Some(with.entry.place.call.clone());
                Some(*with)
            }
            Presence::Away | Presence::Idle { .. } | Presence::Ringing { .. } | Presence::WrapUp { .. } => None,
        }
    }

    fn next(&self, now: Instant) -> Presence {
        match self.shift {
            Shift::On => Presence::Idle { since: now },
            Shift::Paused | Shift::Over => Presence::Away,
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Presence::WrapUp { until } = self.presence
            && until <= now
        {
            self.presence = self.next(until);
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self.presence {
            Presence::WrapUp { until } => Some(until),
            Presence::Away | Presence::Idle { .. } | Presence::Ringing { .. } | Presence::Talking { .. } => None,
        }
    }

    /// Whether it is signed in for this queue, busy or not.
    pub(super) fn serves(&self, queue: &QueueName) -> bool {
        self.shift != Shift::Over && self.queues.contains(queue)
    }

    /// Whether it may be offered a caller that waits. One that wants a certain agent rings there from the first moment.
    pub(super) fn may_take(&self, entry: &Entry) -> bool {
        match &entry.wanted {
            Wanted::AnyOf { queue, skills } => self.is_idle() && self.serves(queue) && skills.is_subset(&self.skills),
            Wanted::Agent(_) => false,
        }
    }

    /// Whether a call by name may ring here now.
    pub(super) fn is_free_for_a_call_by_name(&self) -> Result<(), Unreached> {
        match (&self.presence, self.shift) {
            (Presence::Idle { .. }, _) => Ok(()),
            (Presence::Away, Shift::Over) => Err(Unreached::SignedOut),
            (Presence::Away, Shift::On | Shift::Paused) => Err(Unreached::Away),
            (Presence::Ringing { .. } | Presence::Talking { .. } | Presence::WrapUp { .. }, _) => Err(Unreached::Busy),
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.presence, Presence::Idle { .. })
    }

    pub(super) fn idle_since(&self) -> Option<Instant> {
        match self.presence {
            Presence::Idle { since } => Some(since),
            Presence::Away | Presence::Ringing { .. } | Presence::Talking { .. } | Presence::WrapUp { .. } => None,
        }
    }

    /// The caller of this place, if the agent has it.
    pub(super) fn has(&self, place: &PlaceId) -> Option<&Entry> {
        match &self.presence {
            Presence::Talking { with } => (with.entry.place == *place).then_some(&with.entry),
            Presence::Away | Presence::Idle { .. } | Presence::Ringing { .. } | Presence::WrapUp { .. } => None,
        }
    }

    pub(super) fn last_call(&self) -> Option<&CallId> {
        self.last_call.as_ref()
    }

    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    pub(super) fn queues(&self) -> &BTreeSet<QueueName> {
        &self.queues
    }
}
