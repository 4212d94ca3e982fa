//! Answering: how a call comes to its worker, from Meta's SDP offer to our answer, or with our offer and Meta's answer.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use patchcord_media::audio_terms::AudioTerms;
use patchcord_media::bridge::Bridge;
use patchcord_media::peer::{Consent, LocalAddress, Peer, PeerOptions};
use patchcord_media::rtp_leg::{RtpLeg, RtpLegOptions};
use patchcord_media::sdp::{Answer as SdpAnswer, OFFERED_OPUS, OFFERED_TELEPHONE_EVENT, Offer};
use tokio::sync::mpsc;
use tracing::{error, warn};

use super::call_media::{CallMedia, Services, Transport};
use super::command::{Answer, MakeOffer, MediaOptions, Report};
use super::endpoints::{Endpoint, EndpointId, Endpoints};
use super::ports::Placed;
use super::sockets::{self, PortSockets};
use super::{Silence, Worker};
use crate::call::end::{EndReason, Shortage};
use crate::call::event::CallId;
use crate::clock;
use crate::descriptors;

/// RFC 3711 §3.3.1: a first sequence number near the wrap, with its packet lost, would leave the two sides' rollover
/// counters apart for good.
const LOWER_HALF: u16 = 0x7fff;

impl Worker {
    pub(super) fn answer(self: &Rc<Self>, answer: Answer) {
        let Answer { offer, media, reports, reply } = answer;
        let services = self.services(reports);
        // Nothing but this call has used what a panic leaves half done.
        let answered = catch_unwind(AssertUnwindSafe(|| self.admit(media, services, &offer)));
        let answered = answered.unwrap_or(Err(EndReason::InternalError));
        // The session may have given up; its Release follows.
        let _ = reply.send(answered);
    }

    /// Makes the offer of a call that we place.
    pub(super) fn offer(self: &Rc<Self>, offer: MakeOffer) {
        let MakeOffer { media, reports, reply } = offer;
        let services = self.services(reports);
        // Nothing but this call has used what a panic leaves half done.
        let offered = catch_unwind(AssertUnwindSafe(|| self.place(media, services)));
        let offered = offered.unwrap_or(Err(EndReason::InternalError));
        // The session may have given up; its Release follows.
        let _ = reply.send(offered);
    }

    /// Connects a call that we place to Meta's answer.
    pub(super) fn apply_answer(&self, call: &CallId, answer: &SdpAnswer) -> Result<(), EndReason> {
        // The call has ended meanwhile.
        let Some(media) = self.media.borrow().get(call).cloned() else { return Ok(()) };
        let now = clock::now();
        let applied = media.contained(|| media.accept_answer(answer, now));
        applied.unwrap_or(Ok(())).map_err(|error| EndReason::AnswerRefused(error.to_string()))?;
        let endpoint = Endpoint { media, id: EndpointId::Caller };
        self.endpoints.borrow_mut().add_remotes(&endpoint, &answer.remote_candidates(), now);
        Ok(())
    }

    fn services(self: &Rc<Self>, reports: mpsc::Sender<Report>) -> Services {
        Services {
            prompts: self.options.prompts.clone(),
            recordings: self.options.recordings.clone(),
            reports,
            pulse: self.status.pulse.clone(),
            worker: Rc::downgrade(self),
        }
    }

    /// The relay that the answer will name may serve other calls, so the call is alone on its port until then.
    fn place(self: &Rc<Self>, media: MediaOptions, services: Services) -> Result<Arc<str>, EndReason> {
        let now = clock::now();
        let (port, sockets) =
            self.open_port_with(|endpoints| endpoints.place_alone(now)).map_err(EndReason::Overloaded)?;
        let options = self.peer_options(&sockets);
        let made = Peer::offer(&options, now);
        let (peer, offer) =
            made.inspect_err(|_| self.endpoints.borrow_mut().end_reservation(port)).map_err(|error| {
                error!("the SDP offer of a call cannot be made: {error}");
                EndReason::InternalError
            })?;
        let caller = Transport::alone(port, sockets, peer.local_ufrag().to_owned());
        let offered = (OFFERED_OPUS, Some(OFFERED_TELEPHONE_EVENT));
        let leg = RtpLeg::new(peer, &leg_options(offered, options.ssrc, self.options.silence), now);
        self.take_in(CallMedia::new(media, services, caller, Bridge::new(leg, now)), &[], now);
        Ok(offer.into())
    }

    fn admit(self: &Rc<Self>, media: MediaOptions, services: Services, offer: &Offer) -> Result<Arc<str>, EndReason> {
        let now = clock::now();
        let remotes = &offer.remote_candidates();
        let (port, sockets) = self.open_port(remotes, now).map_err(EndReason::Overloaded)?;
        let options = self.peer_options(&sockets);
        let (peer, answer) =
            Peer::answer(&options, offer, now).map_err(|error| EndReason::OfferRefused(error.to_string()))?;
        let caller = Transport::new(port, sockets, peer.local_ufrag().to_owned());
        let leg = RtpLeg::new(peer, &rtp_leg_options(offer, options.ssrc, self.options.silence), now);
        let bridge = Bridge::new(leg, now);
        self.take_in(CallMedia::new(media, services, caller, bridge), remotes, now);
        Ok(answer.into())
    }

    fn take_in(&self, media: CallMedia, remotes: &[SocketAddr], now: Instant) {
        let media = Rc::new(media);
        let endpoint = Endpoint { media: media.clone(), id: EndpointId::Caller };
        self.endpoints.borrow_mut().add(&endpoint, remotes, now);
        self.media.borrow_mut().insert(media.call().clone(), media.clone());
        media.settle();
        self.tick.add(media);
    }

    pub(super) fn peer_options(&self, sockets: &PortSockets) -> PeerOptions {
        PeerOptions {
            identity: self.options.identity.clone(),
            addresses: self.local_addresses(sockets),
            allow_private: self.options.allow_private,
            ssrc: rand::random(),
            consent: Consent {
                warn_after: self.options.silence.warn_after,
                fail_after: self.options.silence.consent_lost_after,
            },
        }
    }

    fn local_addresses(&self, sockets: &PortSockets) -> Vec<LocalAddress> {
        let advertised = self.options.addresses.iter().map(|(_, advertised)| *advertised);
        sockets
            .addresses()
            .zip(advertised)
            .map(|(socket, ip)| LocalAddress { socket, advertised: SocketAddr::new(ip, socket.port()) })
            .collect()
    }

    /// A port where no call has any of these remote addresses, with its sockets open.
    pub(super) fn open_port(
        self: &Rc<Self>,
        remotes: &[SocketAddr],
        now: Instant,
    ) -> Result<(usize, Rc<PortSockets>), Shortage> {
        self.open_port_with(|endpoints| endpoints.place(remotes, now))
    }

    /// The port that `place` chooses, with its sockets open.
    pub(super) fn open_port_with(
        self: &Rc<Self>,
        place: impl Fn(&mut Endpoints) -> Option<Placed>,
    ) -> Result<(usize, Rc<PortSockets>), Shortage> {
        loop {
            let placed = place(&mut self.endpoints.borrow_mut()).ok_or(Shortage::Ports)?;
            if !placed.is_new {
                return Ok((placed.port, self.sockets.borrow()[placed.port].clone()));
            }
            let listen = self.options.addresses.iter().map(|(listen, _)| SocketAddr::new(*listen, placed.number));
            match PortSockets::open(listen) {
                Ok(sockets) => {
                    descriptors::shortage_is_over();
                    let sockets = Rc::new(sockets);
                    self.sockets.borrow_mut().push(sockets.clone());
                    sockets::spawn_readers(self, placed.port, &sockets);
                    return Ok((placed.port, sockets));
                }
                Err(error) if sockets::is_held_by_others(&error) => {
                    warn!(
                        port = placed.number,
                        "UDP port {} cannot be opened and is passed over: {error}", placed.number
                    );
                    self.endpoints.borrow_mut().discard_newest_port();
                }
                Err(error) => {
                    descriptors::tell_shortage(&error);
                    self.endpoints.borrow_mut().put_back_newest_port();
                    return Err(Shortage::Sockets);
                }
            }
        }
    }
}

pub(super) fn first_sequence() -> u16 {
    rand::random::<u16>() & LOWER_HALF
}

pub(super) fn rtp_leg_options(offer: &Offer, ssrc: u32, silence: Silence) -> RtpLegOptions {
    leg_options((offer.opus.payload_type, offer.telephone_event), ssrc, silence)
}

/// With the payload types of Opus and, if it is negotiated, of telephone-event.
fn leg_options((opus, telephone_event): (u8, Option<u8>), ssrc: u32, silence: Silence) -> RtpLegOptions {
    RtpLegOptions {
        ssrc,
        first_sequence: first_sequence(),
        first_timestamp: rand::random(),
        audio: AudioTerms::webrtc(opus, telephone_event),
        silence_warn_after: silence.warn_after,
        silence_end_after: silence.end_after,
    }
}
