//! What is addressed at the ERP: a path made of our own segments and a query of
//! our own parameters. Nothing that a caller typed gets in unparsed.

use std::{borrow::Cow, fmt::Display, sync::Arc};

use url::{Url, form_urlencoded};

/// A resource below a tenant's base address.
#[derive(Debug, Clone)]
pub struct Target {
    segments: Vec<Cow<'static, str>>,
    query: Vec<(Cow<'static, str>, String)>,
}

impl Target {
    /// A collection of the ERP.
    #[must_use]
    pub fn collection(name: &'static str) -> Self {
        Self {
            segments: vec![name.into()],
            query: Vec::new(),
        }
    }

    /// What costs the ERP least and shows that it answers: one order.
    #[must_use]
    pub fn cheapest() -> Self {
        Self::collection("ordenes_servicio").query("limit", 1)
    }

    /// Something inside it: a record's number, or an action's name.
    #[must_use]
    pub fn child(mut self, segment: impl Display) -> Self {
        self.segments.push(segment.to_string().into());
        self
    }

    /// With one more query parameter.
    #[must_use]
    pub fn query(mut self, name: impl Into<Cow<'static, str>>, value: impl Display) -> Self {
        self.query.push((name.into(), value.to_string()));
        self
    }

    /// The request in canonical form: parameters sorted, so that equal requests have equal keys.
    #[must_use]
    pub fn canonical(&self) -> Arc<str> {
        let mut sorted: Vec<_> = self.query.iter().collect();
        // By name alone: which of two equal names comes first may mean something.
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut text = self.segments.join("/");
        text.push('?');
        form_urlencoded::Serializer::for_suffix(&mut text, self.segments.join("/").len() + 1)
            .extend_pairs(sorted.into_iter().map(|(name, value)| (name, value)));
        text.into()
    }

    /// Its address below `base`. The ERP's paths end in a slash.
    pub(super) fn url(&self, base: &Url) -> Option<Url> {
        let mut url = base.clone();
        {
            let mut path = url.path_segments_mut().ok()?;
            path.pop_if_empty();
            path.extend(self.segments.iter().map(AsRef::<str>::as_ref));
            path.push("");
        }
        if !self.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&self.query);
        }
        Some(url)
    }
}
