//! What an Opus packet says about itself, read from its first bytes without decoding (RFC 6716 §3).

use thiserror::Error;

/// A packet holds at most 120 ms of audio (RFC 6716 §3.2.5, rule R5), in 48 kHz ticks.
pub const MAX_PACKET_TICKS: u32 = 5760;

/// The longest compressed frame that can be expressed (RFC 6716 §3.2.1), in bytes.
const MAX_FRAME_BYTES: usize = 1275;

/// The shortest frame is 2.5 ms, so 120 ms hold at most this many.
const MAX_FRAMES: usize = 48;

/// What one packet says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacketFacts {
    /// The coder that made it.
    pub mode: Mode,
    /// Two channels in the packet. A mono decoder mixes them down.
    pub stereo: bool,
    /// Opus frames inside, 1 to 48.
    pub frames: u8,
    /// Duration of the whole packet, in 48 kHz ticks: 120 (2.5 ms) to 5760 (120 ms).
    pub duration: u32,
    /// The sender's own voice-activity bit, true if any frame has it. `None` for CELT, which has no such bit.
    pub voice: Option<bool>,
    /// The packet carries a second, coarser copy of the frame before it (LBRR, "in-band FEC").
    pub has_fec: bool,
}

/// The coder inside an Opus packet (RFC 6716 §3.1, table 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Speech coder, up to wideband.
    Silk,
    /// Speech coder below 8 kHz, CELT above.
    Hybrid,
    /// Transform coder, for music and very low delay.
    Celt,
}

/// Why bytes are not an Opus packet (RFC 6716 §3.4, rules R1 to R7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PacketError {
    /// No bytes at all.
    #[error("an Opus packet has at least one byte")]
    Empty,
    /// A length field points outside the packet, or a frame would be longer than 1275 bytes.
    #[error("the frame lengths of the Opus packet do not fit its size")]
    BadLengths,
    /// Zero frames, or more than 120 ms of them.
    #[error("an Opus packet holds 1 frame to 120 ms of frames")]
    BadFrameCount,
}

/// Reads a packet's facts. Never decodes, never allocates.
pub fn inspect(packet: &[u8]) -> Result<PacketFacts, PacketError> {
    let &toc = packet.first().ok_or(PacketError::Empty)?;
    let config = toc >> 3;
    let stereo = toc & 0b100 != 0;
    let frame_ticks = frame_ticks(config);
    let layout = Layout::read(packet, frame_ticks)?;
    let mode = match config {
        0..=11 => Mode::Silk,
        12..=15 => Mode::Hybrid,
        _ => Mode::Celt,
    };
    let silk_frames = silk_frames(frame_ticks);
    let voice =
        (mode != Mode::Celt).then(|| layout.frames(packet).any(|frame| has_voice_bit(frame, silk_frames, stereo)));
    let has_fec =
        mode != Mode::Celt && layout.frames(packet).next().is_some_and(|frame| has_fec_bit(frame, silk_frames, stereo));
    Ok(PacketFacts {
        mode,
        stereo,
        frames: layout.count as u8,
        duration: frame_ticks * layout.count as u32,
        voice,
        has_fec,
    })
}

/// The length of one frame in 48 kHz ticks, by the TOC's configuration number (RFC 6716 §3.1, table 2).
fn frame_ticks(config: u8) -> u32 {
    match (config, config & 0b11) {
        (0..=11, 0) => 480,
        (0..=11, 1) => 960,
        (0..=11, 2) => 1920,
        (0..=11, _) => 2880,
        (12..=15, low) => 480 << (low & 1),
        (_, low) => 120 << low,
    }
}

/// SILK codes 40 and 60 ms frames as two and three 20 ms frames, each with a voice bit of its own (RFC 6716 §4.2.2).
fn silk_frames(frame_ticks: u32) -> u32 {
    frame_ticks.div_ceil(960)
}

/// Frame sizes and where the first one starts (RFC 6716 §3.2).
struct Layout {
    sizes: [u16; MAX_FRAMES],
    count: usize,
    start: usize,
}

impl Layout {
    fn read(packet: &[u8], frame_ticks: u32) -> Result<Self, PacketError> {
        let body = packet.len() - 1;
        match packet[0] & 0b11 {
            0 => Self::equal(1, body, 1),
            1 if body.is_multiple_of(2) => Self::equal(2, body / 2, 1),
            1 => Err(PacketError::BadLengths),
            2 => {
                let (first, used) = read_length(&packet[1..])?;
                let second = (body - used).checked_sub(first).ok_or(PacketError::BadLengths)?;
                let mut layout = Self::equal(2, second, 1 + used)?;
                layout.sizes[0] = first as u16;
                Ok(layout)
            }
            _ => Self::read_many(packet, frame_ticks),
        }
    }

    /// Code 3: a frame count byte, optional padding, then equal or written-out sizes (RFC 6716 §3.2.5).
    fn read_many(packet: &[u8], frame_ticks: u32) -> Result<Self, PacketError> {
        let &head = packet.get(1).ok_or(PacketError::BadLengths)?;
        let count = usize::from(head & 0x3f);
        if count == 0 || frame_ticks * count as u32 > MAX_PACKET_TICKS {
            return Err(PacketError::BadFrameCount);
        }
        let mut start = 2;
        let padding = match head & 0x40 {
            0 => 0,
            _ => read_padding(packet, &mut start)?,
        };
        let mut left = packet.len().checked_sub(start + padding).ok_or(PacketError::BadLengths)?;
        if head & 0x80 == 0 {
            return match left.is_multiple_of(count) {
                true => Self::equal(count, left / count, start),
                false => Err(PacketError::BadLengths),
            };
        }
        let end = start + left;
        let mut sizes = [0; MAX_FRAMES];
        for size in &mut sizes[..count - 1] {
            let (length, used) = read_length(&packet[start..end])?;
            left = left.checked_sub(length + used).ok_or(PacketError::BadLengths)?;
            start += used;
            *size = length as u16;
        }
        if left > MAX_FRAME_BYTES {
            return Err(PacketError::BadLengths);
        }
        sizes[count - 1] = left as u16;
        Ok(Self { sizes, count, start })
    }

    fn equal(count: usize, size: usize, start: usize) -> Result<Self, PacketError> {
        if size > MAX_FRAME_BYTES {
            return Err(PacketError::BadLengths);
        }
        let mut sizes = [0; MAX_FRAMES];
        sizes[..count].fill(size as u16);
        Ok(Self { sizes, count, start })
    }

    fn frames<'packet>(&self, packet: &'packet [u8]) -> impl Iterator<Item = &'packet [u8]> + use<'_, 'packet> {
        let mut start = self.start;
        self.sizes[..self.count].iter().map(move |&size| {
            let end = start + usize::from(size);
            let frame = packet.get(start..end).unwrap_or_default();
            start = end;
            frame
        })
    }
}

/// A frame length of one or two bytes: the length and the bytes it took (RFC 6716 §3.2.1).
fn read_length(bytes: &[u8]) -> Result<(usize, usize), PacketError> {
    match *bytes {
        [short @ 0..=251, ..] => Ok((usize::from(short), 1)),
        [low, high, ..] => Ok((usize::from(high) * 4 + usize::from(low), 2)),
        _ => Err(PacketError::BadLengths),
    }
}

/// Sums the padding bytes; 255 means "254 and another byte follows" (RFC 6716 §3.2.5).
fn read_padding(packet: &[u8], start: &mut usize) -> Result<usize, PacketError> {
    let mut padding = 0;
    loop {
        let &byte = packet.get(*start).ok_or(PacketError::BadLengths)?;
        *start += 1;
        if byte < 255 {
            return Ok(padding + usize::from(byte));
        }
        padding += 254;
    }
}

/// The SILK header opens with one even-odds voice bit per SILK frame, then one FEC bit, then the same for the side
/// channel; even-odds bits stand in the first byte as they are (RFC 6716 §4.2.3). An empty frame is a pause.
fn has_voice_bit(frame: &[u8], silk_frames: u32, stereo: bool) -> bool {
    let mid = 0xff_u8 << (8 - silk_frames);
    let side = if stereo { mid >> (silk_frames + 1) } else { 0 };
    frame.first().is_some_and(|header| header & (mid | side) != 0)
}

fn has_fec_bit(frame: &[u8], silk_frames: u32, stereo: bool) -> bool {
    let mid = 0x80_u8 >> silk_frames;
    let side = if stereo { mid >> (silk_frames + 1) } else { 0 };
    frame.first().is_some_and(|header| header & (mid | side) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// TOC byte: SILK wideband 20 ms mono, one frame.
    const SILK_20_MS: u8 = 9 << 3;

    #[test]
    fn the_voice_bit_and_the_fec_bit_lead_the_first_frame() {
        for (header, voice, fec) in
            [(0x00, false, false), (0x80, true, false), (0x40, false, true), (0xc0, true, true), (0x3f, false, false)]
        {
            let facts = inspect(&[SILK_20_MS, header, 1, 2]).unwrap();
            assert_eq!((facts.voice, facts.has_fec), (Some(voice), fec), "{header:#x}");
            assert_eq!((facts.frames, facts.duration), (1, 960));
        }
        let sixty = inspect(&[11 << 3, 0b0010_0000]).unwrap();
        assert_eq!((sixty.voice, sixty.has_fec, sixty.duration), (Some(true), false, 2880));
    }

    #[test]
    fn celt_has_no_voice_bit() {
        let facts = inspect(&[31 << 3, 0xff]).unwrap();
        assert_eq!((facts.mode, facts.voice, facts.has_fec), (Mode::Celt, None, false));
    }

    #[test]
    fn an_empty_frame_is_a_pause() {
        let facts = inspect(&[SILK_20_MS]).unwrap();
        assert_eq!((facts.voice, facts.duration), (Some(false), 960));
    }

    #[test]
    fn broken_packets_are_named() {
        assert_eq!(inspect(&[]), Err(PacketError::Empty));
        assert_eq!(inspect(&[SILK_20_MS | 1, 0]), Err(PacketError::BadLengths));
        assert_eq!(inspect(&[SILK_20_MS | 2, 9, 0]), Err(PacketError::BadLengths));
        assert_eq!(inspect(&[SILK_20_MS | 3]), Err(PacketError::BadLengths));
        assert_eq!(inspect(&[SILK_20_MS | 3, 0]), Err(PacketError::BadFrameCount));
        assert_eq!(inspect(&[SILK_20_MS | 3, 7]), Err(PacketError::BadFrameCount));
        assert_eq!(inspect(&[SILK_20_MS; 1300]), Err(PacketError::BadLengths));
    }

    proptest! {
        /// libopus is the judge: it must accept and reject the same bytes, and count the same.
        #[test]
        fn any_bytes_read_as_libopus_reads_them(
            toc: u8,
            rest in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..16),
                prop::collection::vec(any::<u8>(), 0..1500),
                prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(255)], 0..700),
            ],
        ) {
            let packet = [vec![toc], rest].concat();
            let parsed = opus::packet::parse(&packet);
            match inspect(&packet) {
                Ok(facts) => {
                    let parsed = parsed.unwrap();
                    prop_assert_eq!(usize::from(facts.frames), parsed.frames.len());
                    let samples = opus::packet::get_nb_samples(&packet, 48_000).unwrap();
                    prop_assert_eq!(facts.duration as usize, samples);
                    let frame_ticks = opus::packet::get_samples_per_frame(&packet, 48_000).unwrap() as u32;
                    let layout = Layout::read(&packet, frame_ticks).unwrap();
                    let frames: Vec<&[u8]> = layout.frames(&packet).collect();
                    prop_assert_eq!(frames, parsed.frames);
                }
                Err(_) => prop_assert!(parsed.is_err()),
            }
        }
    }
}
