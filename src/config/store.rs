//! `[store]`: what outlives the process, and for how long.

use std::path::PathBuf;
use std::time::Duration;

use super::read::Section;
use super::recordings::size_bytes;

/// What outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    /// One SQLite file.
    pub path: PathBuf,
    /// Call records are deleted so long after the call's end.
    pub keep_calls: Duration,
    /// Events, delivered or given up, are deleted after this time.
    pub keep_events: Duration,
    /// Whether the service is not ready while the file cannot be written.
    pub required: bool,
    /// While less is free on the file's disk, no new call is taken. 0, the default, takes calls on a full disk too: a
    /// call is worth more than its record.
    pub min_free_bytes: u64,
}

impl Store {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let path = section.text("path", |text| match text {
            "" => Err("give a path".to_owned()),
            text => Ok(PathBuf::from(text)),
        });
        let keep_calls = section.duration("keep_calls", 3660 * DAY).unwrap_or(30 * DAY);
        let keep_events = section.duration("keep_events", 3660 * DAY).unwrap_or(7 * DAY);
        let required = section.flag("required").unwrap_or(false);
        let min_free_bytes = section.text("min_free", size_bytes).unwrap_or(0);
        section.end();
        let path = path.unwrap_or_else(|| PathBuf::from("patchcord.db"));
        Self { path, keep_calls, keep_events, required, min_free_bytes }
    }
}
