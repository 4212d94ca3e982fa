//! The sound of a Patchcord call. Pure: no sockets, no clock, no async.
