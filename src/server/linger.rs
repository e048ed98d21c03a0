//! What a client still sends when its answer is out. A socket that is closed with bytes unread
//! resets the connection, and the reset destroys the answer that its client, busy writing, has not
//! yet read. So what comes is read and thrown away for a while (RFC 9112 §9.6). In HTTP/2 a stream can be
//! reset without that (RFC 9113 §8.1), but there are clients that then lose the answer or wait for ever.

use std::{
    pin::Pin,
    task::{Poll, ready},
    time::Duration,
};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, timeout_at},
};

/// How long at most: twelve MiB at 42 KB/s.
const LONGEST: Duration = Duration::from_secs(300);
/// Within each such while that much must come, in bytes: who has stopped has read its answer.
const WHILE: Duration = Duration::from_secs(5);
const AT_LEAST: u64 = 32 * 1024;
/// How much is read of a socket at once.
const PIECE: usize = 16 * 1024;
/// Takes what comes until it ends, `most` bytes of it at most, within bounds of time and rate. What
/// comes is given as the sizes of its pieces. Gives back whether the end has come.
pub(super) async fn linger(mut sizes: impl Stream<Item = usize> + Unpin, most: u64) -> bool {
    let begun = Instant::now();
    let (mut taken, mut taken_before) = (0_u64, 0);
    let mut until = begun + WHILE;
    loop {
        match timeout_at(until, sizes.next()).await {
            Ok(None) => return true,
            Ok(Some(size)) => taken += size as u64,
            Err(_) if taken - taken_before < AT_LEAST => return false,
            Err(_) => {
                taken_before = taken;
                until = (until + WHILE).min(begun + LONGEST);
            }
        }
        // A client that never stops leaves no timeout a chance.
        if taken > most || begun.elapsed() >= LONGEST {
            return false;
        }
    }
}

/// The same with what comes from a socket.
pub(super) async fn linger_on(mut socket: impl AsyncRead + Unpin, most: u64) {
    let mut piece = vec![0; PIECE];
    let sizes = stream::poll_fn(|context| {
        let mut read = ReadBuf::new(&mut piece);
        let polled = ready!(Pin::new(&mut socket).poll_read(context, &mut read));
        let size = read.filled().len();
        Poll::Ready(polled.ok().map(|()| size).filter(|size| *size > 0))
    });
    linger(sizes, most).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// How long it lasts, for a client that does that.
    async fn lasts<F: Future<Output = ()>>(client: impl FnOnce(DuplexStream) -> F) -> Duration {
        let (ours, theirs) = duplex(4096);
        let begun = Instant::now();
        let lingering = async {
            linger_on(ours, 20 << 20).await;
            begun.elapsed()
        };
        tokio::pin!(lingering);
        let client = client(theirs);
        tokio::pin!(client);
        tokio::select! {
            lasted = &mut lingering => lasted,
            () = &mut client => lingering.await,
        }
    }

    /// Sends so many bytes in each second, and so many in all.
    async fn sends(client: &mut DuplexStream, rate: usize, whole: usize) {
        let second = vec![0; rate];
        let mut sent = 0;
        while sent < whole && client.write_all(&second).await.is_ok() {
            sent += rate;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_sent_all_and_closes_is_let_go_at_once() {
        let lasted = lasts(|mut client| async move {
            let _ = client.write_all(&vec![0; 12 << 20]).await;
        });
        assert_eq!(lasted.await, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stalls_or_trickles_is_cut() {
        let stalled = lasts(|client| async move {
            std::future::pending::<()>().await;
            drop(client);
        });
        assert_eq!(stalled.await, WHILE);

        let stalls_later = lasts(|mut client| async move {
            sends(&mut client, 50_000, 500_000).await;
            std::future::pending::<()>().await;
        });
        let lasted = stalls_later.await;
        assert!(lasted <= Duration::from_secs(10) + 2 * WHILE, "{lasted:?}");

        let trickled = lasts(|mut client| async move { sends(&mut client, 1000, 1 << 30).await });
        assert_eq!(trickled.await, WHILE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_network_has_its_time() {
        // Twelve MiB at 50 kB/s, and the answer is read behind the last of it.
        let lasted = lasts(|mut client| async move { sends(&mut client, 50_000, 12 << 20).await });
        let lasted = lasted.await.as_secs();
        assert!((251..=253).contains(&lasted), "{lasted} s");
    }

    #[tokio::test(start_paused = true)]
    async fn who_never_stops_is_cut_by_time_and_by_bytes() {
        let by_time = lasts(|mut client| async move { sends(&mut client, 9000, 1 << 30).await });
        assert_eq!(by_time.await, LONGEST);

        let (ours, mut theirs) = duplex(4096);
        let endless = async {
            let mut sent = 0_u64;
            while theirs.write_all(&[0; 4096]).await.is_ok() {
                sent += 4096;
            }
            sent
        };
        let most = 300 * 1024;
        let ((), sent) = tokio::join!(linger_on(ours, most), endless);
        assert!(
            (most..=most + 2 * 4096 + PIECE as u64).contains(&sent),
            "{sent}"
        );
    }
}
