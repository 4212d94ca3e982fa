//! Attendances: the streams by which an agent's pages are told of rings.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::ticket::send;
use super::{Command, Numbered, RELOAD};
use crate::call::event::CallId;
use crate::queue::snapshot::{AgentSnapshot, RingSnapshot};
use crate::queue::{AgentName, RingEnd};

/// News waiting for one page. A page that does not read them is cut off and learns the rest when it comes back.
const NEWS: usize = 64;

/// A message to an agent's page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AgentNews {
    /// How the agent stands: at first, and whenever it changes.
    State(AgentSnapshot),
    /// A call rings.
    Ringing(RingSnapshot),
    /// It rings no more.
    RingStopped {
        /// Which.
        call: CallId,
        /// Why; None when the agent answered, on this page or another.
        end: Option<RingEnd>,
    },
}

/// One page of a signed-in agent.
#[derive(Debug)]
pub struct Attendance {
    agent: AgentName,
    number: u64,
    commands: mpsc::Sender<Command>,
    news: mpsc::Receiver<AgentNews>,
}

impl Attendance {
    pub(super) fn new(agent: AgentName, commands: mpsc::Sender<Command>) -> (Self, mpsc::Sender<AgentNews>) {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let (told, news) = mpsc::channel(NEWS);
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        (Self { agent, number, commands, news }, told)
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The next news. None when the page has not read for too long, or the service is stopping. Cancel safe.
    pub async fn next(&mut self) -> Option<AgentNews> {
        self.news.recv().await
    }
}

impl Drop for Attendance {
    fn drop(&mut self) {
        send(&self.commands, Command::Depart { agent: self.agent.clone(), number: self.number });
    }
}

/// All pages by agent.
#[derive(Default)]
pub(super) struct Attendances(BTreeMap<AgentName, Pages>);

#[derive(Default)]
struct Pages {
    pages: Numbered<mpsc::Sender<AgentNews>>,
    /// As it was last told.
    shown: Option<AgentSnapshot>,
    /// When the agent is signed out, once it has no page.
    gone_at: Option<Instant>,
}

impl Attendances {
    pub(super) fn insert(&mut self, agent: AgentName, number: u64, news: mpsc::Sender<AgentNews>) {
        let pages = self.0.entry(agent).or_default();
        pages.pages.insert(number, news);
        // The new page knows nothing.
        (pages.gone_at, pages.shown) = (None, None);
    }

    pub(super) fn depart(&mut self, agent: &AgentName, number: u64, now: Instant) {
        if let Some(pages) = self.0.get_mut(agent) {
            pages.pages.remove(&number);
            pages.watch(now);
        }
    }

    /// Agents whose last page has been gone for [`RELOAD`].
    pub(super) fn take_departed(&mut self, now: Instant) -> Vec<AgentName> {
        let is_gone = |pages: &Pages| pages.gone_at.is_some_and(|at| at <= now);
        let gone: Vec<AgentName> =
            self.0.iter().filter(|(_, pages)| is_gone(pages)).map(|(agent, _)| agent.clone()).collect();
        self.0.retain(|_, pages| !is_gone(pages));
        gone
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.0.values().filter_map(|pages| pages.gone_at).min()
    }

    pub(super) fn tell(&mut self, agent: &AgentName, news: &AgentNews) {
        if let Some(pages) = self.0.get_mut(agent) {
            pages.pages.retain(|_, page| page.try_send(news.clone()).is_ok());
        }
    }

    /// Tells one page, which is new.
    pub(super) fn greet(&mut self, agent: &AgentName, number: u64, news: AgentNews) {
        // It has room: nothing but its state was told before.
        if let Some(page) = self.0.get(agent).and_then(|pages| pages.pages.get(&number)) {
            let _ = page.try_send(news);
        }
    }

    /// Agents without a page stay for the time that we stood still longer.
    pub(super) fn stood_still(&mut self, gap: Duration) {
        for at in self.0.values_mut().filter_map(|pages| pages.gone_at.as_mut()) {
            *at += gap;
        }
    }

    /// Sends the agent its state if it has changed.
    pub(super) fn show(&mut self, agent: &AgentSnapshot) {
        if let Some(pages) = self.0.get_mut(&agent.name)
            && pages.shown.as_ref() != Some(agent)
        {
            pages.shown = Some(agent.clone());
            self.tell(&agent.name, &AgentNews::State(agent.clone()));
        }
    }
}

impl Pages {
    fn watch(&mut self, now: Instant) {
        if self.pages.is_empty() && self.gone_at.is_none() {
            self.gone_at = Some(now + RELOAD);
        }
    }
}
