//! TCP connections that can be cut in the middle of anything, as real networks cut them.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Accepts connections that a request handler can cut.
#[derive(Debug)]
pub(crate) struct CuttableListener(pub(crate) TcpListener);

/// The knife for one connection: after `cut` nothing goes through it, and closing it is a reset.
#[derive(Debug, Clone)]
pub(crate) struct Knife(Arc<AtomicBool>);

impl Knife {
    /// Whatever is written next is not sent; the connection is reset when its owner drops it.
    pub(crate) fn cut(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug)]
pub(crate) struct CuttableStream {
    stream: TcpStream,
    is_cut: Arc<AtomicBool>,
}

impl CuttableStream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        // Without it small messages wait for acknowledgements; if it fails they are merely slower.
        let _ = stream.set_nodelay(true);
        Self { stream, is_cut: Arc::default() }
    }

    pub(crate) fn knife(&self) -> Knife {
        Knife(self.is_cut.clone())
    }

    fn check(&self) -> io::Result<()> {
        if self.is_cut.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }
}

impl Drop for CuttableStream {
    fn drop(&mut self) {
        if self.is_cut.load(Ordering::Relaxed) {
            // Linger of zero turns the close into a reset. If it cannot be set, a close must do.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl Listener for CuttableListener {
    type Io = CuttableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (CuttableStream, SocketAddr) {
        let (stream, address) = Listener::accept(&mut self.0).await;
        (CuttableStream::new(stream), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Connected<IncomingStream<'_, CuttableListener>> for Knife {
    fn connect_info(stream: IncomingStream<'_, CuttableListener>) -> Self {
        stream.io().knife()
    }
}

impl AsyncRead for CuttableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for CuttableStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
