//! Writes our offers and answers: one audio section in use, CRLF throughout.

use std::net::SocketAddr;
use std::time::Duration;

use super::crypto::Crypto;
use super::{Format, RtpProfile};
use crate::audio_terms::Codec;
use crate::sdp::write::{Lines, refused_lines};
use crate::sdp::{Direction, RefusedMedia};

/// Our side of the audio section.
pub(super) struct LocalAudio<'a> {
    pub address: SocketAddr,
    pub profile: RtpProfile,
    pub formats: &'a [Format],
    /// Clocks and payload types.
    pub telephone_events: &'a [(u32, u8)],
    pub comfort_noise: Option<u8>,
    pub packet_length: Duration,
    pub direction: Direction,
    pub rtcp_mux: bool,
    pub cryptos: &'a [Crypto],
    pub refused_before: &'a [RefusedMedia],
    pub refused_behind: &'a [RefusedMedia],
}

/// All lines after `o=`, so that a version counts what has changed.
pub(super) fn body(audio: &LocalAudio<'_>) -> String {
    let mut lines = Lines::default();
    lines.push(format_args!("s=-"));
    lines.push(format_args!("c={}", connection(audio.address)));
    lines.push(format_args!("t=0 0"));
    audio.refused_before.iter().for_each(|media| refused_lines(&mut lines, media));
    media_lines(&mut lines, audio);
    audio.refused_behind.iter().for_each(|media| refused_lines(&mut lines, media));
    lines.0
}

/// The lines before [`body`].
pub(super) fn head(session_id: u64, version: u64, address: SocketAddr) -> String {
    format!("v=0\r\no=- {session_id} {version} {}\r\n", connection(address))
}

fn connection(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(address) => format!("IN IP4 {}", address.ip()),
        SocketAddr::V6(address) => format!("IN IP6 {}", address.ip()),
    }
}

fn media_lines(lines: &mut Lines, audio: &LocalAudio<'_>) {
    let codecs = audio.formats.iter().map(|format| format.payload_type);
    let events = audio.telephone_events.iter().map(|(_, number)| *number);
    let numbers: String = codecs.chain(audio.comfort_noise).chain(events).map(|number| format!(" {number}")).collect();
    let port = audio.address.port();
    lines.push(format_args!("m=audio {port} {}{numbers}", audio.profile.name()));
    for Format { codec, payload_type } in audio.formats {
        lines.push(format_args!("a=rtpmap:{payload_type} {}", codec.rtpmap()));
        // Wideband mono is all that a WhatsApp call carries (RFC 7587 §6.1).
        if *codec == Codec::Opus {
            let rates = "maxplaybackrate=16000;sprop-maxcapturerate=16000";
            lines.push(format_args!("a=fmtp:{payload_type} {rates};minptime=20;useinbandfec=1"));
        }
    }
    if let Some(number) = audio.comfort_noise {
        lines.push(format_args!("a=rtpmap:{number} CN/8000"));
    }
    for (clock_hz, number) in audio.telephone_events {
        lines.push(format_args!("a=rtpmap:{number} telephone-event/{clock_hz}"));
        lines.push(format_args!("a=fmtp:{number} 0-15"));
    }
    // A call takes Opus packets as they are, and they must last 20 ms.
    let has_opus = audio.formats.iter().any(|format| format.codec == Codec::Opus);
    lines.push(format_args!("a=ptime:{}", audio.packet_length.as_millis()));
    lines.push(format_args!("a=maxptime:{}", if has_opus { 20 } else { 60 }));
    lines.push(format_args!("a=rtcp:{port}"));
    if audio.rtcp_mux {
        lines.push(format_args!("a=rtcp-mux"));
    }
    for crypto in audio.cryptos {
        lines.push(format_args!("a=crypto:{crypto}"));
    }
    lines.push(format_args!("a={}", audio.direction.name()));
}
