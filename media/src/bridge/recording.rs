//! What is written down of a call, and what is listened for on its way.

use bytes::Bytes;

use super::Bridge;
use crate::recorder::{Recorded, Recorder};
use crate::speech::SpeechDetector;

impl Bridge {
    /// Records from the next frame on. `serial` tells Ogg streams apart and should be random. Says whether it was begun:
    /// a recording that goes on is left alone.
    pub fn start_recording(&mut self, serial: u32) -> bool {
        if self.recorder.is_some() {
            return false;
        }
        let mut recorder = Box::new(Recorder::new(serial));
        recorder.mask(self.is_recording_masked);
        self.recorder = Some(recorder);
        true
    }

    /// Silence in the recording from now on, or sound again. Says whether there is a recording.
    pub fn pause_recording(&mut self, paused: bool) -> bool {
        let Some(recorder) = &mut self.recorder else { return false };
        match paused {
            true => recorder.pause(),
            false => recorder.resume(),
        }
        true
    }

    /// The next bytes of the recording.
    pub fn poll_recording(&mut self) -> Option<Bytes> {
        self.recorder.as_mut()?.poll_page()
    }

    /// Ends the recording; gives its last bytes and what there is to say of it.
    pub fn stop_recording(&mut self) -> Option<Recorded> {
        self.recorder.take().map(|recorder| recorder.finish())
    }

    /// Whether a recording goes on.
    pub fn is_recording(&self) -> bool {
        self.recorder.is_some()
    }

    /// While it is on, what is recorded is silence.
    pub fn mask_recording(&mut self, on: bool) {
        self.is_recording_masked = on;
        if let Some(recorder) = &mut self.recorder {
            recorder.mask(on);
        }
    }

    /// Whether to listen for the caller's speech, which [`BridgeEvent::Speech`](super::BridgeEvent::Speech) tells.
    pub fn detect_speech(&mut self, on: bool) {
        self.speech = on.then(|| Box::new(SpeechDetector::new()));
    }
}
