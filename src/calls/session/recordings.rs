//! OpenRecordings: recordings of a call whose files are not closed yet.

use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::recordings::{RecordingId, RecordingResult};

/// The recordings of one call that are not finished.
#[derive(Default)]
pub(super) struct OpenRecordings {
    ids: Vec<RecordingId>,
    closing: JoinSet<Option<RecordingResult>>,
}

impl OpenRecordings {
    pub fn add(&mut self, id: RecordingId, result: oneshot::Receiver<RecordingResult>) {
        self.ids.push(id);
        self.closing.spawn(async { result.await.ok() });
    }

    /// The next result. None when no recording is open; `Some(None)` for one whose writer is gone.
    pub async fn next_finished(&mut self) -> Option<Option<RecordingResult>> {
        let result = self.closing.join_next().await?.ok().flatten();
        if let Some(result) = &result {
            self.ids.retain(|id| *id != result.id);
        }
        Some(result)
    }

    /// Those that are not finished.
    pub fn take_unfinished(&mut self) -> Vec<RecordingId> {
        std::mem::take(&mut self.ids)
    }
}
