//! Many calls at once, for the benchmark: all phones in one thread of their own, each talking and counting.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::call::{Announce, Call, CallerOptions, Stage};
use crate::meta::Meta;
use crate::phone::PhoneCounts;
use crate::speech::Speech;

/// Failures told in full; the others are counted.
const TOLD_FAILURES: usize = 10;

/// How many calls, how fast they come, how long they talk.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Calls at once.
    pub calls: usize,
    /// Calls placed per second.
    pub per_second: f64,
    /// How long all of them talk together, counted from the moment the last one is up.
    pub talk: Duration,
    /// What everybody says. The default is a burst of tone every two seconds, by which echoes are timed.
    pub speech: Option<Speech>,
    /// How long a call may take from its webhook to the first packet heard.
    pub up_within: Duration,
    /// Seed of the first call; the others count on from it.
    pub seed: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            calls: 100,
            per_second: 50.0,
            talk: Duration::from_secs(10),
            speech: None,
            up_within: Duration::from_secs(20),
            seed: 1,
        }
    }
}

/// What the callers experienced.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// Calls placed.
    pub placed: usize,
    /// Calls that came up.
    pub up: usize,
    /// Calls that were still up when all hung up.
    pub still_up: usize,
    /// Why others did not come up: the first few.
    pub failures: Vec<String>,
    /// RTP packets the phones sent while all talked together.
    pub sent: u64,
    /// RTP packets they received in that time.
    pub received: u64,
    /// Sequence numbers missing in that time.
    pub lost: u64,
    /// How long all talked together.
    pub talked: Duration,
    /// Webhook to the reply of `accept`.
    pub to_accept: Spread,
    /// Webhook to the first packet heard.
    pub to_first_packet: Spread,
    /// From the phone to the agent and back, where the agent echoes and the speech has bursts.
    pub echo: Spread,
    /// Each call's longest time between two packets.
    pub longest_gap: Spread,
    /// Objections by kind.
    pub objections: BTreeMap<String, usize>,
}

/// How measured times are spread. Zero where nothing was measured.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Spread {
    /// How many were measured.
    pub count: usize,
    /// Half are shorter.
    pub median: Duration,
    /// 95 of 100 are shorter.
    pub p95: Duration,
    /// 99 of 100 are shorter.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
}

impl Spread {
    /// The spread of some times.
    #[must_use]
    pub fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: usize| {
            times.get((times.len() * share / 100).min(times.len().saturating_sub(1))).copied().unwrap_or_default()
        };
        Self { count: times.len(), median: at(50), p95: at(95), p99: at(99), longest: at(100) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        let Self { count, median, p95, p99, longest } = *self;
        write!(
            f,
            "median {:.1} ms, 95 % {:.1} ms, 99 % {:.1} ms, longest {:.1} ms ({count} measured)",
            ms(median),
            ms(p95),
            ms(p99),
            ms(longest)
        )
    }
}

/// Places the calls, lets them talk, hangs up, and tells what the callers experienced. The phones run in a
/// thread of their own; webhooks and Graph API stay on the caller's runtime.
///
/// # Errors
/// When the thread cannot be started. Calls that fail are part of the report.
pub async fn run(meta: &Meta, options: &LoadOptions) -> anyhow::Result<LoadReport> {
    let thread = PhoneThread::start()?;
    let speech = match &options.speech {
        Some(speech) => speech.clone(),
        None => Speech::bursts()?,
    };
    let mut report = LoadReport { placed: options.calls, ..LoadReport::default() };
    let mut rising = JoinSet::new();
    let start = tokio::time::Instant::now();
    for index in 0..options.calls {
        tokio::time::sleep_until(start + Duration::from_secs_f64(index as f64 / options.per_second.max(0.1))).await;
        let caller = caller(index, &speech, options);
        let call = meta.ring_on(&thread.handle, caller).await?;
        let within = options.up_within;
        rising.spawn(async move { rise(call, within).await });
    }
    let mut calls = Vec::with_capacity(options.calls);
    while let Some(risen) = rising.join_next().await {
        match risen.context("a call's task")? {
            Ok(call) => calls.push(call),
            Err(error) if report.failures.len() < TOLD_FAILURES => report.failures.push(format!("{error:#}")),
            Err(_) => {}
        }
    }
    report.up = calls.len();
    let before = counts(&calls).await;
    let talking = Instant::now();
    tokio::time::sleep(options.talk).await;
    let after = counts(&calls).await;
    report.talked = talking.elapsed();
    report.measure(&calls, &before, &after);
    hang_up(calls).await;
    Ok(report)
}

fn caller(index: usize, speech: &Speech, options: &LoadOptions) -> CallerOptions {
    CallerOptions {
        from: Some(format!("1202555{index:04}")),
        name: format!("Caller {index}"),
        speech: speech.clone(),
        announce: Announce::ByHand,
        keeps_packets: false,
        measures_echo: options.speech.is_none(),
        ring_patience: options.up_within.max(Duration::from_secs(45)),
        seed: Some(options.seed.wrapping_add(index as u64)),
        ..CallerOptions::default()
    }
}

async fn rise(call: Call, within: Duration) -> anyhow::Result<Arc<Call>> {
    let status = call.send_connect().await?;
    anyhow::ensure!(status == 200, "the service answered the connect webhook with {status}");
    call.wait_until_within(Stage::FirstPacket, within).await?;
    Ok(Arc::new(call))
}

async fn counts(calls: &[Arc<Call>]) -> Vec<PhoneCounts> {
    let mut counts = Vec::with_capacity(calls.len());
    for call in calls {
        counts.push(call.counts().await);
    }
    counts
}

/// All at once, as at the end of a broadcast; the webhooks' replies are awaited.
async fn hang_up(calls: Vec<Arc<Call>>) {
    let mut hanging = JoinSet::new();
    for call in calls {
        hanging.spawn(async move {
            if let Err(error) = call.hang_up().await {
                tracing::warn!("the terminate webhook failed: {error:#}");
            }
        });
    }
    hanging.join_all().await;
}

impl LoadReport {
    fn measure(&mut self, calls: &[Arc<Call>], before: &[PhoneCounts], after: &[PhoneCounts]) {
        for (before, after) in before.iter().zip(after) {
            self.sent += after.sent - before.sent;
            self.received += after.received - before.received;
            self.lost += after.lost - before.lost;
        }
        self.still_up = calls.iter().filter(|call| call.ended_by().is_none()).count();
        let since_placed = |stage: Stage| {
            let times = calls.iter().filter_map(|call| {
                let (_, at) = call.stages().into_iter().find(|(reached, _)| *reached == stage)?;
                Some(at.saturating_duration_since(call.placed_at()))
            });
            Spread::of(times.collect())
        };
        self.to_accept = since_placed(Stage::Accepted);
        self.to_first_packet = since_placed(Stage::FirstPacket);
        self.echo = Spread::of(calls.iter().flat_map(|call| call.echoes()).collect());
        self.longest_gap = Spread::of(after.iter().map(|counts| counts.longest_gap).collect());
        for objection in calls.iter().flat_map(|call| call.objections()) {
            let text = format!("{objection:?}");
            let kind = text.split([' ', '(']).next().unwrap_or_default().to_owned();
            *self.objections.entry(kind).or_default() += 1;
        }
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.talked.as_secs_f64().max(0.001);
        let expected = 50.0 * seconds * self.up as f64;
        writeln!(f, "{} of {} calls up, {} to the end", self.up, self.placed, self.still_up)?;
        writeln!(
            f,
            "packets heard: {} of about {expected:.0} in {seconds:.1} s, {} missing in sequence; said: {}",
            self.received, self.lost, self.sent
        )?;
        writeln!(f, "webhook to accept:       {}", self.to_accept)?;
        writeln!(f, "webhook to first packet: {}", self.to_first_packet)?;
        writeln!(f, "to the agent and back:   {}", self.echo)?;
        writeln!(f, "longest gap per call:    {}", self.longest_gap)?;
        write!(f, "objections: {:?}", self.objections)?;
        for failure in &self.failures {
            write!(f, "\nfailed: {failure}")?;
        }
        Ok(())
    }
}

/// The thread in which the phones run. Dropping it ends them.
struct PhoneThread {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl PhoneThread {
    fn start() -> anyhow::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build().context("a runtime for phones")?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("phones".to_owned())
            .spawn(move || {
                // Told or dropped, both mean the end.
                let _ = runtime.block_on(stopped);
            })
            .context("a thread for phones")?;
        Ok(Self { handle, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for PhoneThread {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the phones panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_the_right_places() {
        let spread = Spread::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(spread.median, Duration::from_millis(101));
        assert_eq!(spread.p99, Duration::from_millis(199));
        assert_eq!(spread.longest, Duration::from_millis(200));
        assert_eq!(Spread::of(Vec::new()), Spread::default());
    }
}
