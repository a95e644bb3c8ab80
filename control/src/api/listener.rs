//! Connections within bounds: not too many, and none that only sits there or crawls.

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Each page has one for its events; descriptors and memory are finite.
const CONNECTIONS_MAX: usize = 8_192;
/// Within this a client must have sent a request that is answered, or taken what was written: longer than any
/// of our own deadlines. `state` events are written each second, so that they keep their connection.
const PROGRESS_WAIT: Duration = Duration::from_secs(20);
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// A connection that is one too many waits so long for a place; while none comes, the next ones do not.
const PLACE_WAIT: Duration = Duration::from_secs(1);
/// Descriptors that are for other things: the database, the engine, requests to others.
const DESCRIPTORS_KEPT: u64 = 64;
const FAREWELLS_MAX: usize = 16;
const FAREWELL_WAIT: Duration = Duration::from_millis(500);
/// What is written to a connection that finds no place; nothing of it is read.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nRetry-After: 2\r\n\
    Content-Length: 212\r\nConnection: close\r\n\r\n\
    {\"type\":\"urn:spillway:problem:node-full\",\"title\":\"Node is full\",\"status\":503,\"code\":\"node_full\",\
    \"detail\":\"the node is full (connections); try again in 2 s\",\"request_id\":\"0000000000000000\",\
    \"retry_after_seconds\":2}";

/// A listener that gives out at most `CONNECTIONS_MAX` connections at a time.
pub struct Bounded {
    inner: TcpListener,
    permits: Arc<Semaphore>,
    farewells: Arc<Semaphore>,
    progress_wait: Duration,
    place_wait: Duration,
    is_full: bool,
}

impl Bounded {
    pub fn new(inner: TcpListener) -> Bounded {
        let permits = Arc::new(Semaphore::new(places(crate::process::descriptors_max())));
        let farewells = Arc::new(Semaphore::new(FAREWELLS_MAX));
        Bounded { inner, permits, farewells, progress_wait: PROGRESS_WAIT, place_wait: PLACE_WAIT, is_full: false }
    }

    /// Says so, and closes. What the client has sent is read first, else closing takes the answer away from it; those
    /// beyond a few are closed without a word.
    fn refuse(&self, mut stream: TcpStream) {
        let Ok(permit) = self.farewells.clone().try_acquire_owned() else { return };
        tokio::spawn(async move {
            let _permit = permit;
            let farewell = async {
                stream.write_all(FULL).await?;
                stream.shutdown().await?;
                let mut rest = [0; 1_024];
                while stream.read(&mut rest).await? > 0 {}
                io::Result::Ok(())
            };
            let _ = tokio::time::timeout(FAREWELL_WAIT, farewell).await;
        });
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            // Without a place connections wait in the kernel's queue, which is bounded as well; but not for long.
            let wait = if self.is_full { Duration::ZERO } else { self.place_wait };
            let permit = tokio::time::timeout(wait, self.permits.clone().acquire_owned()).await;
            self.is_full = permit.is_err();
            let Ok(permit) = permit else {
                match self.inner.accept().await {
                    Ok((stream, _)) => self.refuse(stream),
                    Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
                }
                continue;
            };
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

/// As many as there are descriptors for, so that the last one is never a connection's.
fn places(descriptors: u64) -> usize {
    usize::try_from(descriptors.saturating_sub(DESCRIPTORS_KEPT)).unwrap_or(CONNECTIONS_MAX).clamp(8, CONNECTIONS_MAX)
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
    async fn connections_beyond_the_bound_wait_a_while_and_are_told_so() {
        let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = inner.local_addr().unwrap();
        let mut listener = Bounded { permits: Arc::new(Semaphore::new(1)), ..Bounded::new(inner) };
        let _clients = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let (first, _) = listener.accept().await;
        let second = tokio::time::timeout(Duration::from_millis(20), listener.accept());
        assert!(second.await.is_err());
        drop(first);
        let (_first, _) = listener.accept().await;
        listener.place_wait = Duration::from_millis(10);
        let mut refused = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let mut text = String::new();
        tokio::select! {
            _ = listener.accept() => panic!("there is no place"),
            _ = async {
                for client in &mut refused {
                    text.clear();
                    client.read_to_string(&mut text).await.unwrap();
                }
            } => {}
        }
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: 2"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{} {head}", body.len());
        let problem: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((problem["code"].as_str(), problem["status"].as_u64()), (Some("node_full"), Some(503)));
        assert_eq!((places(u64::MAX), places(256), places(10)), (CONNECTIONS_MAX, 192, 8));
    }
}
