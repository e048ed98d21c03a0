//! How much a client may send over HTTP/2 before anybody reads it (RFC 9113 §5.2). h2 keeps it, and no other
//! budget counts it: uploads that wait for their room, and requests whose tokens are still looked at.
//!
//! The windows stay as they are: those that hyper adapts grow with the time between a PING and its answer, which
//! is the client's to choose.

use hyper_util::{rt::TokioExecutor, server::conn::auto};

/// More than a browser opens.
const MAX_STREAMS: u32 = 100;
/// Of one request's body, in bytes. So much comes in each round trip: 2.6 MB/s at 50 ms.
const STREAM: u32 = 128 * 1024;
/// Of all bodies of one client, in bytes. What nobody reads holds up what is read, so three uploads can wait beside
/// one that has its room. Twice as much would be 512 MiB for all connections that one address has by default.
const ONE: u32 = 4 * STREAM;
/// Of a proxy that stands for many: nobody's body holds up another's. How many requests it passes on is its own to bound.
const MANY: u32 = MAX_STREAMS * STREAM;

/// Tells h2 how much it may keep, of a client or of a proxy that stands for many.
pub(super) fn bound(builder: &mut auto::Builder<TokioExecutor>, stands_for_many: bool) {
    builder
        .http2()
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM)
        .initial_connection_window_size(if stands_for_many { MANY } else { ONE });
}
