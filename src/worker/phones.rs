//! SIP phones: a port of the worker for each, and the end of its use.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Instant;

use super::Worker;
use super::call_media::CallMedia;
use super::call_media::Transport;
use super::call_media::phones::Phone;
use super::endpoints::{Endpoint, EndpointId};
use crate::agent::PhoneId;
use crate::agent::sip::PhoneLine;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::event::CallId;
use crate::clock;

impl Worker {
    /// A port of its own for a phone of this call.
    pub(super) fn open_phone(self: &Rc<Self>, media: &Rc<CallMedia>) -> Result<Rc<PhoneLine>, AgentFailure> {
        let now = clock::now();
        let (port, sockets) = self
            .open_port_with(|endpoints| endpoints.place_alone(now))
            .map_err(|_| AgentFailureKind::Refused.because("no UDP port is free for its audio"))?;
        let advertised = self.options.addresses.iter().map(|(_, advertised)| *advertised);
        let addresses = sockets
            .addresses()
            .zip(advertised)
            .map(|(socket, ip)| (socket, SocketAddr::new(ip, socket.port())))
            .collect();
        let transport = Rc::new(Transport::without_ice(port, sockets));
        let id = media.next_phone_id();
        let line = Rc::new(PhoneLine::new(id, addresses, Box::new(transport.clone())));
        media.add_phone(Phone { id, transport, line: line.clone() });
        let endpoint = Endpoint { media: media.clone(), id: EndpointId::Phone(id) };
        self.endpoints.borrow_mut().add_alone(endpoint, now);
        Ok(line)
    }

    pub(super) fn remove_phone_endpoint(&self, call: &CallId, id: PhoneId, now: Instant) {
        // A call that was released has had all its endpoints removed.
        if let Some(media) = self.media.borrow().get(call).cloned() {
            self.endpoints.borrow_mut().remove(&Endpoint { media, id: EndpointId::Phone(id) }, now);
        }
    }
}
