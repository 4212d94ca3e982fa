//! The events of one page of an agent: its state, what rings, and the events of its own call.

use std::sync::Arc;

use serde_json::json;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::super::auth::Caller;
use super::super::sse::SseWriter;
use super::{Api, RingView, StateView};
use crate::call::event::{CallEvent, CallId};
use crate::queue::snapshot::AgentSnapshot;
use crate::queues::{AgentNews, Attendance};

/// One open page.
pub(super) struct AgentStream {
    writer: SseWriter,
    attendance: Attendance,
    calls: broadcast::Receiver<CallEvent>,
    /// The call that the agent has.
    own_call: Option<CallId>,
    api: Arc<Api>,
    caller: Arc<Caller>,
}

impl AgentStream {
    pub(super) fn new(
        writer: SseWriter,
        attendance: Attendance,
        calls: broadcast::Receiver<CallEvent>,
        api: Arc<Api>,
        caller: Arc<Caller>,
    ) -> Self {
        Self { writer, attendance, calls, own_call: None, api, caller }
    }

    /// Writes until the stream ends; gives the reason.
    pub(super) async fn run(mut self) -> &'static str {
        loop {
            let written = tokio::select! {
                // An agent has its call before the call's next event is published.
                biased;
                ticked = self.writer.tick() => ticked.and_then(|()| self.check_key()),
                news = self.attendance.next() => self.take_news(news).await,
                event = self.calls.recv() => self.take_event(event).await,
            };
            if let Err(why) = written {
                return why;
            }
        }
    }

    fn check_key(&self) -> Result<(), &'static str> {
        if self.caller.is_known() { Ok(()) } else { Err("its key is no longer configured") }
    }

    async fn take_news(&mut self, news: Option<AgentNews>) -> Result<(), &'static str> {
        match news.ok_or("the page read too slowly, or the service stops")? {
            AgentNews::State(agent) => self.change_call(&agent).await,
            AgentNews::Ringing(ring) => {
                let ring = RingView::of(&self.api.options, &ring);
                self.writer.event("agent.ringing", &ring).await
            }
            AgentNews::RingStopped { call, end } => {
                let reason = end.map_or("answered_elsewhere", |end| end.name());
                let data = json!({ "call_id": call.as_str(), "reason": reason });
                self.writer.event("agent.ring_stopped", &data).await
            }
        }
    }

    /// Events that wait belong to the call before or to the next one: its end is published before the agent is free.
    async fn change_call(&mut self, agent: &AgentSnapshot) -> Result<(), &'static str> {
        let before = self.own_call.take();
        self.own_call = agent.own_call().cloned();
        if before != self.own_call {
            let calls = [before, self.own_call.clone()];
            loop {
                match self.calls.try_recv() {
                    Ok(event) if calls.iter().flatten().any(|call| *call == event.call_id) => {
                        self.writer.call_event(&event).await?;
                    }
                    Ok(_) => {}
                    Err(TryRecvError::Empty | TryRecvError::Closed) => break,
                    Err(TryRecvError::Lagged(_)) => return Err("events were missed"),
                }
            }
        }
        self.writer.event("agent.state", &StateView::of(agent)).await
    }

    async fn take_event(&mut self, event: Result<CallEvent, RecvError>) -> Result<(), &'static str> {
        match event {
            Ok(event) if self.own_call.as_ref() == Some(&event.call_id) => self.writer.call_event(&event).await,
            Ok(_) => Ok(()),
            Err(RecvError::Lagged(_)) if self.own_call.is_none() => Ok(()),
            Err(RecvError::Lagged(_)) => Err("events were missed"),
            Err(RecvError::Closed) => Err("the service stops"),
        }
    }
}
