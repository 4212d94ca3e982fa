//! Unbuffered: a TCP stream of which the system holds one unsent write at the most.
//!
//! What an agent does not take waits with us then, where sound that is too old is dropped, and not in a socket buffer of
//! megabytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// On systems other than Linux it is the stream as it is, and a slow agent hears the caller late.
#[derive(Debug)]
pub(super) struct Unbuffered(TcpStream);

impl Unbuffered {
    pub fn new(stream: TcpStream) -> Self {
        #[cfg(target_os = "linux")]
        // Nothing is taken while a byte is unsent. Without it more is buffered, and nothing else is wrong.
        let _ = socket2::SockRef::from(&stream).set_tcp_notsent_lowat(1);
        Self(stream)
    }

    /// Linux looks at the limit only when it begins a new segment, and what is marked as the end of a record is not added to.
    #[cfg(target_os = "linux")]
    fn poll_send(&self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        use rustix::net::SendFlags;
        let send = || Ok(rustix::net::send(&self.0, bytes, SendFlags::EOR | SendFlags::NOSIGNAL)?);
        loop {
            std::task::ready!(self.0.poll_write_ready(context))?;
            match self.0.try_io(tokio::io::Interest::WRITABLE, send) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }
}

impl AsyncRead for Unbuffered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl AsyncWrite for Unbuffered {
    #[cfg(target_os = "linux")]
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(context, bytes)
    }

    #[cfg(not(target_os = "linux"))]
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::future::poll_fn;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpSocket;
    use tokio::time::timeout;

    use super::*;

    const MESSAGE: [u8; 640] = [7; 640];
    const DEADLINE: Duration = Duration::from_secs(30);

    /// What the system holds of this socket's bytes that is unsent or not acknowledged yet (proc_net_tcp).
    fn held_bytes(address: SocketAddr) -> anyhow::Result<usize> {
        let local = format!(":{:04X}", address.port());
        let table = std::fs::read_to_string("/proc/net/tcp")?;
        let mut sockets = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let socket = sockets.find(|fields| fields.get(1).is_some_and(|address| address.ends_with(&local)));
        let queues = socket.and_then(|fields| fields.get(4).copied()).unwrap_or_default();
        Ok(usize::from_str_radix(queues.split(':').next().unwrap_or_default(), 16)?)
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_leaves_one_message_with_the_system() -> anyhow::Result<()> {
        let socket = TcpSocket::new_v4()?;
        // Set, it does not grow while the peer does not read.
        socket.set_recv_buffer_size(64 * 1024)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(1)?;
        let mut stream = Unbuffered::new(TcpStream::connect(listener.local_addr()?).await?);
        stream.0.set_nodelay(true)?;
        let address = stream.0.local_addr()?;
        let (mut peer, _) = listener.accept().await?;
        // Until the peer's window is closed, and no acknowledgement of it makes room again.
        let mut written = 0;
        while let Ok(length) = timeout(Duration::from_millis(500), stream.write(&MESSAGE)).await {
            written += length?;
        }
        let held = held_bytes(address)?;
        assert!(written > 10_000 && held <= 2 * MESSAGE.len(), "{held} bytes of {written}");

        // It goes on when the peer reads.
        let mut read = vec![0; written];
        timeout(DEADLINE, peer.read_exact(&mut read)).await??;
        timeout(DEADLINE, stream.write_all(&MESSAGE)).await??;
        poll_fn(|context| Pin::new(&mut stream).poll_shutdown(context)).await?;
        let mut rest = Vec::new();
        timeout(DEADLINE, peer.read_to_end(&mut rest)).await??;
        assert_eq!(rest.len(), MESSAGE.len());
        Ok(())
    }
}
