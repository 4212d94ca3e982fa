//! The quality and the figures of a call's audio, as events and records show them.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use patchcord_media::bridge::BridgeStats;
use patchcord_media::quality::{Estimate, Quality, QualityMeter};
use serde_json::{Value, json};

/// Measures from accept on.
#[derive(Default)]
pub(super) struct Meters(RefCell<Option<QualityMeter>>);

impl Meters {
    pub fn start(&self, now: Instant) {
        self.0.replace(Some(QualityMeter::new(now)));
    }

    /// The quality, when an estimate is due.
    pub fn observe(&self, stats: impl FnOnce() -> BridgeStats, now: Instant) -> Option<Estimate> {
        let mut meter = self.0.borrow_mut();
        meter.as_mut().filter(|meter| meter.is_due(now))?.observe(&stats().caller, now)
    }

    /// The figures of the whole call, for its end.
    pub fn figures(&self, stats: &BridgeStats) -> Value {
        let worst = self.0.borrow().as_ref().and_then(QualityMeter::worst);
        json!({
            "packets_from_caller": stats.caller.transport.packets_in,
            "packets_to_caller": stats.caller.transport.packets_out,
            "lost": stats.caller.lost,
            "late": stats.caller.late,
            "excess": stats.caller.excess,
            "jitter_ms": milliseconds(stats.caller.transport.jitter),
            "round_trip_ms": stats.caller.transport.round_trip.map(milliseconds),
            "dropped_for_agent": stats.dropped_for_agent,
            "frames_skipped": stats.frames_skipped,
            "trimmed_ms": stats.trimmed.as_millis() as u64,
            "lost_to_caller": stats.caller.transport.remote_lost,
            "worst_quality": worst.map(|quality| quality_json(&quality)),
        })
    }
}

/// The quality as events and records show it.
pub(crate) fn quality_json(quality: &Quality) -> Value {
    json!({
        "level": quality.level.name(),
        "mean_opinion_score": tenths(quality.mean_opinion_score),
        "loss_from_caller_percent": quality.loss_from_caller.map(tenths),
        "loss_to_caller_percent": quality.loss_to_caller.map(tenths),
        "jitter_ms": milliseconds(quality.jitter),
        "round_trip_ms": quality.round_trip.map(milliseconds),
    })
}

/// In tenths, which is as fine as anyone hears, and which comes back unchanged from the store's JSON.
fn milliseconds(time: Duration) -> f64 {
    tenths(time.as_secs_f64() * 1e3)
}

fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
