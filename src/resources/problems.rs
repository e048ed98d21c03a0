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

use crate::problem::{Code, Problem};

use super::reference::PUBLIC;

/// The routes, for everybody: no token.
pub fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/problems", get(all))
        .route("/problems/{code}", get(one))
}

async fn all(headers: HeaderMap) -> Response {
    answer(&headers, "Problems", Code::ALL)
}

async fn one(request: Request) -> Result<Response, Problem> {
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
