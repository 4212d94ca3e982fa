//! The events of now: those of calls and those of permissions.

use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use crate::call::event::CallEvent;
use crate::permissions::PermissionEvent;

/// What a reader is subscribed to.
pub(super) struct Live {
    calls: Receiver<CallEvent>,
    permissions: Receiver<PermissionEvent>,
}

/// One event.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum LiveEvent {
    Call(CallEvent),
    Permission(PermissionEvent),
}

impl Live {
    pub(super) fn new(calls: Receiver<CallEvent>, permissions: Receiver<PermissionEvent>) -> Self {
        Self { calls, permissions }
    }

    /// The next event. Cancel safe.
    pub(super) async fn recv(&mut self) -> Result<LiveEvent, RecvError> {
        tokio::select! {
            event = self.calls.recv() => event.map(LiveEvent::Call),
            event = self.permissions.recv() => event.map(LiveEvent::Permission),
        }
    }

    /// The next event, if there is one.
    pub(super) fn try_recv(&mut self) -> Result<LiveEvent, TryRecvError> {
        let call = self.calls.try_recv().map(LiveEvent::Call);
        call.or_else(|_| self.permissions.try_recv().map(LiveEvent::Permission))
    }

    /// The same from now on.
    pub(super) fn resubscribe(&self) -> Self {
        Self { calls: self.calls.resubscribe(), permissions: self.permissions.resubscribe() }
    }
}

impl LiveEvent {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Call(event) => &event.id,
            Self::Permission(event) => &event.id,
        }
    }
}
