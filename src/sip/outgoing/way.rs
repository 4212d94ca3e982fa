//! Way: how a phone or server is reached, and over which connection.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use rsipstack::sip::Uri;
use rsipstack::transport::SipAddr;

use super::{library_transport, our_contact};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::sip::amend::Named;
use crate::sip::flow::Connection;
use crate::sip::leg::{Callee, RegisteredPhone};
use crate::sip::names::Hop;
use crate::sip::uri::{Host, SipUri, Transport};
use crate::sip::user_agent::Stack;

const NOTHING_LISTENS: &str = "nothing listens for it here";

/// How a phone is reached.
pub(in crate::sip) struct Way {
    /// The Request-URI.
    pub callee: Uri,
    pub destination: SipAddr,
    /// Ours.
    pub contact: Uri,
    /// Where its SIP comes from.
    pub signalling: IpAddr,
    /// The library sends where the Request-URI says, so the server's address is there; on the wire stands the name.
    pub named: Option<Named>,
    /// Held to the end of the call, so that the connection is. None over UDP, and where the phone holds it.
    _connection: Option<Arc<Connection>>,
}

impl Way {
    /// The servers of an address, by the DNS; for a registered phone only what it came over.
    pub async fn all(stack: &Stack, to: &Callee) -> Result<VecDeque<Option<Hop>>, AgentFailure> {
        match to {
            Callee::Address(to) => {
                let hops = stack.names.find(to).await.map_err(|cause| AgentFailureKind::Refused.because(cause))?;
                Ok(hops.into_iter().map(Some).collect())
            }
            Callee::Phone(_) | Callee::Trunk(_) => Ok(VecDeque::from([None])),
        }
    }

    pub async fn find(stack: &Stack, to: &Callee, hop: Option<Hop>) -> Result<Self, AgentFailure> {
        match to {
            Callee::Address(to) => {
                let hop = hop.ok_or_else(|| AgentFailureKind::Refused.because("its name has no address"))?;
                Self::to_address(stack, to, hop).await
            }
            Callee::Phone(phone) => Self::to_phone(stack, phone),
            // Its servers are called one by one.
            Callee::Trunk(_) => Err(AgentFailureKind::NotConfigured.into()),
        }
    }

    async fn to_address(stack: &Stack, to: &SipUri, hop: Hop) -> Result<Self, AgentFailure> {
        let refused = |cause: &str| AgentFailureKind::Refused.because(cause);
        let Hop { address, transport } = hop;
        let contact = stack.contact(transport, address.is_ipv6()).ok_or_else(|| refused(NOTHING_LISTENS))?;
        let connection = match transport {
            Transport::Udp => None,
            Transport::Tcp | Transport::Tls | Transport::Ws => {
                let layer = &stack.dialogs.endpoint.transport_layer;
                Some(stack.streams.connect(layer, &to.host, hop).await.map_err(|cause| refused(&cause))?)
            }
        };
        let mut callee = Uri::try_from(to.on_the_wire()).map_err(|_| refused("its address is malformed"))?;
        let named = match &to.host {
            Host::Name(_) => {
                let name = std::mem::replace(&mut callee.host_with_port, address.into());
                Some(Named { name, address: address.into() })
            }
            Host::Address(_) => None,
        };
        Ok(Self {
            callee,
            named,
            destination: SipAddr { r#type: Some(library_transport(transport)), addr: address.into() },
            contact: our_contact(to.is_secure, transport, contact),
            signalling: address.ip(),
            _connection: connection,
        })
    }

    /// Back over what it registered with.
    fn to_phone(stack: &Stack, phone: &RegisteredPhone) -> Result<Self, AgentFailure> {
        let refused = |cause: &str| AgentFailureKind::Refused.because(cause);
        let RegisteredPhone { uri, flow, .. } = phone;
        if !flow.is_open() {
            // The library would open another connection, to a port that nobody listens at.
            return Err(refused("its connection is closed"));
        }
        let contact = stack.contact_over(flow).ok_or_else(|| refused(NOTHING_LISTENS))?;
        let callee = Uri::try_from(uri.as_str()).map_err(|_| refused("its address is malformed"))?;
        let signalling = flow.ip();
        Ok(Self { callee, destination: flow.destination(), contact, signalling, named: None, _connection: None })
    }
}
