//! Places: how many connections phones may open to us, before and after they have shown who they are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Connections that have brought nothing of ours yet, in all and from one address. One more is closed at once.
const MAX_STRANGERS: usize = 512;
const MAX_STRANGERS_PER_ADDRESS: usize = 16;
/// Connections of registered phones and of calls, in all and from one address, which may be an office's.
const MAX_KNOWN: usize = 4096;
const MAX_KNOWN_PER_ADDRESS: usize = 1024;

/// The places of a user agent. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Places(Arc<Mutex<HashMap<IpAddr, Taken>>>);

#[derive(Clone, Copy, Default)]
struct Taken {
    strangers: usize,
    known: usize,
}

/// The place of one connection, until it is dropped.
pub(super) struct Place {
    places: Places,
    ip: IpAddr,
    is_known: bool,
}

impl Places {
    /// A place for a connection of a stranger.
    pub fn take(&self, ip: IpAddr) -> Option<Place> {
        let mut taken = self.locked();
        let all: usize = taken.values().map(|taken| taken.strangers).sum();
        let here = taken.get(&ip).copied().unwrap_or_default();
        if all >= MAX_STRANGERS || here.strangers >= MAX_STRANGERS_PER_ADDRESS {
            return None;
        }
        taken.entry(ip).or_default().strangers += 1;
        Some(Place { places: self.clone(), ip, is_known: false })
    }

    /// The lock is held for a count only, and the map is valid at every step.
    fn locked(&self) -> MutexGuard<'_, HashMap<IpAddr, Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// The connection's other end has shown who it is. False if there is no room for one more of these.
    pub fn become_known(&mut self) -> bool {
        let mut taken = self.places.locked();
        let all: usize = taken.values().map(|taken| taken.known).sum();
        let here = taken.entry(self.ip).or_default();
        if all >= MAX_KNOWN || here.known >= MAX_KNOWN_PER_ADDRESS {
            return false;
        }
        here.strangers -= 1;
        here.known += 1;
        self.is_known = true;
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.locked();
        if let Some(here) = taken.get_mut(&self.ip) {
            match self.is_known {
                true => here.known -= 1,
                false => here.strangers -= 1,
            }
            if here.known + here.strangers == 0 {
                taken.remove(&self.ip);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_have_few_places_and_who_is_known_gives_his_back() {
        let places = Places::default();
        let address = |number: u32| IpAddr::from((0xc000_0200 + number).to_be_bytes());
        let mut taken: Vec<Place> = (0..16).map(|_| places.take(address(1)).unwrap()).collect();
        assert!(places.take(address(1)).is_none());
        assert!(taken[0].become_known() && taken[0].is_known());
        taken.push(places.take(address(1)).unwrap());
        let others: Vec<Option<Place>> = (0..600).map(|number| places.take(address(number + 2))).collect();
        assert_eq!(others.iter().flatten().count(), MAX_STRANGERS - 16);
        drop((taken, others));
        assert!(places.locked().is_empty());
    }
}
