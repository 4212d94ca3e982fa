//! Sound: one stream of packets in a file, and how it is decoded.

use std::borrow::Cow;
use std::sync::LazyLock;

use symphonia::core::codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions};
use symphonia::core::codecs::registry::CodecRegistry;
use symphonia::core::packet::PacketRef;
use symphonia::core::units::{Duration, Timestamp};

use super::mixdown::{Mix, Mixdown};
use super::{Contents, PACKET_WORK, Work, flac, mp3, ogg, wav};
use crate::prompt::{MAX_DURATION, PromptError, PromptWarning, wideband};

/// A truncated or damaged file is accepted if this share of its audio is there.
const SHARE_NEEDED: f64 = 0.8;

/// A smaller missing share causes no warning.
const SHARE_WHOLE: f64 = 0.98;

static CODECS: LazyLock<CodecRegistry> = LazyLock::new(|| {
    let mut codecs = CodecRegistry::new();
    symphonia::default::register_enabled_codecs(&mut codecs);
    codecs.register_audio_decoder::<symphonia_adapter_libopus::OpusDecoder>();
    codecs
});

/// One stream of a file.
pub(super) struct Sound<'a> {
    pub parameters: AudioCodecParameters,
    pub stream: Stream<'a>,
    /// Decoded frames before the audio starts.
    pub lead: u64,
    /// Decoded frames after the audio's end.
    pub tail: u64,
    /// Frames announced by the file.
    pub announced: Option<u64>,
    /// True when the file ends within a packet.
    pub is_cut: bool,
}

/// The source of packets.
pub(super) enum Stream<'a> {
    Wav(wav::Samples<'a>),
    Mp3(mp3::Frames<'a>),
    Flac(flac::Stream<'a>),
    Ogg(ogg::Packets<'a>),
}

/// The input of a decoder.
#[derive(Clone)]
pub(super) struct Packet<'a> {
    /// None for the mere end of an Ogg page.
    pub data: Option<Cow<'a, [u8]>>,
    /// The end of an Ogg page, if this is the last packet on it.
    pub page_end: Option<ogg::PageEnd>,
}

/// A packet that cannot be read.
pub(super) struct Damaged;

impl<'a> Stream<'a> {
    fn packets(&self) -> Box<dyn Iterator<Item = Result<Packet<'a>, Damaged>> + 'a> {
        let whole = |data: &'a [u8]| Ok(Packet { data: Some(Cow::Borrowed(data)), page_end: None });
        match self {
            Self::Wav(samples) => Box::new(samples.packets().map(whole)),
            Self::Mp3(frames) => Box::new(frames.clone().map(move |frame| whole(frame.bytes))),
            Self::Flac(stream) => stream.packets(),
            Self::Ogg(packets) => Box::new(packets.clone()),
        }
    }
}

impl Sound<'_> {
    /// Adds this sound to what the file holds.
    pub(super) fn decode(&self, work: &mut Work, contents: &mut Contents) -> Result<(), PromptError> {
        let mut heard = self.decode_as(Mix::Even, work)?;
        if let Some(channel) = heard.mixdown.loudest_if_cancelled() {
            contents.warn(PromptWarning::OppositePhase);
            heard = self.decode_as(Mix::Channel(channel), work)?;
        }
        heard.mixdown.drop_last(heard.tail);
        self.check(&heard, contents)?;
        contents.samples.append(&mut heard.mixdown.finish()?);
        if contents.samples.len() as u64 > MAX_DURATION.as_secs() * u64::from(wideband::RATE.hz()) {
            return Err(PromptError::TooLong);
        }
        Ok(())
    }

    fn decode_as(&self, mix: Mix, work: &mut Work) -> Result<Heard, PromptError> {
        let mut decoder = CODECS.make_audio_decoder(&self.parameters, &AudioDecoderOptions::default())?;
        let mut heard = Heard { mixdown: Mixdown::new(mix, self.lead), tail: self.tail, whole: 0, torn: 0, damaged: 0 };
        let mut clock = ogg::Clock::default();
        for packet in self.stream.packets() {
            work.spend(PACKET_WORK)?;
            let Ok(packet) = packet else {
                heard.lose();
                continue;
            };
            if let Some(data) = packet.data {
                heard.take(&mut *decoder, &data, work)?;
            }
            if let Some(end) = packet.page_end {
                clock.page_ends(end, heard.mixdown.decoded());
            }
        }
        heard.tail += clock.padding(heard.mixdown.decoded(), heard.mixdown.rate());
        Ok(heard)
    }

    fn check(&self, heard: &Heard, contents: &mut Contents) -> Result<(), PromptError> {
        let frames = heard.mixdown.frames();
        let lost = heard.torn + heard.damaged;
        if frames == 0 {
            return Err(if lost > 0 { PromptError::Broken } else { PromptError::NoSound });
        }
        let whole = heard.whole as f64;
        if whole / (whole + lost as f64) < SHARE_NEEDED {
            return Err(PromptError::Broken);
        }
        if whole / (whole + heard.damaged as f64) < SHARE_WHOLE {
            contents.warn(PromptWarning::Damaged);
        }
        let most = MAX_DURATION.as_secs() * u64::from(heard.mixdown.rate());
        // A length over our limit is no length: it was written before the length was known.
        let announced = self.announced.filter(|announced| (1..=most).contains(announced));
        let there = announced.map_or(1.0, |announced| frames as f64 / announced as f64);
        if there < SHARE_NEEDED {
            return Err(PromptError::BreaksOff);
        }
        if self.is_cut || there < SHARE_WHOLE {
            contents.warn(PromptWarning::BreaksOff);
        }
        Ok(())
    }
}

/// What has been decoded so far.
struct Heard {
    mixdown: Mixdown,
    tail: u64,
    whole: u64,
    /// Packets at the beginning that lean on others before the file's beginning.
    torn: u64,
    damaged: u64,
}

impl Heard {
    fn take(&mut self, decoder: &mut dyn AudioDecoder, data: &[u8], work: &mut Work) -> Result<(), PromptError> {
        let packet = PacketRef::new(0, Timestamp::ZERO, Duration::ZERO, data);
        let Ok(decoded) = decoder.decode_ref(&packet) else {
            self.lose();
            return Ok(());
        };
        work.spend(decoded.frames() as u64 * decoded.spec().channels().count() as u64)?;
        match self.mixdown.take(&decoded)? {
            true => self.whole += 1,
            false => self.lose(),
        }
        Ok(())
    }

    fn lose(&mut self) {
        match self.whole {
            0 => self.torn += 1,
            _ => self.damaged += 1,
        }
    }
}
