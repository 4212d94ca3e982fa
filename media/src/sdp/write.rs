//! Writes our offer and our answer: one audio section in use, one fingerprint, one SSRC, CRLF throughout.

use std::fmt::Write;
use std::net::SocketAddr;

use super::{Candidate, Description, Direction, Fingerprint, Offer, OpusFormat, RefusedMedia, Setup};

/// Our name in the SDP and in RTCP.
pub(crate) const CNAME: &str = "patchcord";
/// Payload type of Opus in our offers, 111 by custom.
pub const OFFERED_OPUS: u8 = 111;
/// Payload type of telephone-event in our offers.
pub const OFFERED_TELEPHONE_EVENT: u8 = 126;

/// Our side of the session.
pub(crate) struct LocalDescription<'a> {
    pub session_id: u64,
    /// Grows with each SDP of the session.
    pub version: u64,
    /// Our addresses, the best first. Not empty.
    pub addresses: &'a [SocketAddr],
    pub ufrag: &'a str,
    pub pwd: &'a str,
    pub fingerprint: Fingerprint,
    pub ssrc: u32,
}

/// The codecs and roles of one SDP.
struct Terms<'a> {
    mid: Option<&'a str>,
    bundle: bool,
    setup: Setup,
    direction: Direction,
    opus: &'a OpusFormat,
    telephone_event: Option<u8>,
    refused_before: &'a [RefusedMedia],
    refused_behind: &'a [RefusedMedia],
}

/// Our answer, which mirrors codecs, parameters, section names, bundle and direction of the offer.
pub(crate) fn write_answer(local: &LocalDescription<'_>, offer: &Offer, setup: Setup) -> String {
    let remote: &Description = offer;
    let terms = Terms {
        mid: remote.mid.as_deref(),
        bundle: remote.bundle,
        setup,
        direction: remote.direction.answered(),
        opus: &remote.opus,
        telephone_event: remote.telephone_event,
        refused_before: &remote.refused_before,
        refused_behind: &remote.refused_behind,
    };
    write(local, &terms)
}

/// Our offer, for a business-initiated call or an agent that answers offers. Neither trickles, so it is complete.
pub(crate) fn write_offer(local: &LocalDescription<'_>) -> String {
    let opus = OpusFormat { payload_type: OFFERED_OPUS, fmtp: Some("minptime=20;useinbandfec=1".to_owned()) };
    let terms = Terms {
        mid: Some("audio"),
        bundle: true,
        setup: Setup::Actpass,
        direction: Direction::SendRecv,
        opus: &opus,
        telephone_event: Some(OFFERED_TELEPHONE_EVENT),
        refused_before: &[],
        refused_behind: &[],
    };
    write(local, &terms)
}

fn write(local: &LocalDescription<'_>, terms: &Terms<'_>) -> String {
    let mut lines = Lines(String::with_capacity(1024));
    session_lines(&mut lines, local, terms);
    terms.refused_before.iter().for_each(|media| refused_lines(&mut lines, media));
    media_lines(&mut lines, local, terms);
    candidate_lines(&mut lines, local.addresses);
    transport_lines(&mut lines, local, terms);
    codec_lines(&mut lines, terms);
    lines.push(format_args!("a=ssrc:{} cname:{CNAME}", local.ssrc));
    terms.refused_behind.iter().for_each(|media| refused_lines(&mut lines, media));
    lines.0
}

/// All that there are: we trickle nothing.
pub(super) fn candidate_lines(lines: &mut Lines, addresses: &[SocketAddr]) {
    for (index, address) in addresses.iter().enumerate() {
        let (number, priority) = (index + 1, Candidate::host_priority(index));
        let (ip, port) = (address.ip(), address.port());
        lines.push(format_args!("a=candidate:{number} 1 udp {priority} {ip} {port} typ host"));
    }
    lines.push(format_args!("a=end-of-candidates"));
}

fn session_lines(lines: &mut Lines, local: &LocalDescription<'_>, terms: &Terms<'_>) {
    lines.push(format_args!("v=0"));
    lines.push(format_args!("o=- {} {} IN IP4 127.0.0.1", local.session_id, local.version));
    lines.push(format_args!("s=-"));
    lines.push(format_args!("t=0 0"));
    if let (true, Some(mid)) = (terms.bundle, terms.mid) {
        lines.push(format_args!("a=group:BUNDLE {mid}"));
    }
    lines.push(format_args!("a=msid-semantic: WMS {CNAME}"));
}

fn media_lines(lines: &mut Lines, local: &LocalDescription<'_>, terms: &Terms<'_>) {
    let first = local.addresses.first();
    let port = first.map_or(9, SocketAddr::port);
    let opus = terms.opus.payload_type;
    match terms.telephone_event {
        Some(event) => lines.push(format_args!("m=audio {port} UDP/TLS/RTP/SAVPF {opus} {event}")),
        None => lines.push(format_args!("m=audio {port} UDP/TLS/RTP/SAVPF {opus}")),
    }
    match first {
        Some(SocketAddr::V4(address)) => lines.push(format_args!("c=IN IP4 {}", address.ip())),
        Some(SocketAddr::V6(address)) => lines.push(format_args!("c=IN IP6 {}", address.ip())),
        None => lines.push(format_args!("c=IN IP4 0.0.0.0")),
    }
    lines.push(format_args!("a=rtcp:9 IN IP4 0.0.0.0"));
}

/// RFC 3264 §6: every section of the offer has its own in the answer, in the same order; port 0 refuses it.
pub(super) fn refused_lines(lines: &mut Lines, media: &RefusedMedia) {
    lines.push(format_args!("m={} 0 {} {}", media.kind, media.protocol, media.format));
    lines.push(format_args!("c=IN IP4 0.0.0.0"));
    if let Some(mid) = &media.mid {
        lines.push(format_args!("a=mid:{mid}"));
    }
    lines.push(format_args!("a=inactive"));
}

fn transport_lines(lines: &mut Lines, local: &LocalDescription<'_>, terms: &Terms<'_>) {
    let setup = match terms.setup {
        Setup::Actpass => "actpass",
        Setup::Active => "active",
        Setup::Passive => "passive",
    };
    lines.push(format_args!("a=ice-ufrag:{}", local.ufrag));
    lines.push(format_args!("a=ice-pwd:{}", local.pwd));
    lines.push(format_args!("a=fingerprint:sha-256 {}", local.fingerprint));
    lines.push(format_args!("a=setup:{setup}"));
    if let Some(mid) = terms.mid {
        lines.push(format_args!("a=mid:{mid}"));
    }
    lines.push(format_args!("a={}", terms.direction.name()));
    lines.push(format_args!("a=msid:{CNAME} audio"));
    lines.push(format_args!("a=rtcp-mux"));
}

fn codec_lines(lines: &mut Lines, terms: &Terms<'_>) {
    let opus = terms.opus.payload_type;
    lines.push(format_args!("a=rtpmap:{opus} opus/48000/2"));
    if let Some(fmtp) = &terms.opus.fmtp {
        lines.push(format_args!("a=fmtp:{opus} {fmtp}"));
    }
    if let Some(event) = terms.telephone_event {
        lines.push(format_args!("a=rtpmap:{event} telephone-event/8000"));
    }
    lines.push(format_args!("a=ptime:20"));
    lines.push(format_args!("a=maxptime:20"));
}

#[derive(Default)]
pub(super) struct Lines(pub(super) String);

impl Lines {
    pub(super) fn push(&mut self, line: std::fmt::Arguments<'_>) {
        self.0.write_fmt(line).expect("writing into a string cannot fail");
        self.0.push_str("\r\n");
    }
}
