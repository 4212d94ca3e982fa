//! Inputs of the queues: callers that wait, and agents that take calls.

use std::collections::BTreeSet;

use super::{AgentName, CallerKey, QueueName, Skill};
use crate::call::Attempt;
use crate::call::event::CallId;

/// One attempt of a call to reach a person. During a transfer a call has two: the agent that it has, and the next one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlaceId {
    /// Whose.
    pub call: CallId,
    /// Which of its attempts.
    pub attempt: Attempt,
}

/// A caller that is to reach a person.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is known by.
    pub place: PlaceId,
    /// Who may take it.
    pub wanted: Wanted,
    /// Finds its last agent.
    pub caller: Option<CallerKey>,
}

/// Who may take a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any agent of this queue that has these skills. The caller waits for one.
    AnyOf {
        /// Where it waits.
        queue: QueueName,
        /// What an agent must have to be offered the call.
        skills: BTreeSet<Skill>,
    },
    /// This agent, if it is idle now. Nobody waits for one agent.
    Agent(AgentName),
}

/// An agent's shift.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// Who.
    pub agent: AgentName,
    /// Whose callers it takes.
    pub queues: BTreeSet<QueueName>,
    /// What it can do.
    pub skills: BTreeSet<Skill>,
}

/// An input to the queues. One that names an unknown call or agent is ignored.
#[derive(Clone, Debug)]
pub enum Input {
    /// A caller waits from now on.
    Entered(Entry),
    /// The caller hung up, or was put through elsewhere.
    Left(PlaceId),
    /// The agent and the caller have finished.
    Finished(PlaceId),
    /// The agent answered, and its page could not connect: the caller waits again, as long as if it had never left.
    Returned(PlaceId),
    /// The agent is there, and away until [`Input::Available`]. Signing in again changes its queues and skills.
    SignedIn(SignIn),
    /// The agent has gone; a conversation goes on.
    SignedOut(AgentName),
    /// The agent takes calls, also before its wrap-up time is over.
    Available(AgentName),
    /// The agent takes no calls after this one.
    Away(AgentName),
    /// The agent does not want this call.
    Declined(AgentName, CallId),
}

/// An answer to a call that does not ring at this agent, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this call does not ring for you any more")]
pub struct NotOffered;

impl Entry {
    /// Where the caller waits; None if it wants one agent.
    pub fn queue(&self) -> Option<&QueueName> {
        match &self.wanted {
            Wanted::AnyOf { queue, .. } => Some(queue),
            Wanted::Agent(_) => None,
        }
    }
}
