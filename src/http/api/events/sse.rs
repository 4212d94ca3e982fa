//! `/v1/events` as server-sent events, for pages.

use tokio::sync::broadcast::error::RecvError;

use super::super::sse::SseWriter;
use super::live::{Live, LiveEvent};
use super::{Caller, Past, Told, read};
use crate::store::{StoreError, StoredEvent};

/// One reader of events.
pub(super) struct SseStream {
    pub(super) writer: SseWriter,
    /// Stored events still to be sent; None once the reader has caught up.
    pub(super) past: Option<Past>,
    pub(super) told: Told,
    pub(super) events: Live,
    pub(super) caller: std::sync::Arc<Caller>,
}

impl SseStream {
    /// Serves until the stream ends; gives the reason.
    pub(super) async fn run(mut self) -> &'static str {
        loop {
            let served = tokio::select! {
                biased;
                ticked = self.writer.tick() => ticked.and_then(|()| self.check_key()),
                page = read(&self.past), if self.past.is_some() => self.tell_past(page).await,
                event = self.events.recv(), if self.past.is_none() => self.tell(event).await,
            };
            if let Err(why) = served {
                return why;
            }
        }
    }

    fn check_key(&self) -> Result<(), &'static str> {
        if self.caller.is_known() { Ok(()) } else { Err("its key is no longer configured") }
    }

    async fn tell_past(&mut self, page: Result<Vec<StoredEvent>, StoreError>) -> Result<(), &'static str> {
        let page = page.map_err(|_| "the store cannot be read")?;
        for event in &page {
            self.writer.stored_event(&event.id, &event.body).await?;
            self.told.insert(event.id.clone());
        }
        super::pass(&mut self.past, &mut self.events, &page);
        Ok(())
    }

    async fn tell(&mut self, event: Result<LiveEvent, RecvError>) -> Result<(), &'static str> {
        match event {
            Ok(event) if self.told.take(event.id()) => Ok(()),
            Ok(event) => self.writer.live_event(event.id(), &event).await,
            Err(RecvError::Lagged(_)) => Err("the reader is too slow"),
            Err(RecvError::Closed) => Err("the service stops"),
        }
    }
}
