//! Tree → values, by serde; an error knows its node, so that a mistake knows its line.

use std::fmt;

use serde::{
    Deserializer,
    de::{
        DeserializeSeed, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
        Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::tree::{NodeId, Step, Tree, Value};

/// Why a value can't be made, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) at: Option<NodeId>,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// A key that isn't among those.
    UnknownKey(&'static [&'static str]),
    /// A field without default that isn't there.
    Missing(&'static str),
    /// A word that isn't among those.
    UnknownWord {
        word: String,
        known: &'static [&'static str],
    },
    /// Something else was expected.
    Expected(String),
    /// Words of whoever reads the value.
    Says(String),
    /// The key has no value: it counts as not written.
    Unset,
    /// A variable's text is wanted as a list or mapping.
    Structured,
}

impl Fault {
    fn new(kind: Kind) -> Self {
        Self { at: None, kind }
    }

    fn or_at(mut self, id: NodeId) -> Self {
        self.at.get_or_insert(id);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a setting can't be read")
    }
}

impl std::error::Error for Fault {}

impl serde::de::Error for Fault {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(Kind::Says(message.to_string()))
    }

    // What was found stays unsaid: it may be a secret in the wrong place.
    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Kind::Expected(in_words(&expected.to_string())))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(Kind::Expected(in_words(&expected.to_string())))
    }

    fn invalid_length(_: usize, expected: &dyn Expected) -> Self {
        Self::new(Kind::Expected(in_words(&expected.to_string())))
    }

    fn unknown_variant(word: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownWord {
            word: word.to_owned(),
            known,
        })
    }

    fn unknown_field(_: &str, known: &'static [&'static str]) -> Self {
        Self::new(Kind::UnknownKey(known))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(Kind::Missing(field))
    }
}

/// serde's words for what it expects, as somebody who writes YAML would say them.
fn in_words(expected: &str) -> String {
    match expected {
        "a map" => "a mapping, e.g. {key: value}",
        "a sequence" => "a list, e.g. [a, b]",
        "a boolean" => "true or false",
        "path string" => "a path",
        "u8" => "a whole number from 0 to 255",
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        name if name.starts_with("struct ") => "a mapping, e.g. {key: value}",
        other => other,
    }
    .to_owned()
}

/// One node, to be read as whatever is wanted there.
#[derive(Clone, Copy)]
pub(super) struct Place<'t> {
    pub(super) tree: &'t Tree,
    pub(super) id: NodeId,
}

impl<'t> Place<'t> {
    /// A value's text; what has none is a fault.
    fn text(self, expected: &dyn Expected) -> Result<&'t str, Fault> {
        match &self.tree.node(self.id).value {
            Value::Scalar { text, .. } | Value::Raw(text) => Ok(text),
            Value::Phantom => Ok(""),
            Value::Null => Err(Fault::new(Kind::Unset)),
            Value::Unusable(why) => Err(Fault::custom(why)),
            Value::List(_) => Err(Fault::invalid_type(Unexpected::Seq, expected)),
            Value::Map(_) => Err(Fault::invalid_type(Unexpected::Map, expected)),
        }
    }

    fn entries(self) -> Entries<'t> {
        Entries {
            tree: self.tree,
            left: self
                .tree
                .live_children(self.id)
                .collect::<Vec<_>>()
                .into_iter(),
            value: None,
        }
    }

    fn any<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.tree.node(self.id).value {
            Value::List(_) => visitor.visit_seq(self.entries()),
            Value::Map(_) => visitor.visit_map(self.entries()),
            Value::Raw(text) if text.trim_start().starts_with(['[', '{']) => {
                Err(Fault::new(Kind::Structured))
            }
            Value::Scalar { text, quoted: true } => visitor.visit_str(text),
            Value::Scalar {
                text,
                quoted: false,
            }
            | Value::Raw(text) => {
                if let Ok(number) = text.parse::<u64>() {
                    visitor.visit_u64(number)
                } else if let Ok(number) = text.parse::<i64>() {
                    visitor.visit_i64(number)
                } else if let Some(value) = boolean(text) {
                    visitor.visit_bool(value)
                } else if let Ok(number) = text.parse::<f64>() {
                    visitor.visit_f64(number)
                } else {
                    visitor.visit_str(text)
                }
            }
            _ => visitor.visit_str(self.text(&"a value")?),
        }
    }

    fn mapping<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.tree.node(self.id).value {
            Value::Map(_) | Value::Phantom => visitor.visit_map(self.entries()),
            Value::Raw(text) if text.trim_start().starts_with('{') => {
                Err(Fault::new(Kind::Structured))
            }
            // For what may be a mapping or a text; others say what they expected.
            Value::Scalar { text, .. } | Value::Raw(text) => visitor.visit_str(text),
            _ => Err(self.text(&visitor).map_or_else(
                |fault| fault,
                |_| Fault::invalid_type(Unexpected::Unit, &visitor),
            )),
        }
    }

    fn list<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.tree.node(self.id).value {
            Value::List(_) | Value::Phantom => visitor.visit_seq(self.entries()),
            Value::Raw(text) if text.trim_start().starts_with('[') => {
                Err(Fault::new(Kind::Structured))
            }
            // For what may be a list, a mapping or a text; others say what they expected.
            Value::Map(_) => visitor.visit_map(self.entries()),
            Value::Scalar { text, .. } | Value::Raw(text) => visitor.visit_str(text),
            _ => Err(self.text(&visitor).map_or_else(
                |fault| fault,
                |_| Fault::invalid_type(Unexpected::Unit, &visitor),
            )),
        }
    }

    fn number<V: Visitor<'t>>(self, visitor: V) -> Result<V::Value, Fault> {
        let text = self.text(&visitor)?.trim();
        if let Ok(number) = text.parse::<u64>() {
            visitor.visit_u64(number)
        } else if let Ok(number) = text.parse::<i64>() {
            visitor.visit_i64(number)
        } else {
            Err(Fault::invalid_type(Unexpected::Other("text"), &visitor))
        }
    }
}

fn boolean(text: &str) -> Option<bool> {
    match text {
        "true" | "True" | "TRUE" => Some(true),
        "false" | "False" | "FALSE" => Some(false),
        _ => None,
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
            self.number(visitor).map_err(|fault| fault.or_at(self.id))
        }
    )*};
}

impl<'de> Deserializer<'de> for Place<'de> {
    type Error = Fault;

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.any(visitor).map_err(|fault| fault.or_at(self.id))
    }

    /// A number or boolean is a fine text: a clave may be `123`.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(&visitor)
            .and_then(|text| visitor.visit_str(text))
            .map_err(|fault| fault.or_at(self.id))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.text(&visitor)
            .and_then(|text| match boolean(text) {
                Some(value) => visitor.visit_bool(value),
                None => Err(Fault::invalid_type(Unexpected::Other("text"), &visitor)),
            })
            .map_err(|fault| fault.or_at(self.id))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.tree.node(self.id).value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|fault: Fault| fault.or_at(self.id))
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Fault> {
        visitor
            .visit_newtype_struct(self)
            .map_err(|fault: Fault| fault.or_at(self.id))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.list(visitor).map_err(|fault| fault.or_at(self.id))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.mapping(visitor).map_err(|fault| fault.or_at(self.id))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.mapping(visitor).map_err(|fault| fault.or_at(self.id))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        self.text(&"a word")
            .and_then(|text| {
                let word: StrDeserializer<'_, Fault> = text.into_deserializer();
                visitor.visit_enum(word)
            })
            .map_err(|fault| fault.or_at(self.id))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// The live entries of a list or mapping.
struct Entries<'t> {
    tree: &'t Tree,
    left: std::vec::IntoIter<NodeId>,
    value: Option<NodeId>,
}

impl<'t> SeqAccess<'t> for Entries<'t> {
    type Error = Fault;

    fn next_element_seed<S: DeserializeSeed<'t>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let tree = self.tree;
        let Some(id) = self.left.next() else {
            return Ok(None);
        };
        seed.deserialize(Place { tree, id })
            .map(Some)
            .map_err(|fault| fault.or_at(id))
    }

    // A hint would be right, and would let a long list reserve memory before it is read.
    fn size_hint(&self) -> Option<usize> {
        None
    }
}

impl<'t> MapAccess<'t> for Entries<'t> {
    type Error = Fault;

    fn next_key_seed<S: DeserializeSeed<'t>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Fault> {
        let Some(id) = self.left.next() else {
            return Ok(None);
        };
        self.value = Some(id);
        let key = match &self.tree.node(id).step {
            Step::Key(key) => key.as_str(),
            Step::Root | Step::Index(_) => "",
        };
        let key: StrDeserializer<'_, Fault> = key.into_deserializer();
        seed.deserialize(key)
            .map(Some)
            .map_err(|fault| fault.or_at(id))
    }

    fn next_value_seed<S: DeserializeSeed<'t>>(&mut self, seed: S) -> Result<S::Value, Fault> {
        let id = self
            .value
            .take()
            .ok_or_else(|| Fault::custom("a value without its key"))?;
        seed.deserialize(Place {
            tree: self.tree,
            id,
        })
        .map_err(|fault| fault.or_at(id))
    }
}
