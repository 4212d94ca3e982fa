//! What changes a connection's path while it lives: candidates that come later (RFC 8838) and ICE restarts
//! (RFC 8445 §9), by which a browser that changed networks keeps its DTLS and SRTP session.

use std::time::Instant;

use super::ice::{Ice, Path, Remote};
use super::{Peer, PeerError, PeerEvent, PeerOptions};
use crate::sdp::{self, Candidate, Fragment};

/// The ICE session that credentials belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Session {
    /// It is in use, or about to be.
    InUse,
    /// It has just begun.
    Begun,
}

impl Peer {
    /// Takes a fragment of the remote. With the credentials that are in use its candidates are added, and there is no
    /// reply. With others ICE restarts: the reply is our own fragment, and sound goes the old way until the new one is
    /// found. `mid` names the media section, as the SDP did.
    ///
    /// After a restart [`Peer::local_ufrags`] gives one more name, until the old session is replaced.
    pub fn take_fragment(
        &mut self,
        options: &PeerOptions,
        fragment: &Fragment,
        mid: Option<&str>,
        now: Instant,
    ) -> Result<Option<String>, PeerError> {
        let remote = Remote { ufrag: &fragment.ufrag, pwd: &fragment.pwd, is_lite: false };
        if self.follow_remote(options, remote, &fragment.candidates, now)? == Session::InUse {
            return Ok(None);
        }
        let next = self.next_ice.as_deref();
        Ok(next.map(|ice| self.describe(options, ice, |local| sdp::write_fragment(local, mid))))
    }

    /// Adds the candidates of a session that is known, or begins a new one that is to replace it.
    pub(super) fn follow_remote(
        &mut self,
        options: &PeerOptions,
        remote: Remote<'_>,
        candidates: &[Candidate],
        now: Instant,
    ) -> Result<Session, PeerError> {
        if self.dtls.is_none() || self.closed.is_some() {
            return Err(PeerError::UnexpectedAnswer);
        }
        let candidates = self.allowed(candidates);
        let sessions = [Some(&mut self.ice), self.next_ice.as_deref_mut()];
        let current = sessions.into_iter().flatten().find(|ice| ice.is_with(remote.ufrag, remote.pwd));
        if let Some(ice) = current {
            ice.add_candidates(&candidates);
            self.deadline = self.next_deadline();
            return Ok(Session::InUse);
        }
        let mut ice = Ice::new(&self.identity, &options.addresses, options.consent, now)?;
        // The side that restarts controls, as the offerer does.
        ice.start(&self.identity, remote, &candidates, false, now)?;
        self.next_ice = Some(Box::new(ice));
        self.deadline = self.next_deadline();
        Ok(Session::Begun)
    }

    /// Our ICE user names: one, or two while ICE restarts (see [`stun_request_ufrag`](super::stun_request_ufrag)).
    pub fn local_ufrags(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.ice).chain(self.next_ice.as_deref()).map(Ice::ufrag)
    }

    /// Whether it was a message of the session that is to come.
    pub(super) fn receive_restarted(&mut self, path: Path, datagram: &[u8], now: Instant) -> bool {
        let Some(ice) = &mut self.next_ice else { return false };
        let is_taken = ice.is_authentic(datagram) && ice.receive(path, datagram, now, &mut self.outbox);
        self.take_over(now);
        is_taken
    }

    pub(super) fn drive_restart(&mut self, now: Instant) {
        if let Some(ice) = &mut self.next_ice {
            ice.handle_timeout(now, &mut self.outbox);
            self.take_over(now);
        }
    }

    /// The old session ends when the new one has its path.
    fn take_over(&mut self, now: Instant) {
        if let Some(next) = self.next_ice.take_if(|ice| ice.path().is_some()) {
            self.ice = *next;
            if let (Some(path), Some(dtls)) = (self.ice.path(), &mut self.dtls) {
                dtls.move_to(path);
            }
            // The new session's watch begins now; the old one may have missed answers.
            self.events.push_back(PeerEvent::ConsentRegained);
            self.follow_ice(now);
        }
    }
}
