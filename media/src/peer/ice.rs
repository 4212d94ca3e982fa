//! ICE (RFC 8445): the agent of the webrtc project with our settings and guard.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc_ice::agent::agent_config::AgentConfig;
use rtc_ice::candidate::candidate_host::CandidateHostConfig;
use rtc_ice::candidate::{Candidate as IceCandidate, CandidateConfig};
use rtc_ice::mdns::MulticastDnsMode;
use rtc_ice::{Agent, Event};
use rtc_shared::{TransportContext, TransportMessage, TransportProtocol};
use sansio::Protocol;

use super::consent::{Consent, ConsentChange, ConsentWatch};
use super::outbox::Outbox;
use super::stun::{StunKind, request_transaction};
use super::stun_guard::StunGuard;
use super::{Identity, LocalAddress, PeerError};
use crate::sdp::Candidate;

/// Interval of checks. A remote that gets our answer late is connected up to two intervals later.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// RFC 7675 §5.1 requires a check every 4 to 6 s; at 2 s two lost checks do not yet cause a warning.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// The agent asks to be woken five times a second throughout. Once connected, once a second is enough.
const CONNECTED_REST: Duration = Duration::from_secs(1);
const ZERO: Duration = Duration::ZERO;

/// Limit of a remote's candidates, discovered ones included. More addresses only mean more checks.
const MOST_REMOTE_CANDIDATES: usize = 40;

/// What the remote's SDP says of its ICE.
#[derive(Clone, Copy)]
pub(super) struct Remote<'a> {
    pub ufrag: &'a str,
    pub pwd: &'a str,
    pub is_lite: bool,
}

/// The selected pair of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    /// The local socket.
    pub socket: SocketAddr,
    /// The remote address.
    pub remote: SocketAddr,
}

pub(super) struct Ice {
    agent: Agent,
    guard: Option<StunGuard>,
    remote_is_lite: bool,
    consent: Consent,
    selected: Option<Selected>,
    deadline: Option<Instant>,
    woken: Instant,
}

struct Selected {
    path: Path,
    watch: ConsentWatch,
    round_trip: Option<Duration>,
}

impl Ice {
    pub fn new(
        identity: &Identity,
        addresses: &[LocalAddress],
        consent: Consent,
        now: Instant,
    ) -> Result<Ice, PeerError> {
        let config = AgentConfig {
            multicast_dns_mode: MulticastDnsMode::Disabled,
            // The agent never gives up by itself: the consent watch and the call's deadlines do.
            disconnected_timeout: Some(ZERO),
            failed_timeout: Some(ZERO),
            keepalive_interval: Some(KEEPALIVE_INTERVAL),
            check_interval: CHECK_INTERVAL,
            max_binding_requests: Some(u16::MAX),
            host_acceptance_min_wait: Some(ZERO),
            srflx_acceptance_min_wait: Some(ZERO),
            prflx_acceptance_min_wait: Some(ZERO),
            relay_acceptance_min_wait: Some(ZERO),
            ..AgentConfig::default()
        };
        let mut agent =
            Agent::new(now, Arc::new(config), Arc::clone(&identity.crypto)).map_err(|_| PeerError::Crypto)?;
        for (index, local) in addresses.iter().enumerate() {
            let priority = Candidate::host_priority(index);
            let candidate = host(local.socket, priority).ok_or(PeerError::BadAddress)?;
            agent.add_local_candidate(candidate).map_err(|_| PeerError::BadAddress)?;
        }
        Ok(Ice { agent, guard: None, remote_is_lite: false, consent, selected: None, deadline: None, woken: now })
    }

    pub fn ufrag(&self) -> &str {
        &self.agent.get_local_credentials().ufrag
    }

    pub fn pwd(&self) -> &str {
        &self.agent.get_local_credentials().pwd
    }

    /// Starts the checks. The offerer controls, unless the remote is lite.
    pub fn start(
        &mut self,
        identity: &Identity,
        remote: Remote<'_>,
        candidates: &[Candidate],
        we_offered: bool,
        now: Instant,
    ) -> Result<(), PeerError> {
        let guard = StunGuard::new(&identity.crypto, (self.ufrag(), self.pwd()), (remote.ufrag, remote.pwd))?;
        self.guard = Some(guard);
        self.remote_is_lite = remote.is_lite;
        self.add_candidates(candidates);
        let (ufrag, pwd) = (remote.ufrag.to_owned(), remote.pwd.to_owned());
        self.agent
            .start_connectivity_checks(now, we_offered || remote.is_lite, ufrag, pwd)
            .map_err(|_| PeerError::Crypto)?;
        self.deadline = self.agent.poll_timeout();
        Ok(())
    }

    /// Adds addresses of the remote. A candidate that the agent refuses is one path less.
    pub fn add_candidates(&mut self, candidates: &[Candidate]) {
        for candidate in candidates {
            if self.agent.get_remote_candidates().len() >= MOST_REMOTE_CANDIDATES {
                return;
            }
            if let Some(candidate) = host(candidate.address, candidate.priority) {
                let _ = self.agent.add_remote_candidate(candidate);
            }
        }
        self.deadline = self.agent.poll_timeout();
    }

    /// Whether these are the remote's credentials of this session.
    pub fn is_with(&self, ufrag: &str, pwd: &str) -> bool {
        self.agent.get_remote_credentials().is_some_and(|remote| remote.ufrag == ufrag && remote.pwd == pwd)
    }

    /// Whether a STUN message is signed with this session's passwords.
    pub fn is_authentic(&mut self, datagram: &[u8]) -> bool {
        self.guard.as_mut().is_some_and(|guard| guard.authenticate(datagram).is_some())
    }

    /// Takes a STUN message; `false` when it is refused.
    pub fn receive(&mut self, path: Path, datagram: &[u8], now: Instant, outbox: &mut Outbox) -> bool {
        let Some(message) = self.guard.as_mut().and_then(|guard| guard.admit(path.remote, datagram)) else {
            return false;
        };
        if let Some(selected) = &mut self.selected
            && message.kind == StunKind::Success
            && selected.path.remote == path.remote
            && let Some(round_trip) = selected.watch.answered(&message.transaction, now)
        {
            selected.round_trip = Some(round_trip);
        }
        let taken = self.agent.handle_read(TransportMessage {
            now,
            transport: TransportContext {
                local_addr: path.socket,
                peer_addr: path.remote,
                transport_protocol: TransportProtocol::UDP,
                ecn: None,
            },
            message: BytesMut::from(datagram),
        });
        self.settle(now, outbox);
        taken.is_ok()
    }

    /// Sends the checks that are due.
    pub fn handle_timeout(&mut self, now: Instant, outbox: &mut Outbox) {
        if self.ice_deadline().is_some_and(|deadline| deadline <= now) {
            self.woken = now;
            // The agent's only error here would be mDNS, which is off.
            let _ = self.agent.handle_timeout(now);
            self.settle(now, outbox);
        }
    }

    /// Nothing was read for `gap`, through no fault of the remote.
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        if let Some(selected) = &mut self.selected {
            selected.watch.shift_deadlines(gap, now);
        }
    }

    /// Returns each change once: the remote falls silent, answers again, or is given up.
    pub fn consent(&mut self, now: Instant) -> Option<ConsentChange> {
        self.selected.as_mut()?.watch.handle_timeout(now)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let consent = self.selected.as_ref().map(|selected| selected.watch.poll_timeout());
        [self.ice_deadline(), consent].into_iter().flatten().min()
    }

    /// The selected path. It never changes once set.
    pub fn path(&self) -> Option<Path> {
        self.selected.as_ref().map(|selected| selected.path)
    }

    /// Whether the remote has proven to be at this address.
    pub fn is_proven(&self, address: SocketAddr) -> bool {
        self.guard.as_ref().is_some_and(|guard| guard.is_proven(address))
    }

    pub fn round_trip(&self) -> Option<Duration> {
        self.selected.as_ref()?.round_trip
    }

    fn ice_deadline(&self) -> Option<Instant> {
        let deadline = self.deadline?;
        match self.selected {
            Some(_) => Some(deadline.max(self.woken + CONNECTED_REST)),
            None => Some(deadline),
        }
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that may grow")]
    fn settle(&mut self, now: Instant, outbox: &mut Outbox) {
        while let Some(tagged) = self.agent.poll_event() {
            match tagged.event {
                Event::SelectedCandidatePairChange(local, remote) if self.selected.is_none() => {
                    self.selected = Some(Selected {
                        path: Path { socket: local.base_addr(), remote: remote.addr() },
                        watch: ConsentWatch::new(self.consent, now),
                        round_trip: None,
                    });
                }
                // A lite remote cannot control: the role stays ours.
                Event::RoleChange(false) if self.remote_is_lite => self.agent.set_role(true),
                _ => {}
            }
        }
        while let Some(message) = self.agent.poll_write() {
            let remote = message.transport.peer_addr;
            if let Some(selected) = &mut self.selected
                && selected.path.remote == remote
                && let Some(transaction) = request_transaction(&message.message)
            {
                selected.watch.sent(transaction, now);
            }
            let path = Path { socket: message.transport.local_addr, remote };
            outbox.push(path, message.message);
        }
        self.deadline = self.agent.poll_timeout();
    }
}

fn host(address: SocketAddr, priority: u32) -> Option<IceCandidate> {
    CandidateHostConfig {
        base_config: CandidateConfig {
            network: "udp".to_owned(),
            address: address.ip().to_string(),
            port: address.port(),
            component: 1,
            priority,
            ..CandidateConfig::default()
        },
        ..CandidateHostConfig::default()
    }
    .new_candidate_host()
    .ok()
}
