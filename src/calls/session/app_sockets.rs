//! Sockets that the application opens to us: from the HTTP request to the agent or participant that it becomes.

use serde_json::json;
use tokio::sync::oneshot;

use super::Session;
use crate::agent::websocket::{AppSocket, AppSocketOptions, Opening, SocketSeat};
use crate::agent::{AgentTarget, DialectName};
use crate::browser::token::WebRtcRole;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::{Attempt, Call};
use crate::calls::media_sockets::MediaGrant;
use crate::clock;
use crate::store::EventRecord;
use crate::worker::Command;

/// Sockets that come before the call knows its agent; one more is refused.
const MAX_EARLY: usize = 4;

/// A socket that the application opens, whose token is good.
pub struct SocketRequest {
    /// What the token allows.
    pub grant: MediaGrant,
    /// The protocol that the application asks for; None for that of the route.
    pub dialect: Option<DialectName>,
    /// The connection, once the request is answered.
    pub opening: Opening,
    /// The protocol to speak, or the refusal.
    pub reply: oneshot::Sender<Result<DialectName, Refusal>>,
}

/// The sockets of one call that have no agent yet, and the agent that has no socket yet.
#[derive(Default)]
pub(super) struct AppSockets {
    waiting: Option<Waiting>,
    /// They came before the call was set up or decided.
    early: Vec<SocketRequest>,
}

/// An attempt whose agent is the socket that is to come.
struct Waiting {
    dialect: DialectName,
    seat: oneshot::Sender<AppSocket>,
}

impl AppSockets {
    fn take_waiting(&mut self) -> Option<Waiting> {
        // An attempt that was given up has closed it.
        self.waiting.take().filter(|waiting| !waiting.seat.is_closed())
    }
}

impl Session {
    pub(super) async fn socket_request(&mut self, call: &mut Call, request: SocketRequest) {
        match self.knows_its_agent(call) {
            true => self.seat_socket(call, request).await,
            false if self.app_sockets.early.len() < MAX_EARLY => self.app_sockets.early.push(request),
            false => {
                let advice = "the call is not set up yet: try again shortly";
                // The request may be gone.
                let _ = request.reply.send(Err(Refusal::new(RefusalCode::CallNotAccepted, advice)));
            }
        }
    }

    /// Seats the sockets that came too early, once that is possible. Says whether there was one.
    pub(super) async fn seat_early_sockets(&mut self, call: &mut Call) -> bool {
        if self.app_sockets.early.is_empty() || !self.knows_its_agent(call) {
            return false;
        }
        for request in std::mem::take(&mut self.app_sockets.early) {
            self.seat_socket(call, request).await;
        }
        true
    }

    /// Before that a socket would be put in front of the agent that the application is about to name.
    fn knows_its_agent(&self, call: &Call) -> bool {
        call.has_media() && self.decision.asking.is_empty()
    }

    /// The application's socket is to be the agent of this attempt: tells the application, and has the attempt wait.
    pub(super) fn await_socket(&mut self, attempt: Attempt, app: &mut AppSocketOptions) {
        if app.seat.is_some() {
            return;
        }
        let (seat, taken) = SocketSeat::new();
        app.seat = Some(taken);
        self.app_sockets.waiting = Some(Waiting { dialect: app.dialect, seat });
        let url = self.context.options.media_sockets.url_of(&self.context.id);
        let within_ms = self.context.options.agent_timeout.as_millis() as u64;
        let data = json!({ "attempt": attempt.number(), "url": url, "within_ms": within_ms });
        self.events.emit("call.socket_awaited", data);
    }

    async fn seat_socket(&mut self, call: &mut Call, request: SocketRequest) {
        let SocketRequest { grant, dialect, opening, reply } = request;
        if reply.is_closed() {
            return;
        }
        let dialect = grant.dialect.or(dialect);
        if grant.role != WebRtcRole::Agent {
            return self.seat_participant(grant.role, self.app_agent(dialect), opening, reply).await;
        }
        let seated = match self.app_sockets.take_waiting() {
            Some(Waiting { dialect: usual, seat }) => {
                let dialect = dialect.unwrap_or(usual);
                // An attempt that gives up now reports it, and the socket is closed.
                let _ = seat.send(AppSocket { dialect, opening });
                Ok(dialect)
            }
            None => {
                let app = self.app_agent(dialect);
                let dialect = app.dialect;
                self.take_over(call, AgentTarget::App(filled(app, opening))).map(|_| dialect)
            }
        };
        // The request may be gone.
        let _ = reply.send(seated);
    }

    async fn seat_participant(
        &mut self,
        role: WebRtcRole,
        app: AppSocketOptions,
        opening: Opening,
        reply: oneshot::Sender<Result<DialectName, Refusal>>,
    ) {
        let dialect = app.dialect;
        let target = Box::new(AgentTarget::App(filled(app, opening)));
        let (to_us, added) = oneshot::channel();
        self.command(Command::Participate { call: self.context.id.clone(), role, target, reply: to_us }).await;
        let added = self.worker.answer(added);
        self.requests.spawn(async move {
            let late = || Err(Refusal::new(RefusalCode::InternalError, "the call's worker does not answer"));
            // The request may be gone.
            let _ = reply.send(added.await.unwrap_or_else(late).map(|()| dialect));
            None
        });
    }

    /// As the route's own agents of this kind are, or as its other agents.
    fn app_agent(&self, dialect: Option<DialectName>) -> AppSocketOptions {
        let route = &self.context.number.route;
        let of_route = route.targets.iter().find_map(AgentTarget::app).cloned();
        let app = of_route.unwrap_or_else(|| AppSocketOptions::of(&route.agents));
        AppSocketOptions { dialect: dialect.unwrap_or(app.dialect), seat: None, ..app }
    }

    /// For the application that decides: the event with the address of the media socket and a token for it. The token is in
    /// no stored event, which a key that only reads may see.
    pub(super) fn with_socket(&self, incoming: EventRecord) -> EventRecord {
        if !self.awaits_app() {
            return incoming;
        }
        let sockets = &self.context.options.media_sockets;
        let grant = MediaGrant { call: self.context.id.clone(), role: WebRtcRole::Agent, dialect: None };
        let (Ok(token), Ok(mut event)) =
            (sockets.issue(grant, clock::now()), serde_json::from_slice::<serde_json::Value>(&incoming.body))
        else {
            return incoming;
        };
        event["data"]["media"]["token"] = token.into();
        EventRecord { body: event.to_string().into_bytes().into(), ..incoming }
    }

    /// Whether the application's socket is among the agents of the route.
    pub(super) fn awaits_app(&self) -> bool {
        self.context.number.route.targets.iter().any(|target| target.app().is_some())
    }
}

/// With the socket at its seat.
fn filled(app: AppSocketOptions, opening: Opening) -> AppSocketOptions {
    let (sender, seat) = SocketSeat::new();
    // The receiver is in the seat.
    let _ = sender.send(AppSocket { dialect: app.dialect, opening });
    AppSocketOptions { seat: Some(seat), ..app }
}
