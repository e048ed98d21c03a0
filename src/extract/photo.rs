//! A photo as `multipart/form-data` (RFC 7578): its parts in any order, the image
//! known by its bytes.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{FromRef, FromRequest, Request},
};
use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use multer::{Field, Multipart};
use tokio::time::timeout;

use crate::{
    images::{self, Inspected, Rules},
    problem::{Code, FieldError, Problem},
};

use super::body;

/// Room for boundaries, part headers and the small parts beside the image.
const MULTIPART_OVERHEAD: u64 = 64 * 1024;
/// The largest of the small parts.
const MAX_TEXT_BYTES: usize = 4 * 1024;

/// The parts of an upload. What the texts may be is the resource's business.
#[derive(Debug)]
pub struct Photo {
    /// The image's bytes.
    pub imagen: Bytes,
    /// What they are.
    pub inspected: Inspected,
    /// The part `proceso`.
    pub proceso: Option<String>,
    /// The part `titulo`.
    pub titulo: Option<String>,
}

#[derive(Default)]
struct Parts {
    imagen: Option<Bytes>,
    proceso: Option<String>,
    titulo: Option<String>,
    errors: Vec<FieldError>,
}

impl<S> FromRequest<S> for Photo
where
    S: Send + Sync,
    Arc<Rules>: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let rules = Arc::<Rules>::from_ref(state);
        let content_type = request
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|it| it.to_str().ok());
        let is_form = content_type
            .and_then(|it| it.parse::<mime::Mime>().ok())
            .is_some_and(|it| it.essence_str() == "multipart/form-data");
        if !is_form {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "This operation takes `Content-Type: multipart/form-data` with the parts `imagen` and `proceso`, and optionally `titulo`.",
            ));
        }
        let boundary = multer::parse_boundary(content_type.unwrap_or_default()).map_err(|_| {
            Problem::new(
                Code::MalformedBody,
                "The `Content-Type` has no usable `boundary`. Let your HTTP client write that header itself.",
            )
        })?;
        let limit = rules.max_bytes.saturating_add(MULTIPART_OVERHEAD);
        body::check_promise(request.headers(), limit, "An upload")?;

        let body = http_body_util::Limited::new(
            request.into_body(),
            usize::try_from(limit).unwrap_or(usize::MAX),
        );
        let stream = Body::new(body).into_data_stream();
        let parts = read_parts(Multipart::new(stream, boundary), &rules).await?;
        parts.into_photo(&rules)
    }
}

async fn read_parts(mut form: Multipart<'_>, rules: &Rules) -> Result<Parts, Problem> {
    let mut parts = Parts::default();
    while let Some(field) = next(&mut form, rules).await? {
        let name = field.name().unwrap_or_default().to_owned();
        match name.as_str() {
            "imagen" => {
                let bytes = read_image(field, rules).await?;
                parts.keep("imagen", |parts| &mut parts.imagen, bytes);
            }
            "proceso" => {
                let text = read_text(field, "proceso").await?;
                parts.keep("proceso", |parts| &mut parts.proceso, text);
            }
            "titulo" => {
                let text = read_text(field, "titulo").await?;
                parts.keep("titulo", |parts| &mut parts.titulo, text);
            }
            _ => {
                let shown: String = name
                    .chars()
                    .filter(|it| !it.is_control())
                    .take(40)
                    .collect();
                parts.errors.push(FieldError::body(
                    &shown,
                    "There is no such part; there are `imagen`, `proceso` and `titulo`.",
                ));
                // One is enough to refuse; a sender of thousands isn't worth reading on.
                return Ok(parts);
            }
        }
    }
    Ok(parts)
}

impl Parts {
    fn keep<T>(&mut self, name: &str, slot: impl FnOnce(&mut Self) -> &mut Option<T>, value: T) {
        if slot(self).replace(value).is_some() {
            self.errors.push(FieldError::body(
                name,
                "The part was sent more than once; send it once.",
            ));
        }
    }

    fn into_photo(mut self, rules: &Rules) -> Result<Photo, Problem> {
        if self.imagen.is_none() {
            self.errors
                .push(FieldError::body("imagen", "The photo's file is missing."));
        }
        if self.proceso.is_none() {
            self.errors.push(FieldError::body(
                "proceso",
                "Say `antes`, `durante` or `despues`.",
            ));
        }
        match self.imagen {
            Some(imagen) if self.errors.is_empty() => {
                let inspected = images::inspect(&imagen, rules)
                    .map_err(|unusable| Problem::of_image(unusable, rules))?;
                Ok(Photo {
                    imagen,
                    inspected,
                    proceso: self.proceso,
                    titulo: self.titulo,
                })
            }
            _ => Err(Problem::of(Code::ValidationFailed).with_errors(self.errors)),
        }
    }
}

async fn next<'a>(form: &mut Multipart<'a>, rules: &Rules) -> Result<Option<Field<'a>>, Problem> {
    timeout(body::IDLE_TIMEOUT, form.next_field())
        .await
        .map_err(|_| body::incomplete())?
        .map_err(|error| malformed(&error, rules))
}

async fn read_image(mut field: Field<'_>, rules: &Rules) -> Result<Bytes, Problem> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = chunk(&mut field, rules).await? {
        if (bytes.len() + chunk.len()) as u64 > rules.max_bytes {
            return Err(body::too_large(rules.max_bytes, "The part `imagen`"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.freeze())
}

async fn read_text(mut field: Field<'_>, name: &str) -> Result<String, Problem> {
    let mut bytes = Vec::new();
    let limit = MAX_TEXT_BYTES as u64;
    loop {
        let chunk = timeout(body::IDLE_TIMEOUT, field.chunk())
            .await
            .map_err(|_| body::incomplete())?
            .map_err(|_| body::incomplete())?;
        let Some(chunk) = chunk else { break };
        if (bytes.len() + chunk.len()) as u64 > limit {
            return Err(body::too_large(limit, &format!("The part `{name}`")));
        }
        bytes.extend_from_slice(&chunk);
    }
    String::from_utf8(bytes).map_err(|_| {
        Problem::of(Code::ValidationFailed)
            .with_errors(vec![FieldError::body(name, "The part isn't UTF-8 text.")])
    })
}

async fn chunk(field: &mut Field<'_>, rules: &Rules) -> Result<Option<Bytes>, Problem> {
    timeout(body::IDLE_TIMEOUT, field.chunk())
        .await
        .map_err(|_| body::incomplete())?
        .map_err(|error| malformed(&error, rules))
}

fn malformed(error: &multer::Error, rules: &Rules) -> Problem {
    match error {
        multer::Error::StreamReadFailed(cause) if is_length_limit(&**cause) => body::too_large(
            rules.max_bytes.saturating_add(MULTIPART_OVERHEAD),
            "An upload",
        ),
        multer::Error::StreamReadFailed(_)
        | multer::Error::IncompleteStream
        | multer::Error::IncompleteFieldData { .. }
        | multer::Error::IncompleteHeaders => body::incomplete(),
        _ => Problem::new(
            Code::MalformedBody,
            "The body isn't well-formed multipart/form-data. Let your HTTP client build it.",
        ),
    }
}

/// Whether a chain of errors begins with our own bound.
fn is_length_limit(error: &(dyn std::error::Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| error.source())
        .any(|error| error.is::<http_body_util::LengthLimitError>())
}
