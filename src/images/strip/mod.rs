//! Removing metadata without touching a pixel, in place: what stays moves forward within the same
//! bytes.
//!
//! What stays is listed, what goes isn't: the picture, all that says how its pixels look, and of EXIF
//! what is known to say nothing of a place. XMP, IPTC, comments, texts and other makers' segments may hold a place in ways
//! that nobody can list, so they go in both modes; so does what stands behind the picture's end, which has
//! metadata of its own: previews, gain maps, depth maps, motion photos' videos.

mod jpeg;
mod png;
mod webp;

use std::ops::Range;

use bytes::BytesMut;

use super::{Format, Metadata, Unusable, exif::Rewritten};

/// Removes metadata from an image that was inspected. Whether anything changed.
///
/// # Errors
/// The image is damaged, or its format's metadata can't be removed.
pub fn strip(image: &mut BytesMut, format: Format, metadata: Metadata) -> Result<bool, Unusable> {
    let exif = match metadata {
        Metadata::Keep => return Ok(false),
        Metadata::StripLocation => Exif::WithoutLocation,
        Metadata::StripAll => Exif::OrientationOnly,
    };
    match format {
        Format::Jpeg => jpeg::strip(image, exif),
        Format::Png => png::strip(image, exif),
        Format::Webp => webp::strip(image, exif),
        // The configuration doesn't let it get here.
        Format::Heic => Err(Unusable::Format),
    }
}

/// What stays of EXIF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exif {
    WithoutLocation,
    OrientationOnly,
}

impl Exif {
    /// What stays of a block, in so many bytes at most.
    fn of(self, tiff: &[u8], most: usize) -> Option<Vec<u8>> {
        let kept = match self {
            Self::WithoutLocation => Rewritten::without_location(tiff),
            Self::OrientationOnly => Rewritten::orientation_only(tiff),
        };
        kept?.within(most)
    }
}

/// Bytes of which some stay: read from front to back, and moved forward.
struct Compaction<'a> {
    image: &'a mut BytesMut,
    /// How many of the first are as they will be.
    done: usize,
    changed: bool,
}

impl<'a> Compaction<'a> {
    /// With so many first bytes that stay.
    fn of(image: &'a mut BytesMut, head: usize) -> Self {
        Self {
            image,
            done: head,
            changed: false,
        }
    }

    /// Lets a range stay that begins at or behind what is done.
    fn keep(&mut self, range: Range<usize>) {
        let length = range.len();
        if range.start != self.done {
            self.image.copy_within(range, self.done);
        }
        self.done += length;
    }

    /// How many bytes may be put where what was read ends there.
    const fn room(&self, read: usize) -> usize {
        read.saturating_sub(self.done)
    }

    /// Puts bytes in the place of some that were read. They must have room.
    fn put(&mut self, bytes: &[u8]) {
        let place = &mut self.image[self.done..self.done + bytes.len()];
        if place != bytes {
            place.copy_from_slice(bytes);
            self.changed = true;
        }
        self.done += bytes.len();
    }

    /// Ends the image where what stays ends. Whether it isn't what it was.
    fn finish(self) -> bool {
        let is_shorter = self.done < self.image.len();
        self.image.truncate(self.done);
        self.changed || is_shorter
    }
}
