//! Bridge: the audio of one call as one value.
//!
//! Datagrams, the agent's audio and time go in; datagrams, audio for the agent and events come out. The caller's packets
//! are passed on as soon as they are in order. From [`Bridge::start_media`] on one frame leaves for the caller every 20 ms,
//! whatever is on air, in one unbroken RTP line.

mod incoming;
mod outgoing;
mod speakers;
mod participants;
mod hold;
mod playback;
mod gathering;
mod recording;
mod frame_phase;

pub use speakers::{AttachError, AudioFormat, Speaker};

pub use crate::rtp_leg::{MediaFailure, SendDigitsError};

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::dtmf::Key;
use crate::gather::{Gather, Gathered};
use crate::mixer::Mixer;
use crate::opus::SILENCE;
use crate::peer::{PeerError, Transmit};
use crate::rtp_leg::{RtpLeg, RtpLegEvent, RtpLegStats};
use crate::sdp::Answer;
use crate::source::{Ended, MarkStatus};
use crate::speech::SpeechEvent;
use incoming::Incoming;
use outgoing::Outgoing;
use recording::Recording;

/// What the shell needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BridgeEvent {
    /// The caller's media connection is up.
    MediaConnected,
    /// True: no media from the caller, or no answers to connectivity checks. False: both are back.
    MediaSilent(bool),
    /// A second of the caller's voice came before [`Bridge::start_media`]. Reported once.
    VoiceBeforeStart,
    /// Media can flow no more. Reported once.
    MediaFailed(MediaFailure),
    /// The standby prompts, played in place of an agent, have ended.
    PromptsFinished,
    /// A playback ended, was stopped, or was replaced.
    PlaybackFinished {
        /// As given to [`Bridge::play`].
        id: PlaybackId,
        /// It was played to its end.
        completed: bool,
    },
    /// The gather ended.
    Gathered(Gathered),
    /// A full queue has room again.
    Room(Speaker),
    /// A mark was reached or cleared.
    Mark {
        /// Who placed it.
        speaker: Speaker,
        /// The speaker's name for it.
        name: String,
        /// Whether the audio before it was played.
        status: MarkStatus,
    },
    /// The caller pressed a key.
    Dtmf(Key),
    /// The caller starts or stops speaking.
    Speech(SpeechEvent),
}

/// The shell's number for a playback.
pub type PlaybackId = u64;

/// Counters of a call's audio since its start.
#[derive(Clone, Debug, Default)]
pub struct BridgeStats {
    /// The caller's connection.
    pub caller: RtpLegStats,
    /// Frames dropped because the agent read too slowly, or the caller sent too much.
    pub dropped_for_agent: u64,
    /// Frames towards the caller skipped because the worker was late.
    pub frames_skipped: u64,
    /// Audio of the agent skipped to bound its delay.
    pub trimmed: Duration,
}

/// The audio of one call.
pub struct Bridge {
    caller: RtpLeg,
    incoming: Incoming,
    outgoing: Outgoing,
    /// Present while there is a participant beside the agent, or music.
    mixer: Option<Box<Mixer>>,
    recording: Recording,
    gather: Option<Gather>,
    /// Speakers whose queue was reported full.
    full: Vec<Speaker>,
    events: VecDeque<BridgeEvent>,
}

impl Bridge {
    /// A call whose caller is being connected.
    pub fn new(caller: RtpLeg, now: Instant) -> Self {
        Self {
            caller,
            incoming: Incoming::new(now),
            outgoing: Outgoing::default(),
            mixer: None,
            recording: Recording::default(),
            gather: None,
            full: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Connects to the answer to our offer, for a call that we place.
    pub fn accept_answer(&mut self, answer: &Answer, now: Instant) -> Result<(), PeerError> {
        self.caller.accept_answer(answer, now)
    }

    /// Takes one datagram from the caller.
    pub fn receive(&mut self, socket: SocketAddr, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.caller.receive(socket, from, datagram, now);
        self.take_received(now);
    }

    /// Whether a STUN message from an unknown address is the caller's (see [`RtpLeg::is_authentic_stun`]).
    pub fn is_authentic_stun(&mut self, datagram: &[u8]) -> bool {
        self.caller.is_authentic_stun(datagram)
    }

    /// Drives all timers and sends the frames that are due. To be called every 10 to 20 ms.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.caller.handle_timeout(now);
        if self.outgoing.is_started() {
            self.take_received(now);
            self.fill_agent_audio(now);
            self.send_due_frames(now);
            self.drive_gather(now);
        }
    }

    /// Nothing was read for `gap`, through no fault of the caller: extends all deadlines. To be called before
    /// [`handle_timeout`](Self::handle_timeout).
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        self.caller.shift_deadlines(gap, now);
        if let Some(gather) = &mut self.gather {
            gather.shift_deadlines(gap, now);
        }
    }

    /// How much earlier frames should leave, so that a live agent's frames do not wait without need. Returned once. When
    /// the calls of [`handle_timeout`](Self::handle_timeout) have moved, [`advance_phase`](Self::advance_phase) follows.
    pub fn poll_phase_advance(&mut self) -> Option<Duration> {
        self.outgoing.poll_phase_advance()
    }

    /// Frames are due earlier by `by` from now on.
    pub fn advance_phase(&mut self, by: Duration) {
        self.outgoing.advance_phase(by);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.caller.poll_transmit()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<BridgeEvent> {
        while let Some(event) = self.caller.poll_event() {
            self.events.push_back(match event {
                RtpLegEvent::Connected => BridgeEvent::MediaConnected,
                RtpLegEvent::MediaSilent(is_silent) => BridgeEvent::MediaSilent(is_silent),
                RtpLegEvent::MediaFailed(failure) => BridgeEvent::MediaFailed(failure),
            });
        }
        if self.caller.poll_early_voice() {
            self.events.push_back(BridgeEvent::VoiceBeforeStart);
        }
        self.collect_marks();
        self.events.pop_front()
    }

    /// Accept is confirmed: the first frame leaves at once, and the agent hears the caller from now on.
    pub fn start_media(&mut self, now: Instant) {
        if self.outgoing.start(now) {
            self.caller.start(now);
            self.incoming.agent.start(now);
            self.send_due_frames(now);
        }
    }

    /// Counters since the start.
    pub fn stats(&self) -> BridgeStats {
        BridgeStats {
            caller: self.caller.stats(),
            dropped_for_agent: self.incoming.agent.dropped(),
            frames_skipped: self.outgoing.frames_skipped(),
            trimmed: self.outgoing.source.trimmed(),
        }
    }

    /// Says goodbye to the caller. Nothing else is sent after it.
    pub fn close(&mut self, now: Instant) {
        self.outgoing.stop();
        self.caller.close(now);
    }

    fn send_due_frames(&mut self, now: Instant) {
        let due = self.outgoing.take_due(now);
        self.caller.skip_frames(due.skipped);
        for _ in 0..due.frames {
            self.send_frame(now);
        }
    }

    /// A key that is being sent takes the place of the frame's audio.
    fn send_frame(&mut self, now: Instant) {
        if let Some(timestamp) = self.caller.send_key(now) {
            self.recording.agent_frame(timestamp, &SILENCE, now);
            return;
        }
        let filled = self.outgoing.fill_frame(now);
        let talking = self.mix(filled.talking, now);
        let timestamp = self.caller.send_frame(self.outgoing.frame(), talking, now);
        self.recording.agent_frame(timestamp, self.outgoing.frame(), now);
        match filled.ended {
            Some(Ended::Prompts) => self.events.push_back(BridgeEvent::PromptsFinished),
            Some(Ended::Playback) => self.playback_ended(true, now),
            None => {}
        }
        self.report_room();
    }
}
