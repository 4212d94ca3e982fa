//! Recovery after a crash: calls of the previous process that cannot be answered any more are ended at Meta, in the store
//! and for the app.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tracing::{info, warn};

use super::terminations::Terminations;
use crate::call::end::EndReason;
use crate::call::event::{CallEvent, CallId, Figures, Stages, ended_data};
use crate::call::signaling::Signaling;
use crate::clock;
use crate::recordings::{RecordingId, RecordingResult, Recordings};
use crate::store::{CallRecord, EventRecord, RecordingFilter, Store, Termination, TerminationAction};

/// Calls and recordings read at once.
const PAGE: usize = 1000;
/// Calls ended at once.
const AT_ONCE: usize = 32;
/// For the records to be written before the ends are published.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// Ends the calls of an earlier process.
#[derive(Clone)]
pub struct Recovery {
    /// Holds the calls.
    pub store: Store,
    /// Ends calls at Meta, with retries.
    pub terminations: Terminations,
    /// The recordings, if the folder can be used.
    pub recordings: Option<Recordings>,
    /// Calls that are answered now, and so are not ended.
    pub resumed: Arc<HashSet<String>>,
    /// Recordings that were closed at this start.
    pub closed: Arc<Vec<RecordingResult>>,
}

impl Recovery {
    /// Ends each of them once. The app gets the ends before Meta confirms them.
    pub async fn run(self) {
        for recording in self.closed.iter() {
            self.store.recording_finished(recording);
        }
        let mut ended = 0;
        let mut last: Option<String> = None;
        loop {
            let lost = match self.store.unfinished_calls(last.as_deref(), PAGE).await {
                Ok(lost) => lost,
                Err(error) => return warn!("calls of an earlier run cannot be read: {error}"),
            };
            let Some(call) = lost.last() else { break };
            last = Some(call.call_id.clone());
            ended += self.end_all(lost).await;
        }
        if ended == 0 {
            return;
        }
        info!("{ended} calls of an earlier run are ended");
        if tokio::time::timeout(WRITTEN_WITHIN, self.store.flush()).await.is_err() {
            warn!("the ends of calls of an earlier run are not written yet");
        }
    }

    /// Returns how many.
    async fn end_all(&self, lost: Vec<CallRecord>) -> usize {
        let lost = lost.into_iter().filter(|call| !self.resumed.contains(&call.call_id));
        let (mut ending, mut count) = (JoinSet::new(), 0);
        for call in lost {
            if ending.len() >= AT_ONCE {
                ending.join_next().await;
            }
            count += 1;
            ending.spawn(self.clone().end(call));
        }
        while ending.join_next().await.is_some() {}
        self.terminations.wake();
        count
    }

    async fn end(self, mut call: CallRecord) {
        let untold = self.untold_recordings(&call).await;
        let mut sequence = match self.store.last_sequence(&call.call_id).await {
            Ok(sequence) => sequence,
            Err(error) => return warn!("the events of a call of an earlier run cannot be read: {error}"),
        };
        let Some(id) = CallId::parse(&call.call_id) else { return };
        let client_state = call.client_state.clone();
        let mut next_event = |kind, data| {
            sequence += 1;
            EventRecord::of(&CallEvent::new(id.clone(), sequence, kind, client_state.clone(), data, clock::wall()))
        };
        for recording in untold {
            // The store counts and logs an event that finds no room.
            let _ = self.store.event(next_event("call.recording_finished", json!(recording)));
        }
        let reason = EndReason::ServiceLost;
        let stages = Stages { ended: clock::wall().duration_since(call.began_at).ok(), ..Stages::default() };
        let terminate_at_meta = (call.signaling == Signaling::External).then_some(true);
        let figures = Figures { usage: &call.usage, ..Figures::NONE };
        let told = next_event("call.ended", ended_data(&reason, &stages, figures, terminate_at_meta));
        call.may_be_at_meta = call.is_placed_by_us() && call.description.wacid.is_none();
        call.end(&reason, &stages, &Value::Null);
        self.tell_meta(&call);
        // The store counts and logs its trouble.
        let _ = self.store.call_ended(call, told, WRITTEN_WITHIN).confirmed().await;
        metrics::counter!("patchcord_calls_total", "reason" => reason.name(), "fault" => reason.fault().name())
            .increment(1);
    }

    /// The results of the call's recordings that have no `call.recording_finished` yet.
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

    /// Stores the termination before the call's end is stored. A call that the app signals is ended by it.
    fn tell_meta(&self, call: &CallRecord) {
        if call.signaling == Signaling::External {
            return;
        }
        let Some(wacid) = call.description.wacid.clone() else { return };
        self.terminations.leave(Termination {
            call_id: call.call_id.clone(),
            wacid,
            phone_number_id: call.description.number.phone_number_id.clone(),
            // Meta may have an answer.
            action: TerminationAction::Terminate,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::call::description::CallDescription;
    use crate::settings::CurrentSettings;
    use crate::store::tests::Folder;
    use crate::whatsapp::graph::{self, GraphClient, GraphOptions};

    /// More than are read at once, and one that is answered now.
    #[tokio::test]
    async fn every_call_that_was_left_behind_is_ended() {
        const CALLS: usize = 2 * PAGE + 300;
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = Folder::new();
        let store = Store::open(folder.options()).unwrap();
        let mut last = String::new();
        for number in 0..CALLS {
            last = CallId::generate().as_str().to_owned();
            let wacid = Some(format!("wacid.{number}"));
            let description = CallDescription { wacid, ..CallDescription::default() };
            store.call_updated(CallRecord::new(&last, description, "reception", SystemTime::now()));
        }
        store.close().await;
        drop(store);

        let store = Store::open(folder.options()).unwrap();
        let http = graph::client_settings(reqwest::Client::builder()).build().unwrap();
        let graph = GraphClient::new(http, GraphOptions::new("http://127.0.0.1:9".parse().unwrap(), "v26.0"));
        let recovery = Recovery {
            store: store.clone(),
            terminations: Terminations::new(store.clone(), graph, CurrentSettings::default()),
            recordings: None,
            resumed: Arc::new(HashSet::from([last.clone()])),
            closed: Arc::default(),
        };
        recovery.run().await;
        let left = store.unfinished_calls(None, CALLS).await.unwrap();
        assert_eq!(left.into_iter().map(|call| call.call_id).collect::<Vec<_>>(), [last]);
        let queue = store.terminations(10, Duration::from_secs(60)).await.unwrap();
        assert_eq!((queue.waiting, queue.due.len()), (CALLS - 1, 10), "Meta is to be told of each");
    }
}
