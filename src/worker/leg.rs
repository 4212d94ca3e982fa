//! One call on a worker: its bridge, its port, its agent.
//!
//! The bridge is touched from the sockets' readers, the tick and the agent's task, never across an await. After every
//! touch [`Leg::settle`] sends what the bridge wants sent and passes on what it reports.

mod command;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use patchcord_media::bridge::{Bridge, BridgeEvent, BridgeOptions};
use patchcord_media::peer::Peer;
use patchcord_media::prompt::{Prompt, Repeat};
use patchcord_media::sdp::Offer;
use tokio::sync::{Notify, mpsc, oneshot};

use super::sockets::PortSockets;
use super::{Report, Silence};
use crate::agent::native::{StartCall, ToAgent};
use crate::call::end::MediaFailure;
use crate::call::event::CallId;
use crate::call::route::BargeIn;
use command::Asked;

/// Addresses a caller may be seen at beside those of its offer; a caller has a few interfaces, not more.
const MORE_ADDRESSES: u32 = 16;
/// RFC 3711 §3.3.1: a first sequence number near the wrap, with its packet lost, would leave the two sides' rollover
/// counters apart for good.
const LOWER_HALF: u16 = 0x7fff;
/// Messages waiting for the agent's task; a mark for each would need an agent that never reads. The oldest goes.
const MESSAGES: usize = 1024;

/// One call on a worker.
pub struct Leg {
    about: About,
    ufrag: String,
    bridge: RefCell<Bridge>,
    line: Line,
    more_addresses: Cell<u32>,
    connecting: Cell<bool>,
    /// Meta accepted, so whoever joins is heard at once.
    accepted: Cell<bool>,
    asked: RefCell<Asked>,
    agent: RefCell<Option<AgentSeat>>,
    messages: RefCell<std::collections::VecDeque<ToAgent>>,
    /// Something waits for the agent's task: sound in the bridge, or a message here.
    for_agent: Notify,
    /// The agent's queue has room again.
    room: Notify,
}

/// What the control plane says of a call.
pub(super) struct About {
    pub call: CallId,
    pub start: Box<StartCall>,
    pub barge_in: BargeIn,
    pub prompts: Arc<HashMap<String, Prompt>>,
    pub reports: mpsc::Sender<Report>,
}

/// Where the caller's packets come and go.
pub(super) struct Line {
    pub sockets: Rc<PortSockets>,
    pub port: usize,
    pub silence: Silence,
}

/// The agent's task and how to end it.
struct AgentSeat {
    attempt: usize,
    leave: oneshot::Sender<&'static str>,
}

impl Leg {
    pub(super) fn new(about: About, peer: Peer, offer: &Offer, ssrc: u32, line: Line, now: Instant) -> Self {
        let ufrag = peer.local_ufrag().to_owned();
        let bridge = Bridge::new(
            peer,
            BridgeOptions {
                ssrc,
                first_sequence: rand::random::<u16>() & LOWER_HALF,
                first_timestamp: rand::random(),
                opus_payload_type: offer.opus.payload_type,
                telephone_event_payload_type: offer.telephone_event,
                silence_warn_after: line.silence.warn_after,
                silence_end_after: line.silence.end_after,
            },
            now,
        );
        Self {
            about,
            ufrag,
            bridge: RefCell::new(bridge),
            line,
            more_addresses: Cell::new(0),
            connecting: Cell::new(true),
            accepted: Cell::new(false),
            asked: RefCell::default(),
            agent: RefCell::new(None),
            messages: RefCell::default(),
            for_agent: Notify::new(),
            room: Notify::new(),
        }
    }

    /// Our id of the call.
    pub fn call(&self) -> &CallId {
        &self.about.call
    }

    pub(super) fn port(&self) -> usize {
        self.line.port
    }

    pub(super) fn ufrag(&self) -> String {
        self.ufrag.clone()
    }

    pub(super) fn is_connecting(&self) -> bool {
        self.connecting.get()
    }

    pub(super) fn may_take_another_address(&self) -> bool {
        let taken = self.more_addresses.get();
        self.more_addresses.set(taken.saturating_add(1));
        taken < MORE_ADDRESSES
    }

    pub(super) fn receive(&self, socket: SocketAddr, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.bridge.borrow_mut().receive(socket, from, datagram, now);
        self.settle();
    }

    /// The call's moment in the tick.
    pub(super) fn visit(&self, now: Instant) {
        self.bridge.borrow_mut().handle_timeout(now);
        self.settle();
    }

    pub(super) fn start_sound(&self) {
        let now = Instant::now();
        self.bridge.borrow_mut().start_sound(now);
        self.accepted.set(true);
        self.tell_agent(ToAgent::Accepted);
        self.settle();
    }

    pub(super) fn stand_in(&self, prompts: Vec<Prompt>, repeat: Repeat) {
        self.bridge.borrow_mut().stand_in(prompts, repeat);
    }

    pub(super) fn close(&self, now: Instant) {
        self.bridge.borrow_mut().close(now);
        self.settle();
    }

    /// The call's sound in figures, for its end.
    pub(super) fn figures(&self) -> serde_json::Value {
        let stats = self.bridge.borrow().stats();
        serde_json::json!({
            "packets_from_caller": stats.peer.packets_in,
            "packets_to_caller": stats.peer.packets_out,
            "lost": stats.lost,
            "late": stats.late,
            "jitter_ms": stats.peer.jitter.as_secs_f64() * 1e3,
            "round_trip_ms": stats.peer.round_trip.map(|time| time.as_secs_f64() * 1e3),
            "dropped_for_agent": stats.dropped_for_agent,
            "frames_skipped": stats.frames_skipped,
        })
    }

    /// Sends what the bridge wants sent and passes on what it reports.
    pub fn settle(&self) {
        let mut bridge = self.bridge.borrow_mut();
        while let Some(transmit) = bridge.poll_transmit() {
            self.line.sockets.send(transmit.socket, transmit.to, &transmit.data);
        }
        let mut agent_has_mail = bridge.has_sound_for_agent();
        while let Some(event) = bridge.poll_event() {
            match event {
                BridgeEvent::MediaConnected => {
                    self.connecting.set(false);
                    self.report(Report::MediaConnected);
                }
                BridgeEvent::MediaSilent(silent) => self.report(Report::MediaSilent(silent)),
                BridgeEvent::MediaFailed(failure) => self.report(Report::MediaFailed(failure.into())),
                BridgeEvent::PromptsFinished => self.report(Report::PromptsFinished),
                BridgeEvent::PlaybackFinished { id, completed } => self.playback_finished(id, completed),
                BridgeEvent::Gathered(gathered) => self.gathered(gathered),
                BridgeEvent::RoomForAgent => {
                    self.push_message(ToAgent::Xon { queued_ms: bridge.queued().as_millis() as u64 });
                    agent_has_mail = true;
                    self.room.notify_one();
                }
                BridgeEvent::Mark { name, status } => {
                    self.push_message(ToAgent::Mark { name, status: status.into() });
                    agent_has_mail = true;
                }
                BridgeEvent::Dtmf(key) => {
                    self.key_pressed(key);
                    agent_has_mail = true;
                }
            }
        }
        if agent_has_mail {
            self.for_agent.notify_one();
        }
    }

    /// A call makes a handful of reports, its queue holds many times that; one more than fits is counted, and the
    /// call's own deadlines stand in for it.
    fn report(&self, report: Report) {
        if self.about.reports.try_send(report).is_err() {
            metrics::counter!("patchcord_reports_lost_total").increment(1);
        }
    }

    fn push_message(&self, message: ToAgent) {
        let mut messages = self.messages.borrow_mut();
        if messages.len() == MESSAGES {
            messages.pop_front();
            metrics::counter!("patchcord_agent_messages_dropped_total").increment(1);
        }
        messages.push_back(message);
    }
}

/// The agent's side, used by its task on the same thread.
impl Leg {
    /// What the agent is told first.
    pub(crate) fn start(&self) -> StartCall {
        (*self.about.start).clone()
    }

    /// Seats a new agent; an earlier one must have left. Gives the word to leave, with the reason.
    pub(crate) fn seat_agent(&self, attempt: usize) -> oneshot::Receiver<&'static str> {
        let (leave, told) = oneshot::channel();
        self.messages.borrow_mut().clear();
        if self.accepted.get() {
            // It is written after `start`, with which every conversation begins.
            self.push_message(ToAgent::Accepted);
            self.for_agent.notify_one();
        }
        self.agent.replace(Some(AgentSeat { attempt, leave }));
        told
    }

    /// Tells the agent to leave and silences it at once. `attempt` None means whoever it is.
    pub(super) fn drop_agent(&self, attempt: Option<usize>, reason: &'static str) {
        let mut agent = self.agent.borrow_mut();
        if agent.as_ref().is_none_or(|seat| attempt.is_some_and(|attempt| attempt != seat.attempt)) {
            return;
        }
        if let Some(seat) = agent.take() {
            self.bridge.borrow_mut().detach_agent();
            // The task may have ended by itself.
            let _ = seat.leave.send(reason);
        }
    }

    /// Works with the bridge and settles.
    pub(crate) fn with_bridge<T>(&self, work: impl FnOnce(&mut Bridge) -> T) -> T {
        let worked = work(&mut self.bridge.borrow_mut());
        self.settle();
        worked
    }

    pub(crate) fn tell_agent(&self, message: ToAgent) {
        self.push_message(message);
        self.for_agent.notify_one();
    }

    /// The next 20 ms, or Opus packet, that the agent has not heard.
    pub(crate) fn sound_for_agent(&self) -> Option<bytes::Bytes> {
        self.bridge.borrow_mut().take_for_agent()
    }

    pub(crate) fn next_message(&self) -> Option<ToAgent> {
        self.messages.borrow_mut().pop_front()
    }

    /// Waits until something may be waiting for the agent.
    pub(crate) async fn mail(&self) {
        self.for_agent.notified().await;
    }

    /// Waits until the agent's queue may have room.
    pub(crate) async fn room(&self) {
        self.room.notified().await;
    }

    pub(crate) fn report_of_agent(&self, report: Report) {
        self.report(report);
    }
}

impl From<patchcord_media::bridge::MediaFailure> for MediaFailure {
    fn from(failure: patchcord_media::bridge::MediaFailure) -> Self {
        use patchcord_media::bridge::MediaFailure as Failure;
        match failure {
            Failure::NoPath => Self::NeverConnected,
            Failure::FingerprintMismatch => Self::FingerprintMismatch,
            Failure::HandshakeFailed => Self::HandshakeFailed,
            Failure::Silent => Self::Silent,
            Failure::ClosedByPeer => Self::ClosedByPeer,
        }
    }
}
