//! `POST /v1/ordenes/{id}/imagenes`: a photo of before, during or after the job.

use aws_lc_rs::digest;
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};
use serde::Serialize;
use serde_json::Value;
use time::{OffsetDateTime, macros::format_description};
use utoipa::ToSchema;

use crate::{
    cache::Representation,
    caller::Permit,
    clock::Clock,
    exchange::{Exchange, Unfit, Write},
    extract::{Id, NoParameters, Photo, Query},
    operation::{Effect, Operation, Scope},
    problem::{Code, FieldError, Problem},
    resources::{
        members::{Members, to_bytes},
        reference::UploadProblems,
    },
    telemetry::audit::Image,
    upstream::Payload,
};

use super::{COLLECTION, codigo::PROCESO, orden};

/// Attaches a photo to an order.
pub(super) static ATTACH: Operation = Operation {
    name: "adjuntar_imagen",
    scope: Scope::ImagenesWrite,
    effect: Effect::Write,
};

/// The ERP's column isn't documented; this is well under what such columns hold.
const MAX_TITULO_CHARS: usize = 200;

/// A photo and what it shows. The parts may come in any order.
#[derive(ToSchema)]
#[schema(as = NuevaImagen)]
#[expect(dead_code, reason = "describes the form; values are never made")]
struct Upload {
    /// The photo's file: jpeg, png or webp, known by its bytes.
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    imagen: String,
    /// Which step of the job it shows: `antes`, `durante` or `despues` (or the ERP's code 1 to 3).
    #[schema(pattern = "^(antes|durante|despues|[1-3])$", example = "antes")]
    proceso: String,
    /// Its title; made from `proceso` and the time where it isn't given.
    #[schema(
        required = false,
        nullable = false,
        max_length = 200,
        example = "Fuga en la bomba"
    )]
    titulo: Option<String>,
}

/// The photo as the ERP keeps it.
#[derive(Serialize, ToSchema)]
struct Imagen {
    #[schema(example = 555417, required = true)]
    id: Option<u64>,
    /// Where it can be fetched.
    #[schema(value_type = Option<String>, example = "https://archivos.example.net/555417.jpg", required = true)]
    url: Value,
    #[schema(value_type = Option<String>, example = "Antes del servicio - 20260127_150310.jpg", required = true)]
    titulo: Value,
    #[schema(value_type = Option<String>, example = "2026-01-28T17:53:36.346193+00:00", required = true)]
    creado: Value,
}

/// Attach a photo
///
/// Sends a photo to the order's files. It is checked by its bytes: what isn't a whole image of an accepted format
/// never reaches the ERP. Needs the scope `imagenes:write`.
#[utoipa::path(
    post,
    path = "/v1/ordenes/{id}/imagenes",
    operation_id = "adjuntar_imagen",
    tag = "ordenes",
    params(("id" = u64, Path, description = "The order's internal `id`, not its `clave`.", minimum = 1, example = 11001)),
    request_body(content = Upload, content_type = "multipart/form-data", description = "The photo and what it shows."),
    responses(
        (status = 201, description = "The photo is with the order.", body = Imagen,
            headers(("Location" = String, description = "The order whose `archivos` list the photo."))),
        UploadProblems
    )
)]
pub(super) async fn attach(
    permit: Permit,
    Id(id): Id,
    _: Query<NoParameters>,
    State(exchange): State<Exchange>,
    State(clock): State<Clock>,
    photo: Photo,
) -> Result<Response, Problem> {
    let Photo {
        imagen,
        inspected,
        proceso,
        titulo,
    } = photo;
    let (proceso, titulo) = check(proceso.as_deref(), titulo.as_deref())?;
    let titulo =
        titulo.unwrap_or_else(|| default_titulo(proceso, &clock, inspected.format.extension()));
    let image = Image {
        sha256: hex(&imagen),
        bytes: imagen.len(),
    };
    let write = Write {
        target: orden(id).child("adjuntar_imagen"),
        payload: Payload::Image {
            titulo,
            proceso,
            media_type: inspected.format.media_type(),
            bytes: imagen,
        },
        record: (COLLECTION, id.get()),
        image: Some(image),
        condition: None,
    };
    let attached = exchange
        .write(permit, write, attached)
        .await
        .map_err(|error| {
            Problem::of_write(
                error,
                &[
                    ("imagen", "imagen"),
                    ("proceso", "proceso"),
                    ("titulo", "titulo"),
                ],
            )
        })?;
    let location = HeaderValue::try_from(format!("/v1/ordenes/{id}"))
        .unwrap_or(HeaderValue::from_static("/v1/ordenes"));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (LOCATION, location),
    ];
    Ok((StatusCode::CREATED, headers, attached.body().clone()).into_response())
}

/// The ERP's code of the step, and the title where one was sent.
fn check<'a>(
    proceso: Option<&str>,
    titulo: Option<&'a str>,
) -> Result<(u8, Option<String>), Problem> {
    let mut errors = Vec::new();
    let proceso = proceso.and_then(|word| PROCESO.code(word.trim()));
    if proceso.is_none() {
        errors.push(FieldError::body("proceso", PROCESO.expected));
    }
    let titulo: Option<&'a str> = titulo.map(str::trim).filter(|titulo| !titulo.is_empty());
    if titulo.is_some_and(|titulo| titulo.chars().count() > MAX_TITULO_CHARS) {
        errors.push(FieldError::body(
            "titulo",
            "Must have at most 200 characters.",
        ));
    }
    if titulo.is_some_and(|titulo| titulo.chars().any(char::is_control)) {
        errors.push(FieldError::body(
            "titulo",
            "Must be one line without control characters.",
        ));
    }
    match proceso {
        Some(proceso) if errors.is_empty() => Ok((proceso, titulo.map(str::to_owned))),
        _ => Err(Problem::of(Code::ValidationFailed).with_errors(errors)),
    }
}

/// As the ERP's own app names its photos: `Antes del servicio - 20260127_150310.jpg`, in UTC.
fn default_titulo(proceso: u8, clock: &Clock, extension: &str) -> String {
    let step = match proceso {
        1 => "Antes del servicio",
        2 => "Durante el servicio",
        _ => "Después del servicio",
    };
    let now = OffsetDateTime::from(clock.wall());
    let form = format_description!("[year][month][day]_[hour][minute][second]");
    format!(
        "{step} - {}.{extension}",
        now.format(form).unwrap_or_default()
    )
}

/// The public body of the ERP's answer.
fn attached(body: &[u8]) -> Result<Representation, Unfit> {
    let answer = Members::read(Members::text(body)?)?;
    let text = |name| match answer.value(name) {
        Value::String(text) => Value::String(text),
        _ => Value::Null,
    };
    let imagen = Imagen {
        id: answer.number("id"),
        url: text("url"),
        titulo: text("titulo"),
        creado: text("creado"),
    };
    Ok(Representation::new(to_bytes(&imagen)?))
}

fn hex(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}
