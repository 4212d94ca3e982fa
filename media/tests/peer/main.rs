//! The peer against itself and against a foreign stack, over a simulated network with a virtual clock.

#![allow(clippy::disallowed_methods, reason = "a test begins at some moment")]
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::needless_pass_by_value,
    reason = "a test may panic and print, in its helpers too; SDP rewriters share one type"
)]

mod attack;
mod connect;
mod description;
mod lite;
mod loss;
mod network;
mod restart;
