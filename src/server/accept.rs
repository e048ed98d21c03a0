//! Taking connections: until the drain, and then for as long as what is open may take.

use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use axum::Router;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    connection::Connection,
    drain::{Draining, close},
    guard::Guard,
    socket::Socket,
};

/// Accepting can fail when the machine is short of something; others must close first.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often that is logged at most.
const ACCEPT_LOG: Duration = Duration::from_secs(10);
/// How long the answer of a write may take to reach its caller once the grace is over.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// One listener and what it needs to end.
pub(super) struct Door {
    pub(super) listener: TcpListener,
    pub(super) router: Router,
    /// What stands before its connections.
    pub(super) guard: Guard,
    /// How much is taken, in bytes, of what a client still sends when its connection ends.
    pub(super) leftovers: u64,
    /// Writes whose callers are waited for beyond the grace.
    pub(super) writes: TaskTracker,
    pub(super) draining: Draining,
    /// Cuts what is open.
    pub(super) at_once: CancellationToken,
    pub(super) grace: Duration,
}

/// How many connections callers may hold. The rest of what the process may open is for the
/// ERP, the admin port and files. Raises the process's own limit as far as it may.
pub(super) fn capacity() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let _ = setrlimit(Resource::Nofile, raised);
    let most = getrlimit(Resource::Nofile).current;
    let most = most.unwrap_or(u64::MAX);
    let callers = most.saturating_sub((most / 4).min(1024));
    usize::try_from(callers).unwrap_or(usize::MAX)
}

impl Door {
    /// Accepts until told to stop, then lets what is open finish within the grace. Gives back how many connections had to be
    /// cut.
    pub(super) async fn serve(self) -> usize {
        let Self {
            listener,
            router,
            guard,
            leftovers,
            writes,
            draining,
            at_once,
            grace,
        } = self;
        let open = TaskTracker::new();
        let cut = CancellationToken::new();
        let connection = Arc::new(Connection::new(
            router,
            leftovers,
            guard.handshakes,
            guard.floods,
            draining.clone(),
        ));
        let gate = guard.gate;
        let serve = |(stream, peer): (TcpStream, SocketAddr)| {
            let Some(place) = gate.enter(peer.ip()) else {
                return;
            };
            let (connection, cut) = (connection.clone(), cut.clone());
            let stands_for_many = place.stands_for_many();
            open.spawn(async move {
                tokio::select! {
                    () = connection.serve(Socket::new(stream), peer, stands_for_many) => {}
                    () = cut.cancelled() => {}
                }
                drop(place);
            });
        };
        accept(&listener, &draining, &serve).await;
        close(listener).into_iter().for_each(serve);
        open.close();
        let finished = tokio::select! {
            finished = finish(&open, &writes, grace) => finished,
            () = at_once.cancelled() => false,
        };
        if finished {
            return 0;
        }
        let still_open = open.len();
        cut.cancel();
        open.wait().await;
        still_open
    }
}

/// Has every connection served that comes, until told to stop.
async fn accept(
    listener: &TcpListener,
    draining: &Draining,
    serve: impl Fn((TcpStream, SocketAddr)),
) {
    let mut logged: Option<Instant> = None;
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining.closes() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => serve(accepted),
            Err(error) => {
                if logged.is_none_or(|at| at.elapsed() >= ACCEPT_LOG) {
                    tracing::warn!(%error, "connections can't be accepted");
                    logged = Some(Instant::now());
                }
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for what is open; whether it ended in time.
async fn finish(open: &TaskTracker, writes: &TaskTracker, grace: Duration) -> bool {
    // Behind the answers, what their clients still send is taken.
    let mut closing = pin!(open.wait());
    if timeout(grace, &mut closing).await.is_ok() {
        return true;
    }
    // Who waits for a write that is under way at the ERP is told what became of it.
    writes.close();
    writes.wait().await;
    timeout(LAST_WORDS, closing).await.is_ok()
}

#[cfg(test)]
mod tests {
    use std::{future::Future, io::Write as _};

    use axum::{body::Body, extract::Request, routing};
    use http_body_util::BodyExt as _;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpStream,
        sync::{Notify, mpsc},
    };

    use super::{super::handshake::tests::handshakes, *};

    /// What became of a handler.
    #[derive(Debug, PartialEq)]
    enum Told {
        Began,
        Dropped,
    }

    /// Tells when it is dropped.
    struct Guard(mpsc::UnboundedSender<Told>);

    impl Drop for Guard {
        fn drop(&mut self) {
            let _ = self.0.send(Told::Dropped);
        }
    }

    /// A server at a port, whose handler at `/body` reads the body and keeps it; the one at
    /// `/waits` waits for ever, the one at `/released` until it is released.
    struct Server {
        at: SocketAddr,
        told: mpsc::UnboundedReceiver<Told>,
        release: Arc<Notify>,
        tasks: TaskTracker,
        draining: Draining,
    }

    impl Server {
        async fn start() -> Self {
            Self::guarded(super::Guard::of_admin(10)).await
        }

        async fn guarded(guard: super::Guard) -> Self {
            let (tell, told) = mpsc::unbounded_channel();
            let begin = move || {
                let _ = tell.send(Told::Began);
                Guard(tell.clone())
            };
            let waits = {
                let begin = begin.clone();
                || async move {
                    let _guard = begin();
                    std::future::pending::<()>().await;
                }
            };
            let release = Arc::new(Notify::new());
            let released = {
                let (begin, release) = (begin.clone(), release.clone());
                || async move {
                    let _guard = begin();
                    release.notified().await;
                }
            };
            let body = |request: Request<Body>| async move {
                let _guard = begin();
                let mut kept = Vec::new();
                let mut body = request.into_body();
                while let Some(Ok(frame)) = body.frame().await {
                    kept.push(frame);
                }
            };
            let router = Router::new()
                .route("/waits", routing::any(waits))
                .route("/released", routing::get(released))
                .route("/body", routing::post(body))
                .route("/answer", routing::get(async || ANSWER));
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let at = listener.local_addr().expect("an address");
            let draining = Draining {
                begun: CancellationToken::new(),
                closed: CancellationToken::new(),
                last_moment: Duration::ZERO,
            };
            let door = Door {
                listener,
                router,
                guard,
                leftovers: 1 << 20,
                writes: TaskTracker::new(),
                draining: draining.clone(),
                at_once: CancellationToken::new(),
                grace: Duration::from_secs(3600),
            };
            let tasks = TaskTracker::new();
            tasks.spawn(door.serve());
            tasks.close();
            Self {
                at,
                told,
                release,
                tasks,
                draining,
            }
        }

        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.at).await.expect("it listens")
        }

        async fn tells(&mut self, expected: Told) {
            let told = timeout(Duration::from_secs(20), self.told.recv()).await;
            assert_eq!(told.expect("soon"), Some(expected));
        }
    }

    /// A client that has sent that, and leaves in that way when the handler has it.
    async fn leaves<F: Future<Output = ()>>(sent: &str, leave: impl FnOnce(TcpStream) -> F) {
        let mut server = Server::start().await;
        let mut client = server.connect().await;
        client.write_all(sent.as_bytes()).await.expect("is sent");
        server.tells(Told::Began).await;
        leave(client).await;
        server.tells(Told::Dropped).await;
        server.draining.closed.cancel();
        server.tasks.wait().await;
    }

    const ANSWER: &str = "more than the window that its reader has opened";
    const GET: &str = "GET /waits HTTP/1.1\r\nhost: x\r\n\r\n";
    const POST: &str = "POST /body HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nbegun";
    /// More than is read before somebody asks for it.
    fn unread() -> String {
        let body = "x".repeat(40_000);
        format!("POST /waits HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{body}")
    }

    const CHUNKED: &str =
        "POST /body HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nbegun\r\n";

    #[tokio::test]
    async fn what_is_done_for_a_client_that_leaves_is_dropped() {
        for sent in [GET, POST, CHUNKED, &unread()] {
            leaves(sent, |client| async move { drop(client) }).await;
        }
        // With a next request behind it, which nobody reads.
        leaves(&format!("{GET}{GET}"), |client| async move { drop(client) }).await;
    }

    #[tokio::test]
    async fn what_is_done_for_a_client_that_breaks_off_is_dropped() {
        let old = GET.replace("1.1", "1.0");
        for sent in [GET, POST, CHUNKED, &old, &unread()] {
            leaves(sent, |client| async move {
                client.set_zero_linger().expect("a socket's option");
            })
            .await;
        }
    }

    #[tokio::test]
    async fn what_is_done_for_a_stream_that_is_reset_is_dropped() {
        for path in ["waits", "body"] {
            for resets in [true, false] {
                let mut server = Server::start().await;
                let socket = server.connect().await;
                let (mut client, connection) =
                    h2::client::handshake(socket).await.expect("a connection");
                let tasks = TaskTracker::new();
                let connection = tasks.spawn(connection);
                let method = if path == "body" { "POST" } else { "GET" };
                let request = http::Request::builder()
                    .method(method)
                    .uri(format!("http://x/{path}"))
                    .body(())
                    .expect("a request");
                let (_response, mut stream) = client.send_request(request, false).expect("is sent");
                stream
                    .send_data(bytes::Bytes::from_static(b"begun"), false)
                    .expect("is sent");
                server.tells(Told::Began).await;
                match resets {
                    true => stream.send_reset(h2::Reason::CANCEL),
                    false => connection.abort(),
                }
                server.tells(Told::Dropped).await;
            }
        }
    }

    #[tokio::test]
    async fn who_waits_to_be_accepted_is_served_when_the_listener_closes() {
        let server = Server::start().await;
        let mut waiting = Vec::new();
        for _ in 0..3 {
            // Nothing is waited for, so that the server can't come to accept it.
            let mut client = std::net::TcpStream::connect(server.at).expect("it listens");
            let request = GET.replace("/waits", "/nowhere");
            client.write_all(request.as_bytes()).expect("is sent");
            client.set_nonblocking(true).expect("a socket's option");
            waiting.push(TcpStream::from_std(client).expect("a socket"));
        }
        server.draining.begun.cancel();
        server.draining.closed.cancel();
        for mut client in waiting {
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("an answer");
            assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
        }
        server.tasks.wait().await;
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_nothing_more_holds_the_end_up_for_moments() {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        // `GET /` of the authority `x`, by HPACK.
        const HEADERS: &[u8] = &[0, 0, 6, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 1, 1, b'x'];
        let http2 = |parts: &[&[u8]]| (false, parts.concat());
        let tls = |sent: &[u8]| (true, sent.to_vec());
        for (with_tls, sent) in [
            http2(&[&PREFACE[..10]]),
            http2(&[PREFACE, SETTINGS]),
            http2(&[PREFACE, SETTINGS, HEADERS]),
            tls(&[]),
            tls(&[22]),
            tls(&[22, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 7, 7, 7]),
        ] {
            let mut guard = super::Guard::of_admin(10);
            guard.handshakes = with_tls.then(handshakes);
            let server = Server::guarded(guard).await;
            let mut client = server.connect().await;
            client.write_all(&sent).await.expect("is sent");
            if sent.starts_with(PREFACE) {
                // It has begun when it says so.
                client.readable().await.expect("is answered");
            }
            let since = Instant::now();
            server.draining.begun.cancel();
            server.draining.closed.cancel();
            server.tasks.wait().await;
            let took = since.elapsed();
            assert!(took < Duration::from_secs(3), "{took:?} for {sent:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_the_last_ping_may_read_slowly() {
        let server = Server::start().await;
        let (mut client, connection) = h2::client::Builder::new()
            .initial_window_size(10)
            .handshake::<_, bytes::Bytes>(server.connect().await)
            .await
            .expect("a connection");
        let tasks = TaskTracker::new();
        let connection = tasks.spawn(connection);
        let request = http::Request::get("http://x/answer").body(());
        let request = request.expect("a request");
        let (answer, _) = client.send_request(request, true).expect("is sent");
        let mut body = answer.await.expect("an answer").into_body();
        let mut read = body.data().await.expect("some").expect("some");
        server.draining.begun.cancel();
        server.draining.closed.cancel();
        sleep(Duration::from_secs(10)).await;
        let mut whole = Vec::new();
        loop {
            whole.extend_from_slice(&read);
            body.flow_control()
                .release_capacity(read.len())
                .expect("was taken");
            match body.data().await {
                Some(more) => read = more.expect("is served to the end"),
                None => break,
            }
        }
        assert_eq!(whole, ANSWER.as_bytes());
        server.tasks.wait().await;
        let _ = connection.await;
    }

    #[tokio::test]
    async fn who_has_ended_its_half_is_waited_for() {
        let mut server = Server::start().await;
        let mut client = server.connect().await;
        let request = GET.replace("/waits", "/released");
        client.write_all(request.as_bytes()).await.expect("is sent");
        server.tells(Told::Began).await;
        client.shutdown().await.expect("is half closed");
        let mut interim = [0; 25];
        client.read_exact(&mut interim).await.expect("an answer");
        assert_eq!(&interim[..], b"HTTP/1.1 100 Continue\r\n\r\n");
        server.release.notify_one();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
}
