//! The `clave`: an account's subdomain at the ERP.

use std::{fmt, str::FromStr, sync::Arc};

/// One DNS label (RFC 1035 §2.3.1), lower case. Prints nothing: where a tenant
/// lives is between the gateway and the ERP.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Clave(Arc<str>);

/// A clave that doesn't reduce to one DNS label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the clave must reduce to one DNS label (letters, digits, inner hyphens, at most 63): \
     `carper`, `carper.admintotal.com` and `https://carper.admintotal.com/api/v2` all mean `carper`"
)]
pub struct InvalidClave;

impl Clave {
    /// The label.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Clave {
    type Err = InvalidClave;

    /// Takes every form that people paste.
    fn from_str(pasted: &str) -> Result<Self, InvalidClave> {
        let text = pasted.trim().to_ascii_lowercase();
        let text = text
            .strip_prefix("https://")
            .or_else(|| text.strip_prefix("http://"))
            .unwrap_or(&text);
        let host = text.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.strip_suffix('.').unwrap_or(host);
        let label = host.strip_suffix(".admintotal.com").unwrap_or(host);
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        let valid = (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-');
        if valid {
            Ok(Self(label.into()))
        } else {
            Err(InvalidClave)
        }
    }
}

impl fmt::Debug for Clave {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clave")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pasted_form_means_the_same_label() {
        for pasted in [
            "carper",
            " Carper ",
            "carper.admintotal.com",
            "https://carper.admintotal.com",
            "https://carper.admintotal.com/",
            "https://carper.admintotal.com/api/v2",
            "http://CARPER.admintotal.com./api/v2/?x#y",
        ] {
            assert_eq!(
                pasted.parse::<Clave>().as_ref().map(Clave::as_str),
                Ok("carper"),
                "{pasted}"
            );
        }
    }

    #[test]
    fn what_is_not_one_label_is_refused() {
        for pasted in [
            "",
            "-a",
            "a-",
            "a.b",
            "a_b",
            "evil.com",
            "a@b",
            "carper:8443",
            "cárper",
            "carper.admintotal.com.evil.com",
            "https://user@carper.admintotal.com",
            &"a".repeat(64),
        ] {
            assert_eq!(pasted.parse::<Clave>(), Err(InvalidClave), "{pasted}");
        }
    }
}
