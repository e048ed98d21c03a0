//! EXIF (CIPA DC-008, a TIFF file) that goes along with a picture whose pixels changed. It is changed
//! in place: maker notes point into the whole block, so nothing in it may move.

use std::{iter, ops::Range};

/// Byte order and the place of the first directory.
const HEADER: usize = 8;
const ENTRY: usize = 12;

const IMAGE_WIDTH: u16 = 0x0100;
const IMAGE_LENGTH: u16 = 0x0101;
const STRIP_OFFSETS: u16 = 0x0111;
const ORIENTATION: u16 = 0x0112;
const STRIP_BYTE_COUNTS: u16 = 0x0117;
const THUMBNAIL: u16 = 0x0201;
const THUMBNAIL_LENGTH: u16 = 0x0202;
const EXIF_DIRECTORY: u16 = 0x8769;
const GPS_DIRECTORY: u16 = 0x8825;
const PIXEL_X_DIMENSION: u16 = 0xA002;
const PIXEL_Y_DIMENSION: u16 = 0xA003;
const INTEROPERABILITY_DIRECTORY: u16 = 0xA005;

/// A block that can be read.
#[derive(Debug)]
pub(super) struct Exif {
    tiff: Vec<u8>,
    is_big_endian: bool,
    first: Directory,
}

/// Where a directory is.
#[derive(Debug, Clone)]
struct Directory {
    entries: Vec<Entry>,
    /// The number of entries, they, and the place of the next one.
    at: Range<usize>,
    /// Where the place of the next one is written.
    next_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    tag: u16,
    kind: u16,
    count: u32,
    /// Where its value is, or the value's place.
    value_at: usize,
}

impl Exif {
    /// Reads a block, with or without JPEG's word before it; none where nothing can be made of it.
    pub(super) fn read(block: &[u8]) -> Option<Self> {
        let tiff = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
        let is_big_endian = match tiff.get(..4)? {
            b"II*\0" => false,
            b"MM\0*" => true,
            _ => return None,
        };
        let mut exif = Self {
            tiff: tiff.to_vec(),
            is_big_endian,
            first: Directory {
                entries: Vec::new(),
                at: 0..0,
                next_at: 0,
            },
        };
        exif.first = exif.directory(exif.long(4)?)?;
        Some(exif)
    }

    /// The block for the picture as it is now: upright, of that size, and without the thumbnail
    /// of the old one.
    pub(super) fn of_shrunk(mut self, width: u32, height: u32) -> Vec<u8> {
        let below = |tag| {
            let entry = self.first.entry(tag)?;
            self.directory(self.number(entry)?)
        };
        let exif = below(EXIF_DIRECTORY);
        let gps = below(GPS_DIRECTORY);
        let interoperability = exif
            .as_ref()
            .and_then(|exif| self.number(exif.entry(INTEROPERABILITY_DIRECTORY)?))
            .and_then(|at| self.directory(at));

        let kept = [Some(&self.first), exif.as_ref(), gps.as_ref()]
            .into_iter()
            .chain([interoperability.as_ref()])
            .flatten()
            .flat_map(|directory| self.extent(directory))
            .chain(iter::once(0..HEADER));
        let kept = merged(kept.collect());
        self.drop_thumbnail(&kept);

        let directories = [Some(self.first.clone()), exif];
        for entry in directories.iter().flatten().flat_map(|it| &it.entries) {
            match entry.tag {
                ORIENTATION => self.write(entry, 1),
                IMAGE_WIDTH | PIXEL_X_DIMENSION => self.write(entry, width),
                IMAGE_LENGTH | PIXEL_Y_DIMENSION => self.write(entry, height),
                _ => {}
            }
        }
        self.tiff
    }

    /// Empties what only the directories behind the first one use.
    fn drop_thumbnail(&mut self, kept: &[Range<usize>]) {
        let Some(thumbnail) = self
            .long(self.first.next_at)
            .and_then(|at| self.directory(at))
        else {
            self.put(self.first.next_at, &[0; 4]);
            return;
        };
        let gone: Vec<_> = self
            .extent(&thumbnail)
            .chain(self.pixels(&thumbnail))
            .collect();
        let kept_bytes: Vec<_> = kept
            .iter()
            .map(|range| self.tiff[range.clone()].to_vec())
            .collect();
        for range in merged(gone) {
            self.tiff[range].fill(0);
        }
        for (range, bytes) in kept.iter().zip(kept_bytes) {
            self.tiff[range.clone()].copy_from_slice(&bytes);
        }
        self.put(self.first.next_at, &[0; 4]);
        let end = kept.last().map_or(0, |range| range.end);
        if self.tiff[end..].iter().all(|byte| *byte == 0) {
            self.tiff.truncate(end);
        }
    }

    fn directory(&self, at: u32) -> Option<Directory> {
        let at = usize::try_from(at).ok()?;
        let count = usize::from(self.short(at)?);
        let end = at + 2 + count * ENTRY;
        let entries = (0..count).map(|index| {
            let at = at + 2 + index * ENTRY;
            Some(Entry {
                tag: self.short(at)?,
                kind: self.short(at + 2)?,
                count: self.long(at + 4)?,
                value_at: at + 8,
            })
        });
        Some(Directory {
            entries: entries.collect::<Option<_>>()?,
            at: at..(end + 4).min(self.tiff.len()),
            next_at: end,
        })
    }

    /// What a directory covers, its values included.
    fn extent<'a>(&'a self, directory: &'a Directory) -> impl Iterator<Item = Range<usize>> + 'a {
        let values = directory.entries.iter().filter_map(|entry| {
            let size = entry.size()?;
            (size > 4).then(|| self.range(self.long(entry.value_at)?, size))?
        });
        values.chain([directory.at.clone()])
    }

    /// A thumbnail itself.
    fn pixels(&self, directory: &Directory) -> Vec<Range<usize>> {
        let numbers = |tag| {
            directory
                .entry(tag)
                .map(|entry| self.numbers(entry))
                .unwrap_or_default()
        };
        [
            (THUMBNAIL, THUMBNAIL_LENGTH),
            (STRIP_OFFSETS, STRIP_BYTE_COUNTS),
        ]
        .into_iter()
        .flat_map(|(places, sizes)| numbers(places).into_iter().zip(numbers(sizes)))
        .filter_map(|(at, size)| self.range(at, u64::from(size)))
        .collect()
    }

    /// As much of that as there is.
    fn range(&self, at: u32, size: u64) -> Option<Range<usize>> {
        let start = usize::try_from(at).ok()?;
        let end = start.saturating_add(usize::try_from(size).ok()?);
        (start < self.tiff.len()).then(|| start..end.min(self.tiff.len()))
    }

    /// The value of an entry that has one whole number.
    fn number(&self, entry: &Entry) -> Option<u32> {
        if entry.count != 1 {
            return None;
        }
        self.numbers(entry).first().copied()
    }

    fn numbers(&self, entry: &Entry) -> Vec<u32> {
        let Some((size, width)) = entry.size().zip(entry.width()) else {
            return Vec::new();
        };
        let values = match size {
            0..=4 => Some(entry.value_at..entry.value_at + 4),
            _ => self
                .long(entry.value_at)
                .and_then(|at| self.range(at, size)),
        };
        let count = usize::try_from(entry.count).unwrap_or(usize::MAX);
        values
            .into_iter()
            .flat_map(|values| values.step_by(width))
            .take(count)
            .map_while(|at| match width {
                1 => self.tiff.get(at).copied().map(u32::from),
                2 => self.short(at).map(u32::from),
                _ => self.long(at),
            })
            .collect()
    }

    /// Overwrites the value of an entry that has one whole number.
    fn write(&mut self, entry: &Entry, number: u32) {
        if entry.count != 1 {
            return;
        }
        let bytes = number.to_be_bytes();
        let mut bytes = match entry.width() {
            Some(width) => bytes[4 - width..].to_vec(),
            None => return,
        };
        if !self.is_big_endian {
            bytes.reverse();
        }
        self.put(entry.value_at, &bytes);
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(there) = self.tiff.get_mut(at..at + bytes.len()) {
            there.copy_from_slice(bytes);
        }
    }

    fn short(&self, at: usize) -> Option<u16> {
        let bytes = *self.tiff.get(at..)?.first_chunk()?;
        Some(match self.is_big_endian {
            true => u16::from_be_bytes(bytes),
            false => u16::from_le_bytes(bytes),
        })
    }

    fn long(&self, at: usize) -> Option<u32> {
        let bytes = *self.tiff.get(at..)?.first_chunk()?;
        Some(match self.is_big_endian {
            true => u32::from_be_bytes(bytes),
            false => u32::from_le_bytes(bytes),
        })
    }
}

impl Directory {
    fn entry(&self, tag: u16) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }
}

impl Entry {
    /// Of its value, in bytes (TIFF 6.0 §2, and IFD of TIFF technical note 1).
    fn size(&self) -> Option<u64> {
        let one = match self.kind {
            1 | 2 | 6 | 7 => 1,
            3 | 8 => 2,
            4 | 9 | 11 | 13 => 4,
            5 | 10 | 12 => 8,
            _ => return None,
        };
        Some(one * u64::from(self.count))
    }

    /// Of each number, in bytes; none where it has other things than whole numbers.
    fn width(&self) -> Option<usize> {
        match self.kind {
            1 => Some(1),
            3 => Some(2),
            4 | 13 => Some(4),
            _ => None,
        }
    }
}

/// The same places, in order and each once.
fn merged(mut ranges: Vec<Range<usize>>) -> Vec<Range<usize>> {
    ranges.sort_by_key(|range| range.start);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Little-endian: a first directory with orientation 6 and a size, a second one with a thumbnail.
    fn block(thumbnail: &[u8]) -> Vec<u8> {
        let entry = |tag: u16, kind: u16, value: u32| {
            let mut entry = [tag.to_le_bytes(), kind.to_le_bytes()].concat();
            entry.extend(1u32.to_le_bytes());
            entry.extend(value.to_le_bytes());
            entry
        };
        let length = u32::try_from(thumbnail.len()).expect("it is short");
        [
            b"II*\0\x08\0\0\0\x02\0".to_vec(),
            entry(IMAGE_WIDTH, 4, 4000),
            entry(ORIENTATION, 3, 6),
            38u32.to_le_bytes().to_vec(),
            b"\x02\0".to_vec(),
            entry(THUMBNAIL, 4, 68),
            entry(THUMBNAIL_LENGTH, 4, length),
            vec![0; 4],
            thumbnail.to_vec(),
        ]
        .concat()
    }

    #[test]
    fn a_block_becomes_that_of_the_small_picture() {
        let exif = Exif::read(&block(b"thumbnail")).expect("a whole block");
        let turn = |exif: &Exif| exif.number(exif.first.entry(ORIENTATION).expect("it stays"));
        assert_eq!(turn(&exif), Some(6));
        let block = exif.of_shrunk(20, 10);
        assert_eq!(block.len(), 38, "what stood behind the directory is gone");
        let exif = Exif::read(&block).expect("a whole block");
        assert_eq!(turn(&exif), Some(1));
        let width = exif.first.entry(IMAGE_WIDTH).expect("it stays");
        assert_eq!(exif.number(width), Some(20));
        assert_eq!(exif.long(exif.first.next_at), Some(0));
    }

    #[test]
    fn a_thumbnail_goes_from_between_what_stays() {
        let mut block = block(b"thumbnail");
        block.extend(b"maker's");
        let changed = Exif::read(&block).expect("a whole block").of_shrunk(20, 10);
        assert_eq!(changed.len(), block.len(), "nothing moves");
        assert!(changed.ends_with(b"maker's"));
        assert!(changed[38..77].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_thumbnail_that_claims_what_others_need_takes_nothing_of_it() {
        let mut block = block(b"thumbnail");
        // It claims to begin at the block's own.
        block[48..52].fill(0);
        block[60..64].copy_from_slice(&77u32.to_le_bytes());
        let changed = Exif::read(&block).expect("a whole block").of_shrunk(20, 10);
        let exif = Exif::read(&changed).expect("a whole block");
        assert_eq!(exif.first.entries.len(), 2);
    }

    proptest! {
        #[test]
        fn whatever_a_block_says_it_is_read_or_not(
            changes in prop::collection::vec((0..77usize, any::<u8>()), 0..12),
            length in 0..78usize,
        ) {
            let mut block = block(b"thumbnail");
            for (at, byte) in changes {
                block[at] = byte;
            }
            block.truncate(length);
            if let Some(exif) = Exif::read(&block) {
                let length = block.len();
                prop_assert!(exif.of_shrunk(20, 10).len() <= length);
            }
        }
    }
}
