//! SpeechDetector: tells when the caller begins and stops to speak, mostly without decoding anything.

use std::fmt;
use std::time::Duration;

use crate::opus::{Decoder, SampleRate, inspect};
use crate::reorder::Slot;

/// 48 kHz ticks in a millisecond. All time here is the caller's own.
const TICKS_PER_MILLISECOND: u32 = 48;

/// The sender's voice bit must be on for two frames: one alone is a click or a breath.
const BIT_AT_LEAST: u32 = 40 * TICKS_PER_MILLISECOND;

/// So much of what was heard must sound like speech. A cough is shorter, and whoever interrupts for a "yes" is not
/// kept waiting.
const SPEECH_AT_LEAST: u32 = 80 * TICKS_PER_MILLISECOND;

/// People pause for less than this between two words of one sentence.
const HANGOVER: u32 = 500 * TICKS_PER_MILLISECOND;

/// A frame that scores higher is speech, by the model's own scale of 0 to 1.
const SPEECH_SCORE: f32 = 0.5;

/// The model takes 16 ms at 16 kHz.
const SCORED_SAMPLES: usize = 256;
const SCORED_TICKS: u32 = 16 * TICKS_PER_MILLISECOND;

/// Hears the caller's line slot by slot, for a bridge that stops the agent when the caller speaks.
///
/// Two stages. The voice bit inside a SILK packet costs nothing but trusts the sender's encoder, which takes loud
/// noise for speech. So while the bit is on the packets are decoded and scored by a small model too. CELT packets
/// have no bit and are always scored. A silent caller costs no decoding.
///
/// It reads no clock: time is the sum of the slots' durations.
pub struct SpeechDetector {
    /// 48 kHz ticks since the first slot.
    position: u64,
    state: State,
    /// Made when there is first something to score.
    scorer: Option<Box<Scorer>>,
    /// The last packet was scored, so that the scorer knows what came right before.
    awake: bool,
    /// How long the bit has been on without a break.
    bit_on: u32,
    /// What has sounded like speech, less what has not since.
    speech: u32,
}

/// What the caller does. Positions count from the first slot that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpeechEvent {
    /// The caller speaks.
    Started {
        /// When it was certain. The words began 80 to 200 ms before.
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

/// What one slot was.
struct Heard {
    ticks: u32,
    speech: bool,
}

impl SpeechDetector {
    /// Nothing heard yet. Memory for decoding, some 45 kB, is taken at the first sound that needs it.
    pub fn new() -> Self {
        Self { position: 0, state: State::Silent, scorer: None, awake: false, bit_on: 0, speech: 0 }
    }

    /// Hears what comes next on the caller's line.
    pub fn hear(&mut self, slot: &Slot) -> Option<SpeechEvent> {
        let heard = match slot {
            Slot::Packet { payload, .. } => self.hear_packet(payload),
            // Lost speech cannot be told from lost silence: the hangover bridges short losses, and long ones are silence.
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

    /// How much of the caller's line was heard.
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
            // No bit to wait for.
            None => self.bit_on = BIT_AT_LEAST,
        }
        let speech = self.score(payload);
        Heard { ticks: facts.duration, speech }
    }

    /// Decodes and scores one packet; says whether any of it is speech.
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
        // A packet that looked sound and was not leaves the samples as they were.
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
    /// None when there is no memory for a decoder; then nothing is ever speech, and the agent talks on.
    fn new() -> Option<Box<Self>> {
        let decoder = Decoder::new(SampleRate::Hz16000).ok()?;
        // The longest packet, behind less than one scored frame.
        let samples = Vec::with_capacity(1920 + SCORED_SAMPLES);
        Some(Box::new(Self { decoder, model: earshot::Detector::default(), samples }))
    }

    /// Forgets the sound before a pause: it was long ago.
    fn reset(&mut self) {
        // A decoder that will not be reset still decodes.
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
