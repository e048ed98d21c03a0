//! A tenant's id.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// A tenant's name inside the company: the file's name without `.yaml`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Arc<str>);

/// A name that can't be a tenant's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tenant's id has 1 to 63 of a-z, 0-9, `-` and `_`, and begins with a letter or digit")]
pub struct InvalidTenantId;

impl TenantId {
    /// The id as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TenantId {
    type Err = InvalidTenantId;

    fn from_str(text: &str) -> Result<Self, InvalidTenantId> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let valid = text.len() <= 63
            && text.bytes().next().is_some_and(letter)
            && text
                .bytes()
                .all(|byte| letter(byte) || byte == b'-' || byte == b'_');
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(InvalidTenantId)
        }
    }
}

impl Borrow<str> for TenantId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
