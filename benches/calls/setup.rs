//! From the webhook to the first words.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use patchcord_media::peer::{Consent, Identity, LocalAddress, Peer, PeerOptions};
use patchcord_media::sdp::Offer;
use patchcord_simulator::{Agent, AgentOptions, Call, CallerOptions, Meta, MetaOptions, Reply, Stage, sound};

use crate::agent::Talk;
use crate::external;
use crate::scene::{Route, Scene};
use crate::service::{self, Service, ServiceOptions};
use crate::table::{Goal, Table, quantile};

const OFFER: &str = include_str!("../../tests/simulator/fixtures/sdp-offer-user-initiated-2026-10.sdp");
const ANSWERS: usize = 2_000;
const CALLS: usize = 250;
const CALLS_PER_SECOND: u32 = 50;
/// A call is hung up when so many came after it: about a second later.
const LIVE_CALLS: usize = 50;
const SIMULATED_CALLS: usize = 20;

/// The answer itself, the whole way from Meta's webhook to our `pre_accept`, and that of an app which signals.
pub async fn offer_to_answer() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let mut answers = answer_times()?;
    table.row("Peer::answer, p50", quantile(&mut answers, 0.5), "ms", Goal::Shown);
    table.row("Peer::answer, p99", quantile(&mut answers, 0.99), "ms", Goal::AtMost(1.0));
    let mut waits = pre_accept_times().await?;
    let came = format!("{} of {CALLS} calls at {CALLS_PER_SECOND} a second", waits.len());
    table.row("webhook written to pre_accept read, p50", quantile(&mut waits, 0.5), "ms", Goal::AtMost(5.0));
    table.row("webhook written to pre_accept read, p99", quantile(&mut waits, 0.99), "ms", Goal::AtMost(25.0));
    table.note(came);
    let mut waits = external::answer_times().await?;
    table.row("an app's offer written to our answer read, p50", quantile(&mut waits, 0.5), "ms", Goal::Shown);
    table.row("an app's offer written to our answer read, p99", quantile(&mut waits, 0.99), "ms", Goal::AtMost(5.0));
    Ok(table)
}

fn answer_times() -> anyhow::Result<Vec<f64>> {
    let address = "127.0.0.1:40000".parse()?;
    let options = PeerOptions {
        identity: Arc::new(Identity::generate()?),
        addresses: vec![LocalAddress { socket: address, advertised: address }],
        consent: Consent { warn_after: Duration::from_secs(5), fail_after: Duration::from_secs(30) },
        allow_private: true,
        ssrc: 1,
    };
    (0..ANSWERS)
        .map(|_| {
            let began = Instant::now();
            let offer = Offer::parse(OFFER)?;
            let answered = Peer::answer(&options, &offer, began)?;
            let took = began.elapsed();
            drop(answered);
            Ok(took.as_secs_f64() * 1e3)
        })
        .collect()
}

async fn pre_accept_times() -> anyhow::Result<Vec<f64>> {
    let mut scene = Scene::start(Route::Agent(Talk::Echo)).await?;
    // Connections to Meta and the allocator are warm after the first calls.
    scene.place(5, CALLS_PER_SECOND).await?;
    let (began, first) = (Instant::now(), scene.calls.len());
    for number in 0..CALLS {
        tokio::time::sleep_until((began + Duration::from_secs(1) * number as u32 / CALLS_PER_SECOND).into()).await;
        scene.place_one().await?;
        if number >= LIVE_CALLS {
            scene.hang_up(number - LIVE_CALLS).await?;
        }
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let waits = scene.calls[first..]
        .iter()
        .filter_map(|call| Some((call.pre_accept_at.get()? - call.posted_at.get()?).as_secs_f64() * 1e3));
    Ok(waits.collect())
}

/// From the moment the phone takes our checks until sound can flow.
pub async fn media_up() -> anyhow::Result<Table> {
    let mut table = Table::default();
    for delay in [Duration::ZERO, Duration::from_secs(3)] {
        let agent = Agent::start(AgentOptions::default()).await?;
        let scene = Simulated::start(&agent).await?;
        if !delay.is_zero() {
            let reply = Reply::Delay(delay, Box::new(Reply::Ok));
            scene.meta.script("pre_accept", vec![reply; SIMULATED_CALLS]);
        }
        let calls = scene.place(SIMULATED_CALLS, CallerOptions::default()).await?;
        let mut times = Vec::new();
        for call in &calls {
            let up = call.wait_until(Stage::MediaUp).await?;
            times.push((up - call.wait_until(Stage::PreAccepted).await?).as_secs_f64() * 1e3);
        }
        let figure = format!("pre_accept answered after {} s, media up after it", delay.as_secs());
        table.row(format!("{figure}, p50"), quantile(&mut times, 0.5), "ms", Goal::Shown);
        table.row(format!("{figure}, worst of {SIMULATED_CALLS}"), quantile(&mut times, 1.0), "ms", Goal::AtMost(60.0));
    }
    Ok(table)
}

/// From accept's 200 to the agent's voice at the phone, and whether a greeting said long before comes whole.
pub async fn first_words() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let tone = AgentOptions { greeting: sound::tone(1000.0, 16_000, 3_000), ..AgentOptions::default() };
    let agent = Agent::start(tone).await?;
    let scene = Simulated::start(&agent).await?;
    let calls = scene.place(SIMULATED_CALLS, CallerOptions::default()).await?;
    let mut times = Vec::new();
    for call in &calls {
        let heard = call.wait_until(Stage::FirstSound).await?;
        times.push((heard - call.wait_until(Stage::Accepted).await?).as_secs_f64() * 1e3);
    }
    table.row("accept's 200 to the first audible frame, p50", quantile(&mut times, 0.5), "ms", Goal::AtMost(20.0));
    table.row(
        format!("accept's 200 to the first audible frame, worst of {SIMULATED_CALLS}"),
        quantile(&mut times, 1.0),
        "ms",
        Goal::AtMost(20.0),
    );
    drop((calls, scene, agent));
    let (whole, of) = whole_greetings().await?;
    table.row(format!("greetings of {of} that came whole"), whole as f64, "", Goal::AtLeast(of as f64));
    Ok(table)
}

async fn whole_greetings() -> anyhow::Result<(usize, usize)> {
    const CALLS: usize = 5;
    let greeting = sound::agent_clip();
    let agent = Agent::start(AgentOptions { greeting: greeting.clone(), ..AgentOptions::default() }).await?;
    let scene = Simulated::start(&agent).await?;
    let calls = scene.place(CALLS, CallerOptions::default()).await?;
    let mut whole = 0;
    for call in &calls {
        call.wait_until(Stage::Accepted).await?;
        let heard = call.hear_for(Duration::from_millis(greeting.len() as u64 / 16 + 500)).await?;
        let found = sound::find(&greeting, &heard);
        whole += usize::from(found.similarity > 0.8 && sound::beginning_is_whole(&greeting, &heard));
    }
    Ok((whole, CALLS))
}

/// A service beside the simulator's Meta and its ICE-lite phones, for what a phone sees.
struct Simulated {
    meta: Meta,
    _service: Service,
}

impl Simulated {
    async fn start(agent: &Agent) -> anyhow::Result<Self> {
        let meta = Meta::start(MetaOptions::default()).await?;
        let account = meta.options();
        let service = Service::start(&ServiceOptions {
            graph_url: meta.graph_url(),
            app_secret: account.app_secret.clone(),
            phone_number_id: account.phone_number_id.clone(),
            access_token: account.access_token.clone(),
            route: service::to_agent(&agent.url(), "pcm_s16le"),
            sections: String::new(),
            refuses: false,
        })
        .await?;
        meta.set_webhook_url(format!("http://{}/webhooks/whatsapp", service.http));
        Ok(Self { meta, _service: service })
    }

    /// Places calls, ten a second, after one that warms everything up.
    async fn place(&self, count: usize, caller: CallerOptions) -> anyhow::Result<Vec<Call>> {
        let mut calls = Vec::new();
        for _ in 0..count {
            calls.push(self.meta.place_call(caller.clone()).await.context("place a call")?);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(calls)
    }
}
