//! From what a tenant's file or directory says to a [`Tenant`], or to all that is wrong with it.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use crate::{
    config::{
        document::Document,
        mistake::{Mistake, Mistakes},
        secret::{Secret, SecretSource},
    },
    operation::Scope,
};

use super::{
    Clave, Credential, DEFAULT_CREDENTIAL, Environment, Login, LoginMode, Rule, Tenant, TenantId,
    file::{CredentialEntry, KeySources, LoginEntry, ModeEntry, TenantFile},
    mounted,
};

/// More mistakes than anybody corrects in one go; each is looked up in the whole file.
const MOST_MISTAKES: usize = 100;
/// The most credentials of a file that are named to somebody who named another.
const MOST_SHOWN: usize = 20;
/// A credential's name stands in logs and audit records.
const MOST_NAME_LETTERS: usize = 63;

/// One tenant, as far as it is read.
pub(super) struct Reading<'a> {
    pub(super) place: Place<'a>,
    /// Where relative paths of secrets start.
    pub(super) base: &'a Path,
    pub(super) env: Environment,
    pub(super) mistakes: Vec<Mistake>,
}

/// Where its settings stand.
pub(super) enum Place<'a> {
    /// In one file.
    Document(&'a Document),
    /// In a directory, of whose files only the rules are a document.
    Directory {
        dir: &'a Path,
        users: Option<&'a Document>,
    },
}

impl Place<'_> {
    fn mistake(&self, key: &str, what: String) -> Mistake {
        match self {
            Self::Document(document) => document.mistake(key, what),
            Self::Directory {
                users: Some(users), ..
            } if key.starts_with("users") => users.mistake(key, what),
            Self::Directory { dir, .. } => Mistake::of_file(&dir.join(mounted::file_of(key)), what),
        }
    }
}

impl Reading<'_> {
    /// The tenant of that name.
    ///
    /// # Errors
    /// All mistakes, those included that were known before.
    pub(super) fn finish(mut self, name: &str, file: &TenantFile) -> Result<Tenant, Mistakes> {
        let id = self.noted("", name.parse::<TenantId>());
        let clave = if self.is_told("clave") {
            None
        } else {
            self.noted("clave", file.clave.parse::<Clave>())
        };
        let credentials = id
            .as_ref()
            .map(|id| self.credentials(id, clave.as_ref(), &file.credentials));
        let users = self.users(file);
        match (id, clave, credentials) {
            (Some(id), Some(clave), Some(credentials)) if self.mistakes.is_empty() => Ok(Tenant {
                id,
                clave,
                credentials,
                users,
            }),
            _ => Err(Mistakes::sorted(self.mistakes)),
        }
    }

    fn mistake(&mut self, key: &str, what: impl Into<String>) {
        match self.mistakes.len() {
            ..MOST_MISTAKES => self.mistakes.push(self.place.mistake(key, what.into())),
            MOST_MISTAKES => {
                let what = "there may be more mistakes; correct these and check again";
                self.mistakes.push(self.place.mistake("", what.to_owned()));
            }
            _ => {}
        }
    }

    /// Whether what is wrong at a key is told already, there or below it.
    fn is_told(&self, key: &str) -> bool {
        self.mistakes.iter().any(|mistake| {
            let below = mistake.key.strip_prefix(key);
            below.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }

    fn noted<T, E: fmt::Display>(&mut self, key: &str, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|error| self.mistake(key, error.to_string()))
            .ok()
    }

    fn credentials(
        &mut self,
        tenant: &TenantId,
        clave: Option<&Clave>,
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
            if !is_a_name(name) {
                self.mistake(
                    &key,
                    "a credential's name has letters, digits, `.`, `-` and `_` only, at most 63; is a blank missing behind a colon?",
                );
                continue;
            }
            let credential = match (&entry.api_key, &entry.login) {
                (Some(sources), None) => {
                    self.api_key(tenant, name, &format!("{key}.api_key"), sources)
                }
                (None, Some(login)) => self.login(tenant, name, &format!("{key}.login"), login),
                (Some(_), Some(_)) => {
                    self.mistake(
                        &key,
                        "a credential is either `api_key` or `login`; remove one",
                    );
                    None
                }
                (None, None) if self.is_told(&key) => None,
                (None, None) => {
                    self.mistake(
                        &key,
                        "a credential needs `api_key` or `login`, e.g. {api_key: {file: PATH}}",
                    );
                    None
                }
            };
            if let (Some(credential), Some(clave)) = (credential, clave) {
                let credential = credential.at(clave);
                credentials.insert(credential.id().name().clone(), Arc::new(credential));
            }
        }
        credentials
    }

    /// One key, or the present one and the next.
    #[expect(
        clippy::disallowed_methods,
        reason = "its form is checked, nothing is kept"
    )]
    fn api_key(
        &mut self,
        tenant: &TenantId,
        name: &str,
        key: &str,
        sources: &KeySources,
    ) -> Option<Credential> {
        // An entry that can't be read is left out here.
        if self.is_told(key) {
            return None;
        }
        if !(1..=2).contains(&sources.sources.len()) {
            self.mistake(
                key,
                "expected one key, or a list of two: the present one and the next",
            );
            return None;
        }
        let mut secrets = Vec::with_capacity(2);
        let mut is_good = true;
        for (key, source) in sources.with_keys(key) {
            let Some(secret) = self.secret(&key, source) else {
                is_good = false;
                continue;
            };
            if !secret.expose().bytes().all(|byte| byte.is_ascii_graphic()) {
                self.mistake(&key, "an Api-key has visible ASCII characters only; this one has blanks or others: copy it again");
                is_good = false;
            }
            secrets.push(secret);
        }
        let (tenant, mut secrets) = (tenant.clone(), secrets.into_iter());
        match (is_good, secrets.next(), secrets.next()) {
            (true, Some(only), None) => Some(Credential::api_key(tenant, name, only)),
            (true, Some(present), Some(next)) if present.expose() == next.expose() => {
                self.mistake(
                    &format!("{key}[1]"),
                    "is the same key as the first; write the one that is to follow it, or remove it",
                );
                None
            }
            (true, Some(present), Some(next)) => {
                Some(Credential::rotating(tenant, name, present, next))
            }
            _ => None,
        }
    }

    fn login(
        &mut self,
        tenant: &TenantId,
        name: &str,
        key: &str,
        entry: &LoginEntry,
    ) -> Option<Credential> {
        let username = entry.username.as_str();
        let is_name = !username.trim().is_empty() && !username.chars().any(char::is_control);
        if !is_name {
            self.mistake(
                &format!("{key}.username"),
                "must be a user's name at the ERP",
            );
        }
        let password = self.secret(&format!("{key}.password"), &entry.password)?;
        let mode = match entry.mode {
            ModeEntry::Jwt => LoginMode::Jwt,
            ModeEntry::ApiKey => LoginMode::ApiKey,
        };
        let login = Login::new(username.to_owned(), password, mode);
        is_name.then(|| Credential::login(tenant.clone(), name, login))
    }

    fn secret(&mut self, key: &str, source: &SecretSource) -> Option<Secret> {
        self.noted(key, source.resolve(self.base, &self.env))
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
                let known: Vec<&str> = file
                    .credentials
                    .keys()
                    .map(String::as_str)
                    .filter(|name| is_a_name(name))
                    .take(MOST_SHOWN)
                    .collect();
                self.mistake(
                    &format!("users[{index}].credential"),
                    format!(
                        "no credential of that name in this file; it has: {}",
                        known.join(", ")
                    ),
                );
            }
            for (claim, words) in &entry.claims {
                if words.0.is_empty() {
                    self.mistake(
                        &format!("users[{index}].match.{claim}"),
                        "names no word, so it would never match; write one, or remove it",
                    );
                }
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
                conditions: entry.conditions(),
                credential: entry.credential.as_str().into(),
                scopes,
            });
        }
        rules
    }
}

fn is_a_name(name: &str) -> bool {
    let is_letter = |letter: char| letter.is_alphanumeric() || "._-".contains(letter);
    (1..=MOST_NAME_LETTERS).contains(&name.chars().count()) && name.chars().all(is_letter)
}
