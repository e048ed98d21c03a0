//! Renders every failure as `application/problem+json`, the framework's bare ones
//! included. It stands inside what must see the finished answer, and outside
//! everything that can fail.

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use http::{
    HeaderValue, StatusCode,
    header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING},
};

use crate::problem::{Code, Problem};

use super::request_id::RequestId;

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Renders problems.
pub async fn layer(request: Request, next: Next) -> Response {
    let id = request.extensions().get::<RequestId>().cloned();
    let mut response = next.run(request).await;
    if !response.status().is_client_error() && !response.status().is_server_error() {
        return response;
    }
    let problem = match response.extensions_mut().remove::<Problem>() {
        Some(problem) => problem,
        None => bare(&response),
    };
    let (headers, body) = problem.render(id.as_ref().map_or("", |id| &id.0));
    let length = HeaderValue::from(body.len());
    *response.status_mut() = problem.code().status();
    *response.body_mut() = Body::from(body);
    response.headers_mut().remove(TRANSFER_ENCODING);
    response.headers_mut().extend(headers);
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM_JSON);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    // For the access log, outside.
    response.extensions_mut().insert(problem);
    response
}

/// The problem of an answer that only has a status.
fn bare(response: &Response) -> Problem {
    match response.status() {
        StatusCode::NOT_FOUND => Problem::new(
            Code::NotFound,
            "There is nothing at this address. `/docs` lists what there is.",
        ),
        StatusCode::METHOD_NOT_ALLOWED => {
            let problem = Problem::of(Code::MethodNotAllowed);
            match response.headers().get(ALLOW) {
                Some(allow) => problem.with_allow(allow.clone()),
                None => problem,
            }
        }
        StatusCode::BAD_REQUEST => Problem::of(Code::MalformedBody),
        StatusCode::REQUEST_TIMEOUT => Problem::of(Code::RequestTimeout),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::of(Code::PayloadTooLarge),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::of(Code::UnsupportedMediaType),
        StatusCode::UNPROCESSABLE_ENTITY => Problem::of(Code::ValidationFailed),
        status => Problem::of(Code::Internal).caused_by(format_args!(
            "the framework answered {} by itself",
            status.as_u16()
        )),
    }
}
