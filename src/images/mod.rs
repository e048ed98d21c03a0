//! What an upload's bytes are. The name and the declared type of a part are the
//! sender's words; only the bytes are believed.

use imagesize::ImageType;

/// What an upload may be, from `images.*`.
#[derive(Debug, Clone)]
pub struct Rules {
    /// The largest image, in bytes.
    pub max_bytes: u64,
    /// The most pixels, width × height.
    pub max_pixels: u64,
    /// The formats that are taken.
    pub formats: Vec<Format>,
}

/// A format that can be configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JPEG (ITU T.81).
    Jpeg,
    /// PNG (RFC 2083).
    Png,
    /// WebP (RFC 9649).
    Webp,
}

impl Format {
    /// Its usual name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "jpeg",
            Self::Png => "png",
            Self::Webp => "webp",
        }
    }

    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Jpeg => "image/jpeg",
            Self::Png => "image/png",
            Self::Webp => "image/webp",
        }
    }

    /// The usual ending of its files.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::Webp => "webp",
        }
    }
}

/// What was found in an image's own header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inspected {
    /// Its format.
    pub format: Format,
    /// In pixels, as stored: orientation isn't applied.
    pub width: u64,
    /// In pixels, as stored.
    pub height: u64,
}

/// Why an image isn't taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// No bytes.
    #[error("the file is empty")]
    Empty,
    /// An image, of a format that isn't taken.
    #[error("the file is an image of a format that isn't taken")]
    Format,
    /// Not an image at all.
    #[error("the file isn't an image")]
    NotAnImage,
    /// The end is missing, or the header can't be read.
    #[error("the image is incomplete or damaged")]
    Damaged,
    /// More pixels than allowed.
    #[error("the image has {0} pixels")]
    TooManyPixels(u64),
}

/// Looks at an image's bytes.
///
/// # Errors
/// The first rule that it breaks.
pub fn inspect(bytes: &[u8], rules: &Rules) -> Result<Inspected, Unusable> {
    if bytes.is_empty() {
        return Err(Unusable::Empty);
    }
    let kind = imagesize::image_type(bytes).map_err(|_| Unusable::NotAnImage)?;
    let format = match kind {
        ImageType::Jpeg => Format::Jpeg,
        ImageType::Png => Format::Png,
        ImageType::Webp => Format::Webp,
        _ => return Err(Unusable::Format),
    };
    if !rules.formats.contains(&format) {
        return Err(Unusable::Format);
    }
    let size = imagesize::blob_size(bytes).map_err(|_| Unusable::Damaged)?;
    let (width, height) = (size.width as u64, size.height as u64);
    let pixels = width.saturating_mul(height);
    if pixels == 0 {
        return Err(Unusable::Damaged);
    }
    if pixels > rules.max_pixels {
        return Err(Unusable::TooManyPixels(pixels));
    }
    if !is_whole(format, bytes) {
        return Err(Unusable::Damaged);
    }
    Ok(Inspected {
        format,
        width,
        height,
    })
}

/// Whether the file's end has arrived; what cameras append behind it is theirs.
fn is_whole(format: Format, bytes: &[u8]) -> bool {
    match format {
        // Entropy-coded data stuffs every FF, so the first FFD9 behind the start
        // of scan is the end of the image (ITU T.81 §B.1.1.2); an embedded
        // thumbnail's stands before it.
        Format::Jpeg => {
            jpeg_scan(bytes).is_some_and(|scan| memchr::memmem::find(scan, &[0xFF, 0xD9]).is_some())
        }
        Format::Png => png_has_end(bytes),
        Format::Webp => bytes
            .get(4..8)
            .and_then(|size| size.try_into().ok())
            .is_some_and(|size| bytes.len() as u64 >= u64::from(u32::from_le_bytes(size)) + 8),
    }
}

/// What follows the first start-of-scan marker, found by walking the segments.
fn jpeg_scan(bytes: &[u8]) -> Option<&[u8]> {
    const START_OF_SCAN: u8 = 0xDA;
    let mut rest = bytes.get(2..)?;
    loop {
        let (&[first, marker], tail) = rest.split_first_chunk::<2>()?;
        if first != 0xFF {
            return None;
        }
        match marker {
            // A fill byte before the marker.
            0xFF => rest = &rest[1..],
            START_OF_SCAN => return Some(tail),
            // Markers without a length (ITU T.81 table B.1).
            0x01 | 0xD0..=0xD7 => rest = tail,
            _ => {
                let length = u16::from_be_bytes(*tail.first_chunk::<2>()?);
                rest = tail.get(usize::from(length)..)?;
            }
        }
    }
}

/// Whether the chunks lead to a complete `IEND`.
fn png_has_end(bytes: &[u8]) -> bool {
    const FRAME: usize = 12; // length, type, CRC
    let mut rest = bytes.get(8..).unwrap_or_default();
    while let Some((head, _)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(next) = length.checked_add(FRAME).and_then(|size| rest.get(size..)) else {
            return false;
        };
        if &head[4..] == b"IEND" {
            return true;
        }
        rest = next;
    }
    false
}
