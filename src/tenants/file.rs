//! One tenant's file, `<tenant-id>.yaml`: its form.

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Deserializer,
    de::{
        self, IntoDeserializer as _, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer,
    },
};

use crate::config::{document, mistake::Mistakes, secret::SecretSource};

use super::{
    Environment, Tenant,
    reading::{Place, Reading},
    users::{ClaimName, Condition},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TenantFile {
    pub(super) clave: String,
    pub(super) credentials: BTreeMap<String, CredentialEntry>,
    #[serde(default)]
    pub(super) users: Vec<UserEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialEntry {
    pub(super) api_key: Option<KeySources>,
    pub(super) login: Option<LoginEntry>,
}

/// One source, or a list of the present key's and the next one's.
pub(super) struct KeySources {
    pub(super) sources: Vec<SecretSource>,
    pub(super) is_list: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct LoginEntry {
    pub(super) username: String,
    pub(super) password: SecretSource,
    #[serde(default)]
    pub(super) mode: ModeEntry,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ModeEntry {
    #[default]
    Jwt,
    ApiKey,
}

impl<'de> Deserialize<'de> for KeySources {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Sources;

        impl<'de> Visitor<'de> for Sources {
            type Value = KeySources;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(
                    "{file: PATH}, {env: NAME} or a plain string, or a list of two of them: the present key and the next",
                )
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<KeySources, E> {
                let source = SecretSource::deserialize(text.into_deserializer())?;
                Ok(KeySources::one(source))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<KeySources, A::Error> {
                let source = SecretSource::deserialize(MapAccessDeserializer::new(map))?;
                Ok(KeySources::one(source))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<KeySources, A::Error> {
                let mut sources = Vec::new();
                while let Some(source) = seq.next_element()? {
                    sources.push(source);
                }
                let is_list = true;
                Ok(KeySources { sources, is_list })
            }
        }

        // The one request that offers a text of any kind, a mapping or a list.
        from.deserialize_seq(Sources)
    }
}

impl KeySources {
    pub(super) fn one(source: SecretSource) -> Self {
        Self {
            sources: vec![source],
            is_list: false,
        }
    }

    /// Each source with its key in the file, below `key`.
    pub(super) fn with_keys(&self, key: &str) -> impl Iterator<Item = (String, &SecretSource)> {
        self.sources.iter().enumerate().map(move |(at, source)| {
            let key = if self.is_list {
                format!("{key}[{at}]")
            } else {
                key.to_owned()
            };
            (key, source)
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserEntry {
    #[serde(rename = "match")]
    pub(super) claims: BTreeMap<String, Words>,
    pub(super) credential: String,
    pub(super) scopes: Option<Vec<String>>,
}

/// One word, or several of which one is enough.
pub(super) struct Words(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Texts;

        impl<'de> Visitor<'de> for Texts {
            type Value = Words;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text, or a list of texts of which one is enough, e.g. [a, b]")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Words, E> {
                Ok(Words(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Words, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                Ok(Words(texts))
            }
        }

        from.deserialize_seq(Texts)
    }
}

/// Reads a tenant of that name, and notes in `files` whatever else it is read from.
///
/// # Errors
/// Every mistake in the file, with line and key.
pub(super) fn read(
    path: &Path,
    name: &str,
    env: Environment,
    files: &mut Vec<PathBuf>,
) -> Result<Tenant, Mistakes> {
    let decoded = document::decode_file::<TenantFile>(path, [])?;
    let Some(file) = decoded.value else {
        return Err(Mistakes::sorted(decoded.mistakes));
    };
    let base = path.parent().unwrap_or(Path::new("."));
    files.extend(file.secret_files().map(|file| base.join(file)));
    let reading = Reading {
        place: Place::Document(&decoded.document),
        base,
        env,
        mistakes: decoded.mistakes,
    };
    reading.finish(name, &file)
}

impl TenantFile {
    /// The files that its secrets are in.
    pub(super) fn secret_files(&self) -> impl Iterator<Item = &Path> {
        self.credentials
            .values()
            .flat_map(CredentialEntry::secrets)
            .filter_map(SecretSource::file)
    }
}

impl CredentialEntry {
    fn secrets(&self) -> impl Iterator<Item = &SecretSource> {
        let keys = self.api_key.iter().flat_map(|keys| &keys.sources);
        keys.chain(self.login.as_ref().map(|login| &login.password))
    }
}

impl UserEntry {
    pub(super) fn conditions(&self) -> Vec<Condition> {
        let condition = |(claim, Words(any_of)): (&String, &Words)| Condition {
            claim: ClaimName::of(claim),
            any_of: any_of.clone(),
        };
        self.claims.iter().map(condition).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use crate::{
        config::secret::Secret,
        tenants::{Credential, KeySlot, LoginMode, Presented},
    };

    use super::*;

    fn read_credential(text: &str) -> Result<Arc<Credential>, String> {
        let dir = tempfile::tempdir().expect("a directory");
        for (name, content) in [
            ("a.key", "k-1\n"),
            ("b.key", "k-2\n"),
            ("blank.key", "k 2\n"),
        ] {
            fs::write(dir.path().join(name), content).expect("can be written");
        }
        let path = dir.path().join("carper.yaml");
        fs::write(
            &path,
            format!("clave: carper\ncredentials:\n  default: {text}\n"),
        )
        .expect("can be written");
        let env = |name: &str| (name == "PASSWORD").then(|| "hunter2".to_owned());
        match read(&path, "carper", env, &mut Vec::new()) {
            Ok(tenant) => Ok(tenant.credentials().next().expect("there is one").clone()),
            Err(mistakes) => {
                let all: Vec<_> = mistakes.0.iter().map(ToString::to_string).collect();
                let dir = format!("{}/", dir.path().display());
                Err(all.join("\n").replace(&dir, ""))
            }
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own secrets")]
    fn keys_stand_alone_or_with_the_one_that_follows() {
        for (text, present, next) in [
            ("{api_key: {file: a.key}}", "k-1", None),
            ("{api_key: 007}", "007", None),
            ("{api_key: [{file: a.key}]}", "k-1", None),
            (
                "{api_key: [{file: a.key}, {file: b.key}]}",
                "k-1",
                Some("k-2"),
            ),
            ("{api_key: [{env: PASSWORD}, x]}", "hunter2", Some("x")),
        ] {
            let credential = read_credential(text).expect("is good");
            let Presented::ApiKey(keys) = credential.presented() else {
                panic!("{text} has keys")
            };
            let key = |slot| keys.key(slot).map(Secret::expose);
            assert_eq!(key(KeySlot::Present), Some(present), "{text}");
            assert_eq!(key(KeySlot::Next), next, "{text}");
            assert_eq!(keys.active().slot, KeySlot::Present);
        }
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own secrets")]
    fn a_login_gives_tokens_unless_it_says_otherwise() {
        for (mode, expected) in [
            ("", LoginMode::Jwt),
            (", mode: jwt", LoginMode::Jwt),
            (", mode: api_key", LoginMode::ApiKey),
        ] {
            let text = format!("{{login: {{username: app, password: {{env: PASSWORD}}{mode}}}}}");
            let credential = read_credential(&text).expect("is good");
            let Presented::Login(login) = credential.presented() else {
                panic!("{text} logs in")
            };
            assert_eq!(login.username(), "app");
            assert_eq!(login.password().expose(), "hunter2");
            assert_eq!(login.mode(), expected);
        }
    }

    #[test]
    fn mistakes_in_credentials_have_their_line_and_key() {
        for (text, told) in [
            (
                "{}",
                "carper.yaml:3: credentials.default: a credential needs `api_key` or `login`, e.g. {api_key: {file: PATH}}",
            ),
            (
                "{api_key: []}",
                "carper.yaml:3: credentials.default.api_key: expected one key, or a list of two: the present one and the next",
            ),
            (
                "{api_key: [a, b, c]}",
                "carper.yaml:3: credentials.default.api_key: expected one key, or a list of two: the present one and the next",
            ),
            (
                "{api_key: [{file: a.key}, k-1]}",
                "carper.yaml:3: credentials.default.api_key[1]: is the same key as the first; write the one that is to follow it, or remove it",
            ),
            (
                "{api_key: [{file: a.key}, {file: blank.key}]}",
                "carper.yaml:3: credentials.default.api_key[1]: an Api-key has visible ASCII characters only; this one has blanks or others: copy it again",
            ),
            (
                "{api_key: {file: blank.key}}",
                "carper.yaml:3: credentials.default.api_key: an Api-key has visible ASCII characters only; this one has blanks or others: copy it again",
            ),
            (
                "{api_key: [{file: a.key}, {env: NO}]}",
                "carper.yaml:3: credentials.default.api_key[1]: the environment variable NO isn't set; set it to the secret",
            ),
            (
                "{api_key: [{file: a.key}, [b]]}",
                "carper.yaml:3: credentials.default.api_key[1]: expected {file: PATH}, {env: NAME} or a plain string, found a list",
            ),
            (
                "{api_key: [{fil: a.key}]}",
                "carper.yaml:3: credentials.default.api_key[0]: unknown key; known here: file, env",
            ),
            (
                "{api_key: {fil: a.key}}",
                "carper.yaml:3: credentials.default.api_key: unknown key; known here: file, env",
            ),
            (
                "{api_key: k, login: {username: a, password: b}}",
                "carper.yaml:3: credentials.default: a credential is either `api_key` or `login`; remove one",
            ),
            (
                "{login: {username: ' ', password: b}}",
                "carper.yaml:3: credentials.default.login.username: must be a user's name at the ERP",
            ),
            (
                "{login: {username: a, password: {env: NO}}}",
                "carper.yaml:3: credentials.default.login.password: the environment variable NO isn't set; set it to the secret",
            ),
            (
                "{login: {username: a, password: b, mode: jtw}}",
                "carper.yaml:3: credentials.default.login.mode: unknown value; did you mean \"jwt\"?",
            ),
            (
                "{login: {username: a}}",
                "carper.yaml:3: credentials.default.login: `password` is missing; it has no default",
            ),
        ] {
            assert_eq!(read_credential(text).err().as_deref(), Some(told), "{text}");
        }
    }

    fn told(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("carper.yaml");
        fs::write(&path, text).expect("can be written");
        let mistakes = read(&path, "carper", |_| None, &mut Vec::new()).expect_err("is wrong");
        let dir = format!("{}/", dir.path().display());
        let told = mistakes.0.iter().map(ToString::to_string);
        told.map(|told| told.replace(&dir, "")).collect()
    }

    #[test]
    fn a_secret_that_has_become_part_of_a_key_is_not_told() {
        for credentials in [
            "{api_key:Hunter2Zx9}",
            "{api_key:Hunter2Zx9: {api_key: k}}",
            "{default: {api_key: k}, 'tecnicos: {api_key: Hunter2Zx9}': {api_key: k}}",
            "{'Password: Hunter2Zx9': {login: {username: ''}}}",
        ] {
            let text = format!(
                "clave: carper\ncredentials: {credentials}\nusers: [{{match: {{}}, credential: nobody}}]\n"
            );
            let told = told(&text).join("\n");
            assert!(told.contains("carper.yaml:2: credentials"), "{told}");
            assert!(!told.contains("Hunter2"), "{told}");
        }
    }

    #[test]
    fn a_credentials_name_is_a_word() {
        let odd = "carper.yaml:2: credentials.los técnicos: a credential's name has letters";
        let credentials = "{los técnicos: {api_key: k}, default: {api_key: k}}";
        let text = format!("clave: carper\ncredentials: {credentials}\n");
        assert!(told(&text)[0].starts_with(odd), "{:?}", told(&text));
    }

    #[test]
    fn a_file_of_mistakes_is_told_in_part() {
        let credentials: String = (0..900)
            .map(|at| format!("  c{at}: {{api_key: k}}\n"))
            .collect();
        let users = "  - {match: {}, credential: x}\n".repeat(30_000);
        let text = format!("clave: carper\ncredentials:\n{credentials}users:\n{users}");
        let told = told(&text);
        assert_eq!(told.len(), 101);
        assert!(told.iter().map(String::len).sum::<usize>() < 64 * 1024);
        assert!(
            told.iter()
                .any(|told| told.contains("there may be more mistakes"))
        );
    }
}
