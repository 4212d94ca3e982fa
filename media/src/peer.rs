//! Peer: one WebRTC connection, to Meta or to a browser, as answerer or as offerer.
//!
//! Pure: datagrams and time go in; datagrams, packets and events come out. The owner
//!
//! 1. makes a peer that answers an offer ([`Peer::answer`]), or one that offers ([`Peer::offer`], [`Peer::accept_answer`]),
//! 2. hands it every datagram ([`Peer::receive`]) and calls [`Peer::handle_timeout`] at [`Peer::poll_timeout`],
//! 3. after each of these drains [`Peer::poll_transmit`] and [`Peer::poll_event`].
//!
//! ICE finds a path, DTLS negotiates keys over it, and SRTP encrypts the media with them. Three guards filter the input of
//! the library's agents, which trust it too early.

pub(crate) mod address;
mod consent;
mod dtls;
mod flight;
mod ice;
mod identity;
mod outbox;
mod record;
mod record_guard;
mod reoffer;
mod restart;
mod stats;
mod stun;
mod stun_guard;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

pub use consent::Consent;
pub use identity::Identity;
pub use outbox::Transmit;
pub use stats::{Dropped, PeerStats};
pub use stun::stun_request_ufrag;

use consent::ConsentChange;
use dtls::{Dtls, DtlsEvent, DtlsRole};
use ice::{Ice, Path, Remote};
use outbox::Outbox;

use crate::audio_terms::Codec;
use crate::rtcp::is_rtcp;
use crate::rtp::{RtpHeader, RtpPacket};
use crate::rtp_session::RtpSession;
use crate::sdp::{self, Answer, Candidate, Description, LocalDescription, Offer, Setup};
use crate::srtp::SrtpKeys;

/// Limit for a peer that is never closed. Calls have shorter deadlines of their own.
const CONNECT_WITHIN: Duration = Duration::from_secs(90);

/// One of the sockets that a peer may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddress {
    /// The address the socket is bound to, by which [`Peer::receive`] and [`Transmit`] name sockets.
    pub socket: SocketAddr,
    /// The address in the SDP: the public one, when the socket is behind a NAT.
    pub advertised: SocketAddr,
}

/// Configuration of a peer beside the SDP.
#[derive(Debug, Clone)]
pub struct PeerOptions {
    /// The certificate of this process.
    pub identity: Arc<Identity>,
    /// The sockets, the best first. At least one.
    pub addresses: Vec<LocalAddress>,
    /// When a remote that does not answer checks is reported and given up.
    pub consent: Consent,
    /// Whether the remote's SDP may have private and loopback addresses.
    pub allow_private: bool,
    /// SSRC of everything we send.
    pub ssrc: u32,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEvent {
    /// Media can flow both ways.
    Connected {
        /// The local socket in use.
        socket: SocketAddr,
        /// The remote address in use.
        remote: SocketAddr,
    },
    /// The remote has not answered our checks for [`Consent::warn_after`].
    ConsentLost,
    /// It answers again.
    ConsentRegained,
    /// The connection is over. No event follows.
    Closed(CloseReason),
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// [`Peer::close`] was called. Not reported as an event.
    ClosedByUs,
    /// The remote closed DTLS.
    ClosedByRemote,
    /// The remote has not answered our checks for [`Consent::fail_after`].
    ConsentExpired,
    /// No path was found within a minute and a half.
    NoPath,
    /// DTLS failed or did not finish.
    HandshakeFailed,
    /// The remote's certificate has none of the fingerprints in its SDP: possibly a man in the middle.
    FingerprintMismatch,
}

/// Why a peer cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PeerError {
    /// The cryptographic library failed.
    #[error("cryptography failed")]
    Crypto,
    /// [`PeerOptions::addresses`] is empty or has an unusable address.
    #[error("no usable local media address is configured")]
    BadAddress,
    /// An ICE-lite remote has no candidate, or only private ones.
    #[error("the remote's SDP has no address that may be used; private ones need media.allow_private")]
    NoRemoteAddress,
    /// An answer without an offer of ours, or a second one.
    #[error("no answer is expected")]
    UnexpectedAnswer,
    /// A later offer with another certificate, or with a DTLS role that the handshake has settled otherwise.
    #[error("a later offer cannot begin another DTLS connection")]
    OtherConnection,
}

/// One WebRTC connection.
pub struct Peer {
    identity: Arc<Identity>,
    allow_private: bool,
    /// In the `o=` line of our SDP. RFC 8866 §5.2 wants it unique, and it must fit 63 bits.
    session_id: u64,
    /// Of our SDP; each later one has the next number (RFC 3264 §8).
    version: u64,
    ice: Ice,
    /// While ICE is restarted: it replaces the other as soon as it has a path.
    next_ice: Option<Box<Ice>>,
    /// Absent until the remote's SDP is known.
    dtls: Option<Dtls>,
    media: RtpSession,
    dropped: Dropped,
    outbox: Outbox,
    events: VecDeque<PeerEvent>,
    give_up_at: Instant,
    closed: Option<CloseReason>,
    /// The result of [`Peer::poll_timeout`], cached: media moves no deadline, and asking every part for its own at each
    /// packet would cost more than the packet.
    deadline: Option<Instant>,
}

impl Peer {
    /// A peer for a remote offer, and our answer to it. Checks begin at once.
    pub fn answer(options: &PeerOptions, offer: &Offer, now: Instant) -> Result<(Peer, String), PeerError> {
        let (role, setup) = match offer.setup {
            // A DTLS client can start as soon as there is a path.
            Setup::Actpass | Setup::Passive => (DtlsRole::Client, Setup::Active),
            Setup::Active => (DtlsRole::Server, Setup::Passive),
        };
        let mut peer = Peer::new(options, now)?;
        peer.negotiate(offer, role, false, now)?;
        let answer = peer.describe(options, &peer.ice, |local| sdp::write_answer(local, offer, setup));
        Ok((peer, answer))
    }

    /// A peer that offers, and its offer. It is silent until [`Peer::accept_answer`].
    pub fn offer(options: &PeerOptions, now: Instant) -> Result<(Peer, String), PeerError> {
        let peer = Peer::new(options, now)?;
        let offer = peer.describe(options, &peer.ice, sdp::write_offer);
        Ok((peer, offer))
    }

    /// The remote's answer to our offer. Checks begin.
    pub fn accept_answer(&mut self, answer: &Answer, now: Instant) -> Result<(), PeerError> {
        if self.dtls.is_some() || self.closed.is_some() {
            return Err(PeerError::UnexpectedAnswer);
        }
        let role = match answer.setup {
            Setup::Active => DtlsRole::Server,
            Setup::Passive | Setup::Actpass => DtlsRole::Client,
        };
        self.negotiate(answer, role, true, now)
    }

    /// Takes a datagram that `socket` received. Returns the packet if it is RTP.
    pub fn receive(
        &mut self,
        socket: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Option<RtpPacket> {
        if self.closed.is_some() {
            return None;
        }
        let path = Path { socket, remote: from };
        // RFC 7983 §7: the first byte says which protocol it is.
        match datagram.first()? {
            0..=3 => self.receive_stun(path, datagram, now),
            20..=63 => self.receive_dtls(path, datagram, now),
            128..=191 if is_rtcp(datagram) => self.receive_rtcp(path, datagram, now),
            128..=191 => return self.receive_rtp(path, datagram, now),
            _ => self.dropped.malformed += 1,
        }
        self.deadline = self.next_deadline();
        None
    }

    /// Encrypts a packet for the remote. None before connected, after the end, and for a remote whose SDP wants no audio
    /// (`sendonly`, `inactive`).
    ///
    /// The first call also starts our RTCP reports: none may reach Meta before a call is accepted. They flow whatever the
    /// direction of the audio (RFC 3264 §5.1).
    pub fn send_rtp(&mut self, header: RtpHeader, payload: &[u8], now: Instant) -> Option<Transmit> {
        let path = self.ice.path()?;
        let data = self.media.send_rtp(header, payload, now);
        if self.media.begin_reports(now) {
            self.deadline = self.next_deadline();
        }
        Some(Transmit { socket: path.socket, to: path.remote, data: data? })
    }

    /// The next datagram to send, beside those of [`Peer::send_rtp`].
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    /// When to call [`Peer::handle_timeout`]. May be in the past.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Does what is due: checks, repeated flights, reports, and giving up.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.closed.is_some() {
            return;
        }
        self.ice.handle_timeout(now, &mut self.outbox);
        self.drive_restart(now);
        self.follow_ice(now);
        if let Some(dtls) = &mut self.dtls
            && dtls.poll_timeout().is_some_and(|at| at <= now)
        {
            let event = dtls.handle_timeout(now, &mut self.outbox);
            self.follow_dtls(event);
        }
        if let Some(path) = self.ice.path()
            && let Some(report) = self.media.handle_timeout(now)
        {
            self.outbox.push(path, report);
        }
        if !self.media.is_connected() && self.give_up_at <= now {
            self.end(match self.ice.path() {
                None => CloseReason::NoPath,
                Some(_) => CloseReason::HandshakeFailed,
            });
        }
        self.deadline = self.next_deadline();
    }

    /// Nothing was read or sent for `gap`, through no fault of the remote: extends its deadlines. To be called before
    /// [`handle_timeout`](Self::handle_timeout).
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        self.ice.shift_deadlines(gap, now);
        self.give_up_at = (self.give_up_at + gap).min(now + CONNECT_WITHIN);
        self.deadline = self.next_deadline();
    }

    /// Ends the connection. A goodbye is queued; nothing follows it.
    pub fn close(&mut self, now: Instant) {
        if self.closed.is_some() {
            return;
        }
        self.outbox.clear();
        if let Some(dtls) = &mut self.dtls {
            dtls.close(now, &mut self.outbox);
        }
        self.media.disconnect();
        self.closed = Some(CloseReason::ClosedByUs);
        self.deadline = None;
    }

    /// Counters and measurements.
    pub fn stats(&self) -> PeerStats {
        let path = self.ice.path().map(|path| (path.socket, path.remote));
        let dropped = Dropped { unsent: self.outbox.dropped(), ..self.dropped };
        self.media.stats(path, self.ice.round_trip(), dropped)
    }

    /// Our ICE user name fragment, with which STUN requests to this peer begin (see [`stun_request_ufrag`]).
    pub fn local_ufrag(&self) -> &str {
        self.ice.ufrag()
    }

    /// Whether a STUN message is signed with this session's passwords, which only the remote of the SDP exchange knows.
    /// The message must still be [received](Self::receive).
    pub fn is_authentic_stun(&mut self, datagram: &[u8]) -> bool {
        self.ice.is_authentic(datagram) || self.next_ice.as_mut().is_some_and(|ice| ice.is_authentic(datagram))
    }

    /// When RTP or RTCP of the remote last arrived. Connectivity checks do not count: they continue without media.
    pub fn media_at(&self) -> Option<Instant> {
        self.media.heard_at()
    }

    /// Whether media can flow.
    pub fn is_connected(&self) -> bool {
        self.media.is_connected()
    }

    /// Why the connection ended, if it has.
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.closed
    }

    fn new(options: &PeerOptions, now: Instant) -> Result<Peer, PeerError> {
        if options.addresses.is_empty() {
            return Err(PeerError::BadAddress);
        }
        let mut peer = Peer {
            identity: Arc::clone(&options.identity),
            allow_private: options.allow_private,
            session_id: rand::random::<u64>() >> 1,
            version: 2,
            ice: Ice::new(&options.identity, &options.addresses, options.consent, now)?,
            next_ice: None,
            dtls: None,
            media: RtpSession::new(options.ssrc, Codec::Opus.clock_hz(), now),
            dropped: Dropped::default(),
            outbox: Outbox::default(),
            events: VecDeque::new(),
            give_up_at: now + CONNECT_WITHIN,
            closed: None,
            deadline: None,
        };
        peer.deadline = peer.next_deadline();
        Ok(peer)
    }

    /// The earliest deadline of all parts.
    fn next_deadline(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return None;
        }
        let give_up = (!self.media.is_connected()).then_some(self.give_up_at);
        let dtls = self.dtls.as_ref().and_then(Dtls::poll_timeout);
        let restart = self.next_ice.as_ref().and_then(|ice| ice.poll_timeout());
        [self.ice.poll_timeout(), restart, dtls, self.media.poll_timeout(), give_up].into_iter().flatten().min()
    }

    fn negotiate(
        &mut self,
        remote: &Description,
        role: DtlsRole,
        we_offered: bool,
        now: Instant,
    ) -> Result<(), PeerError> {
        let candidates = self.allowed(&remote.candidates);
        // A full agent finds us by itself; a lite one waits for our checks.
        if candidates.is_empty() && remote.ice_lite {
            return Err(PeerError::NoRemoteAddress);
        }
        let dtls = Dtls::new(&self.identity, role, remote.fingerprints.clone(), now)?;
        let transport = Remote { ufrag: &remote.ufrag, pwd: &remote.pwd, is_lite: remote.ice_lite };
        self.ice.start(&self.identity, transport, &candidates, we_offered, now)?;
        self.dtls = Some(dtls);
        self.media.negotiate(remote.telephone_event, remote.direction.receives());
        self.give_up_at = now + CONNECT_WITHIN;
        self.deadline = self.next_deadline();
        Ok(())
    }

    fn allowed(&self, candidates: &[Candidate]) -> Vec<Candidate> {
        let allowed = candidates.iter().filter(|one| address::is_allowed(one.address, self.allow_private));
        allowed.copied().collect()
    }

    /// What we say of ourselves beside this ICE session.
    fn describe(
        &self,
        options: &PeerOptions,
        ice: &Ice,
        write: impl FnOnce(&LocalDescription<'_>) -> String,
    ) -> String {
        let addresses: Vec<SocketAddr> = options.addresses.iter().map(|address| address.advertised).collect();
        write(&LocalDescription {
            session_id: self.session_id,
            version: self.version,
            addresses: &addresses,
            ufrag: ice.ufrag(),
            pwd: ice.pwd(),
            fingerprint: self.identity.fingerprint(),
            ssrc: options.ssrc,
        })
    }

    fn receive_stun(&mut self, path: Path, datagram: &[u8], now: Instant) {
        if !self.receive_restarted(path, datagram, now) && !self.ice.receive(path, datagram, now, &mut self.outbox) {
            self.dropped.stun += 1;
        }
        self.follow_ice(now);
    }

    fn receive_dtls(&mut self, path: Path, datagram: &[u8], now: Instant) {
        let event = match &mut self.dtls {
            Some(dtls) if self.ice.is_proven(path.remote) => dtls.receive(datagram, now, &mut self.outbox),
            _ => Err(()),
        };
        match event {
            Ok(event) => self.follow_dtls(event),
            Err(()) => self.dropped.dtls += 1,
        }
    }

    fn receive_rtp(&mut self, path: Path, datagram: &[u8], now: Instant) -> Option<RtpPacket> {
        let Some((header, header_length)) = RtpHeader::parse(datagram) else {
            self.dropped.malformed += 1;
            return None;
        };
        if !self.admits_media(path) {
            return None;
        }
        self.media.receive_rtp(header, header_length, datagram, now, &mut self.dropped)
    }

    fn receive_rtcp(&mut self, path: Path, datagram: &[u8], now: Instant) {
        if self.admits_media(path) {
            self.media.receive_rtcp(datagram, now, &mut self.dropped);
        }
    }

    /// Media is accepted only once connected, and only from the selected address.
    fn admits_media(&mut self, path: Path) -> bool {
        if !self.media.is_connected() {
            self.dropped.early += 1;
            return false;
        }
        let is_selected = self.ice.path().is_some_and(|selected| selected.remote == path.remote);
        if !is_selected {
            self.dropped.foreign += 1;
        }
        is_selected
    }

    /// Starts the handshake once a path is found, and reports a remote that does not answer.
    fn follow_ice(&mut self, now: Instant) {
        if let (Some(path), Some(dtls)) = (self.ice.path(), &mut self.dtls) {
            dtls.start(path, now, &mut self.outbox);
        }
        match self.ice.consent(now) {
            None => {}
            Some(ConsentChange::Lost) => self.events.push_back(PeerEvent::ConsentLost),
            Some(ConsentChange::Regained) => self.events.push_back(PeerEvent::ConsentRegained),
            Some(ConsentChange::Expired) => self.end(CloseReason::ConsentExpired),
        }
    }

    fn follow_dtls(&mut self, event: Option<DtlsEvent>) {
        match event {
            None => {}
            Some(DtlsEvent::Established(keys)) => self.connect(&keys),
            Some(DtlsEvent::Closed(reason)) => self.end(reason),
        }
    }

    fn connect(&mut self, keys: &SrtpKeys) {
        let Some(path) = self.ice.path() else { return self.end(CloseReason::HandshakeFailed) };
        if !self.media.connect(keys, Arc::clone(&self.identity.crypto)) {
            return self.end(CloseReason::HandshakeFailed);
        }
        self.events.push_back(PeerEvent::Connected { socket: path.socket, remote: path.remote });
    }

    fn end(&mut self, reason: CloseReason) {
        if self.closed.is_none() {
            self.media.disconnect();
            self.closed = Some(reason);
            self.events.push_back(PeerEvent::Closed(reason));
        }
    }
}
