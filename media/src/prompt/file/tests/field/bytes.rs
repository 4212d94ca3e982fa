//! Files made byte by byte, with headers that say anything.

use std::f64::consts::TAU;

use symphonia::core::checksum::{Crc8Ccitt, Crc16Ansi, Crc32};
use symphonia::core::io::Monitor;

use super::NOTES_HZ;

/// One second of four notes at -12 dBFS, full scale 1.0.
pub(super) fn melody(hz: u32) -> Vec<f64> {
    let note = |at: u32| NOTES_HZ[(at * 4 / hz) as usize];
    (0..hz).map(|at| 0.25 * (TAU * note(at) * f64::from(at) / f64::from(hz)).sin()).collect()
}

/// Mono with 16 bits at 8 kHz and a header of 44 bytes.
pub(super) fn wav16(samples: &[f64]) -> Vec<u8> {
    let data: Vec<u8> = samples.iter().flat_map(|sample| ((sample * 32_767.0) as i16).to_le_bytes()).collect();
    riff(b"RIFF", &[chunk(b"fmt ", &pcm(1, 1, 8_000, 16)), chunk(b"data", &data)].concat())
}

pub(super) fn riff(id: &[u8; 4], chunks: &[u8]) -> Vec<u8> {
    let content = [b"WAVE", chunks].concat();
    [id, &(content.len() as u32).to_le_bytes()[..], &content].concat()
}

/// A chunk, filled up to an even length.
pub(super) fn chunk(id: &[u8; 4], content: &[u8]) -> Vec<u8> {
    let padding = if content.len() % 2 == 1 { &[0][..] } else { &[] };
    [id, &(content.len() as u32).to_le_bytes()[..], content, padding].concat()
}

/// The 16 bytes that every format chunk has.
pub(super) fn pcm(tag: u16, channels: u16, rate: u32, bits: u16) -> Vec<u8> {
    let frame_bytes = channels * bits.div_ceil(8);
    let bytes_per_second = rate * u32::from(frame_bytes);
    [
        &tag.to_le_bytes()[..],
        &channels.to_le_bytes(),
        &rate.to_le_bytes(),
        &bytes_per_second.to_le_bytes(),
        &frame_bytes.to_le_bytes(),
        &bits.to_le_bytes(),
    ]
    .concat()
}

/// One page of an Ogg file.
pub(super) struct Page {
    bytes: Vec<u8>,
}

impl Page {
    fn position(&self) -> u64 {
        u64::from_le_bytes(self.bytes[6..14].try_into().unwrap())
    }

    fn is_last(&self) -> bool {
        self.bytes[5] & 4 != 0
    }

    /// The first pages hold headers and stay at 0.
    fn has_sound(&self) -> bool {
        self.position() > 0
    }

    pub(super) fn set_position(&mut self, position: u64) {
        if self.has_sound() {
            self.bytes[6..14].copy_from_slice(&position.to_le_bytes());
        }
    }

    pub(super) fn set_last_position(&mut self, position: u64) {
        if self.is_last() {
            self.set_position(position);
        }
    }

    pub(super) fn shift(&mut self, by: u64) {
        self.set_position(self.position() + by);
    }

    pub(super) fn shorten(&mut self, by: u64) {
        self.set_last_position(self.position().saturating_sub(by));
    }
}

/// An Ogg file whose pages are changed and get the checksums that belong to them.
pub(super) fn repage(file: &[u8], change: impl Fn(&mut Page)) -> Vec<u8> {
    let mut rest = file;
    let mut pages = Vec::new();
    while !rest.is_empty() {
        let header = 27 + usize::from(rest[26]);
        let body: usize = rest[27..header].iter().map(|size| usize::from(*size)).sum();
        let mut page = Page { bytes: rest[..header + body].to_vec() };
        rest = &rest[header + body..];
        change(&mut page);
        page.bytes[22..26].fill(0);
        let mut crc = Crc32::new(0);
        crc.process_buf_bytes(&page.bytes);
        page.bytes[22..26].copy_from_slice(&crc.crc().to_le_bytes());
        pages.append(&mut page.bytes);
    }
    pages
}

/// So many frames of 65535 zeros in each channel at 192 kHz, 16 bits (RFC 9639 §9).
pub(super) fn flac_of_silence(channels: u8, frames: u16) -> Vec<u8> {
    let about_samples = [0x2e, 0xe0, (channels - 1) << 1, 0xf0];
    let info = [&[0xff; 4][..], &[0; 6], &about_samples, &[0; 20]].concat();
    let mut file = [b"fLaC\x80\0\0\x22", &info[..]].concat();
    for number in 0..frames {
        let coded_number = match number {
            0..128 => vec![number as u8],
            _ => vec![0xc0 | (number >> 6) as u8, 0x80 | (number & 0x3f) as u8],
        };
        let mut frame = [&[0xff, 0xf8, 0x73, (channels - 1) << 4 | 8][..], &coded_number, &[0xff, 0xfe]].concat();
        let mut crc = Crc8Ccitt::new(0);
        crc.process_buf_bytes(&frame);
        frame.push(crc.crc());
        // One constant for each channel.
        frame.extend([0; 3].repeat(usize::from(channels)));
        let mut crc = Crc16Ansi::new(0);
        crc.process_buf_bytes(&frame);
        frame.extend(crc.crc().to_be_bytes());
        file.append(&mut frame);
    }
    file
}
