//! Packets of exactly 20 ms in self-delimited form (RFC 6716 appendix B), cut from packets of any length.

use crate::opus::{self, OpusError, PacketError, PacketFacts};
use crate::timeline::TICKS_PER_FRAME;

/// A frame of at most this many bytes is a pause that the sender's encoder did not encode.
const DTX_FRAME_BYTES: usize = 1;

/// [`opus::SILENCE`], self-delimited: its length follows its first byte.
pub(super) const SILENCE: [u8; 9] = {
    let [toc, a, b, c, d, e, f, g] = opus::SILENCE;
    [toc, 7, a, b, c, d, e, f, g]
};

/// Whether a packet can be cut into packets of 20 ms without decoding it: no frame is longer, and nothing is left over.
pub(super) fn can_be_cut(facts: PacketFacts) -> bool {
    TICKS_PER_FRAME.is_multiple_of(frame_ticks(facts)) && facts.duration.is_multiple_of(TICKS_PER_FRAME)
}

/// Passes the 20 ms packets of a packet that [can be cut](can_be_cut) to `take`, in order, each self-delimited. `scratch` is
/// a reused buffer.
pub(super) fn cut(
    packet: &[u8],
    facts: PacketFacts,
    scratch: &mut Vec<u8>,
    mut take: impl FnMut(&[u8]),
) -> Result<(), OpusError> {
    let &[toc, ref body @ ..] = packet else { return Err(PacketError::Empty.into()) };
    if toc & 0b11 == 0 {
        write(toc, &[body], scratch);
        take(scratch);
        return Ok(());
    }
    let frames = ::opus::packet::parse(packet)?.frames;
    for frames in frames.chunks((TICKS_PER_FRAME / frame_ticks(facts)) as usize) {
        write(toc, frames, scratch);
        take(scratch);
    }
    Ok(())
}

/// One self-delimited packet of `frames`. A pause becomes silence: some decoders play noise for an empty frame.
pub(super) fn write(toc: u8, frames: &[&[u8]], out: &mut Vec<u8>) {
    out.clear();
    match frames {
        _ if frames.iter().all(|frame| frame.len() <= DTX_FRAME_BYTES) => out.extend_from_slice(&SILENCE),
        [frame] => {
            out.push(toc & !0b11);
            write_length(frame.len(), out);
            out.extend_from_slice(frame);
        }
        _ => {
            // Code 3 with a size for each frame: any frames fit into it.
            out.extend([toc | 0b11, 0x80 | frames.len() as u8]);
            frames.iter().for_each(|frame| write_length(frame.len(), out));
            frames.iter().for_each(|frame| out.extend_from_slice(frame));
        }
    }
}

fn frame_ticks(facts: PacketFacts) -> u32 {
    facts.duration / u32::from(facts.frames)
}

/// A frame's length in one or two bytes (RFC 6716 §3.2.1). No frame has more than 1275 bytes.
fn write_length(length: usize, out: &mut Vec<u8>) {
    if length < 252 {
        out.push(length as u8);
    } else {
        let low = 252 + (length & 0b11);
        out.extend([low as u8, ((length - low) / 4) as u8]);
    }
}
