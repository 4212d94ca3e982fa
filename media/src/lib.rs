//! The sound of a Patchcord call. Pure: no sockets, no clock, no async.
//!
//! [`bridge::Bridge`] is one call's sound as one value; the other modules are its parts.

pub mod bridge;
pub mod peer;
pub mod sdp;
pub mod rtp;
pub mod rtcp;
pub mod reorder;
pub mod agent_audio;
mod allowance;
pub mod speech;
mod splice;
pub mod dtmf;
pub mod gather;
pub mod mixer;
pub mod source;
pub mod prompt;
pub mod recorder;
pub mod opus;
pub mod resample;
pub mod timeline;
pub mod quality;
