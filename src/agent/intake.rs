//! Intake: the agent's audio, at whatever rate it comes, at the rate of its connection.

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use patchcord_media::resample::Resampler;

/// Brings audio to one rate. At that rate it passes unchanged.
pub(super) struct Intake {
    to: SampleRate,
    /// Of audio at another rate.
    resampling: Option<Resampling>,
}

struct Resampling {
    resampler: Resampler,
    /// Less than a frame, and perhaps half a sample.
    waiting: Vec<u8>,
}

impl Intake {
    pub fn new(to: SampleRate) -> Self {
        Self { to, resampling: None }
    }

    /// A whole clip, whose last frame is filled up with silence.
    pub fn clip(to: SampleRate, from_hz: u32, samples: Bytes) -> Bytes {
        if from_hz == to.hz() {
            return samples;
        }
        let frame_bytes = from_hz as usize / 25;
        let mut whole = samples.to_vec();
        whole.resize(whole.len().next_multiple_of(frame_bytes), 0);
        Self::new(to).take(from_hz, whole.into())
    }

    /// Whether audio at this rate can be taken: 20 ms of it are whole samples. The error is a sentence for the agent's
    /// developer.
    pub fn check(hz: u32) -> Result<u32, String> {
        match (8_000..=192_000).contains(&hz) && hz.is_multiple_of(50) {
            true => Ok(hz),
            false => Err(format!("audio at {hz} Hz is not taken: send 8000, 16000, 22050, 24000, 44100 or 48000")),
        }
    }

    /// The audio at the rate of the call. The last frame that is not full waits for its rest.
    pub fn take(&mut self, from_hz: u32, samples: Bytes) -> Bytes {
        if from_hz == self.to.hz() {
            self.resampling = None;
            return samples;
        }
        if self.resampling.as_ref().is_none_or(|resampling| resampling.resampler.from_hz() != from_hz) {
            self.resampling = Some(Resampling { resampler: Resampler::of_hz(from_hz, self.to), waiting: Vec::new() });
        }
        match &mut self.resampling {
            Some(resampling) => resampling.take(&samples),
            None => samples,
        }
    }
}

impl Resampling {
    fn take(&mut self, samples: &[u8]) -> Bytes {
        self.waiting.extend_from_slice(samples);
        let frame_bytes = 2 * self.resampler.samples_per_frame();
        let whole = self.waiting.len() - self.waiting.len() % frame_bytes;
        let mut frame = Vec::with_capacity(frame_bytes / 2);
        let mut resampled = Vec::new();
        for bytes in self.waiting[..whole].chunks_exact(frame_bytes) {
            frame.clear();
            frame.extend(bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
            self.resampler.process(&frame, &mut resampled);
        }
        self.waiting.drain(..whole);
        resampled.into_iter().flat_map(i16::to_le_bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn audio_keeps_its_length_at_another_rate_however_it_is_cut() {
        let mut intake = Intake::new(SampleRate::Hz8000);
        let second = vec![0; 32_000];
        let pieces = second.chunks(77).map(|piece| intake.take(16_000, Bytes::copy_from_slice(piece)).len());
        assert_eq!(pieces.sum::<usize>(), 16_000);
        assert_eq!(intake.take(44_100, Bytes::from(vec![0; 88_200])).len(), 16_000);
        assert_eq!(intake.take(8000, Bytes::from_static(&[1, 2, 3])), Bytes::from_static(&[1, 2, 3]));
        let clip = Intake::clip(SampleRate::Hz16000, 8000, vec![0; 325].into());
        assert_eq!(clip.len(), 1280, "two frames");
        for (hz, bytes) in [(22_050, 44_100), (44_100, 88_200), (32_000, 64_000), (11_100, 22_200)] {
            assert_eq!(Intake::check(hz), Ok(hz));
            assert_eq!(
                Intake::clip(SampleRate::Hz24000, hz, vec![0; bytes].into()).len(),
                48_000,
                "a second at {hz} Hz"
            );
        }
        assert!(Intake::check(11_025).is_err() && Intake::check(0).is_err() && Intake::check(u32::MAX).is_err());
    }
}
