//! Which formats there are, and how they are told apart: by their first bytes.

use imagesize::{Compression, ImageType};

use super::{Unusable, heif};

/// A format that can be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JPEG (ITU T.81).
    Jpeg,
    /// PNG (RFC 2083).
    Png,
    /// WebP (RFC 9649).
    Webp,
    /// HEIC (ISO/IEC 23008-12).
    Heic,
}

impl Format {
    /// Its usual name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Heic => "heic",
        }
    }

    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
            Self::Heic => "image/heic",
        }
    }

    /// The usual ending of its files.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Webp => "webp",
            Self::Heic => "heic",
        }
    }

    /// The format that the first bytes announce.
    ///
    /// # Errors
    /// They announce another image format, or none.
    pub(super) fn announced(bytes: &[u8]) -> Result<Self, Unusable> {
        match bytes {
            [0xFF, 0xD8, 0xFF, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1A, b'\n', ..] => Ok(Self::Png),
            [
                b'R',
                b'I',
                b'F',
                b'F',
                _,
                _,
                _,
                _,
                b'W',
                b'E',
                b'B',
                b'P',
                ..,
            ] => Ok(Self::Webp),
            _ if heif::is_heic(bytes) => Ok(Self::Heic),
            _ => match imagesize::image_type(bytes) {
                // Its word for all that has boxes.
                Ok(ImageType::Heif(Compression::Unknown)) if !heif::is_image(bytes) => {
                    Err(Unusable::NotAnImage(what_is(bytes)))
                }
                Ok(other) => Err(Unusable::Format(name_of(&other))),
                Err(_) => Err(Unusable::NotAnImage(what_is(bytes))),
            },
        }
    }
}

/// The name of a format that can't be configured.
fn name_of(other: &ImageType) -> &'static str {
    match other {
        ImageType::Bmp => "bmp",
        ImageType::Gif => "gif",
        ImageType::Heif(Compression::Av1) => "avif",
        ImageType::Heif(_) => "heif",
        ImageType::Ico => "ico",
        ImageType::Jxl => "jpeg xl",
        ImageType::Psd => "psd",
        ImageType::Tiff => "tiff",
        _ => "another",
    }
}

/// What people attach in place of a photo, as its first bytes tell.
fn what_is(bytes: &[u8]) -> Option<&'static str> {
    const VIDEO: [&[u8]; 3] = [b"ftyp", b"moov", b"mdat"];
    let is_video = bytes.get(4..8).is_some_and(|kind| VIDEO.contains(&kind));
    match bytes {
        [b'%', b'P', b'D', b'F', ..] => Some("a PDF"),
        [b'P', b'K', 3, 4, ..] => Some("an archive or an office document"),
        [b'<', ..] => Some("a page or an SVG"),
        _ => is_video.then_some("a video"),
    }
}
