//! What a verified token says, read by the configured paths.

use std::sync::Arc;

use serde_json::{Map, Value};

/// The claims of a token whose every check passed.
#[derive(Clone)]
pub struct Claims {
    pub(super) issuer: Arc<str>,
    pub(super) subject: Arc<str>,
    pub(super) expires_at: i64,
    pub(super) tenants: Vec<String>,
    pub(super) scopes: Vec<String>,
    pub(super) all: Arc<Map<String, Value>>,
}

impl Claims {
    /// `iss`.
    #[must_use]
    pub fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    /// `sub`.
    #[must_use]
    pub fn subject(&self) -> &Arc<str> {
        &self.subject
    }

    /// `exp`, in seconds since 1970.
    #[must_use]
    pub fn expires_at(&self) -> i64 {
        self.expires_at
    }

    /// The tenants that the token names, as written there.
    #[must_use]
    pub fn tenants(&self) -> &[String] {
        &self.tenants
    }

    /// Every scope word of the token, also those that aren't Llavero's.
    #[must_use]
    pub fn scopes(&self) -> &[String] {
        &self.scopes
    }

    /// The words of any claim, for the rules of a tenant file.
    #[must_use]
    pub fn words(&self, path: &str) -> Vec<String> {
        lookup(&self.all, path).map(word_list).unwrap_or_default()
    }
}

impl std::fmt::Debug for Claims {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Claims")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// A claim by its name or, where no claim has that name, by a dotted path. Names
/// may hold dots themselves (`https://example.com/tenant`).
pub(super) fn lookup<'a>(claims: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.match_indices('.').find_map(|(at, _)| {
        let inner = claims.get(&path[..at])?.as_object()?;
        lookup(inner, &path[at + 1..])
    })
}

/// A claim's words: a string, a space-separated string, or an array of strings.
/// Anything else in an array is passed over.
#[must_use]
pub fn word_list(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) => text.split_ascii_whitespace().map(str::to_owned).collect(),
        Value::Array(items) => items
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_claim_is_found_by_name_before_path() {
        let claims = json!({"a": {"b": "nested"}, "x.y": "flat", "https://e.com/t": {"z": 1}});
        let claims = claims.as_object().cloned().unwrap_or_default();
        assert_eq!(lookup(&claims, "a.b"), Some(&json!("nested")));
        assert_eq!(lookup(&claims, "x.y"), Some(&json!("flat")));
        assert_eq!(lookup(&claims, "https://e.com/t.z"), Some(&json!(1)));
        assert_eq!(lookup(&claims, "a.c"), None);
    }

    #[test]
    fn words_come_from_strings_and_arrays_only() {
        assert_eq!(word_list(&json!("a  b")), ["a", "b"]);
        assert_eq!(word_list(&json!(["a", 1, {"b": 2}, "c d"])), ["a", "c d"]);
        assert!(word_list(&json!({"a": "b"})).is_empty());
    }
}
