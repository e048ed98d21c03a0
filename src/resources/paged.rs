//! Lists of the ERP's records: which page is asked for, its rows, and its links rewritten
//! to this gateway. What a row is and which filters there are is the resource's business.

use http::HeaderValue;
use serde::{
    Deserializer as _, Serialize,
    de::{SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use url::form_urlencoded;

use crate::{
    cache::Representation,
    caller::Permit,
    exchange::{Exchange, Read, Served, Subject, Unfit, Wanted},
    extract::{Parameters, Values},
    problem::{Code, FieldError, Problem},
    upstream::{CursorKey, Page, PageLinks, Target},
};

use super::members::{Members, to_bytes};

const DEFAULT_LIMIT: u64 = 50;
const MAX_LIMIT: u64 = 100;
/// Ten times what is ever asked for. An ERP that sends more isn't sending a page.
const MAX_ROWS: usize = 1000;
const PAGING: &[&str] = &["limit", "offset", "cursor"];

/// One list.
#[derive(Debug)]
pub struct List {
    /// Its path on this gateway.
    pub path: &'static str,
    /// The ERP's collection, and the name of its records in the cache's generations.
    pub collection: &'static str,
    /// Rewrites a row in place.
    pub translate: fn(&mut Members<'_>) -> Result<(), Unfit>,
}

/// What a list can be narrowed by.
pub trait Filter: Send + 'static {
    /// The parameters' names, here and at the ERP.
    const NAMES: &'static [&'static str];

    /// Reads them; what is wrong is noted in `values`.
    fn read(values: &mut Values<'_>) -> Self;

    /// The values that the ERP wants.
    fn theirs(&self) -> Vec<(&'static str, String)>;

    /// The values as a caller of ours writes them.
    fn ours(&self) -> Vec<(&'static str, String)>;
}

/// Which page is asked for.
#[derive(Debug, Clone)]
pub enum Asked<F> {
    /// By place, as everybody may write it.
    Window {
        /// What the list is narrowed by.
        filter: F,
        /// Records a page, 1 to 100.
        limit: u64,
        /// Records before it.
        offset: u64,
    },
    /// By one of our cursors.
    Cursor(String),
}

impl<F: Filter> Parameters for Asked<F> {
    const NAMES: &'static [&'static [&'static str]] = &[F::NAMES, PAGING];

    fn read(values: &mut Values<'_>) -> Self {
        let filter = F::read(values);
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
                filter,
                limit: limit.unwrap_or(DEFAULT_LIMIT),
                offset: offset.unwrap_or(0),
            },
            Some(cursor) => {
                let others = F::NAMES.iter().chain(&["limit", "offset"]);
                if others.into_iter().any(|name| values.has(name)) {
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
        .filter(|number| is_countable(*number))
}

fn is_countable(number: u64) -> bool {
    i64::try_from(number).is_ok()
}

impl List {
    /// The page that was asked for.
    ///
    /// # Errors
    /// A cursor that isn't this caller's, and what the ERP or the way to it did.
    pub(super) async fn read<F: Filter>(
        &'static self,
        exchange: &Exchange,
        permit: &Permit,
        asked: Asked<F>,
        wanted: Wanted,
    ) -> Result<Served, Problem> {
        let key = exchange.cursor_key(permit).await;
        let target = self.target(&asked, key.as_ref())?;
        let links = PageLinks::new(key, F::NAMES, matches!(asked, Asked::Cursor(_)));
        let read = Read {
            target,
            subject: Subject::Lists(self.collection),
            wanted,
        };
        exchange
            .read(permit, read, move |body| self.page(body, &asked, &links))
            .await
            .map_err(Problem::of_list)
    }

    /// What the ERP is asked for.
    ///
    /// # Errors
    /// A cursor that `key` doesn't open.
    pub fn target<F: Filter>(
        &self,
        asked: &Asked<F>,
        key: Option<&CursorKey>,
    ) -> Result<Target, Problem> {
        let target = Target::collection(self.collection);
        let parameters = match asked {
            Asked::Window {
                filter,
                limit,
                offset,
            } => {
                let target = target.query("limit", limit).query("offset", offset);
                let add = |target: Target, (name, value)| target.query(name, value);
                return Ok(filter.theirs().into_iter().fold(target, add));
            }
            Asked::Cursor(cursor) => key
                .and_then(|key| key.open(cursor).ok())
                .ok_or_else(invalid_cursor)?,
        };
        let add = |target: Target, (name, value): (String, String)| target.query(name, value);
        Ok(parameters.into_iter().fold(target, add))
    }

    /// The public body of a page, and its links.
    ///
    /// # Errors
    /// It isn't a page of records, or leads on where no link of ours can.
    pub fn page<F: Filter>(
        &self,
        body: &[u8],
        asked: &Asked<F>,
        links: &PageLinks,
    ) -> Result<Representation, Unfit> {
        let text = Members::text(body)?;
        // A bare array is a page without links.
        let (envelope, rows) = if text.trim_start().starts_with('[') {
            (Members::default(), text)
        } else {
            (Members::read(text)?, "")
        };
        let mut results = rows_of(envelope.get("results").unwrap_or(rows))?;
        for row in &mut results {
            (self.translate)(row)?;
        }
        let arrived = results.len() as u64;
        let read = |name| match link(&envelope, name) {
            None => Ok(None),
            // Without its link, a list would end before its end.
            Some(link) => links.read(&link).map(Some).map_err(|_| Unfit::Unreadable),
        };
        let next = read("next")?.and_then(|page| match page {
            None => following(asked, arrived),
            page => page,
        });
        let previous = read("previous")?.map(|page| {
            // DRF leaves the paging out of a link to the first page.
            page.unwrap_or(Page::Offset {
                limit: None,
                offset: 0,
            })
        });
        let next = next.map(|page| self.path_of(asked, &page));
        let previous = previous.map(|page| self.path_of(asked, &page));
        let header = link_header(next.as_deref(), previous.as_deref());
        let page = PublicPage {
            count: envelope.number("count"),
            next: next.as_deref(),
            previous: previous.as_deref(),
            results,
        };
        Ok(Representation::new(to_bytes(&page)?).with_link(header))
    }

    /// A page's path on this gateway.
    fn path_of<F: Filter>(&self, asked: &Asked<F>, page: &Page) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        match page {
            Page::Cursor(cursor) => {
                query.append_pair("cursor", cursor);
            }
            Page::Offset { limit, offset } => {
                let asked_limit = match asked {
                    Asked::Window { filter, limit, .. } => {
                        query.extend_pairs(filter.ours());
                        *limit
                    }
                    Asked::Cursor(_) => DEFAULT_LIMIT,
                };
                query.append_pair("limit", &limit.unwrap_or(asked_limit).to_string());
                query.append_pair("offset", &offset.to_string());
            }
        }
        format!("{}?{}", self.path, query.finish())
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

fn rows_of(json: &str) -> Result<Vec<Members<'_>>, Unfit> {
    struct Rows;

    impl<'de> Visitor<'de> for Rows {
        type Value = Vec<&'de RawValue>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            write!(f, "at most {MAX_ROWS} rows")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
            let mut rows = Vec::new();
            while let Some(row) = seq.next_element()? {
                if rows.len() == MAX_ROWS {
                    return Err(serde::de::Error::invalid_length(MAX_ROWS + 1, &self));
                }
                rows.push(row);
            }
            Ok(rows)
        }
    }

    let mut json = serde_json::Deserializer::from_str(json);
    let rows = json.deserialize_seq(Rows).map_err(|_| Unfit::Unreadable)?;
    json.end().map_err(|_| Unfit::Unreadable)?;
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
fn following<F>(asked: &Asked<F>, arrived: u64) -> Option<Page> {
    match asked {
        Asked::Window { limit, offset, .. } if arrived > 0 => {
            let offset = offset.checked_add(arrived);
            let offset = offset.filter(|&offset| is_countable(offset))?;
            let limit = Some(*limit);
            Some(Page::Offset { limit, offset })
        }
        _ => None,
    }
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

    static ORDENES: List = List {
        path: "/v1/ordenes",
        collection: "ordenes_servicio",
        translate: |_| Ok(()),
    };

    #[derive(Debug, Clone)]
    struct ByColour(Option<u8>);

    impl Filter for ByColour {
        const NAMES: &'static [&'static str] = &["colour"];

        fn read(_: &mut Values<'_>) -> Self {
            Self(None)
        }

        fn theirs(&self) -> Vec<(&'static str, String)> {
            Vec::new()
        }

        fn ours(&self) -> Vec<(&'static str, String)> {
            let name = self.0.map(|code| ("colour", format!("colour {code}")));
            name.into_iter().collect()
        }
    }

    fn window(colour: Option<u8>) -> Asked<ByColour> {
        Asked::Window {
            filter: ByColour(colour),
            limit: 50,
            offset: 50,
        }
    }

    fn shown(body: &str, asked: &Asked<ByColour>) -> Value {
        let links = PageLinks::new(None, ByColour::NAMES, false);
        let page = ORDENES
            .page(body.as_bytes(), asked, &links)
            .expect("a page");
        serde_json::from_slice(page.body()).expect("JSON")
    }

    #[test]
    fn links_lose_their_host_and_keep_their_page() {
        let body = r#"{"count":"230","next":"https://carper.admintotal.com/api/v2/ordenes_servicio/?limit=50&offset=100&colour=5",
            "previous":"https://carper.admintotal.com/api/v2/ordenes_servicio/?limit=50&colour=5","results":[]}"#;
        let page = shown(body, &window(Some(5)));
        assert_eq!(page["count"], 230);
        assert_eq!(
            page["next"],
            "/v1/ordenes?colour=colour+5&limit=50&offset=100"
        );
        assert_eq!(
            page["previous"],
            "/v1/ordenes?colour=colour+5&limit=50&offset=0"
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
    fn a_next_that_nobody_could_follow_is_none() {
        let body = r#"{"next":"/y","results":[{"id":1}]}"#;
        let asked = |offset| Asked::Window {
            filter: ByColour(None),
            limit: 50,
            offset,
        };
        let last = i64::MAX.unsigned_abs();
        assert_eq!(shown(body, &asked(last))["next"], Value::Null);
        assert_eq!(
            shown(body, &asked(last - 1))["next"],
            format!("/v1/ordenes?limit=50&offset={last}")
        );
    }

    #[test]
    fn odd_rows_do_not_break_a_list() {
        let body = r#"{"count":3,"next":null,"previous":null,"results":[{"id":"1","status":"2"},{"prioridad":9},{"id":3,"status":null,"cliente":"texto"}]}"#;
        let page = shown(body, &window(None));
        assert_eq!(page["results"][0]["status"], "2");
        assert_eq!(page["results"][2]["cliente"], "texto");
        assert_eq!(shown("[{\"id\":5}]", &window(None))["results"][0]["id"], 5);
    }

    #[test]
    fn what_is_no_page_is_unreadable() {
        let links = PageLinks::new(None, ByColour::NAMES, false);
        for body in [
            "",
            "{}",
            "<html>",
            r#"{"results":{}}"#,
            r#"{"results":[1]}"#,
            r#"{"detail":"x"}"#,
        ] {
            assert!(
                ORDENES
                    .page(body.as_bytes(), &window(None), &links)
                    .is_err(),
                "{body}"
            );
        }
    }
}
