//! Pages: from a page's offer to its leg, and the changes and the end that it asks for later; and legs that offer themselves.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::{Duration, Instant};

use patchcord_media::audio_terms::AudioTerms;
use patchcord_media::bridge::Speaker;
use patchcord_media::mixer::{self, ParticipantId};
use patchcord_media::peer::{Consent, Peer, PeerError, PeerOptions};
use patchcord_media::rtp_leg::{RtpLeg, RtpLegOptions};
use patchcord_media::sdp::{Answer, Fragment, OFFERED_OPUS, OFFERED_TELEPHONE_EVENT, Offer};
use patchcord_media::source::DEFAULT_MAX_BUFFER;

use super::answering::{first_sequence, rtp_leg_options};
use super::call_media::browsers::Browser;
use super::call_media::{CallMedia, Transport};
use super::command::{BrowserAnswer, BrowserCommand, TakenFragment};
use super::endpoints::{Endpoint, EndpointId};
use super::{Silence, Worker};
use crate::agent::browser::BrowserLeg;
use crate::agent::port::PortUser;
use crate::agent::{AgentTarget, BrowserId, Dial};
use crate::browser::token::{TokenDigest, WebRtcRole};
use crate::call::end::Shortage;
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::clock;

/// A muted page may send nothing for the whole call: only its answers to connectivity checks count.
const SILENCE: Silence = Silence { warn_after: A_DAY, consent_lost_after: A_DAY, end_after: A_DAY };
/// Holds the port of a leg that offers: where its remote will be is not known when the port is chosen, and two calls
/// may go to the same address. So no two such legs share a port.
const UNKNOWN_REMOTE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
const A_DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Worker {
    pub(super) fn browser_command(self: &Rc<Self>, call: &CallId, command: BrowserCommand) {
        let media = self.media.borrow().get(call).cloned();
        let media = media.ok_or_else(|| Refusal::new(RefusalCode::CallEnded, "the call has ended"));
        // The HTTP request behind a reply may be gone.
        match command {
            BrowserCommand::Answer { offer, role, token, reply } => drop(
                reply
                    .send(media.and_then(|media| in_call(&media, || self.answer_browser(&media, &offer, role, token)))),
            ),
            BrowserCommand::TakeFragment { browser, token, etag, fragment, reply } => {
                let take = |media: Rc<CallMedia>| {
                    in_call(&media, || self.take_fragment(&media, (browser, &token), etag.as_deref(), &fragment))
                };
                drop(reply.send(media.and_then(take)));
            }
            BrowserCommand::Leave { browser, token, reply } => {
                drop(reply.send(media.and_then(|media| in_call(&media, || leave(&media, browser, &token)))));
            }
        }
    }

    fn answer_browser(
        self: &Rc<Self>,
        media: &Rc<CallMedia>,
        offer: &Offer,
        role: WebRtcRole,
        token: TokenDigest,
    ) -> Result<BrowserAnswer, Refusal> {
        let participant = |worker: &Self| worker.seat_participant(media, role);
        let (browser, etag, sdp, participant) = self.answer_leg(media, offer, Some(token), participant)?;
        if let Some(participant) = participant {
            let dial = Dial { target: AgentTarget::Browser(browser), max_buffer: DEFAULT_MAX_BUFFER };
            self.dial(media, PortUser::Participant(participant), Speaker::Participant(participant), dial);
        }
        Ok(BrowserAnswer { browser, etag, sdp })
    }

    /// Dials a participant that came by itself.
    pub(super) fn participate(&self, call: &CallId, role: WebRtcRole, target: AgentTarget) -> Result<(), Refusal> {
        let ended = || Refusal::new(RefusalCode::CallEnded, "the call has ended");
        let media = self.media.borrow().get(call).cloned().ok_or_else(ended)?;
        in_call(&media, || {
            if let Some(id) = self.seat_participant(&media, role)? {
                let dial = Dial { target, max_buffer: DEFAULT_MAX_BUFFER };
                self.dial(&media, PortUser::Participant(id), Speaker::Participant(id), dial);
            }
            Ok(())
        })
    }

    /// Makes a leg for the offer of a phone that calls us, and gives our answer.
    pub(super) fn answer_phone(
        self: &Rc<Self>,
        media: &Rc<CallMedia>,
        offer: &Offer,
    ) -> Result<(BrowserId, String), Refusal> {
        let (id, _, sdp, ()) = self.answer_leg(media, offer, None, |_| Ok(()))?;
        media.browser_leg(id).ok_or_else(no_session)?.claim();
        Ok((id, sdp))
    }

    /// Makes a leg for an offer; gives its number, its user name and our answer. `seat` is the last step that can fail.
    fn answer_leg<T>(
        self: &Rc<Self>,
        media: &Rc<CallMedia>,
        offer: &Offer,
        token: Option<TokenDigest>,
        seat: impl FnOnce(&Self) -> Result<T, Refusal>,
    ) -> Result<(BrowserId, String, String, T), Refusal> {
        let now = clock::now();
        has_room(media)?;
        let remotes = &offer.remote_candidates();
        let (port, sockets) = self.open_port(remotes, now).map_err(no_port)?;
        let options = PeerOptions { consent: Consent::default(), ..self.peer_options(&sockets) };
        let (peer, sdp) = Peer::answer(&options, offer, now).map_err(refused)?;
        let seated = seat(self.as_ref())?;
        let (browser, etag) = (media.next_browser_id(), peer.local_ufrag().to_owned());
        let transport = Rc::new(Transport::new(port, sockets, etag.clone()));
        let leg = RtpLeg::new(peer, &rtp_leg_options(offer, options.ssrc, SILENCE), now);
        let leg = Rc::new(BrowserLeg::new(leg, options, offer.mid.clone(), Box::new(transport.clone())));
        leg.flush();
        media.add_browser(Browser { id: browser, token, transport, leg, answered_at: now });
        let endpoint = Endpoint { media: media.clone(), id: EndpointId::Browser(browser) };
        self.endpoints.borrow_mut().add(&endpoint, remotes, now);
        Ok((browser, etag, sdp, seated))
    }

    /// The last step that can fail. An agent is dialled by its call.
    fn seat_participant(&self, media: &CallMedia, role: WebRtcRole) -> Result<Option<ParticipantId>, Refusal> {
        let role = match role {
            WebRtcRole::Agent => return Ok(None),
            WebRtcRole::Listen => mixer::Role::Listen,
            WebRtcRole::Whisper => mixer::Role::Whisper,
            WebRtcRole::Join => mixer::Role::Join,
        };
        media.add_participant(role).map(Some)
    }

    /// Makes a leg that offers, and gives its SDP.
    pub(super) fn offer_browser(self: &Rc<Self>, media: &Rc<CallMedia>) -> Result<(BrowserId, String), Refusal> {
        let now = clock::now();
        has_room(media)?;
        let (port, sockets) = self.open_port(&[UNKNOWN_REMOTE], now).map_err(no_port)?;
        let options = PeerOptions { consent: Consent::default(), ..self.peer_options(&sockets) };
        let (peer, sdp) = Peer::offer(&options, now).map_err(refused)?;
        let transport = Rc::new(Transport::new(port, sockets, peer.local_ufrag().to_owned()));
        let leg = RtpLeg::new(peer, &offered_leg_options(options.ssrc), now);
        let leg = Rc::new(BrowserLeg::new(leg, options, None, Box::new(transport.clone())));
        leg.claim();
        let id = media.next_browser_id();
        media.add_browser(Browser { id, token: None, transport, leg, answered_at: now });
        let endpoint = Endpoint { media: media.clone(), id: EndpointId::Browser(id) };
        self.endpoints.borrow_mut().add(&endpoint, &[UNKNOWN_REMOTE], now);
        Ok((id, sdp))
    }

    /// Takes the remote's answer to that.
    pub(super) fn accept_answer(&self, media: &Rc<CallMedia>, id: BrowserId, answer: &Answer) -> Result<(), Refusal> {
        let now = clock::now();
        let leg = media.browser_leg(id).ok_or_else(no_session)?;
        let endpoint = Endpoint { media: media.clone(), id: EndpointId::Browser(id) };
        self.endpoints.borrow_mut().add(&endpoint, &answer.remote_candidates(), now);
        leg.accept_answer(answer, now).map_err(refused)
    }

    /// Answers a later offer of the remote: the connection stays, and ICE restarts if it asks for that.
    pub(super) fn answer_again(&self, media: &Rc<CallMedia>, id: BrowserId, offer: &Offer) -> Result<String, Refusal> {
        let now = clock::now();
        let leg = media.browser_leg(id).ok_or_else(no_session)?;
        let before = leg.newest_ufrag();
        let answer = leg.answer_again(offer, now).map_err(refused)?;
        let ufrag = leg.newest_ufrag();
        if ufrag != before {
            let endpoint = Endpoint { media: media.clone(), id: EndpointId::Browser(id) };
            self.endpoints.borrow_mut().add_ufrag(endpoint, ufrag);
        }
        Ok(answer)
    }

    fn take_fragment(
        &self,
        media: &Rc<CallMedia>,
        (id, token): (BrowserId, &TokenDigest),
        etag: Option<&str>,
        fragment: &Fragment,
    ) -> Result<TakenFragment, Refusal> {
        let now = clock::now();
        let browser = media.browser_of(id, token).ok_or_else(no_session)?;
        if etag.is_some_and(|etag| etag != browser.leg.newest_ufrag()) {
            let advice = "If-Match names an ICE session that is over: use the ETag of the last answer, or *";
            return Err(Refusal::new(RefusalCode::PreconditionFailed, advice));
        }
        let restarted = browser.leg.take_fragment(fragment, now).map_err(refused)?;
        let Some(fragment) = restarted else { return Ok(TakenFragment::Candidates) };
        let etag = browser.leg.newest_ufrag();
        let endpoint = Endpoint { media: media.clone(), id: EndpointId::Browser(id) };
        self.endpoints.borrow_mut().add_ufrag(endpoint, etag.clone());
        Ok(TakenFragment::Restarts { fragment, etag })
    }

    pub(super) fn remove_browser_endpoint(&self, call: &CallId, id: BrowserId, now: Instant) {
        // A call that was released has had all its endpoints removed.
        if let Some(media) = self.media.borrow().get(call).cloned() {
            self.endpoints.borrow_mut().remove(&Endpoint { media, id: EndpointId::Browser(id) }, now);
        }
    }
}

fn leave(media: &CallMedia, id: BrowserId, token: &TokenDigest) -> Result<(), Refusal> {
    let browser = media.browser_of(id, token).ok_or_else(no_session)?;
    browser.leg.leave();
    if !browser.leg.is_claimed() {
        media.remove_browser(id, clock::now());
    }
    Ok(())
}

/// A bug while a page's request is handled ends the call, as any other.
fn in_call<T>(media: &Rc<CallMedia>, work: impl FnOnce() -> Result<T, Refusal>) -> Result<T, Refusal> {
    let broken = || Refusal::new(RefusalCode::InternalError, "the call ends because of a bug in Patchcord");
    media.contained(work).unwrap_or_else(|| Err(broken()))
}

fn has_room(media: &CallMedia) -> Result<(), Refusal> {
    match media.has_room_for_browser() {
        true => Ok(()),
        false => Err(Refusal::new(RefusalCode::TooManyBrowsers, "8 pages are connected to this call already")),
    }
}

/// Until the answer is known.
fn offered_leg_options(ssrc: u32) -> RtpLegOptions {
    RtpLegOptions {
        ssrc,
        first_sequence: first_sequence(),
        first_timestamp: rand::random(),
        audio: AudioTerms::webrtc(OFFERED_OPUS, Some(OFFERED_TELEPHONE_EVENT)),
        silence_warn_after: SILENCE.warn_after,
        silence_end_after: SILENCE.end_after,
    }
}

fn no_port(_: Shortage) -> Refusal {
    Refusal::new(RefusalCode::NoMediaPort, "no UDP port of [media] ports is free for this: try again later")
}

fn no_session() -> Refusal {
    Refusal::new(RefusalCode::SessionNotFound, "this token has no such WebRTC session, or it is over")
}

fn refused(error: PeerError) -> Refusal {
    let code = match error {
        PeerError::NoRemoteAddress | PeerError::UnexpectedAnswer | PeerError::OtherConnection => {
            RefusalCode::OfferRefused
        }
        PeerError::Crypto | PeerError::BadAddress => RefusalCode::InternalError,
    };
    Refusal::new(code, error.to_string())
}
