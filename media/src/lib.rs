//! The audio of a Patchcord call. Pure: no sockets, no clock, no async.
//!
//! [`bridge::Bridge`] is one call's audio as one value; the other modules are its parts.

#![warn(clippy::wildcard_enum_match_arm)]
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::wildcard_enum_match_arm, reason = "a test begins at some moment")
)]

pub mod bridge;
pub mod rtp_leg;
pub mod phone_leg;
pub mod peer;
pub mod plain_rtp;
mod rtp_session;
mod srtp;
pub mod sdp;
pub mod audio_terms;
pub mod rtp;
pub mod rtcp;
mod allowance;
mod playout;
pub mod g711;
mod concealment;
pub mod reorder;
pub mod timeline;
pub mod dtmf;
pub mod gather;
pub mod agent_audio;
pub mod speech;
pub mod source;
pub mod mixer;
mod splice;
pub mod prompt;
pub mod recorder;
pub mod opus;
pub mod resample;
pub mod quality;
