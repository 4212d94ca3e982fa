//! StreamMessage: what an app says in Twilio's stream protocol, and in those that follow it.

use std::borrow::Cow;

use serde::Deserialize;

use super::lenient;

/// A message of the app. Its stream id is not compared: a connection has one stream.
#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum StreamMessage<'t> {
    Media {
        #[serde(borrow)]
        media: Media<'t>,
    },
    Mark {
        mark: Mark,
    },
    Clear,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
pub(super) struct Media<'t> {
    /// Base64.
    #[serde(borrow)]
    pub payload: Cow<'t, str>,
}

#[derive(Deserialize)]
pub(super) struct Mark {
    #[serde(deserialize_with = "lenient::text")]
    pub name: String,
}
