//! The one look at an image's bytes before anything is done with them.

use super::{Format, Rules, Unusable, foreign, heif, jpeg, png, webp};

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

/// Width and height in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub width: u64,
    pub height: u64,
}

impl Size {
    /// A size with pixels, of which there aren't too many.
    pub(super) fn within(
        max_pixels: u64,
        width: impl Into<u64>,
        height: impl Into<u64>,
    ) -> Result<Self, Unusable> {
        let (width, height) = (width.into(), height.into());
        match width.saturating_mul(height) {
            0 => Err(Unusable::Damaged),
            pixels if pixels > max_pixels => Err(Unusable::TooManyPixels(pixels)),
            _ => Ok(Self { width, height }),
        }
    }
}

/// Looks at an image's bytes: the format, a sane header, that all of it is there, and that it is
/// nothing else. Compressed pixels are searched for nothing but where they end.
///
/// # Errors
/// The first rule that it breaks.
pub fn inspect(bytes: &[u8], rules: &Rules) -> Result<Inspected, Unusable> {
    if bytes.is_empty() {
        return Err(Unusable::Empty);
    }
    let format = Format::announced(bytes)?;
    if !rules.formats.contains(&format) {
        return Err(Unusable::Format(format.name()));
    }
    let size = match format {
        Format::Jpeg => jpeg::inspect(bytes, rules.max_pixels),
        Format::Png => png::inspect(bytes, rules.max_pixels),
        Format::Webp => webp::inspect(bytes, rules.max_pixels),
        Format::Heic => heif::inspect(bytes, rules.max_pixels),
    }?;
    foreign::check_places(bytes)?;
    Ok(Inspected {
        format,
        width: size.width,
        height: size.height,
    })
}
