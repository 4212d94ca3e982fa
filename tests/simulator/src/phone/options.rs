//! How a simulated phone behaves.

use std::time::Duration;

use super::offer::OfferQuirks;
use crate::speech::Speech;

/// How a phone behaves.
#[derive(Debug, Clone)]
pub struct PhoneOptions {
    /// What it says.
    pub speech: Speech,
    /// Leave out its silences (DTX).
    pub dtx: bool,
    /// Say it from the moment media is up instead of from accept on.
    pub talk_before_accept: bool,
    /// How its offer differs from the usual one.
    pub quirks: OfferQuirks,
    /// How much faster its clock runs than ours, in parts per million.
    pub clock_drift_ppm: i32,
    /// How long after accept it hears nothing before it hangs up (Meta: 20 s).
    pub patience: Duration,
    /// How long it hears nothing in the middle of a call before it hangs up (Meta: 30 s).
    pub patience_mid_call: Duration,
    /// How long it rings before Meta gives up (30 to 60 s; 45 s here).
    pub ring_patience: Duration,
    /// Two packets further apart than this as they leave the service are an objection.
    pub late_after: Duration,
    /// Report every packet as an event. Off, only the first is; the rest is in [`super::Phone::counts`] (for load).
    pub report_packets: bool,
    /// Time the echoes of bursts of sound.
    pub measures_echo: bool,
    /// Chance: credentials, SSRC, first sequence number and timestamp all follow from it.
    pub seed: u64,
    /// First sequence number, chosen by chance unless given.
    pub first_sequence: Option<u16>,
    /// First timestamp, chosen by chance unless given.
    pub first_timestamp: Option<u32>,
}

impl Default for PhoneOptions {
    fn default() -> Self {
        Self {
            speech: Speech::silence(),
            dtx: false,
            talk_before_accept: false,
            quirks: OfferQuirks::default(),
            clock_drift_ppm: 0,
            patience: Duration::from_secs(20),
            patience_mid_call: Duration::from_secs(30),
            ring_patience: Duration::from_secs(45),
            late_after: Duration::from_secs(1),
            report_packets: true,
            measures_echo: false,
            seed: rand::random(),
            first_sequence: None,
            first_timestamp: None,
        }
    }
}
