//! Tickets: a session's hold on its caller's place in a queue.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::mpsc;

use super::Command;
use crate::call::event::CallId;
use crate::queue::{AgentName, OverflowReason, Progress};

/// News waiting for the session, which reads them at once. What its course depends on has room of its own.
const NEWS: usize = 64;
const VITAL_NEWS: usize = 8;

/// News for a session about its caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TicketNews {
    /// This agent has it. The ticket is kept until they have finished.
    Answered(AgentName),
    /// It goes on to what follows the queue.
    Overflowed(OverflowReason),
    /// Its position is to be announced, from 1.
    Position(usize),
    /// An event for the application.
    Progress(Progress),
}

/// A caller's place in a queue, then its agent's conversation. Dropping it ends either.
#[derive(Debug)]
pub struct Ticket {
    call: CallId,
    number: u64,
    commands: mpsc::Sender<Command>,
    news: mpsc::Receiver<TicketNews>,
}

impl Ticket {
    pub(super) fn new(call: CallId, commands: mpsc::Sender<Command>) -> (Self, mpsc::Sender<TicketNews>) {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let (told, news) = mpsc::channel(NEWS);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        (Self { call, number, commands, news }, told)
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next news. None when the service is stopping. Cancel safe.
    pub async fn next(&mut self) -> Option<TicketNews> {
        self.news.recv().await
    }

    /// News that has come already.
    pub fn queued(&mut self) -> Option<TicketNews> {
        self.news.try_recv().ok()
    }

    /// The agent that answered could not connect: the caller waits again.
    pub fn put_back(&self) {
        send(&self.commands, Command::Return(self.call.clone()));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        send(&self.commands, Command::Leave { call: self.call.clone(), number: self.number });
    }
}

/// Sends also while the queue of commands is full: what leaves must not stay for ever.
pub(super) fn send(commands: &mpsc::Sender<Command>, command: Command) {
    if let Err(mpsc::error::TrySendError::Full(command)) = commands.try_send(command) {
        let commands = commands.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { commands.send(command).await });
        }
    }
}

/// Where each call's news go.
#[derive(Default)]
pub(super) struct Tickets(BTreeMap<CallId, (u64, mpsc::Sender<TicketNews>)>);

impl Tickets {
    /// Whether it replaces an earlier ticket of the call.
    pub(super) fn insert(&mut self, call: CallId, number: u64, news: mpsc::Sender<TicketNews>) -> bool {
        self.0.insert(call, (number, news)).is_some()
    }

    /// Whether it was this ticket's call.
    pub(super) fn remove(&mut self, call: &CallId, number: u64) -> bool {
        let is_this = self.0.get(call).is_some_and(|(current, _)| *current == number);
        is_this && self.0.remove(call).is_some()
    }

    pub(super) fn tell(&mut self, call: &CallId, news: TicketNews) {
        let Some((_, told)) = self.0.get(call) else { return };
        let is_vital = matches!(news, TicketNews::Answered(_) | TicketNews::Overflowed(_));
        if (is_vital || told.capacity() > VITAL_NEWS) && told.try_send(news).is_err() {
            metrics::counter!("patchcord_queue_news_lost_total").increment(1);
        }
    }
}
