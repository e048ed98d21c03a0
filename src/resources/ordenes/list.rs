//! `GET /v1/ordenes`.

use axum::extract::State;
use http::HeaderValue;
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use url::form_urlencoded;
use utoipa::ToSchema;

use crate::{
    cache::Representation,
    caller::Permit,
    exchange::{Exchange, Read, Served, Subject, Unfit},
    extract::{CacheControl, Parameters, Query, Values},
    operation::{Effect, FreshnessClass, Operation, Scope},
    problem::{Code, FieldError, Problem},
    resources::reference::ReadProblems,
    upstream::{CursorKey, Page, PageLinks, Target},
};

use super::{
    COLLECTION,
    codigo::STATUS,
    representation::{Members, Orden, to_bytes, translate},
};

/// Lists orders.
pub(super) static LIST: Operation = Operation {
    name: "listar_ordenes",
    scope: Scope::OrdenesRead,
    effect: Effect::Read(FreshnessClass::List),
};

const PATH: &str = "/v1/ordenes";
const DEFAULT_LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 100;

/// A page of work orders.
#[derive(ToSchema)]
#[schema(as = PaginaDeOrdenes, example = json!({
    "count": 23,
    "next": "/v1/ordenes?status=confirmada&limit=1&offset=1",
    "previous": null,
    "results": [Orden::listed_example()]
}))]
#[expect(dead_code, reason = "describes the form; values are never made")]
struct OrdenPage {
    /// How many orders there are in all; null where the ERP doesn't say.
    #[schema(example = 23, minimum = 0, required = true)]
    count: Option<u64>,
    /// The path of the next page on this gateway; null on the last one.
    #[schema(
        example = "/v1/ordenes?status=confirmada&limit=50&offset=50",
        required = true
    )]
    next: Option<String>,
    /// The path of the page before; null on the first one.
    #[schema(required = true)]
    previous: Option<String>,
    results: Vec<Orden>,
}

/// Which page is asked for.
#[derive(Debug, Clone)]
pub(super) enum Asked {
    Window {
        status: Option<u8>,
        limit: u64,
        offset: u64,
    },
    Cursor(String),
}

impl Parameters for Asked {
    const NAMES: &'static [&'static str] = &["status", "limit", "offset", "cursor"];

    fn read(values: &mut Values<'_>) -> Self {
        let status = values.take("status", STATUS.expected, |word| STATUS.code(word));
        let limit = values.take("limit", "Must be a whole number from 1 to 100.", |text| {
            decimal(text).filter(|limit| (1..=MAX_LIMIT).contains(limit))
        });
        let offset = values.take("offset", "Must be a whole number, 0 or more.", decimal);
        let cursor = values.take(
            "cursor",
            "Must be a cursor from a `next` or `previous` link.",
            |text| (!text.is_empty()).then(|| text.to_owned()),
        );
        match cursor {
            None => Self::Window {
                status,
                limit: limit.unwrap_or(DEFAULT_LIMIT),
                offset: offset.unwrap_or(0),
            },
            Some(cursor) => {
                if ["status", "limit", "offset"]
                    .into_iter()
                    .any(|name| values.has(name))
                {
                    values.refuse(
                        "cursor",
                        "A cursor stands alone: it already holds the filter and the page. Remove the other parameters.",
                    );
                }
                Self::Cursor(cursor)
            }
        }
    }
}

/// Digits only, and not more than the ERP's database counts.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits
        .then(|| text.parse().ok())
        .flatten()
        .filter(|number| i64::try_from(*number).is_ok())
}

/// List work orders
///
/// A page of the tenant's work orders, as its credential sees them. Follow `next` until it is null.
/// Answers are kept for a few seconds; `Cache-Control: no-cache` asks the ERP. Needs the scope `ordenes:read`.
#[utoipa::path(
    get,
    path = "/v1/ordenes",
    operation_id = "listar_ordenes",
    tag = "ordenes",
    params(
        ("status" = Option<String>, Query, description = "Only orders in that state: a name (or the ERP's code 1 to 5).",
            pattern = "^(abierta|en_proceso|terminada|cancelada|confirmada|[1-5])$", example = "abierta"),
        ("limit" = Option<u64>, Query, description = "Orders a page; 50 where it isn't given.", minimum = 1, maximum = 100, example = 50),
        ("offset" = Option<u64>, Query, description = "Orders before the page.", minimum = 0),
        ("cursor" = Option<String>, Query, description = "From a `next` or `previous` link; stands alone."),
    ),
    responses((status = 200, description = "A page of orders.", body = OrdenPage), ReadProblems)
)]
pub(super) async fn list(
    permit: Permit,
    Query(asked): Query<Asked>,
    CacheControl(wanted): CacheControl,
    State(exchange): State<Exchange>,
) -> Result<Served, Problem> {
    let target = target(&asked, &permit)?;
    let links = PageLinks::new(
        CursorKey::of(permit.credential()),
        &["status"],
        matches!(asked, Asked::Cursor(_)),
    );
    let read = Read {
        target,
        subject: Subject::Lists(COLLECTION),
        wanted,
    };
    let served = exchange
        .read(&permit, read, move |body| page(body, &asked, &links))
        .await?;
    Ok(served)
}

fn target(asked: &Asked, permit: &Permit) -> Result<Target, Problem> {
    let target = Target::collection(COLLECTION);
    match asked {
        Asked::Window {
            status,
            limit,
            offset,
        } => {
            let target = target.query("limit", limit).query("offset", offset);
            Ok(match status {
                Some(status) => target.query("status", status),
                None => target,
            })
        }
        Asked::Cursor(cursor) => {
            let parameters = CursorKey::of(permit.credential())
                .and_then(|key| key.open(cursor).ok())
                .ok_or_else(invalid_cursor)?;
            Ok(parameters
                .into_iter()
                .fold(target, |target, (name, value)| target.query(name, value)))
        }
    }
}

fn invalid_cursor() -> Problem {
    let detail = "This cursor isn't one that this gateway made for your tenant and credential, or its credential has changed since. Start again from the first page.";
    Problem::new(Code::InvalidParameter, detail)
        .with_errors(vec![FieldError::parameter("cursor", detail)])
}

#[derive(Serialize)]
struct PublicPage<'a> {
    count: Option<u64>,
    next: Option<&'a str>,
    previous: Option<&'a str>,
    results: Vec<Members<'a>>,
}

/// The public body of a page.
fn page(body: &[u8], asked: &Asked, links: &PageLinks) -> Result<Representation, Unfit> {
    let text = Members::text(body)?;
    // A bare array is a page without links.
    let (envelope, rows) = if text.trim_start().starts_with('[') {
        (Members::default(), text)
    } else {
        (Members::read(text)?, "")
    };
    let rows = envelope.get("results").unwrap_or(rows);
    let mut results = rows_of(rows)?;
    for orden in &mut results {
        translate(orden)?;
    }
    let arrived = results.len() as u64;
    let next = link(&envelope, "next").and_then(|link| {
        links.read(&link).map_or_else(
            || following(asked, arrived),
            |page| Some(path(asked, &page)),
        )
    });
    let previous = link(&envelope, "previous").map(|link| {
        // DRF leaves the paging out of a link to the first page.
        let first = Page::Offset {
            limit: None,
            offset: 0,
        };
        path(asked, &links.read(&link).unwrap_or(first))
    });
    let header = link_header(next.as_deref(), previous.as_deref());
    let page = PublicPage {
        count: envelope.number("count"),
        next: next.as_deref(),
        previous: previous.as_deref(),
        results,
    };
    Ok(Representation::new(to_bytes(&page)?).with_link(header))
}

fn rows_of(json: &str) -> Result<Vec<Members<'_>>, Unfit> {
    let rows: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| Unfit::Unreadable)?;
    rows.into_iter()
        .map(|row| Members::read(row.get()))
        .collect()
}

fn link(envelope: &Members<'_>, name: &str) -> Option<String> {
    match envelope.value(name) {
        Value::String(link) if !link.is_empty() => Some(link),
        _ => None,
    }
}

/// The page after this one, where the ERP says that there is one but not how to get there.
fn following(asked: &Asked, arrived: u64) -> Option<String> {
    match asked {
        Asked::Window { limit, offset, .. } if arrived > 0 => {
            let page = Page::Offset {
                limit: Some(*limit),
                offset: offset + arrived,
            };
            Some(path(asked, &page))
        }
        _ => None,
    }
}

/// A page's path on this gateway.
fn path(asked: &Asked, page: &Page) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    match page {
        Page::Cursor(cursor) => {
            query.append_pair("cursor", cursor);
        }
        Page::Offset { limit, offset } => {
            let (status, asked_limit) = match asked {
                Asked::Window { status, limit, .. } => (*status, *limit),
                Asked::Cursor(_) => (None, DEFAULT_LIMIT),
            };
            if let Some(name) = status.and_then(|code| STATUS.name(u64::from(code))) {
                query.append_pair("status", name);
            }
            query.append_pair("limit", &limit.unwrap_or(asked_limit).to_string());
            query.append_pair("offset", &offset.to_string());
        }
    }
    format!("{PATH}?{}", query.finish())
}

fn link_header(next: Option<&str>, previous: Option<&str>) -> Option<HeaderValue> {
    let links: Vec<String> = [("next", next), ("prev", previous)]
        .into_iter()
        .filter_map(|(rel, path)| Some(format!("<{}>; rel=\"{rel}\"", path?)))
        .collect();
    (!links.is_empty())
        .then(|| HeaderValue::try_from(links.join(", ")).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(status: Option<u8>) -> Asked {
        Asked::Window {
            status,
            limit: 50,
            offset: 50,
        }
    }

    fn shown(body: &str, asked: &Asked) -> Value {
        let links = PageLinks::new(None, &["status"], false);
        let page = page(body.as_bytes(), asked, &links).expect("a page");
        serde_json::from_slice(page.body()).expect("JSON")
    }

    #[test]
    fn links_lose_their_host_and_keep_their_page() {
        let body = r#"{"count":"230","next":"https://carper.admintotal.com/api/v2/ordenes_servicio/?limit=50&offset=100&status=5",
            "previous":"https://carper.admintotal.com/api/v2/ordenes_servicio/?limit=50&status=5","results":[]}"#;
        let page = shown(body, &window(Some(5)));
        assert_eq!(page["count"], 230);
        assert_eq!(
            page["next"],
            "/v1/ordenes?status=confirmada&limit=50&offset=100"
        );
        assert_eq!(
            page["previous"],
            "/v1/ordenes?status=confirmada&limit=50&offset=0"
        );
    }

    #[test]
    fn a_next_without_paging_leads_past_what_arrived() {
        let body = r#"{"next":"https://x.admintotal.com/api/v2/ordenes_servicio/","previous":"/y","results":[{"id":1},{"id":2}]}"#;
        let page = shown(body, &window(None));
        assert_eq!(page["next"], "/v1/ordenes?limit=50&offset=52");
        assert_eq!(page["previous"], "/v1/ordenes?limit=50&offset=0");
        assert_eq!(page["count"], Value::Null);
    }

    #[test]
    fn odd_rows_do_not_break_a_list() {
        let body = r#"{"count":3,"next":null,"previous":null,"results":[{"id":"1","status":"2"},{"prioridad":9},{"id":3,"status":null,"cliente":"texto"}]}"#;
        let page = shown(body, &window(None));
        assert_eq!(page["results"][0]["id"], 1);
        assert_eq!(page["results"][0]["status"], "en_proceso");
        assert_eq!(page["results"][1]["id"], Value::Null);
        assert_eq!(page["results"][1]["prioridad"], "desconocido");
        assert_eq!(page["results"][2]["cliente"], "texto");
        assert_eq!(shown("[{\"id\":5}]", &window(None))["results"][0]["id"], 5);
    }

    #[test]
    fn what_is_no_page_is_unreadable() {
        let links = PageLinks::new(None, &["status"], false);
        for body in [
            "",
            "{}",
            "<html>",
            r#"{"results":{}}"#,
            r#"{"results":[1]}"#,
            r#"{"detail":"x"}"#,
        ] {
            assert!(
                page(body.as_bytes(), &window(None), &links).is_err(),
                "{body}"
            );
        }
    }
}
