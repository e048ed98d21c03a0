//! `proxy`: what of the rest of the ERP's API is passed through.

use std::time::Duration;

use serde::Deserialize;

use super::{document::Checker, units};

const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"];

/// `proxy`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Proxy {
    /// What is passed through, and nothing else. Default nothing.
    pub allow: Vec<Allow>,
}

/// One of `proxy.allow`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// The methods, in capitals (RFC 9110 §9.1).
    pub methods: Vec<String>,
    /// The path below the base address, without a `/` before it; `**` stands for any rest.
    pub path: String,
    /// How long an answer to GET stays fresh; none keeps nothing. Default none.
    #[serde(default, deserialize_with = "units::optional_duration")]
    pub ttl: Option<Duration>,
}

impl Proxy {
    /// What the form allows and the meaning doesn't.
    pub fn check(&self, at: &mut Checker<'_>) {
        for (index, allow) in self.allow.iter().enumerate() {
            let key = format!("proxy.allow[{index}]");
            at.require(
                !allow.methods.is_empty(),
                &format!("{key}.methods"),
                "needs at least one method, e.g. [GET]",
            );
            for (method_index, method) in allow.methods.iter().enumerate() {
                if !METHODS.contains(&method.as_str()) {
                    at.unknown_word(&format!("{key}.methods[{method_index}]"), method, &METHODS);
                }
            }
            let plain = |segment: &str| !matches!(segment, "" | "." | "..");
            at.require(
                allow.path.trim_end_matches('/').split('/').all(plain),
                &format!("{key}.path"),
                "must be a path below the base address, without `/` before it and without empty or dot segments, e.g. productos/**",
            );
        }
    }
}
