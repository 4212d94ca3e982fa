//! A session beside a worker whose part the test plays.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::*;
use crate::call::AnswerWhen;
use crate::call::route::{BargeIn, Route};
use crate::call::snapshot::Standing;
use crate::store::tests::Folder;
use crate::whatsapp::graph::{self, GraphOptions};
use crate::whatsapp::webhook::{self, Notice};

const CONNECT: &[u8] = include_bytes!("../../../tests/fixtures/whatsapp/webhook-connect-user-initiated-2025-10.json");

#[tokio::test]
async fn a_call_whose_sound_breaks_ends_as_our_own_mistake() -> anyhow::Result<()> {
    let folder = Folder::new();
    // A Meta that never answers.
    let meta = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let (worker, mut commands) = WorkerHandle::played();
    let options = options(&folder, &format!("http://{}", meta.local_addr()?))?;
    let mut events = options.events.subscribe();
    let (standing, _) = watch::channel(Standing::new());
    let connect = connect();
    let number = Arc::new(number(&connect));
    let session = Session::new(CallId::generate(), connect, number, worker, &options, standing, Instant::now());
    let (_inputs, inbox) = mpsc::channel(1);
    let session = tokio::spawn(session.run(inbox, None));

    let Some(Command::Answer(answer)) = commands.recv().await else { panic!("a call begins with its offer") };
    answer.reports.send(Report::Broken).await?;
    let Some(Command::Release { reason, reply, .. }) = commands.recv().await else { panic!("a broken call is over") };
    assert_eq!(reason, "internal_error");
    reply.send(json!({})).expect("the session waits for its figures");
    let ended = loop {
        let event = events.recv().await?;
        if event.kind == "call.ended" {
            break event;
        }
    };
    assert_eq!((&ended.data["reason"], &ended.data["fault"]), (&"internal_error".into(), &"patchcord".into()));
    session.abort();
    Ok(())
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
        stops: vec![Stop::Prompts { names: vec!["goodbye".to_owned()], repeat: true }],
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
        route: Arc::new(route),
    }
}

fn options(folder: &Folder, graph_url: &str) -> anyhow::Result<CallsOptions> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let long = Duration::from_secs(600);
    let http = graph::client_settings(reqwest::Client::builder()).build()?;
    Ok(CallsOptions {
        settings: CurrentSettings::default(),
        max_calls: 1,
        session: SessionOptions {
            // A call that does not end by what the test does ends by this, with another reason.
            accept_timeout: Duration::from_secs(10),
            media_timeout: long,
            agent_timeout: long,
            max_duration: long,
            max_buffer: long,
            prompts: PromptLibrary::load(Path::new("nowhere"))?,
            agents: AgentBook::default(),
            http: http.clone(),
        },
        graph: GraphClient::new(http, GraphOptions::new(graph_url.parse()?, "v26.0")),
        workers: Vec::new(),
        events: broadcast::channel(16).0,
        store: Store::open(folder.options())?,
    })
}
