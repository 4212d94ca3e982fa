//! Patchcord: puts WhatsApp calls through.
