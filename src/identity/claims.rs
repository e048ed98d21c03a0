//! What a verified token says, read by the configured paths.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config;

/// The claims of a token whose every check passed.
#[derive(Clone)]
pub struct Claims {
    pub(super) issuer: Arc<str>,
    pub(super) is_of_the_only_issuer: bool,
    pub(super) subject: Arc<str>,
    pub(super) expires_at: i64,
    pub(super) tenants: Arc<[String]>,
    pub(super) scopes: Arc<[String]>,
    pub(super) all: Arc<Map<String, Value>>,
}

impl Claims {
    /// What a token's members say, where that issuer's settings look for it.
    pub(super) fn read(
        settings: &config::auth::Issuer,
        is_of_the_only_issuer: bool,
        subject: Arc<str>,
        expires_at: i64,
        all: Map<String, Value>,
    ) -> Self {
        let scopes = lookup(&all, &settings.claims.scope)
            .map_or_else(|| settings.default_scopes.clone(), word_list);
        let tenants = lookup(&all, &settings.claims.tenant)
            .map(word_list)
            .unwrap_or_default();
        Self {
            issuer: settings.issuer.as_str().into(),
            is_of_the_only_issuer,
            subject,
            expires_at,
            tenants: tenants.into(),
            scopes: scopes.into(),
            all: all.into(),
        }
    }

    /// What a token with those members would say, to explain what it would get. Nobody has
    /// signed it: no request gets such claims.
    pub(crate) fn supposed(
        auth: &config::auth::Auth,
        issuer: &config::auth::Issuer,
        subject: &str,
        all: Map<String, Value>,
    ) -> Self {
        Self::read(issuer, auth.issuers.len() == 1, subject.into(), 0, all)
    }

    /// `iss`.
    #[must_use]
    pub fn issuer(&self) -> &Arc<str> {
        &self.issuer
    }

    /// Whether no other issuer is configured, so that `sub` alone says who it is.
    #[must_use]
    pub fn is_of_the_only_issuer(&self) -> bool {
        self.is_of_the_only_issuer
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

    /// Any claim, by its name or dotted path, for the rules of a tenant file.
    #[must_use]
    pub fn claim(&self, path: &str) -> Option<&Value> {
        lookup(&self.all, path)
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
