//! Every performance figure of Patchcord beside its floor, measured in one run on this machine.
//!
//! `make bench`, or `cargo bench --bench calls -- 4 5` for some topics only. The service is a child process on core 0
//! with one worker; phones, agents and Meta run here on core 1. A missed limit is reported and does not fail the run:
//! only a measurement that is impossible does.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
#![expect(clippy::print_stdout, reason = "the tables are the result")]

mod agent;
mod app;
mod bots;
mod burst;
mod control;
mod delay;
mod dialects;
mod external;
mod floor;
mod frames;
mod hold;
mod machine;
mod meta;
mod outbound;
mod overload;
mod phone;
mod recording;
mod redial;
mod registered;
mod relaying;
mod scene;
mod service;
mod setup;
mod sip;
mod sip_phones;
mod sipp;
mod startup;
mod table;
mod talkers;
mod webrtc;
mod wire;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context;
use tokio::task::LocalSet;

use table::Table;

/// The core of the service and of the floors.
const SERVICE_CORE: usize = 0;
/// The core of everything around it.
const LOAD_CORE: usize = 1;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("could not be measured: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    // Cargo adds arguments of its own, which begin with dashes.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if let [mode, what] = arguments.as_slice()
        && mode == floor::CHILD
    {
        return LocalSet::new().block_on(&runtime, floor::serve(what));
    }
    machine::pin_self(LOAD_CORE);
    // Fails if a provider is installed already, which then is used.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    LocalSet::new().block_on(&runtime, measure(&arguments))
}

async fn measure(topics: &[String]) -> anyhow::Result<()> {
    let wanted = |topic: &str| topics.is_empty() || topics.iter().any(|wanted| wanted == topic);
    let started = Instant::now();
    println!("{}\n", machine::describe());
    let mut unmeasured = 0;
    let mut show = |title: &str, measured: anyhow::Result<Table>| match measured {
        Ok(table) => println!("{title}\n{table}"),
        Err(error) => {
            unmeasured += 1;
            println!("{title}\n  could not be measured: {error:#}\n");
        }
    };
    if wanted("1") {
        show("1 From the offer to the answer", setup::offer_to_answer().await);
    }
    if wanted("2") {
        show("2 Media up", setup::media_up().await);
    }
    if wanted("3") {
        show("3 First words", setup::first_words().await);
    }
    if wanted("4") {
        show("4 Opus agent, packets relayed both ways", relaying::opus().await);
    }
    if wanted("5") {
        show("5 16 kHz PCM agent, both talking", relaying::pcm().await);
    }
    if wanted("6") {
        show("6 The program", startup::program().await);
    }
    if wanted("7") {
        show("7 Hold music, nobody listens to the callers", hold::music().await);
    }
    if wanted("8") {
        show("8 From packet to packet", hold::spacing().await);
    }
    if wanted("9") {
        show("9 Recording, Opus both ways", recording::added().await);
    }
    if wanted("10") {
        show("10 An agent is interrupted", delay::interruption().await);
    }
    if wanted("11") {
        show("11 How long sound stands, 16 kHz PCM agent", delay::added().await);
    }
    if wanted("12") {
        show("12 From an event to the app", control::events().await);
    }
    if wanted("13") {
        show("13 The app looks at calls", control::reading().await);
    }
    if wanted("14") {
        show("14 A rush of new calls", control::rush().await);
    }
    if wanted("15") {
        show("15 Events that nobody takes", control::dead_receiver().await);
    }
    if wanted("16") {
        show("16 Three times as many calls as a core carries", overload::three_times().await);
    }
    if wanted("17") {
        show("17 WebRTC agent, as a browser is one, both talking", webrtc::relayed().await);
    }
    if wanted("18") {
        show("18 SIP phone with Opus, both talking", sip::opus().await);
    }
    if wanted("19") {
        show("19 SIP phone with PCMU, both talking", sip::pcmu().await);
    }
    if wanted("20") {
        show("20 A rush of SIP calls beside talking ones", sip::rush().await);
    }
    if wanted("21") {
        show("21 The same rush to SIPp", sip::foreign().await);
    }
    if wanted("22") {
        show("22 A call that the app places", outbound::one_by_one().await);
    }
    if wanted("23") {
        show("23 Fifty calls placed a second", outbound::many().await);
    }
    if wanted("24") {
        show("24 Registered SIP phones", registered::idle().await);
    }
    if wanted("25") {
        show("25 An agent's server goes away and comes back", redial::audio_back().await);
    }
    if wanted("26") {
        show("26 The protocols of apps, both talking", dialects::apps().await);
    }
    if wanted("27") {
        show("27 The protocols of speech models, both talking", dialects::models().await);
    }
    if wanted("28") {
        show("28 A hundred calls to apps of Twilio's protocol", dialects::many().await);
    }
    println!("measured in {:.0} s", started.elapsed().as_secs_f64());
    (unmeasured == 0).then_some(()).with_context(|| format!("{unmeasured} topics"))
}
