//! Query parameters, strictly: the ERP ignores a misspelt filter in silence, so
//! here everything that isn't known is named.

use std::borrow::Cow;

use axum::extract::FromRequestParts;
use http::request::Parts;
use url::form_urlencoded;

use crate::problem::{Code, FieldError, Problem};

/// The parameters of one operation.
pub trait Parameters: Sized {
    /// Their names, in groups.
    const NAMES: &'static [&'static [&'static str]];

    /// Reads them; what is wrong is noted in `values`.
    fn read(values: &mut Values<'_>) -> Self;
}

/// An operation without parameters.
#[derive(Debug)]
pub struct NoParameters;

impl Parameters for NoParameters {
    const NAMES: &'static [&'static [&'static str]] = &[];

    fn read(_: &mut Values<'_>) -> Self {
        Self
    }
}

/// The values of a query, and what is wrong with them.
pub struct Values<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    errors: Vec<FieldError>,
}

impl Values<'_> {
    /// Whether the parameter was sent.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.pairs.iter().any(|(key, _)| key == name)
    }

    /// The parameter's value, by `parse`; `expected` says what it must be.
    pub fn take<T>(
        &mut self,
        name: &'static str,
        expected: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let (_, value) = self.pairs.iter().find(|(key, _)| key == name)?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.refuse(name, expected);
        }
        parsed
    }

    /// Notes that a parameter is wrong.
    pub fn refuse(&mut self, name: &'static str, detail: &'static str) {
        self.errors.push(FieldError::parameter(name, detail));
    }
}

/// The parameters of the request.
#[derive(Debug)]
pub struct Query<T>(pub T);

impl<S: Sync, T: Parameters> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let query = parts.uri.query().unwrap_or_default();
        let pairs: Vec<_> = form_urlencoded::parse(query.as_bytes()).collect();
        let names = T::NAMES.concat();
        let unknown: Vec<FieldError> = pairs
            .iter()
            .filter(|(name, _)| !names.contains(&name.as_ref()))
            .map(|(name, _)| unknown(name, &names))
            .collect();
        if !unknown.is_empty() {
            return Err(Problem::of(Code::UnknownParameter).with_errors(unknown));
        }
        let mut values = Values {
            pairs,
            errors: Vec::new(),
        };
        for name in names {
            if values.pairs.iter().filter(|(key, _)| key == name).count() > 1 {
                values.refuse(name, "The parameter was sent more than once; send it once.");
            }
        }
        let parameters = T::read(&mut values);
        if values.errors.is_empty() {
            Ok(Self(parameters))
        } else {
            Err(Problem::of(Code::InvalidParameter).with_errors(values.errors))
        }
    }
}

fn unknown(name: &str, known: &[&str]) -> FieldError {
    // The caller's own word goes back to them, cut to a length that a name may have.
    let shown: String = name
        .chars()
        .filter(|letter| !letter.is_control())
        .take(40)
        .collect();
    let nearest = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&shown, known), known))
        .filter(|(distance, _)| *distance <= 2)
        .min();
    let detail = match nearest {
        Some((_, nearest)) => format!("There is no such parameter; did you mean `{nearest}`?"),
        None if known.is_empty() => "This operation takes no parameters.".to_owned(),
        None => format!(
            "There is no such parameter; there are: {}.",
            known.join(", ")
        ),
    };
    FieldError::parameter(shown, detail)
}
