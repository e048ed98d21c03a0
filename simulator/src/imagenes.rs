//! `ordenes_servicio/{id}/adjuntar_imagen/`: an image in base64 becomes one of the order's files.

use base64_simd::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

use crate::erp::Call;
use crate::ordenes::code;
use crate::reply::{FieldErrors, NOT_A_STRING, NOT_BLANK, NOT_NULL, REQUIRED, Reply};
use crate::seed::Dice;

pub(crate) fn adjuntar(call: &Call<'_>, username: &str, id: u64) -> Result<Reply, Reply> {
    call.with_tenant(|tenant| tenant.visible_orden(username, id).is_some())?
        .then_some(())
        .ok_or_else(Reply::not_found)?;

    let body = call.object()?;
    let mut errors = FieldErrors::default();
    let titulo = errors.collect("titulo", text(body.get("titulo")));
    let proceso = errors.collect("proceso", proceso(body.get("proceso")));
    let imagen = errors.collect("imagen", text(body.get("imagen")).and_then(decoded));
    let (Some(titulo), Some(proceso), Some(imagen)) = (titulo, proceso, imagen) else {
        return Err(Reply::invalid(errors));
    };

    let bytes = imagen.len();
    let creado = timestamp(call.shared.now());
    let archivo = call.with_tenant(|tenant| {
        let orden = tenant.ordenes.get_mut(&id).ok_or_else(Reply::not_found)?;
        let archivo_id = tenant.imagenes.keep(imagen);
        let archivo = archivo(archivo_id, titulo, &creado);
        if let Value::Object(fields) = orden {
            let archivos = fields.entry("archivos").or_insert_with(|| json!([]));
            match archivos {
                Value::Array(archivos) => archivos.push(archivo.clone()),
                planted => *planted = json!([archivo]),
            }
        }
        call.ticket.image_stored(archivo_id, proceso, bytes);
        Ok::<_, Reply>(archivo)
    })??;
    Ok(Reply::json(StatusCode::CREATED, &archivo))
}

/// A file as the ERP shows it. Its address is on another host and tells nothing about the tenant.
pub(crate) fn archivo(id: u64, titulo: &str, creado: &str) -> Value {
    let opaque = Dice(id).roll();
    json!({
        "id": id,
        "url": format!("https://archivos.example.net/{opaque:016x}/{id}.jpg"),
        "titulo": titulo,
        "creado": creado,
    })
}

/// A moment as the ERP writes it in `creado`: `2026-01-28T17:53:36.346193+00:00`.
pub(crate) fn timestamp(moment: OffsetDateTime) -> String {
    let form = format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]+00:00"
    );
    moment
        .to_offset(UtcOffset::UTC)
        .format(form)
        .unwrap_or_default()
}

fn text(value: Option<&Value>) -> Result<&str, String> {
    match value {
        None => Err(REQUIRED.to_owned()),
        Some(Value::Null) => Err(NOT_NULL.to_owned()),
        Some(Value::String(text)) if text.trim().is_empty() => Err(NOT_BLANK.to_owned()),
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(NOT_A_STRING.to_owned()),
    }
}

fn proceso(value: Option<&Value>) -> Result<u64, String> {
    match value {
        None => Err(REQUIRED.to_owned()),
        Some(Value::Null) => Err(NOT_NULL.to_owned()),
        Some(value) => match code(value) {
            Some(code @ 1..=3) => Ok(code),
            _ => Err(format!("{value} no es una elección válida.")),
        },
    }
}

/// The bytes of an image in base64, with or without a data URI around it.
fn decoded(text: &str) -> Result<Bytes, String> {
    let base64 = match text.strip_prefix("data:") {
        Some(rest) => match rest.split_once(";base64,") {
            Some((_, base64)) => base64,
            None => return Err("La imagen no es un data URI en base64.".to_owned()),
        },
        None => text,
    };
    STANDARD
        .decode_to_vec(base64)
        .map(Bytes::from)
        .map_err(|_| "La imagen no es base64 válido.".to_owned())
}
