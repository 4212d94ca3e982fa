//! Foreign bytes on their whole way: the edge, the SIP library, and every header and body that a dialog reads. Pure; for the
//! fuzz target and tests, because the way itself is spread over sockets and tasks.

use std::net::{Ipv4Addr, SocketAddr};

use rsipstack::dialog::DialogId;
use rsipstack::sip::{HeadersExt, Request, Response, SipMessage, ToTypedHeader, typed};
use rsipstack::transaction::key::{TransactionKey, TransactionRole};
use rsipstack::transport::SipConnection;

use super::edge::{Head, head_of_datagram, head_of_stream, measure_body};
use super::outgoing::{least_of, library_transport, sdp_of};
use super::session_timer::SessionExpires;
use super::uri::{SipUri, Transport};
use super::{info, refer};

/// For a `Content-Length`.
const ROOM: usize = 64;

/// What became of foreign bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// The edge let nothing pass.
    Dropped,
    /// The edge let a message pass that the library does not read.
    Unreadable,
    /// A message was read.
    Read,
    /// The edge, which the gate goes by, and the library read different things: the name of what differs.
    Differs(&'static str),
}

/// Reads bytes as a datagram and as the beginning of a stream.
pub fn read(bytes: &[u8]) -> Reading {
    let of_datagram = read_datagram(bytes);
    let stream = head_of_stream(bytes).ok().flatten().and_then(|head| {
        let end = head.length + head.content_length?;
        Some(read_message(&head, bytes.get(..end)?, end - head.length))
    });
    match stream {
        Some(of_stream) if of_stream != of_datagram => Reading::Differs("stream"),
        Some(_) | None => of_datagram,
    }
}

fn read_datagram(bytes: &[u8]) -> Reading {
    let Ok((head, end)) = head_of_datagram(bytes) else { return Reading::Dropped };
    let body_length = end - head.length;
    if head.content_length.is_some() {
        return read_message(&head, &bytes[..end], body_length);
    }
    let mut buffer = bytes.to_vec();
    buffer.resize(bytes.len() + ROOM, 0);
    let end = measure_body(&mut buffer, head.length, end);
    end.map_or(Reading::Dropped, |end| read_message(&head, &buffer[..end], body_length))
}

fn read_message(head: &Head<'_>, bytes: &[u8], body_length: usize) -> Reading {
    let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 5060));
    let message = SipMessage::try_from(bytes).ok();
    let message = message
        .and_then(|message| SipConnection::update_msg_received(message, from, library_transport(Transport::Udp)).ok());
    let (method, call_id, body) = match &message {
        None => return Reading::Unreadable,
        Some(SipMessage::Request(request)) => {
            read_request(request);
            (Some(request.method().to_string()), call_id_of(request), request.body())
        }
        Some(SipMessage::Response(response)) => {
            read_response(response);
            (None, call_id_of(response), response.body())
        }
    };
    if method.as_deref() != head.method {
        Reading::Differs("method")
    } else if call_id.as_deref() != Some(head.call_id) {
        Reading::Differs("call_id")
    } else if body.len() != body_length {
        Reading::Differs("body")
    } else {
        Reading::Read
    }
}

fn call_id_of(message: &impl HeadersExt) -> Option<String> {
    message.call_id_header().ok().map(|call_id| call_id.value().trim().to_owned())
}

fn read_request(request: &Request) {
    read_headers(request, request.body());
    let kind = request.header_value("Content-Type").unwrap_or_default();
    let _ = info::digit(&kind, request.body());
    let _ = SipUri::parse(&request.uri().to_string());
    let _ = request.destination();
    for role in [TransactionRole::Client, TransactionRole::Server] {
        let _ = TransactionKey::from_request(request, role);
        let _ = DialogId::try_from((request, role));
    }
}

fn read_response(response: &Response) {
    read_headers(response, response.body());
    let _ = least_of(response);
    for role in [TransactionRole::Client, TransactionRole::Server] {
        let _ = TransactionKey::from_response(response, role);
        let _ = DialogId::try_from((response, role));
    }
}

/// Nothing is expected of what comes out, but that something does.
fn read_headers(message: &impl HeadersExt, body: &[u8]) {
    let _ = message.from_header().map(|header| header.typed().is_ok());
    let _ = message.to_header().map(|header| header.typed().is_ok());
    let _ = message.cseq_header().map(|header| (header.typed().is_ok(), header.seq().is_ok()));
    let _ = message.top_via_header().map(|header| (header.typed().is_ok(), message.has_multiple_vias()));
    let _ = message.typed_contact_headers();
    let _ = message.typed_record_route_headers();
    let _ = message.typed_route_headers();
    let _ = message.header_value("Authorization").map(|value| typed::Authorization::parse(&value));
    let _ = message.header_value("WWW-Authenticate").map(|value| typed::WwwAuthenticate::parse(&value));
    let _ = message.header_value("Proxy-Authenticate").map(|value| typed::ProxyAuthenticate::parse(&value));
    let _ = (message.rseq_value(), message.rack_value(), message.transaction_id().is_ok());
    let timer = message.header_value("Session-Expires").and_then(|value| SessionExpires::parse(&value));
    let _ = timer.map(SessionExpires::answered);
    let referred_by = message.header_value("Referred-By");
    let _ = message.header_value("Refer-To").map(|value| refer::target(&value, referred_by.as_deref()));
    let _ = sdp_of(message, body);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEDS: [&[u8]; 5] = [
        include_bytes!("../../fuzz/seeds/sip_edge/invite"),
        include_bytes!("../../fuzz/seeds/sip_edge/answer"),
        include_bytes!("../../fuzz/seeds/sip_edge/info"),
        include_bytes!("../../fuzz/seeds/sip_edge/refer"),
        include_bytes!("../../fuzz/seeds/sip_edge/register"),
    ];

    #[test]
    fn messages_of_phones_are_read_and_as_the_gate_reads_them() {
        for seed in SEEDS {
            assert_eq!(read(seed), Reading::Read, "{}", String::from_utf8_lossy(seed));
        }
    }
}
