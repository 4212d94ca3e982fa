//! SIPp as all phones: a foreign program that answers, and counts what failed.

use std::net::UdpSocket;
use std::process::{Command, ExitStatus, Stdio};

use anyhow::Context;

/// SIPp at a port of its own.
pub struct Sipp {
    /// Where it answers.
    pub port: u16,
    output: std::thread::JoinHandle<std::io::Result<(ExitStatus, Vec<u8>)>>,
}

impl Sipp {
    /// Takes so many calls, and ends.
    pub fn start(calls: usize) -> anyhow::Result<Self> {
        let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let media_port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = Command::new("sipp");
        command.args(["-sn", "uas", "-i", "127.0.0.1", "-nostdin", "-timeout", "60"]);
        command.args(["-p", &port.to_string(), "-mp", &media_port.to_string(), "-m", &calls.to_string()]);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let child = child.context("start sipp: is Debian's sip-tester installed?")?;
        // Its screen is read all the time, or it would block.
        let output = std::thread::spawn(move || child.wait_with_output().map(|output| (output.status, output.stdout)));
        Ok(Self { port, output })
    }

    /// The calls that succeeded and those that failed, once it has ended.
    pub async fn ended(self) -> anyhow::Result<(u64, u64)> {
        let joined = tokio::task::spawn_blocking(|| self.output.join()).await?;
        let (status, screen) = joined.map_err(|_| anyhow::anyhow!("its output was not read"))??;
        let screen = String::from_utf8_lossy(&screen).into_owned();
        let last = |name: &str| {
            let line = screen.lines().rev().find(|line| line.contains(name))?;
            line.split_whitespace().next_back()?.parse().ok()
        };
        last("Successful call").zip(last("Failed call")).with_context(|| format!("sipp ended with {status}"))
    }
}
