//! The real program as a child process, as an operator starts it.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::Context;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::meta::Meta;
use tokio::sync::mpsc;

use crate::log_watch;
use crate::service::{DEADLINE, Folder, TestOptions, config_text};

/// The program with everything logged that can be.
pub struct Program {
    child: Child,
    config: PathBuf,
    url: String,
    lines: mpsc::UnboundedReceiver<String>,
    log: Vec<String>,
}

impl Program {
    pub async fn start(folder: &Folder, meta: &Meta, agent: &Agent, options: TestOptions) -> anyhow::Result<Self> {
        let options = TestOptions { log: "filter = \"trace\"".to_owned(), ..options };
        let config = config_text(meta, &agent.url(), &folder.0, &options)?;
        let path = folder.0.join("patchcord.toml");
        std::fs::write(&path, config)?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_patchcord"))
            .args(["serve", "--config"])
            .arg(&path)
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = BufReader::new(child.stderr.take().context("a standard error")?);
        let (line, lines) = mpsc::unbounded_channel();
        // Ends with the program.
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
        let mut program = Self { child, config: path, url: String::new(), lines, log: Vec::new() };
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

    /// Sends SIGHUP: the configuration is to be read anew.
    pub fn hang_up(&self) -> anyhow::Result<()> {
        self.signal("HUP")
    }

    /// Sends a signal by its short name, such as `TERM`.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.child.id())).status()?;
        anyhow::ensure!(sent.success(), "kill says {sent}");
        Ok(())
    }

    /// Where it answers HTTP, without a slash at the end.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Reads on until a line holds this.
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

    /// Kills the program (SIGKILL) and gives everything it said.
    pub async fn finish(mut self) -> anyhow::Result<String> {
        self.child.kill()?;
        self.read_out().await?;
        Ok(std::mem::take(&mut self.log).join("\n"))
    }

    /// Waits until the program has ended by itself; how it did.
    pub async fn ended(mut self) -> anyhow::Result<ExitStatus> {
        tokio::time::timeout(DEADLINE, self.read_out()).await.context("the program goes on")??;
        // Its last line is read, so this takes no time.
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
