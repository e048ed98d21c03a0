//! Secrets, and where they are taken from. What a secret is for isn't known here.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString, zeroize::Zeroize};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};

use super::files;

const KEYS: &[&str] = &["file", "env"];

/// The largest secret in a file, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// A text that nobody sees: no `Display`, no `Serialize`, nothing in `Debug`, wiped when dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// The text itself, for the place that uses it.
    #[must_use]
    pub fn expose(&self) -> &str {
        #[expect(clippy::disallowed_methods, reason = "this is the one door")]
        self.0.expose_secret()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// Where a secret is taken from: a plain string, `{file: PATH}` or `{env: NAME}`.
#[derive(Clone)]
pub enum SecretSource {
    /// Written in the configuration itself.
    Inline(Secret),
    /// A file's content, without its last line ends.
    File(PathBuf),
    /// An environment variable's value.
    Env(String),
}

/// A secret that can't be had; it names the source and never the content.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read.
    #[error(
        "can't read the secret in {}: {error}; check the path and its permissions",
        shown_path(path)
    )]
    Unreadable {
        /// The file, as it was named.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is no text or too large for a secret.
    #[error("{} isn't a secret: it must be UTF-8 text of at most 64 KiB", shown_path(.0))]
    NotText(PathBuf),
    /// The file has nothing in it.
    #[error("{} is empty; write the secret in it", shown_path(.0))]
    EmptyFile(PathBuf),
    /// The variable isn't set.
    #[error("the environment variable {} isn't set; set it to the secret", shown_variable(.0))]
    Unset(String),
    /// The variable is set to nothing.
    #[error("the environment variable {} is empty; set it to the secret", shown_variable(.0))]
    EmptyVariable(String),
    /// The configuration has an empty string.
    #[error("the secret is empty; write {{file: PATH}} or {{env: NAME}}")]
    EmptyInline,
}

/// A file's name, unless it may be the secret itself: what fills in templates puts it there.
fn shown_path(path: &Path) -> String {
    let text = path.to_string_lossy();
    let names_a_place = text.starts_with(['/', '.']) || text.contains('/') || text.contains('.');
    let is_plain = text.len() <= 200
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
    // A path is words; base64 and keys mix all that there is in one word.
    let is_words = text
        .split(['/', '.', '_', '-'])
        .all(|word| word.len() <= 24);
    if names_a_place && is_plain && is_words {
        text.into_owned()
    } else {
        "the file that is named here".to_owned()
    }
}

/// A variable's name, if it is written as one.
fn shown_variable(name: &str) -> &str {
    let is_name = name.len() <= 100
        && name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    if is_name { name } else { "that is named here" }
}

/// Whether a plain string looks like a way to a secret that lost its form on the way.
fn is_a_lost_reference(text: &str) -> bool {
    ["file:", "env:", "${", "$(", "{{", "/"]
        .into_iter()
        .any(|beginning| text.trim_start().starts_with(beginning))
}

impl SecretSource {
    /// The file that it is in, as it was named.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Inline(_) | Self::Env(_) => None,
        }
    }

    /// The secret. A relative path starts at `base_dir`; `env` gives a variable's value.
    ///
    /// # Errors
    /// The file or variable isn't there, is empty, or has no text.
    pub fn resolve(
        &self,
        base_dir: &Path,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Secret, SecretError> {
        match self {
            #[expect(clippy::disallowed_methods, reason = "only whether there is one")]
            Self::Inline(secret) if secret.expose().is_empty() => Err(SecretError::EmptyInline),
            Self::Inline(secret) => Ok(secret.clone()),
            Self::File(path) => from_file(base_dir, path),
            Self::Env(name) => match env(name) {
                None => Err(SecretError::Unset(name.clone())),
                Some(text) if text.is_empty() => Err(SecretError::EmptyVariable(name.clone())),
                Some(text) => Ok(text.into()),
            },
        }
    }
}

fn from_file(base_dir: &Path, path: &Path) -> Result<Secret, SecretError> {
    let mut bytes = files::read_at_most(&base_dir.join(path), MAX_BYTES).map_err(|error| {
        SecretError::Unreadable {
            path: path.to_owned(),
            error,
        }
    })?;
    let text = match std::str::from_utf8(&bytes) {
        Ok(text) if bytes.len() <= MAX_BYTES => Some(text.trim_end_matches(['\r', '\n'])),
        _ => None,
    };
    let secret = match text {
        None => Err(SecretError::NotText(path.to_owned())),
        Some("") => Err(SecretError::EmptyFile(path.to_owned())),
        Some(text) => Ok(Secret::from(text.to_owned())),
    };
    bytes.zeroize();
    secret
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(secret) => f.debug_tuple("Inline").field(secret).finish(),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Env(name) => f.debug_tuple("Env").field(name).finish(),
        }
    }
}

impl<'de> Deserialize<'de> for SecretSource {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Source;

        impl<'de> Visitor<'de> for Source {
            type Value = SecretSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("{file: PATH}, {env: NAME} or a plain string")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<SecretSource, E> {
                if is_a_lost_reference(text) {
                    return Err(E::custom(
                        "looks like a reference but is plain text, so it would be the secret itself; write {file: PATH} or {env: NAME}, with a space behind the colon",
                    ));
                }
                Ok(SecretSource::Inline(text.to_owned().into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SecretSource, A::Error> {
                let mut source = None;
                while let Some(key) = map.next_key::<String>()? {
                    if source.is_some() {
                        return Err(A::Error::custom("write only one of `file` and `env`"));
                    }
                    source = Some(match key.as_str() {
                        "file" => SecretSource::File(map.next_value()?),
                        "env" => SecretSource::Env(map.next_value()?),
                        _ => return Err(A::Error::unknown_field("", KEYS)),
                    });
                }
                source.ok_or_else(|| A::Error::custom("expected {file: PATH} or {env: NAME}"))
            }
        }

        // The one request that offers a text of any kind or a mapping.
        from.deserialize_struct("SecretSource", KEYS, Source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = Secret::from("hunter2".to_owned());
        assert_eq!(format!("{secret:?}"), "Secret");
        assert_eq!(
            format!("{:?}", SecretSource::Inline(secret)),
            "Inline(Secret)"
        );
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "the test's own secret")]
    fn a_file_is_relative_to_its_base_and_loses_its_last_line_end() {
        let dir = tempfile::tempdir().expect("is good");
        std::fs::write(dir.path().join("key"), "  hunter 2\r\n").expect("is good");
        let secret = SecretSource::File("key".into())
            .resolve(dir.path(), &none)
            .expect("is good");
        assert_eq!(secret.expose(), "  hunter 2");
    }

    #[test]
    fn what_is_missing_or_empty_is_named() {
        let dir = tempfile::tempdir().expect("is good");
        std::fs::write(dir.path().join("empty"), "\n").expect("is good");
        std::fs::write(dir.path().join("binary"), b"hunter2\xFF").expect("is good");
        let told = |source: SecretSource| {
            source
                .resolve(dir.path(), &none)
                .expect_err("is refused")
                .to_string()
        };
        assert!(told(SecretSource::File("keys/missing".into())).contains("keys/missing"));
        assert!(told(SecretSource::File("empty".into())).contains("is empty"));
        let binary = told(SecretSource::File("binary".into()));
        assert!(binary.contains("isn't a secret") && !binary.contains("hunter2"));
        assert!(told(SecretSource::Env("CARPER_KEY".into())).contains("CARPER_KEY isn't set"));
        assert!(told(SecretSource::Inline(String::new().into())).contains("empty"));
        let empty = SecretSource::Env("X".into()).resolve(dir.path(), &|_| Some(String::new()));
        assert!(matches!(empty, Err(SecretError::EmptyVariable(_))));
    }

    #[test]
    fn a_secret_in_the_place_of_its_reference_is_not_told() {
        let told = |source: SecretSource| match source.resolve(Path::new("/etc/llavero"), &none) {
            Err(error) => error.to_string(),
            Ok(_) => panic!("there is none"),
        };
        for secret in [
            "Hunter2SecretValue",
            "hunter2",
            "f3b1c0ffee5c0ffee5c0ffee5c0ffee5c0ffee50",
            "aGVsbG8/d29ybGQvaGVsbG93b3JsZGhlbGxvd29ybGQ=",
            "-----BEGIN PRIVATE KEY-----\nMIG",
        ] {
            for source in [
                SecretSource::Env(secret.to_owned()),
                SecretSource::File(secret.into()),
            ] {
                let told = told(source);
                assert!(!told.contains(secret), "{told}");
            }
        }
        assert!(told(SecretSource::Env("CARPER_API_KEY".to_owned())).contains("CARPER_API_KEY"));
        let file = "/run/secrets/llavero/carper/api-key";
        assert!(told(SecretSource::File(file.into())).contains(file));
    }

    #[test]
    fn a_reference_that_lost_its_form_is_no_secret() {
        for text in [
            "file:/run/secrets/k",
            "env:KEY",
            "${KEY}",
            "$(cat k)",
            "{{ .Values.key }}",
            "/run/secrets/k",
        ] {
            assert!(is_a_lost_reference(text), "{text}");
        }
        assert!(!is_a_lost_reference("f3b1c0ffee5c0ffee5c0"));
    }
}
