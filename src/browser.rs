//! Browsers: what a page needs to be an agent or a participant of a call.

pub mod token;
