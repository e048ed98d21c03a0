//! `POST /v1/ordenes/{id}/imagenes`: a photo of before, during or after the job.

use std::time::{Duration, SystemTime};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use base64_simd::STANDARD;
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, LOCATION},
};
use serde::Serialize;
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};
use utoipa::{
    ToSchema,
    openapi::schema::{ObjectBuilder, Schema, Type},
};

use crate::{
    cache::Representation,
    caller::Permit,
    clock::Clock,
    exchange::{Sighting, Trace, Unfit, Write},
    extract::{Id, Keyed, NoParameters, Photo, Query, RecordId, Texts},
    idempotency::{Fingerprint, IdempotencyKey, Once, Shared, Slot},
    operation::{Effect, Operation, Scope},
    problem::{FieldError, Problem},
    resources::{
        members::{Members, to_bytes},
        once::{self, Answer, DedupeWindow, Start, Writing},
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

/// How long the answer to an `Idempotency-Key` is kept.
const KEPT: Duration = Duration::from_secs(72 * 3600);

/// A photo and what it shows. The parts may come in any order.
#[derive(ToSchema)]
#[schema(as = NuevaImagen)]
#[expect(dead_code, reason = "describes the form; values are never made")]
struct Upload {
    /// The photo's file: jpeg, png or webp, known by its bytes.
    #[schema(format = Binary, content_media_type = "application/octet-stream")]
    imagen: String,
    /// Which step of the job it shows: `antes`, `durante` or `despues` (or the ERP's code 1 to 3).
    #[schema(schema_with = proceso_schema)]
    proceso: String,
    /// Its title: one line of at most 200 characters, without control characters; white space around it is cut off. Where it isn't
    /// given, it is made of `proceso`, the time in UTC and the beginning of the photo's SHA-256.
    #[schema(
        required = false,
        nullable = false,
        max_length = 200,
        example = "Fuga en la bomba"
    )]
    titulo: Option<String>,
}

fn proceso_schema() -> Schema {
    let words = ["antes", "durante", "despues", "1", "2", "3"];
    ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(words))
        .description(Some(
            "Which step of the job it shows: `antes`, `durante` or `despues` (or the ERP's code 1 to 3).",
        ))
        .examples(["antes"])
        .build()
        .into()
}

/// The photo as the ERP keeps it.
#[derive(Serialize, ToSchema)]
struct Imagen {
    #[schema(example = 555417, required = true)]
    id: Option<u64>,
    /// Where it can be fetched.
    #[schema(value_type = Option<String>, example = "https://archivos.example.net/555417.jpg", required = true)]
    url: Value,
    #[schema(value_type = Option<String>, example = "Antes del servicio - 20260127_150310-44afbfd2.jpg", required = true)]
    titulo: Value,
    #[schema(value_type = Option<String>, format = DateTime, example = "2026-01-28T17:53:36.346193+00:00", required = true)]
    creado: Value,
    /// SHA-256 of the bytes that the ERP got (RFC 9530). It is the photo's own, unless the gateway is set to change photos.
    #[schema(example = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:")]
    digest: String,
}

/// Attach a photo
///
/// Sends a photo to the order's files. It is checked by its bytes: what isn't a whole image of an accepted format
/// never reaches the ERP. Send it with an `Idempotency-Key`, and send it again with the same key until it is answered:
/// it is attached once. Without a key, the same photo for the same order and step is the same upload for some minutes.
/// Needs the scope `imagenes:write`.
#[utoipa::path(
    post,
    path = "/v1/ordenes/{id}/imagenes",
    operation_id = "adjuntar_imagen",
    tag = "ordenes",
    params(
        ("id" = u64, Path, description = "The order's internal `id`, not its `clave`.", minimum = 1, example = 11001),
        ("Idempotency-Key" = Option<String>, Header, description = "Your name for this upload, such as a UUID: 1 to 255 visible ASCII characters, bare or in double quotes, with which it is up to 257. Sent again with the same key within 72 hours, the photo isn't attached again, unless Llavero was restarted in between or another replica of it is asked.", min_length = 1, max_length = 257),
        ("Content-Digest" = Option<String>, Header, description = "SHA-256 or SHA-512 of the whole body, form and all (RFC 9530): what arrives otherwise is refused. In the head of the part `imagen` it is the photo's. Such as `sha-256=:<base64>:`."),
        ("Repr-Digest" = Option<String>, Header, description = "The same; each may also be that of the photo alone, by SHA-256 or SHA-512. Such as `sha-256=:<base64>:`."),
    ),
    request_body(content = Upload, content_type = "multipart/form-data", description = "The photo and what it shows."),
    responses(
        (status = 201, description = "The photo is with the order.", body = Imagen,
            headers(
                ("Location" = String, description = "The order whose `archivos` list the photo."),
                ("Idempotent-Replayed" = String, description = "`true` where an earlier request had attached it, whose answer this is.")
            )),
        UploadProblems
    )
)]
pub(super) async fn attach(
    permit: Permit,
    Id(id): Id,
    _: Query<NoParameters>,
    Writing {
        key: Keyed(key),
        exchange,
        idempotency,
        window,
    }: Writing,
    State(clock): State<Clock>,
    photo: Photo<Caption>,
) -> Result<Response, Problem> {
    let sent = photo.sent_sha256().await;
    let Photo {
        imagen,
        inspected,
        sha256,
        is_original,
        texts: Caption { proceso, titulo },
    } = photo;
    let image = Image {
        proceso: PROCESO.name(proceso.into()).unwrap_or_default(),
        sha256: hex(sent),
        received_sha256: (!is_original).then(|| hex(sha256)),
        bytes: imagen.len(),
    };
    let once = once(
        &permit,
        id,
        key.as_ref(),
        window,
        &Asked {
            proceso,
            titulo: titulo.as_deref(),
            sha256: &sha256,
        },
    );
    let titulo = titulo
        .unwrap_or_else(|| default_titulo(proceso, &clock, &sha256, inspected.format.extension()));
    let once = Once {
        mark: titulo.clone(),
        ..once
    };
    let started = once::start(
        &idempotency,
        &permit,
        id.get(),
        Some(once),
        Some(&image),
        archivo_of,
    );
    let claim = match started.await? {
        Start::Send(claim) => claim,
        Start::Made(answer) => return Ok(created(id, answer)),
    };
    let titulo = claim
        .as_ref()
        .map_or(titulo, |claim| claim.mark().to_owned());
    let digest = format!("sha-256=:{}:", STANDARD.encode_to_string(sent));
    let write = Write {
        target: orden(id).child("adjuntar_imagen"),
        payload: Payload::Image {
            titulo: titulo.clone(),
            proceso,
            media_type: inspected.format.media_type(),
            bytes: imagen,
        },
        record: (COLLECTION, id.get()),
        image: Some(image),
        condition: None,
        claim,
        trace: Some(trace(id, titulo, sha256, digest.clone())),
    };
    let attached = exchange
        .write(permit, write, move |body| {
            attached(&Members::read(Members::text(body)?)?, &digest)
        })
        .await
        .map_err(|error| {
            Problem::of_repeatable_write(
                error,
                &[
                    ("imagen", "imagen"),
                    ("proceso", "proceso"),
                    ("titulo", "titulo"),
                ],
            )
        })?;
    Ok(created(id, attached.into()))
}

fn created(id: RecordId, answer: Answer) -> Response {
    let location = HeaderValue::try_from(format!("/v1/ordenes/{id}"))
        .unwrap_or(HeaderValue::from_static("/v1/ordenes"));
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (LOCATION, location),
    ];
    let mut response = (StatusCode::CREATED, headers, answer.body.clone()).into_response();
    answer.mark(response.headers_mut());
    response
}

/// What a caller sends, as far as it tells one upload from another.
struct Asked<'a> {
    proceso: u8,
    titulo: Option<&'a str>,
    sha256: &'a [u8; 32],
}

/// What makes it the same upload: the caller's key, or for a while the photo itself. Without a window that is so only while
/// it runs, and while nobody knows what became of it.
fn once(
    permit: &Permit,
    id: RecordId,
    key: Option<&IdempotencyKey>,
    DedupeWindow(window): DedupeWindow,
    asked: &Asked<'_>,
) -> Once {
    let Asked {
        proceso,
        titulo,
        sha256,
    } = asked;
    let who = once::asked(permit, id.get());
    let photo = Fingerprint::of(&[&[*proceso], *sha256]);
    let asked = Fingerprint::of(&[
        &[*proceso, u8::from(titulo.is_some())],
        titulo.unwrap_or_default().as_bytes(),
        *sha256,
    ]);
    let shared = Some(Shared {
        doubt: Slot::of_doubt(who, asked),
        attempts: Slot::of_attempts(who),
        keep: KEPT,
    });
    let by_content = Slot::of_content(who, photo);
    match key {
        Some(key) => Once {
            slot: Slot::of_key(who, key),
            fingerprint: asked,
            keep: KEPT,
            mark: String::new(),
            joins: false,
            also: (!window.is_zero()).then_some((by_content, photo, window)),
            shared,
        },
        None => Once {
            slot: by_content,
            fingerprint: photo,
            keep: window,
            mark: String::new(),
            joins: true,
            also: None,
            shared,
        },
    }
}

/// How the photo is found among the order's files.
fn trace(id: RecordId, titulo: String, sha256: [u8; 32], digest: String) -> Trace {
    Trace {
        target: orden(id),
        mark: Some(titulo),
        find: Box::new(move |body, sighting| {
            let order = Members::read(Members::text(body)?)?;
            if order.number("id") != Some(id.get()) {
                return Err(Unfit::Mismatch);
            }
            let archivos: Vec<Members<'_>> = order
                .get("archivos")
                .map(serde_json::from_str::<Option<_>>)
                .transpose()
                .map_err(|_| Unfit::Unreadable)?
                .flatten()
                .unwrap_or_default();
            let seen = archivos
                .iter()
                .find(|archivo| is_seen(archivo, sighting, &sha256));
            seen.map(|archivo| attached(archivo, &digest)).transpose()
        }),
        id: archivo_of,
    }
}

/// Which file of the order's an answer of ours is of.
fn archivo_of(answer: &[u8]) -> Option<u64> {
    let answer = std::str::from_utf8(answer).ok()?;
    Members::read(answer).ok()?.number("id")
}

/// Whether that file is the one that is looked for.
fn is_seen(archivo: &Members<'_>, sighting: &Sighting<'_>, sha256: &[u8; 32]) -> bool {
    let text = |name| match archivo.value(name) {
        Value::String(text) => text,
        _ => String::new(),
    };
    let is_free = archivo
        .number("id")
        .is_some_and(|id| !sighting.taken.contains(&id));
    if let Some((step, unique)) = unique_parts(sighting.mark, sha256) {
        // Whatever the ERP's clock says, and the rest of the title became.
        let theirs = text("titulo").trim().to_ascii_lowercase();
        return is_free && theirs.starts_with(&step) && theirs.contains(unique);
    }
    let created = OffsetDateTime::parse(text("creado").trim(), &Rfc3339).map(SystemTime::from);
    let is_of_then =
        created.is_ok_and(|created| (sighting.from..=sighting.until).contains(&created));
    is_of_then && is_free && is_titled(text("titulo").trim(), sighting.mark.trim())
}

/// How no other photo's title begins, in small letters, and what none has in it: in one that [`default_titulo`] made, the
/// step as far as it is ASCII, and the second and the photo's digest.
fn unique_parts<'a>(titulo: &'a str, sha256: &[u8; 32]) -> Option<(String, &'a str)> {
    const TIME: &[u8] = b"00000000_000000";
    let digest = format!("-{}", beginning(sha256));
    let at = titulo.rfind(&digest)?;
    let from = at.checked_sub(TIME.len())?;
    let is_time = titulo
        .get(from..at)?
        .bytes()
        .zip(TIME)
        .all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            form => byte == *form,
        });
    let step = titulo
        .split(|letter: char| !letter.is_ascii_alphabetic())
        .next()?;
    is_time.then(|| (step.to_ascii_lowercase(), &titulo[from..at + digest.len()]))
}

/// A column may have been too short for the title.
fn is_titled(theirs: &str, ours: &str) -> bool {
    const SHORTEST_CUT: usize = 50;
    theirs == ours || (theirs.chars().count() >= SHORTEST_CUT && ours.starts_with(theirs))
}

/// What is said of a photo.
#[derive(Debug)]
pub(super) struct Caption {
    /// The ERP's code of the step.
    proceso: u8,
    /// Where one was sent.
    titulo: Option<String>,
}

impl Texts for Caption {
    fn read(proceso: Option<&str>, titulo: Option<&str>) -> Result<Self, Vec<FieldError>> {
        let mut errors = Vec::new();
        let code = proceso.and_then(|word| PROCESO.code(word.trim()));
        match (proceso, code) {
            (_, Some(_)) => {}
            (None, None) => errors.push(FieldError::body(
                "proceso",
                "Say `antes`, `durante` or `despues`.",
            )),
            (Some(_), None) => errors.push(FieldError::body("proceso", PROCESO.expected)),
        }
        let titulo = titulo.map(str::trim).filter(|titulo| !titulo.is_empty());
        if titulo.is_some_and(|titulo| titulo.chars().count() > MAX_TITULO_CHARS) {
            errors.push(FieldError::body(
                "titulo",
                "Must have at most 200 characters.",
            ));
        }
        if titulo.is_some_and(|titulo| titulo.chars().any(is_no_text)) {
            errors.push(FieldError::body(
                "titulo",
                "Must be one line without control characters.",
            ));
        }
        match code {
            Some(proceso) if errors.is_empty() => Ok(Self {
                proceso,
                titulo: titulo.map(str::to_owned),
            }),
            _ => Err(errors),
        }
    }
}

/// Controls, other line ends, and what turns the direction of what follows.
fn is_no_text(it: char) -> bool {
    it.is_control()
        || matches!(it, '\u{2028}' | '\u{2029}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

/// As the ERP's own app names its photos, in UTC, and with the beginning of the photo's digest, so that no other photo
/// has it, whoever sends it: `Antes del servicio - 20260127_150310-9f2ae04c.jpg`.
fn default_titulo(proceso: u8, clock: &Clock, sha256: &[u8; 32], extension: &str) -> String {
    let step = match proceso {
        1 => "Antes del servicio",
        2 => "Durante el servicio",
        _ => "Después del servicio",
    };
    let now = OffsetDateTime::from(clock.wall());
    let form = format_description!("[year][month][day]_[hour][minute][second]");
    let time = now.format(form).unwrap_or_default();
    format!("{step} - {time}-{}.{extension}", beginning(sha256))
}

/// Enough of a digest to tell a photo from others.
fn beginning(sha256: &[u8; 32]) -> String {
    let [a, b, c, d, ..] = *sha256;
    format!("{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// The public body of a photo as the ERP keeps it.
fn attached(archivo: &Members<'_>, digest: &str) -> Result<Representation, Unfit> {
    let text = |name| match archivo.value(name) {
        Value::String(text) => Value::String(text),
        _ => Value::Null,
    };
    // Without an id nothing says that the photo is there.
    let id = archivo.number("id").ok_or(Unfit::Unreadable)?;
    let imagen = Imagen {
        id: Some(id),
        url: text("url"),
        titulo: text("titulo"),
        creado: text("creado"),
        digest: digest.to_owned(),
    };
    Ok(Representation::new(to_bytes(&imagen)?))
}

fn hex(digest: [u8; 32]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}
