//! The head of a part: which field it is, and what its own header says of it.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CONTENT_DISPOSITION, HeaderName as Name},
};

use super::parameters::{self, Unreadable};

const CONTENT_TRANSFER_ENCODING: Name = Name::from_static("content-transfer-encoding");

/// A part's head.
#[derive(Debug)]
pub(in crate::extract) struct Head {
    /// The field's name.
    pub name: String,
    /// The part's own header.
    pub fields: HeaderMap,
}

/// Why a head can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::extract) enum InvalidHead {
    /// A line is none of a header.
    #[error("has a line that is no header field")]
    Line,
    /// There isn't exactly one.
    #[error("needs one `Content-Disposition`")]
    Disposition,
    /// It isn't `form-data`, or can't be read.
    #[error("has a `Content-Disposition` that isn't `form-data` with a `name`")]
    NotFormData,
    /// A parameter of it stands twice, or its two forms differ.
    #[error("has a `Content-Disposition` whose `name` is ambiguous")]
    Ambiguous,
}

impl Head {
    /// The head of those lines, line ends and the empty one at the end included.
    pub(super) fn read(lines: &[u8]) -> Result<Self, InvalidHead> {
        let mut fields = HeaderMap::new();
        let mut lines = lines
            .split(|byte| *byte == b'\n')
            .map(without_cr)
            .peekable();
        while let Some(line) = lines.next() {
            if line.is_empty() {
                continue;
            }
            let colon = memchr::memchr(b':', line).ok_or(InvalidHead::Line)?;
            let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| InvalidHead::Line)?;
            let mut value = line[colon + 1..].trim_ascii().to_vec();
            // A value may go on in the next line (RFC 5322 §2.2.3).
            while let Some(more) =
                lines.next_if(|line| line.starts_with(b" ") || line.starts_with(b"\t"))
            {
                value.push(b' ');
                value.extend_from_slice(more.trim_ascii());
            }
            let value = HeaderValue::from_bytes(&value).map_err(|_| InvalidHead::Line)?;
            fields
                .try_append(name, value)
                .map_err(|_| InvalidHead::Line)?;
        }
        let name = name_of(&fields)?;
        Ok(Self { name, fields })
    }

    /// Whether the part's bytes stand for others (RFC 2045 §6): in a form they never do (RFC 7578 §4.7).
    pub(in crate::extract) fn is_encoded(&self) -> bool {
        let encodings = self.fields.get_all(CONTENT_TRANSFER_ENCODING);
        encodings.iter().any(|encoding| {
            let plain = [&b"binary"[..], b"8bit", b"7bit"];
            let encoding = encoding.as_bytes().trim_ascii();
            !plain.iter().any(|it| it.eq_ignore_ascii_case(encoding))
        })
    }
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn name_of(fields: &HeaderMap) -> Result<String, InvalidHead> {
    let mut dispositions = fields.get_all(CONTENT_DISPOSITION).iter();
    let (Some(disposition), None) = (dispositions.next(), dispositions.next()) else {
        return Err(InvalidHead::Disposition);
    };
    let (kind, parameters) =
        parameters::split(disposition.as_bytes()).map_err(|unreadable| match unreadable {
            Unreadable::Syntax => InvalidHead::NotFormData,
            Unreadable::Twice => InvalidHead::Ambiguous,
        })?;
    if !kind.eq_ignore_ascii_case(b"form-data") {
        return Err(InvalidHead::NotFormData);
    }
    let plain = parameters
        .get("name")
        .map(|name| String::from_utf8_lossy(name).into_owned());
    let extended = match parameters.get("name*") {
        Some(value) => Some(parameters::extended(value).ok_or(InvalidHead::NotFormData)?),
        None => None,
    };
    match (plain, extended) {
        (None, None) => Err(InvalidHead::NotFormData),
        (Some(one), Some(other)) if one != other => Err(InvalidHead::Ambiguous),
        (Some(name), _) | (None, Some(name)) => Ok(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(lines: &str) -> Result<String, InvalidHead> {
        Head::read(lines.as_bytes()).map(|head| head.name)
    }

    #[test]
    fn the_name_is_read_as_clients_write_it() {
        for lines in [
            "Content-Disposition: form-data; name=\"imagen\"\r\n\r\n",
            "content-disposition: form-data; name=\"imagen\"; filename=\"f\\\"oto.jpg\"\r\ncontent-type: image/jpeg\r\n\r\n",
            "CONTENT-DISPOSITION:FORM-DATA;NAME=imagen\n\n",
            "Content-Type: image/jpeg\r\nContent-Disposition: form-data;\r\n name=\"imagen\";\r\n\tfilename=\"f\"\r\n\r\n",
            "Content-Disposition: form-data; name*=UTF-8''imagen\r\n\r\n",
            "Content-Disposition: form-data; name=imagen; name*=UTF-8''im%61gen\r\n\r\n",
            "Content-Disposition: form-data; name=\"imagen\"; filename=\"\u{f1}\"; filename*=iso-8859-1''x\r\n\r\n",
        ] {
            assert_eq!(name(lines).as_deref(), Ok("imagen"), "{lines}");
        }
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (lines, why) in [
            ("\r\n", InvalidHead::Disposition),
            ("Content-Type: image/jpeg\r\n\r\n", InvalidHead::Disposition),
            (
                "Content-Disposition: form-data; name=a\r\nContent-Disposition: form-data; name=b\r\n\r\n",
                InvalidHead::Disposition,
            ),
            (
                "Content-Disposition: form-data\r\n\r\n",
                InvalidHead::NotFormData,
            ),
            (
                "Content-Disposition: attachment; name=a\r\n\r\n",
                InvalidHead::NotFormData,
            ),
            (
                "Content-Disposition: form-data; name=\"a\r\n\r\n",
                InvalidHead::NotFormData,
            ),
            (
                "Content-Disposition: form-data; name*=x\r\n\r\n",
                InvalidHead::NotFormData,
            ),
            (
                "Content-Disposition: form-data; name=a; name=b\r\n\r\n",
                InvalidHead::Ambiguous,
            ),
            (
                "Content-Disposition: form-data; name=a; name*=UTF-8''b\r\n\r\n",
                InvalidHead::Ambiguous,
            ),
            ("no field\r\n\r\n", InvalidHead::Line),
            ("a b: c\r\n\r\n", InvalidHead::Line),
            (" folded: first\r\n\r\n", InvalidHead::Line),
            ("X: a\0b\r\n\r\n", InvalidHead::Line),
            ("X: a\rb\r\n\r\n", InvalidHead::Line),
        ] {
            assert_eq!(name(lines), Err(why), "{lines:?}");
        }
    }

    #[test]
    fn only_bytes_as_they_are_are_no_encoding() {
        for (encoding, is_encoded) in [
            ("binary", false),
            ("8BIT", false),
            (" 7bit ", false),
            ("base64", true),
            ("quoted-printable", true),
            ("", true),
        ] {
            let lines = format!(
                "Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
            );
            let head = Head::read(lines.as_bytes()).expect("is a head");
            assert_eq!(head.is_encoded(), is_encoded, "{encoding}");
        }
    }
}
