//! The ERP's `next` and `previous`: absolute addresses on the tenant's own host,
//! of which only the paging is kept.

use url::Url;

use super::cursor::{CursorKey, Parameters};

/// The most records of a page, in our API and in the ERP's practice.
const MAX_LIMIT: u64 = 100;

/// Where a link leads, without the place that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Page {
    /// `limit` and `offset`, as everybody may write them.
    Offset {
        /// Records a page; none where the link names none.
        limit: Option<u64>,
        /// Records before it.
        offset: u64,
    },
    /// Anything else, sealed.
    Cursor(String),
}

/// Reads the links of one list's answer.
pub struct PageLinks {
    key: Option<CursorKey>,
    filters: &'static [&'static str],
    from_cursor: bool,
}

impl PageLinks {
    /// `filters` are the ERP's parameters that our own query carries on anyway,
    /// unless the page was itself asked for by a cursor.
    #[must_use]
    pub fn new(
        key: Option<CursorKey>,
        filters: &'static [&'static str],
        from_cursor: bool,
    ) -> Self {
        Self {
            key,
            filters,
            from_cursor,
        }
    }

    /// Where a link leads. None where it says nothing of paging.
    #[must_use]
    pub fn read(&self, link: &str) -> Option<Page> {
        let parameters = parameters(link)?;
        if parameters.is_empty() {
            return None;
        }
        let (mut limit, mut offset, mut plain) = (None, None, !self.from_cursor);
        for (name, value) in &parameters {
            match (name.as_str(), value.parse::<u64>()) {
                ("limit", Ok(records)) if (1..=MAX_LIMIT).contains(&records) => {
                    limit = Some(records)
                }
                ("offset", Ok(records)) => offset = Some(records),
                (name, _) if self.filters.contains(&name) => {}
                _ => plain = false,
            }
        }
        if !plain {
            return self.key.as_ref()?.seal(&parameters).map(Page::Cursor);
        }
        match (limit, offset) {
            (None, None) => None,
            // The first page's link leaves the offset out.
            (limit, offset) => Some(Page::Offset {
                limit,
                offset: offset.unwrap_or(0),
            }),
        }
    }
}

/// The query of an absolute or relative link.
fn parameters(link: &str) -> Option<Parameters> {
    let anywhere = Url::parse("http://upstream.invalid/").ok()?;
    let link = anywhere.join(link).ok()?;
    Some(link.query_pairs().into_owned().collect())
}
