//! The parameters of a media type or a disposition: `; name=value; name="value"; name*=UTF-8''value`.

use std::collections::BTreeMap;

/// A field's parameters by their names in lower case.
pub(super) type Parameters = BTreeMap<String, Vec<u8>>;

/// Why parameters can't be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// They don't follow the grammar.
    Syntax,
    /// One stands twice, and which one counts is anybody's guess (RFC 6266 §4.1).
    Twice,
}

/// A field's value before its first `;`, and its parameters.
pub(super) fn split(field: &[u8]) -> Result<(&[u8], Parameters), Unreadable> {
    let end = memchr::memchr(b';', field).unwrap_or(field.len());
    let (value, mut rest) = field.split_at(end);
    let mut parameters = Parameters::new();
    loop {
        // Some end with a `;`, or write two.
        rest = rest.trim_ascii_start();
        while let Some(behind) = rest.strip_prefix(b";") {
            rest = behind.trim_ascii_start();
        }
        if rest.is_empty() {
            return Ok((value.trim_ascii(), parameters));
        }
        let equals = memchr::memchr(b'=', rest).ok_or(Unreadable::Syntax)?;
        let name = rest[..equals].trim_ascii();
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(Unreadable::Syntax);
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        let (text, behind) = match rest[equals + 1..].trim_ascii_start() {
            [b'"', quoted @ ..] => {
                // Some write a file's name as it is, quotes and all. Nothing depends on it.
                let may_hold_quotes = name == "filename";
                unquoted(quoted, may_hold_quotes).ok_or(Unreadable::Syntax)?
            }
            plain => {
                let end = memchr::memchr(b';', plain).unwrap_or(plain.len());
                (plain[..end].trim_ascii().to_vec(), &plain[end..])
            }
        };
        if !behind.is_empty() && !behind.trim_ascii_start().starts_with(b";") {
            return Err(Unreadable::Syntax);
        }
        if parameters.insert(name, text).is_some() {
            return Err(Unreadable::Twice);
        }
        rest = behind;
    }
}

/// `token` (RFC 9110 §5.6.2); `*` ends the name of an extended parameter.
const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        )
}

/// The text of a quoted string (RFC 9110 §5.6.4) and what stands behind its end. One that may
/// hold quotes ends at the first that a `;` or nothing follows.
fn unquoted(quoted: &[u8], may_hold_quotes: bool) -> Option<(Vec<u8>, &[u8])> {
    let is_end = |behind: &[u8]| {
        let behind = behind.trim_ascii_start();
        !may_hold_quotes || behind.is_empty() || behind.starts_with(b";")
    };
    let mut text = Vec::new();
    let mut rest = quoted;
    loop {
        match rest {
            [b'"', behind @ ..] if is_end(behind) => return Some((text, behind)),
            [b'\\', escaped, behind @ ..] => {
                text.push(*escaped);
                rest = behind;
            }
            [byte, behind @ ..] => {
                text.push(*byte);
                rest = behind;
            }
            [] => return None,
        }
    }
}

/// The text of an extended value, `UTF-8'es'…` (RFC 8187 §3.2): UTF-8 is all that anybody sends.
pub(super) fn extended(value: &[u8]) -> Option<String> {
    let mut fields = value.splitn(3, |byte| *byte == b'\'');
    let (charset, _language, mut rest) = (fields.next()?, fields.next()?, fields.next()?);
    if !charset.eq_ignore_ascii_case(b"utf-8") {
        return None;
    }
    let mut text = Vec::with_capacity(rest.len());
    loop {
        match rest {
            [] => return String::from_utf8(text).ok(),
            [b'%', high, low, behind @ ..] => {
                let digit = |byte: u8| char::from(byte).to_digit(16);
                let byte = digit(*high)? * 16 + digit(*low)?;
                text.push(u8::try_from(byte).ok()?);
                rest = behind;
            }
            [b'%', ..] => return None,
            [byte, behind @ ..] => {
                text.push(*byte);
                rest = behind;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(field: &str) -> Result<Vec<(String, String)>, Unreadable> {
        let (_, parameters) = split(field.as_bytes())?;
        let text = |text| String::from_utf8(text).expect("is UTF-8");
        Ok(parameters
            .into_iter()
            .map(|(name, it)| (name, text(it)))
            .collect())
    }

    #[test]
    fn parameters_are_read_as_clients_write_them() {
        for (field, expected) in [
            ("form-data", vec![]),
            ("form-data;", vec![]),
            (r#"form-data; name="imagen""#, vec![("name", "imagen")]),
            ("form-data;name=imagen;", vec![("name", "imagen")]),
            (
                r#"form-data ; NAME = "imagen" ;; x=y"#,
                vec![("name", "imagen"), ("x", "y")],
            ),
            (
                r#"form-data; name="a;b=c"; filename="x\"y\\z.jpg""#,
                vec![("filename", r#"x"y\z.jpg"#), ("name", "a;b=c")],
            ),
            (
                r#"form-data; name="imagen"; filename="fachada ñ 📷.jpg"; filename*=UTF-8''fachada%20%C3%B1"#,
                vec![
                    ("filename", "fachada ñ 📷.jpg"),
                    ("filename*", "UTF-8''fachada%20%C3%B1"),
                    ("name", "imagen"),
                ],
            ),
            ("form-data; filename=", vec![("filename", "")]),
            (
                r#"form-data; name="imagen"; filename="la "norte".jpg"; x=y"#,
                vec![
                    ("filename", r#"la "norte".jpg"#),
                    ("name", "imagen"),
                    ("x", "y"),
                ],
            ),
            (
                "x; boundary=----=_Part_0:1/2",
                vec![("boundary", "----=_Part_0:1/2")],
            ),
        ] {
            let expected = expected.into_iter();
            let expected: Vec<_> = expected
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .collect();
            assert_eq!(read(field), Ok(expected), "{field}");
        }
        for (field, why) in [
            ("form-data; name", Unreadable::Syntax),
            (r#"form-data; name="x"#, Unreadable::Syntax),
            (r#"form-data; name="x"y"#, Unreadable::Syntax),
            ("form-data; na me=x", Unreadable::Syntax),
            ("form-data; =x", Unreadable::Syntax),
            ("form-data; name=a; Name=a", Unreadable::Twice),
        ] {
            assert_eq!(read(field), Err(why), "{field}");
        }
    }

    #[test]
    fn extended_values_are_utf_8() {
        for (value, text) in [
            ("UTF-8''imagen", Some("imagen")),
            ("utf-8'es'%C3%B1and%c3%ba", Some("ñandú")),
            ("UTF-8''", Some("")),
            ("UTF-8''a'b", Some("a'b")),
            ("UTF-8''%ff", None),
            ("UTF-8''%4", None),
            ("UTF-8''%zz", None),
            ("ISO-8859-1''x", None),
            ("UTF-8'x", None),
            ("", None),
        ] {
            assert_eq!(extended(value.as_bytes()).as_deref(), text, "{value}");
        }
    }
}
