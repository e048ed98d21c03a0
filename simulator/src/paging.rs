//! Which part of a list a query asks for, and the queries that lead on from there, in three dialects.

use base64_simd::URL_SAFE_NO_PAD;

use crate::faults::Paging;

/// What a query may ask for at most, and what it gets if it doesn't ask.
const MAX_LIMIT: usize = 100;

/// A query's pairs, decoded.
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: Option<&str>) -> Self {
        let pairs = form_urlencoded::parse(raw.unwrap_or_default().as_bytes());
        Self(pairs.into_owned().collect())
    }

    /// A parameter's value; the last one where it is repeated.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().rev().find(|(key, _)| key == name)?;
        Some(value)
    }

    /// The query with a parameter set or left out, sorted by name as the framework does.
    fn replacing(&self, name: &str, value: Option<String>) -> String {
        let mut pairs: Vec<(&str, &str)> = self
            .0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .filter(|(key, _)| *key != name)
            .collect();
        if let Some(value) = &value {
            pairs.push((name, value));
        }
        pairs.sort_by_key(|(key, _)| *key);
        form_urlencoded::Serializer::new(String::new())
            .extend_pairs(pairs)
            .finish()
    }
}

/// The part of a list that is asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct Window {
    pub(crate) offset: usize,
    pub(crate) limit: usize,
}

/// The query names a page that can't be.
#[derive(Debug, PartialEq)]
pub(crate) struct NoSuchPage;

impl Window {
    pub(crate) fn asked_for(
        query: &Query,
        paging: Paging,
        count: usize,
    ) -> Result<Self, NoSuchPage> {
        let limit = match query.get("limit").and_then(|text| text.parse().ok()) {
            None | Some(0) => MAX_LIMIT,
            Some(limit) => MAX_LIMIT.min(limit),
        };
        let offset = match paging {
            Paging::LimitOffset => query
                .get("offset")
                .and_then(|text| text.parse().ok())
                .unwrap_or(0),
            Paging::Page => match query.get("page") {
                None => 0,
                Some(page) => {
                    let page: usize = page.parse().map_err(|_| NoSuchPage)?;
                    let before = page.checked_sub(1).ok_or(NoSuchPage)?;
                    let offset = before.checked_mul(limit).ok_or(NoSuchPage)?;
                    if before > 0 && offset >= count {
                        return Err(NoSuchPage);
                    }
                    offset
                }
            },
            Paging::Cursor => match query.get("cursor") {
                None => 0,
                Some(cursor) => read_cursor(cursor).ok_or(NoSuchPage)?,
            },
        };
        Ok(Self { offset, limit })
    }

    /// The query of the page that follows.
    pub(crate) fn next(&self, query: &Query, paging: Paging, count: usize) -> Option<String> {
        let offset = self.offset.checked_add(self.limit)?;
        (offset < count).then(|| self.leading_to(offset, query, paging))
    }

    /// The query of the page before.
    pub(crate) fn previous(&self, query: &Query, paging: Paging) -> Option<String> {
        let offset = self.offset.saturating_sub(self.limit);
        (self.offset > 0).then(|| self.leading_to(offset, query, paging))
    }

    fn leading_to(&self, offset: usize, query: &Query, paging: Paging) -> String {
        let unless_first = |value: String| (offset > 0).then_some(value);
        match paging {
            Paging::LimitOffset => {
                let sized = Query::parse(Some(
                    &query.replacing("limit", Some(self.limit.to_string())),
                ));
                sized.replacing("offset", unless_first(offset.to_string()))
            }
            Paging::Page => {
                query.replacing("page", unless_first((offset / self.limit + 1).to_string()))
            }
            Paging::Cursor => query.replacing("cursor", unless_first(cursor(offset))),
        }
    }
}

fn cursor(offset: usize) -> String {
    URL_SAFE_NO_PAD.encode_to_string(format!("o={offset}"))
}

fn read_cursor(cursor: &str) -> Option<usize> {
    let text = URL_SAFE_NO_PAD.decode_to_vec(cursor).ok()?;
    String::from_utf8(text)
        .ok()?
        .strip_prefix("o=")?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_dialect_walks_the_whole_list_and_back() {
        for paging in [Paging::LimitOffset, Paging::Page, Paging::Cursor] {
            let mut query = Query::parse(Some("status=2&limit=10&typo=x"));
            for offset in [0, 10, 20] {
                let window = Window::asked_for(&query, paging, 25);
                assert_eq!(window, Ok(Window { offset, limit: 10 }));
                let Ok(window) = window else { return };
                let next = window.next(&query, paging, 25);
                assert_eq!(next.is_some(), offset < 20, "{paging:?} at {offset}");
                assert_eq!(window.previous(&query, paging).is_some(), offset > 0);
                if let Some(next) = next {
                    assert!(next.contains("status=2") && next.contains("typo=x"));
                    query = Query::parse(Some(&next));
                }
            }
        }
    }

    #[test]
    fn limits_that_make_no_sense_are_the_default() {
        for raw in [
            "",
            "limit=0",
            "limit=-3",
            "limit=diez",
            "limit=5000",
            "offset=-1",
        ] {
            let window = Window::asked_for(&Query::parse(Some(raw)), Paging::LimitOffset, 500);
            assert_eq!(
                window,
                Ok(Window {
                    offset: 0,
                    limit: 100
                })
            );
        }
    }

    #[test]
    fn a_page_beyond_the_end_does_not_exist() {
        let query = Query::parse(Some("limit=10&page=4"));
        assert_eq!(Window::asked_for(&query, Paging::Page, 25), Err(NoSuchPage));
    }
}
