//! `/problems` and `/problems/{code}`: what the codes of errors mean, to people as a
//! page and to programs as JSON.

use axum::{
    Router,
    extract::Request,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use http::{
    HeaderMap, HeaderValue,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, VARY},
};
use serde_json::{Value, json};

use utoipa::ToSchema;

use crate::problem::{Code, Problem, ProblemDetails};

use super::reference::PUBLIC;

/// The routes, for everybody: no token.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/problems", get(all))
        .route("/problems/{code}", get(one))
}

/// What a code means.
#[derive(ToSchema)]
#[expect(dead_code, reason = "describes the form; values are never made")]
struct Explanation {
    #[schema(example = "not-found")]
    code: String,
    #[schema(example = 404)]
    status: u16,
    #[schema(example = "Nothing is here")]
    title: String,
    /// What somebody who gets it can do.
    remedy: String,
}

/// All codes of errors
///
/// What each means and what to do. To a browser, a page.
#[utoipa::path(
    get,
    path = "/problems",
    operation_id = "listar_problemas",
    tag = "reference",
    security(()),
    responses((status = 200, description = "Every code.", body = Vec<Explanation>))
)]
pub(super) async fn all(headers: HeaderMap) -> Response {
    answer(&headers, "Problems", Code::ALL)
}

/// One code of errors
///
/// What it means and what to do. To a browser, a page.
#[utoipa::path(
    get,
    path = "/problems/{code}",
    operation_id = "ver_problema",
    tag = "reference",
    security(()),
    params(("code" = String, Path, description = "The `code` of an error.", example = "not-found")),
    responses(
        (status = 200, description = "The code.", body = Explanation),
        (status = 404, description = "There is no such code.", body = ProblemDetails<'static>, content_type = "application/problem+json")
    )
)]
pub(super) async fn one(request: Request) -> Result<Response, Problem> {
    let name = request.uri().path().rsplit('/').next().unwrap_or_default();
    let code = Code::from_name(name).ok_or_else(|| {
        Problem::new(
            Code::NotFound,
            "There is no problem of that code. `/problems` lists those that there are.",
        )
    })?;
    Ok(answer(request.headers(), code.as_str(), &[code]))
}

fn answer(headers: &HeaderMap, title: &str, codes: &[Code]) -> Response {
    let wants_page = headers
        .get(ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"));
    let mut response = if wants_page {
        let explained: String = codes.iter().map(html).collect();
        Html(format!(
            "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>{explained}"
        ))
        .into_response()
    } else {
        let body = match codes {
            [code] => explained(code),
            codes => codes.iter().map(explained).collect(),
        };
        let json = HeaderValue::from_static("application/json");
        ([(CONTENT_TYPE, json)], body.to_string()).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, PUBLIC);
    headers.insert(VARY, HeaderValue::from_static("accept"));
    response
}

fn explained(code: &Code) -> Value {
    json!({
        "code": code.as_str(),
        "status": code.status().as_u16(),
        "title": code.title(),
        "remedy": code.remedy(),
    })
}

fn html(code: &Code) -> String {
    let remedy = code
        .remedy()
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    let (name, status, title) = (code.as_str(), code.status().as_u16(), code.title());
    format!("<h1>{name}</h1><p><strong>{status}</strong> {title}</p><p>{remedy}</p>")
}
