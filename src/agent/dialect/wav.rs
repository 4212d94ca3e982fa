//! WAV: a clip of an app as a RIFF file; 16-bit PCM, mono. Pure.

use bytes::Bytes;

/// Of a chunk: its name and the length of what follows.
const HEADER_BYTES: usize = 8;
const PCM: u16 = 1;
/// The format stands in a field of its own, which begins with the same number.
const EXTENSIBLE: u16 = 0xfffe;

/// The samples of a WAV file, 16-bit little-endian, and their rate in Hz. The error is a sentence for the app's developer.
pub(super) fn read(file: &Bytes) -> Result<(Bytes, u32), String> {
    let not_wav = || "the clip is no WAV file".to_owned();
    if file.get(..4) != Some(b"RIFF") || file.get(8..12) != Some(b"WAVE") {
        return Err(not_wav());
    }
    let (mut rest, mut rate_hz) = (file.slice(12..), None);
    while let Some((name, length)) = header(&rest) {
        let body = rest.slice(HEADER_BYTES..);
        match &name {
            b"fmt " => rate_hz = Some(rate_of(&body).ok_or_else(not_wav)??),
            // Files that are written as they are streamed have a length of 0 or 2^32 - 1.
            b"data" => {
                let samples = if length == 0 { body.len() } else { body.len().min(length) };
                return Ok((body.slice(..samples), rate_hz.ok_or_else(not_wav)?));
            }
            _ => {}
        }
        // Chunks begin at even places.
        rest = body.slice(body.len().min(length.saturating_add(length % 2))..);
    }
    Err(not_wav())
}

fn header(rest: &[u8]) -> Option<([u8; 4], usize)> {
    let name = rest.get(..4)?.try_into().ok()?;
    let length = rest.get(4..HEADER_BYTES)?.try_into().ok()?;
    Some((name, u32::from_le_bytes(length) as usize))
}

/// None if the chunk is cut off.
fn rate_of(format: &[u8]) -> Option<Result<u32, String>> {
    let number = |at: usize| Some(u16::from_le_bytes(format.get(at..at + 2)?.try_into().ok()?));
    let rate_hz = u32::from_le_bytes(format.get(4..8)?.try_into().ok()?);
    let is_pcm = matches!(number(0)?, PCM | EXTENSIBLE);
    Some(match (is_pcm, number(2)?, number(14)?) {
        (true, 1, 16) => Ok(rate_hz),
        _ => Err("the clip is not 16-bit PCM in mono".to_owned()),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file with a chunk of text in front of its samples.
    pub fn file(channels: u16, hz: u32, samples: &[u8], length: u32) -> Bytes {
        let mut file = b"RIFF\0\0\0\0WAVELIST\x03\0\0\0abc\0fmt \x10\0\0\0\x01\0".to_vec();
        file.extend(channels.to_le_bytes());
        file.extend(hz.to_le_bytes());
        file.extend((hz * 2).to_le_bytes());
        file.extend([2, 0, 16, 0]);
        file.extend(b"data");
        file.extend(length.to_le_bytes());
        file.extend(samples);
        file.into()
    }

    #[test]
    fn the_samples_stand_behind_other_chunks() {
        let wanted = (Bytes::from_static(&[1, 2, 3, 4]), 24_000);
        assert_eq!(read(&file(1, 24_000, &[1, 2, 3, 4, 9, 9], 4)), Ok(wanted.clone()));
        assert_eq!(read(&file(1, 24_000, &[1, 2, 3, 4], 0)), Ok(wanted.clone()));
        assert_eq!(read(&file(1, 24_000, &[1, 2, 3, 4], u32::MAX)), Ok(wanted));
        assert!(read(&file(2, 24_000, &[1, 2], 2)).unwrap_err().contains("mono"));
        assert!(read(&Bytes::from_static(b"RIFF")).unwrap_err().contains("no WAV"));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(cut in 0_usize..60, at in 12_usize..60, byte in any::<u8>()) {
            let mut bytes = file(1, 8000, &[1, 2, 3, 4], 4).to_vec();
            bytes.truncate(bytes.len() - cut.min(bytes.len()));
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            let length = bytes.len();
            if let Ok((samples, _)) = read(&bytes.into()) {
                prop_assert!(samples.len() <= length);
            }
        }
    }
}
