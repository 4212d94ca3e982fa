//! The file of one recording: created, written, closed under its final name. Blocking.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use patchcord_media::recorder::{Measured, measure};
use sha2::{Digest, Sha256};

use super::{RecordingId, RecordingResult};

/// Creates a file.
pub(super) type OpenFile = Arc<dyn Fn(&Path) -> io::Result<File> + Send + Sync>;

/// How a recording ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    /// Finished, with this much audio.
    Finished(Duration),
    /// Its call ended without finishing it.
    Abandoned,
}

/// A file that is being written.
pub(super) struct GrowingFile {
    file: File,
    path: PathBuf,
    size_bytes: u64,
    digest: Sha256,
}

impl GrowingFile {
    pub(super) fn create(path: PathBuf, open: &OpenFile) -> io::Result<Self> {
        let file = open(&path)?;
        // Shows other processes that this file is in use. Where files cannot be locked there is no other process.
        let _ = file.try_lock();
        Ok(Self { file, path, size_bytes: 0, digest: Sha256::new() })
    }

    /// Appends whole pages. After an error the file must not be written any more; a partial page is cut off.
    pub(super) fn write(&mut self, pages: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all(pages) {
            // This may fail like the write; then a partial page ends the file, which players ignore.
            let _ = self.file.set_len(self.size_bytes);
            return Err(error);
        }
        self.size_bytes += pages.len() as u64;
        self.digest.update(pages);
        Ok(())
    }

    /// Syncs the file and gives it its final name. Without `duration` it is measured from the file. None, and no
    /// file, if nothing was written.
    pub(super) fn close(
        self,
        id: &RecordingId,
        duration: Option<Duration>,
        mark_for_upload: bool,
    ) -> io::Result<Option<Closed>> {
        if self.size_bytes == 0 {
            // A leftover is removed at the next start.
            let _ = fs::remove_file(&self.path);
            return Ok(None);
        }
        self.file.sync_all()?;
        let duration = match duration {
            Some(duration) => duration,
            None => measure(io::BufReader::new(File::open(&self.path)?))?.duration,
        };
        publish(&self.path, id, mark_for_upload)?;
        Ok(Some(Closed { duration, size_bytes: self.size_bytes, sha256: hex(&self.digest.finalize()) }))
    }
}

/// Figures of a closed file.
#[derive(Default)]
pub(super) struct Closed {
    pub(super) duration: Duration,
    pub(super) size_bytes: u64,
    pub(super) sha256: String,
}

/// Closes a file that another process left open: cuts off a partial page. None, and no file, if there is no
/// audio in it; None if its process is still running.
pub(super) fn close_orphan(
    path: &Path,
    id: &RecordingId,
    mark_for_upload: bool,
) -> io::Result<Option<RecordingResult>> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    if matches!(file.try_lock(), Err(fs::TryLockError::WouldBlock)) {
        return Ok(None);
    }
    let measured = measure(io::BufReader::new(&file))?;
    if measured.duration.is_zero() {
        fs::remove_file(path)?;
        return Ok(None);
    }
    file.set_len(measured.whole_bytes)?;
    file.sync_all()?;
    let result = facts(&mut file, id, &measured)?;
    publish(path, id, mark_for_upload)?;
    Ok(Some(result))
}

/// Figures of a closed file that another process wrote. None if there is no file.
pub(super) fn read_back(path: &Path, id: &RecordingId) -> io::Result<Option<RecordingResult>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    let measured = measure(io::BufReader::new(&file))?;
    facts(&mut file, id, &measured).map(Some)
}

fn facts(file: &mut File, id: &RecordingId, measured: &Measured) -> io::Result<RecordingResult> {
    io::Seek::rewind(file)?;
    let mut digest = Sha256::new();
    io::copy(file, &mut digest)?;
    let problem = "the service ended while this was being recorded".to_owned();
    Ok(RecordingResult {
        id: id.clone(),
        file_name: id.file_name(),
        duration_ms: measured.duration.as_millis() as u64,
        size_bytes: measured.whole_bytes,
        sha256: hex(&digest.finalize()),
        complete: measured.is_ended,
        problem: (!measured.is_ended).then_some(problem),
    })
}

/// The marker is created first: a process that ends in between leaves an open file, which the next start closes.
fn publish(path: &Path, id: &RecordingId, mark_for_upload: bool) -> io::Result<()> {
    if mark_for_upload {
        OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.with_file_name(id.marker_name()))?;
    }
    fs::rename(path, path.with_file_name(id.file_name()))
}

/// Accessible only to our own user: it contains conversations.
pub(super) fn make_folder(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// A new file, accessible only to our own user.
pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// The text of an error for people, and its label in metrics.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that may grow")]
pub(super) fn explain(error: &io::Error) -> (String, &'static str) {
    match error.kind() {
        // From the floor of free space.
        ErrorKind::StorageFull if error.get_ref().is_some() => (error.to_string(), "disk_low"),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => ("the disk is full".to_owned(), "disk_full"),
        ErrorKind::ReadOnlyFilesystem => ("the disk is read-only".to_owned(), "read_only"),
        ErrorKind::PermissionDenied => ("the recordings folder may not be written to".to_owned(), "permission"),
        ErrorKind::NotFound => ("the recordings folder is gone".to_owned(), "folder_missing"),
        _ => (format!("the file cannot be written: {error}"), "other"),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
