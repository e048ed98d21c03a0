//! An answer before it is sent, in the ERP's words: Django's pages and Django REST Framework's Spanish.

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use http::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

/// Status, headers and the whole body.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// A handful: a map would make every `Result` large.
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Reply {
    fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            headers: vec![(CONTENT_TYPE, HeaderValue::from_static(content_type))],
            body: body.into(),
        }
    }

    pub(crate) fn json(status: StatusCode, value: &Value) -> Self {
        Self::new(status, "application/json", value.to_string())
    }

    pub(crate) fn html(status: StatusCode, title: &str) -> Self {
        let page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><title>{title}</title></head>\n\
             <body><h1>{title}</h1><p></p></body>\n</html>\n"
        );
        Self::new(status, "text/html; charset=utf-8", page)
    }

    pub(crate) fn garbage() -> Self {
        let body = r#"{"count": 23, "next": nul, "results": [{"id": 1"#;
        Self::new(StatusCode::OK, "application/json", body)
    }

    pub(crate) fn text(text: impl Into<Bytes>) -> Self {
        Self::new(StatusCode::OK, "text/plain; charset=utf-8", text)
    }

    pub(crate) fn bytes(bytes: Bytes) -> Self {
        Self::new(StatusCode::OK, "application/octet-stream", bytes)
    }

    pub(crate) fn detail(status: StatusCode, detail: &str) -> Self {
        Self::json(status, &json!({ "detail": detail }))
    }

    pub(crate) fn invalid(fields: FieldErrors) -> Self {
        Self::json(StatusCode::BAD_REQUEST, &Value::Object(fields.0))
    }

    pub(crate) fn unauthorized(detail: &str) -> Self {
        Self::unauthorized_with(&json!({ "detail": detail }))
    }

    pub(crate) fn unauthorized_with(body: &Value) -> Self {
        Self::json(StatusCode::UNAUTHORIZED, body).with(WWW_AUTHENTICATE, "Bearer realm=\"api\"")
    }

    pub(crate) fn not_found() -> Self {
        Self::detail(StatusCode::NOT_FOUND, "No encontrado.")
    }

    pub(crate) fn method_not_allowed(method: &Method, allow: &str) -> Self {
        let detail = format!("Método \"{method}\" no permitido.");
        Self::detail(StatusCode::METHOD_NOT_ALLOWED, &detail).with(ALLOW, allow)
    }

    pub(crate) fn redirect(status: StatusCode, to: &str) -> Self {
        Self::new(status, "text/html; charset=utf-8", Bytes::new()).with(LOCATION, to)
    }

    /// What the ERP says with a status that was asked for.
    pub(crate) fn of_status(status: StatusCode, retry_after: Option<&str>) -> Self {
        let reply = match status {
            StatusCode::UNAUTHORIZED => {
                Self::unauthorized("Las credenciales de autenticación no se proveyeron.")
            }
            StatusCode::FORBIDDEN => {
                Self::detail(status, "Usted no tiene permiso para realizar esta acción.")
            }
            StatusCode::TOO_MANY_REQUESTS => {
                Self::detail(status, "Solicitud fue regulada (throttled).")
            }
            status if status.is_client_error() => {
                Self::detail(status, status.canonical_reason().unwrap_or("Error"))
            }
            status => {
                let reason = status.canonical_reason().unwrap_or("Error");
                Self::html(status, &format!("{reason} ({})", status.as_u16()))
            }
        };
        match retry_after {
            Some(value) => reply.with(RETRY_AFTER, value),
            None => reply,
        }
    }

    /// With one more header; a value that no header can carry is left out.
    fn with(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
        self
    }

    /// Announces the whole body, sends half of it and breaks the connection.
    pub(crate) fn into_truncated(self) -> Response {
        let whole = self.body.len();
        let half = self.body.slice(..whole / 2);
        let halves = stream::unfold(Some(half), async |half| match half {
            Some(half) => Some((Ok(half), None)),
            None => {
                // The half that was sent is still in a buffer, and a failure at once would take it along.
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Err(io::Error::other("truncated on purpose")), None))
            }
        });
        let mut response = Response::new(Body::from_stream(halves));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
            .headers_mut()
            .insert(CONTENT_LENGTH, HeaderValue::from(whole));
        response
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response
    }
}

/// What is wrong with a request, field by field: `{"campo": ["mensaje"]}`.
#[derive(Default)]
pub(crate) struct FieldErrors(Map<String, Value>);

impl FieldErrors {
    pub(crate) fn one(field: &str, message: impl Into<String>) -> Self {
        let mut errors = Self::default();
        errors.add(field, message);
        errors
    }

    pub(crate) fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.insert(field.to_owned(), json!([message.into()]));
    }

    /// What was right about a field; what was wrong is added.
    pub(crate) fn collect<T>(&mut self, field: &str, checked: Result<T, String>) -> Option<T> {
        checked.map_err(|message| self.add(field, message)).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub(crate) const REQUIRED: &str = "Este campo es requerido.";
pub(crate) const NOT_NULL: &str = "Este campo no puede ser nulo.";
pub(crate) const NOT_BLANK: &str = "Este campo no puede estar en blanco.";
pub(crate) const NOT_A_STRING: &str = "No es una cadena válida.";
