//! ConnectionLimits: how many connections phones may open to us, before and after they have proven who they are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections that have brought nothing of ours yet, in all and from one address. One more is closed at once.
const MAX_UNPROVEN: usize = 512;
const MAX_UNPROVEN_PER_ADDRESS: usize = 16;
/// Connections of registered phones and of calls, in all and from one address, which may be an office's.
const MAX_PROVEN: usize = 4096;
const MAX_PROVEN_PER_ADDRESS: usize = 1024;

/// The connections of a user agent. Clones share the counts.
#[derive(Clone, Default)]
pub(super) struct ConnectionLimits(Arc<Mutex<HashMap<IpAddr, Counts>>>);

#[derive(Clone, Copy, Default)]
struct Counts {
    unproven: usize,
    proven: usize,
}

/// One connection, counted until this is dropped.
pub(super) struct ConnectionPermit {
    limits: ConnectionLimits,
    ip: IpAddr,
    is_proven: bool,
}

impl ConnectionLimits {
    /// For a connection whose other end has proven nothing yet. None if there are too many of these.
    pub fn take(&self, ip: IpAddr) -> Option<ConnectionPermit> {
        let mut taken = self.locked();
        let all: usize = taken.values().map(|taken| taken.unproven).sum();
        let here = taken.get(&ip).copied().unwrap_or_default();
        if all >= MAX_UNPROVEN || here.unproven >= MAX_UNPROVEN_PER_ADDRESS {
            return None;
        }
        taken.entry(ip).or_default().unproven += 1;
        Some(ConnectionPermit { limits: self.clone(), ip, is_proven: false })
    }

    /// The lock is held for a count only, and the map is valid at every step.
    fn locked(&self) -> MutexGuard<'_, HashMap<IpAddr, Counts>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionPermit {
    pub fn is_proven(&self) -> bool {
        self.is_proven
    }

    /// The connection's other end has proven who it is. False if there is no room for one more of these.
    pub fn become_proven(&mut self) -> bool {
        let mut taken = self.limits.locked();
        let all: usize = taken.values().map(|taken| taken.proven).sum();
        let here = taken.entry(self.ip).or_default();
        if all >= MAX_PROVEN || here.proven >= MAX_PROVEN_PER_ADDRESS {
            return false;
        }
        here.unproven -= 1;
        here.proven += 1;
        self.is_proven = true;
        true
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let mut taken = self.limits.locked();
        if let Some(here) = taken.get_mut(&self.ip) {
            match self.is_proven {
                true => here.proven -= 1,
                false => here.unproven -= 1,
            }
            if here.proven + here.unproven == 0 {
                taken.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_connections_are_unproven_and_one_that_proves_itself_makes_room() {
        let limits = ConnectionLimits::default();
        let address = |number: u32| IpAddr::from((0xc000_0200 + number).to_be_bytes());
        let mut taken: Vec<ConnectionPermit> = (0..16).map(|_| limits.take(address(1)).unwrap()).collect();
        assert!(limits.take(address(1)).is_none());
        assert!(taken[0].become_proven() && taken[0].is_proven());
        taken.push(limits.take(address(1)).unwrap());
        let others: Vec<Option<ConnectionPermit>> = (0..600).map(|number| limits.take(address(number + 2))).collect();
        assert_eq!(others.iter().flatten().count(), MAX_UNPROVEN - 16);
        drop((taken, others));
        assert!(limits.locked().is_empty());
    }
}
