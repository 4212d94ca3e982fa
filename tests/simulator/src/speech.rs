//! Speech: sound encoded once, as WhatsApp encodes it, and shared by every phone.

use std::sync::{Arc, LazyLock};

use anyhow::Context;

use crate::sound::{self, PHONE_RATE};

/// Frames after the end of a speech in which the encoder comes to rest.
const REST_FRAMES: usize = 10;
/// Of files with speech, in Hz.
const RATES: std::ops::RangeInclusive<u32> = 8000..=192_000;
/// Samples of 20 ms at [`PHONE_RATE`].
const FRAME_SAMPLES: usize = 320;

static SILENCE: LazyLock<Speech> = LazyLock::new(|| encoded(&[], "silence"));
static CALLER: LazyLock<Speech> = LazyLock::new(|| encoded(&sound::caller_clip(), "the caller's clip"));
static AGENT: LazyLock<Speech> = LazyLock::new(|| encoded(&sound::agent_clip(), "the agent's clip"));

/// Opus packets of 20 ms each: said once and then silence, or again and again. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Speech {
    frames: Arc<[Arc<[u8]>]>,
    /// Frames of the sound itself, without the rest after it.
    sound_frames: usize,
    looped: bool,
}

impl Speech {
    /// Nothing but silence, which is sent as packets all the same.
    #[must_use]
    pub fn silence() -> Self {
        SILENCE.clone()
    }

    /// The caller's clip: 5.3 s of real speech, said once.
    #[must_use]
    pub fn caller() -> Self {
        CALLER.clone()
    }

    /// The agent's clip: 3.3 s of real speech, said once.
    #[must_use]
    pub fn agent() -> Self {
        AGENT.clone()
    }

    /// A tone that does not end.
    ///
    /// # Errors
    /// When libopus refuses to encode.
    pub fn tone(frequency_hz: f64) -> anyhow::Result<Self> {
        Ok(Self::pcm(&sound::tone(frequency_hz, PHONE_RATE, 1000))?.looped())
    }

    /// 200 ms of tone and 1.8 s of silence, again and again: what a load says to time its echoes.
    ///
    /// # Errors
    /// When libopus refuses to encode.
    pub fn bursts() -> anyhow::Result<Self> {
        let mut pcm = sound::tone(440.0, PHONE_RATE, 200);
        pcm.resize(2 * PHONE_RATE as usize, 0);
        Ok(Self::pcm(&pcm)?.looped())
    }

    /// PCM, 16 kHz mono, said once.
    ///
    /// # Errors
    /// When libopus refuses to encode.
    pub fn pcm(pcm: &[i16]) -> anyhow::Result<Self> {
        encode(pcm)
    }

    /// The bytes of a 16-bit WAV file at any usual rate, said once; of several channels the first.
    ///
    /// # Errors
    /// When the bytes are no such file.
    pub fn wav(bytes: &[u8]) -> anyhow::Result<Self> {
        let (rate, pcm) = sound::read_wav(bytes)?;
        anyhow::ensure!(RATES.contains(&rate), "speech has 8000 to 192000 samples a second, this has {rate}");
        encode(&sound::at_rate(&pcm, rate, PHONE_RATE))
    }

    /// The same again and again, without a pause.
    #[must_use]
    pub fn looped(mut self) -> Self {
        self.looped = true;
        self
    }

    /// How many frames of 20 ms the sound itself has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.sound_frames
    }

    /// Whether it is nothing but silence.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sound_frames == 0
    }

    /// The Opus packet at a position counted in frames from the start of talking.
    #[must_use]
    pub fn frame(&self, position: usize) -> Arc<[u8]> {
        let at = if self.looped && self.sound_frames > 0 {
            position % self.sound_frames
        } else {
            position.min(self.frames.len() - 1)
        };
        self.frames[at].clone()
    }
}

fn encoded(pcm: &[i16], what: &str) -> Speech {
    encode(pcm).unwrap_or_else(|error| panic!("libopus encodes {what}: {error}"))
}

/// WhatsApp's profile: 16 kHz wideband, about 20 kbit/s, 20 ms packets with in-band FEC.
fn encode(pcm: &[i16]) -> anyhow::Result<Speech> {
    let mut encoder = opus::Encoder::new(PHONE_RATE, opus::Channels::Mono, opus::Application::Voip)
        .context("start an Opus encoder")?;
    // libopus gives up the wide band or the FEC below 23 kbit/s at this expected loss.
    encoder.set_bitrate(opus::Bitrate::Bits(24_000))?;
    encoder.set_bandwidth(opus::Bandwidth::Wideband)?;
    encoder.set_inband_fec(true)?;
    encoder.set_packet_loss_perc(20)?;
    let sound_frames = pcm.len().div_ceil(FRAME_SAMPLES);
    let mut frames: Vec<Arc<[u8]>> = Vec::with_capacity(sound_frames + REST_FRAMES);
    for index in 0..sound_frames + REST_FRAMES {
        let mut frame = [0_i16; FRAME_SAMPLES];
        let rest = pcm.get(index * FRAME_SAMPLES..).unwrap_or_default();
        let samples = rest.len().min(FRAME_SAMPLES);
        frame[..samples].copy_from_slice(&rest[..samples]);
        frames.push(encoder.encode_vec(&frame, 400)?.into());
    }
    Ok(Speech { frames: frames.into(), sound_frames, looped: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_speech_ends_in_silence_and_a_loop_does_not() {
        let once = Speech::caller();
        assert_eq!(once.len(), 265);
        assert_eq!(once.frame(10_000), once.frame(once.len() + REST_FRAMES - 1));
        let looped = once.clone().looped();
        assert_eq!(looped.frame(265 + 7), once.frame(7));
    }

    #[test]
    fn a_file_of_any_usual_rate_is_said_at_its_own_speed() {
        for rate in [8000, 16_000, 44_100, 48_000] {
            let file = sound::write_wav(rate, &sound::tone(440.0, rate, 1000)).unwrap();
            assert!(Speech::wav(&file).unwrap().len().abs_diff(50) <= 1, "{rate} Hz");
        }
        for wrong in [0, 1, 4_000_000_000_u32] {
            let mut file = sound::write_wav(8000, &[0; 100]).unwrap();
            // The field nSamplesPerSec.
            file[24..28].copy_from_slice(&wrong.to_le_bytes());
            assert!(Speech::wav(&file).is_err(), "{wrong} Hz");
        }
        assert!(Speech::wav(b"RIFF").is_err());
    }

    #[test]
    fn packets_are_wideband_twenty_ms_and_about_twenty_kbit() {
        let speech = Speech::caller();
        let bytes: usize = (0..speech.len()).map(|at| speech.frame(at).len()).sum();
        let kbit = bytes as f64 * 8.0 / (speech.len() as f64 * 20.0);
        assert!((16.0..28.0).contains(&kbit), "{kbit} kbit/s");
        assert_eq!(opus::packet::get_nb_samples(&speech.frame(100), 48_000).unwrap(), 960);
        assert_eq!(opus::packet::get_bandwidth(&speech.frame(100)).unwrap(), opus::Bandwidth::Wideband);
    }
}
