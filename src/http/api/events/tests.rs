use std::collections::HashMap;

use patchcord_media::source::DEFAULT_MAX_BUFFER;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::io::DuplexStream;
use tokio::sync::{Semaphore, broadcast};
use url::Url;

use super::super::ApiOptions;
use super::super::auth::{Keys, Shown};
use super::*;
use crate::agent::{AgentStatus, Instances};
use crate::browser::token::Tokens;
use crate::call::event::{CallEvent, CallId};
use crate::calls::media_sockets::MediaSockets;
use crate::calls::session::SessionOptions;
use crate::calls::terminations::Terminations;
use crate::calls::{Calls, CallsOptions};
use crate::config::api::{ApiKey, QueueScope};
use crate::permissions::{Permissions, PermissionsOptions};
use crate::prompts::PromptLibrary;
use crate::queues::QueuesHandle;
use crate::settings::{CurrentSettings, Settings};
use crate::store::tests::Folder;
use crate::store::{EventRecord, Store};
use crate::whatsapp::graph::{GraphClient, GraphOptions};

const KEY: &str = "patchcord_app_0";
/// Events that a reader may lag behind here.
const EVENTS: usize = 4;

struct Reader {
    socket: WebSocketStream<DuplexStream>,
    events: broadcast::Sender<CallEvent>,
    stop: watch::Sender<bool>,
    stream: tokio::task::JoinHandle<&'static str>,
    _folder: Folder,
}

/// A reader whose connection holds one event at the most.
async fn reader() -> Reader {
    let (events, _) = broadcast::channel(EVENTS);
    reader_of(events, None).await
}

async fn reader_of(events: broadcast::Sender<CallEvent>, past: Option<Past>) -> Reader {
    let (near, far) = tokio::io::duplex(512);
    let calls = events.subscribe();
    let (stop, stopping) = watch::channel(false);
    let server = WebSocketStream::from_raw_socket(near, Role::Server, None).await;
    let socket = WebSocketStream::from_raw_socket(far, Role::Client, None).await;
    let folder = Folder::new();
    let commands = Commands { api: nothing_behind(&events, &folder), caller: caller() };
    let receiver = Live::new(calls, commands.api.options.permissions.subscribe());
    let stream = tokio::spawn(EventStream::new(server, past, receiver, stopping, commands).run());
    Reader { socket, events, stop, stream, _folder: folder }
}

impl Reader {
    fn happen(&self, sequence: u64) {
        let event = CallEvent::new(
            CallId::generate(),
            sequence,
            "call.dtmf",
            None,
            json!({ "more": "x".repeat(200) }),
            std::time::SystemTime::now(),
        );
        self.events.send(event).unwrap();
    }

    /// The sequences of the events up to the end, and its code.
    async fn read(&mut self) -> (Vec<u64>, u16) {
        let mut sequences = Vec::new();
        loop {
            match self.socket.next().await.unwrap().unwrap() {
                Message::Text(text) => {
                    let event: Value = serde_json::from_str(&text).unwrap();
                    sequences.push(event["sequence"].as_u64().unwrap());
                }
                Message::Close(frame) => {
                    let code = frame.unwrap().code.into();
                    // Sends its half of the close.
                    while let Some(Ok(_)) = self.socket.next().await {}
                    return (sequences, code);
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn a_reader_that_lags_is_closed_and_what_it_got_has_no_gap() {
    let mut reader = reader().await;
    for sequence in 1..=100 {
        reader.happen(sequence);
        tokio::task::yield_now().await;
    }
    let (sequences, code) = reader.read().await;
    assert_eq!(code, TOO_SLOW);
    assert_eq!(sequences, (1..=sequences.len() as u64).collect::<Vec<_>>());
    assert!(sequences.len() < 100, "{}", sequences.len());
    assert_eq!(reader.stream.await.unwrap(), "the reader is too slow");
}

#[tokio::test]
async fn a_stop_tells_what_has_happened_and_then_says_goodbye() {
    let mut reader = reader().await;
    for sequence in 1..=EVENTS as u64 {
        reader.happen(sequence);
    }
    reader.stop.send_replace(true);
    assert_eq!(reader.read().await, (vec![1, 2, 3, 4], 1001));
    assert_eq!(reader.stream.await.unwrap(), "the service stops");
}

/// While events happen all the time, a reader comes back with an early one: it gets each event after it once, in the
/// order of its call.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_reader_that_comes_back_misses_nothing_and_gets_nothing_twice() {
    const CALLS: usize = 3;
    const EACH: u64 = 700;
    for _ in 0..5 {
        let folder = Folder::new();
        let store = Store::open(folder.options()).unwrap();
        let (events, _) = broadcast::channel(4096);
        let calls: Vec<CallId> = (0..CALLS).map(|_| CallId::generate()).collect();
        let (first, is_first) = tokio::sync::oneshot::channel();
        let mut first = Some(first);
        let happening = tokio::spawn({
            let (store, events, calls) = (store.clone(), events.clone(), calls.clone());
            async move {
                for sequence in 1..=EACH {
                    for call in &calls {
                        let event = CallEvent::new(
                            call.clone(),
                            sequence,
                            "call.dtmf",
                            None,
                            json!({}),
                            std::time::SystemTime::now(),
                        );
                        store.event(EventRecord::of(&event)).unwrap();
                        tokio::task::yield_now().await;
                        let _ = events.send(event.clone());
                        if let Some(first) = first.take() {
                            first.send(event.id).unwrap();
                        }
                    }
                }
            }
        });
        let after = is_first.await.unwrap();
        let past = Past::after(&store, &after).await.map_err(|error| error.detail).unwrap();
        let mut reader = reader_of(events, Some(past)).await;
        let mut seen: HashMap<String, u64> = HashMap::from([(calls[0].to_string(), 1)]);
        while (seen.values().sum::<u64>()) < CALLS as u64 * EACH {
            let message = tokio::time::timeout(Duration::from_secs(30), reader.socket.next()).await;
            let Message::Text(text) = message.unwrap().unwrap().unwrap() else { continue };
            let event: Value = serde_json::from_str(&text).unwrap();
            let last = seen.entry(event["call_id"].as_str().unwrap().to_owned()).or_default();
            *last += 1;
            assert_eq!(event["sequence"], *last, "{event}");
        }
        happening.await.unwrap();
        reader.stop.send_replace(true);
        assert_eq!(reader.read().await, (vec![], 1001));
    }
}

#[tokio::test]
async fn what_is_no_event_to_begin_after_is_told_before_the_socket_opens() {
    let folder = Folder::new();
    let store = Store::open(folder.options()).unwrap();
    for (id, status, code) in [
        ("", 400, "invalid_after"),
        ("17", 400, "invalid_after"),
        ("call_01k0000000000000000000000a", 400, "invalid_after"),
        ("evt_01k0000000000000000000000a", 410, "event_not_kept"),
    ] {
        let error = Past::after(&store, id).await.err().unwrap();
        assert_eq!((error.status.as_u16(), error.code), (status, code), "{id}");
    }
}

pub(crate) fn caller() -> Arc<Caller> {
    let sha256 = Sha256::digest(KEY).into();
    let key = ApiKey {
        id: "app".to_owned(),
        sha256,
        scopes: vec![Scope::CallsWrite],
        queues: QueueScope::default(),
        skills: Default::default(),
        expires: None,
        requests_per_second: 100,
    };
    let header = format!("Bearer {KEY}");
    let today = std::time::SystemTime::now();
    let settings = CurrentSettings::new(Settings { api_keys: vec![key], ..Settings::default() });
    let shown = Shown { authorization: Some(&header), from: None };
    Keys::new(settings, Vec::new()).admit(&shown, Scope::CallsWrite, Instant::now(), today).unwrap()
}

/// An API without calls, prompts and recordings.
fn nothing_behind(events: &broadcast::Sender<CallEvent>, folder: &Folder) -> Arc<Api> {
    // A second test in one process finds the provider installed, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let graph = GraphOptions::new(Url::parse("http://127.0.0.1:9").unwrap(), "v26.0");
    let store = Store::open(folder.options()).unwrap();
    let prompts = PromptLibrary::load(std::path::Path::new("/nonexistent")).unwrap();
    let settings = CurrentSettings::default();
    let graph = GraphClient::new(reqwest::Client::new(), graph);
    let queues = QueuesHandle::start([], &Arc::default()).0;
    let known = PermissionsOptions { settings: settings.clone(), graph: graph.clone(), store: store.clone() };
    let permissions = Permissions::new(known, Vec::new());
    let calls = Calls::new(CallsOptions {
        terminations: Terminations::new(store.clone(), graph.clone(), settings.clone()),
        settings: settings.clone(),
        max_calls: 0,
        session: SessionOptions {
            pulse: Arc::default(),
            accept_timeout: Duration::ZERO,
            media_timeout: Duration::ZERO,
            agent_timeout: Duration::ZERO,
            ring_timeout: Duration::ZERO,
            max_duration: Duration::ZERO,
            max_buffer: DEFAULT_MAX_BUFFER,
            prompts: prompts.clone(),
            http: reqwest::Client::new(),
            agents: AgentStatus::default(),
            queues: queues.clone(),
            media_sockets: MediaSockets::default(),
        },
        graph,
        workers: Vec::new(),
        events: events.clone(),
        store: store.clone(),
        permissions: permissions.clone(),
    });
    let options = ApiOptions {
        settings,
        calls,
        store,
        events: events.clone(),
        prompts,
        permissions,
        recordings: None,
        queues,
        instances: Instances::default(),
        webhooks: Vec::new(),
        stopping: watch::channel(false).1,
    };
    let (uploads, streams) = (Semaphore::new(1), Arc::new(Semaphore::new(1)));
    Arc::new(Api { options, uploads, agent_streams: streams.clone(), streams, tokens: Tokens::default() })
}
