//! QueuePlaces: where the caller waits for a person, and the seat of each person that has answered. There are two while one
//! person hands the caller over to another.

use std::future::pending;
use std::time::{Duration, Instant};

use futures_util::future::select_all;

use crate::call::Attempt;
use crate::queue::{AgentName, QueueName};
use crate::queues::{Ticket, TicketNews, WaitingRoom};

/// The places of a call, one for each attempt at a queue or a person.
#[derive(Default)]
pub(in crate::calls::session) struct QueuePlaces(pub(super) Vec<Place>);

pub(super) struct Place {
    pub attempt: Attempt,
    /// Another page of its agent that takes over once it is connected, as after a reload.
    pub successor: Option<Attempt>,
    /// Where the caller waits; None for a person, for whom nobody waits.
    pub queue: Option<WaitsIn>,
    pub ticket: Ticket,
    pub entered_at: Instant,
    pub side: Side,
    pub stage: Stage,
    /// The SIP user whose phones ring for the caller.
    pub rings_at: Option<AgentName>,
}

/// A queue, and what its callers hear.
pub(super) struct WaitsIn {
    pub queue: QueueName,
    pub room: WaitingRoom,
    /// An announcement plays, and the music follows it.
    pub is_announcing: bool,
}

/// Where the agent of a place is connected.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    /// It has the caller.
    Caller,
    /// Beside the agent that has the caller, until it is promoted.
    Agent,
}

/// How far the caller has come.
pub(super) enum Stage {
    Waiting,
    /// This agent answered, and its page connects.
    Answered {
        agent: AgentName,
        give_up_at: Instant,
    },
    /// They talk.
    Joined {
        agent: AgentName,
    },
}

/// An event in the life of a place.
pub(in crate::calls::session) enum QueueEvent {
    News(TicketNews),
    /// The queues are gone.
    Closed,
    /// The agent that answered has not connected in time.
    NotConnected,
}

impl QueuePlaces {
    /// The next event, and the attempt that it is about; never comes without a place. Cancel safe.
    pub async fn next(&mut self) -> (Attempt, QueueEvent) {
        if self.0.is_empty() {
            return pending().await;
        }
        select_all(self.0.iter_mut().map(|place| Box::pin(place.next()))).await.0
    }

    /// Leaves all queues, and ends the conversation of each agent.
    pub fn leave(&mut self) {
        self.0.clear();
    }

    /// We were frozen for `gap`, and so was the way to the pages.
    pub fn extend_deadlines(&mut self, gap: Duration) {
        for place in &mut self.0 {
            if let Stage::Answered { give_up_at, .. } = &mut place.stage {
                *give_up_at += gap;
            }
        }
    }

    /// Whose music must begin again, because an announcement is over.
    pub fn announcement_finished(&mut self) -> Option<Attempt> {
        let mut queues = self.0.iter_mut().filter_map(|place| Some((place.attempt, place.queue.as_mut()?)));
        queues.find_map(|(attempt, queue)| std::mem::take(&mut queue.is_announcing).then_some(attempt))
    }

    /// The agent of this attempt listens: its name, if it is a person's place.
    pub fn joined(&mut self, attempt: Attempt) -> Option<AgentName> {
        let place = self.of(attempt)?;
        let Stage::Answered { agent, .. } = &place.stage else { return None };
        let agent = agent.clone();
        place.stage = Stage::Joined { agent: agent.clone() };
        Some(agent)
    }

    /// The agent of this attempt has the caller from now on.
    pub fn promoted(&mut self, attempt: Attempt) {
        if let Some(place) = self.of(attempt) {
            place.side = Side::Caller;
        }
    }

    /// The queue in which the caller waits, or from which its agent took it.
    pub fn name(&self) -> Option<&QueueName> {
        let in_queues = self.0.iter().filter_map(|place| Some((place.side, &place.queue.as_ref()?.queue)));
        in_queues.min_by_key(|(side, _)| *side).map(|(_, queue)| queue)
    }

    /// Who has answered at the place of this attempt.
    pub fn agent(&self, attempt: Attempt) -> Option<&AgentName> {
        self.0.iter().find(|place| place.attempt == attempt)?.agent()
    }

    pub(super) fn of(&mut self, attempt: Attempt) -> Option<&mut Place> {
        self.0.iter_mut().find(|place| place.attempt == attempt)
    }

    pub(super) fn take(&mut self, attempt: Attempt) -> Option<Place> {
        let index = self.0.iter().position(|place| place.attempt == attempt)?;
        Some(self.0.swap_remove(index))
    }

    /// The agent of this attempt is dropped. Gives its place, unless another page of the agent succeeds it.
    pub(super) fn left_by(&mut self, attempt: Attempt) -> Option<Place> {
        if let Some(place) = self.0.iter_mut().find(|place| place.successor == Some(attempt)) {
            place.successor = None;
            return None;
        }
        let place = self.of(attempt)?;
        match place.successor.take() {
            Some(successor) => {
                place.attempt = successor;
                None
            }
            None => self.take(attempt),
        }
    }

    /// Whether the caller waits at the place of this attempt, and no agent has answered.
    pub(super) fn is_waiting(&self, attempt: Attempt) -> bool {
        self.0.iter().any(|place| place.attempt == attempt && matches!(place.stage, Stage::Waiting))
    }

    /// The SIP user whose phones ring for the caller of this attempt.
    pub(super) fn rings_at(&self, attempt: Attempt) -> Option<&AgentName> {
        self.0.iter().find(|place| place.attempt == attempt)?.rings_at.as_ref()
    }

    /// The same, and they ring no more.
    pub(super) fn stop_ringing(&mut self, attempt: Attempt) -> Option<AgentName> {
        self.of(attempt)?.rings_at.take()
    }

    /// Takes the caller back from an agent that answered and could not connect. Says whether there was one.
    pub(super) fn put_back(&mut self, attempt: Attempt) -> bool {
        let Some(place) = self.of(attempt) else { return false };
        let answered = matches!(place.stage, Stage::Answered { .. });
        if answered {
            place.stage = Stage::Waiting;
            place.ticket.put_back();
        }
        answered
    }

    /// The attempt of this agent's caller, where the agent is connected, and whether it has joined.
    pub(super) fn seat_of(&self, agent: &AgentName) -> Option<(Attempt, Side, bool)> {
        let place = self.0.iter().find(|place| place.agent() == Some(agent))?;
        Some((place.attempt, place.side, matches!(place.stage, Stage::Joined { .. })))
    }

    pub(super) fn queued_news(&mut self) -> Option<(Attempt, TicketNews)> {
        self.0.iter_mut().find_map(|place| Some((place.attempt, place.ticket.queued()?)))
    }
}

impl Place {
    async fn next(&mut self) -> (Attempt, QueueEvent) {
        let give_up_at = match self.stage {
            Stage::Answered { give_up_at, .. } => Some(give_up_at),
            Stage::Waiting | Stage::Joined { .. } => None,
        };
        let given_up = async {
            match give_up_at {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => pending().await,
            }
        };
        let event = tokio::select! {
            news = self.ticket.next() => news.map_or(QueueEvent::Closed, QueueEvent::News),
            () = given_up => QueueEvent::NotConnected,
        };
        (self.attempt, event)
    }

    fn agent(&self) -> Option<&AgentName> {
        match &self.stage {
            Stage::Answered { agent, .. } | Stage::Joined { agent } => Some(agent),
            Stage::Waiting => None,
        }
    }
}
