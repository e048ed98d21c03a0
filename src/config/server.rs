//! `server`: where the gateway listens, and who may stand before it.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};
use url::Url;

use super::{document::Checker, units};

/// `server`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// The public API. Default `0.0.0.0:8080`.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// Probes and metrics, never exposed publicly. Default `127.0.0.1:9090`.
    #[serde(deserialize_with = "address")]
    pub admin_listen: SocketAddr,
    /// Between readiness turning off and the last new connection. Default 3 s.
    #[serde(deserialize_with = "units::duration")]
    pub drain_delay: Duration,
    /// For requests in flight at the end. Default 30 s.
    #[serde(deserialize_with = "units::duration")]
    pub shutdown_grace: Duration,
    /// Networks whose `Forwarded` and `X-Forwarded-For` are believed. Default none.
    #[serde(deserialize_with = "networks")]
    pub trusted_proxies: Vec<IpNet>,
    /// Pages of other origins.
    pub cors: Cors,
    /// TLS by the gateway itself. Default none: plain HTTP.
    pub tls: Option<Tls>,
    /// How many connections are taken.
    pub connections: Connections,
}

/// `server.connections`.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Connections {
    /// All together. Default 20,000, and less where the process may open fewer files.
    pub max: u32,
    /// From one address, of IPv6 from its /64; trusted proxies stand for many and are
    /// bound by `max` only. Default 512.
    pub per_address: u32,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            max: 20_000,
            per_address: 512,
        }
    }
}

/// `server.cors`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cors {
    /// Origins (RFC 6454: `scheme://host[:port]`) whose pages may call. Default none.
    pub allowed_origins: Vec<String>,
}

/// `server.tls`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// The certificate chain, in PEM.
    pub cert_file: PathBuf,
    /// Its private key, in PEM.
    pub key_file: PathBuf,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::UNSPECIFIED, 8080).into(),
            admin_listen: (Ipv4Addr::LOCALHOST, 9090).into(),
            drain_delay: Duration::from_secs(3),
            shutdown_grace: Duration::from_secs(30),
            trusted_proxies: Vec::new(),
            cors: Cors::default(),
            tls: None,
            connections: Connections::default(),
        }
    }
}

impl Server {
    /// What the form allows and the meaning doesn't.
    pub fn check(&self, at: &mut Checker<'_>) {
        let (public, admin) = (self.listen, self.admin_listen);
        let same_host = public.ip() == admin.ip()
            || public.ip().is_unspecified()
            || admin.ip().is_unspecified();
        at.require(
            public.port() == 0 || public.port() != admin.port() || !same_host,
            "server.admin_listen",
            "is the same port as server.listen; choose another: the admin port must not be public",
        );
        for (index, network) in self.trusted_proxies.iter().enumerate() {
            at.require(
                network.prefix_len() > 0,
                &format!("server.trusted_proxies[{index}]"),
                "is everybody, so any caller could take any address; write the proxies' own networks, e.g. [10.0.0.0/8]",
            );
        }
        for (key, most) in [
            ("max", self.connections.max),
            ("per_address", self.connections.per_address),
        ] {
            at.require(
                most > 0,
                &format!("server.connections.{key}"),
                "must be at least 1: nobody could connect",
            );
        }
        if let Some(tls) = &self.tls {
            for (key, file, example) in [
                ("cert_file", &tls.cert_file, "tls/tls.crt"),
                ("key_file", &tls.key_file, "tls/tls.key"),
            ] {
                at.require(
                    !file.as_os_str().is_empty(),
                    &format!("server.tls.{key}"),
                    &format!("must be a file in PEM, e.g. {example}"),
                );
            }
        }
        let mut seen = BTreeSet::new();
        for (index, text) in self.cors.allowed_origins.iter().enumerate() {
            let key = format!("server.cors.allowed_origins[{index}]");
            match origin(text) {
                Err(what) => at.mistake(&key, what),
                Ok(()) if !seen.insert(text) => at.mistake(&key, "is listed twice; remove one"),
                Ok(()) => {}
            }
        }
    }
}

fn origin(text: &str) -> Result<(), String> {
    const EXPECTED: &str =
        "isn't an origin; write scheme://host or scheme://host:port, e.g. https://app.example.com";
    if text.contains('*') {
        return Err("`*` would let any page call with its visitor's token; list each origin, e.g. https://app.example.com".to_owned());
    }
    let url = Url::parse(text).map_err(|_| EXPECTED)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(EXPECTED.to_owned());
    }
    let origin = url.origin().ascii_serialization();
    if origin == text {
        Ok(())
    } else {
        Err(format!(
            "isn't an origin as browsers send it; write {origin}"
        ))
    }
}

fn address<'de, D: Deserializer<'de>>(from: D) -> Result<SocketAddr, D::Error> {
    units::from_text(
        from,
        "an address with a port, e.g. 0.0.0.0:8080 or [::1]:8080",
        |text| text.parse().ok(),
    )
}

fn networks<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpNet>, D::Error> {
    struct Network(IpNet);

    impl<'de> Deserialize<'de> for Network {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            units::from_text(from, "a network such as 10.0.0.0/8 or fd00::/8", |text| {
                text.parse().ok()
            })
            .map(Self)
        }
    }

    Ok(Vec::<Network>::deserialize(from)?
        .into_iter()
        .map(|Network(network)| network)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        for good in [
            "https://app.example.com",
            "http://localhost:3000",
            "https://app.example.com:8443",
        ] {
            assert_eq!(origin(good), Ok(()), "{good}");
        }
        for (bad, told) in [
            ("*", "any page"),
            ("https://*.example.com", "any page"),
            ("null", "isn't an origin"),
            ("app.example.com", "isn't an origin"),
            ("file:///x", "isn't an origin"),
            ("https://app.example.com/", "write https://app.example.com"),
            (
                "https://App.example.com:443/x",
                "write https://app.example.com",
            ),
        ] {
            assert!(origin(bad).expect_err("is refused").contains(told), "{bad}");
        }
        assert!(
            !origin("https://ana:hunter2@app.example.com")
                .expect_err("is refused")
                .contains("hunter2")
        );
    }
}
