//! Pixels: made fewer, turned upright.

use fast_image_resize::{
    FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer,
    images::{Image, ImageRef},
};
use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage, metadata::Orientation};

use super::Unusable;

/// A decoded picture: eight bits a channel, rows from above, no gaps.
#[derive(Debug)]
pub(super) struct Picture {
    pub pixels: Vec<u8>,
    pub size: Size,
    pub channels: Channels,
}

/// In pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pub width: u32,
    pub height: u32,
}

/// What a pixel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    Gray,
    GrayAlpha,
    Rgb,
    Rgba,
}

impl Channels {
    pub(super) const fn bytes(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::GrayAlpha => 2,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }

    const fn pixel_type(self) -> PixelType {
        match self {
            Self::Gray => PixelType::U8,
            Self::GrayAlpha => PixelType::U8x2,
            Self::Rgb => PixelType::U8x3,
            Self::Rgba => PixelType::U8x4,
        }
    }
}

impl Size {
    /// The same shape, with that longer side.
    pub(super) fn within(self, longer_side: u32) -> Self {
        let longest = u64::from(self.width.max(self.height)).max(1);
        let scaled = |side: u32| {
            let side = (u64::from(side) * u64::from(longer_side) + longest / 2) / longest;
            u32::try_from(side).unwrap_or(longer_side).max(1)
        };
        Self {
            width: scaled(self.width),
            height: scaled(self.height),
        }
    }

    pub(super) fn pixels(self) -> usize {
        self.width as usize * self.height as usize
    }
}

impl Picture {
    /// One of that size, all zero, to be decoded into.
    pub(super) fn blank(size: Size, channels: Channels) -> Self {
        Self {
            pixels: vec![0; size.pixels() * channels.bytes()],
            size,
            channels,
        }
    }

    /// The picture with that longer side, upright.
    ///
    /// Colours are averaged as they are stored, as browsers and cameras do it; where there is
    /// alpha, what can't be seen has no part in it.
    pub(super) fn fit(self, longer_side: u32, orientation: Orientation) -> Result<Self, Unusable> {
        let size = self.size.within(longer_side);
        let (width, height) = (self.size.width, self.size.height);
        let kind = self.channels.pixel_type();
        let large =
            ImageRef::new(width, height, &self.pixels, kind).map_err(|_| Unusable::Damaged)?;
        let mut small = Image::new(size.width, size.height, kind);
        // Of the filters, the one that leaves small print readable.
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3));
        Resizer::new()
            .resize(&large, &mut small, &options)
            .map_err(|_| Unusable::Damaged)?;
        let channels = self.channels;
        // Before it is turned, which takes room again.
        drop(self);
        Self {
            pixels: small.into_vec(),
            size,
            channels,
        }
        .turned(orientation)
    }

    fn turned(self, orientation: Orientation) -> Result<Self, Unusable> {
        let Self {
            pixels,
            size: Size { width, height },
            channels,
        } = self;
        let image = match channels {
            Channels::Gray => GrayImage::from_raw(width, height, pixels).map(DynamicImage::from),
            Channels::GrayAlpha => {
                GrayAlphaImage::from_raw(width, height, pixels).map(DynamicImage::from)
            }
            Channels::Rgb => RgbImage::from_raw(width, height, pixels).map(DynamicImage::from),
            Channels::Rgba => RgbaImage::from_raw(width, height, pixels).map(DynamicImage::from),
        };
        let mut image = image.ok_or(Unusable::Damaged)?;
        image.apply_orientation(orientation);
        Ok(Self {
            size: Size {
                width: image.width(),
                height: image.height(),
            },
            pixels: image.into_bytes(),
            channels,
        })
    }
}
