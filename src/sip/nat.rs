//! NAT: a registered phone behind one gets our requests where its datagrams come from, whatever address it gives as its own.

use std::net::SocketAddr;
use std::sync::Arc;

use rsipstack::sip::headers::untyped::ToTypedHeader;
use rsipstack::sip::{Header, Headers, Method, SipMessage, Transport};
use rsipstack::transaction::endpoint::MessageInspector;
use rsipstack::transport::SipAddr;

use super::registering::Registrations;

/// Corrects the `Contact` of registered phones, before the library takes it as the address of a dialog's other end.
pub(super) struct BehindNat(pub Arc<Registrations>);

impl MessageInspector for BehindNat {
    fn before_send(&self, message: SipMessage, _: Option<&SipAddr>) -> SipMessage {
        message
    }

    fn after_received(&self, mut message: SipMessage, from: Option<&SipAddr>) -> SipMessage {
        let from = from.filter(|from| from.r#type == Some(Transport::Udp));
        let Some(source) = from.and_then(|from| SocketAddr::try_from(from.addr.clone()).ok()) else { return message };
        let headers = match &mut message {
            // The registrar remembers the source beside the contact.
            SipMessage::Request(request) if request.method == Method::Register => return message,
            SipMessage::Request(request) => &mut request.headers,
            SipMessage::Response(response) => &mut response.headers,
        };
        self.correct(headers, source);
        message
    }
}

impl BehindNat {
    fn correct(&self, headers: &mut Headers, source: SocketAddr) {
        // A proxy stands between, and knows the way.
        if headers.iter().any(|header| matches!(header, Header::RecordRoute(_))) {
            return;
        }
        for header in headers.iter_mut() {
            let Header::Contact(contact) = header else { continue };
            let Ok(typed) = contact.typed() else { continue };
            let mut uri = typed.uri;
            if uri.host_with_port != source.into() && self.0.is_at(source) {
                uri.host_with_port = source.into();
                contact.replace(format!("<{uri}>"));
            }
        }
    }
}
