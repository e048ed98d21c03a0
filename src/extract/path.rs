//! The record that an address names.

use std::{fmt, str::FromStr};

use axum::extract::{FromRequestParts, RawPathParams};
use http::request::Parts;

use crate::problem::{Code, FieldError, Problem};

/// A record's number at the ERP: positive, in canonical decimal form, so that one
/// record has one address and one cache key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordId(u64);

/// Not such a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidRecordId;

impl RecordId {
    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for RecordId {
    type Err = InvalidRecordId;

    fn from_str(text: &str) -> Result<Self, InvalidRecordId> {
        let canonical = !text.starts_with(['0', '+']);
        match text.parse::<i64>() {
            Ok(number) if canonical && number > 0 => Ok(Self(number.unsigned_abs())),
            _ => Err(InvalidRecordId),
        }
    }
}

impl fmt::Display for RecordId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The `{id}` of an address.
#[derive(Debug, Clone, Copy)]
pub struct Id(pub RecordId);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let parameters = RawPathParams::from_request_parts(parts, state).await;
        let id = parameters.ok().and_then(|parameters| {
            parameters
                .iter()
                .find(|(name, _)| *name == "id")
                .and_then(|(_, id)| id.parse().ok())
        });
        id.map(Self).ok_or_else(|| {
            let detail = "The id in the address must be a positive whole number of at most 18 digits, such as 11448: the record's internal `id`, not its `clave`.";
            Problem::new(Code::InvalidParameter, detail)
                .with_errors(vec![FieldError::parameter("id", detail)])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_record_has_one_spelling() {
        assert_eq!("11448".parse().map(RecordId::get), Ok(11448));
        for text in [
            "",
            "0",
            "-1",
            "+1",
            "01",
            "1.0",
            "1 ",
            "1e3",
            "9223372036854775808",
            "2761-13-1/1",
        ] {
            assert_eq!(text.parse::<RecordId>(), Err(InvalidRecordId), "{text}");
        }
    }
}
