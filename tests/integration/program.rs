//! The real program as a child process, as an operator starts it.

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::meta::Meta;
#[cfg(target_os = "linux")]
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use tokio::sync::mpsc;

use crate::log_watch;
use crate::service::{DEADLINE, Folder, TestOptions, config_text};

/// The program, with logging at the level `trace`.
pub struct Program {
    child: Child,
    config: PathBuf,
    url: String,
    lines: mpsc::UnboundedReceiver<String>,
    log: Vec<String>,
    /// Whether standard error is no longer read.
    is_stalled: Arc<AtomicBool>,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_patchcord");

impl Program {
    pub async fn start(folder: &Folder, meta: &Meta, agent: &Agent, options: TestOptions) -> anyhow::Result<Self> {
        Self::start_for(folder, meta, &agent.url(), options).await
    }

    /// With this agent target.
    pub async fn start_for(folder: &Folder, meta: &Meta, target: &str, options: TestOptions) -> anyhow::Result<Self> {
        // A low soft limit, as on many systems; the program may raise it.
        Self::start_after("ulimit -S -n 256", folder, meta, target, options).await
    }

    /// With this limit of open files.
    pub async fn start_with_descriptors(
        folder: &Folder,
        meta: &Meta,
        agent: &Agent,
        options: TestOptions,
        descriptors: usize,
    ) -> anyhow::Result<Self> {
        Self::start_after(&format!("ulimit -n {descriptors}"), folder, meta, &agent.url(), options).await
    }

    async fn start_after(
        limits: &str,
        folder: &Folder,
        meta: &Meta,
        target: &str,
        options: TestOptions,
    ) -> anyhow::Result<Self> {
        let options = TestOptions { log: "filter = \"trace\"".to_owned(), ..options };
        let config = config_text(meta, target, &folder.0, &options)?;
        let path = folder.0.join("patchcord.toml");
        std::fs::write(&path, config)?;
        let mut child = Command::new("sh")
            .args(["-c", &format!("{limits} && exec \"$0\" \"$@\""), PROGRAM, "serve", "--config"])
            .arg(&path)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = BufReader::new(child.stderr.take().context("a standard error")?);
        let (line, lines) = mpsc::unbounded_channel();
        let is_stalled = Arc::new(AtomicBool::new(false));
        let stalled = is_stalled.clone();
        // Ends with the program, or with the tests.
        std::thread::spawn(move || {
            for text in stderr.lines().map_while(Result::ok) {
                while stalled.load(Ordering::Acquire) {
                    std::thread::park();
                }
                if line.send(text).is_err() {
                    break;
                }
            }
        });
        let mut program = Self { child, config: path, url: String::new(), lines, log: Vec::new(), is_stalled };
        let ready = program.line_with("patchcord is ready on ").await?;
        let address = ready.split("ready on ").nth(1).and_then(|rest| rest.split_whitespace().next());
        program.url = address.context("an address")?.to_owned();
        meta.set_webhook_url(format!("{}/webhooks/whatsapp", program.url));
        Ok(program)
    }

    /// The configuration as an operator rewrites it.
    pub fn rewrite_config(&self, rewrite: impl FnOnce(String) -> String) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(&self.config)?;
        Ok(std::fs::write(&self.config, rewrite(text))?)
    }

    /// Sends SIGHUP, which reloads the configuration.
    pub fn hang_up(&self) -> anyhow::Result<()> {
        self.signal("HUP")
    }

    /// Sends a signal by its short name, such as `TERM`.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status()?;
        anyhow::ensure!(sent.success(), "kill says {sent}");
        Ok(())
    }

    /// Sets its limit of open files; `None` for the system's maximum. Gives the limit before.
    #[cfg(target_os = "linux")]
    pub fn limit_files(&self, limit: Option<u64>) -> anyhow::Result<Rlimit> {
        let pid = Pid::from_raw(self.child.id().try_into()?);
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        Ok(prlimit(pid, Resource::Nofile, Rlimit { current: limit.or(maximum), maximum })?)
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Where it answers HTTP, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The lines that were read so far.
    pub fn log(&self) -> &[String] {
        &self.log
    }

    /// Stops reading its standard error, which stays open.
    pub fn stop_reading(&self) {
        self.is_stalled.store(true, Ordering::Release);
    }

    /// Reads up to a line with this text.
    pub async fn line_with(&mut self, text: &str) -> anyhow::Result<String> {
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                let line = self.lines.recv().await.with_context(|| format!("the program ended: {:#?}", self.log))?;
                anyhow::ensure!(log_watch::private_word(&line).is_none(), "private: {line}");
                self.log.push(line.clone());
                if line.contains(text) {
                    return anyhow::Ok(line);
                }
            }
        })
        .await;
        found.with_context(|| format!("waited for {text:?}"))?
    }

    /// Kills the program (SIGKILL) and gives its log.
    pub async fn finish(mut self) -> anyhow::Result<String> {
        self.child.kill()?;
        self.read_out().await?;
        Ok(std::mem::take(&mut self.log).join("\n"))
    }

    /// Waits for the program to end by itself; gives its status.
    pub async fn ended(mut self) -> anyhow::Result<ExitStatus> {
        tokio::time::timeout(DEADLINE, self.read_out()).await.context("the program goes on")??;
        // Its last line is read, so it has ended.
        Ok(self.child.wait()?)
    }

    /// The same for a program whose standard error is not read.
    pub async fn ended_unread(mut self) -> anyhow::Result<ExitStatus> {
        // Nothing is written there, so it ends with the program.
        let mut stdout = self.child.stdout.take().context("a standard output")?;
        let end = tokio::task::spawn_blocking(move || stdout.read_to_end(&mut Vec::new()));
        tokio::time::timeout(DEADLINE, end).await.context("the program goes on")???;
        Ok(self.child.wait()?)
    }

    /// Reads to the last line.
    async fn read_out(&mut self) -> anyhow::Result<()> {
        while let Some(line) = self.lines.recv().await {
            anyhow::ensure!(log_watch::private_word(&line).is_none(), "private: {line}");
            self.log.push(line);
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
