//! A connection's bytes as HTTP reads and writes them, over the socket itself or over TLS on it; shared
//! by HTTP and by those who watch the peer.

use std::{
    io::{self, IoSlice, Write},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

use super::socket::Socket;

/// The same connection for all who hold a clone.
#[derive(Clone)]
pub(super) struct Stream(Arc<Shared>);

struct Shared {
    socket: Socket,
    /// Locked while it is polled only, and by one task: it is never waited for.
    tls: Option<Mutex<TlsStream<Socket>>>,
    /// Something arrived since the last request was taken whole.
    has_more: AtomicBool,
    /// Whoever writes has handed over all that it had begun.
    is_flushed: AtomicBool,
    is_flooded: AtomicBool,
    /// The peer has answered the latest PING.
    is_answered: AtomicBool,
}

impl Stream {
    pub(super) fn plain(socket: Socket) -> Self {
        Self::new(socket, None)
    }

    pub(super) fn tls(socket: Socket, tls: TlsStream<Socket>) -> Self {
        Self::new(socket, Some(Mutex::new(tls)))
    }

    fn new(socket: Socket, tls: Option<Mutex<TlsStream<Socket>>>) -> Self {
        Self(Arc::new(Shared {
            socket,
            tls,
            has_more: AtomicBool::new(false),
            is_flushed: AtomicBool::new(true),
            is_flooded: AtomicBool::new(false),
            is_answered: AtomicBool::new(false),
        }))
    }

    /// What it goes over.
    pub(super) fn socket(&self) -> &Socket {
        &self.0.socket
    }

    /// A request was taken whole: what arrives next isn't its.
    pub(super) fn is_settled(&self) {
        self.0.has_more.store(false, Ordering::Relaxed);
    }

    /// It is cut: nothing more is taken from it.
    pub(super) fn is_flooded(&self) {
        self.0.is_flooded.store(true, Ordering::Relaxed);
    }

    /// A PING is about to be sent: what was answered before doesn't count.
    pub(super) fn is_asked(&self) {
        self.0.is_answered.store(false, Ordering::Relaxed);
    }

    /// The peer has answered a PING.
    pub(super) fn is_answered(&self) {
        self.0.is_answered.store(true, Ordering::Relaxed);
    }

    /// Whether the peer has answered since it was asked.
    pub(super) fn has_answered(&self) -> bool {
        self.0.is_answered.load(Ordering::Relaxed)
    }

    /// Whether the peer may still be sending what nobody has taken, and that should be.
    pub(super) fn has_more(&self) -> bool {
        self.0.has_more.load(Ordering::Relaxed) && !self.0.is_flooded.load(Ordering::Relaxed)
    }

    /// Whether all that was written has been handed to the system.
    pub(super) fn is_flushed(&self) -> bool {
        self.0.is_flushed.load(Ordering::Relaxed)
    }

    /// Writes between two answers: nothing, where one is half written.
    pub(super) fn write_between(&self, bytes: &[u8]) -> io::Result<usize> {
        if !self.is_flushed() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let Some(tls) = &self.0.tls else {
            return self.0.socket.try_write(bytes);
        };
        let mut tls = lock(tls);
        let written = tls.get_mut().1.writer().write(bytes)?;
        // What the socket doesn't take now goes before the answer.
        hand_over(&mut tls, &self.0.socket)?;
        Ok(written)
    }

    /// Tells the peer that nothing more comes; what it sends can still be read.
    pub(super) fn end(&self) -> io::Result<()> {
        if let Some(tls) = &self.0.tls {
            let mut tls = lock(tls);
            tls.get_mut().1.send_close_notify();
            hand_over(&mut tls, &self.0.socket)?;
        }
        self.0.socket.end()
    }
}

fn lock(tls: &Mutex<TlsStream<Socket>>) -> MutexGuard<'_, TlsStream<Socket>> {
    tls.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes as many of the records that are made as the socket takes now.
fn hand_over(tls: &mut TlsStream<Socket>, socket: &Socket) -> io::Result<()> {
    struct Now<'s>(&'s Socket);

    impl Write for Now<'_> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.try_write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let session = tls.get_mut().1;
    while session.wants_write() {
        match session.write_tls(&mut Now(socket)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            written => written?,
        };
    }
    Ok(())
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(match &self.0.tls {
            None => Pin::new(&mut self.0.socket.clone()).poll_read(context, into),
            Some(tls) => Pin::new(&mut *lock(tls)).poll_read(context, into),
        })?;
        if into.filled().len() > before {
            self.0.has_more.store(true, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.is_flushed.store(false, Ordering::Relaxed);
        match &self.0.tls {
            None => Pin::new(&mut self.0.socket.clone()).poll_write(context, bytes),
            Some(tls) => Pin::new(&mut *lock(tls)).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.is_flushed.store(false, Ordering::Relaxed);
        match &self.0.tls {
            None => Pin::new(&mut self.0.socket.clone()).poll_write_vectored(context, bytes),
            Some(tls) => Pin::new(&mut *lock(tls)).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(tls) = &self.0.tls {
            ready!(Pin::new(&mut *lock(tls)).poll_flush(context))?;
        }
        self.0.is_flushed.store(true, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.0.tls {
            None => Poll::Ready(self.0.socket.end()),
            Some(tls) => Pin::new(&mut *lock(tls)).poll_shutdown(context),
        }
    }
}
