//! The machine: cores, and the resource use of processes from `/proc`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;

/// Resources that a process has used since its start.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Of its thread `worker-0`, or of the first thread if there is none of this name.
    pub worker: Duration,
    /// Of all its threads.
    pub process: Duration,
    /// Time in which the worker was ready to run while another process had its core.
    pub waited: Duration,
}

/// Processor, cores and load, for the report's heading.
pub fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, name)| name);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!(
        "{model}, {} cores, load {} at the start; service on core {}, everything else on core {}",
        cores(),
        load.split(' ').next().unwrap_or("?"),
        super::SERVICE_CORE,
        super::LOAD_CORE,
    )
}

/// All cores of the machine, whatever this process is pinned to.
fn cores() -> usize {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    cpu.lines().filter(|line| line.starts_with("processor")).count().max(1)
}

/// Pins this process to one core with priority, as far as the system permits.
pub fn pin_self(core: usize) {
    let process = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-a", "-p", "-c", &core.to_string(), &process]).output();
    if !pinned.is_ok_and(|output| output.status.success()) {
        println!("core {core} is not to be had: the figures are from wherever the system ran things\n");
    }
    // Without permission, other processes affect the figures, which is noted below the tables.
    let _ = Command::new("renice").args(["-n", "-20", "-p", &process]).output();
    let _ = Command::new("chrt").args(["-a", "-f", "-p", "5", &process]).output();
}

/// A command that will run on one core, before everybody else's, if the system permits either.
pub fn pinned(core: usize, program: &Path) -> Command {
    let core = core.to_string();
    let prefix: Vec<&str> = [["chrt", "-f", "10"], ["taskset", "-c", &core]]
        .into_iter()
        .filter(|[tool, option, value]| {
            Command::new(tool).args([option, value, "true"]).output().is_ok_and(|output| output.status.success())
        })
        .flatten()
        .collect();
    match prefix.split_first() {
        Some((tool, arguments)) => {
            let mut command = Command::new(tool);
            command.args(arguments).arg(program);
            command
        }
        None => Command::new(program),
    }
}

/// The threads of a [`pinned`] process are scheduled normally from now on, but still before other
/// processes. With real-time priority a working thread is not preempted for another one.
pub fn take_turns(process: u32) {
    let process = process.to_string();
    // Without permission they never had real-time priority.
    let _ = Command::new("chrt").args(["-a", "-o", "-p", "0", &process]).output();
    if let Ok(threads) = fs::read_dir(format!("/proc/{process}/task")) {
        for thread in threads.flatten() {
            let _ = Command::new("renice").args(["-n", "-20", "-p"]).arg(thread.file_name()).output();
        }
    }
}

/// What a process has used so far.
pub fn usage(process: u32) -> anyhow::Result<Usage> {
    let mut threads = Vec::new();
    for entry in fs::read_dir(format!("/proc/{process}/task")).context("the process is gone")? {
        let task = entry?.path();
        // A thread may have ended since the directory was read.
        let (Ok(name), Ok(schedule)) =
            (fs::read_to_string(task.join("comm")), fs::read_to_string(task.join("schedstat")))
        else {
            continue;
        };
        let mut nanoseconds = schedule.split(' ').filter_map(|text| text.parse().ok()).map(Duration::from_nanos);
        let (ran, waited) = nanoseconds.next().zip(nanoseconds.next()).context("schedstat")?;
        threads.push((name.trim() == "worker-0", ran, waited));
    }
    let (_, worker, waited) = *threads.iter().find(|thread| thread.0).or(threads.first()).context("a thread")?;
    Ok(Usage { worker, process: threads.iter().map(|(_, ran, _)| *ran).sum(), waited })
}

/// The clock by which the kernel stamps what arrives, since 1970.
pub fn clock() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Datagrams that found no room at a socket of this machine so far (RFC 4113: udpInErrors, of which Linux tells these).
pub fn datagrams_lost() -> anyhow::Result<u64> {
    let counts = fs::read_to_string("/proc/net/snmp")?;
    let mut lines = counts.lines().filter_map(|line| line.strip_prefix("Udp: ")).map(|line| line.split(' '));
    let (names, values) = lines.next().zip(lines.next()).context("snmp")?;
    let (_, value) = names.zip(values).find(|(name, _)| *name == "RcvbufErrors").context("RcvbufErrors")?;
    Ok(value.parse()?)
}

/// Memory that a process has in use, in kB.
pub fn resident_kb(process: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).context("the process is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS")
}

impl std::ops::Sub for Usage {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            worker: self.worker - earlier.worker,
            process: self.process - earlier.process,
            waited: self.waited - earlier.waited,
        }
    }
}
