//! Sound files: WAV, MP3, FLAC, Ogg Vorbis and Ogg Opus become mono samples at 16 kHz.
//!
//! What is decoded is mixed down and resampled packet by packet, so a file costs no more memory than ten minutes of
//! mono, whatever its rate and its channels.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use symphonia::core::audio::GenericAudioBufferRef;
use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoderOptions};
use symphonia::core::codecs::registry::CodecRegistry;
use symphonia::core::errors::Error as DecodeError;
use symphonia::core::formats::probe::Hint;
use symphonia::core::formats::{FormatOptions, TrackType};
use symphonia::core::io::{MediaSourceStream, MediaSourceStreamOptions};
use symphonia::core::meta::MetadataOptions;

use super::wideband::Wideband;
use super::{MAX_CHANNELS, MAX_DURATION, MAX_FILE_BYTES, PromptError, RATES_HZ};

/// A file that breaks off is taken if this share of the sound that it announces is there.
const SHARE_NEEDED: f64 = 0.8;

/// So many packets may be broken before the rest of the file is not looked at any more.
const BROKEN_AT_MOST: u64 = 1000;

/// A WAV header written before the length was known has the highest number there, with or without a sign bit.
const UNKNOWN_LENGTH_BYTES: u64 = 0x7fff_0000;

static CODECS: LazyLock<CodecRegistry> = LazyLock::new(|| {
    let mut codecs = CodecRegistry::new();
    symphonia::default::register_enabled_codecs(&mut codecs);
    codecs.register_audio_decoder::<symphonia_adapter_libopus::OpusDecoder>();
    codecs
});

/// Mono samples at 16 kHz, full scale 1.0, never empty. `extension` appears in the error only.
pub(super) fn read(bytes: &[u8], extension: Option<&str>) -> Result<Vec<f32>, PromptError> {
    if bytes.is_empty() {
        return Err(PromptError::Empty);
    }
    if bytes.len() > MAX_FILE_BYTES {
        return Err(PromptError::TooManyBytes(bytes.len()));
    }
    let sound = behind_id3(bytes);
    if !is_known(sound) {
        return Err(PromptError::UnknownFormat { extension: extension.map(str::to_owned) });
    }
    // The decoders are other people's code and the file is yet others' bytes: what goes wrong between them costs this
    // file, not the process.
    catch_unwind(AssertUnwindSafe(|| decode(sound)))
        .unwrap_or_else(|_| Err(PromptError::Undecodable("the decoder failed on it".into())))
}

/// The content decides; a wrong extension is no reason to refuse a good sound.
fn is_known(bytes: &[u8]) -> bool {
    match bytes {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => true,
        [b'f', b'L', b'a', b'C', ..] | [b'O', b'g', b'g', b'S', ..] => true,
        _ => is_mp3(bytes),
    }
}

/// An MPEG layer III frame header, perhaps behind zeros that a removed tag has left (ISO 11172-3 §2.4.1.3).
fn is_mp3(bytes: &[u8]) -> bool {
    let start = bytes.iter().position(|byte| *byte != 0).unwrap_or(0);
    let &[0xff, version_and_layer, rates, ..] = &bytes[start..] else { return false };
    let is_layer_3 = version_and_layer & 0b1110_0110 == 0b1110_0010;
    is_layer_3 && version_and_layer & 0b0001_1000 != 0b0000_1000 && rates >> 4 != 15 && rates >> 2 & 0b11 != 3
}

/// Titles and cover pictures stand before the sound and look like anything (ID3v2.4 §3.1).
fn behind_id3(mut bytes: &[u8]) -> &[u8] {
    while let &[b'I', b'D', b'3', _, _, flags, a, b, c, d, ..] = bytes {
        let size = [a, b, c, d].iter().fold(0, |size, byte| size << 7 | usize::from(byte & 0x7f));
        let footer = if flags & 0b0001_0000 != 0 { 10 } else { 0 };
        bytes = bytes.get(10 + size + footer..).unwrap_or(&[]);
    }
    bytes
}

fn decode(bytes: &[u8]) -> Result<Vec<f32>, PromptError> {
    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), MediaSourceStreamOptions::default());
    let mut format = symphonia::default::get_probe().probe(
        &Hint::new(),
        stream,
        FormatOptions::default(),
        MetadataOptions::default(),
    )?;
    let track = format.default_track(TrackType::Audio).ok_or(PromptError::NoSound)?;
    let id = track.id;
    let parameters =
        track.codec_params.as_ref().and_then(|parameters| parameters.audio()).ok_or(PromptError::NoSound)?;
    check_channels(parameters.channels.as_ref().map_or(1, |channels| channels.count()))?;
    let announced = track.num_frames.filter(|frames| is_believable(*frames, parameters));
    let mut decoder = CODECS.make_audio_decoder(parameters, &AudioDecoderOptions::default())?;
    let mut heard = Heard::default();
    while heard.broken < BROKEN_AT_MOST {
        let packet = match format.next_packet() {
            Ok(Some(packet)) if packet.track_id == id => packet,
            Ok(Some(_)) => continue,
            Err(DecodeError::DecodeError(_)) => {
                heard.broken += 1;
                continue;
            }
            // The end of the file, planned or not; or of the first of several sounds in it.
            Ok(None) | Err(_) => break,
        };
        match decoder.decode(&packet) {
            Ok(decoded) => heard.take(&decoded)?,
            Err(_) => heard.broken += 1,
        }
    }
    heard.finish(announced)
}

fn check_channels(count: usize) -> Result<(), PromptError> {
    match count {
        1..=MAX_CHANNELS => Ok(()),
        _ => Err(PromptError::Channels(count)),
    }
}

/// False for the length in the header of a file that was written as a stream.
fn is_believable(frames: u64, parameters: &AudioCodecParameters) -> bool {
    let bits = u64::from(parameters.bits_per_sample.unwrap_or(0));
    let channels = parameters.channels.as_ref().map_or(1, |channels| channels.count()) as u64;
    frames > 0 && frames.saturating_mul(bits * channels / 8) < UNKNOWN_LENGTH_BYTES
}

/// What has been decoded so far.
#[derive(Default)]
struct Heard {
    /// None until the first packet has told the rate.
    sound: Option<(u32, Wideband)>,
    interleaved: Vec<f32>,
    /// Frames of all channels, at the file's rate.
    frames: u64,
    whole: u64,
    broken: u64,
}

impl Heard {
    fn take(&mut self, decoded: &GenericAudioBufferRef<'_>) -> Result<(), PromptError> {
        let (hz, channels) = (decoded.spec().rate(), decoded.spec().channels().count());
        check_channels(channels)?;
        let (rate, sound) = match &mut self.sound {
            Some((rate, sound)) => (*rate, sound),
            none if RATES_HZ.contains(&hz) => {
                let (rate, sound) = none.insert((hz, Wideband::new(hz)?));
                (*rate, sound)
            }
            None => return Err(PromptError::SampleRate(hz)),
        };
        if rate != hz {
            self.broken += 1;
            return Ok(());
        }
        self.whole += 1;
        self.frames += decoded.frames() as u64;
        if self.frames > MAX_DURATION.as_secs() * u64::from(rate) {
            return Err(PromptError::TooLong);
        }
        decoded.copy_to_vec_interleaved(&mut self.interleaved);
        // The even mean of all channels: speech is in each of them or in the one at the centre.
        sound.push(self.interleaved.chunks_exact(channels).map(mean))
    }

    fn finish(self, announced: Option<u64>) -> Result<Vec<f32>, PromptError> {
        let Some((_, sound)) = self.sound.filter(|_| self.frames > 0) else {
            return Err(if self.broken > 0 { PromptError::Broken } else { PromptError::NoSound });
        };
        let packets = (self.whole + self.broken) as f64;
        if (self.whole as f64) < SHARE_NEEDED * packets {
            return Err(PromptError::Broken);
        }
        if announced.is_some_and(|announced| (self.frames as f64) < SHARE_NEEDED * announced as f64) {
            return Err(PromptError::BreaksOff);
        }
        sound.finish()
    }
}

/// Float samples can be anything at all; a wave far above full scale is no wave.
fn mean(frame: &[f32]) -> f32 {
    let sum: f32 = frame.iter().map(|sample| if sample.is_finite() { sample.clamp(-8.0, 8.0) } else { 0.0 }).sum();
    sum / frame.len() as f32
}

impl From<DecodeError> for PromptError {
    fn from(error: DecodeError) -> Self {
        Self::Undecodable(error.to_string())
    }
}

#[cfg(test)]
mod tests;
