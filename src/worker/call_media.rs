//! CallMedia: the media of one call on its worker: the bridge, the network ends, the agents, the recording.
//!
//! Whatever comes from outside is handled behind [`CallMedia::contained`]: a panic in our code or a library's ends this
//! call, and the worker and its other calls go on.
//!
//! The bridge is used by the sockets' readers, the tick and the agents' tasks, and never borrowed across an await. After
//! every use [`CallMedia::settle`] sends what the bridge has ready and passes its events on.

mod transport;
mod agents;
pub(super) mod browsers;
pub(super) mod phones;
mod commands;
mod recording;
mod meters;

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use patchcord_media::bridge::{Bridge, BridgeEvent};
use patchcord_media::peer::PeerError;
use patchcord_media::prompt::{Prompt, Repeat};
use patchcord_media::sdp::Answer;
use serde_json::Value;
use tokio::sync::mpsc;
use tracing::error;

use super::Worker;
use super::command::{MediaOptions, Report};
use super::endpoints::EndpointId;
use crate::agent::notice::Notice;
use crate::call::description::CallDescription;
use crate::call::event::CallId;
use crate::call::route::BargeIn;
use crate::clock;
use crate::prompts::PromptLibrary;
use crate::pulse::Pulse;
use crate::recordings::{RecordingSink, Recordings};
use agents::Agents;
use browsers::Browsers;
use commands::Ongoing;
use meters::Meters;
pub(crate) use meters::quality_json;
use phones::Phones;
pub(crate) use transport::Transport;

/// Places in the queue of reports that are kept for those that must not be lost.
const VITAL_REPORTS: usize = 64;

/// The media of one call.
pub(crate) struct CallMedia {
    options: MediaOptions,
    services: Services,
    caller: Rc<Transport>,
    bridge: RefCell<Bridge>,
    agents: Agents,
    browsers: Browsers,
    phones: Phones,
    ongoing: RefCell<Ongoing>,
    recording: RefCell<Option<RecordingSink>>,
    meters: Meters,
    stage: Stage,
    /// For a call that we place, once Meta has named it.
    named: OnceCell<CallDescription>,
}

/// What a call uses of its worker and of the process.
pub(super) struct Services {
    pub prompts: PromptLibrary,
    pub recordings: Option<Recordings>,
    /// To the call's session.
    pub reports: mpsc::Sender<Report>,
    /// The pulse of the worker's thread.
    pub pulse: Arc<Pulse>,
    /// Dials participants.
    pub worker: Weak<Worker>,
}

/// How far the call has come.
struct Stage {
    /// ICE and DTLS go on.
    is_connecting: Cell<bool>,
    /// Meta accepted the call, so that the caller hears agents that join.
    is_accepted: Cell<bool>,
    /// As the session was told last.
    is_held: Cell<bool>,
    /// A panic left the call in an unknown state: it can only end.
    is_broken: Cell<bool>,
}

impl CallMedia {
    /// The caller's peer is being connected.
    pub(super) fn new(options: MediaOptions, services: Services, caller: Transport, mut bridge: Bridge) -> Self {
        bridge.detect_speech(options.barge_in != BargeIn::Off);
        Self {
            options,
            services,
            caller: Rc::new(caller),
            bridge: RefCell::new(bridge),
            agents: Agents::default(),
            browsers: Browsers::default(),
            phones: Phones::default(),
            ongoing: RefCell::default(),
            recording: RefCell::new(None),
            meters: Meters::default(),
            stage: Stage {
                is_connecting: Cell::new(true),
                is_accepted: Cell::new(false),
                is_held: Cell::new(false),
                is_broken: Cell::new(false),
            },
            named: OnceCell::new(),
        }
    }

    /// Our id of the call.
    pub(super) fn call(&self) -> &CallId {
        &self.options.call
    }

    /// For agents.
    pub(super) fn description(&self) -> &CallDescription {
        self.named.get().unwrap_or(&self.options.description)
    }

    /// Meta has named the call.
    pub(super) fn describe(&self, description: CallDescription) {
        // A call is named once.
        let _ = self.named.set(description);
    }

    /// Connects to the answer to our offer.
    pub(super) fn accept_answer(&self, answer: &Answer, now: Instant) -> Result<(), PeerError> {
        self.bridge.borrow_mut().accept_answer(answer, now)?;
        self.settle();
        Ok(())
    }

    /// The network ends that the call has now.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = EndpointId> + use<> {
        let (browsers, phones) = (self.browsers.ids().into_iter(), self.phones.ids().into_iter());
        let pages_and_phones = browsers.map(EndpointId::Browser).chain(phones.map(EndpointId::Phone));
        std::iter::once(EndpointId::Caller).chain(pages_and_phones)
    }

    /// None for an endpoint that is not there any more.
    pub(super) fn transport(&self, endpoint: EndpointId) -> Option<Rc<Transport>> {
        match endpoint {
            EndpointId::Caller => Some(self.caller.clone()),
            EndpointId::Browser(id) => Some(self.browsers.find(id)?.transport.clone()),
            EndpointId::Phone(id) => Some(self.phones.find(id)?.transport.clone()),
        }
    }

    /// Whether ICE or DTLS of an endpoint goes on, so that its timers cannot wait for the call's slot in the tick.
    pub(super) fn is_connecting(&self) -> bool {
        self.stage.is_connecting.get()
    }

    /// Whether Meta accepted the call, so that it talks.
    pub(super) fn is_accepted(&self) -> bool {
        self.stage.is_accepted.get()
    }

    /// Whether a STUN request is signed with the password of this endpoint. It may be anyone's: a panic while it is read
    /// must not end the call.
    pub(super) fn is_authentic_stun(&self, endpoint: EndpointId, datagram: &[u8]) -> bool {
        let checked = catch_unwind(AssertUnwindSafe(|| match endpoint {
            EndpointId::Caller => self.bridge.borrow_mut().is_authentic_stun(datagram),
            EndpointId::Browser(id) => self.browsers.find(id).is_some_and(|one| one.leg.is_authentic_stun(datagram)),
            EndpointId::Phone(_) => false,
        }));
        checked.unwrap_or(false)
    }

    /// Takes a datagram of this endpoint.
    pub(super) fn receive(
        &self,
        endpoint: EndpointId,
        (socket, from): (SocketAddr, SocketAddr),
        datagram: &[u8],
        now: Instant,
    ) {
        if !self.stage.is_broken.get() {
            self.contained(|| {
                match endpoint {
                    EndpointId::Caller => {
                        self.bridge.borrow_mut().receive(socket, from, datagram, now);
                        self.settle();
                    }
                    // Its task takes what it heard.
                    EndpointId::Browser(id) => {
                        if let Some(browser) = self.browsers.find(id) {
                            browser.leg.receive((socket, from), datagram, now);
                        }
                    }
                    EndpointId::Phone(id) => {
                        if let Some(phone) = self.phones.find(id) {
                            phone.line.receive((socket, from), datagram, now);
                        }
                    }
                }
            });
        }
    }

    /// Does what is due in the call's slot of the tick. Says how much earlier in the tick the call should be.
    pub(super) fn visit(&self, now: Instant) -> Option<Duration> {
        match self.stage.is_broken.get() {
            true => None,
            false => self.contained(|| self.do_what_is_due(now)).flatten(),
        }
    }

    fn do_what_is_due(&self, now: Instant) -> Option<Duration> {
        self.bridge.borrow_mut().handle_timeout(now);
        self.settle();
        if let Some(estimate) = self.meters.observe(|| self.bridge.borrow().stats(), now) {
            self.report(Report::Quality(estimate));
        }
        self.agents.wake_others();
        self.drop_unclaimed_browsers(now);
        self.bridge.borrow_mut().poll_phase_advance()
    }

    /// The call is so much earlier in the tick from now on.
    pub(super) fn move_earlier(&self, by: Duration) {
        self.bridge.borrow_mut().advance_phase(by);
    }

    /// The worker did not run for `gap`: packets of that time are still to be read.
    pub(super) fn stood_still(&self, gap: Duration, now: Instant) {
        if !self.stage.is_broken.get() {
            self.contained(|| self.bridge.borrow_mut().shift_deadlines(gap, now));
        }
    }

    /// Meta accepted the call: audio starts.
    pub(super) fn start_sound(&self) {
        let now = clock::now();
        if self.options.record {
            // A folder that cannot be used was refused at the start.
            let _ = self.start_recording();
        }
        self.bridge.borrow_mut().start_media(now);
        self.meters.start(now);
        self.stage.is_accepted.set(true);
        self.agents.tell_agent(Notice::Accepted);
        self.settle();
    }

    /// Plays prompts in place of an agent.
    pub(super) fn stand_in(&self, prompts: Vec<Prompt>, repeat: Repeat) {
        // An agent may have joined while the command was on its way; the session learns of it next.
        if !self.agents.has_audible_agent() {
            self.bridge.borrow_mut().stand_in(prompts, repeat);
        }
    }

    /// Closes the recording and says goodbye to the caller's peer.
    pub(super) fn close(&self, now: Instant) {
        self.finish_recording();
        self.bridge.borrow_mut().close(now);
        self.settle();
    }

    /// The figures of the call's audio, for its end.
    pub(super) fn figures(&self) -> Value {
        self.meters.figures(&self.bridge.borrow().stats())
    }

    /// Does something for this call alone. If it panics, the call ends and None comes back.
    pub(super) fn contained<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let done = catch_unwind(AssertUnwindSafe(work)).ok();
        if done.is_none() {
            self.end_broken();
        }
        done
    }

    /// The call cannot go on, because of a bug.
    fn end_broken(&self) {
        if !self.stage.is_broken.replace(true) {
            error!(call.id = %self.call(), "bug: call ended after a panic; please report the place logged above");
            metrics::counter!("patchcord_calls_broken_total").increment(1);
            self.stage.is_connecting.set(false);
            self.report(Report::Broken);
        }
    }

    /// Sends what the bridge has ready and passes its events on.
    pub fn settle(&self) {
        let mut bridge = self.bridge.borrow_mut();
        while let Some(transmit) = bridge.poll_transmit() {
            self.caller.sockets.send(transmit.socket, transmit.to, &transmit.data);
        }
        self.keep_recording(&mut bridge);
        if bridge.has_audio_for_agent() {
            self.agents.wake_agent();
        }
        let is_held = bridge.is_held();
        if self.stage.is_held.replace(is_held) != is_held {
            self.report(Report::Held(is_held));
        }
        while let Some(event) = bridge.poll_event() {
            match event {
                BridgeEvent::MediaConnected => {
                    self.stage.is_connecting.set(false);
                    self.report(Report::MediaConnected);
                }
                BridgeEvent::MediaSilent(silent) => self.report(Report::MediaSilent(silent)),
                BridgeEvent::VoiceBeforeStart => self.report(Report::VoiceBeforeAccept),
                BridgeEvent::MediaFailed(failure) => self.report(Report::MediaFailed(failure)),
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

    /// Queues a report for the session. A sane call makes a handful; one more than fits is counted.
    fn report(&self, report: Report) {
        let has_room = report.is_vital() || self.services.reports.capacity() > VITAL_REPORTS;
        if !has_room || self.services.reports.try_send(report).is_err() {
            metrics::counter!("patchcord_reports_lost_total").increment(1);
        }
    }
}
