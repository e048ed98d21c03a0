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
//! progressive JPEG, and the result is small. There is a place for each core, two at most; what takes
//! more than [`A_PLACE`] takes all places. So at any time no more than the larger of
//! `places × 160 MiB` and `max_pixels × 9` is decoded (with 50 million pixels 430 MiB). While a picture
//! is averaged, its share of `max_dimension` ÷ longer side comes on top, and the small picture twice.

mod exif;
mod jpeg;
mod picture;
mod png;
mod webp;

use std::{num::NonZero, sync::Arc, thread::available_parallelism};

use bytes::BytesMut;
use image::metadata::Orientation;
use tokio::sync::Semaphore;

use self::picture::Size;
use super::{Format, Unusable, orientation};

/// Decoding is bound by memory as much as by cores, and others need those too.
const MOST_PLACES: u32 = 2;
/// What decoding may take in one place, in bytes: 50 million pixels of JPEG.
const A_PLACE: u64 = 160 << 20;

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
    places: u32,
    free: Arc<Semaphore>,
}

/// A photo that is within the limit, or isn't to be changed.
#[derive(Debug)]
pub enum Fitted {
    /// The bytes that were given.
    AsItWas(BytesMut),
    /// Others.
    Shrunk(Shrunk),
}

/// A photo that was made smaller.
#[derive(Debug)]
pub struct Shrunk {
    /// The file.
    pub bytes: BytesMut,
    /// In pixels, as it is to be seen.
    pub width: u64,
    /// In pixels, as it is to be seen.
    pub height: u64,
}

impl Fitted {
    fn shrunk(bytes: BytesMut, size: Size) -> Self {
        Self::Shrunk(Shrunk {
            bytes,
            width: size.width.into(),
            height: size.height.into(),
        })
    }
}

/// How a format's pictures are made smaller.
type How = fn(BytesMut, Size, Shrink) -> Result<Fitted, Unusable>;

impl Shrinker {
    /// With a place for each core, and two at most.
    #[must_use]
    pub fn new(shrink: Shrink) -> Self {
        let cores = available_parallelism().map_or(1, NonZero::get);
        let places = u32::try_from(cores).map_or(MOST_PLACES, |it| it.min(MOST_PLACES));
        Self {
            shrink,
            places,
            free: Arc::new(Semaphore::new(places as usize)),
        }
    }

    /// A photo with sides up to the limit. `width` and `height` are its header's; nothing is decoded
    /// where they are small enough. Who waits for a place is served in turn.
    ///
    /// # Errors
    /// [`Unusable::Damaged`] where it can't be decoded.
    pub async fn shrink(
        &self,
        image: BytesMut,
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
        let (bytes_a_pixel, how): (u64, How) = match format {
            Format::Jpeg => (jpeg::bytes_a_pixel(&image), jpeg::shrink),
            Format::Png => (png::BYTES_A_PIXEL, png::shrink),
            Format::Webp => (webp::BYTES_A_PIXEL, webp::shrink),
            // It is passed as it is; the configuration takes it only where nothing is shrunk.
            Format::Heic => return Ok(Fitted::AsItWas(image)),
        };
        let takes = width.saturating_mul(height).saturating_mul(bytes_a_pixel);
        self.in_place(takes, move || how(image, size, shrink)).await
    }

    /// Does what takes so many bytes when there is room for it, on a thread that may be busy. The room
    /// stays taken until it is done, even if nobody waits for it any more.
    async fn in_place<T: Send + 'static>(
        &self,
        takes: u64,
        work: impl FnOnce() -> Result<T, Unusable> + Send + 'static,
    ) -> Result<T, Unusable> {
        let places = if takes > A_PLACE { self.places } else { 1 };
        let place = self
            .free
            .clone()
            .acquire_many_owned(places)
            .await
            .map_err(|_| Unusable::Damaged)?;
        let done = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        done.await.unwrap_or_else(|_| {
            tracing::error!("a photo could not be made smaller: its decoder panicked");
            Err(Unusable::Damaged)
        })
    }
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

    fn shrinker(places: u32) -> Shrinker {
        Shrinker {
            places,
            free: Arc::new(Semaphore::new(places as usize)),
            ..Shrinker::new(Shrink {
                max_dimension: 100,
                quality: 85,
            })
        }
    }

    /// Work that tells when it has begun and ends when it is told to.
    fn held() -> (
        impl FnOnce() -> Result<(), Unusable> + Send + 'static,
        oneshot::Receiver<()>,
        mpsc::Sender<()>,
    ) {
        let (begin, begun) = oneshot::channel();
        let (end, ended) = mpsc::channel();
        let work = move || {
            let _ = begin.send(());
            let _ = ended.recv();
            Ok(())
        };
        (work, begun, end)
    }

    #[tokio::test]
    async fn no_more_goes_on_at_once_than_there_are_places() {
        let shrinker = shrinker(2);
        let (first, first_begun, end_first) = held();
        let (second, second_begun, end_second) = held();
        let mut first = Box::pin(shrinker.in_place(1, first));
        let mut second = Box::pin(shrinker.in_place(1, second));
        assert!(futures_util::poll!(&mut first).is_pending());
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(first_begun.await.is_ok() && second_begun.await.is_ok());
        assert_eq!(shrinker.free.available_permits(), 0);
        let mut third = Box::pin(shrinker.in_place(1, || Ok(())));
        assert!(futures_util::poll!(&mut third).is_pending());
        end_first.send(()).expect("it is waited for");
        assert_eq!(first.await, Ok(()));
        assert_eq!(third.await, Ok(()));
        end_second.send(()).expect("it is waited for");
        assert_eq!(second.await, Ok(()));
    }

    #[tokio::test]
    async fn what_takes_much_is_alone() {
        let shrinker = shrinker(2);
        let (large, _, end) = held();
        let mut large = Box::pin(shrinker.in_place(A_PLACE + 1, large));
        assert!(futures_util::poll!(&mut large).is_pending());
        assert_eq!(shrinker.free.available_permits(), 0);
        end.send(()).expect("it is waited for");
        assert_eq!(large.await, Ok(()));
        assert_eq!(shrinker.free.available_permits(), 2);
    }

    #[tokio::test]
    async fn who_leaves_the_queue_holds_nobody_up() {
        let shrinker = shrinker(1);
        let (first, _, end) = held();
        let mut first = Box::pin(shrinker.in_place(1, first));
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut leaving = Box::pin(shrinker.in_place(1, || Ok(())));
        assert!(futures_util::poll!(&mut leaving).is_pending());
        let mut last = Box::pin(shrinker.in_place(1, || Ok(())));
        assert!(futures_util::poll!(&mut last).is_pending());
        drop(leaving);
        end.send(()).expect("it is waited for");
        assert_eq!(first.await, Ok(()));
        assert_eq!(last.await, Ok(()));
    }

    #[tokio::test]
    async fn a_place_stays_taken_until_its_work_ends_though_nobody_waits() {
        let shrinker = shrinker(1);
        let (work, begun, end) = held();
        let mut left = Box::pin(shrinker.in_place(1, work));
        assert!(futures_util::poll!(&mut left).is_pending());
        assert!(begun.await.is_ok());
        drop(left);
        assert_eq!(shrinker.free.available_permits(), 0);
        end.send(()).expect("it is waited for");
        assert_eq!(shrinker.in_place(1, || Ok(())).await, Ok(()));
    }

    #[tokio::test]
    async fn a_panic_is_a_refusal_and_gives_its_place_back() {
        let shrinker = shrinker(1);
        let strange: fn() -> Result<(), Unusable> = || panic!("a decoder's assumption");
        assert_eq!(shrinker.in_place(1, strange).await, Err(Unusable::Damaged));
        assert_eq!(shrinker.in_place(1, || Ok(())).await, Ok(()));
    }
}
