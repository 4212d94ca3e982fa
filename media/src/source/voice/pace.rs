//! Pace: whether the agent's sound is live, so that a backlog of it is delay, or content that may come at any speed.

use crate::timeline::TICKS_PER_FRAME;

/// Frames in one bucket: half a second.
const BUCKET_FRAMES: u32 = 25;
/// Buckets in the window: 2.5 s.
const BUCKETS: usize = 5;
/// What real time delivers in one window, in 48 kHz ticks.
const WINDOW_TICKS: u32 = BUCKETS as u32 * BUCKET_FRAMES * TICKS_PER_FRAME;
/// Chunks in one window, at least: live sound comes in chunks of 200 ms or less.
const WINDOW_PUSHES: u32 = 12;
/// A live source is never further ahead of real time than one chunk and some jitter, in 48 kHz ticks: 250 ms.
/// Speech synthesis, which is faster than speech, soon is.
const LEAD_AT_MOST: i64 = 12_000;
/// Each frame the lead forgets so much: 1000 ppm, five times what clocks are off.
const LEAD_LEAK: i64 = 1;
/// A sender that paces itself but keeps a lead of some seconds sends content, until it has gone on without a pause
/// for a minute: then it is live, and the lead is from before the caller could hear it.
const LIVE_AFTER_FRAMES: u32 = 3000;
/// After a stall, what a live source said meanwhile comes within 2 s, or it said nothing.
const RESUME_FRAMES: u32 = 100;

/// Compares what an agent delivers with the frames taken, in 48 kHz ticks.
#[derive(Debug)]
pub(super) struct Pace {
    kind: Kind,
    /// Delivered, minus taken in real time, since the sound began.
    lead: i64,
    window: [Bucket; BUCKETS],
    /// Frames in the bucket at hand, and full buckets before it.
    frames: u32,
    full: usize,
    steady_frames: u32,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Nothing is known: everything is content.
    Unproven,
    /// A microphone, or what behaves as one.
    Live { hurry: Hurry },
    /// It was live and sends again after a pause: a stall is over, or something new begins.
    Resuming { frames: u32, lead: i64 },
}

/// How a backlog of live sound may be reduced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hurry {
    /// By pauses and, if need be, by cuts in the speech: the caller has heard silence for it.
    Any,
    /// By pauses alone: it could be content after all.
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

    /// How far the agent is ahead of real time by itself, in 48 kHz ticks. So much of the queue is no delay.
    pub fn lead(&self) -> u64 {
        self.lead.max(0).unsigned_abs()
    }

    /// The backlog has been reduced once: what comes now is delay and nothing else.
    pub fn settle(&mut self) {
        if let Kind::Live { hurry } = &mut self.kind {
            *hurry = Hurry::Any;
        }
    }

    /// The sound begins again after a pause in which nothing was left to play.
    pub fn resume(&mut self) {
        match self.kind {
            Kind::Live { .. } => self.kind = Kind::Resuming { frames: 0, lead: 0 },
            Kind::Unproven | Kind::Resuming { .. } => *self = Self::new(),
        }
    }

    /// The sound goes on after silence had to stand in for it. Until something is proven, that is a beginning too: an
    /// answer that follows another one closely must not pass for what was late.
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
        if self.lead > LEAD_AT_MOST {
            self.kind = Kind::Unproven;
        }
        let bucket = &mut self.window[BUCKETS - 1];
        bucket.ticks = bucket.ticks.saturating_add(ticks);
        bucket.pushes += 1;
    }

    /// 20 ms have passed.
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

    /// A stall is made up for when the lead is what it was; anything else is a new sound.
    fn watch_resumption(&mut self) {
        let Kind::Resuming { frames, lead } = &mut self.kind else { return };
        *frames += 1;
        *lead -= i64::from(TICKS_PER_FRAME);
        if self.lead >= -LEAD_AT_MOST {
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
        if self.lead <= LEAD_AT_MOST {
            self.kind = Kind::Live { hurry: Hurry::Any };
        } else if self.steady_frames >= LIVE_AFTER_FRAMES {
            self.lead = 0;
            self.kind = Kind::Live { hurry: Hurry::Pauses };
        }
    }
}
