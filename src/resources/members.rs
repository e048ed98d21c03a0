//! The ERP's JSON, read tolerantly: only the members that a resource rewrites are looked
//! at, and every other passes as the bytes that it came in.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::value::{RawValue, to_raw_value};

use crate::exchange::Unfit;

/// More members than any record has; more would make the search below slow.
const MAX_MEMBERS: usize = 512;

/// The members of an object in their order, values as they came.
#[derive(Default)]
pub struct Members<'a>(Vec<(String, Raw<'a>)>);

enum Raw<'a> {
    Theirs(&'a RawValue),
    Ours(Box<RawValue>),
}

impl<'a> Members<'a> {
    pub(super) fn read(json: &'a str) -> Result<Self, Unfit> {
        serde_json::from_str(json).map_err(|_| Unfit::Unreadable)
    }

    /// The text of a body; a byte order mark is passed over (RFC 8259 §8.1).
    pub(super) fn text(body: &[u8]) -> Result<&str, Unfit> {
        let text = std::str::from_utf8(body).map_err(|_| Unfit::Unreadable)?;
        Ok(text.strip_prefix('\u{feff}').unwrap_or(text))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.json())
    }

    pub(super) fn value(&self, name: &str) -> serde_json::Value {
        self.get(name)
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default()
    }

    pub(super) fn set(&mut self, name: &str, value: &impl Serialize) -> Result<(), Unfit> {
        let value = Raw::Ours(to_raw_value(value).map_err(|_| Unfit::Unreadable)?);
        match self.0.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
        Ok(())
    }

    /// A whole number that arrived as a number or as a numeric string.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            serde_json::Value::Number(number) => number.as_u64(),
            serde_json::Value::String(text) => text.trim().parse().ok(),
            _ => None,
        }
    }
}

impl Raw<'_> {
    fn json(&self) -> &str {
        match self {
            Self::Theirs(raw) => raw.get(),
            Self::Ours(raw) => raw.get(),
        }
    }
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            match value {
                Raw::Theirs(raw) => map.serialize_entry(name, raw)?,
                Raw::Ours(raw) => map.serialize_entry(name, raw)?,
            }
        }
        map.end()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<'de>, A::Error> {
                let mut members: Vec<(String, Raw<'de>)> = Vec::new();
                while let Some((name, raw)) = map.next_entry::<String, &'de RawValue>()? {
                    // The last of equal names counts, as everywhere else.
                    match members.iter().position(|(key, _)| *key == name) {
                        Some(at) => members[at].1 = Raw::Theirs(raw),
                        None if members.len() == MAX_MEMBERS => {
                            return Err(serde::de::Error::custom("too many members"));
                        }
                        None => members.push((name, Raw::Theirs(raw))),
                    }
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

/// A body of our own.
pub(super) fn to_bytes(value: &impl Serialize) -> Result<Vec<u8>, Unfit> {
    serde_json::to_vec(value).map_err(|_| Unfit::Unreadable)
}
