//! One call on a worker: its bridge, its port, its agent.
//!
//! What comes from outside is worked on behind `Leg::contained`: a mistake in our code or a library's ends this call, and
//! the worker and its other calls go on.
//!
//! The bridge is touched from the sockets' readers, the tick and the agent's task, never across an await. After every
//! touch [`Leg::settle`] sends what the bridge wants sent and passes on what it reports.

mod agents;
mod command;
mod recording;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use patchcord_media::bridge::{Bridge, BridgeEvent, BridgeOptions};
use patchcord_media::peer::Peer;
use patchcord_media::prompt::{Prompt, Repeat};
use patchcord_media::quality::{Quality, QualityMeter};
use patchcord_media::sdp::Offer;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::error;

use super::sockets::PortSockets;
use super::{Report, Silence, Worker};
use crate::agent::notice::Notice;
use crate::call::description::CallDescription;
use crate::call::end::MediaFailure;
use crate::call::event::CallId;
use crate::call::route::BargeIn;
use crate::prompts::PromptLibrary;
use crate::pulse::Pulse;
use crate::recordings::{RecordingSink, Recordings};
use agents::Agents;
use command::Asked;

/// Addresses a caller may prove to be at beside those of its offer; a caller has a few interfaces, not more. One more is
/// refused, as the peer refuses it.
const MORE_ADDRESSES: u32 = 16;
/// RFC 3711 §3.3.1: a first sequence number near the wrap, with its packet lost, would leave the two sides' rollover
/// counters apart for good.
const LOWER_HALF: u16 = 0x7fff;

/// Of the queue of reports, for those that must not be lost.
const VITAL_REPORTS: usize = 64;

/// One call on a worker.
pub struct Leg {
    about: About,
    ufrag: String,
    bridge: RefCell<Bridge>,
    line: Line,
    more_addresses: Cell<u32>,
    connecting: Cell<bool>,
    /// A mistake has left it in no known state: nothing is done with it any more but to end it.
    broken: Cell<bool>,
    /// Meta accepted, so whoever joins is heard at once.
    accepted: Cell<bool>,
    asked: RefCell<Asked>,
    /// From accept on.
    quality: RefCell<Option<QualityMeter>>,
    recording: RefCell<Option<RecordingSink>>,
    agents: Agents,
}

/// What the control plane says of a call.
pub(super) struct About {
    pub call: CallId,
    pub description: Box<CallDescription>,
    pub barge_in: BargeIn,
    pub record: bool,
    /// The prompt of a caller on hold.
    pub hold: String,
    pub prompts: PromptLibrary,
    pub recordings: Option<Recordings>,
    pub reports: mpsc::Sender<Report>,
    /// Of the worker.
    pub pulse: Arc<Pulse>,
    /// Brings third parties in.
    pub worker: Weak<Worker>,
}

/// Where the caller's packets come and go.
pub(super) struct Line {
    pub sockets: Rc<PortSockets>,
    pub port: usize,
    pub silence: Silence,
}

impl Leg {
    pub(super) fn new(about: About, peer: Peer, offer: &Offer, ssrc: u32, line: Line, now: Instant) -> Self {
        let ufrag = peer.local_ufrag().to_owned();
        let mut bridge = Bridge::new(
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
        bridge.detect_speech(about.barge_in != BargeIn::Off);
        Self {
            about,
            ufrag,
            bridge: RefCell::new(bridge),
            line,
            more_addresses: Cell::new(0),
            connecting: Cell::new(true),
            broken: Cell::new(false),
            accepted: Cell::new(false),
            asked: RefCell::default(),
            quality: RefCell::new(None),
            recording: RefCell::new(None),
            agents: Agents::default(),
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
        self.more_addresses.get() < MORE_ADDRESSES
    }

    pub(super) fn takes_another_address(&self) {
        self.more_addresses.set(self.more_addresses.get().saturating_add(1));
    }

    /// Whether a STUN request is the caller's. Anybody's bytes: a mistake in reading them must not end the call.
    pub(super) fn is_authentic_stun(&self, datagram: &[u8]) -> bool {
        let checked = catch_unwind(AssertUnwindSafe(|| self.bridge.borrow_mut().is_authentic_stun(datagram)));
        checked.unwrap_or(false)
    }

    pub(super) fn receive(&self, socket: SocketAddr, from: SocketAddr, datagram: &[u8], now: Instant) {
        if !self.broken.get() {
            self.contained(|| {
                self.bridge.borrow_mut().receive(socket, from, datagram, now);
                self.settle();
            });
        }
    }

    /// The call's moment in the tick. Says how much earlier it would better be.
    pub(super) fn visit(&self, now: Instant) -> Option<Duration> {
        match self.broken.get() {
            true => None,
            false => self.contained(|| self.do_what_is_due(now)).flatten(),
        }
    }

    /// The worker stood still for so long: the caller's packets of that time are still to be read.
    pub(super) fn stood_still(&self, gap: Duration, now: Instant) {
        if !self.broken.get() {
            self.contained(|| self.bridge.borrow_mut().shift_deadlines(gap, now));
        }
    }

    /// Does something for this call alone. If that panics the call is over and None comes back.
    pub(crate) fn contained<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(work)).ok();
        if done.is_none() {
            self.breaks();
        }
        done
    }

    /// The call cannot go on, by our fault.
    pub(crate) fn breaks(&self) {
        if !self.broken.replace(true) {
            error!(call.id = %self.about.call, "a mistake in the program ends this call: please report the place named above");
            metrics::counter!("patchcord_calls_broken_total").increment(1);
            self.connecting.set(false);
            self.report(Report::Broken);
        }
    }

    fn do_what_is_due(&self, now: Instant) -> Option<Duration> {
        self.bridge.borrow_mut().handle_timeout(now);
        self.settle();
        if let Some(meter) = self.quality.borrow_mut().as_mut().filter(|meter| meter.is_due(now))
            && let Some(quality) = meter.observe(&self.bridge.borrow().stats(), now)
        {
            self.report(Report::Quality(quality));
        }
        self.agents.wake_others();
        self.bridge.borrow_mut().poll_phase_advance()
    }

    /// The call's moment is so much earlier from now on.
    pub(super) fn move_earlier(&self, by: Duration) {
        self.bridge.borrow_mut().advance_phase(by);
    }

    pub(super) fn start_sound(&self) {
        let now = Instant::now();
        if self.about.record {
            // A folder that cannot be used was refused at the start.
            let _ = self.start_recording();
        }
        self.bridge.borrow_mut().start_media(now);
        self.quality.replace(Some(QualityMeter::new(now)));
        self.accepted.set(true);
        self.tell_agent(Notice::Accepted);
        self.settle();
    }

    pub(super) fn stand_in(&self, prompts: Vec<Prompt>, repeat: Repeat) {
        // An agent may have joined while this was on its way; it is told in its turn.
        if self.agents.has_audible_agent() {
            return;
        }
        self.bridge.borrow_mut().stand_in(prompts, repeat);
    }

    pub(super) fn close(&self, now: Instant) {
        self.finish_recording();
        self.bridge.borrow_mut().close(now);
        self.settle();
    }

    /// The call's sound in figures, for its end.
    pub(super) fn figures(&self) -> Value {
        let stats = self.bridge.borrow().stats();
        let worst = self.quality.borrow().as_ref().and_then(QualityMeter::worst);
        json!({
            "packets_from_caller": stats.peer.packets_in,
            "packets_to_caller": stats.peer.packets_out,
            "lost": stats.lost,
            "late": stats.late,
            "excess": stats.excess,
            "jitter_ms": milliseconds(stats.peer.jitter),
            "round_trip_ms": stats.peer.round_trip.map(milliseconds),
            "dropped_for_agent": stats.dropped_for_agent,
            "frames_skipped": stats.frames_skipped,
            "trimmed_ms": stats.trimmed.as_millis() as u64,
            "lost_to_caller": stats.peer.remote_lost,
            "worst_quality": worst.map(|quality| quality_json(&quality)),
        })
    }

    /// Sends what the bridge wants sent and passes on what it reports.
    pub fn settle(&self) {
        let mut bridge = self.bridge.borrow_mut();
        while let Some(transmit) = bridge.poll_transmit() {
            self.line.sockets.send(transmit.socket, transmit.to, &transmit.data);
        }
        self.keep_recording(&mut bridge);
        if bridge.has_audio_for_agent() {
            self.agents.wake_agent();
        }
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
                BridgeEvent::Gathered(gathered) => self.gathered(gathered, &mut bridge),
                BridgeEvent::Room(party) => {
                    let queued_ms = bridge.queued(party).as_millis() as u64;
                    if let Some(slot) = self.agents.of(party) {
                        slot.tell(Notice::Xon { queued_ms });
                        slot.has_room();
                    }
                }
                BridgeEvent::Mark { speaker, name, status } => {
                    if let Some(slot) = self.agents.of(speaker) {
                        slot.tell(Notice::Mark { name, status });
                    }
                }
                BridgeEvent::Dtmf(key) => self.key_pressed(key),
                BridgeEvent::Speech(event) => self.caller_speaks(event, &mut bridge),
            }
        }
    }

    /// A sane call makes a handful of reports, its queue holds many times that; one more than fits is counted. What the
    /// call's course depends on has room of its own, whatever an agent's commands bring about.
    fn report(&self, report: Report) {
        let is_vital = matches!(
            report,
            Report::MediaConnected
                | Report::MediaFailed(_)
                | Report::Broken
                | Report::AgentJoined { .. }
                | Report::AgentFailed { .. }
                | Report::AgentHungUp { .. }
                | Report::Asked { .. }
                | Report::PromptsFinished
                | Report::RecordingStarted { .. }
        );
        let has_room = is_vital || self.about.reports.capacity() > VITAL_REPORTS;
        if !has_room || self.about.reports.try_send(report).is_err() {
            metrics::counter!("patchcord_reports_lost_total").increment(1);
        }
    }

    /// Works with the bridge and settles.
    #[cfg(test)]
    pub(super) fn with_bridge<T>(&self, work: impl FnOnce(&mut Bridge) -> T) -> T {
        let worked = work(&mut self.bridge.borrow_mut());
        self.settle();
        worked
    }
}

/// As events and records say it.
pub(crate) fn quality_json(quality: &Quality) -> Value {
    json!({
        "level": quality.level.name(),
        "mean_opinion_score": tenths(quality.mean_opinion_score),
        "loss_from_caller_percent": quality.loss_from_caller.map(tenths),
        "loss_to_caller_percent": quality.loss_to_caller.map(tenths),
        "jitter_ms": milliseconds(quality.jitter),
        "round_trip_ms": quality.round_trip.map(milliseconds),
    })
}

/// In tenths, which is as fine as it can be heard, and which comes back the same from the store's JSON.
fn milliseconds(time: Duration) -> f64 {
    tenths(time.as_secs_f64() * 1e3)
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
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
