//! The boundary that a `Content-Type` names.

use super::{
    delimiter::{Delimiter, Found},
    parameters,
};

/// The longest boundary (RFC 2046 §5.1.1).
pub(in crate::extract) const MAX_BOUNDARY: usize = 70;

/// What stands between parts, without its `--`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::extract) struct Boundary(Vec<u8>);

/// Why a `Content-Type` gives none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::extract) enum InvalidBoundary {
    /// It is another media type.
    #[error("isn't `multipart/form-data`")]
    OtherType,
    /// Its parameters can't be read.
    #[error("has parameters that can't be read")]
    Unreadable,
    /// A parameter stands twice.
    #[error("has a parameter more than once")]
    Twice,
    /// There is no such parameter.
    #[error("has no `boundary`")]
    Missing,
    /// Nothing is in it.
    #[error("has an empty `boundary`")]
    Empty,
    /// More than [`MAX_BOUNDARY`].
    #[error("has a `boundary` of more than {MAX_BOUNDARY} characters")]
    TooLong,
    /// Others than the RFC's.
    #[error("has a `boundary` with characters that can't be in one, or a space at its end")]
    Characters,
}

impl Boundary {
    pub(in crate::extract) fn of(content_type: &[u8]) -> Result<Self, InvalidBoundary> {
        let essence = content_type.split(|byte| *byte == b';').next();
        let essence = essence.unwrap_or_default().trim_ascii();
        if !essence.eq_ignore_ascii_case(b"multipart/form-data") {
            return Err(InvalidBoundary::OtherType);
        }
        let (_, mut parameters) =
            parameters::split(content_type).map_err(|unreadable| match unreadable {
                parameters::Unreadable::Syntax => InvalidBoundary::Unreadable,
                parameters::Unreadable::Twice => InvalidBoundary::Twice,
            })?;
        let boundary = parameters
            .remove("boundary")
            .ok_or(InvalidBoundary::Missing)?;
        match &*boundary {
            [] => Err(InvalidBoundary::Empty),
            long if long.len() > MAX_BOUNDARY => Err(InvalidBoundary::TooLong),
            [.., b' '] => Err(InvalidBoundary::Characters),
            all if !all.iter().copied().all(may_be_in_one) => Err(InvalidBoundary::Characters),
            _ => Ok(Self(boundary)),
        }
    }

    /// Whether a delimiter's line stands in that content, however its lines end.
    pub(in crate::extract) fn has_line_in(&self, content: &[u8]) -> bool {
        let found = Delimiter::first(self).find(content);
        matches!(found, Found::Line { .. })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// `bchars` (RFC 2046 §5.1.1), and what else some clients put into one: none of it is a line end.
const fn may_be_in_one(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'\''
                | b'('
                | b')'
                | b'+'
                | b'_'
                | b','
                | b'-'
                | b'.'
                | b'/'
                | b':'
                | b'='
                | b'?'
                | b' '
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boundary_is_read_quoted_or_not() {
        let long = "b".repeat(MAX_BOUNDARY);
        for (content_type, boundary) in [
            ("multipart/form-data; boundary=b", "b"),
            ("Multipart/Form-Data;charset=utf-8;BOUNDARY=\"b\"", "b"),
            (
                "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxk",
                "----WebKitFormBoundary7MA4YWxk",
            ),
            (
                "multipart/form-data; boundary=dart-http-boundary-+_.x",
                "dart-http-boundary-+_.x",
            ),
            (
                "multipart/form-data; boundary=\"a b'()+_,-./:=?\"",
                "a b'()+_,-./:=?",
            ),
            (
                "multipart/form-data; boundary=----=_Part:0/1 ; x=y",
                "----=_Part:0/1",
            ),
            (&format!("multipart/form-data; boundary={long}"), &long),
        ] {
            assert_eq!(
                Boundary::of(content_type.as_bytes()),
                Ok(Boundary(boundary.as_bytes().to_vec())),
                "{content_type}"
            );
        }
    }

    #[test]
    fn what_is_wrong_with_it_is_told() {
        let long = format!(
            "multipart/form-data; boundary={}",
            "b".repeat(MAX_BOUNDARY + 1)
        );
        for (content_type, why) in [
            ("application/json", InvalidBoundary::OtherType),
            ("multipart/mixed; boundary=b", InvalidBoundary::OtherType),
            ("", InvalidBoundary::OtherType),
            ("multipart/form-data", InvalidBoundary::Missing),
            ("multipart/form-data; boundary=", InvalidBoundary::Empty),
            ("multipart/form-data; boundary=\"\"", InvalidBoundary::Empty),
            (
                "multipart/form-data; boundary=\"b \"",
                InvalidBoundary::Characters,
            ),
            (
                "multipart/form-data; boundary=b@",
                InvalidBoundary::Characters,
            ),
            (
                "multipart/form-data; boundary=\"b\u{f1}\"",
                InvalidBoundary::Characters,
            ),
            (
                "multipart/form-data; boundary=\"b\\\r\"",
                InvalidBoundary::Characters,
            ),
            (
                "multipart/form-data; boundary=b; boundary=c",
                InvalidBoundary::Twice,
            ),
            (
                "multipart/form-data; boundary=\"b",
                InvalidBoundary::Unreadable,
            ),
            (&long, InvalidBoundary::TooLong),
        ] {
            assert_eq!(
                Boundary::of(content_type.as_bytes()),
                Err(why),
                "{content_type}"
            );
        }
    }
}
