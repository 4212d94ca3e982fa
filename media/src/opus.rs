//! Opus: encoder profiles, a decoder that conceals losses, and what a packet says about itself.

mod packet;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::opus::{Application, Bandwidth, Bitrate, Channels};
use thiserror::Error;

pub use packet::{MAX_PACKET_TICKS, Mode, PacketError, PacketFacts, inspect};

/// Duration of one frame. Everything Patchcord sends is split into these.
pub const FRAME: Duration = Duration::from_millis(20);

/// The steady 20 ms packet of a wideband mono encoder ([`Profile::Hq`]) fed with zeros: what a silent line sends.
pub const SILENCE: [u8; 8] = [0x48, 0x07, 0xc9, 0x79, 0xc5, 0x12, 0xf7, 0xbc];

/// Longest packet that we encode. The profiles average 90 bytes; the bound keeps every packet inside any path's MTU.
pub const MAX_ENCODED_BYTES: usize = 640;

/// Concealment is plausible for three frames; after them silence is better.
const CONCEAL_AT_MOST: Duration = Duration::from_millis(60);

/// Frames encoded by this process. One addition stands beside the 30 µs that encoding a frame takes.
static ENCODES: AtomicU64 = AtomicU64::new(0);

/// How many frames this process has encoded: prompts when they are loaded, and live audio. Relayed and played audio must
/// not be counted here.
pub fn encodes() -> u64 {
    ENCODES.load(Ordering::Relaxed)
}

/// The PCM rates Opus reads and writes directly, so that none of them needs a resampler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SampleRate {
    /// Telephone band.
    Hz8000,
    /// Wideband: all that a WhatsApp call carries.
    Hz16000,
    /// Common among speech models.
    Hz24000,
    /// The RTP clock's own rate.
    Hz48000,
}

/// How live audio is encoded. All are wideband speech with in-band FEC; they trade processor time for bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Profile {
    /// Complexity 1 at 40 kbit/s: the quality of complexity 5 at 24 kbit/s for 40 % of its processor time.
    #[default]
    Eco,
    /// Complexity 5 at 32 kbit/s, for fewer than about 100 calls per core.
    Hq,
    /// Complexity 10 at 40 kbit/s: for prompts, which are encoded once.
    Prompt,
}

/// Errors of the codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpusError {
    /// Opus codes only 8, 16, 24 and 48 kHz here.
    #[error("{0} Hz is not a rate of Opus: use 8000, 16000, 24000 or 48000")]
    UnsupportedRate(u32),
    /// The encoder takes exactly 20 ms at its rate.
    #[error("an encoder frame is {expected} samples, not {got}")]
    FrameLength {
        /// Samples in 20 ms at the encoder's rate.
        expected: usize,
        /// Samples given.
        got: usize,
    },
    /// The bytes are not an Opus packet.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// libopus refused, with its own reason.
    #[error("libopus: {0}")]
    Codec(&'static str),
}

/// Turns 20 ms of PCM into one Opus packet. One per direction and call, never shared.
#[derive(Debug)]
pub struct Encoder {
    inner: ::opus::Encoder,
    rate: SampleRate,
}

/// Turns Opus packets into PCM at the rate it was opened with, always mono.
#[derive(Debug)]
pub struct Decoder {
    inner: ::opus::Decoder,
    rate: SampleRate,
}

impl Encoder {
    /// An encoder of mono PCM at `rate`.
    pub fn new(rate: SampleRate, profile: Profile) -> Result<Self, OpusError> {
        let mut inner = ::opus::Encoder::new(rate.hz(), Channels::Mono, Application::Voip)?;
        let (complexity, bits_per_second) = profile.settings();
        inner.set_complexity(complexity)?;
        inner.set_bitrate(Bitrate::Bits(bits_per_second))?;
        inner.set_vbr(true)?;
        // Without the cap a 48 kHz encoder chooses fullband: more work for audio that the phone discards.
        inner.set_max_bandwidth(Bandwidth::Wideband)?;
        inner.set_inband_fec(true)?;
        inner.set_packet_loss_perc(10)?;
        Ok(Self { inner, rate })
    }

    /// Encodes exactly 20 ms into `out`, replacing what was there. At most [`MAX_ENCODED_BYTES`].
    pub fn encode(&mut self, pcm: &[i16], out: &mut Vec<u8>) -> Result<(), OpusError> {
        let expected = self.rate.samples_per_frame();
        if pcm.len() != expected {
            return Err(OpusError::FrameLength { expected, got: pcm.len() });
        }
        out.resize(MAX_ENCODED_BYTES, 0);
        ENCODES.fetch_add(1, Ordering::Relaxed);
        let encoded = self.inner.encode(pcm, out);
        out.truncate(encoded.as_ref().copied().unwrap_or(0));
        encoded?;
        Ok(())
    }

    /// Forgets all earlier audio; the next packet is independent.
    pub fn reset(&mut self) -> Result<(), OpusError> {
        Ok(self.inner.reset_state()?)
    }

    /// Whether packets are predicted from earlier ones, as they are at first. One that is not costs more bits, and decodes
    /// correctly whatever the decoder has decoded before it.
    pub(crate) fn set_prediction(&mut self, prediction: bool) -> Result<(), OpusError> {
        Ok(self.inner.set_prediction_disabled(!prediction)?)
    }

    /// The rate of the PCM it takes.
    pub fn rate(&self) -> SampleRate {
        self.rate
    }
}

impl Decoder {
    /// A decoder to mono PCM at `rate`.
    pub fn new(rate: SampleRate) -> Result<Self, OpusError> {
        let inner = ::opus::Decoder::new(rate.hz(), Channels::Mono)?;
        Ok(Self { inner, rate })
    }

    /// Decodes one packet, appends its samples to `out` and returns their number. On an error `out` stays as it was.
    pub fn decode(&mut self, packet: &[u8], out: &mut Vec<i16>) -> Result<usize, OpusError> {
        let samples = self.rate.samples(inspect(packet)?.duration);
        self.append(packet, false, samples, out)?;
        Ok(samples)
    }

    /// Appends exactly `samples` in place of lost packets.
    ///
    /// `next` is the packet that directly follows the loss: if it carries in-band FEC, the last lost frame is
    /// restored from it, and it must still be decoded afterwards. What FEC does not cover is concealed for at most
    /// 60 ms, fading out, and silent from there on.
    pub fn decode_lost(&mut self, next: Option<&[u8]>, samples: usize, out: &mut Vec<i16>) -> Result<(), OpusError> {
        let fec = next.and_then(|packet| Some((packet, self.fec_samples(packet)?)));
        let recovered = match fec {
            Some((_, frame)) if frame <= samples => frame,
            _ => 0,
        };
        let start = out.len();
        self.conceal(samples - recovered, out)?;
        if let Some((packet, _)) = fec.filter(|_| recovered > 0) {
            // A copy that does not decode is one more lost frame, not an error.
            if self.append(packet, true, recovered, out).is_err() {
                out.resize(start + samples, 0);
            }
        }
        Ok(())
    }

    /// Forgets all earlier audio, for another sender or a resynchronised stream.
    pub fn reset(&mut self) -> Result<(), OpusError> {
        Ok(self.inner.reset_state()?)
    }

    /// The rate of the PCM it returns.
    pub fn rate(&self) -> SampleRate {
        self.rate
    }

    /// The samples of the frame that `packet` can restore by FEC, if any.
    fn fec_samples(&self, packet: &[u8]) -> Option<usize> {
        let facts = inspect(packet).ok()?;
        let frame = facts.duration / u32::from(facts.frames);
        facts.has_fec.then(|| self.rate.samples(frame))
    }

    /// libopus conceals in steps of 2.5 ms; a remainder below that, and all beyond the limit, is silence.
    fn conceal(&mut self, samples: usize, out: &mut Vec<i16>) -> Result<(), OpusError> {
        let start = out.len();
        let step = self.rate.samples(120);
        let limit = samples.min(self.rate.samples_in(CONCEAL_AT_MOST));
        let mut left = limit - limit % step;
        while left > 0 {
            let chunk = left.min(self.rate.samples_per_frame());
            self.append(&[], false, chunk, out)?;
            left -= chunk;
        }
        if samples > limit {
            let frame = self.rate.samples_per_frame();
            let concealed = out.len();
            fade_out(&mut out[concealed - frame.min(concealed - start)..]);
        }
        out.resize(start + samples, 0);
        Ok(())
    }

    fn append(&mut self, packet: &[u8], fec: bool, samples: usize, out: &mut Vec<i16>) -> Result<(), OpusError> {
        let start = out.len();
        out.resize(start + samples, 0);
        let decoded = self.inner.decode(packet, &mut out[start..], fec);
        out.truncate(start + decoded.as_ref().copied().unwrap_or(0));
        decoded?;
        Ok(())
    }
}

impl SampleRate {
    /// All of them, lowest first.
    pub const ALL: [Self; 4] = [Self::Hz8000, Self::Hz16000, Self::Hz24000, Self::Hz48000];

    /// The rate of `hz` samples per second, if it is supported.
    pub fn from_hz(hz: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|rate| rate.hz() == hz)
    }

    /// Samples per second.
    pub fn hz(self) -> u32 {
        match self {
            Self::Hz8000 => 8_000,
            Self::Hz16000 => 16_000,
            Self::Hz24000 => 24_000,
            Self::Hz48000 => 48_000,
        }
    }

    /// Samples in one 20 ms frame: 160, 320, 480 or 960.
    pub fn samples_per_frame(self) -> usize {
        self.hz() as usize / 50
    }

    /// Samples in `ticks` of 48 kHz, rounded down.
    pub fn samples(self, ticks: u32) -> usize {
        (ticks / (48_000 / self.hz())) as usize
    }

    /// Samples in a duration, rounded down.
    pub fn samples_in(self, duration: Duration) -> usize {
        (duration.as_micros() * u128::from(self.hz()) / 1_000_000) as usize
    }

    /// Duration of `samples`.
    pub fn duration(self, samples: u64) -> Duration {
        let hz = u64::from(self.hz());
        Duration::from_secs(samples / hz) + Duration::from_nanos(samples % hz * 1_000_000_000 / hz)
    }
}

impl TryFrom<u32> for SampleRate {
    type Error = OpusError;

    fn try_from(hz: u32) -> Result<Self, OpusError> {
        Self::ALL.into_iter().find(|rate| rate.hz() == hz).ok_or(OpusError::UnsupportedRate(hz))
    }
}

impl Profile {
    /// Complexity (0 to 10) and target bits per second.
    fn settings(self) -> (i32, i32) {
        match self {
            Self::Eco => (1, 40_000),
            Self::Hq => (5, 32_000),
            Self::Prompt => (10, 40_000),
        }
    }
}

impl From<::opus::Error> for OpusError {
    fn from(error: ::opus::Error) -> Self {
        Self::Codec(error.description())
    }
}

/// Fades in linearly.
pub(crate) fn fade_in(samples: &mut [i16]) {
    samples.reverse();
    fade_out(samples);
    samples.reverse();
}

/// Fades out linearly, so that a cut does not click.
pub(crate) fn fade_out(samples: &mut [i16]) {
    let count = samples.len() as i64;
    for (sample, left) in samples.iter_mut().zip((0..count).rev()) {
        *sample = (i64::from(*sample) * left / count) as i16;
    }
}

#[cfg(test)]
mod tests;
