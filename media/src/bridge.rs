//! Bridge: one call's sound as one value.
//!
//! Datagrams, the agent's sound and time go in; datagrams, sound for the agent and events come out. The caller's
//! packets are heard the moment they are in order. Towards the caller one frame leaves every 20 ms from
//! [`Bridge::start_media`] on, whatever is on air, in one unbroken RTP line.

mod speakers;
mod playback;
mod hold;
mod participants;
mod incoming;
mod frame_phase;
mod recording;

pub use playback::SendDigitsError;
pub use speakers::AttachError;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::agent_audio::AgentAudio;
use crate::allowance::Allowance;
use crate::dtmf::{Key, KeyReader, KeySender};
use crate::gather::{Gather, Gathered};
use crate::mixer::{Mixer, ParticipantId};
use crate::opus::{MAX_ENCODED_BYTES, Profile, SampleRate};
use crate::peer::{CloseReason, Peer, PeerEvent, PeerStats, Transmit};
use crate::recorder::Recorder;
use crate::reorder::{DEFAULT_WAIT, Reorder};
use crate::rtp::RtpHeader;
use crate::source::{Ended, MarkStatus, Source};
use crate::speech::{SpeechDetector, SpeechEvent};
use crate::timeline::{Stamp, Timeline};
use frame_phase::FramePhase;
use hold::Muted;

const FRAME: Duration = crate::opus::FRAME;
/// The event clock that WhatsApp offers: `telephone-event/8000`.
const KEY_TICKS_PER_MS: u32 = 8;
/// RTP ticks of sound in one tick of the event clock.
const SOUND_TICKS_PER_KEY_TICK: u32 = 6;
/// Frames sent at once after a stall, so that the line stays whole. A longer stall skips the rest: old sound is
/// worth less than a short delay.
const CATCH_UP_FRAMES: u32 = 10;

/// The fixed facts of one call's sound.
#[derive(Clone, Copy, Debug)]
pub struct BridgeOptions {
    /// Of our RTP line, as the SDP says.
    pub ssrc: u32,
    /// Random (RFC 3550 §5.1).
    pub first_sequence: u16,
    /// Random (RFC 3550 §5.1).
    pub first_timestamp: u32,
    /// As negotiated.
    pub opus_payload_type: u8,
    /// As negotiated, if it was.
    pub telephone_event_payload_type: Option<u8>,
    /// No RTP and no RTCP from the caller for so long gives [`BridgeEvent::MediaSilent`].
    pub silence_warn_after: Duration,
    /// No RTP and no RTCP from the caller for so long gives [`MediaFailure::Silent`], though it answers connectivity
    /// checks. A caller that does not is given up by the peer's own [`Consent`](crate::peer::Consent).
    pub silence_end_after: Duration,
}

/// Whoever speaks with the caller: the agent, or a third speaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// The one the call was put through to.
    Agent,
    /// Somebody who listens, whispers or joins.
    Participant(ParticipantId),
}

/// The sound a speaker speaks and hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioFormat {
    /// 16-bit little-endian samples, mono.
    Pcm {
        /// Both ways.
        rate: SampleRate,
        /// How an agent is encoded for the caller.
        profile: Profile,
    },
    /// Opus packets of 20 ms.
    Opus,
}

impl AudioFormat {
    /// Of samples; None for Opus.
    fn rate(self) -> Option<SampleRate> {
        match self {
            Self::Pcm { rate, .. } => Some(rate),
            Self::Opus => None,
        }
    }
}

/// What the shell needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BridgeEvent {
    /// ICE and DTLS are done.
    MediaConnected,
    /// Nothing comes from the caller, or it leaves connectivity checks unanswered (true); or all is well again.
    MediaSilent(bool),
    /// Sound can flow no more. Comes once.
    MediaFailed(MediaFailure),
    /// The prompts that stood in for an agent are over.
    PromptsFinished,
    /// A playback is over: it was heard to its end, or was stopped or replaced.
    PlaybackFinished {
        /// As [`Bridge::play`] was told.
        id: PlaybackId,
        /// Heard to its end.
        completed: bool,
    },
    /// The gather is over.
    Gathered(Gathered),
    /// A full queue has room again.
    Room(Speaker),
    /// A mark has its answer.
    Mark {
        /// Who set it.
        speaker: Speaker,
        /// Its name for it.
        name: String,
        /// Whether the sound before it was heard.
        status: MarkStatus,
    },
    /// The caller pressed a key.
    Dtmf(Key),
    /// The caller begins or stops to speak.
    Speech(SpeechEvent),
}

/// The shell's number for a playback.
pub type PlaybackId = u64;

/// Why sound can flow no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaFailure {
    /// The certificate is not the one the offer promised.
    FingerprintMismatch,
    /// ICE found no path.
    NoPath,
    /// DTLS failed.
    HandshakeFailed,
    /// Consent or everything else was missing for too long.
    Silent,
    /// The other side closed DTLS.
    ClosedByPeer,
}

/// A call's sound in figures.
#[derive(Clone, Debug, Default)]
pub struct BridgeStats {
    /// Of the connection.
    pub peer: PeerStats,
    /// Packets of the caller that never came.
    pub lost: u64,
    /// Packets of the caller that came too late.
    pub late: u64,
    /// Packets of the caller beyond what real time and a burst allow.
    pub excess: u64,
    /// Frames dropped because the agent read too slowly, or the caller sent too much.
    pub dropped_for_agent: u64,
    /// Frames towards the caller left out because the worker was late.
    pub frames_skipped: u64,
    /// The agent's sound left out so that its delay does not grow.
    pub trimmed: Duration,
}

/// One call's sound.
pub struct Bridge {
    peer: Peer,
    options: BridgeOptions,
    /// Against a caller that sends faster than time passes.
    intake: Allowance,
    excess: u64,
    reorder: Reorder,
    /// Who speaks, by RTP.
    caller_ssrc: Option<u32>,
    /// Who presses keys: a gateway may send them as another sender.
    keys_ssrc: Option<u32>,
    keys: KeyReader,
    keys_out: KeySender,
    agent_audio: AgentAudio,
    /// While somebody wants to know when the caller speaks.
    speech: Option<Box<SpeechDetector>>,
    recorder: Option<Box<Recorder>>,
    /// Keys are secret: what is recorded meanwhile is silence.
    is_recording_masked: bool,
    /// While there is a third speaker, or music under the voice.
    mixer: Option<Box<Mixer>>,
    source: Source,
    muted: Muted,
    /// Whose prompts interrupt what is on air.
    playing: Option<Playing>,
    gather: Option<Gather>,
    timeline: Timeline,
    /// When the next frame is due; None before the sound starts.
    next_frame_at: Option<Instant>,
    frame_phase: FramePhase,
    frames_skipped: u64,
    frame: Vec<u8>,
    /// Who was told that its queue is full.
    waiting: Vec<Speaker>,
    liveness: Liveness,
    sealed: VecDeque<Transmit>,
    events: VecDeque<BridgeEvent>,
    is_over: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Playing {
    Playback(PlaybackId),
    /// What the caller hears before pressing keys.
    Gather,
}

/// When something of the caller last came, while that matters.
#[derive(Debug)]
struct Liveness {
    /// RTP or RTCP.
    heard_at: Instant,
    /// Its answers to connectivity checks are overdue.
    is_unanswered: bool,
    /// As it was last told.
    is_silent: bool,
}

impl Bridge {
    /// A call whose peer is being connected.
    pub fn new(peer: Peer, options: BridgeOptions, now: Instant) -> Self {
        Self {
            peer,
            intake: Allowance::new(now),
            excess: 0,
            reorder: Reorder::new(DEFAULT_WAIT),
            caller_ssrc: None,
            keys_ssrc: None,
            keys: KeyReader::new(KEY_TICKS_PER_MS),
            keys_out: KeySender::new(KEY_TICKS_PER_MS),
            agent_audio: AgentAudio::new(now),
            speech: None,
            recorder: None,
            is_recording_masked: false,
            mixer: None,
            source: Source::new(),
            muted: Muted::default(),
            playing: None,
            gather: None,
            timeline: Timeline::new(options.ssrc, options.first_sequence, options.first_timestamp),
            next_frame_at: None,
            frame_phase: FramePhase::default(),
            frames_skipped: 0,
            frame: Vec::with_capacity(MAX_ENCODED_BYTES),
            waiting: Vec::new(),
            liveness: Liveness { heard_at: now, is_unanswered: false, is_silent: false },
            sealed: VecDeque::new(),
            events: VecDeque::new(),
            is_over: false,
            options,
        }
    }

    /// One datagram of the caller's.
    pub fn receive(&mut self, socket: SocketAddr, from: SocketAddr, datagram: &[u8], now: Instant) {
        let packet = self.peer.receive(socket, from, datagram, now);
        if self.peer.sound_at() == Some(now) {
            // A muted phone may pause its RTP; its reports say that it is there.
            self.liveness.heard_at = now;
            self.tell_silence(now);
        }
        if let Some(packet) = packet {
            self.hear(packet, now);
        }
    }

    /// Whether a STUN message from an address that is not known yet is the caller's (see [`Peer::is_authentic_stun`]).
    pub fn is_authentic_stun(&mut self, datagram: &[u8]) -> bool {
        self.peer.is_authentic_stun(datagram)
    }

    /// To be called every 10 to 20 ms: drives the peer's timers and sends the frame that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.peer.poll_timeout().is_some_and(|deadline| deadline <= now) {
            self.peer.handle_timeout(now);
        }
        if self.next_frame_at.is_some() {
            self.drain_reorder(now);
            // Behind a gap packets wait for what is about to be rebuilt.
            let has_gap = self.agent_hears_caller() && self.reorder.poll_timeout().is_some();
            if !self.agent_audio.is_mixed() && !has_gap {
                self.agent_audio.fill(now);
            }
            self.send_due_frames(now);
            self.drive_keys(now);
            if now.saturating_duration_since(self.liveness.heard_at) >= self.options.silence_end_after {
                self.fail(MediaFailure::Silent);
            }
        }
        self.tell_silence(now);
    }

    /// Nothing was read for `gap`, by no fault of the caller's: to be called before [`handle_timeout`](Self::handle_timeout),
    /// so that nobody is given up for what is still to be read.
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        self.liveness.heard_at = (self.liveness.heard_at + gap).min(now);
        self.peer.shift_deadlines(gap, now);
        if let Some(gather) = &mut self.gather {
            gather.shift_deadlines(gap, now);
        }
    }

    /// How much earlier in every 20 ms frames could leave without one being late, if that is worth it: a live agent's
    /// wait for nothing. Told once; whoever calls [`handle_timeout`](Self::handle_timeout) so much earlier from now on
    /// says so by [`advance_phase`](Self::advance_phase).
    pub fn poll_phase_advance(&mut self) -> Option<Duration> {
        self.frame_phase.take_advance()
    }

    /// Frames are due so much earlier from now on.
    pub fn advance_phase(&mut self, by: Duration) {
        if let Some(next) = self.next_frame_at.and_then(|next| next.checked_sub(by)) {
            self.next_frame_at = Some(next);
            self.frame_phase.advanced(by);
        }
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.peer.poll_transmit().or_else(|| self.sealed.pop_front())
    }

    /// The next thing the shell needs to know.
    pub fn poll_event(&mut self) -> Option<BridgeEvent> {
        while let Some(event) = self.peer.poll_event() {
            self.take_peer_event(event);
        }
        self.collect_marks();
        self.events.pop_front()
    }

    /// Accept is confirmed: the RTP line starts with a frame at once, and the agent hears the caller from now on.
    pub fn start_media(&mut self, now: Instant) {
        if self.next_frame_at.is_none() {
            self.next_frame_at = Some(now);
            self.liveness.heard_at = now;
            self.agent_audio.start(now);
            self.send_due_frames(now);
        }
    }

    /// The call's sound in figures.
    pub fn stats(&self) -> BridgeStats {
        let reorder = self.reorder.stats();
        BridgeStats {
            peer: self.peer.stats(),
            lost: reorder.lost,
            late: reorder.late,
            excess: self.excess,
            dropped_for_agent: self.agent_audio.dropped(),
            frames_skipped: self.frames_skipped,
            trimmed: self.source.trimmed(),
        }
    }

    /// Says goodbye to the peer. Nothing else is sent after it.
    pub fn close(&mut self, now: Instant) {
        self.is_over = true;
        self.next_frame_at = None;
        self.sealed.clear();
        self.peer.close(now);
    }

    fn send_due_frames(&mut self, now: Instant) {
        let Some(next) = self.next_frame_at.filter(|next| *next <= now) else { return };
        let owed = 1 + u32::try_from((now - next).as_millis() / FRAME.as_millis()).unwrap_or(u32::MAX);
        let skipped = owed.saturating_sub(CATCH_UP_FRAMES);
        self.timeline.skip(skipped);
        self.frames_skipped += u64::from(skipped);
        for _ in skipped..owed {
            self.send_frame(now);
        }
        self.next_frame_at = Some(next + FRAME * owed);
    }

    fn send_frame(&mut self, now: Instant) {
        if let Some(key) = self.keys_out.next() {
            self.send_key(key, now);
            return;
        }
        self.frame.clear();
        let has_settled = self.frame_phase.frame_sent(self.source.live_frame_end(), now);
        if let Some(queue) = self.source.queue_mut().filter(|_| has_settled) {
            queue.settle();
        }
        let filled = self.source.fill(&mut self.frame);
        let talking = self.mix(filled.talking, now);
        let stamp = self.timeline.next(talking);
        let header = self.header(self.options.opus_payload_type, stamp);
        self.sealed.extend(self.peer.send_rtp(header, &self.frame, now));
        if let Some(recorder) = &mut self.recorder {
            recorder.agent_frame(stamp.timestamp, &self.frame, now);
        }
        match filled.ended {
            Some(Ended::Prompts) => self.events.push_back(BridgeEvent::PromptsFinished),
            Some(Ended::Playback) => self.playback_ended(true, now),
            None => {}
        }
        self.tell_room();
    }

    fn header(&self, payload_type: u8, stamp: Stamp) -> RtpHeader {
        RtpHeader {
            payload_type,
            marker: stamp.marker,
            sequence: stamp.sequence,
            timestamp: stamp.timestamp,
            ssrc: stamp.ssrc,
        }
    }

    fn take_peer_event(&mut self, event: PeerEvent) {
        match event {
            PeerEvent::Connected { .. } => self.events.push_back(BridgeEvent::MediaConnected),
            PeerEvent::ConsentLost => self.liveness.is_unanswered = true,
            PeerEvent::ConsentRegained => self.liveness.is_unanswered = false,
            PeerEvent::Closed(reason) => self.fail(match reason {
                CloseReason::ClosedByRemote => MediaFailure::ClosedByPeer,
                CloseReason::ConsentExpired => MediaFailure::Silent,
                CloseReason::NoPath => MediaFailure::NoPath,
                // Never told as an event.
                CloseReason::ClosedByUs => return,
                CloseReason::FingerprintMismatch => MediaFailure::FingerprintMismatch,
                CloseReason::HandshakeFailed => MediaFailure::HandshakeFailed,
            }),
        }
    }

    fn fail(&mut self, failure: MediaFailure) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.events.push_back(BridgeEvent::MediaFailed(failure));
        }
    }
}
