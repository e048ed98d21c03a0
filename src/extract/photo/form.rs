//! The fields of an upload's form, gathered as they come.

use aws_lc_rs::digest::Algorithm;

use crate::{
    extract::{
        body::Limit,
        digest::{Digests, Promised},
        multipart::{Boundary, Event, Head},
    },
    in_flight::Buffer,
    problem::{Code, FieldError, MOST_ERRORS, Problem},
};

use super::{image_limit, of_part};

/// The largest of the small parts, in bytes.
const MAX_TEXT: usize = 4 * 1024;

/// What came of a form that was read to its end.
pub(super) struct Whole {
    /// The image and its SHA-256.
    pub imagen: Option<(Buffer, [u8; 32])>,
    pub proceso: Option<String>,
    pub titulo: Option<String>,
    pub wrong: Wrong,
}

/// The fields of a form that are wrong: all that are known once it has ended, so that nobody sends a photo again to learn
/// of the next.
#[derive(Default)]
pub(super) struct Wrong {
    errors: Vec<FieldError>,
    /// Of the first, for the log.
    cause: Option<&'static str>,
}

impl Wrong {
    /// A field that is wrong, the first time that it is. The cause is without the field's name, which may be anything.
    fn add(&mut self, error: FieldError, cause: &'static str) {
        if !self.errors.iter().any(|it| it.is_at_the_place_of(&error)) {
            self.errors.push(error);
        }
        self.cause.get_or_insert(cause);
    }

    pub(super) fn extend(&mut self, errors: Vec<FieldError>, cause: &'static str) {
        for error in errors {
            self.add(error, cause);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }

    /// Whether no more are told.
    fn is_full(&self) -> bool {
        self.errors.len() >= MOST_ERRORS
    }

    pub(super) fn into_errors(self) -> Vec<FieldError> {
        self.errors
    }
}

impl From<Wrong> for Problem {
    fn from(wrong: Wrong) -> Self {
        Self::of(Code::ValidationFailed)
            .with_errors(wrong.errors)
            .caused_by(wrong.cause.unwrap_or("a field isn't valid"))
    }
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
    /// Which of them have begun.
    begun: [bool; TEXTS.len()],
    wrong: Wrong,
    /// Between its parts.
    boundary: Boundary,
}

/// The fields that are texts. `_charset_` is a browser's word on the others (RFC 7578 §4.6).
const TEXTS: [&str; 3] = ["proceso", "titulo", "_charset_"];
const CHARSET: usize = 2;

/// The part that is being read.
enum Open {
    /// None, or one that is wrong as it is.
    None,
    Imagen {
        bytes: Buffer,
        promised: Promised,
    },
    Text {
        which: usize,
        bytes: Vec<u8>,
    },
}

impl Form {
    /// For an image of so many bytes at most, which is to be there. It is digested by SHA-256 and by those.
    pub(super) fn new(
        max_bytes: u64,
        memory: Buffer,
        by: Vec<&'static Algorithm>,
        boundary: Boundary,
    ) -> Self {
        Self {
            max_bytes,
            memory: Some(memory),
            by,
            open: Open::None,
            imagen: None,
            texts: Default::default(),
            begun: Default::default(),
            wrong: Wrong::default(),
            boundary,
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
            Some(which) => std::mem::replace(&mut self.begun[which], true),
            None if name == "imagen" => self.memory.is_none(),
            None => {
                return self.refuse(
                    &shown(name),
                    "There is no such part; there are `imagen`, `proceso` and `titulo`, each at most once.",
                    "a part that isn't known",
                );
            }
        };
        if is_there {
            return self.refuse(name, TWICE, "a part was sent twice");
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
                bytes: self
                    .memory
                    .take()
                    .ok_or_else(|| Problem::of(Code::Internal).caused_by("no room was kept"))?,
            },
        };
        Ok(())
    }

    fn append(&mut self, more: &[u8]) -> Result<(), Problem> {
        match &mut self.open {
            Open::None => {}
            Open::Imagen { bytes, promised } => {
                if (bytes.len() + more.len()) as u64 > self.max_bytes {
                    let wrong = std::mem::take(&mut self.wrong);
                    let problem = image_limit(self.max_bytes).exceeded();
                    return Err(problem.and_errors(wrong.into_errors()));
                }
                bytes.extend_from_slice(more);
                promised.update(more);
            }
            Open::Text { which, bytes } => {
                if bytes.len() + more.len() > MAX_TEXT {
                    // As much of it as is there whatever pieces it came in.
                    let room = MAX_TEXT + 1 - bytes.len();
                    bytes.extend_from_slice(&more[..room]);
                    if self.boundary.has_line_in(bytes) {
                        return Err(other_line_ends(TEXTS[*which]));
                    }
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
                let Ok(text) = String::from_utf8(bytes) else {
                    let detail = "The part isn't UTF-8 text.";
                    return self.refuse(name, detail, "a text isn't UTF-8");
                };
                if which == CHARSET && !text.eq_ignore_ascii_case("utf-8") {
                    let detail = "The form's texts must be UTF-8.";
                    return self.refuse(name, detail, "another charset than UTF-8");
                }
                self.texts[which] = Some(text);
            }
        }
        Ok(())
    }

    /// Keeps what is wrong with a part, whose content is nobody's. A sender of so many that no more are told isn't worth
    /// reading on.
    fn refuse(
        &mut self,
        name: &str,
        detail: &'static str,
        cause: &'static str,
    ) -> Result<(), Problem> {
        self.wrong.add(FieldError::body(name, detail), cause);
        if self.wrong.is_full() {
            return Err(std::mem::take(&mut self.wrong).into());
        }
        Ok(())
    }

    /// What is known to be wrong by now: it may be what makes the form too large.
    pub(super) fn refused_or(&mut self, problem: Problem) -> Problem {
        let wrong = std::mem::take(&mut self.wrong);
        if wrong.is_empty() {
            problem
        } else {
            wrong.into()
        }
    }

    pub(super) fn finish(self) -> Result<Whole, Problem> {
        let [proceso, titulo, _] = self.texts;
        let mut wrong = self.wrong;
        let imagen = match self.imagen {
            Some((imagen, digests)) => {
                let sha256 = digests.sha256();
                let sha256 = sha256
                    .ok_or_else(|| Problem::of(Code::Internal).caused_by("no SHA-256 was made"))?;
                Some((imagen, sha256))
            }
            None => {
                let error = FieldError::body("imagen", "The photo's file is missing.");
                wrong.add(error, "the form lacks a part");
                None
            }
        };
        Ok(Whole {
            imagen,
            proceso,
            titulo,
            wrong,
        })
    }
}

const TWICE: &str = "The part was sent more than once; send it once.";

/// The caller's own word goes back to them, cut to a length that a name may have.
fn shown(name: &str) -> String {
    let shown = name.chars().filter(|it| !it.is_control());
    shown.take(40).collect()
}

fn other_line_ends(name: &str) -> Problem {
    let detail = format!(
        "The part `{name}` goes on behind a line that would end it, but for how that line ends: the form has both CRLF and LF. End all lines of heads and delimiters with CRLF, or let your HTTP client write the form."
    );
    let error = FieldError::body(name, detail.clone());
    Problem::new(Code::MalformedBody, detail)
        .with_errors(vec![error])
        .caused_by("the form's lines end in two ways")
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
        let mut form = Form::new(
            100_000,
            buffer(100_000),
            Vec::new(),
            Boundary::of(b"multipart/form-data; boundary=b").expect("is one"),
        );
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
