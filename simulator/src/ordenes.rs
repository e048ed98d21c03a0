//! `ordenes_servicio/`: listing, showing and changing work orders.

use std::ops::Bound;

use http::StatusCode;
use serde_json::{Map, Value, json};
use time::format_description::well_known::Iso8601;
use time::{OffsetDateTime, PrimitiveDateTime};

use crate::erp::Call;
use crate::paging::Window;
use crate::reply::{FieldErrors, NOT_A_STRING, NOT_NULL, Reply};
use crate::seed::UserSeed;

/// The vendor's name of a status.
pub(crate) fn status_display(code: u64) -> Option<&'static str> {
    match code {
        1 => Some("Abierta"),
        2 => Some("En proceso"),
        3 => Some("Terminada"),
        4 => Some("Cancelada"),
        5 => Some("Confirmada"),
        _ => None,
    }
}

/// The vendor's name of a priority.
pub(crate) fn prioridad_display(code: u64) -> Option<&'static str> {
    match code {
        1 => Some("Alta"),
        2 => Some("Media"),
        3 => Some("Baja"),
        _ => None,
    }
}

pub(crate) fn list(call: &Call<'_>, username: &str) -> Result<Reply, Reply> {
    let query = call.query();
    let status = match query.get("status") {
        None | Some("") => None,
        Some(text) => Some(status_filter(text)?),
    };
    let paging = call.plan.paging;
    let (window, count, results) = call.with_tenant(|tenant| {
        let user = tenant.user(username);
        let matching: Vec<&Value> = tenant
            .ordenes
            .iter()
            .filter(|(id, _)| user.is_some_and(|user| user.sees(**id)))
            .filter(|(_, orden)| status.is_none_or(|wanted| code(&orden["status"]) == Some(wanted)))
            .map(|(_, orden)| orden)
            .collect();
        let window = Window::asked_for(&query, paging, matching.len())
            .map_err(|_| Reply::detail(StatusCode::NOT_FOUND, "Página inválida."))?;
        let results: Vec<Value> = matching
            .iter()
            .skip(window.offset)
            .take(window.limit)
            .map(|orden| in_list(shown(orden, call.plan.odd_data)))
            .collect();
        Ok((window, matching.len(), results))
    })??;
    let link = |query: Option<String>| query.map(|query| call.address_with(&query));
    Ok(Reply::json(
        StatusCode::OK,
        &json!({
            "count": count,
            "next": link(window.next(&query, paging, count)),
            "previous": link(window.previous(&query, paging)),
            "results": results,
        }),
    ))
}

pub(crate) fn detail(call: &Call<'_>, username: &str, id: u64) -> Result<Reply, Reply> {
    call.with_tenant(|tenant| {
        let user = tenant.user(username);
        let mut orden = tenant
            .visible_orden(username, id)
            .ok_or_else(Reply::not_found)?;
        if call.plan.wrong_record {
            let sees = |id: &u64| user.is_some_and(|user: &UserSeed| user.sees(*id));
            let after = tenant
                .ordenes
                .range((Bound::Excluded(id), Bound::Unbounded));
            let mut others = after.chain(tenant.ordenes.range(..id));
            if let Some((_, other)) = others.find(|(id, _)| sees(id)) {
                orden = other;
            }
        }
        Ok(Reply::json(
            StatusCode::OK,
            &shown(orden, call.plan.odd_data),
        ))
    })?
}

pub(crate) fn patch(call: &Call<'_>, username: &str, id: u64) -> Result<Reply, Reply> {
    call.with_tenant(|tenant| tenant.visible_orden(username, id).is_some())?
        .then_some(())
        .ok_or_else(Reply::not_found)?;
    let changes = changes(&call.object()?)?;
    call.with_tenant(|tenant| {
        let orden = tenant.ordenes.get_mut(&id).ok_or_else(Reply::not_found)?;
        let Value::Object(fields) = orden else {
            // Only a test can have planted this.
            return Err(Reply::of_status(StatusCode::INTERNAL_SERVER_ERROR, None));
        };
        fields.extend(changes);
        Ok(Reply::json(
            StatusCode::OK,
            &shown(orden, call.plan.odd_data),
        ))
    })?
}

/// The fields that a PATCH sets, displays included. Fields that aren't the caller's to set are passed over in
/// silence, as the framework does.
fn changes(asked: &Map<String, Value>) -> Result<Map<String, Value>, Reply> {
    let mut changes = Map::new();
    let mut errors = FieldErrors::default();
    for (field, value) in asked {
        let checked = match field.as_str() {
            "status" => choice(value, status_display).and_then(|code| code.ok_or(NOT_NULL.into())),
            "prioridad" => choice(value, prioridad_display).map(Option::unwrap_or_default),
            "descripcion" | "descripción" => text(value),
            "bitacora_inicio_cliente" | "bitacora_llegada_base" => moment(value),
            _ => continue,
        };
        match checked {
            Ok(value) => {
                let shown_as = value.as_u64();
                match field.as_str() {
                    "status" => {
                        changes.insert(
                            "status_display".to_owned(),
                            json!(shown_as.and_then(status_display)),
                        );
                    }
                    "prioridad" => {
                        changes.insert(
                            "prioridad_display".to_owned(),
                            json!(shown_as.and_then(prioridad_display)),
                        );
                    }
                    _ => {}
                }
                let stored_as = match field.as_str() {
                    "descripción" => "descripcion",
                    other => other,
                };
                changes.insert(stored_as.to_owned(), value);
            }
            Err(message) => errors.add(field, message),
        }
    }
    if errors.is_empty() {
        Ok(changes)
    } else {
        Err(Reply::invalid(errors))
    }
}

/// A code that has a name, as a number or as digits; `None` for null.
fn choice(
    value: &Value,
    display: fn(u64) -> Option<&'static str>,
) -> Result<Option<Value>, String> {
    if value.is_null() {
        return Ok(None);
    }
    match code(value).filter(|code| display(*code).is_some()) {
        Some(code) => Ok(Some(json!(code))),
        None => {
            let given = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            Err(format!("\"{given}\" no es una elección válida."))
        }
    }
}

fn text(value: &Value) -> Result<Value, String> {
    match value {
        Value::String(_) => Ok(value.clone()),
        Value::Null => Err(NOT_NULL.to_owned()),
        _ => Err(NOT_A_STRING.to_owned()),
    }
}

fn moment(value: &Value) -> Result<Value, String> {
    let is_moment = match value {
        Value::Null => true,
        Value::String(text) => {
            OffsetDateTime::parse(text, &Iso8601::PARSING).is_ok()
                || PrimitiveDateTime::parse(text, &Iso8601::PARSING).is_ok()
        }
        _ => false,
    };
    is_moment.then(|| value.clone()).ok_or_else(|| {
        "Fecha/hora con formato erróneo. Use uno de los siguientes formatos en su lugar: \
         YYYY-MM-DDThh:mm[:ss[.uuuuuu]][+HH:MM|-HH:MM|Z]."
            .to_owned()
    })
}

fn status_filter(text: &str) -> Result<u64, Reply> {
    text.parse()
        .ok()
        .filter(|code| status_display(*code).is_some())
        .ok_or_else(|| {
            let message =
                format!("Escoja una opción válida. {text} no es una de las opciones disponibles.");
            Reply::invalid(FieldErrors::one("status", message))
        })
}

/// A code, however it is spelled.
pub(crate) fn code(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// An order as an answer shows it.
fn shown(orden: &Value, odd_data: bool) -> Value {
    let mut orden = orden.clone();
    if odd_data && let Value::Object(fields) = &mut orden {
        vary(fields);
    }
    orden
}

fn in_list(mut orden: Value) -> Value {
    if let Value::Object(fields) = &mut orden {
        fields.shift_remove("empleados");
        fields.shift_remove("archivos");
    }
    orden
}

/// One of the variations that real data comes in, chosen by the id.
fn vary(fields: &mut Map<String, Value>) {
    let Some(id) = fields.get("id").and_then(code) else {
        return;
    };
    match id % 6 {
        0 => {
            let status = fields.get("status").and_then(code).unwrap_or(5);
            fields.insert("status".to_owned(), json!(status.to_string()));
        }
        1 => {
            fields.shift_remove("prioridad");
            fields.shift_remove("prioridad_display");
        }
        2 => {
            fields.insert("id".to_owned(), json!(id.to_string()));
        }
        3 => {
            fields.insert("status".to_owned(), json!(9));
            fields.insert("status_display".to_owned(), json!("Facturada"));
        }
        4 => {
            fields.insert("campo_nuevo".to_owned(), json!({"valor": 1.5, "lista": []}));
        }
        _ => {
            fields.insert("sucursal".to_owned(), json!("MATRIZ"));
            fields.insert("cliente".to_owned(), Value::Null);
            fields.insert("bitacora_inicio_cliente".to_owned(), json!(""));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_iso_8601_with_or_without_an_offset() {
        for good in [
            "2026-01-01T09:44:27-06:00",
            "2026-01-01T15:44:27.123Z",
            "2026-01-01T09:44",
        ] {
            assert!(moment(&json!(good)).is_ok(), "{good}");
        }
        for bad in [
            json!("ayer"),
            json!("2026-13-01T09:44:27Z"),
            json!(""),
            json!(1),
        ] {
            assert!(moment(&bad).is_err(), "{bad}");
        }
    }
}
