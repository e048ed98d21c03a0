//! One tenant's directory, `<tenant-id>/`: a Secret that is mounted, a file for each setting.
//!
//! `clave`, and for the credential `default` either `api-key` (and `next-api-key` while it rotates) or
//! `username` and `password` (and `mode`); `users.yaml` has `users` as a tenant's file does. Or `tenant.yaml` has all of it, with the secrets in files beside it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::config::{
    document::{self, Document},
    files,
    mistake::{Mistake, Mistakes},
    secret::SecretSource,
};

use super::{
    DEFAULT_CREDENTIAL, Environment, Tenant,
    file::{self, CredentialEntry, KeySources, LoginEntry, ModeEntry, TenantFile, UserEntry},
    reading::{Place, Reading},
};

const WHOLE: &str = "tenant.yaml";
const CLAVE: &str = "clave";
const KEY: &str = "api-key";
const NEXT_KEY: &str = "next-api-key";
const USERNAME: &str = "username";
const PASSWORD: &str = "password";
const MODE: &str = "mode";
const USERS: &str = "users.yaml";

const KNOWN: [&str; 7] = [CLAVE, KEY, NEXT_KEY, USERNAME, PASSWORD, MODE, USERS];

/// A setting that isn't secret is a word or two.
const MOST_BYTES: usize = 4096;

/// The file in which a setting of a tenant's file stands here.
pub(super) fn file_of(key: &str) -> &'static str {
    match key.rsplit_once("credentials.default.") {
        Some((_, "api_key[1]")) => NEXT_KEY,
        Some((_, "login.username")) => USERNAME,
        Some((_, "login.password")) => PASSWORD,
        Some((_, "login")) => MODE,
        Some(_) => KEY,
        None if key == CLAVE => CLAVE,
        None => "",
    }
}

/// Reads a tenant of that name, and notes in `files` whatever else it is read from.
///
/// # Errors
/// Every mistake in the directory, with the file.
pub(super) fn read(
    dir: &Path,
    name: &str,
    env: Environment,
    files: &mut Vec<PathBuf>,
) -> Result<Tenant, Mistakes> {
    let there = names_in(dir)?;
    files.extend(there.iter().map(|name| dir.join(name)));
    if there.iter().any(|name| name == WHOLE) {
        return file::read(&dir.join(WHOLE), name, env, files);
    }
    let mut mistakes = Vec::new();
    for name in there.iter().filter(|name| !KNOWN.contains(&name.as_str())) {
        // A misspelt `users.yaml` would let everybody act as `default`.
        let what = format!(
            "isn't a setting of a tenant; known here: {}, or {WHOLE} for all",
            KNOWN.join(", ")
        );
        mistakes.push(Mistake::of_file(&dir.join(name), what));
    }
    let mut mounted = Mounted {
        dir,
        there: &there,
        mistakes,
    };
    let (users, document) = mounted.users();
    let file = TenantFile {
        clave: mounted.text(CLAVE),
        credentials: BTreeMap::from([(DEFAULT_CREDENTIAL.to_owned(), mounted.credential())]),
        users,
    };
    if !mounted.mistakes.is_empty() {
        return Err(Mistakes(mounted.mistakes));
    }
    let reading = Reading {
        place: Place::Directory {
            dir,
            users: document.as_ref(),
        },
        base: dir,
        env,
        mistakes: Vec::new(),
    };
    reading.finish(name, &file)
}

fn names_in(dir: &Path) -> Result<Vec<String>, Mistakes> {
    let unreadable = |error| {
        Mistake::of_file(
            dir,
            format!("can't be read: {error}; check its permissions"),
        )
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') {
            names.push(name.into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// The rules alone.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UsersFile {
    users: Vec<UserEntry>,
}

struct Mounted<'a> {
    dir: &'a Path,
    there: &'a [String],
    mistakes: Vec<Mistake>,
}

impl Mounted<'_> {
    fn has(&self, name: &str) -> bool {
        self.there.iter().any(|there| there == name)
    }

    /// The text of a setting that isn't secret, without the blanks around it.
    fn text(&mut self, name: &str) -> String {
        let path = self.dir.join(name);
        let read = files::read_at_most(&path, MOST_BYTES)
            .ok()
            .filter(|bytes| bytes.len() <= MOST_BYTES)
            .and_then(|bytes| String::from_utf8(bytes).ok());
        match read {
            Some(text) => text.trim().to_owned(),
            None => {
                let what = "can't be read as a short text; write the setting in it";
                self.mistakes.push(Mistake::of_file(&path, what));
                String::new()
            }
        }
    }

    fn credential(&mut self) -> CredentialEntry {
        let secret = |name: &str| SecretSource::File(name.into());
        if self.has(USERNAME) || self.has(PASSWORD) {
            if self.has(KEY) || self.has(NEXT_KEY) {
                let what = format!("has both `{KEY}` and a login; remove one");
                self.mistakes.push(Mistake::of_file(self.dir, what));
            }
            let mode = if self.has(MODE) {
                self.text(MODE)
            } else {
                String::new()
            };
            let mode = match mode.as_str() {
                "" | "jwt" => ModeEntry::Jwt,
                "api_key" => ModeEntry::ApiKey,
                _ => {
                    let what = "must be jwt or api_key";
                    self.mistakes
                        .push(Mistake::of_file(&self.dir.join(MODE), what));
                    ModeEntry::Jwt
                }
            };
            return CredentialEntry {
                api_key: None,
                login: Some(LoginEntry {
                    username: self.text(USERNAME),
                    password: secret(PASSWORD),
                    mode,
                }),
            };
        }
        let mut keys = KeySources::one(secret(KEY));
        if self.has(NEXT_KEY) {
            keys.sources.push(secret(NEXT_KEY));
            keys.is_list = true;
        }
        CredentialEntry {
            api_key: Some(keys),
            login: None,
        }
    }

    fn users(&mut self) -> (Vec<UserEntry>, Option<Document>) {
        if !self.has(USERS) {
            return (Vec::new(), None);
        }
        match document::decode_file::<UsersFile>(&self.dir.join(USERS), []) {
            Ok(decoded) => {
                self.mistakes.extend(decoded.mistakes);
                let users = decoded.value.map(|file| file.users);
                (users.unwrap_or_default(), Some(decoded.document))
            }
            Err(mistakes) => {
                self.mistakes.extend(mistakes);
                (Vec::new(), None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(users: &str) -> Result<Tenant, String> {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, text) in [(CLAVE, "carper\n"), (KEY, "k-1\n"), (USERS, users)] {
            fs::write(dir.path().join(name), text).expect("can be written");
        }
        read(dir.path(), "carper", |_| None, &mut Vec::new()).map_err(|mistakes| {
            let dir = format!("{}/", dir.path().display());
            mistakes.to_string().replace(&dir, "")
        })
    }

    #[test]
    fn a_mounted_tenants_rules_stand_as_in_a_file() {
        let users = "users:\n- {match: {sub: ana}, credential: default, scopes: [ordenes:read]}\n\
                     - match: {groups: [a, b]}\n  credential: default\n";
        let tenant = read_with(users).expect("is good");
        assert_eq!(tenant.users().len(), 2);
        assert_eq!(tenant.users()[1].conditions()[0].any_of(), ["a", "b"]);
    }

    #[test]
    fn what_is_wrong_in_a_mounted_tenants_rules_has_its_line() {
        for (users, told) in [
            (
                "users:\n- {match: {}, credential: default}\n- {match: {}, credential: nobody}\n",
                "users.yaml:3: users[1].credential: no credential of that name in this file; it has: default",
            ),
            (
                "users:\n- {match: {}, credentail: default}\n",
                "users.yaml:2: users[0].credentail: unknown key; did you mean \"credential\"?",
            ),
            (
                "- {match: {}, credential: default}\n",
                "users.yaml: isn't a mapping",
            ),
        ] {
            let mistakes = read_with(users).err().unwrap_or_default();
            assert!(mistakes.contains(told), "{mistakes}");
        }
    }
}
