//! Connections within bounds: not too many, and none that only sits there or crawls.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Each page has one for its events; descriptors and memory are finite.
const CONNECTIONS_MAX: usize = 8_192;
/// Within this a client must have sent a request that is answered, or taken what was written: longer than any
/// of our own deadlines. `state` events are written each second, so that they keep their connection.
const PROGRESS_WAIT: Duration = Duration::from_secs(20);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A listener that gives out at most `CONNECTIONS_MAX` connections at a time.
pub struct Bounded {
    inner: TcpListener,
    permits: Arc<Semaphore>,
    progress_wait: Duration,
}

impl Bounded {
    pub fn new(inner: TcpListener) -> Bounded {
        Bounded { inner, permits: Arc::new(Semaphore::new(CONNECTIONS_MAX)), progress_wait: PROGRESS_WAIT }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // Without a permit connections wait in the kernel's queue, which is bounded as well.
            let permit = self.permits.clone().acquire_owned().await;
            match (permit, self.inner.accept().await) {
                (Ok(permit), Ok((stream, address))) => {
                    // Answers are small and written whole: nothing to wait for.
                    let _ = stream.set_nodelay(true);
                    let deadline = Box::pin(tokio::time::sleep(self.progress_wait));
                    let wait = self.progress_wait;
                    return (Connection { stream, deadline, wait, _permit: permit }, address);
                }
                // Out of descriptors, mostly: others will be closed.
                _ => tokio::time::sleep(ACCEPT_RETRY).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// Who is at the other end of a request's connection.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

impl Connected<IncomingStream<'_, Bounded>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Bounded>) -> Peer {
        Peer(*stream.remote_addr())
    }
}

/// A connection that fails when nothing was written for `wait`.
pub struct Connection {
    stream: TcpStream,
    deadline: Pin<Box<Sleep>>,
    wait: Duration,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn pending<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        match self.deadline.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn written<T>(&mut self, result: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if result.is_pending() {
            return self.pending(context);
        }
        let next = Instant::now() + self.wait;
        self.deadline.as_mut().reset(next);
        result
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Bytes that come do not put the deadline off: one header byte a second is no progress.
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.pending(context),
            ready => ready,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(result, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(result, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_connection_without_progress_fails_however_many_bytes_come() {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = inner.local_addr().unwrap();
        let mut listener = Bounded { progress_wait: Duration::from_millis(50), ..Bounded::new(inner) };
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut connection, _) = listener.accept().await;
        let began = Instant::now();
        let error = loop {
            client.write_all(b"x").await.unwrap();
            if let Err(error) = connection.read_u8().await.and(connection.read_u8().await) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(began.elapsed() >= Duration::from_millis(50));
        connection.write_all(b"an answer").await.unwrap();
        client.write_all(b"next").await.unwrap();
        assert_eq!(connection.read_u8().await.unwrap(), b'n', "progress gives the next request its time");
    }

    #[tokio::test]
    async fn connections_beyond_the_bound_wait() {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = inner.local_addr().unwrap();
        let mut listener = Bounded { permits: Arc::new(Semaphore::new(1)), ..Bounded::new(inner) };
        let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let (first, _) = listener.accept().await;
        let second = tokio::time::timeout(Duration::from_millis(20), listener.accept());
        assert!(second.await.is_err());
        drop(first);
        listener.accept().await;
    }
}
