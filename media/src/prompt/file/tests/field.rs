//! Files as users have them: each is a melody of one second that every player plays, and must be heard whole.

mod bytes;

use super::*;
use bytes::{chunk, flac_of_silence, melody, pcm, repage, riff, wav16};

const ULAW: &[u8] = include_bytes!("../../fixtures/melody-ulaw.wav");
const ALAW: &[u8] = include_bytes!("../../fixtures/melody-alaw.wav");
const MELODY_MP3: &[u8] = include_bytes!("../../fixtures/melody.mp3");
const MELODY_44100: &[u8] = include_bytes!("../../fixtures/melody-44100.mp3");
const MID_FRAME: &[u8] = include_bytes!("../../fixtures/melody-begins-in-a-frame.mp3");
const TWO_XING: &[u8] = include_bytes!("../../fixtures/melody-two-xing.mp3");
const CHAINED: &[u8] = include_bytes!("../../fixtures/melody-chained.opus");
const MELODY_OPUS: &[u8] = include_bytes!("../../fixtures/melody-opus.ogg");
const NO_LAST_POSITION: &[u8] = include_bytes!("../../fixtures/melody-opus-no-last-position.ogg");
const EMPTY_LAST_PAGE: &[u8] = include_bytes!("../../fixtures/melody-opus-empty-last-page.ogg");
const FROM_1H: &[u8] = include_bytes!("../../fixtures/melody-opus-from-1h.ogg");
const MELODY_VORBIS: &[u8] = include_bytes!("../../fixtures/melody-vorbis.ogg");
const OGG_FLAC: &[u8] = include_bytes!("../../fixtures/melody-flac.oga");
const MIN_BLOCK_0: &[u8] = include_bytes!("../../fixtures/melody-min-block-0.flac");

/// Where the first frame of [`MELODY_MP3`] stands, behind its tag.
const MP3_FRAMES: usize = 45;

const NOTES_HZ: [f64; 4] = [500.0, 800.0, 1100.0, 700.0];

#[test]
fn granule_positions_need_not_begin_at_zero_nor_be_there() {
    let shifted = |bytes: &[u8], by: u64| repage(bytes, |page| page.shift(by));
    let unended = |bytes: &[u8]| repage(bytes, |page| page.set_last_position(u64::MAX));
    hears_melody("opus", MELODY_OPUS);
    hears_melody("opus, -1 on the last page", NO_LAST_POSITION);
    hears_melody("opus, an empty last page with -1", EMPTY_LAST_PAGE);
    hears_melody("opus, from one hour on", FROM_1H);
    hears_melody("vorbis", MELODY_VORBIS);
    hears_melody("vorbis, from ten minutes on", &shifted(MELODY_VORBIS, 600 * 8_000));
    hears_melody("vorbis, -1 on the last page", &unended(MELODY_VORBIS));
    hears_melody("flac", OGG_FLAC);
    hears_melody("flac, from a day on", &shifted(OGG_FLAC, 86_400 * 8_000));
    hears_melody("flac, -1 on the last page", &unended(OGG_FLAC));
    hears_melody("opus, an end before the beginning", &repage(MELODY_OPUS, |page| page.set_last_position(1)));
    hears_melody("opus, no position at all", &repage(MELODY_OPUS, |page| page.set_position(u64::MAX)));
    hears_melody("opus, the highest position", &repage(MELODY_OPUS, |page| page.set_last_position(u64::MAX - 1)));
}

#[test]
fn what_fills_up_the_last_ogg_page_is_left_out() {
    for (name, start) in [("at zero", 0), ("later", 3600 * 48_000)] {
        let shifted = repage(MELODY_OPUS, |page| page.shift(start));
        let whole = samples(&shifted, None).len();
        // 10 ms less, and 160 samples at 16 kHz.
        let shorter = repage(&shifted, |page| page.shorten(480));
        assert_eq!(samples(&shorter, None).len(), whole - 160, "{name}");
    }
}

#[test]
fn what_ends_within_a_page_or_a_frame_is_taken_with_a_warning() {
    for (name, bytes) in
        [("opus", MELODY_OPUS), ("vorbis", MELODY_VORBIS), ("mp3 without a length", &MELODY_MP3[MP3_FRAMES..])]
    {
        let contents = read(&bytes[..bytes.len() - 7], None).unwrap();
        assert_eq!(contents.warnings, [PromptWarning::BreaksOff], "{name}");
        assert!((13_000..17_000).contains(&contents.samples.len()), "{name}: {}", contents.samples.len());
    }
    let mut damaged = MELODY_OPUS.to_vec();
    let at = damaged.len() - 600;
    damaged[at] ^= 1;
    let contents = read(&damaged, None).unwrap();
    assert_eq!(contents.warnings, [PromptWarning::Damaged]);
    assert!((13_000..15_000).contains(&contents.samples.len()), "one page of six is lost: {}", contents.samples.len());
}

#[test]
fn sizes_in_wav_headers_are_not_believed() {
    let bytes = wav16(&melody(8_000));
    assert_eq!((bytes.len(), &bytes[36..40]), (16_044, &b"data"[..]));
    let sized = |riff: u32, data: u32| {
        let mut bytes = bytes.clone();
        bytes[4..8].copy_from_slice(&riff.to_le_bytes());
        bytes[40..44].copy_from_slice(&data.to_le_bytes());
        bytes
    };
    for (name, riff, data) in [
        ("right", 16_036, 16_000),
        ("both 0", 0, 0),
        ("both 2000000000", 2_000_000_036, 2_000_000_000),
        ("both 7fffffff", 0x7fff_ffff, 0x7fff_ffff),
        ("both ffffffff", u32::MAX, u32::MAX),
        ("both 80000000", 0x8000_0024, 0x8000_0000),
        ("data 0", 16_036, 0),
        ("data 8 too long", 16_036, 16_008),
        ("data 8 too short", 16_036, 15_992),
        ("data ffffffff", 16_036, u32::MAX),
        ("data a tenth", 16_036, 1_600),
        ("data thrice, riff right", 16_036, 48_000),
        ("riff 1 short", 16_035, 16_000),
        ("riff 8 short", 16_028, 16_000),
        ("riff 36", 36, 16_000),
        ("riff 1", 1, 16_000),
        ("riff and data 8 too long", 16_044, 16_008),
    ] {
        hears_melody(name, &sized(riff, data));
    }
    let truncated = read(&bytes[..8_000], None);
    assert!(matches!(truncated, Err(PromptError::BreaksOff)), "{truncated:?}");
}

#[test]
fn chunks_around_the_samples_do_not_hide_them() {
    let (format, data) = (chunk(b"fmt ", &pcm(1, 1, 8_000, 16)), chunk(b"data", &wav16(&melody(8_000))[44..]));
    let info = chunk(b"LIST", b"INFOISFT\x40\0\0\0sound.");
    let odd = [&b"LIST\x03\0\0\0abc\0"[..]].concat();
    let unpadded = &b"LIST\x03\0\0\0abc"[..];
    let too_long = &b"LIST\xff\xff\0\0INFO"[..];
    let short_format = [&b"fmt \x12\0\0\0"[..], &pcm(1, 1, 8_000, 16)].concat();
    for (name, chunks) in [
        ("an inner size too long", [&format[..], &info, &data]),
        ("odd and padded", [&format, &odd, &data]),
        ("odd and not padded", [&format, unpadded, &data]),
        ("longer than the file", [&format, too_long, &data]),
        ("a format chunk two bytes shorter than it says", [&short_format, &[], &data]),
        ("behind the samples", [&format, &data, &info]),
    ] {
        hears_melody(name, &riff(b"RIFF", &chunks.concat()));
    }
    let mut streamed = data.clone();
    streamed[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    for id in [b"RF64", b"BW64"] {
        let sizes = [16_100u64, 16_000, 8_000].map(u64::to_le_bytes).concat();
        let ds64 = chunk(b"ds64", &[&sizes[..], &[0; 4]].concat());
        let tail = chunk(b"JUNK", &[0x55; 4_000]);
        hears_melody("64-bit sizes", &riff(id, &[&ds64[..], &format, &streamed, &tail].concat()));
    }
}

#[test]
fn wav_samples_of_every_kind_are_read_whatever_the_format_chunk_has() {
    let guid = b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71";
    let extensible = |tag: u16, rate: u32, bits: u16| {
        let plain = pcm(0xfffe, 1, rate, bits);
        [&plain[..], &[22, 0], &bits.to_le_bytes(), &[4, 0, 0, 0], &tag.to_le_bytes(), guid].concat()
    };
    for (name, tag, file) in [("u-law", 7, ULAW), ("a-law", 6, ALAW)] {
        let data = chunk(b"data", &file[44..]);
        let plain = pcm(tag, 1, 8_000, 8);
        let sizes = [0, 2, 4, 24].map(|more| [&plain[..], &vec![0; more]].concat());
        for format in sizes.into_iter().chain([extensible(tag, 8_000, 8), pcm(tag, 1, 8_000, 0)]) {
            let file = riff(b"RIFF", &[chunk(b"fmt ", &format), data.clone()].concat());
            hears_melody(&format!("{name}, {} bytes", format.len()), &file);
        }
    }
    let wide = |bytes: &dyn Fn(f64) -> Vec<u8>| melody(16_000).into_iter().flat_map(bytes).collect::<Vec<u8>>();
    let s24 = wide(&|sample| ((sample * 8_388_607.0) as i32).to_le_bytes()[..3].to_vec());
    let s32 = wide(&|sample| ((sample * 2_147_483_647.0) as i32).to_le_bytes().to_vec());
    let float = wide(&|sample| (sample as f32).to_le_bytes().to_vec());
    let double = wide(&|sample| sample.to_le_bytes().to_vec());
    for (tag, bits, data) in [(1, 24, s24), (1, 32, s32), (3, 32, float), (3, 64, double)] {
        for format in [pcm(tag, 1, 16_000, bits), extensible(tag, 16_000, bits)] {
            let file = riff(b"RIFF", &[chunk(b"fmt ", &format), chunk(b"data", &data)].concat());
            hears_melody(&format!("kind {tag} with {bits} bits"), &file);
        }
    }
    let mp3 = riff(b"RIFF", &[chunk(b"fmt ", &pcm(0x55, 1, 16_000, 0)), chunk(b"data", MELODY_MP3)].concat());
    hears_melody("MP3 in WAV", &mp3);
    let adpcm = riff(b"RIFF", &[chunk(b"fmt ", &pcm(0x11, 1, 8_000, 4)), chunk(b"data", &[0; 400])].concat());
    assert_eq!(
        read(&adpcm, None).unwrap_err().to_string(),
        "the sound cannot be decoded: WAV with samples of kind 0x0011 and 4 bits is not read; convert it to WAV with 16 bits"
    );
}

#[test]
fn junk_before_between_and_behind_mp3_frames_is_passed_over() {
    let frames = &MELODY_MP3[MP3_FRAMES..];
    let tag = &MELODY_MP3[..MP3_FRAMES];
    let id3v1 = [&b"TAG"[..], &[b' '; 125]].concat();
    let ape = [&b"APETAGEX\xd0\x07\0\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..], &[0xff; 40]].concat();
    let lost_tag = &b"ID3\x04\0\0\x7f\x7f\x7f\x7fTALB"[..];
    let page = "<html>not sound</html>".repeat(40);
    hears_melody("as it is", MELODY_MP3);
    hears_melody("begins in a frame", MID_FRAME);
    for (name, junk) in [
        ("a line end", &b"\r\n"[..]),
        ("eight ff", &[0xff; 8]),
        ("four spaces behind a tag", &[tag, b"    "].concat()),
        ("zeros behind a tag", &[tag, &[0; 3000]].concat()),
        ("two tags", &[tag, tag].concat()),
        ("a tag longer than the file", lost_tag),
        ("a page", page.as_bytes()),
    ] {
        hears_melody(name, &[junk, frames].concat());
    }
    for (name, junk) in [("ID3v1", &id3v1[..]), ("APE", &ape), ("a line end", b"\n"), ("zeros", &[0; 500])] {
        hears_melody(name, &[frames, junk].concat());
    }
    let far = [&vec![b'x'; 70_000][..], frames].concat();
    assert!(matches!(read(&far, Some("mp3")), Err(PromptError::UnknownFormat { .. })));
}

#[test]
fn flac_headers_that_the_frames_contradict_are_read() {
    hears_melody("smallest block 0", MIN_BLOCK_0);
    let sized = |smallest: u16, largest: u16| {
        let mut bytes = MIN_BLOCK_0.to_vec();
        bytes[8..10].copy_from_slice(&smallest.to_be_bytes());
        bytes[10..12].copy_from_slice(&largest.to_be_bytes());
        bytes
    };
    for (smallest, largest) in [(0, 0), (15, 4096), (16, 4096), (4096, 4096), (8192, 4096), (16, 16), (u16::MAX, 0)] {
        hears_melody(&format!("blocks of {smallest} to {largest}"), &sized(smallest, largest));
    }
    let mut frame_sizes = MIN_BLOCK_0.to_vec();
    frame_sizes[12..18].copy_from_slice(&[0xff, 0xff, 0xff, 0, 0, 1]);
    hears_melody("frames of 16 MB to 1 byte", &frame_sizes);
    let mut length = MIN_BLOCK_0.to_vec();
    length[21] |= 0x0f;
    hears_melody("a length of days", &length);
    // A seek table twice, before the blocks that are there.
    let seek_table = &b"\x03\0\0\x12\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..];
    hears_melody("two seek tables", &[&MIN_BLOCK_0[..42], seek_table, seek_table, &MIN_BLOCK_0[42..]].concat());
}

#[test]
fn all_sounds_of_a_file_are_played() {
    let frames = &MELODY_MP3[MP3_FRAMES..];
    let wav = wav16(&melody(8_000));
    for (name, bytes) in [
        ("a chain of Ogg Opus", CHAINED.to_vec()),
        ("two MP3s with Xing headers", TWO_XING.to_vec()),
        ("two MP3s without", [frames, frames].concat()),
        ("two MP3s with tags", [MELODY_MP3, MELODY_MP3].concat()),
        ("MP3s of two rates", [frames, MELODY_44100].concat()),
        ("MP3s of two rates, the other way", [MELODY_44100, frames].concat()),
        ("Opus and Vorbis", [MELODY_OPUS, MELODY_VORBIS].concat()),
        ("two Ogg FLACs", [OGG_FLAC, OGG_FLAC].concat()),
        ("two FLACs", [MIN_BLOCK_0, MIN_BLOCK_0].concat()),
        ("two WAVs", [&wav[..], &wav].concat()),
        ("WAVs of two kinds", [&wav[..], ULAW].concat()),
        ("two data chunks", [&wav[..], &wav[36..]].concat()),
    ] {
        let contents = read(&bytes, None).unwrap();
        assert_eq!(contents.warnings, [], "{name}");
        let length = contents.samples.len();
        assert!((31_000..=34_800).contains(&length), "{name}: {length} samples");
        is_melody(name, &contents.samples[..length / 2]);
        is_melody(name, &contents.samples[length / 2..]);
    }
    // The second one says that it is Opus of three channels.
    let mut three = MELODY_OPUS.to_vec();
    three[37] = 3;
    let three = repage(&three, |_| {});
    let contents = read(&[MELODY_OPUS, &three].concat(), None).unwrap();
    assert_eq!(contents.warnings, [PromptWarning::SoundLeftOut]);
    is_melody("the first of two", &contents.samples);
}

#[test]
fn channels_that_cancel_each_other_are_heard_one_alone() {
    let melody = melody(16_000);
    let mixed = |shares: &[f64], level: &dyn Fn(usize) -> f64| {
        let samples = melody.iter().enumerate().flat_map(|(at, sample)| {
            shares.iter().enumerate().map(move |(channel, share)| {
                let turned = if channel == 1 { level(at) } else { 1.0 };
                ((sample * share * turned * 32_767.0) as i16).to_le_bytes()
            })
        });
        let data: Vec<u8> = samples.flatten().collect();
        riff(b"RIFF", &[chunk(b"fmt ", &pcm(1, shares.len() as u16, 16_000, 16)), chunk(b"data", &data)].concat())
    };
    let always = |_: usize| 1.0;
    // The last quarter is turned over.
    let at_the_end = |at: usize| if at < 12_000 { 1.0 } else { -1.0 };
    for (name, file) in [
        ("opposite", mixed(&[1.0, -1.0], &always)),
        ("opposite, the left a little louder", mixed(&[1.0, -0.9], &always)),
        ("opposite, the right louder", mixed(&[0.8, -1.0], &always)),
        ("opposite in its last quarter", mixed(&[1.0, 1.0], &at_the_end)),
        ("four channels", mixed(&[1.0, -1.0, 0.5, -0.5], &always)),
    ] {
        let contents = read(&file, None).unwrap();
        assert_eq!(contents.warnings, [PromptWarning::OppositePhase], "{name}");
        is_melody(name, &contents.samples);
    }
    for (name, file) in [
        ("alike", mixed(&[1.0, 1.0], &always)),
        ("left alone", mixed(&[1.0, 0.0], &always)),
        ("one of eight", mixed(&[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0], &always)),
        ("the right turned over at half the level", mixed(&[1.0, -0.4], &always)),
    ] {
        hears_melody(name, &file);
    }
}

#[test]
fn a_silent_file_is_a_prompt_with_a_warning() {
    let noise = |level: f64| {
        wav16(&(0..8_000u32).map(|at| f64::from(at.wrapping_mul(2_654_435_761) >> 16 & 1) * level).collect::<Vec<_>>())
    };
    let ulaw = [&ULAW[..44], &[0xff; 8_000]].concat();
    let alaw = [&ALAW[..44], &[0xd5; 8_000]].concat();
    let eight_bits = riff(b"RIFF", &[chunk(b"fmt ", &pcm(1, 1, 8_000, 8)), chunk(b"data", &[0x80; 8_000])].concat());
    for (name, file) in [
        ("zeros", noise(0.0)),
        ("the lowest bit", noise(1.0 / 32_768.0)),
        ("u-law", ulaw),
        ("a-law", alaw),
        ("8 bits", eight_bits),
    ] {
        assert_eq!(read(&file, None).unwrap().warnings, [PromptWarning::Silent], "{name}");
        let prompt = Prompt::from_file(&file, None).unwrap();
        assert_eq!(prompt.warnings(), [PromptWarning::Silent], "{name}");
        assert_eq!(prompt.duration(), std::time::Duration::from_millis(1040), "{name}");
    }
    assert_eq!(read(&noise(0.002), None).unwrap().warnings, [], "a whisper of noise");
}

#[test]
fn the_work_for_a_file_is_bounded_by_what_it_makes_not_by_its_bytes() {
    // Five minutes of eight channels at 192 kHz in 40 kB.
    let bomb = flac_of_silence(8, 940);
    assert!(bomb.len() < 40_000, "{}", bomb.len());
    let samples = 940 * 8 * u64::from(u16::MAX);
    assert!(samples > 400_000_000);
    let mut work = Work::new(1_000_000);
    assert!(matches!(read_within(&mut work, &bomb, None), Err(PromptError::TooMuchWork)));
    // It stops at the packet that is one too many, and what is spent is never more than was granted.
    assert!(work.left < 8 * u64::from(u16::MAX) + PACKET_WORK, "{}", work.left);
    let mut enough = Work::new(samples);
    let two = flac_of_silence(8, 2);
    assert_eq!(read_within(&mut enough, &two, None).unwrap().warnings, [PromptWarning::Silent]);
    let spent = samples - enough.left;
    assert_eq!(spent, SOUND_WORK + 2 * (8 * u64::from(u16::MAX) + PACKET_WORK));
    // Ten minutes of stereo at 96 kHz.
    const { assert!(MAX_WORK > 600 * 96_000 * 2 + 600 * 96_000 / 1152 * PACKET_WORK) };
    assert!(MAX_WORK < samples, "and not this file");
}

#[test]
fn many_tiny_packets_sounds_and_pages_are_work_too() {
    let mut work = Work::new(100 * PACKET_WORK);
    let opus = repage(MELODY_OPUS, |_| {});
    let many = opus.repeat(50);
    assert!(matches!(read_within(&mut work, &many, None), Err(PromptError::TooMuchWork)));
    let mut work = Work::new(5 * SOUND_WORK);
    let riffs = riff(b"RIFF", &[]).repeat(20_000);
    assert!(matches!(read_within(&mut work, &riffs, None), Err(PromptError::TooMuchWork)));
    // Each of these looks like a page of 64 kB with a wrong checksum.
    let header = [&b"OggS"[..], &[0; 22], &[255], &[255]].concat();
    let mut work = Work::new(MAX_WORK);
    assert!(matches!(read_within(&mut work, &header.repeat(20_000), None), Err(PromptError::TooMuchWork)));
}

#[test]
fn a_vorbis_header_cannot_ask_for_gigabytes() {
    // 65535 dimensions of 2^24 - 1 values, at an odd bit.
    let book = 0x56_4342u128 | 0xffff << 24 | 0xff_ffff << 40;
    let at = MELODY_VORBIS.windows(7).position(|window| window == b"\x05vorbis").unwrap() + 20;
    let mut bytes = MELODY_VORBIS.to_vec();
    bytes[at..at + 9].copy_from_slice(&(book << 3).to_le_bytes()[..9]);
    let bytes = repage(&bytes, |_| {});
    assert!(matches!(read(&bytes, None), Err(PromptError::TooMuchWork)));
}

fn hears_melody(name: &str, bytes: &[u8]) {
    let contents = read(bytes, None).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_eq!(contents.warnings, [], "{name}");
    is_melody(name, &contents.samples);
}

/// One second, and in each quarter of it the note that belongs there and none of the others.
fn is_melody(name: &str, samples: &[f32]) {
    assert!((15_200..=17_400).contains(&samples.len()), "{name}: {} samples", samples.len());
    for (quarter, note) in NOTES_HZ.iter().enumerate() {
        // The middle of the note, wherever a codec has moved its edges.
        let start = quarter * 4_000 + 1_400;
        let part = &samples[start..start + 2_000];
        let level = tone_level(part, *note);
        assert!(level > 0.02, "{name}: {note} Hz at {level}");
        for other in NOTES_HZ.iter().filter(|other| *other != note) {
            let other_level = tone_level(part, *other);
            assert!(other_level < level / 8.0, "{name}: {other} Hz at {other_level} beside {note} Hz at {level}");
        }
    }
}
