//! What happened in one call: written by its phone and by Meta, read by its handle.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::trace::{Trace, TraceEvent};
use super::{EndedBy, Stage};
use crate::meta::{self, Parties, unix_ms};
use crate::objection::Objection;
use crate::phone::ear::{Ear, HeardPacket};
use crate::phone::shell::now;
use crate::phone::{OPUS, PhoneEvent};
use crate::sound::{self, PHONE_RATE};

/// How loud a frame must be to count as sound instead of silence.
const SOUND_RMS: f64 = 100.0;
/// Echoes kept per call.
const MOST_ECHOES: usize = 10_000;
/// Objections kept per call.
const MOST_OBJECTIONS: usize = 200;

/// What happened in a call, written by its phone and by Meta, read by its handle.
#[derive(Debug)]
pub(crate) struct CallRecord {
    pub(crate) parties: Parties,
    /// The phone's SDP: its offer, or the answer to the offer of a business that calls. A browser that is called gives its
    /// own later.
    pub(crate) sdp: OnceLock<String>,
    pub(crate) connect_timestamp: u64,
    pub(crate) placed_at: Instant,
    pub(crate) seed: u64,
    pub(crate) changed: watch::Sender<()>,
    /// For a live view of the call; None costs nothing.
    pub(crate) trace: Option<Arc<Trace>>,
    pub(crate) state: Mutex<CallState>,
}

#[derive(Debug, Default)]
pub(crate) struct CallState {
    pub(crate) stages: BTreeMap<Stage, Instant>,
    pub(crate) answer: Option<String>,
    pub(crate) accepted_unix_s: Option<u64>,
    pub(crate) ended_unix_s: Option<u64>,
    pub(crate) ended: Option<EndedBy>,
    pub(crate) opaque: Option<String>,
    pub(crate) objections: Vec<Objection>,
    pub(crate) ear: Ear,
    pub(crate) echoes: Vec<Duration>,
    /// Decodes until the first sound is found.
    listening: Option<opus::Decoder>,
}

impl CallRecord {
    /// The phone's SDP; empty as long as there is none.
    pub(crate) fn sdp(&self) -> &str {
        self.sdp.get().map_or("", String::as_str)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, CallState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn reach(&self, stage: Stage, at: Instant) {
        let is_new = match self.lock().stages.entry(stage) {
            Entry::Vacant(entry) => {
                entry.insert(at);
                true
            }
            Entry::Occupied(_) => false,
        };
        if let Some(trace) = self.trace.as_ref().filter(|_| is_new) {
            trace.push(TraceEvent::Stage { stage, at: self.since_placed(at) });
        }
        self.changed.send_replace(());
    }

    /// Waits until the state is so.
    pub(crate) async fn until(&self, is_so: impl Fn(&CallState) -> bool) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if is_so(&self.lock()) {
                return;
            }
            // The sender is this record's own.
            let _ = changed.changed().await;
        }
    }

    pub(crate) fn since_placed(&self, at: Instant) -> Duration {
        at.saturating_duration_since(self.placed_at)
    }

    pub(crate) fn object(&self, objection: Objection) {
        if let Some(trace) = &self.trace {
            trace.push(TraceEvent::Objection { at: self.since_placed(now()), text: objection.to_string() });
        }
        let mut state = self.lock();
        if state.objections.len() < MOST_OBJECTIONS {
            state.objections.push(objection);
        }
        drop(state);
        self.changed.send_replace(());
    }

    /// False if the call had ended before.
    pub(crate) fn end(&self, by: EndedBy, at: Instant) -> bool {
        let mut state = self.lock();
        if state.ended.is_some() {
            return false;
        }
        state.ended = Some(by);
        state.ended_unix_s = Some(unix_ms() as u64 / 1000);
        state.stages.insert(Stage::Ended, at);
        drop(state);
        if let Some(trace) = &self.trace {
            trace.push(TraceEvent::Stage { stage: Stage::Ended, at: self.since_placed(at) });
            trace.push(TraceEvent::Ended { by });
        }
        self.changed.send_replace(());
        true
    }

    pub(crate) fn on_phone_event(&self, event: PhoneEvent) {
        match event {
            PhoneEvent::MediaUp => self.reach(Stage::MediaUp, now()),
            PhoneEvent::Objected(objection) => self.object(objection),
            PhoneEvent::Heard(packet) => self.hear(packet),
            PhoneEvent::Echo(took) => self.echo(took),
            // Meta ends the call; it listens for these two itself.
            PhoneEvent::HeardNothing | PhoneEvent::RangInVain => {}
        }
    }

    fn echo(&self, took: Duration) {
        let mut state = self.lock();
        if state.echoes.len() < MOST_ECHOES {
            state.echoes.push(took);
        }
    }

    fn hear(&self, packet: HeardPacket) {
        let mut state = self.lock();
        // What comes before accept is never played.
        if !state.stages.contains_key(&Stage::Accepted) {
            return;
        }
        let at = packet.at;
        if packet.payload_type == OPUS {
            state.stages.entry(Stage::FirstPacket).or_insert(at);
            if !state.stages.contains_key(&Stage::FirstSound) && state.is_sound(&packet.payload) {
                state.stages.insert(Stage::FirstSound, at);
                state.listening = None;
            }
        }
        state.ear.hear(packet);
        drop(state);
        self.changed.send_replace(());
    }

    pub(crate) fn connect_body(&self) -> String {
        let opaque = self.lock().opaque.clone();
        meta::connect_body(&self.parties, self.connect_timestamp, self.sdp(), opaque.as_deref())
    }

    /// The body of a status of a call that the business placed, as of now.
    pub(crate) fn status_body(&self, status: &str) -> String {
        let opaque = self.lock().opaque.clone();
        meta::status_body(&self.parties, status, opaque.as_deref())
    }

    pub(crate) fn terminate_body(&self) -> String {
        let state = self.lock();
        meta::terminate_body(
            &self.parties,
            state.ended_unix_s.unwrap_or(unix_ms() as u64 / 1000),
            state.accepted_unix_s,
            state.ended == Some(EndedBy::HeardNothing),
            state.opaque.clone(),
        )
    }

    /// One line on what has happened so far.
    pub(crate) fn seen(&self) -> String {
        let state = self.lock();
        let mut text = String::from("seen so far: ");
        for (stage, at) in &state.stages {
            let after = at.saturating_duration_since(self.placed_at);
            // Writing to a String cannot fail.
            let _ = write!(text, "{stage:?} after {after:?}, ");
        }
        let _ = write!(
            text,
            "{} packets heard, ended by {:?}, objections {:?}, seed {}",
            state.ear.total(),
            state.ended,
            state.objections,
            self.seed
        );
        text
    }
}

impl CallState {
    fn is_sound(&mut self, payload: &[u8]) -> bool {
        if self.listening.is_none() {
            self.listening = opus::Decoder::new(PHONE_RATE, opus::Channels::Mono).ok();
        }
        let mut frame = [0_i16; 1920];
        let Some(decoder) = &mut self.listening else { return false };
        decoder.decode(payload, &mut frame, false).is_ok_and(|samples| sound::rms(&frame[..samples]) > SOUND_RMS)
    }
}
