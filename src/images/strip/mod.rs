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

use super::{Format, Metadata, Unusable, exif::Rewritten, orientation};

/// What is left of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stripped {
    /// Its bytes: so many of the first. Those behind them are nothing.
    pub length: usize,
    /// Whether they are others than it had.
    pub changed: bool,
}

/// Removes metadata from an image that was inspected, within its bytes.
///
/// # Errors
/// The image is damaged, or its format's metadata can't be removed.
pub fn strip(image: &mut [u8], format: Format, metadata: Metadata) -> Result<Stripped, Unusable> {
    if metadata == Metadata::Keep {
        return Ok(Stripped {
            length: image.len(),
            changed: false,
        });
    }
    let exif = Exif::of(image, format, metadata);
    match format {
        Format::Jpeg => jpeg::strip(image, exif),
        Format::Png => png::strip(image, exif, metadata),
        Format::Webp => webp::strip(image, exif),
        // The configuration doesn't let it get here.
        Format::Heic => Err(Unusable::Format(format.name())),
    }
}

/// The EXIF that the image is to have, until it is put there: at the first piece that goes and leaves room enough, which
/// is its own at the latest if it didn't grow.
#[derive(Debug)]
struct Exif(Option<Block>);

#[derive(Debug)]
struct Block {
    rewritten: Rewritten,
    /// All of it.
    written: Vec<u8>,
}

impl Exif {
    fn of(image: &[u8], format: Format, metadata: Metadata) -> Self {
        let turned = orientation::of(image, format).filter(|it| *it != 1);
        let mut blocks = orientation::exif_blocks(image, format);
        let rewritten = match metadata {
            Metadata::StripLocation => {
                let kept = blocks.find_map(Rewritten::without_location);
                match (kept, turned) {
                    (Some(kept), Some(turned)) => Some(kept.or_turned(turned)),
                    (Some(kept), None) => Some(kept),
                    (None, turned) => turned.map(|turned| Rewritten::turned(&[], turned)),
                }
            }
            _ => turned.map(|turned| Rewritten::turned(blocks.next().unwrap_or_default(), turned)),
        };
        Self(rewritten.map(|rewritten| Block {
            written: rewritten.write(),
            rewritten,
        }))
    }

    /// All of it, once, where that has so many bytes at most.
    fn whole(&mut self, most: usize) -> Option<Vec<u8>> {
        let block = self.0.take_if(|block| block.written.len() <= most)?;
        Some(block.written)
    }

    /// What of it has so many bytes at most, where it wasn't put yet.
    fn rest(&mut self, most: usize) -> Option<Vec<u8>> {
        self.0.take()?.rewritten.within(most)
    }
}

/// Bytes of which some stay: read from front to back, and moved forward.
struct Compaction<'a> {
    image: &'a mut [u8],
    /// How many of the first are as they will be.
    done: usize,
    changed: bool,
}

impl<'a> Compaction<'a> {
    /// With so many first bytes that stay.
    fn of(image: &'a mut [u8], head: usize) -> Self {
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

    /// The image ends where what stays ends.
    const fn finish(self) -> Stripped {
        Stripped {
            length: self.done,
            changed: self.changed || self.done < self.image.len(),
        }
    }
}
