//! The rules of a queue.

use std::time::Duration;

/// The rules of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// How long one agent rings before the next one does.
    pub ring_timeout: Duration,
    /// How long an agent is left alone after a call.
    pub wrap_up: Duration,
    /// Callers that may wait; one more overflows at once.
    pub max_waiting: usize,
    /// How long a caller may wait before it overflows.
    pub max_wait: Duration,
    /// Whether a caller waits or overflows when no agent of the queue is signed in.
    pub unstaffed: Unstaffed,
    /// How long a returning caller's last agent is preferred to all others; zero for never.
    pub sticky_for: Duration,
    /// From one announcement of the caller's position to the next; None for no announcements.
    pub announce_every: Option<Duration>,
    /// An answer within this time counts as within the service level.
    pub service_level: Duration,
    /// Offers in a row that an agent may miss; then it is away until it says otherwise.
    pub max_missed: u32,
}

/// The policy for callers while no agent of their queue is signed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unstaffed {
    /// They wait for one.
    #[default]
    Wait,
    /// They overflow.
    Overflow,
}
