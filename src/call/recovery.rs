//! After a crash: calls that the last process left behind are ended at Meta, in the store and for the app.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::end::EndReason;
use super::event::{CallEvent, CallId, Stages, ended_data};
use super::route::Numbers;
use crate::recordings::{RecordingId, RecordingResult, Recordings};
use crate::store::{CallRecord, EventRecord, RecordingFilter, Store};
use crate::whatsapp::graph::{GraphClient, NumberCredentials};
use crate::whatsapp::{PhoneNumberId, WaCallId};

/// Calls read at once. A crash leaves at most as many as could live.
const PAGE: usize = 1000;
/// Meta is told of so many at once.
const AT_ONCE: usize = 32;
/// For the records to be written before the app learns of the ends.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// What it takes to end a call of an earlier process.
#[derive(Clone)]
pub struct Recovery {
    /// Where the calls stand.
    pub store: Store,
    /// Tells Meta.
    pub graph: GraphClient,
    /// Whose tokens to use.
    pub numbers: Numbers,
    /// Where recordings are, if the folder can be used.
    pub recordings: Option<Recordings>,
    /// Those that were closed at this start.
    pub closed: Arc<Vec<RecordingResult>>,
}

impl Recovery {
    /// Ends each of them, once. A call that cannot be ended at Meta is ended here all the same: Meta gives up on it by
    /// itself when no sound comes any more.
    pub async fn run(self) {
        for recording in self.closed.iter() {
            self.store.recording_finished(recording);
        }
        let lost = match self.store.unfinished_calls(PAGE).await {
            Ok(lost) => lost,
            Err(error) => return warn!("calls of an earlier run cannot be read: {error}"),
        };
        if lost.is_empty() {
            return;
        }
        info!("{} calls of an earlier run are ended", lost.len());
        let mut ending = JoinSet::new();
        for call in lost {
            if ending.len() >= AT_ONCE {
                ending.join_next().await;
            }
            ending.spawn(self.clone().end(call));
        }
        while ending.join_next().await.is_some() {}
        if tokio::time::timeout(WRITTEN_WITHIN, self.store.flush()).await.is_err() {
            warn!("the ends of calls of an earlier run are not written yet");
        }
    }

    async fn end(self, mut call: CallRecord) {
        self.tell_meta(&call).await;
        let untold = self.untold_recordings(&call).await;
        let mut sequence = match self.store.last_sequence(&call.call_id).await {
            Ok(sequence) => sequence,
            Err(error) => return warn!("the events of a call of an earlier run cannot be read: {error}"),
        };
        let Some(id) = CallId::parse(&call.call_id) else { return };
        let client_state = call.client_state.clone();
        let mut next_event = |kind, data| {
            sequence += 1;
            EventRecord::of(&CallEvent::new(id.clone(), sequence, kind, client_state.clone(), data))
        };
        for recording in untold {
            // What finds no room is counted and told by the store.
            let _ = self.store.event(next_event("call.recording_finished", json!(recording)));
        }
        let reason = EndReason::ServiceLost;
        let stages = Stages { ended: SystemTime::now().duration_since(call.began_at).ok(), ..Stages::default() };
        let told = next_event("call.ended", ended_data(&reason, &stages, &Value::Null));
        call.end(&reason, &stages, &Value::Null);
        self.store.call_ended(call, told);
        metrics::counter!("patchcord_calls_total", "reason" => reason.name(), "fault" => reason.fault().name())
            .increment(1);
    }

    /// What became of the call's recordings that had not ended, or of which nobody was told that they had.
    async fn untold_recordings(&self, call: &CallRecord) -> Vec<RecordingResult> {
        let of_call = RecordingFilter { call_id: Some(call.call_id.clone()), before: None, limit: PAGE };
        let known = self.store.recordings(of_call).await.unwrap_or_default();
        let mut untold = Vec::new();
        for id in &call.recordings {
            if let Some(closed) = self.closed.iter().find(|closed| closed.id.as_str() == id) {
                untold.push(closed.clone());
                continue;
            }
            let is_growing = known.iter().any(|known| known.id == *id && known.finished.is_none());
            let Some(id) = RecordingId::parse(id).filter(|_| is_growing) else { continue };
            let result = match &self.recordings {
                Some(recordings) => recordings.look_up(id).await,
                None => RecordingResult::lost(id),
            };
            self.store.recording_finished(&result);
            untold.push(result);
        }
        untold
    }

    async fn tell_meta(&self, call: &CallRecord) {
        let number = PhoneNumberId::parse(&call.phone_number_id).ok().and_then(|id| self.numbers.get(&id));
        let wacid = call.wacid.as_deref().and_then(|wacid| WaCallId::parse(wacid).ok());
        let (Some(number), Some(wacid)) = (number, wacid) else {
            return warn!("call {} of an earlier run is of a number that is not configured any more", call.call_id);
        };
        let credentials = NumberCredentials {
            phone_number_id: number.phone_number_id.clone(),
            access_token: number.access_token.clone(),
        };
        if self.graph.terminate(&credentials, &wacid).await.is_err() {
            warn!("Meta could not be told that call {} of an earlier run is over", call.call_id);
        }
    }
}
