//! A photo as `multipart/form-data` (RFC 7578): its parts in any order, the image held once and
//! known by its bytes.

mod form;

use std::time::Duration;

use axum::extract::{FromRef, FromRequest, Request};
use bytes::Bytes;
use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use crate::{
    caller::Permit,
    clock::Clock,
    images::{Accepted, Images, Inspected},
    in_flight::{Budget, Owner, Reason},
    problem::{Code, FieldError, Problem},
};

use super::{
    body::{self, Limit, in_words},
    digest::{self, Broken, Promised, of_form},
    multipart::{Boundary, InvalidBoundary, Malformed, Reader},
    pace::{Cut, Paced, Patience},
};

use form::{Form, Whole};

/// Room for boundaries, part headers and the small parts beside the image, in bytes.
pub const MULTIPART_OVERHEAD: u64 = 64 * 1024;
/// What is read behind a form's end, so that its connection can be used again; more is left.
const MAX_EPILOGUE: usize = 64 * 1024;
/// When an upload comes back that had to make room.
const MADE_ROOM_RETRY: Duration = Duration::from_secs(10);

/// What the texts of an upload say, which is the resource's business.
pub trait Texts: Sized + Send {
    /// Of the parts `proceso` and `titulo`.
    ///
    /// # Errors
    /// One for each that is wrong, or is missing and must not.
    fn read(proceso: Option<&str>, titulo: Option<&str>) -> Result<Self, Vec<FieldError>>;
}

/// An upload.
#[derive(Debug)]
pub struct Photo<T> {
    /// The image's bytes. Their room in the [`Budget`] is given back with the last clone.
    pub imagen: Bytes,
    /// What they are.
    pub inspected: Inspected,
    /// The SHA-256 of the image that arrived.
    pub sha256: [u8; 32],
    /// Whether `imagen` is what arrived, byte for byte.
    pub is_original: bool,
    /// What its other parts say.
    pub texts: T,
}

/// What uploads are taken in by. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Intake {
    /// What an image may be, and what is done to it.
    pub images: Images,
    /// What all uploads may hold together.
    pub budget: Budget,
    /// How slow a sender may be.
    pub patience: Patience,
    /// The time.
    pub clock: Clock,
}

/// Why an upload isn't taken: what the sender is told, and as what it is counted.
struct Refused {
    problem: Problem,
    reason: Option<Reason>,
}

impl Refused {
    fn new(reason: Reason, problem: Problem) -> Self {
        Self {
            problem,
            reason: Some(reason),
        }
    }
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        let reason = match problem.code() {
            Code::PayloadTooLarge => Some(Reason::TooLarge),
            Code::MalformedBody => Some(Reason::Malformed),
            _ => None,
        };
        Self { problem, reason }
    }
}

impl From<Cut> for Refused {
    fn from(cut: Cut) -> Self {
        let reason = match cut {
            Cut::Incomplete => Reason::Incomplete,
            Cut::Idle(_) => Reason::Idle,
            Cut::TooSlow(_) | Cut::TooLong(_) => Reason::TooSlow,
        };
        Self::new(reason, cut.into())
    }
}

impl<T: Texts> Photo<T> {
    /// Reads an upload of that owner. Room for it is reserved before its body is read.
    ///
    /// # Errors
    /// What is wrong with it.
    pub async fn receive(
        request: Request,
        owner: &Owner,
        intake: &Intake,
    ) -> Result<Self, Problem> {
        receive(request, owner, intake).await.map_err(|refused| {
            if let Some(reason) = refused.reason {
                intake.budget.count(reason);
            }
            refused.problem
        })
    }

    /// The SHA-256 of `imagen`, computed where that isn't what arrived.
    pub async fn sent_sha256(&self) -> [u8; 32] {
        if self.is_original {
            self.sha256
        } else {
            digest::sha256(&self.imagen).await
        }
    }
}

impl<T, S> FromRequest<S> for Photo<T>
where
    T: Texts,
    S: Send + Sync,
    Intake: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let Some(permit) = request.extensions().get::<Permit>().cloned() else {
            return Err(Problem::of(Code::Internal)
                .caused_by("an upload is mounted without its permit layer"));
        };
        let claims = permit.claims();
        let owner = Owner::new(
            permit.tenant().id().clone(),
            claims.issuer().clone(),
            claims.subject().clone(),
        );
        Self::receive(request, &owner, &Intake::from_ref(state)).await
    }
}

async fn receive<T: Texts>(
    request: Request,
    owner: &Owner,
    intake: &Intake,
) -> Result<Photo<T>, Refused> {
    let rules = intake.images.rules();
    let (head, body) = request.into_parts();
    let permit = head.extensions.get::<Permit>();
    let trace = permit.map(|permit| permit.trace().clone());
    let trace = trace.unwrap_or_default();
    let mut receiving = trace.child("receive");
    let boundary = boundary(&head.headers)?;
    if let Some(coding) = head.headers.get(CONTENT_ENCODING)
        && !coding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        let detail = "The body of an upload is taken as it is: send it without `Content-Encoding`.";
        let error = FieldError::parameter("Content-Encoding", detail);
        return Err(Problem::new(Code::UnsupportedMediaType, detail)
            .with_errors(vec![error])
            .caused_by("the body has a Content-Encoding")
            .into());
    }
    let promised = Promised::by(&head.headers).map_err(|broken| of_form(&broken))?;
    let limit = rules.max_bytes.saturating_add(MULTIPART_OVERHEAD);
    let length = body::promised(&head.headers);
    if length.is_some_and(|length| length > limit) {
        return Err(body_limit(rules.max_bytes).into());
    }
    let most = length.unwrap_or(limit);
    let reserved = intake.budget.reserve(owner, most).await;
    let memory = reserved.map_err(|full| Refused::new(Reason::Overloaded, full.into()))?;

    let ousted = memory.ousted();
    let mut body = Paced::new(body, intake.patience, &intake.clock);
    let mut arriving = Arriving {
        form: Form::new(
            rules.max_bytes,
            memory,
            promised.representation(),
            boundary.clone(),
        ),
        reader: Reader::new(boundary),
        promised,
        max_bytes: rules.max_bytes,
        left: usize::try_from(limit).unwrap_or(usize::MAX),
        behind: 0,
    };
    let mut leaving = Leaving(Some(&intake.budget));
    let arrived = tokio::select! {
        biased;
        arrived = arriving.read(&mut body) => arrived,
        () = ousted.cancelled() => Err(Refused::new(Reason::Overloaded, made_room())),
    };
    leaving.0 = None;
    arrived?;
    let Whole {
        imagen,
        proceso,
        titulo,
        mut wrong,
    } = arriving.finish()?;
    let texts = match T::read(proceso.as_deref(), titulo.as_deref()) {
        Ok(texts) => Some(texts),
        Err(errors) => {
            wrong.extend(errors, "proceso or titulo isn't valid");
            None
        }
    };
    let Some((mut imagen, sha256)) = imagen else {
        return Err(Problem::from(wrong).into());
    };
    imagen.settle();
    let bytes = i64::try_from(imagen.len()).unwrap_or(i64::MAX);
    receiving.set("llavero.image.bytes", bytes);
    tracing::Span::current().record("received_bytes", bytes);
    drop(receiving);
    let _looking = trace.child("image");
    let texts = match texts {
        Some(texts) if wrong.is_empty() => texts,
        // It isn't taken, but its sender shall learn all that is wrong.
        _ => {
            let problem = match intake.images.look(owner.tenant(), imagen).await {
                Ok(()) => wrong.into(),
                Err(unusable) => Problem::of_image(unusable, rules).and_errors(wrong.into_errors()),
            };
            return Err(problem.into());
        }
    };
    let Accepted {
        bytes,
        inspected,
        is_original,
    } = intake
        .images
        .accept(owner.tenant(), imagen)
        .await
        .map_err(|unusable| Problem::of_image(unusable, rules))?;
    Ok(Photo {
        imagen: bytes.freeze(),
        inspected,
        sha256,
        is_original,
        texts,
    })
}

fn made_room() -> Problem {
    Problem::new(
        Code::Overloaded,
        "This photo took long to come, and its place was needed for somebody who had fewer under way. Nothing was sent to the ERP. Wait for `Retry-After` and send it again, over a better network if there is one.",
    )
    .with_retry_after(MADE_ROOM_RETRY)
    .caused_by("the upload took long, and made room for one of a tenant or user who holds less")
}

/// A body that is being read.
struct Arriving {
    reader: Reader,
    form: Form,
    /// Of the whole body.
    promised: Promised,
    max_bytes: u64,
    /// How much may come before the form's end.
    left: usize,
    /// How much has come behind it.
    behind: usize,
}

/// What to do with the rest of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    ReadOn,
    /// It can't change anything any more.
    Stop,
}

/// A sender who may leave before the body is whole: then this is dropped as it is.
struct Leaving<'a>(Option<&'a Budget>);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(budget) = self.0 {
            budget.count(Reason::Incomplete);
        }
    }
}

impl Arriving {
    async fn read(&mut self, body: &mut Paced<'_>) -> Result<(), Refused> {
        while let Some(frame) = body.next().await? {
            for portion in frame.chunks(digest::STEP) {
                if self.take(portion)? == Then::Stop {
                    return Ok(());
                }
                if frame.len() > digest::STEP {
                    tokio::task::yield_now().await;
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, portion: &[u8]) -> Result<Then, Problem> {
        self.promised.update(portion);
        if self.reader.has_ended() {
            self.behind += portion.len();
        } else {
            let (mut within, beyond) = portion.split_at(portion.len().min(self.left));
            self.left -= within.len();
            loop {
                match self.reader.next(&mut within) {
                    Ok(Some(event)) => self.form.take(event)?,
                    Ok(None) => break,
                    Err(malformed) => return Err(not_a_form(malformed, self.reader.part())),
                }
            }
            if self.reader.has_ended() {
                self.behind += within.len() + beyond.len();
            } else if !beyond.is_empty() {
                return Err(self.form.refused_or(body_limit(self.max_bytes)));
            }
        }
        match self.behind {
            0..=MAX_EPILOGUE => Ok(Then::ReadOn),
            _ if self.promised.is_empty() => Ok(Then::Stop),
            _ => Err(of_body(format!(
                "More than {MAX_EPILOGUE} bytes stand behind the form's end, so its digest isn't checked. End the body with the form."
            ))
            .caused_by("too much stands behind the form's end")),
        }
    }

    fn finish(self) -> Result<Whole, Problem> {
        self.promised
            .check_with(self.form.digests())
            .map_err(|broken| of_form(&broken))?;
        if self.reader.part() == 0 && !self.reader.has_ended() {
            return Err(of_type(
                Code::MalformedBody,
                "No part begins in this body: it is empty or no form, or the `boundary` of `Content-Type` isn't the body's. Let your HTTP client write both.".to_owned(),
            )
            .caused_by("no part begins in the body"));
        }
        if !self.reader.has_ended() {
            return Err(of_body(
                "The body ended before the form's last delimiter, `--` and the boundary and `--` on a line that begins as the first one's does. Send the request again; if that happens every time, let your HTTP client write the form itself.".to_owned(),
            )
            .caused_by("the form has no end"));
        }
        self.form.finish()
    }
}

fn boundary(headers: &HeaderMap) -> Result<Boundary, Problem> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let content_type = types.next().map_or(&b""[..], |it| it.as_bytes());
    if types.next().is_some() {
        return Err(of_type(
            Code::MalformedBody,
            "The request has more than one `Content-Type`. Send one.".to_owned(),
        )
        .caused_by("more than one Content-Type"));
    }
    Boundary::of(content_type).map_err(|invalid| {
        let problem = match invalid {
            InvalidBoundary::OtherType => of_type(
                Code::UnsupportedMediaType,
                "This operation takes `Content-Type: multipart/form-data` with the parts `imagen` and `proceso`, and optionally `titulo`.".to_owned(),
            ),
            invalid => of_type(
                Code::MalformedBody,
                format!("The `Content-Type` {invalid}. Let your HTTP client write that header itself."),
            ),
        };
        problem.caused_by(format_args!("the Content-Type {invalid}"))
    })
}

/// What is wrong with the `Content-Type`.
fn of_type(code: Code, detail: String) -> Problem {
    let error = FieldError::parameter("Content-Type", detail.clone());
    Problem::new(code, detail).with_errors(vec![error])
}

/// What is wrong with the body as a whole.
fn of_body(detail: String) -> Problem {
    let error = FieldError::at(String::new(), detail.clone());
    Problem::new(Code::MalformedBody, detail).with_errors(vec![error])
}

/// A body that no photo of the right size needs, whatever fills it.
fn body_limit(max_bytes: u64) -> Problem {
    let (imagen, rest) = (in_words(max_bytes), in_words(MULTIPART_OVERHEAD));
    let error = FieldError::body(
        "imagen",
        format!("May have at most {imagen}, and all else in the body {rest}."),
    );
    let detail = format!(
        "The body is too large: the part `imagen` may have at most {imagen}, and all else in it {rest}. Send a smaller photo, or nothing beside the form's parts."
    );
    Problem::new(Code::PayloadTooLarge, detail)
        .with_errors(vec![error])
        .caused_by(format_args!(
            "the body has more than {max_bytes} bytes and what a form needs"
        ))
}

fn image_limit(max_bytes: u64) -> Limit<'static> {
    Limit {
        bytes: max_bytes,
        field: Some("imagen"),
    }
}

/// Why a body is no form; `part` is the number of the one that is being read.
fn not_a_form(malformed: Malformed, part: usize) -> Problem {
    let problem = match malformed {
        Malformed::NoPart => of_type(
            Code::MalformedBody,
            format!(
                "In this body {malformed}: the `boundary` of `Content-Type` isn't the body's. Let your HTTP client write both."
            ),
        ),
        Malformed::HeadTooLong | Malformed::Head(_) => {
            let detail = format!(
                "The body isn't well-formed multipart/form-data: {malformed}. It is part {part}. Let your HTTP client build it."
            );
            let error = FieldError::at(format!("/parts/{part}"), detail.clone());
            Problem::new(Code::MalformedBody, detail).with_errors(vec![error])
        }
    };
    problem.caused_by(malformed)
}

fn of_part(part: &str, broken: &Broken) -> Problem {
    let detail = digest::told(&format!("part `{part}`'s"), broken);
    let error = FieldError::body(part, detail.clone());
    Problem::new(Code::MalformedBody, detail)
        .with_errors(vec![error])
        .caused_by("a digest of the photo doesn't hold")
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, pin::pin, time::Duration};

    use axum::body::Body;
    use futures_util::{StreamExt as _, poll, stream};
    use http::header::{CONTENT_LENGTH, RETRY_AFTER};
    use prometheus_client::registry::Registry as MetricRegistry;

    use crate::images::{Format, Metadata, Rules};

    use super::*;

    /// One pixel.
    const JPEG: &[u8] = b"\xff\xd8\xff\xc0\0\x0b\x08\0\x01\0\x01\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0\x37\xff\xd9";

    /// A form with so much before its first part, so much in the image behind its end, and so much
    /// behind its last part.
    fn form(before: usize, appended: usize, behind: usize) -> Bytes {
        let texts = [
            "x".repeat(before),
            "\r\n--b\r\nContent-Disposition: form-data; name=\"proceso\"\r\n\r\nantes\r\n--b\r\n\
             Content-Disposition: form-data; name=\"imagen\"; filename=\"f\"\r\n\r\n"
                .to_owned(),
            "\0".repeat(appended),
            format!("\r\n--b--\r\n{}", "x".repeat(behind)),
        ];
        let [before, head, appended, behind] = texts.map(String::into_bytes);
        [before, head, JPEG.to_vec(), appended, behind]
            .concat()
            .into()
    }

    fn intake() -> Intake {
        let images = Images::new(Rules {
            max_bytes: 512 * 1024,
            max_pixels: 1,
            formats: vec![Format::Jpeg],
            metadata: Metadata::Keep,
            shrink: None,
        });
        let clock = Clock::manual();
        let metrics = &mut MetricRegistry::default();
        Intake {
            images,
            budget: Budget::new(1 << 20, 1 << 20, clock.clone(), metrics),
            patience: Patience {
                min_rate: 1024,
                idle: Duration::from_secs(1),
            },
            clock,
        }
    }

    fn owner(tenant: &str) -> Owner {
        let tenant = tenant.parse().expect("an id");
        Owner::new(tenant, "https://issuer".into(), "ana".into())
    }

    /// Whatever they are.
    #[derive(Debug)]
    struct Any;

    impl Texts for Any {
        fn read(proceso: Option<&str>, _: Option<&str>) -> Result<Self, Vec<FieldError>> {
            proceso.map(|_| Self).ok_or_else(Vec::new)
        }
    }

    /// The image of a body that arrives in pieces of that size.
    async fn image(mut body: Bytes, size: usize) -> Option<Bytes> {
        let mut pieces = Vec::new();
        while !body.is_empty() {
            let piece = body.split_to(size.min(body.len()));
            pieces.push(Ok::<_, Infallible>(piece));
        }
        let request = Request::post("/")
            .header(CONTENT_TYPE, "multipart/form-data; boundary=b")
            .body(Body::from_stream(stream::iter(pieces)))
            .expect("a request");
        let owner = owner("carper");
        let photo = Photo::<Any>::receive(request, &owner, &intake()).await;
        photo.ok().map(|photo| photo.imagen)
    }

    #[tokio::test]
    async fn a_slow_upload_makes_room_for_a_tenant_that_has_none() {
        let intake = Intake {
            patience: Patience {
                min_rate: 0,
                idle: Duration::from_secs(60),
            },
            ..intake()
        };
        let upload = async |tenant: &str, length: usize, body: Body| {
            let request = Request::post("/")
                .header(CONTENT_TYPE, "multipart/form-data; boundary=b")
                .header(CONTENT_LENGTH, length)
                .body(body)
                .expect("a request");
            let owner = owner(tenant);
            Photo::<Any>::receive(request, &owner, &intake).await
        };
        let begins = || {
            let begin = form(0, 400, 0).slice(..500);
            let begin = stream::iter([Ok::<_, Infallible>(begin)]);
            Body::from_stream(begin.chain(stream::pending()))
        };
        let mut largest = pin!(upload("a", 500_000, begins()));
        let mut other = pin!(upload("b", 200_000, begins()));
        assert!(poll!(&mut largest).is_pending());
        assert!(poll!(&mut other).is_pending());
        intake.clock.advance(Duration::from_secs(3));
        let whole = form(0, 0, 0);
        let (ousted, made) = tokio::join!(&mut largest, upload("c", 50_000, Body::from(whole)));
        let ousted = ousted.expect_err("it holds most, and nothing comes");
        assert_eq!(ousted.code(), Code::Overloaded);
        let (headers, _) = ousted.render("");
        assert_eq!(headers[RETRY_AFTER], "10");
        assert_eq!(made.expect("there is room").imagen, JPEG);
        assert!(poll!(&mut other).is_pending(), "that was enough");
    }

    #[tokio::test]
    async fn without_a_permit_nothing_is_read() {
        let request = Request::new(Body::empty());
        let problem = Photo::<Any>::from_request(request, &intake()).await;
        assert_eq!(
            problem.map(drop).map_err(|it| it.code()),
            Err(Code::Internal)
        );
    }

    #[tokio::test]
    async fn how_a_body_arrives_does_not_decide_what_becomes_of_it() {
        const KIB: usize = 1024;
        for (before, appended, behind, is_good) in [
            (0, 0, 0, true),
            // The first part begins in the second portion, and that is the last.
            (65 * KIB, 0, 0, true),
            // Over the limit, behind the form's end.
            (0, 0, 600 * KIB, true),
            (65 * KIB, 200 * KIB, 600 * KIB, true),
            // The first part just begins where one should, and goes on.
            (255 * KIB, 100 * KIB, 0, true),
            (256 * KIB, 0, 0, false),
            // Over the limit before its end.
            (200 * KIB, 400 * KIB, 0, false),
        ] {
            for size in [512, 60 * KIB, 64 * KIB, 70 * KIB, 1000 * KIB] {
                let image = image(form(before, appended, behind), size).await;
                let length = image.map(|image| image.len());
                let expected = is_good.then_some(JPEG.len() + appended);
                assert_eq!(length, expected, "{before}, {appended}, {behind} in {size}");
            }
        }
    }

    #[tokio::test]
    async fn a_digest_is_of_all_that_came() {
        const KIB: usize = 1024;
        for (behind, is_good) in [(0, true), (64 * KIB - 2, true), (64 * KIB - 1, false)] {
            let body = form(0, 0, behind);
            let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &body);
            let digest = base64_simd::STANDARD.encode_to_string(digest);
            for size in [1000, 64 * KIB, 1000 * KIB] {
                let pieces: Vec<_> = body
                    .chunks(size)
                    .map(|piece| Ok::<_, Infallible>(Bytes::copy_from_slice(piece)))
                    .collect();
                let request = Request::post("/")
                    .header(CONTENT_TYPE, "multipart/form-data; boundary=b")
                    .header("content-digest", format!("sha-256=:{digest}:"))
                    .body(Body::from_stream(stream::iter(pieces)))
                    .expect("a request");
                let owner = owner("carper");
                let photo = Photo::<Any>::receive(request, &owner, &intake()).await;
                assert_eq!(photo.is_ok(), is_good, "{behind} in {size}");
                if let Ok(photo) = photo {
                    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, JPEG);
                    assert!(photo.sha256 == digest.as_ref() && photo.is_original);
                    assert_eq!(photo.sent_sha256().await, photo.sha256);
                    let other = Photo {
                        imagen: Bytes::from_static(b"shrunk"),
                        is_original: false,
                        ..photo
                    };
                    assert_ne!(other.sent_sha256().await, other.sha256);
                }
            }
        }
    }
}
