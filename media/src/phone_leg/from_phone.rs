//! Audio from the phone to the call.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use crate::audio_terms::Codec;
use crate::concealment::Concealment;
use crate::opus::{Decoder, Encoder, FRAME, OpusError, Profile, SampleRate, inspect};
use crate::playout::{Playout, SlotDecoder};
use crate::reorder::Slot;
use crate::timeline::TICKS_PER_FRAME;

/// Samples in 20 ms at 8 kHz.
const FRAME_SAMPLES: usize = 160;
/// At which Opus packets of another length than 20 ms are encoded anew: all that a WhatsApp call carries.
const RATE: SampleRate = SampleRate::Hz16000;

pub(super) enum FromPhone {
    Opus(OpusPackets),
    G711(Box<G711>),
}

pub(super) struct G711 {
    playout: Playout<FRAME_SAMPLES, G711Decoder>,
    /// Something of the phone has arrived: before it there is nothing to play.
    has_begun: bool,
}

/// Opus packets of 20 ms, as they are; others are encoded anew.
#[derive(Default)]
pub(super) struct OpusPackets {
    packets: VecDeque<Bytes>,
    recoder: Option<Box<Recoder>>,
}

struct Recoder {
    decoder: Decoder,
    encoder: Encoder,
    samples: Vec<i16>,
    encoded: Vec<u8>,
}

/// The samples are decoded already; what is missing is concealed.
pub(super) struct G711Decoder {
    concealment: Concealment,
    samples: Vec<i16>,
    is_paused: bool,
}

impl FromPhone {
    pub fn new(codec: Codec) -> Self {
        match codec {
            Codec::Opus => Self::Opus(OpusPackets::default()),
            Codec::Pcmu | Codec::Pcma => {
                let decoder = G711Decoder { concealment: Concealment::new(), samples: Vec::new(), is_paused: false };
                Self::G711(Box::new(G711 { playout: Playout::new(decoder), has_begun: false }))
            }
        }
    }

    pub fn rate(&self) -> Option<SampleRate> {
        match self {
            Self::Opus(_) => None,
            Self::G711(_) => Some(SampleRate::Hz8000),
        }
    }

    /// Whether [`play`](Self::play) is to be called every 20 ms.
    pub fn needs_tick(&self) -> bool {
        matches!(self, Self::G711(_))
    }

    /// Another sender starts.
    pub fn restart(&mut self) {
        match self {
            Self::Opus(opus) => opus.recoder = None,
            // What waits is still played; the new line follows it.
            Self::G711(g711) => g711.playout.decoder_mut().reset(),
        }
    }

    pub fn push(&mut self, slot: Slot) {
        match self {
            Self::Opus(opus) => opus.push(slot),
            Self::G711(g711) => {
                g711.has_begun = true;
                g711.playout.push(&slot);
            }
        }
    }

    /// The phone pauses, with noise of this level in -dBov.
    pub fn announce_pause(&mut self, level: u8) {
        match self {
            // Opus has its own comfort noise.
            Self::Opus(_) => {}
            Self::G711(g711) => {
                let decoder = g711.playout.decoder_mut();
                decoder.is_paused = true;
                decoder.concealment.announce_pause(level);
            }
        }
    }

    /// The next Opus packet.
    pub fn poll(&mut self) -> Option<Bytes> {
        match self {
            Self::Opus(opus) => opus.packets.pop_front(),
            Self::G711(_) => None,
        }
    }

    /// The next 20 ms of PCM; None before there are any, and for Opus.
    pub fn play(&mut self) -> Option<Bytes> {
        match self {
            Self::Opus(_) => None,
            Self::G711(g711) => {
                if !g711.has_begun {
                    return None;
                }
                let mut pcm = BytesMut::with_capacity(2 * FRAME_SAMPLES);
                g711.playout.play().into_iter().for_each(|sample| pcm.put_i16_le(sample));
                Some(pcm.freeze())
            }
        }
    }

    /// How much audio is held back.
    pub fn delay(&self) -> Duration {
        match self {
            Self::Opus(_) => Duration::ZERO,
            Self::G711(g711) => FRAME * g711.playout.reserve_frames(),
        }
    }
}

impl OpusPackets {
    /// Lost packets are concealed as any Opus agent's are.
    fn push(&mut self, slot: Slot) {
        let Slot::Packet { payload, .. } = slot else { return };
        if inspect(&payload).is_ok_and(|facts| facts.duration == TICKS_PER_FRAME) {
            return self.packets.push_back(payload);
        }
        if self.recoder.is_none() {
            self.recoder = Recoder::new().ok().map(Box::new);
        }
        // Without memory for a codec the packet is lost.
        if let Some(recoder) = &mut self.recoder {
            recoder.recode(&payload, &mut self.packets);
        }
    }
}

impl Recoder {
    fn new() -> Result<Self, OpusError> {
        Ok(Self {
            decoder: Decoder::new(RATE)?,
            encoder: Encoder::new(RATE, Profile::Eco)?,
            samples: Vec::new(),
            encoded: Vec::new(),
        })
    }

    fn recode(&mut self, packet: &[u8], packets: &mut VecDeque<Bytes>) {
        let start = self.samples.len();
        if self.decoder.decode(packet, &mut self.samples).is_err() {
            self.samples.truncate(start);
        }
        let frame = RATE.samples_per_frame();
        let whole = self.samples.len() / frame * frame;
        for samples in self.samples[..whole].chunks_exact(frame) {
            if self.encoder.encode(samples, &mut self.encoded).is_ok() {
                packets.push_back(Bytes::copy_from_slice(&self.encoded));
            }
        }
        self.samples.drain(..whole);
    }
}

impl SlotDecoder for G711Decoder {
    const RATE: SampleRate = SampleRate::Hz8000;

    fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) {
        self.is_paused = false;
        self.samples.clear();
        self.samples.extend(payload.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])));
        self.concealment.audio(&mut self.samples);
        out.extend_from_slice(&self.samples);
    }

    fn decode_lost(&mut self, _next: Option<&[u8]>, samples: usize, out: &mut Vec<i16>) {
        self.concealment.conceal(samples, out);
    }

    fn pause(&mut self, samples: usize, out: &mut Vec<i16>) {
        self.concealment.pause(samples, out);
    }

    fn is_paused(&self) -> bool {
        self.is_paused
    }

    fn reset(&mut self) {
        self.concealment.reset();
        self.is_paused = false;
    }
}
