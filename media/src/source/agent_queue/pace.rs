//! Pace: whether the agent's audio is live, so that a backlog is delay, or content that may arrive at any speed.

use crate::timeline::TICKS_PER_FRAME;

/// Frames in one bucket: half a second.
const BUCKET_FRAMES: u32 = 25;
/// Buckets in the window: 2.5 s.
const BUCKETS: usize = 5;
/// What real time delivers in one window, in 48 kHz ticks.
const WINDOW_TICKS: u32 = BUCKETS as u32 * BUCKET_FRAMES * TICKS_PER_FRAME;
/// Least number of chunks in one window: live audio arrives in chunks of 200 ms or less.
const WINDOW_PUSHES: u32 = 12;
/// A live source is never further ahead of real time than one chunk and some jitter: 250 ms, in 48 kHz ticks. Speech
/// synthesis, which is faster than speech, soon is.
const MAX_LEAD: i64 = 12_000;
/// The lead decays by this much per frame, in 48 kHz ticks: 1000 ppm, five times the error of real clocks.
const LEAD_LEAK: i64 = 1;
/// A sender that paces itself but keeps a lead of some seconds sends content, until it has continued without a pause for
/// a minute: then it is live, and the lead dates from before the caller could hear it.
const LIVE_AFTER_FRAMES: u32 = 3000;
/// After a stall, what a live source sent meanwhile arrives within 2 s, or it sent nothing.
const RESUME_FRAMES: u32 = 100;

/// Compares what an agent delivers with the frames taken, in 48 kHz ticks.
#[derive(Debug)]
pub(super) struct Pace {
    kind: Kind,
    /// Audio delivered minus time passed, since the audio began.
    lead: i64,
    window: [Bucket; BUCKETS],
    /// Frames in the current bucket, and full buckets before it.
    frames: u32,
    full: usize,
    steady_frames: u32,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Not known yet: treated as content.
    Unproven,
    /// A microphone, or something that behaves like one.
    Live { hurry: Hurry },
    /// It was live and sends again after a pause: either a stall is over, or new audio begins.
    Resuming { frames: u32, lead: i64 },
}

/// How a backlog of live audio may be reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hurry {
    /// By skipping pauses and, if need be, speech: the caller has heard silence for it.
    Any,
    /// By skipping pauses only: it could be content after all.
    Pauses,
}

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    ticks: u32,
    pushes: u32,
}

impl Pace {
    pub fn new() -> Self {
        Self {
            kind: Kind::Unproven,
            lead: 0,
            window: [Bucket::default(); BUCKETS],
            frames: 0,
            full: 0,
            steady_frames: 0,
        }
    }

    /// How a backlog may be reduced, or `None` if it is content.
    pub fn hurry(&self) -> Option<Hurry> {
        match self.kind {
            Kind::Live { hurry } => Some(hurry),
            Kind::Unproven | Kind::Resuming { .. } => None,
        }
    }

    /// How far the agent is ahead of real time, in 48 kHz ticks. This part of the queue is no delay.
    pub fn lead(&self) -> u64 {
        self.lead.max(0).unsigned_abs()
    }

    /// The backlog has been reduced once: a new one can only be delay.
    pub fn settle(&mut self) {
        if let Kind::Live { hurry } = &mut self.kind {
            *hurry = Hurry::Any;
        }
    }

    /// Audio begins again after a pause with an empty queue.
    pub fn resume(&mut self) {
        match self.kind {
            Kind::Live { .. } => self.kind = Kind::Resuming { frames: 0, lead: 0 },
            Kind::Unproven | Kind::Resuming { .. } => *self = Self::new(),
        }
    }

    /// Audio continues after an underrun. While nothing is proven this counts as a beginning too: an answer that closely
    /// follows another one must not be taken for late audio.
    pub fn underran(&mut self) {
        if matches!(self.kind, Kind::Unproven) {
            *self = Self::new();
        }
    }

    pub fn pushed(&mut self, ticks: u32) {
        self.lead += i64::from(ticks);
        if let Kind::Resuming { lead, .. } = &mut self.kind {
            *lead += i64::from(ticks);
        }
        if self.lead > MAX_LEAD {
            self.kind = Kind::Unproven;
        }
        let bucket = &mut self.window[BUCKETS - 1];
        bucket.ticks = bucket.ticks.saturating_add(ticks);
        bucket.pushes += 1;
    }

    /// 20 ms passed.
    pub fn tick(&mut self) {
        self.lead -= i64::from(TICKS_PER_FRAME);
        self.lead -= self.lead.signum() * LEAD_LEAK;
        self.watch_resumption();
        self.frames += 1;
        if self.frames == BUCKET_FRAMES {
            self.full = (self.full + 1).min(BUCKETS);
            self.judge();
            self.frames = 0;
            self.window.rotate_left(1);
            self.window[BUCKETS - 1] = Bucket::default();
        }
    }

    /// A stall is made up for once the lead is what it was; anything else is new audio.
    fn watch_resumption(&mut self) {
        let Kind::Resuming { frames, lead } = &mut self.kind else { return };
        *frames += 1;
        *lead -= i64::from(TICKS_PER_FRAME);
        if self.lead >= -MAX_LEAD {
            self.kind = Kind::Live { hurry: Hurry::Any };
        } else if *frames >= RESUME_FRAMES {
            *self = Self { lead: *lead, ..Self::new() };
        }
    }

    fn judge(&mut self) {
        let ticks: u32 = self.window.iter().map(|bucket| bucket.ticks).sum();
        let pushes: u32 = self.window.iter().map(|bucket| bucket.pushes).sum();
        let in_real_time = ticks.abs_diff(WINDOW_TICKS) <= WINDOW_TICKS / 10;
        if self.full < BUCKETS || !in_real_time || pushes < WINDOW_PUSHES {
            self.steady_frames = 0;
            return;
        }
        self.steady_frames += BUCKET_FRAMES;
        if !matches!(self.kind, Kind::Unproven) {
            return;
        }
        if self.lead <= MAX_LEAD {
            self.kind = Kind::Live { hurry: Hurry::Any };
        } else if self.steady_frames >= LIVE_AFTER_FRAMES {
            self.lead = 0;
            self.kind = Kind::Live { hurry: Hurry::Pauses };
        }
    }
}
