//! The ERP's integer codes and the names that stand for them here.

use serde_json::Value;
use utoipa::openapi::schema::{ObjectBuilder, Schema, SchemaType, Type};

/// A set of codes: code `n` is the name at place `n - 1`.
#[derive(Debug)]
pub(super) struct Codes {
    names: &'static [&'static str],
    /// What must be sent, in words, for errors.
    pub(super) expected: &'static str,
}

/// `status` of an order.
pub(super) static STATUS: Codes = Codes {
    names: &[
        "abierta",
        "en_proceso",
        "terminada",
        "cancelada",
        "confirmada",
    ],
    expected: "Must be one of abierta, en_proceso, terminada, cancelada, confirmada (or the ERP's code 1 to 5).",
};

/// `prioridad` of an order.
pub(super) static PRIORIDAD: Codes = Codes {
    names: &["alta", "media", "baja"],
    expected: "Must be one of alta, media, baja (or the ERP's code 1 to 3), or null.",
};

/// `proceso` of a photo: which step of the job it shows.
pub(super) static PROCESO: Codes = Codes {
    names: &["antes", "durante", "despues"],
    expected: "Must be one of antes, durante, despues (or the ERP's code 1 to 3).",
};

/// The name of a code that isn't known here.
pub(super) const UNKNOWN: &str = "desconocido";

/// What one of the ERP's code fields says.
#[derive(Debug, PartialEq)]
pub(super) enum Reading {
    /// Missing, null or empty.
    Nothing,
    /// A code with a name.
    Named(&'static str),
    /// Anything else.
    Unknown(Value),
}

impl Codes {
    /// What a JSON body may hold, for the reference document: a name, or the code as a number.
    pub(super) fn schema(&self, what: &str, or_null: bool, example: &str) -> Schema {
        let mut types = vec![Type::String, Type::Integer];
        let mut values: Vec<Value> = self.names.iter().map(|&name| name.into()).collect();
        values.extend((1..=self.names.len()).map(Value::from));
        if or_null {
            types.push(Type::Null);
            values.push(Value::Null);
        }
        ObjectBuilder::new()
            .schema_type(SchemaType::from_iter(types))
            .enum_values(Some(values))
            .description(Some(format!("{what} A name, or the ERP's code.")))
            .examples([example])
            .build()
            .into()
    }

    /// The code of a caller's word: a name, or the code in digits.
    pub(super) fn code(&self, word: &str) -> Option<u8> {
        let by_name = self.names.iter().position(|name| *name == word);
        let place = match by_name {
            Some(place) => place,
            None => match word.as_bytes() {
                [digit @ b'1'..=b'9'] => usize::from(digit - b'1'),
                _ => return None,
            },
        };
        (place < self.names.len()).then(|| u8::try_from(place + 1).ok())?
    }

    /// The code of a caller's JSON value: a name, or the code as a number.
    pub(super) fn code_of(&self, value: &Value) -> Option<u8> {
        match value {
            Value::String(word) => self.code(word),
            Value::Number(number) => {
                let code = u8::try_from(number.as_u64()?).ok()?;
                self.name(u64::from(code)).map(|_| code)
            }
            _ => None,
        }
    }

    /// The name of a code.
    pub(super) fn name(&self, code: u64) -> Option<&'static str> {
        let place = usize::try_from(code.checked_sub(1)?).ok()?;
        self.names.get(place).copied()
    }

    /// Reads what the ERP sent: a number, a numeric string, a word, an object with
    /// an `id`, or nothing.
    pub(super) fn read(&self, value: &Value) -> Reading {
        let named = match value {
            Value::Null => return Reading::Nothing,
            Value::Number(number) => whole(number).and_then(|code| self.name(code)),
            Value::String(text) => {
                let text = text.trim();
                if text.is_empty() {
                    return Reading::Nothing;
                }
                match text.parse() {
                    Ok(code) => self.name(code),
                    Err(_) => self.named_like(text),
                }
            }
            Value::Object(members) => match members.get("id") {
                Some(id) if !id.is_object() => return self.read(id),
                _ => None,
            },
            Value::Bool(_) | Value::Array(_) => None,
        };
        named.map_or_else(|| Reading::Unknown(as_number(value)), Reading::Named)
    }

    /// The name that a display text stands for: `En proceso` is `en_proceso`.
    fn named_like(&self, text: &str) -> Option<&'static str> {
        let folded = text.to_lowercase().replace(' ', "_").replace('é', "e");
        self.names.iter().copied().find(|name| *name == folded)
    }
}

fn whole(number: &serde_json::Number) -> Option<u64> {
    number.as_u64().or_else(|| {
        let float = number.as_f64()?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole and in range"
        )]
        (float.fract() == 0.0 && (0.0..256.0).contains(&float)).then_some(float as u64)
    })
}

/// `"9"` is the number 9; anything else stays as it came.
fn as_number(value: &Value) -> Value {
    match value {
        Value::String(text) => text
            .trim()
            .parse::<i64>()
            .map_or_else(|_| value.clone(), Value::from),
        _ => value.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_form_that_the_erp_sends_is_read() {
        for value in [
            json!(2),
            json!("2"),
            json!(" 2 "),
            json!(2.0),
            json!("En proceso"),
            json!({"id": 2}),
        ] {
            assert_eq!(STATUS.read(&value), Reading::Named("en_proceso"), "{value}");
        }
        for value in [json!(null), json!(""), json!("  "), json!({"id": null})] {
            assert_eq!(STATUS.read(&value), Reading::Nothing, "{value}");
        }
        assert_eq!(STATUS.read(&json!("9")), Reading::Unknown(json!(9)));
        assert_eq!(STATUS.read(&json!(0)), Reading::Unknown(json!(0)));
        assert_eq!(STATUS.read(&json!([1])), Reading::Unknown(json!([1])));
        assert_eq!(PROCESO.read(&json!("Después")), Reading::Named("despues"));
    }

    #[test]
    fn callers_may_say_names_or_codes_and_nothing_else() {
        assert_eq!(STATUS.code("confirmada"), Some(5));
        assert_eq!(STATUS.code("5"), Some(5));
        assert_eq!(PRIORIDAD.code_of(&json!(3)), Some(3));
        for word in ["", "0", "6", "05", "+5", "5.0", "Confirmada", "desconocido"] {
            assert_eq!(STATUS.code(word), None, "{word}");
        }
        for value in [
            json!(0),
            json!(4),
            json!(1.5),
            json!(true),
            json!(null),
            json!(-1),
            json!(257),
        ] {
            assert_eq!(PRIORIDAD.code_of(&value), None, "{value}");
        }
    }
}
