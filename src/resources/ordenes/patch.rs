//! `PATCH /v1/ordenes/{id}`: every field is checked before anything is sent.

use std::time::Duration;

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue,
    header::{CONTENT_TYPE, ETAG},
};
use serde_json::{Map, Value};
use time::{
    OffsetDateTime,
    format_description::{BorrowedFormatItem, well_known::Rfc3339},
    macros::format_description,
};
use utoipa::{ToSchema, openapi::schema::Schema};

use crate::{
    cache::Representation,
    caller::Permit,
    exchange::{Condition, Trace, Unfit, Wanted, Write},
    extract::{Id, IfMatch, JsonObject, Keyed, NoParameters, Query, RecordId},
    idempotency::{Fingerprint, Once, Slot},
    operation::{Effect, Operation, Scope},
    problem::{Code, FieldError, Problem},
    resources::{
        members::Members,
        once::{self, Answer, Start, Writing},
        reference::ChangeProblems,
    },
    upstream::Payload,
};

use super::{
    COLLECTION,
    codigo::{Codes, PRIORIDAD, STATUS},
    get, orden,
    representation::Orden,
};

/// Changes one order.
pub(super) static PATCH: Operation = Operation {
    name: "modificar_orden",
    scope: Scope::OrdenesWrite,
    effect: Effect::Write,
};

/// How the ERP spells `descripcion` in a change (`upstream.descripcion_field`).
#[derive(Debug, Clone)]
pub struct DescripcionField(pub std::sync::Arc<str>);

/// The fields of an order that can be changed; send at least one.
#[derive(ToSchema)]
#[schema(as = CambioDeOrden, min_properties = 1)]
#[expect(dead_code, reason = "describes the form; values are never made")]
struct Change {
    #[schema(required = false, schema_with = status_schema)]
    status: Option<String>,
    #[schema(required = false, schema_with = prioridad_schema)]
    prioridad: Option<String>,
    /// HTML.
    #[schema(
        required = false,
        nullable = false,
        max_length = 100_000,
        example = "<p>FALTA DE AGUA</p>"
    )]
    descripcion: Option<String>,
    /// A time with its offset (RFC 3339); null clears it.
    #[schema(required = false, format = DateTime, example = "2026-01-01T09:44:27-06:00")]
    bitacora_inicio_cliente: Option<String>,
    /// A time with its offset (RFC 3339); null clears it.
    #[schema(required = false, format = DateTime, example = "2026-01-27T09:44:27-06:00")]
    bitacora_llegada_base: Option<String>,
}

fn status_schema() -> Schema {
    STATUS.schema("What has become of the order.", false, "en_proceso")
}

fn prioridad_schema() -> Schema {
    PRIORIDAD.schema("How urgent it is; null clears it.", true, "alta")
}

/// How long the answer to an `Idempotency-Key` is kept.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// The longest description that is passed on, in characters.
const MAX_DESCRIPCION_CHARS: usize = 100_000;

/// As in the vendor's example: seconds, and the offset in hours and minutes.
const VENDOR_TIME: &[BorrowedFormatItem<'_>] = format_description!(
    "[year]-[month]-[day]T[hour]:[minute]:[second][offset_hour sign:mandatory]:[offset_minute]"
);

/// Change a work order
///
/// Any of the fields, as a merge patch (RFC 7396). Every field is checked first: one that is unknown or wrong
/// refuses the whole change, and nothing is sent to the ERP. With `If-Match`, the change is made only while the
/// order still has that `ETag`. Needs the scope `ordenes:write`.
#[utoipa::path(
    patch,
    path = "/v1/ordenes/{id}",
    operation_id = "modificar_orden",
    tag = "ordenes",
    params(
        ("id" = u64, Path, description = "The order's internal `id`, not its `clave`.", minimum = 1, example = 11001),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the order that the change is based on."),
        ("Idempotency-Key" = Option<String>, Header, description = "Your name for this change, such as a UUID: 1 to 255 visible ASCII characters. Sent again with the same key within 24 hours, it isn't made again.", min_length = 1, max_length = 257),
        ("Content-Digest" = Option<String>, Header, description = "SHA-256 or SHA-512 of the body (RFC 9530): what arrives otherwise is refused. Such as `sha-256=:<base64>:`."),
        ("Repr-Digest" = Option<String>, Header, description = "The same."),
    ),
    request_body(content((Change = "application/json"), (Change = "application/merge-patch+json")), description = "The fields to change."),
    responses((status = 200, description = "The order after the change.", body = Orden,
        headers(("Idempotent-Replayed" = String, description = "`true` where an earlier request had made the change, whose answer this is."))), ChangeProblems)
)]
pub(super) async fn patch(
    permit: Permit,
    Id(id): Id,
    _: Query<NoParameters>,
    if_match: IfMatch,
    Writing {
        key: Keyed(key),
        exchange,
        idempotency,
        ..
    }: Writing,
    State(DescripcionField(descripcion)): State<DescripcionField>,
    JsonObject { fields, share }: JsonObject,
) -> Result<Response, Problem> {
    let change = check(fields, &descripcion)?;
    let once = key.map(|key| Once {
        slot: Slot::of_key(once::asked(&permit, id.get()), &key),
        fingerprint: fingerprint(&change),
        keep: KEPT,
        mark: String::new(),
        joins: false,
        also: None,
        shared: None,
    });
    let claim = match once::start(&idempotency, &permit, id.get(), once, None, |_| None).await? {
        Start::Send(claim) => claim,
        Start::Made(answer) => return Ok(changed(answer)),
    };
    let condition = if_match.is_present().then(|| Condition {
        read: get::of(id, Wanted::FROM_UPSTREAM),
        translate: get::translate,
        allows: Box::new(move |etag| if_match.allows(etag)),
    });
    let trace = claim
        .is_some()
        .then(|| trace(id, change.clone(), &descripcion));
    let told = match claim {
        Some(_) => Problem::of_repeatable_write,
        None => Problem::of_write,
    };
    let write = Write {
        target: orden(id),
        payload: Payload::Patch(change),
        record: (COLLECTION, id.get()),
        image: None,
        condition,
        claim,
        trace,
    };
    let written = exchange
        .write(permit, write, move |body| {
            // The change is held until the ERP has answered, whoever waits for that.
            drop(share);
            get::translate(body, id.get())
        })
        .await
        .map_err(|error| {
            told(
                error,
                &[
                    ("status", "status"),
                    ("prioridad", "prioridad"),
                    ("descripcion", "descripcion"),
                    ("descripción", "descripcion"),
                    ("bitacora_inicio_cliente", "bitacora_inicio_cliente"),
                    ("bitacora_llegada_base", "bitacora_llegada_base"),
                ],
            )
        })?;
    Ok(changed(written.into()))
}

fn changed(answer: Answer) -> Response {
    let order = Representation::of(answer.body.clone());
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (ETAG, order.etag().clone()),
    ];
    let mut response = (headers, order.body().clone()).into_response();
    answer.mark(response.headers_mut());
    response
}

/// Equal changes have equal ones, in whatever order their fields were sent.
fn fingerprint(change: &Map<String, Value>) -> Fingerprint {
    let mut fields: Vec<_> = change.iter().collect();
    fields.sort_by_key(|(name, _)| *name);
    let fields = serde_json::to_vec(&fields).unwrap_or_default();
    Fingerprint::of(&[&fields])
}

/// How the change is known again: the order says what it would say after it.
fn trace(id: RecordId, change: Map<String, Value>, descripcion: &str) -> Trace {
    let descripcion = descripcion.to_owned();
    Trace {
        target: orden(id),
        mark: None,
        find: Box::new(move |body, _| {
            let order = Members::read(Members::text(body)?)?;
            if order.number("id") != Some(id.get()) {
                return Err(Unfit::Mismatch);
            }
            let is_made = change.iter().all(|(name, wanted)| {
                // In answers it is always spelt so.
                let name = if *name == descripcion {
                    "descripcion"
                } else {
                    name
                };
                is_equal(&order.value(name), wanted)
            });
            is_made.then(|| get::translate(body, id.get())).transpose()
        }),
        id: |_| None,
    }
}

/// Whether the ERP says what was asked for, in whatever form it says that.
fn is_equal(theirs: &Value, wanted: &Value) -> bool {
    let time = |text: &str| OffsetDateTime::parse(text.trim(), &Rfc3339).ok();
    match (theirs, wanted) {
        (Value::String(theirs), Value::Null) => theirs.is_empty(),
        (Value::String(theirs), Value::Number(wanted)) => theirs.trim() == wanted.to_string(),
        (Value::String(theirs), Value::String(wanted)) => {
            theirs == wanted || (time(wanted).is_some() && time(theirs) == time(wanted))
        }
        _ => theirs == wanted,
    }
}

/// The change as the ERP wants it, or one entry for every field that is wrong.
fn check(fields: Map<String, Value>, descripcion: &str) -> Result<Map<String, Value>, Problem> {
    if fields.is_empty() {
        return Err(Problem::new(
            Code::ValidationFailed,
            "The object is empty: send at least one field to change.",
        ));
    }
    let mut change = Map::new();
    let mut errors = Vec::new();
    for (name, value) in fields {
        let sent_as = if name == "descripcion" {
            descripcion
        } else {
            &name
        };
        match field(&name, value) {
            Ok(value) => {
                change.insert(sent_as.to_owned(), value);
            }
            Err(what) => {
                let shown: String = name.chars().take(60).collect();
                errors.push(FieldError::body(&shown, what));
            }
        }
    }
    if errors.is_empty() {
        Ok(change)
    } else {
        Err(Problem::of(Code::ValidationFailed).with_errors(errors))
    }
}

/// One field's value for the ERP.
fn field(name: &str, value: Value) -> Result<Value, &'static str> {
    match name {
        "status" => code(&STATUS, &value),
        "prioridad" if value.is_null() => Ok(value),
        "prioridad" => code(&PRIORIDAD, &value),
        "descripcion" => match value {
            Value::String(text) if text.contains('\0') => Err("Must not hold NUL characters."),
            Value::String(text) if text.chars().count() > MAX_DESCRIPCION_CHARS => {
                Err("Must have at most 100000 characters.")
            }
            Value::String(_) => Ok(value),
            _ => Err("Must be a string (HTML)."),
        },
        "bitacora_inicio_cliente" | "bitacora_llegada_base" if value.is_null() => Ok(value),
        "bitacora_inicio_cliente" | "bitacora_llegada_base" => value
            .as_str()
            .and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok())
            .and_then(|time| time.format(VENDOR_TIME).ok())
            .map(Value::from)
            .ok_or("Must be a time with its offset, such as 2026-01-01T09:44:27-06:00, or null."),
        _ => Err(
            "There is no such field to change; there are: status, prioridad, descripcion, bitacora_inicio_cliente, bitacora_llegada_base.",
        ),
    }
}

fn code(codes: &'static Codes, value: &Value) -> Result<Value, &'static str> {
    codes.code_of(value).map(Value::from).ok_or(codes.expected)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sent(body: Value) -> Result<Value, Problem> {
        check(body.as_object().cloned().unwrap_or_default(), "descripcion").map(Value::Object)
    }

    #[test]
    fn names_become_codes_and_times_the_vendors_form() {
        let body = json!({"status": "terminada", "prioridad": null, "bitacora_llegada_base": "2026-01-27t15:44:27.5Z"});
        assert_eq!(
            sent(body).expect("valid"),
            json!({"status": 3, "prioridad": null, "bitacora_llegada_base": "2026-01-27T15:44:27+00:00"})
        );
        assert_eq!(
            sent(json!({"status": 3})).expect("valid"),
            json!({"status": 3})
        );
    }

    #[test]
    fn the_description_goes_under_the_configured_name() {
        let fields = json!({"descripcion": "<p>x</p>"})
            .as_object()
            .cloned()
            .unwrap_or_default();
        let change = check(fields, "descripción").expect("valid");
        assert_eq!(Value::Object(change), json!({"descripción": "<p>x</p>"}));
    }

    #[test]
    fn each_wrong_field_is_refused() {
        for body in [
            json!({}),
            json!({"status": "lista"}),
            json!({"status": null}),
            json!({"status": 6}),
            json!({"status": "desconocido"}),
            json!({"prioridad": "urgente"}),
            json!({"descripcion": 5}),
            json!({"descripcion": "a\u{0}b"}),
            json!({"bitacora_inicio_cliente": "2026-01-01"}),
            json!({"bitacora_inicio_cliente": "2026-01-01T09:44:27"}),
            json!({"bitacora_inicio_cliente": "2026-02-30T09:44:27-06:00"}),
            json!({"id": 5}),
            json!({"descripción": "x"}),
        ] {
            let problem = sent(body.clone()).expect_err(&body.to_string());
            assert_eq!(problem.code(), Code::ValidationFailed, "{body}");
        }
    }
}
