//! Real-world sound files, uploaded and heard in a call.

use patchcord_simulator::agent::AgentOptions;
use patchcord_simulator::sound::{self, PHONE_RATE};
use serde_json::{Value, json};

use super::client::{ADMIN, Client, WRITER};
use super::with_keys;
use crate::people::{SECOND, caller_hears_next, quiet_caller, speech_synthesis};
use crate::service::Talk;

/// A quarter of a second each, in this order.
const NOTES_HZ: [f64; 4] = [500.0, 800.0, 1100.0, 700.0];

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../media/src/prompt/fixtures/", $name))
    };
}

const VOICE_NOTE: &[u8] = fixture!("melody-opus-no-last-position.ogg");
const CUT_OUT: &[u8] = fixture!("melody-opus-from-1h.ogg");
const CHAINED: &[u8] = fixture!("melody-chained.opus");
const MP3: &[u8] = fixture!("melody.mp3");
const MID_FRAME: &[u8] = fixture!("melody-begins-in-a-frame.mp3");
const FLAC: &[u8] = fixture!("melody-min-block-0.flac");
const ULAW: &[u8] = fixture!("melody-ulaw.wav");

async fn quiet_talk() -> anyhow::Result<(Talk, Client, Client, String)> {
    let agent = AgentOptions { greeting: Vec::new(), ..speech_synthesis() };
    let mut talk = Talk::start_with(quiet_caller(), agent, with_keys()).await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let (admin, writer) = (Client::new(&talk.service, ADMIN), Client::new(&talk.service, WRITER));
    Ok((talk, admin, writer, id))
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_other_players_play_are_heard_by_the_caller() -> anyhow::Result<()> {
    let (mut talk, admin, writer, id) = quiet_talk().await?;
    let streamed = {
        let mut wav = ULAW.to_vec();
        for size in [4..8, 40..44] {
            wav[size].fill(0xff);
        }
        wav
    };
    for (name, kind, file, melodies) in [
        ("voice-note", "audio/ogg", VOICE_NOTE.to_vec(), 1),
        ("cut-out", "audio/ogg", CUT_OUT.to_vec(), 1),
        ("chained", "audio/opus", CHAINED.to_vec(), 2),
        ("junk", "audio/mpeg", [b"\r\n\r\n", &MP3[45..]].concat(), 1),
        ("mid-frame", "audio/mpeg", MID_FRAME.to_vec(), 1),
        ("min-block-0", "audio/flac", FLAC.to_vec(), 1),
        ("streamed", "audio/wav", streamed, 1),
    ] {
        let made = admin.upload(&format!("/v1/prompts/{name}"), kind, file).await?;
        assert_eq!((made.status, &made.body["warnings"]), (201, &json!([])), "{name}: {made:?}");
        let before = talk.call.heard()?.len();
        assert_eq!(writer.act(&id, "play", json!({ "prompts": [name] })).await?.status, 202, "{name}");
        assert_eq!(talk.service.event("call.playback_finished").await?.data["completed"], true, "{name}");
        caller_hears_next(&talk.call, SECOND / 5).await?;
        let expected = NOTES_HZ.repeat(melodies);
        assert_eq!(notes(&talk.call.heard()?[before..]), expected, "{name}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_odd_about_a_prompt_is_told_with_it() -> anyhow::Result<()> {
    let (_talk, admin, writer, _) = quiet_talk().await?;
    let samples = sound::tone(NOTES_HZ[0], PHONE_RATE, 1000);
    let mut opposite = sound::write_wav(PHONE_RATE, &samples.iter().flat_map(|it| [*it, -*it]).collect::<Vec<_>>())?;
    // Two channels, four bytes for a sample of both.
    (opposite[22], opposite[32]) = (2, 4);
    let silence = sound::write_wav(PHONE_RATE, &[0; PHONE_RATE as usize])?;
    for (name, file, code) in [("opposite", opposite, "opposite_phase"), ("silence", silence, "silent")] {
        let made = admin.upload(&format!("/v1/prompts/{name}"), "audio/wav", file).await?;
        assert_eq!((made.status, &made.body["warnings"][0]["code"]), (201, &code.into()), "{made:?}");
        assert!(made.body["warnings"][0]["sentence"].as_str().is_some_and(|it| it.len() > 20), "{made:?}");
    }
    let list = writer.get("/v1/prompts").await?.body;
    let odd: Vec<&Value> =
        list["prompts"].as_array().unwrap().iter().filter(|it| it["warnings"] != json!([])).collect();
    assert_eq!(odd.iter().map(|it| &it["name"]).collect::<Vec<_>>(), ["opposite", "silence"]);
    assert_eq!(list["problems"], json!([]), "they are used all the same");
    Ok(())
}

/// The notes that are heard, each once.
fn notes(heard: &[i16]) -> Vec<f64> {
    let at = |part: &[i16]| NOTES_HZ.into_iter().find(|note| sound::hears(part, PHONE_RATE, *note));
    let mut notes: Vec<f64> = heard.chunks_exact(PHONE_RATE as usize / 10).filter_map(at).collect();
    notes.dedup();
    notes
}
