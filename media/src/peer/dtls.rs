//! The DTLS 1.2 handshake with `use_srtp` (RFC 5764): from a path to the SRTP keys.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc_crypto::RTCCryptoProvider;
use rtc_dtls::cipher_suite::CipherSuiteId;
use rtc_dtls::config::{
    ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig, VerifyPeerCertificateFn,
};
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error;

use super::flight::Flight;
use super::ice::Path;
use super::identity::fingerprint_of;
use super::outbox::Outbox;
use super::record::{ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, renumber};
use super::record_guard::RecordGuard;
use super::{CloseReason, Identity, PeerError};
use crate::sdp::Fingerprint;
use crate::srtp::SrtpKeys;

/// The endpoint wants one address per association; ICE decides where datagrams really go.
const TUNNEL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);
/// When the endpoint first repeats a flight by itself, with fresh records even where encrypted: only
/// such make a finished server repeat its last flight. Each further wait is twice as long.
const FLIGHT_INTERVAL: Duration = Duration::from_millis(500);
/// The endpoint drops the handshake when asked for an eighth repeat, so it is not asked. Starting over would be worse: a
/// server in the middle of a handshake takes a new ClientHello for an old one, and its answers then fit neither.
const MOST_ENDPOINT_REPEATS: u32 = 7;

/// GCM first: less work per packet. libwebrtc picks CM whatever the order.
const PROFILES: [SrtpProtectionProfile; 3] = [
    SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
    SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
    SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
];

/// Ephemeral keys and authenticated encryption alone. Our certificate is ECDSA; the suites with RSA are for remote ends whose
/// certificate is RSA. The library's own list has CBC as well.
const SUITES: [CipherSuiteId; 4] = [
    CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
    CipherSuiteId::Tls_Ecdhe_Ecdsa_With_ChaCha20_Poly1305_Sha256,
    CipherSuiteId::Tls_Ecdhe_Rsa_With_Aes_128_Gcm_Sha256,
    CipherSuiteId::Tls_Ecdhe_Rsa_With_ChaCha20_Poly1305_Sha256,
];

/// Our role in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DtlsRole {
    Client,
    Server,
}

/// The result of a datagram or a timer.
pub(super) enum DtlsEvent {
    Established(Box<SrtpKeys>),
    Closed(CloseReason),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// No path yet. A server already listens and keeps its answer for later.
    Waiting,
    Handshaking(Path),
    Established(Path),
}

pub(super) struct Dtls {
    endpoint: Endpoint,
    config: Arc<HandshakeConfig>,
    role: DtlsRole,
    /// Of the remote's SDP.
    expected: Vec<Fingerprint>,
    phase: Phase,
    verdict: Arc<Verdict>,
    guard: RecordGuard,
    flight: Flight,
    /// The number of our next unencrypted record.
    next_number: u64,
    /// How often the endpoint has repeated its flight by itself, and when it last sent it.
    repeats: u32,
    repeated: Instant,
}

impl Dtls {
    pub fn new(
        identity: &Identity,
        role: DtlsRole,
        expected: Vec<Fingerprint>,
        now: Instant,
    ) -> Result<Dtls, PeerError> {
        Dtls::with_suites(&SUITES, identity, role, expected, now)
    }

    fn with_suites(
        suites: &[CipherSuiteId],
        identity: &Identity,
        role: DtlsRole,
        expected: Vec<Fingerprint>,
        now: Instant,
    ) -> Result<Dtls, PeerError> {
        let verdict = Arc::new(Verdict::default());
        let verify = verdict.verifier(Arc::clone(&identity.crypto), expected.clone());
        let config = ConfigBuilder::default()
            .with_crypto_provider(Arc::clone(&identity.crypto))
            .with_certificates(vec![identity.certificate.clone()])
            .with_cipher_suites(suites.to_vec())
            .with_srtp_protection_profiles(PROFILES.to_vec())
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .with_flight_interval(FLIGHT_INTERVAL)
            // Certificates are self-signed; the fingerprint in the SDP authenticates them.
            .with_insecure_skip_verify(true)
            .with_verify_peer_certificate(Some(verify))
            .build(role == DtlsRole::Client, None)
            .map_err(|_| PeerError::Crypto)?;
        let config = Arc::new(config);
        Ok(Dtls {
            endpoint: endpoint(role, &config),
            config,
            role,
            expected,
            phase: Phase::Waiting,
            verdict,
            guard: RecordGuard::default(),
            flight: Flight::default(),
            next_number: 0,
            repeats: 0,
            repeated: now,
        })
    }

    /// Our role in the handshake.
    pub fn role(&self) -> DtlsRole {
        self.role
    }

    /// Whether the remote's certificate may have this fingerprint.
    pub fn expects(&self, fingerprint: &Fingerprint) -> bool {
        self.expected.contains(fingerprint)
    }

    /// A path is found: the client sends its hello, the server what it has kept. Later calls do nothing.
    pub fn start(&mut self, path: Path, now: Instant, outbox: &mut Outbox) {
        if self.phase != Phase::Waiting {
            return;
        }
        self.phase = Phase::Handshaking(path);
        match self.role {
            DtlsRole::Client => self.connect(now, outbox),
            DtlsRole::Server => {
                self.flight.release(now);
                self.repeat(now, outbox);
            }
        }
    }

    /// ICE was restarted: what is said from now on goes this way.
    pub fn move_to(&mut self, path: Path) {
        self.phase = match self.phase {
            Phase::Waiting => Phase::Waiting,
            Phase::Handshaking(_) => Phase::Handshaking(path),
            Phase::Established(_) => Phase::Established(path),
        };
    }

    /// Takes a datagram from a proven address; `Err(())` when it is refused.
    pub fn receive(&mut self, datagram: &[u8], now: Instant, outbox: &mut Outbox) -> Result<Option<DtlsEvent>, ()> {
        if self.role == DtlsRole::Client && self.phase == Phase::Waiting {
            return Err(());
        }
        if !self.guard.admit(datagram, self.is_established()) {
            return Err(());
        }
        let read = self.endpoint.read(now, TUNNEL, None, BytesMut::from(datagram));
        self.drain(now, outbox);
        if self.verdict.is_mismatch() {
            return Ok(Some(DtlsEvent::Closed(CloseReason::FingerprintMismatch)));
        }
        match read {
            Ok(events) => Ok(events.iter().find_map(|event| self.event(event))),
            // An authenticated alert.
            Err(Error::ErrAlertFatalOrClose) if self.is_established() => {
                Ok(Some(DtlsEvent::Closed(CloseReason::ClosedByRemote)))
            }
            // Anything else may be a stranger's datagram. A handshake that is really broken ends by the peer's deadline.
            Err(_) => Ok(None),
        }
    }

    pub fn handle_timeout(&mut self, now: Instant, outbox: &mut Outbox) -> Option<DtlsEvent> {
        if self.endpoint_timeout().is_some_and(|at| at <= now) {
            if self.endpoint.handle_timeout(TUNNEL, now).is_err() {
                return Some(DtlsEvent::Closed(CloseReason::HandshakeFailed));
            }
            let repeats = self.repeats + 1;
            self.drain(now, outbox);
            self.repeats = repeats;
        }
        self.repeat(now, outbox);
        None
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.phase == Phase::Waiting {
            return None;
        }
        [self.endpoint_timeout(), self.flight.poll_timeout()].into_iter().flatten().min()
    }

    /// Sends a close alert, if the remote has keys to authenticate it with.
    pub fn close(&mut self, now: Instant, outbox: &mut Outbox) {
        self.flight.clear();
        if self.is_established() {
            // Closing has no error; what it queues is sent below.
            let _ = self.endpoint.close(now);
            self.drain(now, outbox);
        }
    }

    fn is_established(&self) -> bool {
        matches!(self.phase, Phase::Established(_))
    }

    fn connect(&mut self, now: Instant, outbox: &mut Outbox) {
        // A fresh endpoint refuses only a port 0, or has no randomness; then nothing is sent, and
        // the peer's deadline ends it.
        let _ = self.endpoint.connect(now, TUNNEL, Arc::clone(&self.config), None);
        self.drain(now, outbox);
    }

    fn endpoint_timeout(&self) -> Option<Instant> {
        let at = self.endpoint.poll_timeout(&TUNNEL)?;
        let wait = FLIGHT_INTERVAL * (1 << self.repeats.min(MOST_ENDPOINT_REPEATS));
        (self.repeats < MOST_ENDPOINT_REPEATS).then(|| at.max(self.repeated + wait))
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that may grow")]
    fn event(&mut self, event: &EndpointEvent) -> Option<DtlsEvent> {
        match event {
            EndpointEvent::HandshakeComplete => Some(self.complete()),
            EndpointEvent::PeerClosed => Some(DtlsEvent::Closed(CloseReason::ClosedByRemote)),
            _ => None,
        }
    }

    fn complete(&mut self) -> DtlsEvent {
        let Phase::Handshaking(path) = self.phase else {
            // Without a path nothing was sent, so the handshake cannot be complete.
            return DtlsEvent::Closed(CloseReason::HandshakeFailed);
        };
        if !self.verdict.is_match() {
            return DtlsEvent::Closed(CloseReason::FingerprintMismatch);
        }
        self.phase = Phase::Established(path);
        self.endpoint.set_server_config(None);
        match self.role {
            DtlsRole::Client => self.flight.clear(),
            DtlsRole::Server => self.flight.is_last(),
        }
        let keys = self.endpoint.get_connection_state(TUNNEL).and_then(SrtpKeys::export);
        match keys {
            Some(keys) => DtlsEvent::Established(Box::new(keys)),
            None => DtlsEvent::Closed(CloseReason::HandshakeFailed),
        }
    }

    /// Sends what the endpoint has; until the handshake is complete it is also our latest flight.
    fn drain(&mut self, now: Instant, outbox: &mut Outbox) {
        let mut datagrams = Vec::new();
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let mut datagram = transmit.message;
            // Strangers can provoke an unencrypted alert, which ends the handshake at the remote.
            if datagram.first() == Some(&ALERT) && !self.is_established() {
                continue;
            }
            renumber(&mut datagram, &mut self.next_number);
            datagrams.push(datagram);
        }
        let is_flight = datagrams
            .first()
            .and_then(|datagram| datagram.first())
            .is_some_and(|kind| matches!(*kind, HANDSHAKE | CHANGE_CIPHER_SPEC));
        if let Phase::Handshaking(path) | Phase::Established(path) = self.phase {
            for datagram in &datagrams {
                outbox.push(path, datagram.clone());
            }
        }
        if is_flight && !self.is_established() {
            (self.repeats, self.repeated) = (0, now);
            self.flight.replace(datagrams, now);
        }
    }

    fn repeat(&mut self, now: Instant, outbox: &mut Outbox) {
        if let Phase::Handshaking(path) | Phase::Established(path) = self.phase {
            for datagram in self.flight.handle_timeout(now, &mut self.next_number) {
                outbox.push(path, datagram);
            }
        }
    }
}

fn endpoint(role: DtlsRole, config: &Arc<HandshakeConfig>) -> Endpoint {
    let server_config = (role == DtlsRole::Server).then(|| Arc::clone(config));
    Endpoint::new(TUNNEL, TransportProtocol::UDP, server_config)
}

/// The result of the certificate check, which runs deep inside the endpoint.
#[derive(Default)]
struct Verdict(AtomicU8);

impl Verdict {
    const MATCH: u8 = 1;
    const MISMATCH: u8 = 2;

    fn verifier(
        self: &Arc<Self>,
        crypto: Arc<dyn RTCCryptoProvider>,
        expected: Vec<Fingerprint>,
    ) -> VerifyPeerCertificateFn {
        let verdict = Arc::clone(self);
        Arc::new(move |certificates: &[Vec<u8>], _: &[_]| {
            let shown = certificates.first().and_then(|der| fingerprint_of(crypto.as_ref(), der));
            if shown.is_some_and(|shown| expected.contains(&shown)) {
                verdict.0.store(Self::MATCH, Ordering::Relaxed);
                return Ok(());
            }
            verdict.0.store(Self::MISMATCH, Ordering::Relaxed);
            Err(Error::ErrNoMatchingCertificateFingerprint)
        })
    }

    fn is_match(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::MATCH
    }

    fn is_mismatch(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::MISMATCH
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: Path = Path { socket: TUNNEL, remote: TUNNEL };

    /// Which of the two ends are established, client and server, when one of them has these suites and the other ours.
    fn established(client: &[CipherSuiteId], server: &[CipherSuiteId]) -> [bool; 2] {
        let (identity, now) = (Identity::generate().unwrap(), Instant::now());
        let dtls =
            |suites, role| Dtls::with_suites(suites, &identity, role, vec![identity.fingerprint()], now).unwrap();
        let mut ends = [dtls(client, DtlsRole::Client), dtls(server, DtlsRole::Server)];
        let mut outboxes = [Outbox::default(), Outbox::default()];
        let mut is_up = [false; 2];
        for (end, outbox) in ends.iter_mut().zip(&mut outboxes).rev() {
            end.start(PATH, now, outbox);
        }
        for turn in 0..20 {
            let (from, to) = (turn % 2, (turn + 1) % 2);
            while let Some(transmit) = outboxes[from].pop() {
                let event = ends[to].receive(&transmit.data, now, &mut outboxes[to]);
                is_up[to] |= matches!(event, Ok(Some(DtlsEvent::Established(_))));
            }
        }
        is_up
    }

    #[test]
    fn suites_without_authenticated_encryption_are_neither_offered_nor_taken() {
        assert_eq!(established(&SUITES, &SUITES), [true, true]);
        for suite in [SUITES[0], SUITES[1]] {
            assert_eq!(established(&[suite], &SUITES), [true, true], "{suite}");
            assert_eq!(established(&SUITES, &[suite]), [true, true], "{suite}");
        }
        let cbc = [CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_256_Cbc_Sha];
        assert_eq!(established(&cbc, &cbc), [true, true], "the library can do it");
        assert_eq!(established(&cbc, &SUITES), [false, false]);
        assert_eq!(established(&SUITES, &cbc), [false, false]);
    }
}
