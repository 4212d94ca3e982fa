//! The levels of music under speech, and the times in which they change.

use super::*;
use crate::playout::power;
use std::f64::consts::TAU;

#[test]
fn it_steps_back_12_db_in_100_ms_and_returns_in_600() {
    let mut music = Music::new(vec![steady_tone(440.0)]).unwrap();
    let full = settled(&mut music, false);
    let levels: Vec<f64> = (0..10).map(|_| level_db(&music.play(true), full)).collect();
    println!("attack {levels:.1?}");
    assert!(levels[0] > -3.0 && levels[1] < levels[0], "{levels:?}");
    assert!((levels[5] + 12.0).abs() < 1.0 && (levels[9] + 12.0).abs() < 1.0, "{levels:?}");
    let levels: Vec<f64> = (0..60).map(|_| level_db(&music.play(false), full)).collect();
    println!("release {levels:.1?}");
    assert!((levels[9] + 12.0).abs() < 1.0, "held between two words: {levels:?}");
    assert!(levels[24] < -4.0 && levels[24] > -8.0, "half way after 300 ms: {levels:?}");
    assert!(levels[41].abs() < 1.0, "{levels:?}");
}

#[test]
fn it_begins_changes_and_ends_softly() {
    let mut music = Music::new(vec![steady_tone(440.0)]).unwrap();
    let mut heard: Vec<i16> = (0..50).flat_map(|_| music.play(false)).collect();
    music.change_to(vec![steady_tone(880.0)]);
    heard.extend((0..50).flat_map(|_| music.play(false)));
    assert!(music.is_wanted());
    music.end();
    heard.extend((0..20).flat_map(|_| music.play(false)));
    assert!(music.is_over() && !music.is_wanted());
    assert!(power(&heard[..FRAME_SAMPLES]) < power(&heard[30 * FRAME_SAMPLES..31 * FRAME_SAMPLES]) / 50);
    assert_eq!(power(&heard[heard.len() - FRAME_SAMPLES..]), 0);
    let step = heard.windows(2).map(|pair| pair[0].abs_diff(pair[1])).max().unwrap();
    // A tone of 880 Hz at this level moves 1380 from sample to sample.
    assert!(step < 1600, "{step}");
}

#[test]
fn one_prompt_follows_the_other_and_the_first_again() {
    let (first, second) = (Prompt::from_pcm(&[0; 320], RATE).unwrap(), steady_tone(440.0));
    let frames = [first.frames().len(), second.frames().len()];
    let mut music = Music::new(vec![first, second]).unwrap();
    for _ in 0..3 * (frames[0] + frames[1]) {
        assert!(music.next_frame < frames[music.prompt]);
        music.play(false);
    }
    assert_eq!((music.prompt, music.next_frame), (0, 0));
}

fn settled(music: &mut Music, somebody_speaks: bool) -> i64 {
    (0..50).map(|_| power(&music.play(somebody_speaks))).last().unwrap()
}

fn level_db(frame: &Frame, full: i64) -> f64 {
    10.0 * (power(frame) as f64 / full as f64).log10()
}

fn steady_tone(hz: f64) -> Prompt {
    let samples: Vec<i16> =
        (0..64_000).map(|index| (4000.0 * (TAU * hz * f64::from(index) / 16_000.0).sin()) as i16).collect();
    Prompt::from_pcm(&samples, RATE).unwrap()
}
