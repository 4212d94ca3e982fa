//! The recording of one call, from the bridge to the writers of files.

use patchcord_media::bridge::Bridge;

use super::CallMedia;
use crate::call::command::CommandResult;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::worker::command::Report;

impl CallMedia {
    pub(super) fn start_recording(&self) -> Result<CommandResult, Refusal> {
        let Some(recordings) = &self.services.recordings else {
            return Err(Refusal::new(
                RefusalCode::RecordingUnavailable,
                "the recordings folder cannot be used: see the log",
            ));
        };
        if !self.bridge.borrow_mut().start_recording(rand::random()) {
            return Err(Refusal::new(
                RefusalCode::AlreadyRecording,
                "the call is being recorded; stop that recording first",
            ));
        }
        let (sink, result) = recordings.start_recording(&self.options.call);
        let id = sink.id().clone();
        self.recording.replace(Some(sink));
        self.report(Report::RecordingStarted { id: id.clone(), result });
        Ok(CommandResult::Recording(id.as_str().to_owned()))
    }

    pub(super) fn pause_recording(&self, paused: bool) -> Result<CommandResult, Refusal> {
        match self.bridge.borrow_mut().pause_recording(paused) {
            true => Ok(CommandResult::Done),
            false => Err(not_recording()),
        }
    }

    pub(super) fn stop_recording(&self) -> Result<CommandResult, Refusal> {
        match self.finish_recording() {
            true => Ok(CommandResult::Done),
            false => Err(not_recording()),
        }
    }

    /// Hands new pages to the writers. It never waits for the disk.
    pub(super) fn keep_recording(&self, bridge: &mut Bridge) {
        while let Some(page) = bridge.poll_recording() {
            if let Some(sink) = &*self.recording.borrow() {
                sink.write(page);
            }
        }
    }

    /// Closes the recording. Says whether there was one.
    pub(super) fn finish_recording(&self) -> bool {
        let Some(recorded) = self.bridge.borrow_mut().stop_recording() else { return false };
        if let Some(sink) = self.recording.take() {
            for page in recorded.pages {
                sink.write(page);
            }
            sink.finish(recorded.duration);
        }
        true
    }
}

fn not_recording() -> Refusal {
    Refusal::new(RefusalCode::NotRecording, "the call is not being recorded")
}
