//! Logs and metrics of the process.

mod duration;
mod log_queue;

use std::ffi::OsStr;
use std::io::IsTerminal;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

pub use duration::shown;
pub use log_queue::{Logs, lines_lost};

use crate::config::LogFormat;
use log_queue::LogQueue;

/// Starts logging to standard error. `filter` is a list like `info` or `info,patchcord::call=debug`. Drop the result at the
/// end of the process.
pub fn start_logs(format: LogFormat, filter: &str) -> anyhow::Result<Logs> {
    let filter: Targets = filter.parse()?;
    // It logs whole messages, which hold numbers, addresses and keys.
    let filter = filter.with_target("rsipstack", LevelFilter::OFF);
    let registry = tracing_subscriber::registry().with(filter);
    let queue = LogQueue::start(std::io::stderr())?;
    let has_colours = has_colours(std::io::stderr().is_terminal(), std::env::var_os("NO_COLOR").as_deref());
    let lines = tracing_subscriber::fmt::layer().with_writer(queue.clone()).with_ansi(has_colours);
    match format {
        LogFormat::Text => registry.with(lines.with_target(false)).try_init()?,
        LogFormat::Json => registry.with(lines.json()).try_init()?,
    }
    // A panic's message may contain foreign data, which must not reach the log.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(place, "bug: panic; please report this place");
    }));
    Ok(Logs(queue))
}

/// Installs the metrics recorder. None if one is installed already, as in tests with several services.
pub fn start_metrics() -> Option<PrometheusHandle> {
    PrometheusBuilder::new().install_recorder().ok()
}

/// Colours only on a terminal, and only if NO_COLOR is unset or empty (no-color.org).
fn has_colours(is_terminal: bool, no_color: Option<&OsStr>) -> bool {
    is_terminal && no_color.is_none_or(OsStr::is_empty)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_a_terminal_whose_user_wants_them() {
        assert!(has_colours(true, None));
        assert!(has_colours(true, Some(OsStr::new(""))));
        assert!(!has_colours(true, Some(OsStr::new("1"))));
        assert!(!has_colours(false, None));
    }
}
