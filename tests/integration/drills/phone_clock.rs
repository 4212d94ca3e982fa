//! Phones whose clocks run 200 ppm fast and slow: in five minutes that is three frames too many or too few. The delay from
//! phone to caller does not grow, and no sound is lost: what the drift costs is taken from the pauses.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::sip_phone::{PhoneAudio, SipPhone, SipPhoneOptions};
use patchcord_simulator::sound::{self, PHONE_RATE};

use super::{lasting, report};
use crate::people::{AGENT_HZ, SECOND_AGENT_HZ, caller, caller_hears_next, objections};
use crate::service::{TestOptions, TestService};

const DRIFT_PPM: i32 = 200;
/// In which the onset of a mark is searched, in samples: 5 ms.
const BLOCK: usize = PHONE_RATE as usize / 200;
const FRAME: usize = PHONE_RATE as usize / 50;
/// The phone pauses for ten frames.
const LEAST_PAUSE_FRAMES: usize = 6;
/// A frame is taken out once there is one too many, in a pause; and the jitter buffer may wait for one more.
const MOST_GROWTH_MS: f64 = 45.0;
/// A tone has a third of full scale.
const QUIET_RMS: f64 = 1000.0;
/// A mark that is heard later than this was not heard.
const LATEST: Duration = Duration::from_secs(1);
/// Beginning and end are compared by so many marks each: 20 s.
const COMPARED: usize = 10;

struct Heard {
    delays_ms: Vec<f64>,
    marks: usize,
    /// Frames without sound that are no pause.
    dropouts: usize,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes five minutes: make drills"]
async fn a_phone_whose_clock_is_wrong_is_heard_without_growing_delay() -> anyhow::Result<()> {
    let lasting = lasting(300);
    let (fast, slow) = tokio::try_join!(call(DRIFT_PPM, lasting), call(-DRIFT_PPM, lasting))?;
    let corrections = (lasting.as_secs_f64() * f64::from(DRIFT_PPM) / 1e6 / 0.02).ceil() as usize;
    for (name, heard) in [("fast", fast), ("slow", slow)] {
        let mean = |delays: &[f64]| delays.iter().sum::<f64>() / delays.len() as f64;
        let compared = COMPARED.min(heard.delays_ms.len() / 2);
        let first = mean(&heard.delays_ms[..compared]);
        let last = mean(&heard.delays_ms[heard.delays_ms.len() - compared..]);
        let most = heard.delays_ms.iter().copied().fold(0.0, f64::max);
        report(
            "phone with a wrong clock",
            &format!(
                "{DRIFT_PPM} ppm {name}, {} s: delay {first:.0} ms at first, {last:.0} ms at last, {most:.0} ms at most; {} of \
                 {} marks heard; {} frames lost, {corrections} pauses a frame shorter or longer",
                lasting.as_secs(),
                heard.delays_ms.len(),
                heard.marks,
                heard.dropouts
            ),
        );
        assert_eq!(heard.delays_ms.len(), heard.marks);
        assert!((last - first).abs() < MOST_GROWTH_MS, "from {first} to {last} ms");
        assert_eq!(heard.dropouts, 0);
    }
    Ok(())
}

async fn call(clock_drift_ppm: i32, lasting: Duration) -> anyhow::Result<Heard> {
    let options = SipPhoneOptions {
        tone_hz: AGENT_HZ,
        mark_hz: Some(SECOND_AGENT_HZ),
        clock_drift_ppm,
        ..SipPhoneOptions::default()
    };
    let phone = SipPhone::start(options).await?;
    let sip = "[sip]\nlisten = [\"udp:127.0.0.1:0\"]".to_owned();
    let service = TestService::start_with(&phone.uri(), TestOptions { sip, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstSound).await?;
    let ends_at = Instant::now() + lasting;
    while Instant::now() < ends_at {
        caller_hears_next(&call, Duration::from_secs(5)).await?;
    }
    let heard = judge(&call, &*phone.audio().await?)?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(heard)
}

fn judge(call: &Call, audio: &PhoneAudio) -> anyhow::Result<Heard> {
    let (pcm, arrivals) = (call.heard()?, arrivals(call)?);
    let holds_mark =
        |block: &[i16]| sound::rms(block) > QUIET_RMS && sound::share(block, PHONE_RATE, SECOND_AGENT_HZ) > 0.5;
    let is_mark: Vec<bool> = pcm.chunks_exact(BLOCK).map(holds_mark).collect();
    let mut onsets = Vec::new();
    for (block, pair) in is_mark.windows(2).enumerate() {
        let sample = (block + 1) * BLOCK;
        // A frame reaches the caller whole: what begins in its middle is there as soon as its beginning.
        if !pair[0]
            && pair[1]
            && let Some((_, at)) = arrivals.range(..=sample / FRAME).next_back()
        {
            onsets.push(*at + Duration::from_secs_f64((sample % FRAME) as f64 / f64::from(PHONE_RATE)));
        }
    }
    let first_sound = onsets.first().copied().context("a mark is heard")?;
    let last_heard = arrivals.values().next_back().copied().context("a packet")?;
    // Earlier ones were sent before the caller was there.
    let is_due = |mark: &Instant| *mark >= first_sound && *mark + LATEST <= last_heard;
    let marks: Vec<Instant> = audio.marks().into_iter().filter(is_due).collect();
    let delay = |mark: &Instant| {
        let onset = onsets.iter().find(|onset| **onset >= *mark && onset.duration_since(*mark) < LATEST)?;
        Some(onset.duration_since(*mark).as_secs_f64() * 1e3)
    };
    let delays_ms = marks.iter().filter_map(delay).collect();
    let first_frame = is_mark.iter().position(|mark| *mark).unwrap_or(0) * BLOCK / FRAME;
    let frames = pcm.chunks_exact(FRAME).skip(first_frame + 1);
    let is_quiet: Vec<bool> = frames.map(|frame| sound::rms(frame) < QUIET_RMS).collect();
    let runs = is_quiet.chunk_by(|one, next| one == next).filter(|run| run[0]);
    let dropouts = runs.map(<[bool]>::len).filter(|frames| *frames < LEAST_PAUSE_FRAMES).sum();
    Ok(Heard { delays_ms, marks: marks.len(), dropouts })
}

/// When each frame of what was heard arrived, by its place.
fn arrivals(call: &Call) -> anyhow::Result<BTreeMap<usize, Instant>> {
    let packets = call.heard_packets();
    let first = packets.iter().find(|packet| packet.payload_type == 111).context("an Opus packet")?.timestamp;
    let of_codec = packets.iter().filter(|packet| packet.payload_type == 111);
    Ok(of_codec.map(|packet| ((packet.timestamp.wrapping_sub(first) / 960) as usize, packet.at)).collect())
}
