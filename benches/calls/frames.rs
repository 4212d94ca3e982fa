//! WebSocket frames, written and parsed by hand, and the frames of AudioSocket.

use anyhow::Context;
use tokio::net::TcpStream;

/// RFC 6455 §5.2: the last fragment of a message of each kind.
pub const BINARY: u8 = 0x82;
/// See [`BINARY`].
pub const TEXT: u8 = 0x81;
/// See [`BINARY`].
pub const PING: u8 = 0x89;
/// See [`BINARY`].
pub const PONG: u8 = 0x8a;
/// Kind and length of a frame of AudioSocket.
const AUDIOSOCKET_HEADER: usize = 3;

/// Appends a server's frame, which is not masked (RFC 6455 §5.1).
pub fn write_frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.push(kind);
    match u8::try_from(payload.len()).ok().filter(|length| *length < 126) {
        Some(length) => out.push(length),
        None => {
            out.push(126);
            // No message is longer than a frame of audio.
            out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

/// Writes all of it at once, or fails.
pub fn send_all(stream: &TcpStream, bytes: &[u8]) -> anyhow::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let sent = stream.try_write(bytes).context("the service does not read")?;
    anyhow::ensure!(sent == bytes.len(), "the service reads too slowly");
    Ok(())
}

/// Parses the service's frames.
#[derive(Default)]
pub struct Reader {
    bytes: Vec<u8>,
    read: usize,
}

impl Reader {
    /// Takes what there is to read.
    pub fn fill(&mut self, stream: &TcpStream) -> anyhow::Result<()> {
        let had = self.bytes.len();
        self.bytes.resize(had + 4096, 0);
        let got = match stream.try_read(&mut self.bytes[had..]) {
            Ok(0) => anyhow::bail!("the service hung up"),
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        self.bytes.truncate(had + got);
        Ok(())
    }

    /// The first byte and the unmasked payload of the next whole frame.
    pub fn next_message(&mut self) -> Option<(u8, &[u8])> {
        let frame = &self.bytes[self.read..];
        let (kind, short) = (*frame.first()?, frame.get(1)? & 0x7f);
        let (length, header) = match short {
            126 => (usize::from(u16::from_be_bytes([*frame.get(2)?, *frame.get(3)?])), 4),
            // The service never sends messages that need the 64-bit length.
            _ => (usize::from(short), 2),
        };
        let start = self.read + header + 4;
        if self.bytes.len() < start + length {
            return None;
        }
        let mask = [0, 1, 2, 3].map(|at| self.bytes[start - 4 + at]);
        self.read = start + length;
        let payload = &mut self.bytes[start..start + length];
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[at % 4];
        }
        Some((kind, payload))
    }

    /// The kind and the payload of AudioSocket's next whole frame.
    pub fn next_of_audiosocket(&mut self) -> Option<(u8, &[u8])> {
        let frame = &self.bytes[self.read..];
        let &[kind, high, low] = frame.first_chunk()?;
        let end = AUDIOSOCKET_HEADER + usize::from(u16::from_be_bytes([high, low]));
        let payload = frame.get(AUDIOSOCKET_HEADER..end)?;
        self.read += end;
        Some((kind, payload))
    }

    /// Frees the room of the frames that were read.
    pub fn forget_read(&mut self) {
        self.bytes.drain(..self.read);
        self.read = 0;
    }
}
