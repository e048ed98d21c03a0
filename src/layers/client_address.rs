//! The address of the client: the connection's peer or, where that is a proxy that is
//! trusted (`server.trusted_proxies`), whom the proxy says it speaks for. It stands outside
//! the access log, whose line has it; it can't fail.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    extract::{ConnectInfo, Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderMap, HeaderName, header::FORWARDED};
use ipnet::IpNet;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client's address, in the request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// Which proxies are believed. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TrustedProxies(Arc<Trust>);

#[derive(Debug)]
struct Trust {
    networks: Vec<IpNet>,
    warned: AtomicBool,
}

impl TrustedProxies {
    /// Those of these networks.
    #[must_use]
    pub fn new(networks: &[IpNet]) -> Self {
        Self(Arc::new(Trust {
            networks: networks.to_vec(),
            warned: AtomicBool::new(false),
        }))
    }

    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        let names_a_client =
            headers.contains_key(FORWARDED) || headers.contains_key(X_FORWARDED_FOR);
        if !names_a_client {
            return peer;
        }
        if !self.trusts(peer) {
            if !self.0.warned.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    %peer,
                    "a peer names the client that it speaks for and isn't believed, so all clients behind it share one address and its limit; if it is a proxy of yours, name its network in server.trusted_proxies"
                );
            }
            return peer;
        }
        let forwarded = self.named(headers, &FORWARDED, forwarded);
        let x_forwarded = self.named(headers, &X_FORWARDED_FOR, address);
        match (forwarded, x_forwarded) {
            (Named::Nobody, other) | (other, Named::Nobody) => other.or(peer),
            // A proxy that knows one of the two passes on what the client wrote in the other.
            (one, other) if one == other => one.or(peer),
            _ => peer,
        }
    }

    /// Whom a field names: from the right, where each proxy adds the one that it heard from,
    /// the first who isn't a trusted proxy.
    fn named(
        &self,
        headers: &HeaderMap,
        field: &HeaderName,
        read: fn(&str) -> Option<IpAddr>,
    ) -> Named {
        let mut named = Named::Nobody;
        // Several lines are one list (RFC 9110 §5.3).
        for line in headers.get_all(field).into_iter().rev() {
            let Ok(line) = line.to_str() else {
                return Named::Unreadable;
            };
            for element in line.rsplit(',') {
                match read(element.trim()) {
                    None => return Named::Unreadable,
                    Some(address) => named = Named::Client(address),
                }
                if matches!(named, Named::Client(address) if !self.trusts(address)) {
                    return named;
                }
            }
        }
        named
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0
            .networks
            .iter()
            .any(|network| network.contains(&address))
    }
}

/// What a field says of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    /// It isn't there.
    Nobody,
    Client(IpAddr),
    /// It isn't what a proxy writes, or hides the address.
    Unreadable,
}

impl Named {
    fn or(self, peer: IpAddr) -> IpAddr {
        match self {
            Self::Client(address) => address,
            Self::Nobody | Self::Unreadable => peer,
        }
    }
}

/// The `for` of one element of `Forwarded` (RFC 7239 §4).
fn forwarded(element: &str) -> Option<IpAddr> {
    let mut named = None;
    // A quoted comma or semicolon would be in no address.
    for pair in element.split(';') {
        let (name, value) = pair.split_once('=')?;
        if name.trim().eq_ignore_ascii_case("for") {
            if named.is_some() {
                return None;
            }
            let value = value.trim();
            let node = match value.strip_prefix('"') {
                Some(quoted) => quoted.strip_suffix('"')?,
                None => value,
            };
            named = Some(address(node)?);
        }
    }
    named
}

/// An address with or without a port; of IPv6, brackets are needed for one.
fn address(node: &str) -> Option<IpAddr> {
    let address = if let Ok(address) = node.parse::<IpAddr>() {
        address
    } else if let Ok(address) = node.parse::<SocketAddr>() {
        address.ip()
    } else {
        let bare = node.strip_prefix('[')?.strip_suffix(']')?;
        IpAddr::V6(bare.parse().ok()?)
    };
    Some(address.to_canonical())
}

/// Puts the client's address into the request's extensions.
pub async fn layer(
    State(proxies): State<TrustedProxies>,
    mut request: Request,
    next: Next,
) -> Response {
    let peer = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        // Where the listener doesn't say, all are one client.
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.0.ip());
    let client = proxies.client(peer, request.headers());
    request.extensions_mut().insert(ClientAddress(client));
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(peer: &str, headers: &[(&'static str, &'static str)]) -> String {
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|it| it.parse().expect("a network"));
        let headers: HeaderMap = headers
            .iter()
            .map(|&(name, value)| {
                (
                    HeaderName::from_static(name),
                    http::HeaderValue::from_static(value),
                )
            })
            .collect();
        TrustedProxies::new(&trusted)
            .client(peer.parse().expect("an address"), &headers)
            .to_string()
    }

    #[test]
    fn only_a_trusted_peer_is_believed() {
        for header in [
            ("x-forwarded-for", "192.0.2.1"),
            ("forwarded", "for=192.0.2.1"),
        ] {
            assert_eq!(client("198.51.100.7", &[header]), "198.51.100.7");
            assert_eq!(client("10.0.0.1", &[header]), "192.0.2.1");
            assert_eq!(client("::ffff:10.0.0.1", &[header]), "192.0.2.1");
            assert_eq!(client("fd00::1", &[header]), "192.0.2.1");
        }
        assert_eq!(client("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(client("::ffff:192.0.2.9", &[]), "192.0.2.9");
    }

    #[test]
    fn the_first_from_the_right_who_isnt_trusted_is_the_client() {
        for (name, value, expected) in [
            ("x-forwarded-for", "1.1.1.1, 192.0.2.1", "192.0.2.1"),
            (
                "x-forwarded-for",
                "1.1.1.1,192.0.2.1 , 10.0.0.2,10.9.9.9",
                "192.0.2.1",
            ),
            ("x-forwarded-for", "garbage, 192.0.2.1", "192.0.2.1"),
            ("x-forwarded-for", "10.0.0.9, 10.0.0.2", "10.0.0.9"),
            ("x-forwarded-for", "192.0.2.1:4711", "192.0.2.1"),
            ("x-forwarded-for", "[2001:db8::1]:80", "2001:db8::1"),
            ("x-forwarded-for", "[2001:db8::1]", "2001:db8::1"),
            ("x-forwarded-for", "2001:db8::1", "2001:db8::1"),
            (
                "forwarded",
                "for=1.1.1.1, For=\"[2001:DB8::1]:4711\";proto=https;by=10.0.0.1",
                "2001:db8::1",
            ),
            (
                "forwarded",
                "for=192.0.2.1, for=10.0.0.2;host=a",
                "192.0.2.1",
            ),
            ("forwarded", "proto=http; for=192.0.2.1:80", "192.0.2.1"),
        ] {
            assert_eq!(client("10.0.0.1", &[(name, value)]), expected, "{value}");
        }
    }

    #[test]
    fn several_lines_are_one_list() {
        let proxies = TrustedProxies::new(&["10.0.0.0/8".parse().expect("a network")]);
        let mut headers = HeaderMap::new();
        for line in ["1.1.1.1", "192.0.2.1, 10.0.0.3", "10.0.0.2"] {
            headers.append(X_FORWARDED_FOR, http::HeaderValue::from_static(line));
        }
        let peer = "10.0.0.1".parse().expect("an address");
        assert_eq!(proxies.client(peer, &headers).to_string(), "192.0.2.1");
    }

    #[test]
    fn garbage_is_the_peers_own() {
        for (name, value) in [
            ("x-forwarded-for", ""),
            ("x-forwarded-for", "unknown"),
            ("x-forwarded-for", "192.0.2.1, "),
            ("x-forwarded-for", "192.0.2.1, evil"),
            ("x-forwarded-for", "192.0.2.1 10.0.0.2"),
            ("x-forwarded-for", "192.0.2.300"),
            ("x-forwarded-for", "[192.0.2.1]"),
            ("forwarded", "192.0.2.1"),
            ("forwarded", "for=unknown"),
            ("forwarded", "for=_hidden"),
            ("forwarded", "for=192.0.2.1;for=192.0.2.2"),
            ("forwarded", "proto=https"),
            ("forwarded", "for=\"192.0.2.1"),
            ("forwarded", "for=192.0.2.1, for="),
        ] {
            assert_eq!(client("10.0.0.1", &[(name, value)]), "10.0.0.1", "{value}");
        }
    }

    #[test]
    fn two_fields_that_disagree_are_garbage() {
        let x = ("x-forwarded-for", "192.0.2.1");
        assert_eq!(
            client("10.0.0.1", &[x, ("forwarded", "for=192.0.2.1")]),
            "192.0.2.1"
        );
        for forged in ["for=203.0.113.5", "for=unknown", "nonsense"] {
            assert_eq!(client("10.0.0.1", &[x, ("forwarded", forged)]), "10.0.0.1");
        }
    }
}
