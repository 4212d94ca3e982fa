//! The bytes of an AudioSocket agent: the same frames in whatever pieces they arrive, and they are written as they were read.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use patchcord::agent::audiosocket::frame::{Frame, FrameError, FrameReader};

/// What the stream says, and what ended it.
fn read(pieces: &[&[u8]]) -> (Vec<Frame>, Option<FrameError>) {
    let (mut reader, mut frames) = (FrameReader::default(), Vec::new());
    for piece in pieces {
        reader.buffer().extend_from_slice(piece);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(reader.buffer().len() < 3 + 65536, "more than a frame waits");
    }
    (frames, None)
}

fuzz_target!(|pieces: Vec<&[u8]>| {
    let (frames, error) = read(&pieces);
    assert_eq!(read(&[&pieces.concat()]), (frames.clone(), error));
    let mut written = BytesMut::new();
    frames.iter().for_each(|frame| frame.write(&mut written));
    assert!(pieces.concat().starts_with(&written), "a frame is written otherwise than it was read");
});
