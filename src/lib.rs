//! Patchcord: puts WhatsApp calls through.

pub mod config;
pub mod whatsapp;
