//! The command line.
//!
//! It is not in `main.rs`, because a future is compiled in each crate that polls it: the program would contain the service's
//! futures twice.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{error, warn};

use crate::app::App;
use crate::config::{Config, Environment};
use crate::settings::Settings;
use crate::telemetry::Logs;
use crate::{core_dumps, prompts, replay, telemetry};
#[cfg(feature = "simulator")]
use crate::{demo, simulate};

/// Puts WhatsApp calls through to voice bots.
#[derive(Parser)]
#[command(version)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the service.
    Serve {
        /// The configuration; patchcord.example.toml is one to start from.
        #[arg(long, short)]
        config: PathBuf,
    },
    /// Check a configuration without starting the service.
    Check {
        /// The configuration.
        #[arg(long, short)]
        config: PathBuf,
    },
    /// Replay the dead letters of a running service: events that its webhooks did not acknowledge.
    Replay(replay::ReplayOptions),
    /// Make one simulated WhatsApp call end to end on this machine and show its progress.
    #[cfg(feature = "simulator")]
    Demo(demo::DemoOptions),
    /// Run a fake Meta and a WhatsApp phone as a web page, to call the built-in echo agent or your own.
    #[cfg(feature = "simulator")]
    Simulate(simulate::SimulateOptions),
    /// The commands of the simulator, in a build without it.
    #[cfg(not(feature = "simulator"))]
    #[command(name = "demo", alias = "simulate", hide = true)]
    NotBuilt {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
        _options: Vec<String>,
    },
}

/// The whole program: does what the arguments of this process say.
#[must_use]
pub fn main() -> ExitCode {
    match run(CommandLine::parse().command) {
        Ok(code) => code,
        Err(error) => {
            say_last(format!("patchcord: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Deadline for the last line to be written.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// Prints why the program ends. A stalled reader of standard error does not keep it from ending.
fn say_last(words: String) {
    let (said, done) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || {
        eprintln!("{words}");
        drop(said);
    });
    // Written or not, the program ends.
    let _ = done.recv_timeout(READ_WITHIN);
}

#[expect(clippy::print_stdout, reason = "what a command says is its result")]
fn run(command: Command) -> anyhow::Result<ExitCode> {
    // Dropped after the runtime, so that its last lines are written too.
    let _logs: Logs;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match command {
        Command::Check { config } => {
            let read = load(&config)?;
            let prompts = prompts::PromptLibrary::load(&read.prompts.dir)?;
            prompts::check_routes(&read.routes, &prompts)?;
            prompts::check_queues(&read.queues, &prompts)?;
            // It opens the files of [routes.NAME] agent_tls.
            Settings::read(&read)?;
            println!(
                "{} is fine: {} numbers, {} routes, HTTP on {}",
                config.display(),
                read.whatsapp.numbers.len(),
                read.routes.len(),
                read.http.listen
            );
        }
        Command::Serve { config: path } => {
            // Before any secret is read.
            let core_dumps = core_dumps::turn_off();
            let config = load(&path)?;
            _logs = telemetry::start_logs(config.log.format, &config.log.filter)?;
            if let Err(error) = core_dumps {
                warn!("core dumps cannot be turned off, and a core dump would contain secrets: {error}");
            }
            runtime.block_on(serve(config, path))?;
        }
        Command::Replay(options) => {
            let listen = load(&options.config)?.http.listen;
            println!("{} dead letters are tried again", runtime.block_on(replay::run(options, listen))?);
        }
        #[cfg(feature = "simulator")]
        Command::Demo(options) => return runtime.block_on(demo::run(options)),
        #[cfg(feature = "simulator")]
        Command::Simulate(options) => runtime.block_on(simulate::run(options))?,
        #[cfg(not(feature = "simulator"))]
        Command::NotBuilt { .. } => {
            anyhow::bail!("this build has no simulator: build it with --features simulator, which is the default")
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn load(path: &Path) -> anyhow::Result<Config> {
    Config::load(path, &Environment::of_process()).map_err(|problems| anyhow::anyhow!("{problems}"))
}

async fn serve(config: Config, path: PathBuf) -> anyhow::Result<()> {
    // First, because an unhandled signal would end the process.
    let (mut hangups, mut stops) = (signal(SignalKind::hangup())?, Stops::listen()?);
    let app = App::start(config).await?;
    loop {
        tokio::select! {
            () = stops.next() => break,
            Some(()) = hangups.recv() => reload(&app, path.clone()).await,
        }
    }
    // The second signal ends all calls now.
    app.stop(stops.next()).await;
    Ok(())
}

/// Reloads the configuration. A wrong one changes nothing.
async fn reload(app: &App, path: PathBuf) {
    // Reading secret files may block.
    let read = tokio::task::spawn_blocking(move || Config::load(&path, &Environment::of_process())).await;
    let outcome = match read {
        Ok(Ok(config)) => app.reload(&config).map_err(|error| vec![format!("{error:#}")]),
        Ok(Err(errors)) => Err(errors.problems().iter().map(ToString::to_string).collect()),
        Err(error) => Err(vec![error.to_string()]),
    };
    metrics::counter!("patchcord_config_reloads_total", "outcome" => if outcome.is_ok() { "ok" } else { "refused" })
        .increment(1);
    for problem in outcome.err().into_iter().flatten() {
        error!("configuration not reloaded, the old one stays in use: {problem}");
    }
}

/// Ctrl-C and SIGTERM. None is missed after [`listen`](Self::listen), even while nothing waits for it.
struct Stops {
    interrupt: Signal,
    terminate: Signal,
}

impl Stops {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
