//! Quality: how good a call sounds, estimated from loss, jitter and delay every ten seconds.
//!
//! The estimate is the E-model of ITU-T G.107 in its usual short form: a rating R from 0 to 100, lowered by delay and by
//! loss, and the mean opinion score that it stands for (G.107 Annex B). Opus at 40 kbit/s with in-band FEC counts as
//! without a loss of its own, and as robust as G.113 Appendix I gives for codecs with packet-loss concealment.

use std::time::{Duration, Instant};

use crate::rtp_leg::RtpLegStats;

/// Interval of estimates.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// Without any impairment (G.107 Table 3).
const BEST_RATING: f64 = 93.2;
/// G.113 Appendix I: loss in percent that halves the rating. Codecs with concealment have 20 to 35.
const LOSS_ROBUSTNESS: f64 = 25.0;
/// One-way delay beside that of the network: a frame, its encoding, and the phone's own buffer.
const OWN_DELAY_MS: f64 = 60.0;

/// Quality in three levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// R below 60: nearly all users are dissatisfied (G.109).
    Poor,
    /// R below 80: some or many are.
    Fair,
    /// All the others.
    Good,
}

impl Level {
    /// The stable name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Poor => "poor",
            Self::Fair => "fair",
            Self::Good => "good",
        }
    }
}

/// One estimate over [`INTERVAL`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// Of the worse direction.
    pub level: Level,
    /// Of the worse direction, 1 to 4.5.
    pub mean_opinion_score: f64,
    /// Loss of the caller's packets, in percent; None when the caller sent nothing.
    pub loss_from_caller: Option<f64>,
    /// Loss of our packets, in percent; None before the caller's first report.
    pub loss_to_caller: Option<f64>,
    /// Interarrival jitter of the caller's packets (RFC 3550 §6.4.1).
    pub jitter: Duration,
    /// None before the first measurement.
    pub round_trip: Option<Duration>,
}

/// An estimate, and whether it is worth an event.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// Over the last [`INTERVAL`].
    pub quality: Quality,
    /// Whether it is the first one, or of another level than the last news.
    pub is_news: bool,
}

/// Estimates the quality of a leg every [`INTERVAL`].
#[derive(Debug)]
pub struct QualityMeter {
    due_at: Instant,
    before: Counts,
    reported: Option<Level>,
    worst: Option<Quality>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    received: u64,
    lost: u64,
    sent: u64,
    remote_lost: Option<i64>,
}

impl QualityMeter {
    /// The first estimate is due [`INTERVAL`] from now.
    pub fn new(now: Instant) -> Self {
        Self { due_at: now + INTERVAL, before: Counts::default(), reported: None, worst: None }
    }

    /// Whether an estimate is due.
    pub fn is_due(&self, now: Instant) -> bool {
        now >= self.due_at
    }

    /// Estimates; None while nothing flows.
    pub fn observe(&mut self, stats: &RtpLegStats, now: Instant) -> Option<Estimate> {
        self.due_at = now + INTERVAL;
        let counts = Counts {
            received: stats.transport.packets_in,
            lost: stats.lost,
            sent: stats.transport.packets_out,
            remote_lost: stats.transport.remote_lost,
        };
        let quality = estimate(self.before, counts, stats)?;
        self.before = counts;
        if self.worst.is_none_or(|worst| quality.mean_opinion_score < worst.mean_opinion_score) {
            self.worst = Some(quality);
        }
        let is_news = self.reported.replace(quality.level) != Some(quality.level);
        Some(Estimate { quality, is_news })
    }

    /// The worst estimate so far; None for a call too short for one.
    pub fn worst(&self) -> Option<Quality> {
        self.worst
    }
}

/// None while nothing flows in either direction.
fn estimate(before: Counts, now: Counts, stats: &RtpLegStats) -> Option<Quality> {
    let received = now.received.saturating_sub(before.received);
    let lost = now.lost.saturating_sub(before.lost);
    let sent = now.sent.saturating_sub(before.sent);
    let loss_from_caller = (received > 0).then(|| percent(lost, received + lost));
    // Reports lag, so more may be lost than were sent; and a packet that arrives late lowers the count.
    let remote_lost = now.remote_lost.map(|lost| lost - before.remote_lost.unwrap_or(0));
    let remote_lost = remote_lost.map(|lost| u64::try_from(lost).unwrap_or(0).min(sent));
    let loss_to_caller = remote_lost.filter(|_| sent > 0).map(|lost| percent(lost, sent));
    let worse = [loss_from_caller, loss_to_caller].into_iter().flatten().reduce(f64::max)?;
    let one_way_ms = stats.transport.round_trip.unwrap_or_default().as_secs_f64() * 500.0
        + stats.transport.jitter.as_secs_f64() * 2000.0
        + OWN_DELAY_MS;
    let rating = rating(worse, one_way_ms);
    Some(Quality {
        level: match rating {
            rating if rating >= 80.0 => Level::Good,
            rating if rating >= 60.0 => Level::Fair,
            _ => Level::Poor,
        },
        mean_opinion_score: mean_opinion_score(rating),
        loss_from_caller,
        loss_to_caller,
        jitter: stats.transport.jitter,
        round_trip: stats.transport.round_trip,
    })
}

fn percent(part: u64, whole: u64) -> f64 {
    part as f64 * 100.0 / whole as f64
}

fn rating(loss_percent: f64, one_way_ms: f64) -> f64 {
    let delay = 0.024 * one_way_ms + 0.11 * (one_way_ms - 177.3).max(0.0);
    let loss = 95.0 * loss_percent / (loss_percent + LOSS_ROBUSTNESS);
    (BEST_RATING - delay - loss).max(0.0)
}

/// G.107 Annex B.
fn mean_opinion_score(rating: f64) -> f64 {
    1.0 + 0.035 * rating + rating * (rating - 60.0) * (100.0 - rating) * 7e-6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(received: u64, lost: u64, round_trip_ms: u64) -> RtpLegStats {
        let mut stats = RtpLegStats { lost, ..RtpLegStats::default() };
        stats.transport.packets_in = received;
        stats.transport.packets_out = received + lost;
        stats.transport.remote_lost = Some(0);
        stats.transport.round_trip = Some(Duration::from_millis(round_trip_ms));
        stats
    }

    #[test]
    fn a_rating_stands_for_the_score_that_g107_gives() {
        // G.107 Annex B, and G.109 Table 1.
        for (rating, score) in [(93.2, 4.41), (90.0, 4.34), (80.0, 4.03), (70.0, 3.60), (60.0, 3.10), (50.0, 2.58)] {
            assert!((mean_opinion_score(rating) - score).abs() < 0.01, "{rating}: {}", mean_opinion_score(rating));
        }
    }

    #[test]
    fn the_first_estimate_is_news_and_then_each_change() {
        let start = Instant::now();
        let mut meter = QualityMeter::new(start);
        assert!(!meter.is_due(start + INTERVAL / 2) && meter.is_due(start + INTERVAL));
        let mut level = |received, lost| {
            let Estimate { quality, is_news } = meter.observe(&stats(received, lost, 40), start)?;
            is_news.then_some(quality.level)
        };
        assert_eq!(level(500, 0), Some(Level::Good));
        assert_eq!(level(1000, 0), None);
        assert_eq!(level(1460, 40), Some(Level::Fair), "8 % of this interval, not 2.7 % of the call");
        assert_eq!(level(1860, 140), Some(Level::Poor));
        assert_eq!(level(2360, 140), Some(Level::Good));
        assert_eq!(level(2360, 140), None, "a caller that sends nothing is judged by what it hears");
        let worst = meter.worst().unwrap();
        assert_eq!((worst.level, worst.loss_from_caller), (Level::Poor, Some(20.0)));
    }

    #[test]
    fn what_nobody_measured_is_not_told() {
        let start = Instant::now();
        let mut meter = QualityMeter::new(start);
        assert_eq!(meter.observe(&RtpLegStats::default(), start), None);
        let mut one_way = RtpLegStats::default();
        one_way.transport.packets_in = 500;
        let Estimate { quality, .. } = meter.observe(&one_way, start).unwrap();
        assert_eq!((quality.loss_from_caller, quality.loss_to_caller, quality.round_trip), (Some(0.0), None, None));
    }

    #[test]
    fn delay_alone_makes_a_call_fair() {
        let start = Instant::now();
        let Estimate { quality, .. } = QualityMeter::new(start).observe(&stats(500, 0, 600), start).unwrap();
        assert_eq!(quality.level, Level::Fair);
    }
}
