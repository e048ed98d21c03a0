//! A JSON text as its reader will have it: a key is one for a caller however it was escaped.

/// The text with what is escaped in it written out, and without line ends, which base64 may have
/// anywhere (RFC 2045 §6.8); none where nothing is escaped. Only ASCII is of interest: keys have nothing else.
pub(super) fn written_out(bytes: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b'\\', bytes)?;
    let mut text = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        text.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        match rest {
            [b'u', digits @ ..] => {
                let code = digits
                    .get(..4)
                    .and_then(|digits| std::str::from_utf8(digits).ok())
                    .and_then(|digits| u32::from_str_radix(digits, 16).ok());
                match code.map(u8::try_from) {
                    Some(Ok(byte)) => text.push(byte),
                    // Something that no key has.
                    _ => text.push(0),
                }
                rest = digits.get(4..).unwrap_or_default();
            }
            [b'n' | b'r', after @ ..] => rest = after,
            [b't' | b'b' | b'f', after @ ..] => {
                text.push(0);
                rest = after;
            }
            [escaped, after @ ..] => {
                text.push(*escaped);
                rest = after;
            }
            [] => {}
        }
    }
    text.extend_from_slice(rest);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_escaped_is_written_out() {
        for (json, text) in [
            (r"a\u003d\u003D", "a=="),
            (r#"\"\\\/"#, "\"\\/"),
            (r"c2Vj\r\nbg", "c2Vjbg"),
            (r"\u00e9\ud83d\ude00x", "\u{e9}\0\0x"),
            (r"a\u00", "a\0"),
            (r"a\", "a"),
        ] {
            let written = written_out(json.as_bytes()).expect("something is escaped");
            let expected: Vec<u8> = text
                .chars()
                .map(|it| u8::try_from(u32::from(it)).expect("Latin-1"))
                .collect();
            assert_eq!(written, expected, "{json}");
        }
        assert_eq!(written_out(b"plain"), None);
    }
}
