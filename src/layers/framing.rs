//! `Transfer-Encoding`: `chunked` or none (RFC 9112 §6.1). hyper reads a body by the last coding and hands it on in the
//! ones before, and who passes a request on may see its end elsewhere than we do. So nothing of its connection is believed
//! any more.

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{HeaderMap, header::TRANSFER_ENCODING};

use crate::problem::{Code, Problem};

/// Refuses a request whose body is framed in another way than ours. A chunked body that is left unread ends its connection
/// (`server/rest.rs`). HTTP/2 has no such field; h2 has seen to it.
pub async fn layer(request: Request, next: Next) -> Response {
    if is_ours(request.headers()) {
        return next.run(request).await;
    }
    let detail = "The header `Transfer-Encoding` names more than `chunked`, which is all that this gateway takes: send the body \
                  as it is, with `Transfer-Encoding: chunked` or with `Content-Length`.";
    Problem::new(Code::MalformedRequest, detail).into_response()
}

fn is_ours(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (_, Some(_)) => false,
    }
}
