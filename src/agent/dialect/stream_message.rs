//! StreamMessage: what an app says in Twilio's stream protocol, and in those that follow it.

use serde::Deserialize;

use super::lenient;

/// A message of the app. Its stream id is not compared: a connection has one stream.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum StreamMessage {
    Media {
        media: Media,
    },
    Mark {
        mark: Mark,
    },
    Clear,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
pub(super) struct Media {
    /// Base64.
    pub payload: String,
}

#[derive(Deserialize)]
pub(super) struct Mark {
    #[serde(deserialize_with = "lenient::text")]
    pub name: String,
}
