//! The events that a reader has missed: from the store up to the live ones, without a gap or a duplicate.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use axum::http::StatusCode;

use super::super::stored;
use crate::http::error::ApiError;
use crate::store::{Store, StoreError, StoredEvent};

/// Events in one page.
const PAGE: usize = 256;
/// Deadline for one page, and for earlier events to be written.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Ids of events sent from the store that are remembered: as many as can wait for a reader.
const REMEMBERED: usize = 4096;

/// The transition from a past event to the live ones.
///
/// First the store is read to its end. Then the reader subscribes to live events, and events published before that
/// moment are read as soon as they are written. An event that arrives both ways is recognised by its id.
pub(super) struct Past {
    store: Store,
    position: i64,
    /// Whether live events already queue for the reader.
    pub(super) is_joined: bool,
}

/// Events sent from the store that may also arrive live.
#[derive(Default)]
pub(super) struct Told {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Past {
    /// From the event after this one on.
    pub(super) async fn after(store: &Store, id: &str) -> Result<Self, ApiError> {
        let ulid = id.strip_prefix("evt_").filter(|ulid| ulid::Ulid::from_string(ulid).is_ok());
        ulid.ok_or_else(|| ApiError::new(StatusCode::BAD_REQUEST, "invalid_after", "after: give the id of an event"))?;
        let mut position = stored(store.event_position(id)).await?;
        if position.is_none() {
            // It may have been sent live before it was written.
            stored(store.flush()).await?;
            position = stored(store.event_position(id)).await?;
        }
        let position = position.ok_or_else(|| {
            ApiError::new(
                StatusCode::GONE,
                "event_not_kept",
                "this event has expired or does not exist: read the calls again, and open this without after",
            )
        })?;
        Ok(Self { store: store.clone(), position, is_joined: false })
    }

    /// The next page; one that is not full is the last. Cancel-safe.
    pub(super) async fn read(&self) -> Result<Vec<StoredEvent>, StoreError> {
        let read = async {
            if self.is_joined {
                self.store.flush().await?;
            }
            self.store.events_after(self.position, PAGE).await
        };
        tokio::time::timeout(READ_WITHIN, read).await.unwrap_or(Err(StoreError::TimedOut))
    }

    /// Moves on past this page; whether there is more.
    pub(super) fn passed(&mut self, page: &[StoredEvent]) -> bool {
        self.position = page.last().map_or(self.position, |last| last.position);
        page.len() == PAGE
    }
}

impl Told {
    pub(super) fn insert(&mut self, id: String) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        self.ids.insert(id.clone());
        self.order.push_back(id);
    }

    /// Whether this event was sent already; each arrives again at most once.
    pub(super) fn take(&mut self, id: &str) -> bool {
        self.ids.remove(id)
    }
}
