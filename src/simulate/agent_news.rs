//! Agent news: what became of the agent in each call of the service started here. A developer sees why an agent is silent
//! without a look at the service's API.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::{CALLS_AT_ONCE, Simulation};
use crate::app::App;
use crate::call::event::{CallEvent, CallId};

/// Calls whose agents are remembered; a report is made right behind the end.
const CALLS_KEPT: usize = 2 * CALLS_AT_ONCE;

/// The agents of the latest calls.
pub(super) struct AgentNews(Mutex<Log>);

struct Log {
    /// None if the service runs elsewhere.
    events: Option<broadcast::Receiver<CallEvent>>,
    calls: VecDeque<Agents>,
}

/// The agents of one call.
struct Agents {
    call: CallId,
    wacid: String,
    /// In words, in their order.
    failures: Vec<String>,
}

/// An agent joined, left or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AgentChange {
    /// The call, by Meta's id.
    pub wacid: String,
    /// In words.
    pub text: String,
    /// Whether the caller is without it.
    pub is_failure: bool,
}

impl AgentNews {
    pub fn of(app: Option<&App>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Log { events: app.map(App::events), calls: VecDeque::new() })))
    }

    /// How agents failed in a call, in words. Whatever the service did before it ended the call at Meta is in it.
    pub fn failures(&self, wacid: &str) -> Vec<String> {
        let mut log = self.lock();
        log.read();
        let call = log.calls.iter().find(|call| call.wacid == wacid);
        call.map(|call| call.failures.clone()).unwrap_or_default()
    }

    /// Reads what has happened.
    fn read(&self) {
        self.lock().read();
    }

    fn change_of(&self, event: &CallEvent) -> Option<AgentChange> {
        let log = self.lock();
        let call = log.calls.iter().find(|call| call.call == event.call_id)?;
        let (text, is_failure) = words(event)?;
        Some(AgentChange { wacid: call.wacid.clone(), text, is_failure })
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log {
    fn read(&mut self) {
        loop {
            let Some(events) = &mut self.events else { return };
            match events.try_recv() {
                Ok(event) => self.note(&event),
                // A few lines are missing then.
                Err(TryRecvError::Lagged(_)) => {}
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn note(&mut self, event: &CallEvent) {
        if let Some(wacid) = event.data["wacid"].as_str()
            && !self.calls.iter().any(|call| call.call == event.call_id)
        {
            self.calls.truncate(CALLS_KEPT - 1);
            self.calls.push_front(Agents {
                call: event.call_id.clone(),
                wacid: wacid.to_owned(),
                failures: Vec::new(),
            });
        }
        let Some((text, true)) = words(event) else { return };
        if let Some(call) = self.calls.iter_mut().find(|call| call.call == event.call_id) {
            call.failures.push(text);
        }
    }
}

/// What an event says of the agent, and whether the caller is without it.
fn words(event: &CallEvent) -> Option<(String, bool)> {
    let text = |name: &str| event.data[name].as_str().unwrap_or_default();
    match event.kind {
        "call.agent_joined" => Some(("joined".to_owned(), false)),
        "call.agent_rejoined" => Some(("is back".to_owned(), false)),
        "call.agent_left" => Some((format!("left: {}", text("reason")), false)),
        "call.agent_lost" => {
            let again = if event.data["redialling"] == Value::Bool(true) { "; it is dialled again" } else { "" };
            let detail = event.data["detail"].as_str().map(|detail| format!(": {detail}")).unwrap_or_default();
            Some((format!("{}{detail}{again}", text("failure")), true))
        }
        _ => None,
    }
}

/// Shows each change at once: failures at the terminal, all on the page of a call.
pub(super) async fn follow(mut events: broadcast::Receiver<CallEvent>, simulation: Arc<Simulation>) {
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(_)) => continue,
            Err(RecvError::Closed) => return,
        };
        simulation.agent_news.read();
        let Some(change) = simulation.agent_news.change_of(&event) else { continue };
        if change.is_failure {
            print_failure(&event.call_id, &change.text);
        }
        simulation.browser_calls.note_agent(&change);
    }
}

#[expect(clippy::print_stdout, reason = "what a command says is its result")]
fn print_failure(call: &CallId, text: &str) {
    println!("{call}: the agent failed: {text}");
}
