//! Scenarios: the real service on loopback against the simulated Meta, phone and agents.
//!
//! One file for each feature, named as a user would name it. `service` starts a service, and
//! `people` has the callers and agents, each with a voice of its own; `program` is the same service as a process that can be
//! killed; `log_watch` checks every line that any of them logs.

#![allow(clippy::disallowed_methods, reason = "a test begins at some moment")]

mod log_watch;
mod people;
mod program;
mod service;

mod agent_mishaps;
mod agent_sound;
mod agents;
mod agent_refusals;
mod answering_agents;
mod api;
mod audiosocket;
mod barge_in;
mod browser;
mod calls;
mod client_certificates;
mod colleagues;
mod deciding;
#[cfg(target_os = "linux")]
mod descriptors;
mod dialects;
mod drills;
mod events;
mod external;
mod forwarding;
mod graph;
mod participants;
mod instances;
mod keypad;
mod logs;
mod media;
mod media_sockets;
mod models;
mod ncco;
mod numbers;
mod offers;
mod overload;
mod pacing;
mod permissions;
mod placed_mishaps;
mod placing;
mod privacy;
mod prompts;
mod queues;
mod recording;
mod redial;
mod reload;
mod restarts;
mod sip;
mod sip_calling;
mod sip_hold;
mod sip_nat;
mod sip_networks;
mod sip_provisional;
mod sip_queues;
mod sip_srtp;
mod sip_transfer;
mod sip_trunks;
mod sip_users;
mod sip_websocket;
mod slow_clients;
mod stalled_log;
mod standstill;
mod stopping;
mod transfer;
mod twilio_api;
mod twiml;
mod twiml_dialling;
mod twiml_handovers;
mod twiml_mishaps;
mod twiml_streams;
mod webhook;
