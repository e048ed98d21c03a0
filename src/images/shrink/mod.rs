//! Photos made smaller: decoded, averaged, turned upright and encoded again.
//!
//! What goes along is the ICC profile and what else says how colours are meant, and EXIF with what
//! still holds. What describes the file as it was doesn't: thumbnails, XMP, comments, and what cameras
//! append. What isn't a photo stays as it is: animations, and JPEG in the colours of a printer.
//!
//! Decoders are in Rust without C, since they read what strangers send; a panic in one is a refusal.
//! The encoder for lossy WebP is libwebp's, and sees pixels only.
//!
//! **Memory**: decoding takes 3 bytes a pixel for most JPEG, 4 for PNG, 7 for WebP and 9 for
//! progressive JPEG; while a picture is averaged, its share of `max_dimension` ÷ longer side comes on top, and the small
//! picture twice. All of that is known from the header, and reserved before anything is decoded (`../turns.rs`): of the larger
//! of 320 MiB and `max_pixels × 9` (with 50 million pixels 430 MiB). What takes more is alone. There is a place for each
//! core, two at most, and tenants take turns.

mod exif;
mod jpeg;
mod picture;
mod png;
mod webp;

use std::{num::NonZero, thread::available_parallelism};

use image::metadata::Orientation;

use crate::{in_flight::Buffer, tenants::TenantId};

use self::picture::{Channels, Size};
use super::{Format, Unusable, orientation, turns::Turns};

/// Decoding is bound by memory as much as by cores, and others need those too.
const MOST_PLACES: usize = 2;
/// What all decoding may take at least, in bytes: two photos of 36 million pixels of JPEG.
const LEAST_BYTES: u64 = 320 << 20;
/// What a pixel takes where it takes most.
const MOST_BYTES_A_PIXEL: u64 = jpeg::BYTES_A_PIXEL_OF_SCANS;

/// How photos are made smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shrink {
    /// The longer side that larger ones get, in pixels.
    pub max_dimension: u32,
    /// From 1 to 100, for what is lossy.
    pub quality: u8,
}

/// Makes photos smaller, a few at a time. Cheap to clone; clones share the places.
#[derive(Debug, Clone)]
pub struct Shrinker {
    shrink: Shrink,
    turns: Turns,
}

/// A photo that is within the limit, or isn't to be changed.
#[derive(Debug)]
pub enum Fitted {
    /// The bytes that were given.
    AsItWas(Buffer),
    /// Others.
    Shrunk(Shrunk),
}

/// A photo that was made smaller.
#[derive(Debug)]
pub struct Shrunk {
    /// The file.
    pub bytes: Buffer,
    /// In pixels, as it is to be seen.
    pub width: u64,
    /// In pixels, as it is to be seen.
    pub height: u64,
}

impl Fitted {
    /// Those bytes, in the room of the ones that they were made of.
    fn shrunk(mut room: Buffer, bytes: Vec<u8>, size: Size) -> Self {
        room.replace(bytes);
        Self::Shrunk(Shrunk {
            bytes: room,
            width: size.width.into(),
            height: size.height.into(),
        })
    }
}

/// How a format's pictures are made smaller.
type How = fn(Buffer, Size, Shrink) -> Result<Fitted, Unusable>;

impl Shrinker {
    /// With a place for each core, and two at most, and memory for a picture of so many pixels.
    #[must_use]
    pub fn new(shrink: Shrink, max_pixels: u64) -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        let bytes = max_pixels.saturating_mul(MOST_BYTES_A_PIXEL);
        Self {
            shrink,
            turns: Turns::new(cores.min(MOST_PLACES), bytes.max(LEAST_BYTES)),
        }
    }

    /// A photo with sides up to the limit. `width` and `height` are its header's; nothing is decoded
    /// where they are small enough. Tenants take turns.
    ///
    /// # Errors
    /// [`Unusable::Damaged`] where it can't be decoded.
    pub async fn shrink(
        &self,
        tenant: &TenantId,
        image: Buffer,
        format: Format,
        width: u64,
        height: u64,
    ) -> Result<Fitted, Unusable> {
        let shrink = self.shrink;
        if width.max(height) <= u64::from(shrink.max_dimension) {
            return Ok(Fitted::AsItWas(image));
        }
        let side = |side| u32::try_from(side).map_err(|_| Unusable::Damaged);
        let size = Size {
            width: side(width)?,
            height: side(height)?,
        };
        let (bytes_a_pixel, channels, how): (u64, Channels, How) = match format {
            Format::Jpeg => (jpeg::bytes_a_pixel(&image), Channels::Rgb, jpeg::shrink),
            Format::Png => (png::BYTES_A_PIXEL, Channels::Rgba, png::shrink),
            Format::Webp => (webp::BYTES_A_PIXEL, Channels::Rgba, webp::shrink),
            // It is passed as it is; the configuration takes it only where nothing is shrunk.
            Format::Heic => return Ok(Fitted::AsItWas(image)),
        };
        let takes = takes(size, bytes_a_pixel, channels, shrink.max_dimension);
        self.in_turn(tenant, takes, move || how(image, size, shrink))
            .await
    }

    /// Does what takes so many bytes when it is its turn.
    async fn in_turn<T: Send + 'static>(
        &self,
        tenant: &TenantId,
        takes: u64,
        work: impl FnOnce() -> Result<T, Unusable> + Send + 'static,
    ) -> Result<T, Unusable> {
        let done = self.turns.work(tenant, takes, work).await;
        done.unwrap_or_else(|_| {
            tracing::error!("a photo could not be made smaller: its decoder panicked");
            Err(Unusable::Damaged)
        })
    }
}

/// What making a picture of that size smaller takes at most, in bytes.
fn takes(size: Size, bytes_a_pixel: u64, channels: Channels, max_dimension: u32) -> u64 {
    let bytes = |size: Size| (size.pixels() as u64).saturating_mul(channels.bytes() as u64);
    let small = size.within(max_dimension);
    // It is made narrower first, and lower then.
    let between = Size {
        width: small.width,
        height: size.height,
    };
    (size.pixels() as u64)
        .saturating_mul(bytes_a_pixel)
        .saturating_add(bytes(between))
        .saturating_add(bytes(small).saturating_mul(2))
}

/// How the picture is to be turned.
fn turn(image: &[u8], format: Format) -> Orientation {
    orientation::of(image, format)
        .and_then(|it| u8::try_from(it).ok())
        .and_then(Orientation::from_exif)
        .unwrap_or(Orientation::NoTransforms)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use tokio::sync::oneshot;

    use super::*;

    fn shrinker() -> (Shrinker, TenantId) {
        let shrink = Shrink {
            max_dimension: 100,
            quality: 85,
        };
        let turns = Turns::new(1, 100);
        let tenant = "carper".parse().expect("an id");
        (Shrinker { shrink, turns }, tenant)
    }

    #[tokio::test]
    async fn a_turn_lasts_until_its_work_ends_though_nobody_waits() {
        let (shrinker, tenant) = shrinker();
        let (begin, begun) = oneshot::channel();
        let (end, ended) = mpsc::channel();
        let work = move || {
            let _ = begin.send(());
            let _ = ended.recv();
            Ok(())
        };
        let mut left = Box::pin(shrinker.in_turn(&tenant, 1, work));
        assert!(futures_util::poll!(&mut left).is_pending());
        assert!(begun.await.is_ok());
        drop(left);
        let mut next = Box::pin(shrinker.in_turn(&tenant, 1, || Ok(())));
        let nobody_else = shrinker.turns.take(&tenant, 1);
        assert!(futures_util::poll!(&mut next).is_pending());
        assert!(futures_util::poll!(Box::pin(nobody_else)).is_pending());
        end.send(()).expect("it is waited for");
        assert_eq!(next.await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_is_a_refusal_and_gives_its_turn_back() {
        let (shrinker, tenant) = shrinker();
        let strange: fn() -> Result<(), Unusable> = || panic!("a decoder's assumption");
        let refused = shrinker.in_turn(&tenant, 1, strange).await;
        assert_eq!(refused, Err(Unusable::Damaged));
        assert_eq!(shrinker.in_turn(&tenant, 1, || Ok(())).await, Ok(()));
    }

    #[test]
    fn what_a_picture_takes_is_known_from_its_header() {
        let size = Size {
            width: 4000,
            height: 3000,
        };
        let decoded = 4000 * 3000 * 3;
        let averaged = 2000 * 3000 * 4 + 2 * 2000 * 1500 * 4;
        assert_eq!(takes(size, 3, Channels::Rgba, 2000), decoded + averaged);
        let most = Size {
            width: u32::MAX,
            height: u32::MAX,
        };
        assert_eq!(
            takes(most, 9, Channels::Rgba, u32::MAX),
            u64::MAX,
            "no overflow"
        );
    }
}
