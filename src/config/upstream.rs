//! `upstream`: the way to the ERP.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer};
use url::{Host, Url};

use super::{document::Checker, units};

/// More at once than the ERP answers without 429 by far.
const MAX_CONCURRENCY: usize = 1000;

/// `upstream`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// A tenant's API. Default `https://{clave}.admintotal.com/api/v2/`.
    #[serde(deserialize_with = "base_url")]
    pub base_url: BaseUrl,
    /// For a connection. Default 3 s.
    #[serde(deserialize_with = "units::duration")]
    pub connect_timeout: Duration,
    /// For a whole answer; uploads have their own. Default 15 s.
    #[serde(deserialize_with = "units::duration")]
    pub timeout: Duration,
    /// For an upload and its answer. Default 120 s.
    #[serde(deserialize_with = "units::duration")]
    pub upload_timeout: Duration,
    /// Requests at once per credential. Default 5.
    pub max_concurrency: usize,
    /// How long a request waits for its turn. Default 10 s.
    #[serde(deserialize_with = "units::duration")]
    pub queue_timeout: Duration,
    /// How the ERP wants an image in JSON. Default [`ImageEncoding::Base64`].
    pub image_encoding: ImageEncoding,
    /// How the ERP spells the field `descripcion` of a change; the vendor's page has an
    /// accent in one place. Default `descripcion`.
    pub descripcion_field: String,
}

/// `upstream.image_encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ImageEncoding {
    /// The base64 text alone.
    Base64,
    /// A `data:` URL (RFC 2397) around it.
    DataUri,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            base_url: BaseUrl::default(),
            connect_timeout: Duration::from_secs(3),
            timeout: Duration::from_secs(15),
            upload_timeout: Duration::from_secs(120),
            max_concurrency: 5,
            queue_timeout: Duration::from_secs(10),
            image_encoding: ImageEncoding::Base64,
            descripcion_field: "descripcion".to_owned(),
        }
    }
}

impl Upstream {
    /// What the form allows and the meaning doesn't.
    pub fn check(&self, at: &mut Checker<'_>) {
        for (key, value) in [
            ("upstream.connect_timeout", self.connect_timeout),
            ("upstream.timeout", self.timeout),
            ("upstream.upload_timeout", self.upload_timeout),
            ("upstream.queue_timeout", self.queue_timeout),
        ] {
            at.require(
                !value.is_zero(),
                key,
                "must be longer than 0, or every request would fail",
            );
        }
        at.require(
            (1..=MAX_CONCURRENCY).contains(&self.max_concurrency),
            "upstream.max_concurrency",
            "must be from 1 to 1000; the ERP takes about 5 per account",
        );
        at.require(
            !self.descripcion_field.is_empty()
                && !self.descripcion_field.chars().any(char::is_control),
            "upstream.descripcion_field",
            "must be a field's name; write descripcion",
        );
    }
}

/// A tenant's address with its clave left open.
#[derive(Clone, PartialEq, Eq)]
pub struct BaseUrl {
    before: String,
    after: String,
}

/// An address that can't be the upstream's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBaseUrl {
    /// No place for the clave, or several.
    #[error("must have {{clave}} exactly once, e.g. https://{{clave}}.admintotal.com/api/v2/")]
    Placeholder,
    /// The clave stands somewhere else.
    #[error(
        "{{clave}} must be the host's first label, as in https://{{clave}}.example.com/, or stand in the path"
    )]
    Position,
    /// Not an address at all.
    #[error("isn't an address; write one like https://{{clave}}.admintotal.com/api/v2/")]
    Address,
    /// `http` over a network.
    #[error("must be https: an Api-key would travel in the clear; http is for loopback hosts only")]
    Plaintext,
    /// User, query or fragment.
    #[error("must not have a user, a query or a fragment; remove it")]
    Extra,
}

const PLACEHOLDER: &str = "{clave}";
/// Stands for a clave while the address is read: a label that no address has.
const SAMPLE: &str = "clave-of-a-tenant";

impl BaseUrl {
    /// The address of that account; it ends in `/`. What is no DNS label leads nowhere,
    /// so that a key can't reach a host that the configuration doesn't name.
    #[must_use]
    pub fn for_clave(&self, clave: &str) -> Url {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let label = (1..=63).contains(&clave.len())
            && clave.bytes().all(inner)
            && !clave.starts_with('-')
            && !clave.ends_with('-');
        label
            .then(|| Url::parse(&format!("{}{clave}{}", self.before, self.after)).ok())
            .flatten()
            .unwrap_or_else(nowhere)
    }
}

/// An address that no resolver has (RFC 6761 §6.4).
fn nowhere() -> Url {
    Url::parse("https://no-such-clave.invalid/").expect("a constant address is well-formed")
}

impl Default for BaseUrl {
    fn default() -> Self {
        Self {
            before: "https://".to_owned(),
            after: ".admintotal.com/api/v2/".to_owned(),
        }
    }
}

impl FromStr for BaseUrl {
    type Err = InvalidBaseUrl;

    fn from_str(text: &str) -> Result<Self, InvalidBaseUrl> {
        if text.matches(PLACEHOLDER).count() != 1 || text.contains(SAMPLE) {
            return Err(InvalidBaseUrl::Placeholder);
        }
        let mut url =
            Url::parse(&text.replace(PLACEHOLDER, SAMPLE)).map_err(|_| InvalidBaseUrl::Address)?;
        let extra = !url.username().is_empty()
            || url.password().is_some()
            || url.query().is_some()
            || url.fragment().is_some();
        if extra {
            return Err(InvalidBaseUrl::Extra);
        }
        let in_path = url.path().contains(SAMPLE);
        let loopback = match url.host() {
            None => return Err(InvalidBaseUrl::Address),
            Some(Host::Domain(host)) => {
                let first = host
                    .strip_prefix(SAMPLE)
                    .is_some_and(|rest| rest.len() > 1 && rest.starts_with('.'));
                let only_in_path = in_path && !host.contains(SAMPLE);
                if !first && !only_in_path {
                    return Err(InvalidBaseUrl::Position);
                }
                host == "localhost" || host.ends_with(".localhost")
            }
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
        };
        match url.scheme() {
            "https" => {}
            "http" if loopback => {}
            "http" => return Err(InvalidBaseUrl::Plaintext),
            _ => return Err(InvalidBaseUrl::Address),
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let (before, after) = url
            .as_str()
            .split_once(SAMPLE)
            .ok_or(InvalidBaseUrl::Position)?;
        Ok(Self {
            before: before.to_owned(),
            after: after.to_owned(),
        })
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{PLACEHOLDER}{}", self.before, self.after)
    }
}

impl fmt::Debug for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn base_url<'de, D: Deserializer<'de>>(from: D) -> Result<BaseUrl, D::Error> {
    String::deserialize(from)?
        .parse()
        .map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<String, InvalidBaseUrl> {
        text.parse::<BaseUrl>().map(|url| url.to_string())
    }

    #[test]
    fn the_clave_stands_in_the_host_or_in_the_path() {
        for (text, clave_address) in [
            (
                "https://{clave}.admintotal.com/api/v2/",
                "https://carper.admintotal.com/api/v2/",
            ),
            (
                "https://{clave}.admintotal.com/api/v2",
                "https://carper.admintotal.com/api/v2/",
            ),
            (
                "https://{clave}.admintotal.com",
                "https://carper.admintotal.com/",
            ),
            (
                "http://127.0.0.1:9/{clave}/api/v2/",
                "http://127.0.0.1:9/carper/api/v2/",
            ),
            ("http://[::1]:9/{clave}", "http://[::1]:9/carper/"),
            ("http://{clave}.localhost:9/", "http://carper.localhost:9/"),
            ("http://localhost/t-{clave}/", "http://localhost/t-carper/"),
        ] {
            let url: BaseUrl = text.parse().expect("is good");
            assert_eq!(url.for_clave("carper").as_str(), clave_address, "{text}");
        }
        assert_eq!(
            parsed("https://{clave}.admintotal.com/api/v2"),
            Ok(BaseUrl::default().to_string())
        );
    }

    #[test]
    fn other_addresses_are_refused_with_a_reason() {
        use InvalidBaseUrl::{Address, Extra, Placeholder, Plaintext, Position};
        for (text, reason) in [
            ("https://admintotal.com/", Placeholder),
            ("https://{clave}.admintotal.com/{clave}/", Placeholder),
            ("https://{clave}/", Position),
            ("https://{clave}./", Position),
            ("https://api.{clave}.com/", Position),
            ("https://x{clave}.example.com/", Position),
            ("{clave}.admintotal.com", Address),
            ("ftp://{clave}.example.com/", Address),
            ("https://example.com:{clave}/", Address),
            ("http://{clave}.admintotal.com/", Plaintext),
            ("http://{clave}.localhost.example.com/", Plaintext),
            ("http://10.0.0.1/{clave}/", Plaintext),
            ("https://u:p@{clave}.example.com/", Extra),
            ("https://{clave}@example.com/", Extra),
            ("https://example.com/?{clave}", Extra),
            ("https://{clave}.example.com/#x", Extra),
        ] {
            assert_eq!(parsed(text), Err(reason), "{text}");
        }
    }

    #[test]
    fn a_clave_that_is_no_label_leads_nowhere() {
        for clave in [
            "",
            "evil.com/",
            "evil.com#",
            "a@b",
            "-a",
            "a b",
            "..",
            "%2e",
            &"a".repeat(64),
        ] {
            let url = BaseUrl::default().for_clave(clave);
            assert_eq!(url.host_str(), Some("no-such-clave.invalid"), "{clave}");
        }
    }
}
