//! The peer against itself and against a foreign stack, over a simulated network with a virtual clock.

mod attack;
mod connect;
mod description;
mod lite;
mod loss;
mod network;
