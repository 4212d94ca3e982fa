//! Tickets: a session's hold on its caller's place in a queue.

use std::collections::BTreeMap;

use tokio::sync::mpsc;

use super::Command;
use crate::queue::{AgentName, OverflowReason, PlaceId, Progress, Unreached};

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
    /// The agent that it wants does not take it.
    Unreached(Unreached),
    /// Its position is to be announced, from 1.
    Position(usize),
    /// An event for the application.
    Progress(Progress),
}

/// A caller's place in a queue, then its agent's conversation. Dropping it ends either.
#[derive(Debug)]
pub struct Ticket {
    place: PlaceId,
    commands: mpsc::Sender<Command>,
    news: mpsc::Receiver<TicketNews>,
}

impl Ticket {
    pub(super) fn new(place: PlaceId, commands: mpsc::Sender<Command>) -> (Self, mpsc::Sender<TicketNews>) {
        let (told, news) = mpsc::channel(NEWS);
        (Self { place, commands, news }, told)
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
        send(&self.commands, Command::Return(self.place.clone()));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        send(&self.commands, Command::Leave(self.place.clone()));
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

/// Where the news of each place go.
#[derive(Default)]
pub(super) struct Tickets(BTreeMap<PlaceId, mpsc::Sender<TicketNews>>);

impl Tickets {
    pub(super) fn insert(&mut self, place: PlaceId, news: mpsc::Sender<TicketNews>) {
        self.0.insert(place, news);
    }

    pub(super) fn remove(&mut self, place: &PlaceId) {
        self.0.remove(place);
    }

    pub(super) fn tell(&mut self, place: &PlaceId, news: TicketNews) {
        let Some(told) = self.0.get(place) else { return };
        let is_vital = match news {
            TicketNews::Answered(_) | TicketNews::Overflowed(_) | TicketNews::Unreached(_) => true,
            TicketNews::Position(_) | TicketNews::Progress(_) => false,
        };
        if (is_vital || told.capacity() > VITAL_NEWS) && told.try_send(news).is_err() {
            metrics::counter!("patchcord_queue_news_lost_total").increment(1);
        }
    }
}
