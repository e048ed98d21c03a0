//! The fields of an upload's form, gathered as they come.

use aws_lc_rs::digest::Algorithm;

use crate::{
    extract::{
        body::Limit,
        digest::{Digests, Promised},
        multipart::{Event, Head},
    },
    in_flight::Buffer,
    problem::{Code, FieldError, Problem},
};

use super::{image_limit, of_part};

/// The largest of the small parts, in bytes.
const MAX_TEXT: usize = 4 * 1024;

/// A form whose fields are all there.
pub(super) struct Whole {
    pub imagen: Buffer,
    pub sha256: [u8; 32],
    pub proceso: Option<String>,
    pub titulo: Option<String>,
}

/// A form whose fields come in any order, each once.
pub(super) struct Form {
    max_bytes: u64,
    /// Where the image is to be, until it begins.
    memory: Option<Buffer>,
    /// What the photo is digested by besides SHA-256.
    by: Vec<&'static Algorithm>,
    open: Open,
    imagen: Option<(Buffer, Digests)>,
    texts: [Option<String>; TEXTS.len()],
}

/// The fields that are texts. `_charset_` is a browser's word on the others (RFC 7578 §4.6).
const TEXTS: [&str; 3] = ["proceso", "titulo", "_charset_"];
const CHARSET: usize = 2;

/// The part that is being read.
enum Open {
    None,
    Imagen { bytes: Buffer, promised: Promised },
    Text { which: usize, bytes: Vec<u8> },
}

impl Form {
    /// For an image of so many bytes at most, which is to be there. It is digested by SHA-256 and by those.
    pub(super) fn new(max_bytes: u64, memory: Buffer, by: Vec<&'static Algorithm>) -> Self {
        Self {
            max_bytes,
            memory: Some(memory),
            by,
            open: Open::None,
            imagen: None,
            texts: Default::default(),
        }
    }

    /// The photo's digests, once it is whole.
    pub(super) fn digests(&self) -> Option<&Digests> {
        self.imagen.as_ref().map(|(_, digests)| digests)
    }

    pub(super) fn take(&mut self, event: Event<'_>) -> Result<(), Problem> {
        match event {
            Event::Part(head) => self.begin(&head),
            Event::Data(bytes) => self.append(bytes),
            Event::PartEnd => self.end(),
        }
    }

    fn begin(&mut self, head: &Head) -> Result<(), Problem> {
        let name = &*head.name;
        let which = TEXTS.iter().position(|it| *it == name);
        let is_there = match which {
            Some(which) => self.texts[which].is_some(),
            None if name == "imagen" => self.memory.is_none(),
            None => return Err(unknown(name)),
        };
        // One such part is enough to refuse; a sender of thousands isn't worth reading on.
        if is_there {
            return Err(twice(name));
        }
        if head.is_encoded() {
            let detail = format!(
                "The part `{name}` has a `Content-Transfer-Encoding`. Send its bytes as they are, or with `binary`."
            );
            let error = FieldError::body(name, detail.clone());
            return Err(Problem::new(Code::MalformedBody, detail)
                .with_errors(vec![error])
                .caused_by("a part has a Content-Transfer-Encoding"));
        }
        self.open = match which {
            Some(which) => Open::Text {
                which,
                bytes: Vec::new(),
            },
            None => Open::Imagen {
                promised: Promised::of_photo(&head.fields, &self.by)
                    .map_err(|broken| of_part("imagen", &broken))?,
                bytes: self.memory.take().ok_or_else(|| twice(name))?,
            },
        };
        Ok(())
    }

    fn append(&mut self, more: &[u8]) -> Result<(), Problem> {
        match &mut self.open {
            Open::None => {}
            Open::Imagen { bytes, promised } => {
                if (bytes.len() + more.len()) as u64 > self.max_bytes {
                    return Err(image_limit(self.max_bytes).exceeded());
                }
                bytes.extend_from_slice(more);
                promised.update(more);
            }
            Open::Text { which, bytes } => {
                if bytes.len() + more.len() > MAX_TEXT {
                    let limit = Limit {
                        bytes: MAX_TEXT as u64,
                        field: Some(TEXTS[*which]),
                    };
                    return Err(limit.exceeded());
                }
                bytes.extend_from_slice(more);
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Problem> {
        match std::mem::replace(&mut self.open, Open::None) {
            Open::None => {}
            Open::Imagen { bytes, promised } => {
                let digests = promised
                    .check()
                    .map_err(|broken| of_part("imagen", &broken))?;
                self.imagen = Some((bytes, digests));
            }
            Open::Text { which, bytes } => {
                let name = TEXTS[which];
                let text = String::from_utf8(bytes).map_err(|_| {
                    invalid(name, "The part isn't UTF-8 text.", "a text isn't UTF-8")
                })?;
                if which == CHARSET && !text.eq_ignore_ascii_case("utf-8") {
                    let detail = "The form's texts must be UTF-8.";
                    return Err(invalid(name, detail, "another charset than UTF-8"));
                }
                self.texts[which] = Some(text);
            }
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Whole, Problem> {
        let [proceso, titulo, _] = self.texts;
        let mut errors = Vec::new();
        if self.imagen.is_none() {
            errors.push(FieldError::body("imagen", "The photo's file is missing."));
        }
        if proceso.is_none() {
            errors.push(FieldError::body(
                "proceso",
                "Say `antes`, `durante` or `despues`.",
            ));
        }
        match self.imagen {
            Some((imagen, digests)) if errors.is_empty() => Ok(Whole {
                imagen,
                sha256: digests
                    .sha256()
                    .ok_or_else(|| Problem::of(Code::Internal).caused_by("no SHA-256 was made"))?,
                proceso,
                titulo,
            }),
            _ => Err(Problem::of(Code::ValidationFailed)
                .with_errors(errors)
                .caused_by("the form lacks a part")),
        }
    }
}

fn twice(name: &str) -> Problem {
    let detail = "The part was sent more than once; send it once.";
    invalid(name, detail, "a part was sent twice")
}

/// What is wrong with a part; the log has a word for it without the part's name, which may be anything.
fn invalid(name: &str, detail: &'static str, cause: &'static str) -> Problem {
    Problem::of(Code::ValidationFailed)
        .with_errors(vec![FieldError::body(name, detail)])
        .caused_by(cause)
}

fn unknown(name: &str) -> Problem {
    // The caller's own word goes back to them, cut to a length that a name may have.
    let shown = name.chars().filter(|it| !it.is_control());
    let shown: String = shown.take(40).collect();
    invalid(
        &shown,
        "There is no such part; there are `imagen`, `proceso` and `titulo`, each at most once.",
        "a part that isn't known",
    )
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use http::HeaderMap;
    use prometheus_client::registry::Registry as MetricRegistry;

    use crate::{
        clock::Clock,
        in_flight::{Budget, Owner},
    };

    use super::*;

    fn buffer(largest: u64) -> Buffer {
        let metrics = &mut MetricRegistry::default();
        let budget = Budget::new(u64::MAX, largest, Clock::manual(), metrics);
        let tenant = "carper".parse().expect("an id");
        let owner = Owner::new(tenant, "https://issuer".into(), "ana".into());
        let reserved = budget.reserve(&owner, largest).now_or_never();
        reserved.expect("at once").expect("there is room")
    }

    #[test]
    fn an_image_stays_where_it_was_put_first() {
        let mut form = Form::new(100_000, buffer(100_000), Vec::new());
        let (name, fields) = ("imagen".to_owned(), HeaderMap::new());
        form.take(Event::Part(Head { name, fields }))
            .expect("is known");
        let mut places = Vec::new();
        for _ in 0..100 {
            form.take(Event::Data(&[7; 1000])).expect("has room");
            let Open::Imagen { bytes, .. } = &form.open else {
                panic!("the image is open");
            };
            places.push(bytes.as_ptr());
        }
        places.dedup();
        assert_eq!(places.len(), 1);
        let refused = form.take(Event::Data(&[7])).map_err(|it| it.code());
        assert_eq!(refused, Err(Code::PayloadTooLarge));
    }
}
