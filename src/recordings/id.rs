//! The id of a recording, and the names of its files.

use std::fmt;

use serde::Serialize;
use ulid::Ulid;

const PREFIX: &str = "rec_";
const FINISHED: &str = ".opus";

/// `rec_` and a ULID in lower case, so ids sort by the start of the recording. It contains nothing personal.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RecordingId(String);

impl RecordingId {
    /// A new id.
    pub fn generate() -> Self {
        Self(format!("{PREFIX}{}", Ulid::new().to_string().to_lowercase()))
    }

    /// Reads an id; only a valid id can become a file name.
    pub fn parse(text: &str) -> Option<Self> {
        let ulid = text.strip_prefix(PREFIX)?;
        let is_lower = !ulid.bytes().any(|byte| byte.is_ascii_uppercase());
        (is_lower && Ulid::from_string(ulid).is_ok()).then(|| Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `rec_….opus`
    pub fn file_name(&self) -> String {
        format!("{}{FINISHED}", self.0)
    }

    /// `rec_….opus.part`
    pub(super) fn growing_file_name(&self) -> String {
        format!("{}{FINISHED}{GROWING}", self.0)
    }

    /// `rec_….opus.upload`
    pub(super) fn marker_name(&self) -> String {
        format!("{}{FINISHED}{WAITING}", self.0)
    }

    /// The id in a finished file's name.
    pub(super) fn of_finished(file_name: &str) -> Option<Self> {
        Self::parse(file_name.strip_suffix(FINISHED)?)
    }

    /// The id in the name of an unfinished file.
    pub(super) fn of_growing(file_name: &str) -> Option<Self> {
        Self::of_finished(file_name.strip_suffix(GROWING)?)
    }

    /// The id in the name of an upload's marker.
    pub(super) fn of_marker(file_name: &str) -> Option<Self> {
        Self::of_finished(file_name.strip_suffix(WAITING)?)
    }
}

const GROWING: &str = ".part";
const WAITING: &str = ".upload";

impl fmt::Display for RecordingId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_and_nothing_else_is_one() {
        let id = RecordingId::generate();
        assert_eq!(RecordingId::parse(id.as_str()), Some(id.clone()));
        assert_eq!(RecordingId::of_finished(&id.file_name()), Some(id.clone()));
        assert_eq!(RecordingId::of_growing(&id.growing_file_name()), Some(id.clone()));
        assert_eq!(RecordingId::of_marker(&id.marker_name()), Some(id.clone()));
        assert_eq!(RecordingId::of_finished(&id.marker_name()), None);
        for wrong in ["", "rec_", "rec_../../../../etc/passwd", "call_01arz3ndektsv4rrffq69g5fav", &id.0.to_uppercase()]
        {
            assert_eq!(RecordingId::parse(wrong), None, "{wrong}");
        }
    }
}
