//! Delay of audio in the service: of an interruption, and of a burst of tone in each direction.

use std::time::Duration;

use patchcord_media::opus::{Decoder, SILENCE, SampleRate};
use patchcord_simulator::Speech;

use crate::agent::Talk;
use crate::burst::{self, Onsets};
use crate::floor;
use crate::phone::{Arrival, Notes};
use crate::scene::{Route, Scene};
use crate::table::{Goal, Table, quantile};

const CALLS: usize = 10;
const PER_SECOND: u32 = 10;
const WINDOW: Duration = Duration::from_secs(8);
/// Calls that begin keep each other and the agents waiting, which leaves frames in queues. That an agent is live is
/// known after 2.5 s, when its frames best leave 2 s later, and that one stands in its queue for nothing 2 s after that.
const SETTLE: Duration = Duration::from_secs(8);
/// Packets within this time before and after a `clear` belong to it.
const AROUND: Duration = Duration::from_millis(100);
/// A burst that is not heard within this time is lost.
const HEARD_WITHIN: Duration = Duration::from_millis(200);
const FRAME_MS: f64 = 20.0;

/// From the agent's `clear` to the last sound the caller is sent.
pub async fn interruption() -> anyhow::Result<Table> {
    let scene = talk(Talk::Interrupted).await?;
    let (mut words, mut closings) = (Vec::new(), Vec::new());
    for (call, log) in scene.calls.iter().zip(scene.agents.logs()) {
        let arrivals = call.phone.notes().arrivals;
        let cleared = log.said.borrow();
        for last in cleared.iter().filter_map(|at| last_sounds(&arrivals, *at)) {
            words.push(last.words_ms);
            closings.push(last.closing_ms);
        }
    }
    let mut table = Table::default();
    let count = words.len();
    anyhow::ensure!(count > 0, "no clear met an agent that was heard");
    let figure = "clear written to the agent's last packet";
    table.row(format!("{figure}, p50"), quantile(&mut words, 0.5), "ms", Goal::Shown);
    table.row(format!("{figure}, worst of {count}"), quantile(&mut words, 1.0), "ms", Goal::AtMost(FRAME_MS));
    let figure = "clear written to the closing packet behind it";
    table.row(format!("{figure}, p50"), quantile(&mut closings, 0.5), "ms", Goal::Shown);
    table.row(format!("{figure}, p99"), quantile(&mut closings, 0.99), "ms", Goal::Shown);
    table.row(format!("{figure}, worst of {count}"), quantile(&mut closings, 1.0), "ms", Goal::Shown);
    table.note(
        "The closing packet has the 6.5 ms that the encoder still held, fading out: it ends the sound and is none of",
    );
    table.note("the agent's. It leaves at the next tick. Less than 0: that packet had left before the clear.");
    Ok(table)
}

/// From a packet's departure to the agent's message, and from the agent's message to the packet.
pub async fn added() -> anyhow::Result<Table> {
    let (mut seen, mut early) = (Delays::see(Talk::Bursts).await?, Delays::see(Talk::EarlyBursts).await?);
    let mut table = Table::default();
    let codec_ms = floor::codec().await? / 1e3;
    for (way, delays, limit) in [
        ("caller's packet sent to agent's PCM read", &mut seen.to_agent, 1.0),
        ("agent's frame written to its packet at the caller", &mut seen.to_caller, FRAME_MS + codec_ms),
    ] {
        table.row(format!("{way}, p50"), quantile(delays, 0.5), "ms", Goal::Shown);
        table.row(format!("{way}, p99"), quantile(delays, 0.99), "ms", Goal::AtMost(limit));
        table.row(format!("{way}, worst of {}", delays.len()), quantile(delays, 1.0), "ms", Goal::Shown);
        if delays.len() * 10 < seen.bursts * 9 {
            table.note(format!("{way}: only {} of about {} bursts came", delays.len(), seen.bursts));
        }
    }
    let way = "the same, of an agent that talks since before accept";
    table.row(format!("{way}, p50"), quantile(&mut early.to_caller, 0.5), "ms", Goal::Shown);
    table.row(format!("{way}, p99"), quantile(&mut early.to_caller, 0.99), "ms", Goal::Shown);
    table.note("Both encoders look 6.5 ms ahead: that much of a frame's sound is in the packet behind it.");
    table.note(floor::punctuality().await?);
    table.note(format!("Seen from {} s after the last call began.", SETTLE.as_secs()));
    Ok(table)
}

/// In milliseconds.
struct Delays {
    to_agent: Vec<f64>,
    to_caller: Vec<f64>,
    /// Number of bursts in each direction.
    bursts: usize,
}

impl Delays {
    async fn see(kind: Talk) -> anyhow::Result<Self> {
        let scene = talk(kind).await?;
        let mut seen = Self { to_agent: Vec::new(), to_caller: Vec::new(), bursts: 0 };
        for (call, log) in scene.calls.iter().zip(scene.agents.logs()) {
            let notes = call.phone.notes();
            seen.bursts += notes.departures.len() / burst::PERIOD;
            seen.to_agent.extend(delays_ms(&said_by(&notes), &log.heard.borrow()));
            seen.to_caller.extend(delays_ms(&log.said.borrow(), &heard_by(&notes)?));
        }
        Ok(seen)
    }
}

/// A few calls whose phones have taken notes for some time.
async fn talk(talk: Talk) -> anyhow::Result<Scene> {
    let mut scene = Scene::start(Route::Agent(talk)).await?;
    scene.speech = match talk {
        Talk::Bursts | Talk::EarlyBursts => Speech::pcm(&burst::period())?.looped(),
        Talk::Echo | Talk::Speak | Talk::Interrupted => Speech::silence(),
    };
    for _ in 0..CALLS {
        // One after the other, so that the agents' order is the calls'.
        scene.place(1, PER_SECOND).await?;
    }
    tokio::time::sleep(SETTLE).await;
    for call in &scene.calls {
        call.phone.take_notes()?;
    }
    tokio::time::sleep(WINDOW).await;
    Ok(scene)
}

struct LastSounds {
    words_ms: f64,
    closing_ms: f64,
}

/// None if the agent was silent when it cleared.
fn last_sounds(arrivals: &[Arrival], cleared_at: Duration) -> Option<LastSounds> {
    let near = arrivals
        .iter()
        .filter(|arrival| arrival.at + AROUND > cleared_at && arrival.at < cleared_at + AROUND)
        .collect::<Vec<_>>();
    let is_sound = |arrival: &&Arrival| arrival.payload.as_ref() != SILENCE;
    let closing = near.iter().rposition(is_sound)?;
    // Everything after it must be silence, or the clear was not performed in this time.
    let words = near.get(closing.checked_sub(1)?)?;
    let after_ms = |arrival: &Arrival| (arrival.at.as_secs_f64() - cleared_at.as_secs_f64()) * 1e3;
    Some(LastSounds { words_ms: after_ms(words), closing_ms: after_ms(near[closing]) })
}

/// Times at which the phone sent packets in which a burst begins.
fn said_by(notes: &Notes) -> Vec<Duration> {
    let bursts = notes.departures.iter().filter(|(_, position)| position % burst::PERIOD == burst::AT);
    bursts.map(|(at, _)| *at).collect()
}

/// Arrival times of packets in which a burst begins.
fn heard_by(notes: &Notes) -> anyhow::Result<Vec<Duration>> {
    let (mut decoder, mut onsets) = (Decoder::new(SampleRate::Hz16000)?, Onsets::default());
    let (mut heard, mut samples) = (Vec::new(), Vec::new());
    for arrival in &notes.arrivals {
        samples.clear();
        decoder.decode(&arrival.payload, &mut samples)?;
        if onsets.begins(&samples) {
            heard.push(arrival.at);
        }
    }
    Ok(heard)
}

/// From each burst sent to the first one heard after it.
fn delays_ms<'a>(said: &'a [Duration], heard: &'a [Duration]) -> impl Iterator<Item = f64> + 'a {
    said.iter().filter_map(|said| {
        let delay = heard.iter().find(|heard| *heard >= said)?.saturating_sub(*said);
        (delay < HEARD_WITHIN).then_some(delay.as_secs_f64() * 1e3)
    })
}
