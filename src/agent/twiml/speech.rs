//! `<Say>`: a program of the operator's reads the text and writes a WAV file, within bounds.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::Semaphore;

use super::webhook::MAX_SOUND_BYTES;

/// The caller waits, and so does Meta if the call still rings.
const SPOKEN_WITHIN: Duration = Duration::from_secs(10);
/// Programs at once; others wait within [`SPOKEN_WITHIN`]. Speech takes a core each, and the calls need them too.
static AT_ONCE: Semaphore = Semaphore::const_new(4);
/// From the end of the file to the end of the program.
const ENDED_WITHIN: Duration = Duration::from_secs(1);

/// What a program is given.
pub(super) struct Words {
    pub text: String,
    pub voice: String,
    pub language: String,
}

/// Has a text spoken. The error is for people, and has nothing of the text.
pub(super) async fn spoken(command: &[String], words: Words) -> Result<Vec<u8>, String> {
    let late = || format!("say_command did not finish within {} s", SPOKEN_WITHIN.as_secs());
    let turn = tokio::time::timeout(SPOKEN_WITHIN, AT_ONCE.acquire()).await;
    let _turn = turn.map_err(|_| late())?.map_err(|_| late())?;
    let command = command.to_vec();
    let done = tokio::task::spawn_blocking(move || run(&command, words).unwrap_or_else(|| Err(late())));
    done.await.unwrap_or_else(|_| Err("say_command could not be run".to_owned()))
}

/// None if it takes too long.
fn run(command: &[String], words: Words) -> Option<Result<Vec<u8>, String>> {
    let mut child = match start(command, &words) {
        Ok(child) => child,
        Err(error) => return Some(Err(format!("say_command cannot be started: {error}"))),
    };
    let (mut stdin, stdout) = (child.stdin.take(), child.stdout.take());
    let (tell, told) = mpsc::channel();
    // Both end when the program does, which is killed at the latest.
    thread::spawn(move || stdin.take().map(|mut stdin| stdin.write_all(words.text.as_bytes())));
    thread::spawn(move || {
        let mut sound = Vec::new();
        let read = stdout.map(|stdout| stdout.take(MAX_SOUND_BYTES as u64 + 1).read_to_end(&mut sound));
        // Nobody listens any more after the deadline.
        let _ = tell.send(read.unwrap_or(Ok(0)).map(|_| sound));
    });
    let sound = told.recv_timeout(SPOKEN_WITHIN);
    let ended = end(&mut child, sound.is_ok());
    Some(match sound.ok()? {
        Err(error) => Err(format!("say_command cannot be read: {error}")),
        Ok(sound) if sound.len() > MAX_SOUND_BYTES => Err("say_command wrote more than 4 MB".to_owned()),
        Ok(_) if !ended => Err("say_command failed".to_owned()),
        Ok(sound) => Ok(sound),
    })
}

fn start(command: &[String], words: &Words) -> std::io::Result<Child> {
    let (program, arguments) = command.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    // The environment has our secrets.
    command.env_clear();
    for name in ["PATH", "HOME", "LANG"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command.env("SAY_VOICE", &words.voice).env("SAY_LANGUAGE", &words.language);
    command.args(arguments).process_group(0);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
}

/// Whether the program ended well; it and what it has started are gone then.
fn end(child: &mut Child, may_end_itself: bool) -> bool {
    const LOOK_EVERY: Duration = Duration::from_millis(5);
    let looks = if may_end_itself { ENDED_WITHIN.as_millis() / LOOK_EVERY.as_millis() } else { 0 };
    let mut ended = None;
    for _ in 0..looks {
        ended = child.try_wait().ok().flatten();
        if ended.is_some() {
            break;
        }
        thread::sleep(LOOK_EVERY);
    }
    // The group may be gone already.
    let _ = kill_process_group(Pid::from_child(child), Signal::KILL);
    let _ = child.wait();
    ended.is_some_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str) -> Result<String, String> {
        let command = ["/bin/sh", "-c", script].map(str::to_owned);
        let words = Words { text: "hello".into(), voice: "alice".into(), language: "de-DE".into() };
        spoken(&command, words).await.map(|sound| String::from_utf8_lossy(&sound).into_owned())
    }

    #[tokio::test]
    async fn a_program_reads_the_text_and_its_output_is_taken() {
        let said = run("cat; echo \" $SAY_VOICE $SAY_LANGUAGE ${CARGO_PKG_NAME:-none}\"").await;
        assert_eq!(said.as_deref(), Ok("hello alice de-DE none\n"));
    }

    #[tokio::test]
    async fn a_program_that_fails_or_writes_without_end_is_told() {
        assert_eq!(run("exit 3").await.unwrap_err(), "say_command failed");
        assert_eq!(run("cat /dev/zero").await.unwrap_err(), "say_command wrote more than 4 MB");
        let words = Words { text: String::new(), voice: String::new(), language: String::new() };
        let missing = spoken(&["/nonexistent/say".to_owned()], words).await;
        assert!(missing.unwrap_err().contains("cannot be started"));
    }
}
