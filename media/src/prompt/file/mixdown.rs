//! Mixdown: decoded audio of any rate and channels becomes mono at 16 kHz.

use symphonia::core::audio::GenericAudioBufferRef;

use crate::prompt::wideband::Wideband;
use crate::prompt::{MAX_CHANNELS, MAX_DURATION, PromptError, RATES_HZ};

/// Which of several channels are used.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mix {
    /// The mean of all: speech is in each of them or in the centre.
    Even,
    /// One of them alone.
    Channel(usize),
}

/// One stream being mixed down.
pub(super) struct Mixdown {
    mix: Mix,
    /// Frames still to be skipped at the start.
    lead: u64,
    /// Frames decoded, at the stream's rate.
    decoded: u64,
    /// None until the first packet, which has rate and channels.
    format: Option<Format>,
    interleaved: Vec<f32>,
    dropped: u64,
}

struct Format {
    rate: u32,
    phase: Phase,
    sound: Wideband,
}

impl Mixdown {
    pub(super) fn new(mix: Mix, lead: u64) -> Self {
        Self { mix, lead, decoded: 0, format: None, interleaved: Vec::new(), dropped: 0 }
    }

    /// Takes a decoded packet. Returns false if its rate or channels differ from those before it.
    pub(super) fn take(&mut self, decoded: &GenericAudioBufferRef<'_>) -> Result<bool, PromptError> {
        let (hz, channels) = (decoded.spec().rate(), decoded.spec().channels().count());
        let format = match &mut self.format {
            Some(format) => format,
            none => none.insert(Format::new(hz, channels)?),
        };
        if (format.rate, format.phase.channels()) != (hz, channels) {
            return Ok(false);
        }
        self.decoded += decoded.frames() as u64;
        if self.decoded > self.lead.saturating_add(MAX_DURATION.as_secs() * u64::from(hz)) {
            return Err(PromptError::TooLong);
        }
        decoded.copy_to_vec_interleaved(&mut self.interleaved);
        let before = self.decoded - decoded.frames() as u64;
        let skipped = self.lead.saturating_sub(before).min(decoded.frames() as u64) as usize;
        let heard = &mut self.interleaved[skipped * channels..];
        heard.iter_mut().for_each(|sample| *sample = sane(*sample));
        format.phase.hear(heard, hz);
        let mono = heard.chunks_exact(channels);
        match self.mix {
            Mix::Channel(channel) if channel < channels => format.sound.push(mono.map(|frame| frame[channel]))?,
            Mix::Even | Mix::Channel(_) => format.sound.push(mono.map(mean))?,
        }
        Ok(true)
    }

    /// Drops the last frames.
    pub(super) fn drop_last(&mut self, frames: u64) {
        self.dropped = frames.min(self.frames());
    }

    /// All frames decoded.
    pub(super) fn decoded(&self) -> u64 {
        self.decoded
    }

    /// The frames kept.
    pub(super) fn frames(&self) -> u64 {
        self.decoded.saturating_sub(self.lead).saturating_sub(self.dropped)
    }

    /// Frames per second; 0 before the first packet.
    pub(super) fn rate(&self) -> u32 {
        self.format.as_ref().map_or(0, |format| format.rate)
    }

    /// The loudest channel, if the channels cancel each other in the mean.
    pub(super) fn loudest_if_cancelled(&self) -> Option<usize> {
        self.format.as_ref()?.phase.loudest_if_cancelled()
    }

    pub(super) fn finish(self) -> Result<Vec<f32>, PromptError> {
        match self.format {
            Some(format) => format.sound.finish(self.dropped),
            None => Ok(Vec::new()),
        }
    }
}

impl Format {
    fn new(rate: u32, channels: usize) -> Result<Self, PromptError> {
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(PromptError::Channels(channels));
        }
        if !RATES_HZ.contains(&rate) {
            return Err(PromptError::SampleRate(rate));
        }
        Ok(Self { rate, phase: Phase::new(channels), sound: Wideband::new(rate)? })
    }
}

fn mean(frame: &[f32]) -> f32 {
    frame.iter().sum::<f32>() / frame.len() as f32
}

/// Limit for float samples, which can have any value.
pub(super) fn sane(sample: f32) -> f32 {
    if sample.is_finite() { sample.clamp(-8.0, 8.0) } else { 0.0 }
}

/// Length of blocks in which cancellation is measured: long enough that channels do not agree by chance.
const BLOCKS_PER_SECOND: u32 = 5;

/// A block cancels if its mix has less than this share of the power that uncorrelated channels would have.
const CANCELLED_POWER: f64 = 0.1;

/// A single channel is used if more than this share of the audio's power is in blocks that cancel.
const CANCELLED_SHARE: f64 = 0.1;

/// Whether the channels cancel each other: a miswired cable inverts one of two.
struct Phase {
    /// Total power of each channel.
    channels: Vec<f64>,
    cancelled: f64,
    block: Block,
}

/// Power so far in one block.
#[derive(Default)]
struct Block {
    frames: u32,
    all_channels: f64,
    mix: f64,
}

impl Phase {
    fn new(channels: usize) -> Self {
        Self { channels: vec![0.0; channels], cancelled: 0.0, block: Block::default() }
    }

    fn channels(&self) -> usize {
        self.channels.len()
    }

    fn hear(&mut self, interleaved: &[f32], hz: u32) {
        if self.channels() < 2 {
            return;
        }
        for frame in interleaved.chunks_exact(self.channels()) {
            for (power, sample) in self.channels.iter_mut().zip(frame) {
                let sample = f64::from(*sample);
                *power += sample * sample;
                self.block.all_channels += sample * sample;
            }
            let mix = f64::from(mean(frame));
            self.block.mix += mix * mix;
            self.block.frames += 1;
            if self.block.frames >= hz / BLOCKS_PER_SECOND {
                let block = std::mem::take(&mut self.block);
                self.cancelled += self.power_lost(&block);
            }
        }
    }

    /// The power of a block that cancels.
    fn power_lost(&self, block: &Block) -> f64 {
        let unrelated = block.all_channels / (self.channels() * self.channels()) as f64;
        if block.mix < CANCELLED_POWER * unrelated { block.all_channels } else { 0.0 }
    }

    fn loudest_if_cancelled(&self) -> Option<usize> {
        let cancelled = self.cancelled + self.power_lost(&self.block);
        let all: f64 = self.channels.iter().sum();
        let powers = self.channels.iter().enumerate();
        let (loudest, _) = powers.max_by(|left, right| left.1.total_cmp(right.1))?;
        (cancelled > CANCELLED_SHARE * all).then_some(loudest)
    }
}
