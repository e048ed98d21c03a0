//! Lists' links: any query of ours before any `next` and `previous` of the ERP's.

use std::sync::LazyLock;

use axum::extract::FromRequestParts as _;
use futures_util::FutureExt as _;
use http::Request;
use llavero::{
    extract::Query,
    resources::{
        ordenes::{ByStatus, ORDENES},
        paged::Asked,
    },
    tenants::{Credential, Presented},
    upstream::{CursorKey, PageLinks},
};
use serde_json::Value;
use url::form_urlencoded;

/// The place of the ERP, which stands in the links.
const HOST: &str = "carper.admintotal.com";
const COLLECTION: &str = "ordenes_servicio";
/// A query that begins so asks by a cursor in which the rest is sealed.
const SEALED: &str = "sealed!";

type Parameters = Vec<(String, String)>;

static CREDENTIALS: LazyLock<[Credential; 2]> = LazyLock::new(|| {
    ["carper", "norte"].map(|tenant| {
        let key = "the same key at both".to_owned();
        Credential::api_key(tenant.parse().expect("an id"), "default", key.into())
    })
});

fn key(of: usize) -> CursorKey {
    let Presented::ApiKey(keys) = CREDENTIALS[of].presented() else {
        unreachable!("it has keys")
    };
    CursorKey::of_keys(CREDENTIALS[of].id(), keys).expect("a key")
}

/// Whether there is a page with a link. The input is lines: our query, the ERP's `next`, its `previous`, where to
/// forge a cursor and with what. With a fifth, that is the whole answer of the ERP.
///
/// # Panics
/// A rule of links is broken.
pub fn check(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    let mut lines = text.splitn(5, '\n');
    let query = lines.next().unwrap_or_default();
    let links = [lines.next(), lines.next()].map(Option::unwrap_or_default);
    let forgery = lines.next().unwrap_or_default();
    let key = key(0);
    let asked = match query.strip_prefix(SEALED) {
        None => ask(query),
        Some(sealed) => {
            let sealed = decoded(sealed);
            let cursor = key.seal(&sealed);
            cursor
                .as_ref()
                .inspect(|cursor| check_cursor(&key, cursor, &sealed, forgery));
            cursor.map(Asked::Cursor)
        }
    };
    let Some(asked) = asked else { return false };
    if let Asked::Cursor(cursor) = &asked
        && !query.starts_with(SEALED)
    {
        assert!(key.open(cursor).is_err(), "somebody made a cursor");
        assert!(ORDENES.target(&asked, Some(&key)).is_err());
        return false;
    }
    let whole = lines.next();
    let body = match whole {
        Some(body) => body.to_owned(),
        None => body_with(links),
    };
    let reader = PageLinks::new(
        Some(self::key(0)),
        &["status"],
        matches!(asked, Asked::Cursor(_)),
    );
    let Ok(page) = ORDENES.page(body.as_bytes(), &asked, &reader) else {
        return false;
    };
    let shown: Value = serde_json::from_slice(page.body()).expect("a page is JSON");
    let mut led_on = false;
    for (name, theirs) in ["next", "previous"].into_iter().zip(links) {
        let Some(ours) = shown[name].as_str() else {
            assert!(shown[name].is_null());
            continue;
        };
        led_on = true;
        let theirs = whole.is_none().then_some(theirs);
        check_link(&key, &asked, ours, theirs, forgery);
        let header = page.link().expect("links are in the header too");
        let header = header.to_str().expect("is ASCII");
        assert!(header.contains(&format!("<{ours}>")), "{header}");
    }
    assert_eq!(page.link().is_some(), led_on);
    led_on
}

fn body_with([next, previous]: [&str; 2]) -> String {
    let link = |link: &str| match link {
        "" => Value::Null,
        link => link.into(),
    };
    serde_json::json!({
        "count": 3, "next": link(next), "previous": link(previous), "results": [{"id": 1}, {"id": 2}],
    })
    .to_string()
}

/// What a caller of ours asks with that query.
fn ask(query: &str) -> Option<Asked<ByStatus>> {
    let uri: http::Uri = format!("/v1/ordenes?{query}").parse().ok()?;
    let (mut parts, ()) = Request::get(uri).body(()).ok()?.into_parts();
    let read = Query::from_request_parts(&mut parts, &()).now_or_never();
    read?.ok().map(|Query(asked)| asked)
}

fn check_link(
    key: &CursorKey,
    asked: &Asked<ByStatus>,
    ours: &str,
    theirs: Option<&str>,
    forgery: &str,
) {
    let query = ours.strip_prefix("/v1/ordenes?").expect("our own path");
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"=&_-+%".contains(&byte);
    assert!(query.bytes().all(is_plain), "{ours}");
    assert!(
        !ours.contains(HOST) && !ours.contains("admintotal"),
        "{ours}"
    );
    let again = ask(query).expect("our own links can be followed");
    let target = ORDENES
        .target(&again, Some(key))
        .expect("our own cursors open");
    let sent = target.canonical();
    let (path, sent) = sent.split_once('?').expect("has a query");
    assert_eq!(path, COLLECTION);
    let mut sent = decoded(sent);
    sent.sort();
    match &again {
        Asked::Cursor(cursor) => {
            let sealed = key.open(cursor).expect("our own cursors open");
            check_cursor(key, cursor, &sealed, forgery);
            let Some(theirs) = theirs else { return };
            let mut linked = query_of(theirs);
            linked.sort();
            assert_eq!(
                sent, linked,
                "what the ERP linked is asked of it, and nothing else"
            );
        }
        Asked::Window { limit, offset, .. } => {
            assert!((1..=100).contains(limit) && i64::try_from(*offset).is_ok());
            let Asked::Window { limit: before, .. } = asked else {
                // A link without parameters leads to the first of all pages.
                assert_eq!(ours, "/v1/ordenes?limit=50&offset=0");
                assert!(theirs.is_none_or(|theirs| query_of(theirs).is_empty()));
                return;
            };
            let filter = |query: &Parameters| {
                let status = query.iter().find(|(name, _)| name == "status");
                status.map(|(_, value)| value.clone())
            };
            let asked = ORDENES
                .target(asked, Some(key))
                .expect("was asked")
                .canonical();
            let asked = decoded(asked.split_once('?').expect("has a query").1);
            assert_eq!(filter(&sent), filter(&asked), "the filter goes on");
            let Some(theirs) = theirs else { return };
            let linked = query_of(theirs);
            let of_theirs = |name: &str| {
                let last = linked.iter().rfind(|(key, _)| key == name);
                last.and_then(|(_, value)| value.parse::<u64>().ok())
            };
            assert_eq!(*limit, of_theirs("limit").unwrap_or(*before));
            assert!(
                linked
                    .iter()
                    .all(|(name, _)| ["limit", "offset", "status"].contains(&&**name))
            );
        }
    }
}

/// A cursor opens to what was sealed, where it was sealed, and unchanged.
fn check_cursor(key: &CursorKey, cursor: &str, sealed: &Parameters, forgery: &str) {
    assert_eq!(key.open(cursor).as_ref(), Ok(sealed));
    assert_eq!(key.seal(sealed).as_deref(), Some(cursor));
    assert!(
        self::key(1).open(cursor).is_err(),
        "another tenant's cursor opens"
    );
    assert!(
        cursor
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
    );
    let (at, with) = forgery.split_once(' ').unwrap_or((forgery, ""));
    let at = at.parse::<usize>().unwrap_or_default() % cursor.len();
    let forged = format!("{}{with}{}", &cursor[..at], &cursor[at + 1..]);
    if forged != cursor {
        assert!(key.open(&forged).is_err(), "a forged cursor opens");
    }
}

fn decoded(query: &str) -> Parameters {
    form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect()
}

/// The parameters of a link, found without parsing it as an address: blanks around it, line ends
/// and tabs in it mean nothing.
fn query_of(link: &str) -> Parameters {
    let link = link
        .trim_matches(|it: char| it <= ' ')
        .replace(['\t', '\n', '\r'], "");
    let link = link.split('#').next().unwrap_or_default();
    decoded(link.split_once('?').map_or("", |(_, query)| query))
}
