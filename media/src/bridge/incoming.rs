//! Incoming: the caller's audio and keys on their way to everybody who listens.

use std::time::Instant;

use super::{Bridge, BridgeEvent};
use crate::agent_audio::AgentAudio;
use crate::reorder::Slot;
use crate::rtp_leg::Received;
use crate::speech::SpeechDetector;

/// The listeners that every call may have. Mixer and recording listen too while they are there.
#[derive(Debug)]
pub(super) struct Incoming {
    pub agent: AgentAudio,
    /// The agent does not hear the caller.
    pub is_muted: bool,
    /// Present while speech events are wanted.
    pub speech: Option<Box<SpeechDetector>>,
}

impl Incoming {
    pub fn new(now: Instant) -> Self {
        Self { agent: AgentAudio::new(now), is_muted: false, speech: None }
    }
}

impl Bridge {
    /// Whether [`BridgeEvent::Speech`] reports when the caller speaks.
    pub fn detect_speech(&mut self, on: bool) {
        self.incoming.speech = on.then(|| Box::new(SpeechDetector::new()));
    }

    pub(super) fn take_received(&mut self, now: Instant) {
        while let Some(received) = self.caller.poll_received(now) {
            match received {
                Received::Restarted => {
                    self.incoming.agent.restart(now);
                    self.recording.caller_restarts();
                }
                Received::Slot(slot) => self.pass_on(slot, now),
                Received::Key(key) => self.key_pressed(key, now),
                // Opus has its own.
                Received::ComfortNoise { .. } => {}
            }
        }
    }

    /// Fills the agent's audio while the caller sends nothing, but not while a gap is about to be concealed.
    pub(super) fn fill_agent_audio(&mut self, now: Instant) {
        let has_gap = self.agent_hears_caller() && self.caller.has_gap();
        if !self.incoming.agent.is_mixed() && !has_gap {
            self.incoming.agent.fill(now);
        }
    }

    fn pass_on(&mut self, slot: Slot, now: Instant) {
        self.recording.caller(&slot, now);
        if let Some(event) = self.incoming.speech.as_mut().and_then(|speech| speech.hear(&slot)) {
            self.events.push_back(BridgeEvent::Speech(event));
        }
        if let Some(mixer) = &mut self.mixer {
            mixer.push_caller(&slot);
        }
        if !self.incoming.agent.is_mixed() && self.agent_hears_caller() {
            self.incoming.agent.push(slot, now);
        }
    }
}
