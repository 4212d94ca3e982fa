//! The recording of a call.

use std::time::Instant;

use bytes::Bytes;

use super::Bridge;
use crate::recorder::{Recorded, Recorder};
use crate::reorder::Slot;

/// The recorder, while there is one.
#[derive(Default)]
pub(super) struct Recording {
    recorder: Option<Box<Recorder>>,
    /// Secret keys are being pressed: silence is recorded meanwhile.
    is_masked: bool,
}

impl Recording {
    /// Records a frame towards the caller. `timestamp` is that of the RTP line.
    pub fn agent_frame(&mut self, timestamp: u32, payload: &[u8], now: Instant) {
        if let Some(recorder) = &mut self.recorder {
            recorder.agent_frame(timestamp, payload, now);
        }
    }

    /// Records the caller's next slot.
    pub fn caller(&mut self, slot: &Slot, now: Instant) {
        if let Some(recorder) = &mut self.recorder {
            recorder.caller(slot, now);
        }
    }

    /// The caller's next slot is another sender's.
    pub fn caller_restarts(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.caller_restarts();
        }
    }
}

impl Bridge {
    /// Records from the next frame on. `serial` distinguishes Ogg streams and should be random. Returns false, and changes
    /// nothing, if there is a recording already.
    pub fn start_recording(&mut self, serial: u32) -> bool {
        if self.recording.recorder.is_some() {
            return false;
        }
        let mut recorder = Box::new(Recorder::new(serial));
        recorder.mask(self.recording.is_masked);
        self.recording.recorder = Some(recorder);
        true
    }

    /// Records silence while paused. Returns whether there is a recording.
    pub fn pause_recording(&mut self, paused: bool) -> bool {
        let Some(recorder) = &mut self.recording.recorder else { return false };
        match paused {
            true => recorder.pause(),
            false => recorder.resume(),
        }
        true
    }

    /// The next bytes of the recording.
    pub fn poll_recording(&mut self) -> Option<Bytes> {
        self.recording.recorder.as_mut()?.poll_page()
    }

    /// Ends the recording and returns its last bytes and its summary.
    pub fn stop_recording(&mut self) -> Option<Recorded> {
        self.recording.recorder.take().map(|recorder| recorder.finish())
    }

    /// Whether the call is being recorded.
    pub fn is_recording(&self) -> bool {
        self.recording.recorder.is_some()
    }

    /// Records silence while masked, independently of a pause.
    pub fn mask_recording(&mut self, masked: bool) {
        self.recording.is_masked = masked;
        if let Some(recorder) = &mut self.recording.recorder {
            recorder.mask(masked);
        }
    }
}
