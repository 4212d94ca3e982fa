//! Recovery: closes files that an earlier process left unfinished.

use std::io;
use std::path::Path;

use tracing::{info, warn};

use super::file::close_orphan;
use super::{RecordingId, RecordingResult};

/// Closes every unfinished file whose process has ended. A file that cannot be closed is logged and left for the next start.
pub(super) fn recover(dir: &Path, mark_for_upload: bool) -> io::Result<Vec<RecordingResult>> {
    let mut recovered = Vec::new();
    for entry in dir.read_dir()? {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(RecordingId::of_growing) else { continue };
        match close_orphan(&entry.path(), &id, mark_for_upload) {
            Ok(Some(result)) => {
                info!(recording.id = %id, duration_ms = result.duration_ms, "recording {id} of an earlier process is closed");
                recovered.push(result);
            }
            Ok(None) => {}
            Err(error) => warn!(recording.id = %id, "recording {id} of an earlier process cannot be closed: {error}"),
        }
    }
    recovered.sort_by(|left, right| left.id.cmp(&right.id));
    Ok(recovered)
}
