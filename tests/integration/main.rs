//! Scenarios: the real service on loopback against the simulated Meta, phone and agents.
//!
//! One file for each feature, named as a user would name it. `service` holds the one way to start a service.

mod service;

mod calls;
