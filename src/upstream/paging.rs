//! The ERP's `next` and `previous`: absolute addresses on the tenant's own host,
//! of which only the paging is kept.

use url::Url;

use super::cursor::CursorKey;

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

/// A link that can't be made one of ours: it isn't an address, or its parameters are too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the link can't be followed through this gateway")]
pub struct Unsealable;

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
    ///
    /// # Errors
    /// It leads somewhere, and no link of ours can.
    pub fn read(&self, link: &str) -> Result<Option<Page>, Unsealable> {
        let parameters = parameters(link).ok_or(Unsealable)?;
        if parameters.is_empty() {
            return Ok(None);
        }
        let (mut limit, mut offset, mut plain) = (None, None, !self.from_cursor);
        for (name, value) in &parameters {
            match (name.as_str(), value.parse::<u64>()) {
                ("limit", Ok(records)) if (1..=MAX_LIMIT).contains(&records) => {
                    limit = Some(records)
                }
                ("offset", Ok(records)) if i64::try_from(records).is_ok() => offset = Some(records),
                (name, _) if self.filters.contains(&name) => {}
                _ => plain = false,
            }
        }
        if !plain {
            let sealed = self.key.as_ref().and_then(|key| key.seal(&parameters));
            return sealed.map(Page::Cursor).map(Some).ok_or(Unsealable);
        }
        Ok(match (limit, offset) {
            (None, None) => None,
            // The first page's link leaves the offset out.
            (limit, offset) => Some(Page::Offset {
                limit,
                offset: offset.unwrap_or(0),
            }),
        })
    }
}

/// The query of an absolute or relative link.
fn parameters(link: &str) -> Option<Vec<(String, String)>> {
    let anywhere = Url::parse("http://upstream.invalid/").ok()?;
    let link = anywhere.join(link).ok()?;
    Some(link.query_pairs().into_owned().collect())
}
