//! Lists and repetition, frame by frame and by ear.

use super::*;
use crate::opus::{Decoder, SampleRate};
use crate::prompt::Builtin;
use std::f64::consts::TAU;

const RATE: SampleRate = SampleRate::Hz16000;
const FRAME: usize = 320;

#[test]
fn a_list_plays_in_its_order_and_ends_once() {
    let (one, two) = (signal(300.0), signal(700.0));
    let mut cursor = Cursor::new(vec![one.clone(), two.clone(), one.clone()], Repeat::Once);
    let expected: Vec<&[u8]> =
        [&one, &two, &one].iter().flat_map(|prompt| prompt.frames()).map(|frame| &frame[..]).collect();
    let mut frame = Vec::new();
    for (index, packet) in expected.iter().enumerate() {
        let filled = cursor.fill(&mut frame);
        assert_eq!(&frame[..], *packet, "{index}");
        assert!(filled.talking);
        assert_eq!(filled.ended, index + 1 == expected.len(), "{index}");
    }
    assert_eq!(cursor.fill(&mut frame), Played { talking: false, ended: true });
    assert_eq!(frame, SILENCE);
}

#[test]
fn a_list_that_repeats_begins_anew_after_its_last_prompt() {
    let list = vec![signal(300.0), Prompt::from_pcm(&tone(440.0, 100), RATE).unwrap()];
    let once: Vec<Vec<u8>> = list.iter().flat_map(|prompt| prompt.frames()).map(|frame| frame.to_vec()).collect();
    let played = packets(list, once.len() * 3);
    for (index, packet) in played.iter().enumerate() {
        assert_eq!(packet, &once[index % once.len()], "{index}");
    }
}

#[test]
fn an_empty_list_ends_at_once() {
    for repeat in [Repeat::Once, Repeat::Loop] {
        let mut frame = vec![1, 2, 3];
        let filled = Cursor::new(Vec::new(), repeat).fill(&mut frame);
        assert_eq!((filled, &frame[..]), (Played { talking: false, ended: true }, &SILENCE[..]));
    }
}

#[test]
fn signals_and_cadences_repeat_as_they_are() {
    for prompt in [signal(300.0), Prompt::builtin(Builtin::Ringback).unwrap(), Prompt::builtin(Builtin::Busy).unwrap()]
    {
        let once: Vec<Vec<u8>> = prompt.frames().iter().map(|frame| frame.to_vec()).collect();
        let played = packets(vec![prompt], once.len() * 2);
        assert_eq!(played, [&once[..], &once[..]].concat());
    }
}

#[test]
fn a_prompt_repeats_one_crossfade_early_without_a_gap() {
    // Its end is filled up to a whole frame, and the seam leaves that out.
    let mut sound = tone(440.0, 100);
    sound.truncate(100 * FRAME - 77);
    let prompt = Prompt::from_pcm(&sound, RATE).unwrap();
    let played = packets(vec![prompt.clone()], 400);
    let period = 90;
    assert_eq!(played[..91], prompt.frames()[..91], "the first pass is the prompt");
    assert_ne!(played[91], prompt.frames()[91]);
    assert_eq!(played[106..181], prompt.frames()[16..91], "the second pass goes on behind the seam");
    for index in 91..played.len() - period {
        assert_eq!(played[index], played[index + period], "{index}");
    }
    // The crossfade keeps the tone as loud as it is everywhere else.
    let heard = decoded(&played);
    for (index, frame) in heard.chunks(FRAME).enumerate().skip(2) {
        let power = frame.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / FRAME as f64;
        let level = 10.0 * (power / (4000.0f64.powi(2) / 2.0)).log10();
        assert!(level.abs() < 3.5, "frame {index} is {level} dB beside the tone");
    }
}

#[test]
fn no_seam_clicks() {
    // A click is a jump of the wave that the sound itself does not have. A tone whose end meets its beginning in the
    // worst phase, and two voices of different pitch and loudness.
    let worst = tone_from(440.25, 0.25, 100);
    let glide: Vec<i16> = (0..100 * FRAME)
        .map(|index| {
            let at = index as f64 / 16_000.0;
            ((3000.0 + 2000.0 * at) * (TAU * (200.0 + 150.0 * at) * at).sin()) as i16
        })
        .collect();
    for (name, sound) in [("tone", tone(440.0, 100)), ("worst", worst), ("glide", glide)] {
        let heard = decoded(&packets(vec![Prompt::from_pcm(&sound, RATE).unwrap()], 400));
        let jump = |pcm: &[i16]| {
            pcm.windows(2).map(|pair| i32::from(pair[1]) - i32::from(pair[0])).map(i32::abs).max().unwrap()
        };
        let own = jump(&heard[4 * FRAME..90 * FRAME]);
        for pass in 1..4 {
            let seam = &heard[(pass * 90 - 3) * FRAME..(pass * 90 + 35) * FRAME];
            assert!(jump(seam) <= own * 5 / 4, "{name}, pass {pass}: {} where the sound has {own}", jump(seam));
        }
        // Cutting without a seam does jump, or this test would prove nothing.
        if name == "worst" {
            let cut = [&sound[sound.len() - 10..], &sound[..10]].concat();
            assert!(jump(&cut) > own * 4, "{name}: {} and {own}", jump(&cut));
        }
    }
}

#[test]
fn what_follows_the_seam_is_heard_as_in_the_first_pass() {
    let glide: Vec<i16> = (0..150 * FRAME)
        .map(|index| {
            let at = index as f64 / 16_000.0;
            (5000.0 * (TAU * (200.0 + 100.0 * at) * at).sin()) as i16
        })
        .collect();
    let heard = decoded(&packets(vec![Prompt::from_pcm(&glide, RATE).unwrap()], 300));
    let period = 140 * FRAME;
    for start in [16, 17, 18, 20, 40, 120] {
        let range = start * FRAME..(start + 5) * FRAME;
        let (first, second) = (&heard[range.clone()], &heard[range.start + period..range.end + period]);
        let difference = first.iter().zip(second).map(|(left, right)| f64::from(*left) - f64::from(*right));
        let noise = difference.map(|sample| sample.powi(2)).sum::<f64>();
        let sound = first.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>();
        let distance = 10.0 * (sound / noise.max(1.0)).log10();
        assert!(distance > 20.0, "from frame {start} on the passes differ by -{distance:.1} dB");
    }
}

#[test]
fn a_second_is_long_enough_for_a_seam() {
    let prompt = Prompt::from_pcm(&tone(440.0, 50), RATE).unwrap();
    assert!(prompt.seam().is_some());
    assert!(Prompt::from_pcm(&tone(440.0, 49), RATE).unwrap().seam().is_none());
}

/// Too short for a seam.
fn signal(hz: f64) -> Prompt {
    Prompt::from_pcm(&tone(hz, 10), RATE).unwrap()
}

fn tone(hz: f64, frames: usize) -> Vec<i16> {
    tone_from(hz, 0.0, frames)
}

/// A tone that begins so many turns into its wave, and ends wherever it is.
fn tone_from(hz: f64, turns: f64, frames: usize) -> Vec<i16> {
    let wave = |index: usize| 4000.0 * (TAU * (turns + hz * index as f64 / 16_000.0)).sin();
    (0..frames * FRAME).map(|index| wave(index) as i16).collect()
}

fn packets(prompts: Vec<Prompt>, count: usize) -> Vec<Vec<u8>> {
    let mut cursor = Cursor::new(prompts, Repeat::Loop);
    let mut packet = Vec::new();
    let mut next = || {
        let filled = cursor.fill(&mut packet);
        assert_eq!(filled, Played { talking: true, ended: false });
        packet.clone()
    };
    (0..count).map(|_| next()).collect()
}

fn decoded(packets: &[Vec<u8>]) -> Vec<i16> {
    let mut decoder = Decoder::new(RATE).unwrap();
    let mut heard = Vec::new();
    for packet in packets {
        decoder.decode(packet, &mut heard).unwrap();
    }
    heard
}
