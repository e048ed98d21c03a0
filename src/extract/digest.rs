//! Digests that a sender promises: `Content-Digest` and `Repr-Digest` (RFC 9530), of a request or
//! of one part.

use aws_lc_rs::digest::{Algorithm, Context, Digest, SHA256, SHA512};
use http::{HeaderMap, HeaderName, HeaderValue};
use sfv::{Dictionary, ListEntry, Parser};

use crate::problem::{Code, FieldError, Problem};

/// How many bytes are hashed before others get their turn: a fifth of a millisecond at most.
pub(super) const STEP: usize = 64 * 1024;

const REPR_DIGEST: HeaderName = HeaderName::from_static("repr-digest");
const FIELDS: [HeaderName; 2] = [HeaderName::from_static("content-digest"), REPR_DIGEST];

/// The algorithms that aren't deprecated (RFC 9530 §5). Others are ignored, as the RFC asks.
const ALGORITHMS: [(&str, &Algorithm, usize); 2] =
    [("sha-256", &SHA256, 32), ("sha-512", &SHA512, 64)];

/// What was promised of some bytes, and the digests of those that have come.
#[derive(Default)]
pub(super) struct Promised {
    promises: Vec<Promise>,
    contexts: Vec<Context>,
}

struct Promise {
    field: HeaderName,
    digest: Vec<u8>,
    /// Which of the contexts.
    by: usize,
}

/// A field that promises digests, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Broken {
    /// It can't be read.
    Unreadable(HeaderName),
    /// The bytes are others.
    Mismatch(HeaderName),
    /// It is of the photo in a form, and must be of the whole form.
    OfPhoto(HeaderName),
}

impl Promised {
    /// What those header fields promise.
    ///
    /// # Errors
    /// One can't be read.
    pub(super) fn by(headers: &HeaderMap) -> Result<Self, Broken> {
        Self::default().and_by(headers)
    }

    /// What the head of a photo's part promises. Its SHA-256 is wanted anyhow, and by what its request's `Repr-Digest`
    /// was made, that of the photo too.
    ///
    /// # Errors
    /// A field can't be read.
    pub(super) fn of_photo(part: &HeaderMap, by: &[&'static Algorithm]) -> Result<Self, Broken> {
        let mut promised = Self::default();
        promised.context(&SHA256);
        for algorithm in by {
            promised.context(algorithm);
        }
        promised.and_by(part)
    }

    /// The algorithms of the promises that may be the photo's.
    pub(super) fn representation(&self) -> Vec<&'static Algorithm> {
        let promises = self.promises.iter().filter(|it| it.field == REPR_DIGEST);
        promises
            .map(|it| self.contexts[it.by].algorithm())
            .collect()
    }

    fn and_by(mut self, headers: &HeaderMap) -> Result<Self, Broken> {
        for field in FIELDS {
            let lines: Vec<&[u8]> = headers
                .get_all(&field)
                .iter()
                .map(HeaderValue::as_bytes)
                .collect();
            if lines.is_empty() {
                continue;
            }
            let known =
                read(&lines.join(&b", "[..])).ok_or_else(|| Broken::Unreadable(field.clone()))?;
            for (algorithm, digest) in known {
                self.add(&field, algorithm, digest);
            }
        }
        Ok(self)
    }

    fn add(&mut self, field: &HeaderName, algorithm: &'static Algorithm, digest: Vec<u8>) {
        let by = self.context(algorithm);
        let field = field.clone();
        self.promises.push(Promise { field, digest, by });
    }

    /// Which context is of that algorithm, from now on at least.
    fn context(&mut self, algorithm: &'static Algorithm) -> usize {
        let known = self.contexts.iter();
        let known = known.map(Context::algorithm).position(|it| it == algorithm);
        known.unwrap_or_else(|| {
            self.contexts.push(Context::new(algorithm));
            self.contexts.len() - 1
        })
    }

    /// Whether nothing was promised.
    pub(super) fn is_empty(&self) -> bool {
        self.promises.is_empty()
    }

    /// More of the bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        for context in &mut self.contexts {
            context.update(bytes);
        }
    }

    /// The digests of what has come, where it is what was promised.
    ///
    /// # Errors
    /// It isn't.
    pub(super) fn check(self) -> Result<Digests, Broken> {
        self.check_with(None)
    }

    /// The same for a form. Its `Repr-Digest` may also be that of the photo in it: programs that have their form
    /// written for them know no other.
    ///
    /// # Errors
    /// It is neither.
    pub(super) fn check_with(self, photo: Option<&Digests>) -> Result<Digests, Broken> {
        let digests: Vec<Digest> = self.contexts.into_iter().map(Context::finish).collect();
        for Promise { field, digest, by } in self.promises {
            if digests[by].as_ref() == digest {
                continue;
            }
            let algorithm = digests[by].algorithm();
            let is_of_photo = photo.and_then(|photo| photo.by(algorithm)) == Some(&digest[..]);
            match is_of_photo {
                true if field == REPR_DIGEST => {}
                true => return Err(Broken::OfPhoto(field)),
                false => return Err(Broken::Mismatch(field)),
            }
        }
        Ok(Digests(digests))
    }
}

/// The digests of some bytes.
#[derive(Debug)]
pub(super) struct Digests(Vec<Digest>);

impl Digests {
    /// The SHA-256, which was wanted or promised.
    pub(super) fn sha256(&self) -> Option<[u8; 32]> {
        self.by(&SHA256)?.try_into().ok()
    }

    fn by(&self, algorithm: &Algorithm) -> Option<&[u8]> {
        let mut digests = self.0.iter();
        let digest = digests.find(|it| it.algorithm() == algorithm)?;
        Some(digest.as_ref())
    }
}

/// The digests that a field promises by algorithms that are known: a dictionary of byte sequences (RFC 9651 §3.2), in
/// which the last of equal keys counts. One that promises nothing at all was meant to.
fn read(field: &[u8]) -> Option<Vec<(&'static Algorithm, Vec<u8>)>> {
    let members: Dictionary = Parser::new(field).parse().ok()?;
    if members.is_empty() {
        return None;
    }
    let known = ALGORITHMS
        .into_iter()
        .filter_map(|(name, algorithm, length)| {
            let digest = match members.get(name)? {
                ListEntry::Item(item) => item.bare_item.as_byte_sequence(),
                ListEntry::InnerList(_) => None,
            };
            let digest = digest.filter(|digest| digest.len() == length);
            Some(digest.map(|digest| (algorithm, digest.to_vec())))
        });
    known.collect()
}

/// What the sender of a request is told whose own promise is broken.
pub(super) fn of_request(broken: &Broken) -> Problem {
    let (Broken::Unreadable(field) | Broken::Mismatch(field) | Broken::OfPhoto(field)) = broken;
    let detail = told("request's", broken);
    refused(field, detail)
}

/// The same of a form with a photo, which a promise may be of.
pub(super) fn of_form(broken: &Broken) -> Problem {
    let (field, detail) = match broken {
        Broken::Unreadable(_) => return of_request(broken),
        Broken::Mismatch(field) if *field == REPR_DIGEST => (
            field,
            "The request's `Repr-Digest` is neither that of the whole body nor that of the photo, as they arrived. It must be one of them; if it was, something changed the request on the way: send it again.",
        ),
        Broken::Mismatch(field) => (
            field,
            "The request's `Content-Digest` isn't that of the whole body, form and all, as it arrived. If it was made of that, something changed the request on the way: send it again. A photo's goes into `Repr-Digest`, or into the head of the part `imagen`.",
        ),
        Broken::OfPhoto(field) => (
            field,
            "The request's `Content-Digest` is the photo's, and must be that of the whole body, form and all. Send the photo's as `Repr-Digest`, or in the head of the part `imagen`.",
        ),
    };
    refused(field, detail.to_owned())
}

fn refused(field: &HeaderName, detail: String) -> Problem {
    let error = FieldError::parameter(field.as_str(), detail.clone());
    Problem::new(Code::MalformedBody, detail)
        .with_errors(vec![error])
        .caused_by("a digest of the request doesn't hold")
}

/// What is wrong with a field. `whose` it is stands before it.
pub(super) fn told(whose: &str, broken: &Broken) -> String {
    match broken {
        Broken::Unreadable(field) => format!(
            "The {whose} `{field}` can't be read. It must be such as `sha-256=:<base64 of 32 bytes>:` or `sha-512=:<base64 of 64 bytes>:` (RFC 9530)."
        ),
        Broken::Mismatch(field) | Broken::OfPhoto(field) => format!(
            "The {whose} `{field}` isn't the digest of what arrived: something changed it on the way, or it was made of something else. Make it of exactly what is sent, and send it again."
        ),
    }
}

/// The SHA-256 of bytes that are there, in steps.
pub(super) async fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for step in bytes.chunks(STEP) {
        context.update(step);
        tokio::task::yield_now().await;
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of `{"hello": "world"}` and a line feed, as in RFC 9530 §B.1.
    const TEXT: &[u8] = b"{\"hello\": \"world\"}\n";
    const SHA_256: &str = "sha-256=:RK/0qy18MlBSVnWgjwz6lZEWjP/lF5HF9bvEF8FabDg=:";
    const SHA_512: &str = "sha-512=:YMAam51Jz/jOATT6/zvHrLVgOYTGFy1d6GJiOHTohq4yP+pgk4vf2aCsyRZOtw8MjkM7iw7yZ/WkppmM44T3qg==:";

    fn check(field: &'static str, values: &[&str]) -> Result<(), Broken> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(field, HeaderValue::from_str(value).expect("a value"));
        }
        let mut promised = Promised::by(&headers)?;
        for piece in TEXT.chunks(5) {
            promised.update(piece);
        }
        promised.check().map(drop)
    }

    #[test]
    fn a_promise_that_holds_is_kept_and_a_broken_one_is_named() {
        let other = SHA_256.replace("RK/", "RL/");
        for field in ["content-digest", "repr-digest"] {
            let name = HeaderName::from_static(field);
            for good in [
                &[SHA_256][..],
                &[SHA_512],
                &["md5=:AAAA:, unixsum=::", SHA_256],
                &[&format!("{SHA_512} , {SHA_256}")],
                &[&format!("{SHA_256};x=1")],
                &[&SHA_256.replace("Dg=:", "Dg:")],
                &["md5=:AAAA:"],
                &["md5=1"],
                &["md5=(\"a,b\" 1);x"],
                &[&format!("md5=:AAAA:;said=\"a,b\", {SHA_256}")],
                &[&other, SHA_256],
                &[],
            ] {
                assert_eq!(check(field, good), Ok(()), "{good:?}");
            }
            for bad in [&[&*other][..], &[SHA_256, &other], &[SHA_512, &other]] {
                assert_eq!(
                    check(field, bad),
                    Err(Broken::Mismatch(name.clone())),
                    "{bad:?}"
                );
            }
            for unreadable in [
                "",
                "sha-256",
                "sha-256=",
                "sha-256=x",
                "sha-256=:AAAA:",
                "sha-256=:*:",
                "SHA-256=:AAAA:",
                "sha-256=\"AAAA\"",
                "sha-256=:AAAA",
                "sha-256=:AAAA:x",
                "sha-256=(:AAAA:)",
                "md5=:AAAA:,",
            ] {
                assert_eq!(
                    check(field, &[unreadable]),
                    Err(Broken::Unreadable(name.clone())),
                    "{unreadable}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_long_digest_is_the_same_in_steps() {
        let bytes = vec![7; 3 * STEP + 1];
        let whole = aws_lc_rs::digest::digest(&SHA256, &bytes);
        assert_eq!(sha256(&bytes).await, whole.as_ref());
    }
}
