//! Patchcord: puts WhatsApp calls through.
//!
//! [`app::App`] is the running service. The modules are in the order in which a call passes through them.

#![warn(clippy::wildcard_enum_match_arm)]
#![cfg_attr(
    test,
    allow(clippy::disallowed_methods, clippy::wildcard_enum_match_arm, reason = "a test begins at some moment")
)]

pub mod command_line;
pub mod app;
pub mod http;
mod pages;
pub mod whatsapp;
pub mod calls;
pub mod directory;
pub mod call;
pub mod worker;
pub mod clock;
pub mod pulse;
pub mod health;
pub mod descriptors;
mod udp_socket;
pub mod agent;
pub mod twilio;
pub mod vonage;
pub mod browser;
pub mod sip;
pub mod queue;
pub mod queues;
pub mod store;
pub mod events;
pub mod permissions;
pub mod prompts;
pub mod recordings;
pub mod free_space;
pub mod egress;
pub mod public_address;
pub mod address;
pub mod cause;
pub mod config;
pub mod settings;
pub mod routes;
#[cfg(feature = "simulator")]
pub mod demo;
#[cfg(feature = "simulator")]
pub mod simulate;
pub mod replay;
pub mod telemetry;
pub mod core_dumps;
mod throttle;
