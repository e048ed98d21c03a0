//! `Host`: HTTP/1.1 has exactly one, a valid one (RFC 9112 §3.2). Who passes a request on and reads another host
//! than we do could be led astray, so it is refused though nothing here depends on it. It stands inside the rendering of
//! problems, and outside everything that answers.

use std::net::Ipv6Addr;

use axum::{
    extract::Request,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use http::{Version, header::HOST, uri::Authority};

use crate::problem::{Code, Problem};

/// Refuses a request whose `Host` is missing, there twice or not valid.
pub async fn layer(request: Request, next: Next) -> Response {
    match mistake(&request) {
        None => next.run(request).await,
        Some(detail) => Problem::new(Code::MalformedRequest, detail).into_response(),
    }
}

fn mistake<B>(request: &http::Request<B>) -> Option<&'static str> {
    let mut hosts = request.headers().get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_11 => {
            Some("The header `Host` is missing, which HTTP/1.1 asks for: send this gateway's name.")
        }
        // HTTP/2 has `:authority`, which h2 has read; HTTP/1.0 knows neither.
        (None, _) => None,
        (_, Some(_)) => Some("The header `Host` is there twice. Send it once."),
        (Some(host), None) if is_valid(host.as_bytes()) => None,
        (Some(_), None) => Some(
            "The header `Host` is no host: send this gateway's name, and its port if there is one.",
        ),
    }
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2). Empty is what a client sends that knows none.
fn is_valid(host: &[u8]) -> bool {
    if host.is_empty() {
        return true;
    }
    let Ok(authority) = Authority::try_from(host) else {
        return false;
    };
    let (whole, name) = (authority.as_str(), authority.host());
    // What is before the name is a user.
    let Some(behind) = whole.strip_prefix(name) else {
        return false;
    };
    let is_port = match behind.strip_prefix(':') {
        None => behind.is_empty(),
        Some(port) => port.bytes().all(|byte| byte.is_ascii_digit()),
    };
    let is_name = match name.strip_prefix('[') {
        None => true,
        Some(address) => address
            .strip_suffix(']')
            .is_some_and(|address| address.parse::<Ipv6Addr>().is_ok()),
    };
    is_port && is_name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistake_of(version: Version, hosts: &[&str]) -> Option<&'static str> {
        let mut request = http::Request::builder().version(version);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        mistake(&request.body(()).expect("a request"))
    }

    #[test]
    fn one_valid_host_is_taken() {
        for host in [
            "",
            "x",
            "api.example.com",
            "api.example.com:8080",
            "x:",
            "192.0.2.1:80",
            "[::1]",
            "[2001:db8::1]:443",
            "llavero_1.internal",
        ] {
            for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
                assert_eq!(mistake_of(version, &[host]), None, "{host}");
            }
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for host in [
            "a b", "a/b", "a?b", "a@b", "@b", "x:y", "x:1:2", "[::1", "::1", "[x]", "[::1]x",
            "http://x", "x\ty", "x,y z", "\"x\"", "x#", "ñ",
        ] {
            assert!(mistake_of(Version::HTTP_11, &[host]).is_some(), "{host}");
        }
    }

    #[test]
    fn there_is_exactly_one_where_the_version_asks_for_it() {
        assert!(mistake_of(Version::HTTP_11, &[]).is_some());
        assert_eq!(mistake_of(Version::HTTP_10, &[]), None);
        assert_eq!(mistake_of(Version::HTTP_2, &[]), None);
        for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
            assert!(mistake_of(version, &["x", "x"]).is_some());
        }
    }
}
