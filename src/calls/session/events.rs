//! EventWriter: the events of one call, to the store, to listeners, and to the agent's socket.

use serde_json::Value;
use tokio::sync::broadcast;

use crate::call::command::Owner;
use crate::call::event::{CallEvent, CallId};
use crate::calls::WRITTEN_WITHIN;
use crate::clock;
use crate::store::{CallRecord, EventRecord, Store};

/// Writes the events of one call, in their sequence.
pub(super) struct EventWriter {
    call: CallId,
    /// The sequence number of the last event.
    sequence: u64,
    /// What the application keeps with the call; part of every event.
    client_state: Option<String>,
    store: Store,
    listeners: broadcast::Sender<CallEvent>,
    /// Events for listeners that wait for the call's first record; None once it is on disk or its deadline has passed.
    held: Option<Vec<CallEvent>>,
    subscription: AgentSubscription,
}

/// The events for the agent's socket.
#[derive(Default)]
struct AgentSubscription {
    /// The agent asked for all events of the call.
    wants_all: bool,
    /// On their way to the socket.
    queued: Vec<CallEvent>,
}

impl EventWriter {
    pub fn new(call: CallId, store: Store, listeners: broadcast::Sender<CallEvent>) -> Self {
        Self {
            call,
            sequence: 0,
            client_state: None,
            store,
            listeners,
            held: None,
            subscription: AgentSubscription::default(),
        }
    }

    /// Continues the sequence of an earlier process.
    pub fn resume(&mut self, sequence: u64, client_state: Option<String>) {
        self.sequence = sequence;
        self.client_state = client_state;
    }

    pub fn set_client_state(&mut self, client_state: String) {
        self.client_state = Some(client_state);
    }

    /// From now on the agent's socket gets every event.
    pub fn subscribe_agent(&mut self) {
        self.subscription.wants_all = true;
    }

    /// The events queued for the agent's socket.
    pub fn take_for_agent(&mut self) -> Vec<CallEvent> {
        std::mem::take(&mut self.subscription.queued)
    }

    pub fn emit(&mut self, kind: &'static str, data: Value) {
        let for_agent = self.subscription.wants_all.then(|| data.clone());
        self.emit_views(kind, data, for_agent);
    }

    /// The outcome of a command: `full` for its owner, `masked` for the other side. The agent gets the outcome of an
    /// application's command only if it wants all events.
    pub fn emit_outcome(&mut self, owner: Owner, kind: &'static str, full: Value, masked: Value) {
        match owner {
            Owner::Agent => self.emit_views(kind, masked, Some(full)),
            Owner::App => {
                let for_agent = self.subscription.wants_all.then_some(masked);
                self.emit_views(kind, full, for_agent);
            }
        }
    }

    /// One event with a view for the application and another for the agent's socket.
    pub fn emit_views(&mut self, kind: &'static str, for_app: Value, for_agent: Option<Value>) {
        let event = self.next(kind, for_app, for_agent);
        // The store counts and logs an event that finds no room.
        let _ = self.store.event(EventRecord::of(&event));
        self.publish(event);
    }

    /// The next event, for the caller to store.
    pub fn next(&mut self, kind: &'static str, for_app: Value, for_agent: Option<Value>) -> CallEvent {
        self.sequence += 1;
        let event =
            CallEvent::new(self.call.clone(), self.sequence, kind, self.client_state.clone(), for_app, clock::wall());
        if let Some(data) = for_agent {
            self.subscription.queued.push(CallEvent { data, ..event.clone() });
        }
        event
    }

    /// Sends an event to listeners, in order, and none before the call's first record is on disk: a listener that knows of
    /// a call finds it after a crash.
    pub fn publish(&mut self, event: CallEvent) {
        match &mut self.held {
            Some(held) => held.push(event),
            // There may be no listener.
            None => drop(self.listeners.send(event)),
        }
    }

    /// Holds this event and all later ones until [`publish_held`](Self::publish_held).
    pub fn hold(&mut self, event: CallEvent) {
        self.held = Some(vec![event]);
    }

    pub fn is_holding(&self) -> bool {
        self.held.is_some()
    }

    pub fn publish_held(&mut self) {
        for event in self.held.take().unwrap_or_default() {
            self.publish(event);
        }
    }

    /// The last event, stored together with the record's end. It is published once it is on disk; a disk that does not
    /// answer holds it up for a second at most.
    pub async fn emit_end(&mut self, record: &CallRecord, data: Value) {
        let for_agent = self.subscription.wants_all.then(|| data.clone());
        let event = self.next("call.ended", data, for_agent);
        let written = self.store.call_ended(record.clone(), EventRecord::of(&event), WRITTEN_WITHIN);
        // The store counts and logs its trouble.
        let _ = written.confirmed().await;
        self.publish_held();
        self.publish(event);
    }
}
