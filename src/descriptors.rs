//! Descriptors: the process's limit of open sockets and files, and HTTP's share of it.
//!
//! A call without a descriptor for its port or its agent is lost; a refused HTTP connection is not.

use std::error::Error;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{info, warn};

use crate::config::Config;

/// A call's agent, its recording, a participant, and its part of Graph's connections.
const PER_CALL: usize = 4;
/// The store, event webhooks, prompts, log, runtimes.
const OTHERS: usize = 128;

/// The shares of the process's descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// For UDP ports, calls and everything else but HTTP.
    pub reserved: usize,
    /// For connections to our HTTP listener.
    pub http: usize,
}

impl Budget {
    /// Divides `limit`. HTTP gets what media leaves, and at least a quarter: without webhooks
    /// there are no calls.
    pub fn of(limit: usize, needed: usize) -> Self {
        let http = limit.saturating_sub(needed).max(limit / 4);
        Self { reserved: limit - http, http }
    }
}

/// Descriptors that a service needs at its limit of calls, without HTTP.
pub fn needed(config: &Config) -> usize {
    let sockets = config.media.ports.count() * config.media.listen.len();
    sockets + config.calls.max_calls * PER_CALL + OTHERS
}

/// Raises the limit as far as the system allows, and logs what it suffices for.
pub fn prepare(config: &Config) -> Budget {
    let needed = needed(config);
    let Some(limit) = raise() else { return Budget::of(usize::MAX, needed) };
    let budget = Budget::of(limit, needed);
    if budget.reserved < needed {
        warn!(
            nofile = limit,
            "{limit} open files are too few for {} calls: raise the limit nofile to {} (LimitNOFILE=, --ulimit nofile)",
            config.calls.max_calls,
            needed + needed / 4
        );
    } else {
        info!(nofile = limit, "up to {limit} open files: enough for {} calls", config.calls.max_calls);
    }
    budget
}

/// Whether the present shortage is logged.
static IS_TOLD: AtomicBool = AtomicBool::new(false);

/// Reports that a call got no socket. A shortage is logged once, however many calls it affects.
pub fn tell_shortage(error: &io::Error) {
    metrics::counter!("patchcord_sockets_refused_total").increment(1);
    if !IS_TOLD.swap(true, Ordering::Relaxed) {
        warn!("calls fail because no socket can be opened: {error}; {}", advice(error));
    }
}

/// A socket was opened: the next shortage is logged again.
pub fn shortage_is_over() {
    IS_TOLD.store(false, Ordering::Relaxed);
}

/// The shortage that made a connection fail, with its remedy; None if the remote end or the network failed.
///
/// A resolver that cannot open its own files reports that the name has no address, so the error alone is not enough.
pub fn shortage_behind(error: &(dyn Error + 'static)) -> Option<String> {
    let errors = std::iter::successors(Some(error), |error| (*error).source());
    let named = errors.filter_map(|error| error.downcast_ref::<io::Error>()).find(|error| is_shortage(error));
    match named {
        Some(error) => Some(explained(error)),
        None => File::open("/dev/null").err().filter(is_shortage).map(|error| explained(&error)),
    }
}

fn explained(error: &io::Error) -> String {
    format!("this machine gives no more sockets: {error}; {}", advice(error))
}

/// Whether the error is the system's lack of sockets, rather than a failure of the remote end.
pub fn is_shortage(error: &io::Error) -> bool {
    kernel::is_shortage(error)
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::io;

    use rustix::io::Errno;
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

    /// Gives the new limit; None if there is none.
    pub fn raise() -> Option<usize> {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        let limit = if raised.is_ok() { maximum } else { current };
        limit.and_then(|limit| usize::try_from(limit).ok())
    }

    pub fn is_shortage(error: &io::Error) -> bool {
        matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
    }

    pub fn advice(error: &io::Error) -> &'static str {
        match Errno::from_io_error(error) {
            Some(Errno::MFILE) => "raise the limit nofile (LimitNOFILE=, --ulimit nofile)",
            Some(Errno::NFILE) => "the machine's open files are used up: raise fs.file-max, or stop what takes them",
            Some(Errno::NOMEM | Errno::NOBUFS) => "the machine is out of memory for sockets",
            Some(Errno::ADDRNOTAVAIL) => "an address of media.listen is not on this machine now",
            _ => "is the machine out of file descriptors (nofile) or memory?",
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    pub fn raise() -> Option<usize> {
        None
    }

    pub fn is_shortage(_: &std::io::Error) -> bool {
        false
    }

    pub fn advice(_: &std::io::Error) -> &'static str {
        "is the machine out of file descriptors (nofile) or memory?"
    }
}

use kernel::{advice, raise};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn http_has_what_media_leaves_and_never_nothing() {
        assert_eq!(Budget::of(20_000, 4_500), Budget { reserved: 4_500, http: 15_500 });
        assert_eq!(Budget::of(4_500, 4_500), Budget { reserved: 3_375, http: 1_125 });
        assert_eq!(Budget::of(64, 4_500), Budget { reserved: 48, http: 16 });
        assert_eq!(Budget::of(usize::MAX, 4_500).reserved, 4_500);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_advice_names_the_limit_that_is_met() {
        let advice = |errno: rustix::io::Errno| advice(&errno.into());
        assert!(advice(rustix::io::Errno::MFILE).contains("nofile"));
        assert!(advice(rustix::io::Errno::NFILE).contains("fs.file-max"));
        assert!(advice(rustix::io::Errno::ADDRNOTAVAIL).contains("media.listen"));
        assert!(is_shortage(&rustix::io::Errno::MFILE.into()) && !is_shortage(&rustix::io::Errno::CONNREFUSED.into()));
    }

    #[derive(Debug, thiserror::Error)]
    #[error("error sending request")]
    struct Sending(#[source] io::Error);

    #[test]
    #[cfg(target_os = "linux")]
    fn a_shortage_is_found_below_the_words_of_a_library() {
        let shortage = shortage_behind(&Sending(rustix::io::Errno::MFILE.into())).unwrap();
        assert!(shortage.contains("Too many open files") && shortage.contains("nofile"), "{shortage}");
        assert_eq!(shortage_behind(&Sending(rustix::io::Errno::CONNREFUSED.into())), None);
    }
}
