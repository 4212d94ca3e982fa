//! A session beside a worker whose part the test plays.

use std::net::Ipv4Addr;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;
use patchcord_media::opus::{Profile, SampleRate};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::field::Field;
use tracing::{Metadata, Subscriber, span};

use super::*;
use crate::agent::{DialectName, Encoding, OfferFormat, SoundFormat};
use crate::call::AnswerWhen;
use crate::call::command::SoundCommand;
use crate::call::route::BargeIn;
use crate::calls::naming::Naming;
use crate::calls::origin::Placement;
use crate::calls::snapshot::CallStatus;
use crate::calls::table::SharedTable;
use crate::calls::terminations::Terminations;
use crate::permissions::{Permissions, PermissionsOptions};
use crate::routes::{AgentDefaults, PlacingLimits, Route};
use crate::store::tests::Folder;
use crate::whatsapp::graph::{self, Callee, GraphClient, GraphOptions};
use crate::whatsapp::webhook::{self, Connect, Notice};
use crate::worker::{Report, WorkerHandle};

const CONNECT: &[u8] = include_bytes!("../../../tests/fixtures/whatsapp/webhook-connect-user-initiated-2025-10.json");

#[tokio::test]
async fn a_call_whose_sound_breaks_ends_as_our_own_bug() -> anyhow::Result<()> {
    let mut played = Played::begin().await?;
    played.reports.send(Report::Broken).await?;
    played.released("internal_error").await.send(json!({})).expect("the session waits for its figures");
    played.ends_as_our_own_bug().await
}

/// A panic while the session logs.
#[tokio::test]
async fn a_call_whose_session_breaks_ends_as_our_own_bug() -> anyhow::Result<()> {
    let mut played = Played::begin().await?;
    let _breaking = tracing::subscriber::set_default(Breaking);
    played.reports.send(Report::MediaSilent(false)).await?;
    played.released("internal_error").await.send(json!({})).expect("the session waits for its figures");
    played.ends_as_our_own_bug().await
}

#[tokio::test]
async fn a_mistake_while_a_call_is_released_does_not_cost_it_its_end() -> anyhow::Result<()> {
    let mut played = Played::begin().await?;
    played.reports.send(Report::Broken).await?;
    let figures = played.released("internal_error").await;
    let _breaking = tracing::subscriber::set_default(Breaking);
    // Read behind the figures.
    played.reports.send(Report::MediaSilent(false)).await?;
    figures.send(json!({})).expect("the session waits for its figures");
    played.ends_as_our_own_bug().await
}

#[tokio::test]
async fn a_worker_that_does_not_answer_keeps_no_call() -> anyhow::Result<()> {
    let mut played = Played::begin().await?;
    // Neither for the offer nor for the release.
    played.ends_as_our_own_bug().await
}

/// An application that floods a call with commands does not delay its end.
#[tokio::test]
async fn an_end_reaches_a_call_whose_commands_are_full() -> anyhow::Result<()> {
    let mut played = Played::begin().await?;
    let mut replies = Vec::new();
    // The session cannot run before we wait.
    loop {
        let (reply, done) = oneshot::channel();
        let hold = AppCommand {
            command: SoundCommand::Hold(Default::default()).into(),
            targets: Vec::new(),
            client_state: None,
            reply,
        };
        let Some(Ok(())) = played.handle.command(hold).now_or_never() else { break };
        replies.push(done);
    }
    assert!(replies.len() > 10);
    assert!(played.handle.end(Input::Terminated { failed: false, error: None, picked_up: false }));
    assert!(!played.handle.end(Input::HangUp(EndReason::ShuttingDown)), "one end is enough");
    played.released("caller_gave_up").await.send(json!({})).expect("the session waits for its figures");
    assert_eq!(played.ended().await?["reason"], "caller_gave_up");
    Ok(())
}

/// Meta's webhooks may all arrive while the session is busy.
#[tokio::test]
async fn a_callee_who_declined_is_told_apart_although_the_end_is_there_too() -> anyhow::Result<()> {
    // Without an order, either would be read first by chance.
    for _ in 0..8 {
        let mut played = Played::placed().await?;
        assert!(played.handle.hear(Input::Declined));
        assert!(played.handle.end(Input::Terminated { failed: false, error: None, picked_up: false }));
        played.released("callee_declined").await.send(json!({})).expect("the session waits for its figures");
        assert_eq!(played.ended().await?["reason"], "callee_declined");
    }
    Ok(())
}

/// A session with a caller, on this thread.
struct Played {
    reports: mpsc::Sender<Report>,
    commands: mpsc::Receiver<Command>,
    events: broadcast::Receiver<CallEvent>,
    session: JoinHandle<()>,
    /// Asks a worker that never answers.
    first: Command,
    handle: SessionHandle,
    /// A Meta that never answers.
    _meta: TcpListener,
    _folder: Folder,
}

impl Played {
    async fn begin() -> anyhow::Result<Self> {
        let mut played = Self::of(Origin::Offered(Box::new(connect()))).await?;
        let Command::Answer(answer) = &played.first else { panic!("a call begins with its offer") };
        played.reports = answer.reports.clone();
        Ok(played)
    }

    async fn placed() -> anyhow::Result<Self> {
        let ring_timeout = Duration::from_secs(600);
        let placement = Placement { callee: Callee::WaId("12025550143".to_owned()), tracker: None, ring_timeout };
        Self::of(Origin::Placed(Box::new(placement))).await
    }

    async fn of(origin: Origin) -> anyhow::Result<Self> {
        let folder = Folder::new();
        let meta = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let (worker, mut commands) = WorkerHandle::played();
        let options = options(&folder, &format!("http://{}", meta.local_addr()?))?;
        let events = options.events.subscribe();
        let (status, _) = watch::channel(CallStatus::new(false));
        let number = Arc::new(number(&connect()));
        let new_call = NewCall {
            id: CallId::generate(),
            origin,
            number,
            worker,
            received_at: Instant::now(),
            began_at: SystemTime::now(),
            naming: Naming::new(SharedTable::default(), options.terminations.clone()),
        };
        let mut session = Session::new(new_call, &options, status);
        session.begin(false);
        let (handle, inbox) = Inbox::new();
        let session = tokio::spawn(session.run(inbox, None));
        let first = commands.recv().await.context("a call begins with a command")?;
        // Those of the first command take its place.
        let (reports, _) = mpsc::channel(1);
        Ok(Self { reports, commands, events, session, handle, first, _meta: meta, _folder: folder })
    }

    /// Gives the worker's side of its release.
    async fn released(&mut self, why: &str) -> oneshot::Sender<Value> {
        let release = self.commands.recv().await;
        let Some(Command::Release { reason, reply, .. }) = release else { panic!("the call is over") };
        assert_eq!(reason, why);
        reply
    }

    async fn ends_as_our_own_bug(&mut self) -> anyhow::Result<()> {
        let ended = self.ended().await?;
        assert_eq!((&ended["reason"], &ended["fault"]), (&"internal_error".into(), &"patchcord".into()));
        self.session.abort();
        Ok(())
    }

    /// The data of its last event.
    async fn ended(&mut self) -> anyhow::Result<Value> {
        loop {
            let event = self.events.recv().await?;
            if event.kind == "call.ended" {
                return Ok(event.data);
            }
        }
    }
}

/// Panics on the log line that media came back.
struct Breaking;

impl Subscriber for Breaking {
    fn event(&self, event: &tracing::Event<'_>) {
        event.record(&mut |_: &Field, value: &dyn std::fmt::Debug| {
            assert!(!format!("{value:?}").ends_with("again"), "a bug");
        });
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

fn connect() -> Connect {
    let notices = webhook::parse(CONNECT).unwrap();
    let Some(Notice::Connect(connect)) = notices.into_iter().next() else { panic!("the fixture holds a connect") };
    *connect
}

/// Its callers hear a prompt, so that no agent is needed.
fn number(connect: &Connect) -> Number {
    let route = Route {
        name: "reception".to_owned(),
        targets: vec![AgentTarget::Prompts { names: vec!["goodbye".to_owned()], repeat: true }],
        agents: AgentDefaults {
            dialect: DialectName::Native,
            format: SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz16000 },
            profile: Profile::Eco,
            repeat: true,
            offer_format: OfferFormat::default(),
        },
        agent_tls: None,
        answer: AnswerWhen::AgentReady,
        ringback: String::new(),
        hold: String::new(),
        record: false,
        decide: None,
        barge_in: BargeIn::Off,
    };
    Number {
        phone_number_id: connect.phone_number_id.clone().unwrap(),
        access_token: "token".into(),
        max_calls: None,
        placing: PlacingLimits::default(),
        route: Arc::new(route),
    }
}

fn options(folder: &Folder, graph_url: &str) -> anyhow::Result<CallsOptions> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let long = Duration::from_secs(600);
    let http = graph::client_settings(reqwest::Client::builder()).build()?;
    let graph = GraphClient::new(http.clone(), GraphOptions::new(graph_url.parse()?, "v26.0"));
    let (store, settings) = (Store::open(folder.options())?, CurrentSettings::default());
    let known = PermissionsOptions { settings: settings.clone(), graph: graph.clone(), store: store.clone() };
    Ok(CallsOptions {
        permissions: Permissions::new(known, Vec::new()),
        terminations: Terminations::new(store.clone(), graph.clone(), settings.clone()),
        settings,
        max_calls: 1,
        session: SessionOptions {
            // A call that does not end by what the test does ends by this, with another reason.
            accept_timeout: Duration::from_secs(10),
            media_timeout: long,
            agent_timeout: long,
            ring_timeout: Duration::ZERO,
            max_duration: long,
            max_buffer: long,
            prompts: PromptLibrary::load(Path::new("nowhere"))?,
            agents: AgentStatus::default(),
            queues: QueuesHandle::start([], &Arc::default()).0,
            media_sockets: MediaSockets::default(),
            http,
            pulse: Arc::default(),
        },
        graph,
        workers: Vec::new(),
        events: broadcast::channel(16).0,
        store,
    })
}
