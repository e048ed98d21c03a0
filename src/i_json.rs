//! JSON in which every name of an object is unique (I-JSON, RFC 7493 §2.3). Two parsers that
//! meet a name twice may each believe another of its values, and one of them is the check.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Deeper than any document that means something, far from the end of the stack.
const MAX_DEPTH: usize = 64;

/// Why bytes aren't taken as JSON.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// They aren't JSON in UTF-8.
    #[error("the mistake is at line {line}, column {column}")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1; 0 where the line has just begun.
        column: usize,
    },
    /// An object has a name more than once.
    #[error("a name stands twice in one object")]
    NameTwice {
        /// Where, as a JSON Pointer (RFC 6901). It holds the sender's own words.
        pointer: String,
    },
    /// Arrays and objects in one another, beyond 64.
    #[error("its arrays and objects stand more than {MAX_DEPTH} deep in one another")]
    TooDeep,
}

/// The value of a JSON text.
///
/// # Errors
/// It isn't one, has a name twice in one object, or is too deep.
pub fn parse(bytes: &[u8]) -> Result<Value, Error> {
    let mut reading = Reading::default();
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let value = Part(&mut reading)
        .deserialize(&mut from)
        .and_then(|value| from.end().map(|()| value));
    value.map_err(|error| {
        reading.fault.take().unwrap_or(Error::Syntax {
            line: error.line(),
            column: error.column(),
        })
    })
}

/// Where the reader is, and what it found that isn't a matter of syntax.
#[derive(Default)]
struct Reading {
    path: Vec<Step>,
    fault: Option<Error>,
}

enum Step {
    Name(String),
    Index(usize),
}

impl Reading {
    fn pointer(&self) -> String {
        let step = |step: &Step| match step {
            Step::Name(name) => format!("/{}", name.replace('~', "~0").replace('/', "~1")),
            Step::Index(index) => format!("/{index}"),
        };
        self.path.iter().map(step).collect()
    }

    /// Keeps the fault: serde's error carries words only.
    fn fail<E: serde::de::Error>(&mut self, fault: Error) -> E {
        self.fault = Some(fault);
        E::custom("not I-JSON")
    }

    fn enter<E: serde::de::Error>(&mut self, step: Step) -> Result<(), E> {
        if self.path.len() == MAX_DEPTH {
            return Err(self.fail(Error::TooDeep));
        }
        self.path.push(step);
        Ok(())
    }
}

struct Part<'a>(&'a mut Reading);

impl<'de> DeserializeSeed<'de> for Part<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Part<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Value, E> {
        Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let Self(reading) = self;
        let mut array = Vec::new();
        loop {
            reading.enter(Step::Index(array.len()))?;
            let item = items.next_element_seed(Part(reading))?;
            reading.path.pop();
            match item {
                Some(item) => array.push(item),
                None => return Ok(Value::Array(array)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let Self(reading) = self;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            reading.enter(Step::Name(name.clone()))?;
            if object.contains_key(&name) {
                let pointer = reading.pointer();
                return Err(reading.fail(Error::NameTwice { pointer }));
            }
            let value = members.next_value_seed(Part(reading))?;
            reading.path.pop();
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn twice(text: &str) -> Option<String> {
        match parse(text.as_bytes()) {
            Err(Error::NameTwice { pointer }) => Some(pointer),
            _ => None,
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_found_wherever_it_is() {
        for (text, pointer) in [
            (r#"{"a":1,"a":1}"#, "/a"),
            (r#"{"a":1,"b":{"c":[0,{"d":1,"e":2,"d":3}]}}"#, "/b/c/1/d"),
            (r#"[{"a":1},{"a":1,"a":2}]"#, "/1/a"),
            // The same name in other letters.
            (r#"{"a":1,"\u0061":2}"#, "/a"),
            (r#"{"a/b~":1,"a/b~":2}"#, "/a~1b~0"),
            (r#"{"":1,"":2}"#, "/"),
        ] {
            assert_eq!(twice(text).as_deref(), Some(pointer), "{text}");
        }
        for text in [
            r#"{"a":{"a":{"a":1}}}"#,
            r#"[{"a":1},{"a":1}]"#,
            r#"{"a":1,"A":2}"#,
        ] {
            assert!(parse(text.as_bytes()).is_ok(), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for text in [
            "",
            "{",
            "{\"a\":}",
            "1 2",
            "{} x",
            "nul",
            "\"\\ud800\"",
            "{1:2}",
            "[1,]",
            "1e999",
        ] {
            assert!(
                matches!(parse(text.as_bytes()), Err(Error::Syntax { .. })),
                "{text}"
            );
        }
        assert_eq!(parse(b"{\n  oh"), Err(Error::Syntax { line: 2, column: 3 }));
        assert!(matches!(parse(b"\"\xff\""), Err(Error::Syntax { .. })));
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(64).as_bytes()).is_ok());
        assert_eq!(parse(nested(65).as_bytes()), Err(Error::TooDeep));
        assert_eq!(parse("[".repeat(100_000).as_bytes()), Err(Error::TooDeep));
        assert_eq!(
            parse("{\"a\":".repeat(100_000).as_bytes()),
            Err(Error::TooDeep)
        );
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            (-1e9..1e9).prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(".{0,3}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_has_unique_names_reads_as_ever(value in any_json()) {
            let text = value.to_string();
            prop_assert_eq!(parse(text.as_bytes()), Ok(serde_json::from_str(&text).unwrap_or_default()));
        }
    }
}
