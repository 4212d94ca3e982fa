//! Logs and metrics of the process.

mod log_queue;

pub use log_queue::{Logs, lines_lost};

use log_queue::LogQueue;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Starts logging to standard error. `filter` is a list like `info` or `info,patchcord::call=debug`. What this gives back
/// belongs to the end of the process.
pub fn start_logs(format: LogFormat, filter: &str) -> anyhow::Result<Logs> {
    let filter: Targets = filter.parse()?;
    let registry = tracing_subscriber::registry().with(filter);
    let queue = LogQueue::start(std::io::stderr())?;
    let lines = tracing_subscriber::fmt::layer().with_writer(queue.clone());
    match format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init()?,
        LogFormat::Json => registry.with(lines.json()).try_init()?,
    }
    // A panic's own words may hold what came from outside, which no log is to have.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "the program has a mistake here");
    }));
    Ok(Logs(queue))
}

/// Starts counting. None when a recorder is installed already, as in tests with several services.
pub fn start_metrics() -> Option<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().ok()
}
