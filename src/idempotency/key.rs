//! The header `Idempotency-Key`.

use sfv::{BareItem, Item, Parser};

/// What a caller calls its request, the same each time that it sends it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey(String);

/// It isn't 1 to 255 visible ASCII characters, quoted or bare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not 1 to 255 visible ASCII characters, quoted or bare")]
pub struct InvalidKey;

impl IdempotencyKey {
    const MOST: usize = 255;

    /// From the field's value: an item of structured fields that is a string (RFC 9651 §3.3), as the draft has it,
    /// whose parameters say nothing here; or the bare characters, as many clients send it. Both are the same key.
    ///
    /// # Errors
    /// It is neither.
    pub fn read(value: &[u8]) -> Result<Self, InvalidKey> {
        let value = value.trim_ascii();
        let key = match value.starts_with(b"\"") {
            true => quoted(value)?,
            false => value.to_vec(),
        };
        let is_sound =
            (1..=Self::MOST).contains(&key.len()) && key.iter().all(u8::is_ascii_graphic);
        let key = String::from_utf8(key).map_err(|_| InvalidKey)?;
        is_sound.then_some(Self(key)).ok_or(InvalidKey)
    }

    /// The key itself.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What stands between the quotes.
fn quoted(value: &[u8]) -> Result<Vec<u8>, InvalidKey> {
    let item: Item = Parser::new(value).parse().map_err(|_| InvalidKey)?;
    match item.bare_item {
        BareItem::String(key) => Ok(String::from(key).into_bytes()),
        _ => Err(InvalidKey),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(value: &str) -> Option<String> {
        let key = IdempotencyKey::read(value.as_bytes()).ok()?;
        Some(key.as_str().to_owned())
    }

    #[test]
    fn quoted_and_bare_are_one_key() {
        for value in ["8e03978e", "\"8e03978e\"", " \"8e03978e\" "] {
            assert_eq!(key(value).as_deref(), Some("8e03978e"), "{value}");
        }
        assert_eq!(key(r#""a\"b\\c""#).as_deref(), Some(r#"a"b\c"#));
        assert_eq!(key("a\"b").as_deref(), Some("a\"b"));
        for parameters in [";p=1", "; p", ";a=\"x;y\";b=?1", ";at=@1659578233"] {
            let value = format!("\"8e03978e\"{parameters}");
            assert_eq!(key(&value).as_deref(), Some("8e03978e"), "{value}");
        }
        let longest = "x".repeat(255);
        assert_eq!(key(&longest), Some(longest.clone()));
        assert_eq!(key(&format!("\"{longest}\"")), Some(longest));
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let too_long = "x".repeat(256);
        for value in [
            "",
            " ",
            "\"\"",
            "\"",
            "\"a",
            "a b",
            "\"a b\"",
            "\"a\"b",
            "\"a\";",
            "\"a\";x=",
            "\"a\" ;x=1",
            "\"a\";X=1",
            "\"a\",\"b\"",
            "\"a\\n\"",
            "\"a\\\"",
            "ñ",
            "a\tb",
            &too_long,
        ] {
            assert_eq!(key(value), None, "{value:?}");
        }
    }
}
