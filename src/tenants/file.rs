//! One tenant's file, `<tenant-id>.yaml`: its form, and its mistakes.

use std::{borrow::Borrow, collections::BTreeMap, fmt, path::Path, str::FromStr, sync::Arc};

use serde::Deserialize;

use crate::{
    config::{
        document::{self, Document},
        mistake::{Mistake, Mistakes},
        secret::SecretSource,
    },
    operation::Scope,
};

use super::{Clave, Credential, DEFAULT_CREDENTIAL, Rule, Tenant};

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TenantFile {
    clave: String,
    credentials: BTreeMap<String, CredentialEntry>,
    #[serde(default)]
    users: Vec<UserEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialEntry {
    api_key: Option<SecretSource>,
    login: Option<Login>,
}

/// Read so that a file for a later version gets a clear answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "only its form is checked until logins are supported"
)]
struct Login {
    username: String,
    password: SecretSource,
    mode: LoginMode,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum LoginMode {
    Jwt,
    ApiKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserEntry {
    #[serde(rename = "match")]
    claims: BTreeMap<String, String>,
    credential: String,
    scopes: Option<Vec<String>>,
}

/// Reads one tenant.
///
/// # Errors
/// Every mistake in the file, with line and key.
pub(super) fn read(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Tenant, Mistakes> {
    let decoded = document::decode_file::<TenantFile>(path, [])?;
    let Some(file) = decoded.value else {
        return Err(Mistakes::sorted(decoded.mistakes));
    };
    let mut reading = Reading {
        document: &decoded.document,
        path,
        env,
        mistakes: decoded.mistakes,
    };

    let id = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default()
        .parse::<TenantId>();
    let id = reading.noted("", id);
    let clave = reading.noted("clave", file.clave.parse::<Clave>());
    let credentials = id
        .as_ref()
        .map(|id| reading.credentials(id, &file.credentials));
    let users = reading.users(&file);
    match (id, clave, credentials) {
        (Some(id), Some(clave), Some(credentials)) if reading.mistakes.is_empty() => Ok(Tenant {
            id,
            clave,
            credentials,
            users,
        }),
        _ => Err(Mistakes::sorted(reading.mistakes)),
    }
}

struct Reading<'a> {
    document: &'a Document,
    path: &'a Path,
    env: &'a dyn Fn(&str) -> Option<String>,
    mistakes: Vec<Mistake>,
}

impl Reading<'_> {
    fn mistake(&mut self, key: &str, what: impl Into<String>) {
        self.mistakes.push(self.document.mistake(key, what));
    }

    fn noted<T, E: fmt::Display>(&mut self, key: &str, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.mistake(key, error.to_string()))
            .ok()
    }

    fn credentials(
        &mut self,
        tenant: &TenantId,
        entries: &BTreeMap<String, CredentialEntry>,
    ) -> BTreeMap<Arc<str>, Arc<Credential>> {
        let mut credentials = BTreeMap::new();
        if entries.is_empty() {
            self.mistake(
                "credentials",
                "a tenant needs at least one credential, e.g. `default: {api_key: {file: PATH}}`",
            );
        }
        for (name, entry) in entries {
            let key = format!("credentials.{name}");
            let source = match (&entry.api_key, &entry.login) {
                (Some(source), None) => source,
                (None, Some(_)) => {
                    self.mistake(
                        &format!("{key}.login"),
                        "login credentials aren't available in this version; use `api_key` with a key of that user",
                    );
                    continue;
                }
                (Some(_), Some(_)) => {
                    self.mistake(
                        &key,
                        "a credential is either `api_key` or `login`; remove one",
                    );
                    continue;
                }
                (None, None) => {
                    self.mistake(
                        &key,
                        "a credential needs `api_key`, e.g. {api_key: {file: PATH}}",
                    );
                    continue;
                }
            };
            let base = self.path.parent().unwrap_or(Path::new("."));
            let key = format!("{key}.api_key");
            let Some(secret) = self.noted(&key, source.resolve(base, self.env)) else {
                continue;
            };
            #[expect(
                clippy::disallowed_methods,
                reason = "its form is checked, nothing is kept"
            )]
            let sendable = secret.expose().bytes().all(|byte| byte.is_ascii_graphic());
            if !sendable {
                self.mistake(&key, "an Api-key has visible ASCII characters only; this one has blanks or others: copy it again");
                continue;
            }
            let credential = Credential::api_key(tenant.clone(), name, secret);
            credentials.insert(credential.id().name().clone(), Arc::new(credential));
        }
        credentials
    }

    fn users(&mut self, file: &TenantFile) -> Vec<Rule> {
        if file.users.is_empty()
            && !file.credentials.is_empty()
            && !file.credentials.contains_key(DEFAULT_CREDENTIAL)
        {
            self.mistake("credentials", "without `users`, everybody acts with the credential `default`: add it, or add `users`");
        }
        let mut rules = Vec::with_capacity(file.users.len());
        for (index, entry) in file.users.iter().enumerate() {
            if !file.credentials.contains_key(&entry.credential) {
                let known: Vec<&str> = file.credentials.keys().map(String::as_str).collect();
                self.mistake(
                    &format!("users[{index}].credential"),
                    format!(
                        "no credential of that name in this file; it has: {}",
                        known.join(", ")
                    ),
                );
            }
            let scopes = entry.scopes.as_ref().map(|words| {
                words
                    .iter()
                    .enumerate()
                    .filter_map(|(at, word)| {
                        self.noted(
                            &format!("users[{index}].scopes[{at}]"),
                            word.parse::<Scope>(),
                        )
                    })
                    .collect()
            });
            rules.push(Rule {
                claims: entry.claims.clone(),
                credential: entry.credential.as_str().into(),
                scopes,
            });
        }
        rules
    }
}
