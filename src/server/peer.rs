//! Whether the client of an HTTP/1 connection is still there. An end of its stream doesn't say: it may
//! have closed its own direction only, as `nc -N` does, and wait for the answer (RFC 9112 §9.6
//! asks nobody not to). So who has ended is sent an interim answer, which every client
//! of HTTP/1.1 passes over (RFC 9110 §15.2): where nobody is left, the machine there answers with a reset.

use std::{io::ErrorKind, time::Duration};

use tokio::{
    io::Interest,
    time::{sleep, timeout},
};

use super::{stream::Stream, watch::Activity};

const INTERIM: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// How soon it is looked at again, where it can't be waited for.
const AGAIN: Duration = Duration::from_millis(100);

/// Waits until the client is gone while its request is being served.
pub(super) async fn gone(stream: &Stream, activity: &Activity) {
    let socket = stream.socket();
    loop {
        let looked = socket.ready(Interest::READABLE | Interest::ERROR).await;
        let Ok(ready) = looked else { return };
        if ready.is_error() {
            return;
        }
        // What has arrived and isn't read yet would be ready again at once.
        if !ready.is_read_closed() || !activity.takes_interim() {
            let _ = timeout(AGAIN, socket.drained()).await;
            continue;
        }
        match stream.write_between(INTERIM) {
            Ok(written) if written == INTERIM.len() => break,
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(AGAIN).await,
            // Nobody is there, or an interim answer is half written.
            Ok(_) | Err(_) => return,
        }
    }
    // The answer ends the connection before this is ready, if there is somebody.
    let _ = socket.ready(Interest::ERROR).await;
}
