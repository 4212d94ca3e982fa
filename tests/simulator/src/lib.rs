//! A fake Meta, a WhatsApp phone, agents and a bad network.
