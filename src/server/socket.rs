//! A connection's socket, shared by what is spoken on it and by those who watch the peer.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready},
    net::TcpStream,
    sync::Notify,
};

/// How much the system takes, in bytes, that it can't send yet. Left to itself it takes 4 MiB for each
/// client that reads slowly. What is on its way isn't counted, so that distance costs no speed.
#[cfg(target_os = "linux")]
const UNSENT: u32 = 64 * 1024;

/// The same socket for all who hold a clone.
#[derive(Clone)]
pub(super) struct Socket(Arc<Shared>);

struct Shared {
    stream: TcpStream,
    /// All that had arrived was read.
    drained: Notify,
}

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        // Answers are written whole; waiting to fill a packet only delays them.
        let _ = stream.set_nodelay(true);
        #[cfg(target_os = "linux")]
        let _ = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT);
        Self(Arc::new(Shared {
            stream,
            drained: Notify::new(),
        }))
    }

    /// Waits like [`TcpStream::ready`].
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        self.0.stream.ready(interest).await
    }

    /// Waits until all that had arrived was read.
    pub(super) async fn drained(&self) {
        self.0.drained.notified().await;
    }

    /// Looks at what has arrived, like [`TcpStream::peek`].
    pub(super) async fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        self.0.stream.peek(into).await
    }

    /// Whether the system holds nothing that nobody has read. Asks it, since a look at what the
    /// runtime has noticed may be old.
    pub(super) fn is_silent(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        !matches!(recv(&self.0.stream, &mut [0; 1], flags), Ok((_, 1..)))
    }

    /// Writes what can be written without waiting.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.0.stream.try_write(bytes)
    }

    /// Tells the peer that nothing more comes; what it sends can still be read.
    pub(super) fn end(&self) -> io::Result<()> {
        shutdown(&self.0.stream, Shutdown::Write).map_err(Into::into)
    }

    fn poll_try_write(
        &self,
        context: &mut Context<'_>,
        write: impl Fn(&TcpStream) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.stream.poll_write_ready(context))?;
            match write(&self.0.stream) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let shared = &self.0;
        loop {
            ready!(shared.stream.poll_read_ready(context))?;
            let (room, mut read) = (into.remaining(), 0);
            let outcome = shared.stream.try_io(Interest::READABLE, || {
                read = shared.stream.try_read_buf(into)?;
                // Less than there was room for is all there was (epoll(7)). Saying so spares a
                // read in vain, and is how who waits for the end is told of that and not of the rest.
                if (1..room).contains(&read) {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                Ok(())
            });
            if read > 0 {
                if read < room {
                    shared.drained.notify_one();
                }
                return Poll::Ready(Ok(()));
            }
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return Poll::Ready(outcome),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(context, |stream| stream.try_write(bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_try_write(context, |stream| stream.try_write_vectored(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.end())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    #[tokio::test]
    async fn the_system_takes_little_for_a_client_that_reads_nothing() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let client = TcpSocket::new_v4().expect("a socket");
        client
            .set_recv_buffer_size(4096)
            .expect("a socket's option");
        let at = listener.local_addr().expect("an address");
        let (client, accepted) = tokio::join!(client.connect(at), listener.accept());
        let _client = client.expect("a connection");
        let socket = Socket::new(accepted.expect("a connection").0);
        let piece = vec![0; UNSENT as usize];
        let mut taken = 0;
        socket.ready(Interest::WRITABLE).await.expect("is open");
        while let Ok(written) = socket.try_write(&piece) {
            taken += written;
        }
        assert!(taken <= 4 * UNSENT as usize, "{taken} bytes");
    }
}
