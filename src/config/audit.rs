//! `audit`: where the records of writes and of denied attempts go.

use std::{fmt, path::PathBuf};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Unexpected, Visitor},
};

use super::document::Checker;

const KEYS: &[&str] = &["file"];

/// `audit`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// One JSON object a line. Default [`Output::Stdout`].
    pub output: Output,
}

/// `audit.output`: `stdout` or `{file: PATH}`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Output {
    /// The process's own output; log lines go to stderr.
    #[default]
    Stdout,
    /// The end of a file, which is made where there is none.
    File(PathBuf),
}

impl Audit {
    /// What the form allows and the meaning doesn't.
    pub fn check(&self, at: &mut Checker<'_>) {
        if let Output::File(path) = &self.output {
            at.require(
                path.file_name().is_some(),
                "audit.output.file",
                "must be a file's path, e.g. audit.jsonl",
            );
        }
    }
}

impl<'de> Deserialize<'de> for Output {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Written;

        impl<'de> Visitor<'de> for Written {
            type Value = Output;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("stdout or {file: PATH}")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Output, E> {
                match text {
                    "stdout" => Ok(Output::Stdout),
                    _ => Err(E::invalid_value(Unexpected::Other("text"), &self)),
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Output, A::Error> {
                let mut output = None;
                while let Some(key) = map.next_key::<String>()? {
                    output = Some(match key.as_str() {
                        "file" => Output::File(map.next_value()?),
                        _ => return Err(A::Error::unknown_field("", KEYS)),
                    });
                }
                output.ok_or_else(|| A::Error::custom("expected stdout or {file: PATH}"))
            }
        }

        // The one request that offers a text of any kind or a mapping.
        from.deserialize_struct("Output", KEYS, Written)
    }
}
