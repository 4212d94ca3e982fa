//! Peer: one WebRTC connection, to Meta or to a browser.
//!
//! Pure: datagrams and time go in, datagrams, packets and events come out. The owner
//!
//! 1. makes a peer from an offer ([`Peer::answer`]) or for one ([`Peer::offer`], [`Peer::accept_answer`]),
//! 2. hands it every datagram ([`Peer::receive`]) and calls [`Peer::handle_timeout`] when
//!    [`Peer::poll_timeout`] has come,
//! 3. after each of these sends what [`Peer::poll_transmit`] gives and reads [`Peer::poll_event`].
//!
//! Inside, ICE finds a path, DTLS agrees on keys over it, and SRTP locks the sound with them. Three
//! guards stand before the library's agents, which trust their input too early.

mod address;
mod consent;
mod dtls;
mod flight;
mod ice;
mod identity;
mod outbox;
mod record;
mod record_guard;
mod srtp;
mod ssrc_guard;
mod stats;
mod stun;
mod stun_guard;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use thiserror::Error;

pub use consent::Consent;
pub use identity::Identity;
pub use outbox::Transmit;
pub use stats::{Dropped, PeerStats};
pub use stun::stun_request_ufrag;

use crate::rtcp::Reports;
use consent::ConsentChange;
use dtls::{Dtls, DtlsEvent, DtlsRole};
use ice::{Ice, Path};
use outbox::Outbox;
use srtp::{Srtp, SrtpKeys};
use ssrc_guard::Refused;

use crate::rtcp::is_rtcp;
use crate::rtp::{self, RtpHeader, RtpPacket};
use crate::sdp::{self, Answer, Candidate, Description, LocalDescription, Offer, Setup};

/// The last resort against a peer that nobody ends. Calls have their own, shorter deadlines.
const CONNECT_WITHIN: Duration = Duration::from_secs(90);

/// One of the sockets that a peer may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalAddress {
    /// What the socket is bound to; [`Peer::receive`] and [`Transmit`] name sockets by it.
    pub socket: SocketAddr,
    /// What the SDP says: the public address, when the socket is behind a NAT.
    pub advertised: SocketAddr,
}

/// What a peer needs to know beside the SDP.
#[derive(Debug, Clone)]
pub struct PeerOptions {
    /// The certificate of this process.
    pub identity: Arc<Identity>,
    /// The sockets, the best first. At least one.
    pub addresses: Vec<LocalAddress>,
    /// When a silent remote is reported and given up.
    pub consent: Consent,
    /// Whether the remote may name private and loopback addresses.
    pub allow_private: bool,
    /// The one SSRC under which we send for the whole call.
    pub ssrc: u32,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerEvent {
    /// Sound can flow both ways.
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
    /// The end; nothing more comes.
    Closed(CloseReason),
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// [`Peer::close`] was called. Never reported as an event.
    ClosedByUs,
    /// The remote said goodbye.
    ClosedByRemote,
    /// The remote has not answered our checks for [`Consent::fail_after`].
    ConsentExpired,
    /// No path was found within a minute and a half.
    NoPath,
    /// The path was there, but DTLS did not come to an end.
    HandshakeFailed,
    /// The remote's certificate is none of those its SDP names: somebody may be in the middle.
    FingerprintMismatch,
}

/// Why a peer cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PeerError {
    /// The cryptographic library failed.
    #[error("cryptography failed")]
    Crypto,
    /// [`PeerOptions::addresses`] is empty or holds an address that cannot be used.
    #[error("no usable local media address is configured")]
    BadAddress,
    /// All candidates of a remote that only answers are private or missing.
    #[error("the remote's SDP has no address that may be used; private ones need media.allow_private")]
    NoRemoteAddress,
    /// An answer came without an offer of ours, or twice.
    #[error("no answer is expected")]
    UnexpectedAnswer,
}

/// One WebRTC connection.
pub struct Peer {
    identity: Arc<Identity>,
    allow_private: bool,
    ice: Ice,
    /// Absent until the remote's SDP is known.
    dtls: Option<Dtls>,
    /// Present when connected.
    srtp: Option<(Srtp, &'static str)>,
    reports: Reports,
    dropped: Dropped,
    /// Whether the remote's SDP wants our sound.
    remote_receives: bool,
    media_at: Option<Instant>,
    outbox: Outbox,
    events: VecDeque<PeerEvent>,
    give_up_at: Instant,
    closed: Option<CloseReason>,
    /// What [`Peer::poll_timeout`] says. Asking everybody at every visit costs more than sound needs of a visit, and
    /// sound moves no deadline.
    deadline: Option<Instant>,
}

impl Peer {
    /// A peer for a remote offer, and our answer to it. Checks begin at once.
    pub fn answer(options: &PeerOptions, offer: &Offer, now: Instant) -> Result<(Peer, String), PeerError> {
        let (role, setup) = match offer.setup {
            // As client we can begin as soon as the path is there.
            Setup::Actpass | Setup::Passive => (DtlsRole::Client, Setup::Active),
            Setup::Active => (DtlsRole::Server, Setup::Passive),
        };
        let mut peer = Peer::new(options, now)?;
        peer.negotiate(offer, role, false, now)?;
        let answer = peer.describe(options, |local| sdp::write_answer(local, offer, setup));
        Ok((peer, answer))
    }

    /// A peer that offers, and its offer. It is silent until [`Peer::accept_answer`].
    pub fn offer(options: &PeerOptions, now: Instant) -> Result<(Peer, String), PeerError> {
        let peer = Peer::new(options, now)?;
        let offer = peer.describe(options, sdp::write_offer);
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

    /// Takes a datagram that `socket` received. Returns sound, if it is any.
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

    /// Locks a packet for the remote. `None` before connected, after the end, and for a remote whose SDP takes no
    /// sound (`sendonly`, `inactive`).
    ///
    /// The first packet also starts our RTCP reports: before a call is accepted nothing of the sort
    /// may reach Meta. They flow whatever the direction of the sound (RFC 3264 §5.1).
    pub fn send_rtp(&mut self, header: RtpHeader, payload: &[u8], now: Instant) -> Option<Transmit> {
        let (srtp, _) = self.srtp.as_mut()?;
        let path = self.ice.path()?;
        let data = if self.remote_receives { Some(srtp.protect_rtp(header, payload)?) } else { None };
        if data.is_some() {
            self.reports.sent(header, payload.len(), now);
        }
        if self.reports.begin(now) {
            self.deadline = self.next_deadline();
        }
        Some(Transmit { socket: path.socket, to: path.remote, data: data? })
    }

    /// The next datagram to send, beside those of [`Peer::send_rtp`].
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop()
    }

    /// What has happened.
    pub fn poll_event(&mut self) -> Option<PeerEvent> {
        self.events.pop_front()
    }

    /// When [`Peer::handle_timeout`] wants to be called. May be in the past: then at once.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Does what is due: checks, repeated flights, reports, and giving up.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.closed.is_some() {
            return;
        }
        self.ice.handle_timeout(now, &mut self.outbox);
        self.follow_ice(now);
        if let Some(dtls) = &mut self.dtls
            && dtls.poll_timeout().is_some_and(|at| at <= now)
        {
            let event = dtls.handle_timeout(now, &mut self.outbox);
            self.follow_dtls(event);
        }
        if let Some((srtp, _)) = &mut self.srtp
            && let Some(path) = self.ice.path()
            && let Some(report) = self.reports.handle_timeout(now)
            && let Some(data) = srtp.protect_rtcp(&report)
        {
            self.outbox.push(path, data);
        }
        if self.srtp.is_none() && self.give_up_at <= now {
            self.end(match self.ice.path() {
                None => CloseReason::NoPath,
                Some(_) => CloseReason::HandshakeFailed,
            });
        }
        self.deadline = self.next_deadline();
    }

    /// Nothing was read or sent for `gap`, by no fault of the remote's: to be called before anything is judged by time.
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        self.ice.shift_deadlines(gap, now);
        self.give_up_at = (self.give_up_at + gap).min(now + CONNECT_WITHIN);
        self.deadline = self.next_deadline();
    }

    /// Ends the connection: a goodbye is queued, then all is silent.
    pub fn close(&mut self, now: Instant) {
        if self.closed.is_some() {
            return;
        }
        self.outbox.clear();
        if let Some(dtls) = &mut self.dtls {
            dtls.close(now, &mut self.outbox);
        }
        self.srtp = None;
        self.closed = Some(CloseReason::ClosedByUs);
        self.deadline = None;
    }

    /// Counts and measures.
    pub fn stats(&self) -> PeerStats {
        let heard = self.reports.heard;
        PeerStats {
            packets_in: self.reports.packets_in,
            bytes_in: self.reports.bytes_in,
            packets_out: self.reports.packets_out(),
            bytes_out: self.reports.bytes_out(),
            lost: self.reports.lost(),
            jitter: self.reports.jitter(),
            remote_lost: heard.map(|heard| heard.lost.into()),
            remote_loss_percent: heard.map_or(0, |heard| heard.loss_percent()),
            remote_jitter: heard.map_or(Duration::ZERO, |heard| heard.jitter()),
            round_trip: heard.and_then(|heard| heard.round_trip).or(self.ice.round_trip()),
            remote_ssrc: self.reports.remote_ssrc(),
            path: self.ice.path().map(|path| (path.socket, path.remote)),
            srtp_profile: self.srtp.as_ref().map(|(_, name)| *name),
            dropped: Dropped { unsent: self.outbox.dropped(), ..self.dropped },
        }
    }

    /// Our ICE user name: STUN requests to this peer begin with it (see [`stun_request_ufrag`]).
    pub fn local_ufrag(&self) -> &str {
        self.ice.ufrag()
    }

    /// Whether a STUN message is signed with this session's passwords, which only the remote of the SDP exchange knows.
    /// Changes nothing: the message is still to be [received](Self::receive).
    pub fn is_authentic_stun(&mut self, datagram: &[u8]) -> bool {
        self.ice.is_authentic(datagram)
    }

    /// When RTP or RTCP of the remote last came. Connectivity checks do not count: they go on when sound does not.
    pub fn media_at(&self) -> Option<Instant> {
        self.media_at
    }

    /// Whether sound can flow.
    pub fn is_connected(&self) -> bool {
        self.srtp.is_some()
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
            ice: Ice::new(&options.identity, &options.addresses, options.consent, now)?,
            dtls: None,
            srtp: None,
            reports: Reports::new(options.ssrc, now),
            dropped: Dropped::default(),
            remote_receives: true,
            media_at: None,
            outbox: Outbox::default(),
            events: VecDeque::new(),
            give_up_at: now + CONNECT_WITHIN,
            closed: None,
            deadline: None,
        };
        peer.deadline = peer.next_deadline();
        Ok(peer)
    }

    /// The first of all that a peer waits for.
    fn next_deadline(&self) -> Option<Instant> {
        if self.closed.is_some() {
            return None;
        }
        let give_up = self.srtp.is_none().then_some(self.give_up_at);
        let dtls = self.dtls.as_ref().and_then(Dtls::poll_timeout);
        [self.ice.poll_timeout(), dtls, self.reports.poll_timeout(), give_up].into_iter().flatten().min()
    }

    fn negotiate(
        &mut self,
        remote: &Description,
        role: DtlsRole,
        we_offered: bool,
        now: Instant,
    ) -> Result<(), PeerError> {
        let candidates: Vec<Candidate> = remote
            .candidates
            .iter()
            .filter(|candidate| address::is_allowed(candidate.address, self.allow_private))
            .copied()
            .collect();
        // A full agent finds us by itself; a lite one waits to be found.
        if candidates.is_empty() && remote.ice_lite {
            return Err(PeerError::NoRemoteAddress);
        }
        let dtls = Dtls::new(&self.identity, role, remote.fingerprints.clone(), now)?;
        self.ice.start(&self.identity, remote, &candidates, we_offered, now)?;
        self.dtls = Some(dtls);
        self.reports.set_telephone_event(remote.telephone_event);
        self.remote_receives = remote.direction.receives();
        self.give_up_at = now + CONNECT_WITHIN;
        self.deadline = self.next_deadline();
        Ok(())
    }

    fn describe(&self, options: &PeerOptions, write: impl FnOnce(&LocalDescription<'_>) -> String) -> String {
        let addresses: Vec<SocketAddr> = options.addresses.iter().map(|address| address.advertised).collect();
        write(&LocalDescription {
            // RFC 8866 §5.2 wants it unique, and it must fit 63 bits.
            session_id: rand::random::<u64>() >> 1,
            addresses: &addresses,
            ufrag: self.ice.ufrag(),
            pwd: self.ice.pwd(),
            fingerprint: self.identity.fingerprint(),
            ssrc: options.ssrc,
        })
    }

    fn receive_stun(&mut self, path: Path, datagram: &[u8], now: Instant) {
        if !self.ice.receive(path, datagram, now, &mut self.outbox) {
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
        let packet = self.unlock(path, |srtp| srtp.unprotect_rtp(header, header_length, datagram))?;
        self.media_at = Some(now);
        self.reports.received(header, packet.len(), now);
        let Some(padding) = rtp::padding(&packet, header_length) else {
            self.dropped.malformed += 1;
            return None;
        };
        // Cut before it can be shared: to share the packet with a slice of itself takes memory of its own.
        let mut payload = packet;
        payload.truncate(payload.len() - padding);
        payload.advance(header_length);
        Some(header.with_payload(payload.freeze()))
    }

    fn receive_rtcp(&mut self, path: Path, datagram: &[u8], now: Instant) {
        if let Some(compound) = self.unlock(path, |srtp| srtp.unprotect_rtcp(datagram)) {
            self.media_at = Some(now);
            self.reports.read(&compound, now);
        }
    }

    /// Opens a packet of the selected remote; everything else is counted and dropped.
    fn unlock(&mut self, path: Path, open: impl FnOnce(&mut Srtp) -> Result<BytesMut, Refused>) -> Option<BytesMut> {
        let Some((srtp, _)) = &mut self.srtp else {
            self.dropped.early += 1;
            return None;
        };
        if self.ice.path().is_none_or(|selected| selected.remote != path.remote) {
            self.dropped.foreign += 1;
            return None;
        }
        let refused = match open(srtp) {
            Ok(packet) => return Some(packet),
            Err(refused) => refused,
        };
        match refused {
            Refused::Unauthenticated => self.dropped.unauthenticated += 1,
            Refused::Replayed => self.dropped.replayed += 1,
            Refused::Malformed => self.dropped.malformed += 1,
        }
        None
    }

    /// A path that has just been found starts the handshake; a silent remote is reported.
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
        let srtp = Srtp::new(keys, Arc::clone(&self.identity.crypto));
        let (Some(srtp), Some(path)) = (srtp, self.ice.path()) else {
            self.end(CloseReason::HandshakeFailed);
            return;
        };
        self.srtp = Some((srtp, keys.profile_name()));
        self.events.push_back(PeerEvent::Connected { socket: path.socket, remote: path.remote });
    }

    fn end(&mut self, reason: CloseReason) {
        if self.closed.is_none() {
            self.srtp = None;
            self.closed = Some(reason);
            self.events.push_back(PeerEvent::Closed(reason));
        }
    }
}
