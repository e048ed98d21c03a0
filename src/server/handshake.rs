//! TLS handshakes: bounded in time, and in how many are computed at once, so that a flood of them
//! leaves the processor to those who are in.

use std::{thread::available_parallelism, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as MetricRegistry,
};
use rustls::server::Acceptor;
use tokio::{sync::Semaphore, time::sleep};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use uuid::Uuid;

use super::{connection::Protocol, linger::linger_on, socket::Socket, stream::Stream};
use crate::{
    problem::{Code, Problem},
    tls::{self, Tls},
};

/// For a whole handshake: some round trips, however bad the network.
const LONGEST: Duration = Duration::from_secs(10);
/// The first byte of each TLS connection: a record of a handshake (RFC 8446 §5.1).
const HANDSHAKE: u8 = 22;
/// How much is read of a request that came without TLS, for the sake of its answer.
const PLAIN_LEFTOVERS: u64 = 64 * 1024;

/// Makes TLS connections of sockets.
pub(super) struct Handshakes {
    tls: Tls,
    /// A handshake's signature holds up a thread for a millisecond, and tasks are served in turn:
    /// with so many of them in the queue at most, others are served between them.
    computed: Semaphore,
    metrics: Metrics,
}

/// What became of one.
enum Failed {
    /// It speaks, but no TLS that we do.
    Refused,
    /// It speaks HTTP.
    Plain,
    /// Who said nothing at all is no failure.
    Left,
}

impl Handshakes {
    pub(super) fn new(tls: Tls, metrics: Metrics) -> Self {
        let threads = available_parallelism().map_or(1, usize::from);
        Self {
            tls,
            computed: Semaphore::new(threads),
            metrics,
        }
    }

    /// The connection that a socket becomes, and what is spoken on it. `closing` ends the wait
    /// for who has said nothing, `ends` that for who has begun.
    pub(super) async fn make(
        &self,
        socket: &Socket,
        closing: impl Future<Output = ()>,
        ends: impl Future<Output = ()>,
    ) -> Option<(Stream, Protocol)> {
        let made = tokio::select! {
            made = self.shake_hands(socket, closing) => Some(made),
            () = sleep(LONGEST) => None,
            () = ends => None,
        };
        let result = match &made {
            Some(Ok(_)) => "ok",
            Some(Err(Failed::Refused)) => "failed",
            Some(Err(Failed::Plain)) => "plain_http",
            Some(Err(Failed::Left)) => "left",
            None => "timeout",
        };
        self.metrics.count(result);
        match made {
            Some(Ok(stream)) => {
                // Without ALPN it is HTTP/1.1 (RFC 9113 §3.2).
                let speaks = match stream.get_ref().1.alpn_protocol() {
                    Some(tls::H2) => Protocol::Http2,
                    _ => Protocol::Http1,
                };
                Some((Stream::tls(socket.clone(), stream), speaks))
            }
            Some(Err(Failed::Plain)) => {
                refuse_plain(socket.clone()).await;
                None
            }
            _ => None,
        }
    }

    async fn shake_hands(
        &self,
        socket: &Socket,
        closing: impl Future<Output = ()>,
    ) -> Result<TlsStream<Socket>, Failed> {
        let mut first = [0];
        let peeked = tokio::select! {
            biased;
            peeked = socket.peek(&mut first) => peeked,
            () = closing => return Err(Failed::Left),
        };
        match (peeked, first) {
            (Err(_) | Ok(0), _) => return Err(Failed::Left),
            (_, [HANDSHAKE]) => {}
            // Every method is made of letters.
            (_, [byte]) if byte.is_ascii_alphabetic() => return Err(Failed::Plain),
            _ => return Err(Failed::Refused),
        }
        let start = LazyConfigAcceptor::new(Acceptor::default(), socket.clone())
            .await
            .map_err(|_| Failed::Refused)?;
        let shaking = {
            // The semaphore is never closed. What is computed later is little.
            let _turn = self.computed.acquire().await;
            start.into_stream(self.tls.config())
        };
        shaking.await.map_err(|_| Failed::Refused)
    }
}

/// Answers a client that speaks HTTP where TLS is expected, as it can't be answered with an alert.
async fn refuse_plain(socket: Socket) {
    let problem = Problem::of(Code::TlsRequired);
    let id = Uuid::now_v7().to_string();
    let (_, body) = problem.render(&id);
    let head = format!(
        "HTTP/1.1 {}\r\ncontent-type: application/problem+json\r\ncontent-length: {}\r\nx-request-id: {id}\r\nconnection: close\r\n\r\n",
        problem.code().status(),
        body.len()
    );
    let answer = [head.into_bytes(), body].concat();
    // It fits into the buffer of a socket that nothing was written to.
    if socket.try_write(&answer).is_ok() && socket.end().is_ok() {
        linger_on(socket, PLAIN_LEFTOVERS).await;
    }
}

/// What is told of handshakes.
#[derive(Default)]
pub(super) struct Metrics {
    handshakes: Family<ResultLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

impl Metrics {
    pub(super) fn declare(metrics: &mut MetricRegistry) -> Self {
        let this = Self::default();
        metrics.register(
            "llavero_tls_handshakes",
            "TLS handshakes by what came of them; `left` said nothing, `plain_http` spoke HTTP",
            this.handshakes.clone(),
        );
        for result in ["ok", "failed", "timeout", "left", "plain_http"] {
            let _ = this.handshakes.get_or_create(&ResultLabel { result });
        }
        this
    }

    fn count(&self, result: &'static str) {
        self.handshakes.get_or_create(&ResultLabel { result }).inc();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::future::pending;

    use tokio::{
        io::AsyncWriteExt as _,
        net::{TcpListener, TcpStream},
        time::Instant,
    };
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{clock::Clock, config::server::Tls as Files};

    pub(in crate::server) fn handshakes() -> Handshakes {
        let dir = tempfile::tempdir().expect("a directory");
        let files = Files {
            cert_file: dir.path().join("tls.crt"),
            key_file: dir.path().join("tls.key"),
        };
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
        std::fs::write(&files.cert_file, own.cert.pem()).expect("can be written");
        std::fs::write(&files.key_file, own.signing_key.serialize_pem()).expect("can be written");
        let tls = Tls::load(&files, Clock::system(), &mut MetricRegistry::default());
        Handshakes::new(tls.expect("is good"), Metrics::default())
    }

    /// How long a client that sends that and then nothing is waited for, and what is counted.
    async fn waits_for(sent: &[u8], closing: &CancellationToken) -> (Duration, &'static str) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let mut client = TcpStream::connect(at).await.expect("it listens");
        let (socket, _) = listener.accept().await.expect("it connects");
        client.write_all(sent).await.expect("is sent");
        let (handshakes, begun) = (handshakes(), Instant::now());
        let made = handshakes
            .make(&Socket::new(socket), closing.cancelled(), pending())
            .await;
        assert!(made.is_none());
        let counted = ["ok", "failed", "timeout", "left", "plain_http"]
            .into_iter()
            .find(|result| {
                let label = ResultLabel { result };
                handshakes.metrics.handshakes.get_or_create(&label).get() > 0
            });
        (begun.elapsed(), counted.expect("one is counted"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_has_its_time_however_much_of_it_came() {
        let open = CancellationToken::new();
        // A record that is announced longer than what comes of it.
        let half = [22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7, 7, 7];
        for sent in [&[][..], &half[..1], &half] {
            assert_eq!(waits_for(sent, &open).await, (LONGEST, "timeout"));
        }
    }

    #[tokio::test]
    async fn at_the_end_nobody_waits_for_who_has_said_nothing() {
        let closing = CancellationToken::new();
        closing.cancel();
        assert_eq!(waits_for(&[], &closing).await.1, "left");
    }

    #[tokio::test]
    async fn what_is_no_tls_ends_at_once() {
        let open = CancellationToken::new();
        assert_eq!(waits_for(&[0x80, 0x2e, 1], &open).await.1, "failed");
        // A record of a handshake whose message nobody knows.
        let unknown = [22, 3, 1, 0, 4, 0xff, 0, 0, 0];
        assert_eq!(waits_for(&unknown, &open).await.1, "failed");
    }
}
