//! The events that a reader has missed: from the store, up to those that happen now, without a gap and none twice.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use axum::http::StatusCode;

use super::super::stored;
use crate::http::error::ApiError;
use crate::store::{Store, StoreError, StoredEvent};

/// Events read at once.
const PAGE: usize = 256;
/// For one page, and for what was told before it to be written.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Ids remembered of what was told from the store: as many events as can wait for a reader.
const REMEMBERED: usize = 4096;

/// The way from an event in the past to those that happen now.
///
/// First the store is read to its end. Then the reader listens to what happens now, and what was told before that
/// moment is read as soon as it is written. What comes both ways is known by its id.
pub(super) struct Past {
    store: Store,
    position: i64,
    /// What happens now waits for the reader already.
    pub(super) is_joined: bool,
}

/// What was told from the store and may come again.
#[derive(Default)]
pub(super) struct Told {
    ids: HashSet<String>,
    order: VecDeque<String>,
}

impl Past {
    /// From the event after this one.
    pub(super) async fn after(store: &Store, id: &str) -> Result<Self, ApiError> {
        let ulid = id.strip_prefix("evt_").filter(|ulid| ulid::Ulid::from_string(ulid).is_ok());
        ulid.ok_or_else(|| ApiError::new(StatusCode::BAD_REQUEST, "invalid_after", "after: give the id of an event"))?;
        let mut position = stored(store.event_position(id)).await?;
        if position.is_none() {
            // It may have been told before it was written.
            stored(store.flush()).await?;
            position = stored(store.event_position(id)).await?;
        }
        let position = position.ok_or_else(|| {
            ApiError::new(
                StatusCode::GONE,
                "event_not_kept",
                "this event is not kept, or not any more: read the calls anew, and open this without after",
            )
        })?;
        Ok(Self { store: store.clone(), position, is_joined: false })
    }

    /// The next events; fewer than a whole page are the last. To be asked again after being cancelled.
    pub(super) async fn read(&self) -> Result<Vec<StoredEvent>, StoreError> {
        let read = async {
            if self.is_joined {
                self.store.flush().await?;
            }
            self.store.events_after(self.position, PAGE).await
        };
        tokio::time::timeout(READ_WITHIN, read).await.unwrap_or(Err(StoreError::TimedOut))
    }

    /// Moves on behind this page; says whether there is more.
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

    /// Whether this one was told; each comes again once at the most.
    pub(super) fn take(&mut self, id: &str) -> bool {
        self.ids.remove(id)
    }
}
