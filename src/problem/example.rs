//! Problems as they come, for the reference document: a remedy of the catalog is for all that have its code.

use crate::{exchange::ExchangeError, upstream::Failure};

use super::{Code, FieldError, Problem};

/// What kind of operation an example is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A read.
    Read,
    /// A change, without an `Idempotency-Key`.
    Change,
    /// An upload.
    Upload,
}

impl Problem {
    /// One of that code as such an operation may get it, with default settings.
    #[must_use]
    pub fn example(code: Code, asked: Asked) -> Self {
        match (code, asked) {
            (Code::RequestTimeout, _) => Self::new(
                code,
                "Nothing more of the body came for 30 seconds, which is the longest pause. Nothing was sent to the ERP. Send the request again, over a better network if there is one.",
            ),
            (Code::PayloadTooLarge, Asked::Upload) => Self::of_imagen(
                code,
                "The part `imagen` may have at most 12 MiB (12582912 bytes). Send it smaller.",
            ),
            (Code::PayloadTooLarge, _) => Self::new(
                code,
                "The body may have at most 256 KiB (262144 bytes). Send less.",
            ),
            (Code::UnsupportedMediaType, Asked::Upload) => Self::of_imagen(
                code,
                "The part `imagen` is an image of a format that isn't taken here: heic. Send one of: jpeg, png, webp. iPhones write it: set the camera to \"Most Compatible\" or let the app make a JPEG of it; the operator may allow heic, too.",
            ),
            (Code::UnsupportedMediaType, _) => Self::new(
                code,
                "This operation takes `Content-Type: application/json` or `application/merge-patch+json`, in UTF-8.",
            ),
            (Code::InvalidImage, _) => Self::of_imagen(
                code,
                "The part `imagen` is incomplete or damaged. Take or export the photo again.",
            ),
            (Code::UpstreamError, asked) => Self::unanswered(Failure::Broken, asked),
            (Code::UpstreamTimeout, asked) => Self::unanswered(Failure::Timeout, asked),
            _ => Self::of(code),
        }
    }

    fn of_imagen(code: Code, detail: &'static str) -> Self {
        Self::new(code, detail).with_errors(vec![FieldError::body("imagen", detail)])
    }

    fn unanswered(failure: Failure, asked: Asked) -> Self {
        match asked {
            Asked::Upload => Self::of_repeatable_write(ExchangeError::Upstream(failure), &[]),
            Asked::Read | Asked::Change => Self::from(failure),
        }
    }
}
