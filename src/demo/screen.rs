//! The demo's output: the call's steps with their times, two level meters, and the report.

#![expect(clippy::print_stdout, reason = "a demo is there to be looked at")]

use std::io::{IsTerminal, Write, stdout};
use std::path::PathBuf;
use std::time::Duration;

use super::{Report, SAME_SPEECH, standstill};
use crate::call::event::CallEvent;

/// Characters from nothing to full scale.
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns of a waveform.
const WIDTH: usize = 64;
/// Samples of the last 100 ms, which a meter shows.
const METER_SAMPLES: usize = 1_600;

/// A terminal, or whatever the output goes to.
pub(super) struct Screen {
    is_terminal: bool,
    last_line_at: Duration,
}

impl Screen {
    pub fn start() -> Self {
        println!("Patchcord demo: one WhatsApp call, end to end, on this machine.");
        println!("Meta, phone and agent are simulated; webhook, Graph, WebRTC, Opus and WebSocket are real.");
        println!();
        Self { is_terminal: stdout().is_terminal(), last_line_at: Duration::ZERO }
    }

    pub fn say(&self, line: &str) {
        println!("          {line}");
    }

    pub fn step(&mut self, at: Duration, event: &CallEvent) {
        let (name, what) = match event.kind {
            "call.incoming" => ("ringing", "the webhook came with an SDP offer".to_owned()),
            "call.pre_accepted" => ("pre-accepted", "Meta has our SDP answer".to_owned()),
            "call.media_connected" => ("media up", "ICE and DTLS are done".to_owned()),
            "call.agent_joined" => ("agent joined", "its WebSocket is open and it speaks already".to_owned()),
            "call.accepted" => ("accepted", "both sides are ready; sound flows".to_owned()),
            // Shown when it is finished.
            "call.recording_started" => return,
            "call.recording_finished" => {
                let seconds = event.data["duration_ms"].as_f64().unwrap_or_default() / 1e3;
                let kilobytes = event.data["size_bytes"].as_f64().unwrap_or_default() / 1e3;
                ("recorded", format!("{seconds:.1} s in {kilobytes:.0} kB: the caller left, the agent right"))
            }
            "call.ended" => ("ended", event.data["detail"].as_str().unwrap_or_default().to_owned()),
            other => (other.trim_start_matches("call."), String::new()),
        };
        println!("{:>6.1} ms  {name:<13} {what}", at.as_secs_f64() * 1e3);
    }

    /// One updating line on a terminal; otherwise a line a second.
    pub fn levels(&mut self, at: Duration, until: Duration, caller_hears: &[i16], agent_hears: &[i16]) {
        let (agent, caller) = (meter(caller_hears), meter(agent_hears));
        let line = format!(
            "          talking {:>4.1}/{:.1} s   caller ▕{caller}▏   agent ▕{agent}▏",
            at.as_secs_f64().min(until.as_secs_f64()),
            until.as_secs_f64()
        );
        if self.is_terminal {
            print!("\r{line}");
            // A failed update does no harm.
            let _ = stdout().flush();
        } else if at >= self.last_line_at + Duration::from_secs(1) {
            self.last_line_at = at;
            println!("{line}");
        }
    }

    pub fn end_levels(&self) {
        if self.is_terminal {
            println!();
        }
    }

    pub fn report(&self, report: &Report, files: &[PathBuf]) {
        println!();
        println!("agent heard   {}", waveform(&report.agent_heard));
        println!("caller heard  {}", waveform(&report.caller_heard));
        println!();
        check(
            "the agent heard the caller's speech",
            report.caller_to_agent > SAME_SPEECH,
            &likeness(report.caller_to_agent),
        );
        check(
            "the caller heard the agent's speech",
            report.agent_to_caller > SAME_SPEECH,
            &likeness(report.agent_to_caller),
        );
        let first_sound = report.accept_to_sound.map_or("no sound".to_owned(), |time| {
            format!("first sound {:.1} ms after accept", time.as_secs_f64() * 1e3)
        });
        check("not a syllable of the greeting is missing", report.greeting_whole, &first_sound);
        let packets = format!("{} packets, one unbroken RTP line", report.packets);
        check("the phone had nothing to object to", report.objections.is_empty(), &packets);
        for objection in &report.objections {
            println!("      {objection}");
        }
        if let Some(excuse) = standstill::excuse(report.stood_still).filter(|_| !report.is_good()) {
            println!();
            println!("{excuse}");
        }
        println!();
        println!("The call ended because {}. Listen to it:", report.reason);
        for file in files {
            println!("  {}", file.display());
        }
    }
}

fn check(what: &str, good: bool, detail: &str) {
    let sign = if good { "ok  " } else { "FAIL" };
    println!("{sign}  {what} ({detail})");
}

fn likeness(share: f64) -> String {
    format!("likeness {:.0} %", share * 100.0)
}

/// The last 100 ms as a bar of ten characters.
fn meter(heard: &[i16]) -> String {
    let level = level(&heard[heard.len().saturating_sub(METER_SAMPLES)..]);
    let full = (level * 10.0).round() as usize;
    format!("{}{}", "█".repeat(full.min(10)), " ".repeat(10 - full.min(10)))
}

fn waveform(heard: &[i16]) -> String {
    heard
        .chunks((heard.len() / WIDTH).max(1))
        .take(WIDTH)
        .map(|part| BARS[((level(part) * 8.0).round() as usize).min(8)])
        .collect()
}

/// Loudness from 0 to 1 on a decibel scale: 0 is 50 dB below full scale.
fn level(sound: &[i16]) -> f64 {
    let energy: f64 = sound.iter().map(|sample| f64::from(*sample).powi(2)).sum();
    let loudness = (energy / sound.len().max(1) as f64).sqrt() / f64::from(i16::MAX);
    (1.0 + 20.0 * loudness.max(1e-6).log10() / 50.0).clamp(0.0, 1.0)
}
