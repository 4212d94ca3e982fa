//! Scenarios: the real service on loopback against the simulated Meta, phone and agents.
//!
//! One file for each feature, named as a user would name it. `service` holds the one way to start a service, and
//! `people` the callers and agents, each with a voice of its own.

mod people;
mod service;

mod calls;
mod webhook;
mod offers;
mod graph;
mod agents;
mod agent_sound;
mod media;
mod stopping;
mod privacy;
