//! SpeechDetector: when the caller starts and stops speaking, mostly without decoding.

use std::fmt;
use std::time::Duration;

use crate::opus::{Decoder, SampleRate, inspect};
use crate::reorder::Slot;

/// 48 kHz ticks in a millisecond. All time here is the caller's own.
const TICKS_PER_MILLISECOND: u32 = 48;

/// The sender's voice-activity bit must be on for two frames: a single one is a click or a breath.
const BIT_AT_LEAST: u32 = 40 * TICKS_PER_MILLISECOND;

/// How much speech it takes to start. A cough is shorter, and an interrupting "yes" is not delayed.
const SPEECH_AT_LEAST: u32 = 80 * TICKS_PER_MILLISECOND;

/// Pauses within a sentence are shorter than this.
const HANGOVER: u32 = 500 * TICKS_PER_MILLISECOND;

/// A frame that scores higher is speech, on the model's scale of 0 to 1.
const SPEECH_SCORE: f32 = 0.5;

/// The model takes 16 ms at 16 kHz.
const SCORED_SAMPLES: usize = 256;
const SCORED_TICKS: u32 = 16 * TICKS_PER_MILLISECOND;

/// Watches the caller's line slot by slot, for barge-in.
///
/// Two stages. The voice-activity bit of a SILK packet costs nothing, but comes from the sender's encoder, which takes loud
/// noise for speech. So while the bit is on, packets are also decoded and scored by a small model. CELT packets have no
/// bit and are always scored. A silent caller costs no decoding.
///
/// It reads no clock: time is the sum of the slots' durations.
pub struct SpeechDetector {
    /// 48 kHz ticks since the first slot.
    position: u64,
    state: State,
    /// Created with the first packet to score.
    scorer: Option<Box<Scorer>>,
    /// The last packet was scored, so the scorer has the audio right before the next one.
    awake: bool,
    /// How long the bit has been on.
    bit_on: u32,
    /// Audio scored as speech, less audio since that was not.
    speech: u32,
}

/// The caller's speech. Positions count from the first slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpeechEvent {
    /// The caller started speaking.
    Started {
        /// When it was certain. The words started 80 to 200 ms before.
        at: Duration,
    },
    /// The caller has not spoken for half a second.
    Stopped {
        /// Where the last speech ended.
        at: Duration,
    },
}

#[derive(Debug, Clone, Copy)]
enum State {
    Silent,
    Speaking { last_speech: u64 },
}

struct Scorer {
    decoder: Decoder,
    model: earshot::Detector,
    samples: Vec<i16>,
}

/// The content of one slot.
struct Heard {
    ticks: u32,
    speech: bool,
}

impl SpeechDetector {
    /// A detector before the first slot. About 45 kB for decoding is allocated at the first packet that needs it.
    pub fn new() -> Self {
        Self { position: 0, state: State::Silent, scorer: None, awake: false, bit_on: 0, speech: 0 }
    }

    /// Takes the next slot of the caller's line.
    pub fn hear(&mut self, slot: &Slot) -> Option<SpeechEvent> {
        let heard = match slot {
            Slot::Packet { payload, .. } => self.hear_packet(payload),
            // Lost speech looks like lost silence: the hangover bridges short losses, and long ones count as silence.
            Slot::Lost { duration, .. } | Slot::Quiet { duration, .. } => {
                self.sleep();
                Heard { ticks: *duration, speech: false }
            }
        };
        self.position = self.position.saturating_add(u64::from(heard.ticks));
        self.decide(heard.speech)
    }

    /// Whether the caller speaks.
    pub fn is_speaking(&self) -> bool {
        matches!(self.state, State::Speaking { .. })
    }

    /// Duration of the slots so far.
    pub fn position(&self) -> Duration {
        as_time(self.position)
    }

    fn hear_packet(&mut self, payload: &[u8]) -> Heard {
        let Ok(facts) = inspect(payload) else {
            return Heard { ticks: 0, speech: false };
        };
        match facts.voice {
            Some(false) => {
                self.sleep();
                return Heard { ticks: facts.duration, speech: false };
            }
            Some(true) => self.bit_on = self.bit_on.saturating_add(facts.duration),
            // CELT: no bit to wait for.
            None => self.bit_on = BIT_AT_LEAST,
        }
        let speech = self.score(payload);
        Heard { ticks: facts.duration, speech }
    }

    /// Decodes and scores one packet. Returns whether any of it is speech.
    fn score(&mut self, payload: &[u8]) -> bool {
        if self.scorer.is_none() {
            self.scorer = Scorer::new();
        }
        let Some(scorer) = &mut self.scorer else {
            return false;
        };
        if !std::mem::replace(&mut self.awake, true) {
            scorer.reset();
        }
        // A packet that libopus refuses leaves the samples as they were.
        let _ = scorer.decoder.decode(payload, &mut scorer.samples);
        let mut any = false;
        let whole = scorer.samples.len() / SCORED_SAMPLES * SCORED_SAMPLES;
        for frame in scorer.samples[..whole].chunks_exact(SCORED_SAMPLES) {
            if scorer.model.predict_i16(frame) > SPEECH_SCORE {
                any = true;
                self.speech = self.speech.saturating_add(SCORED_TICKS).min(SPEECH_AT_LEAST);
            } else {
                self.speech = self.speech.saturating_sub(SCORED_TICKS);
            }
        }
        scorer.samples.drain(..whole);
        any
    }

    fn sleep(&mut self) {
        self.awake = false;
        self.bit_on = 0;
        self.speech = 0;
    }

    fn decide(&mut self, speech: bool) -> Option<SpeechEvent> {
        match &mut self.state {
            State::Silent => {
                let certain = self.bit_on >= BIT_AT_LEAST && self.speech >= SPEECH_AT_LEAST;
                certain.then(|| {
                    self.state = State::Speaking { last_speech: self.position };
                    SpeechEvent::Started { at: as_time(self.position) }
                })
            }
            State::Speaking { last_speech } if speech => {
                *last_speech = self.position;
                None
            }
            State::Speaking { last_speech } => {
                let last_speech = *last_speech;
                (self.position - last_speech >= u64::from(HANGOVER)).then(|| {
                    self.state = State::Silent;
                    self.speech = 0;
                    SpeechEvent::Stopped { at: as_time(last_speech) }
                })
            }
        }
    }
}

impl Default for SpeechDetector {
    fn default() -> Self {
        Self::new()
    }
}

impl Scorer {
    /// None when out of memory for a decoder: then no speech is detected.
    fn new() -> Option<Box<Self>> {
        let decoder = Decoder::new(SampleRate::Hz16000).ok()?;
        // The longest packet, behind less than one scored frame.
        let samples = Vec::with_capacity(1920 + SCORED_SAMPLES);
        Some(Box::new(Self { decoder, model: earshot::Detector::default(), samples }))
    }

    /// Forgets the audio before a pause.
    fn reset(&mut self) {
        // A decoder that fails to reset still decodes.
        let _ = self.decoder.reset();
        self.model.reset();
        self.samples.clear();
    }
}

impl fmt::Debug for SpeechDetector {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SpeechDetector")
            .field("position", &self.position())
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

fn as_time(ticks: u64) -> Duration {
    SampleRate::Hz48000.duration(ticks)
}

#[cfg(test)]
mod tests;
