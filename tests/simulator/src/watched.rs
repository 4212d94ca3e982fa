//! Watched: shared state on which tests wait without polling.

use std::ops::{Deref, DerefMut};
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// State behind a lock. Each change wakes those who wait for one.
#[derive(Debug, Default)]
pub(crate) struct Watched<T> {
    value: Mutex<T>,
    changed: Notify,
}

/// The locked state. If it was borrowed mutably, its drop wakes the waiters.
pub(crate) struct WatchedGuard<'w, T> {
    value: MutexGuard<'w, T>,
    changed: &'w Notify,
    is_changed: bool,
}

impl<T> Watched<T> {
    pub fn lock(&self) -> WatchedGuard<'_, T> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        WatchedGuard { value, changed: &self.changed, is_changed: false }
    }

    /// Waits until `look` finds something. The caller sets the deadline.
    pub async fn wait<R>(&self, mut look: impl FnMut(&T) -> Option<R>) -> R {
        loop {
            // Registered before the look, so that a change in between is not missed.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let found = look(&self.lock());
            if let Some(found) = found {
                return found;
            }
            changed.await;
        }
    }
}

impl<T> Deref for WatchedGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for WatchedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.is_changed = true;
        &mut self.value
    }
}

impl<T> Drop for WatchedGuard<'_, T> {
    fn drop(&mut self) {
        if self.is_changed {
            self.changed.notify_waiters();
        }
    }
}
