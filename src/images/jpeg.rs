//! JPEG (ITU T.81): segments, scans, the end.

use std::{iter, ops::Range};

use super::{Unusable, foreign, inspect::Size, trailer};

pub(super) const APP0: u8 = 0xE0;
pub(super) const APP1: u8 = 0xE1;
pub(super) const APP2: u8 = 0xE2;
pub(super) const APP14: u8 = 0xEE;
pub(super) const APP15: u8 = 0xEF;
pub(super) const COMMENT: u8 = 0xFE;
pub(super) const END: u8 = 0xD9;
pub(super) const START: [u8; 2] = [0xFF, 0xD8];
pub(super) const START_OF_SCAN: u8 = 0xDA;

/// What begins an EXIF segment (CIPA DC-008 §4.7.2).
pub(super) const EXIF: &[u8] = b"Exif\0\0";

/// The length of JFIF's parameters without its thumbnail's size, and of Adobe's.
pub(super) const JFIF: usize = 12;
pub(super) const ADOBE: usize = 12;

/// More than any encoder writes. Each costs a decoder a pass over all pixels.
const MOST_SCANS: usize = 100;

/// Bytes of a scan that are looked at together.
const BLOCK: usize = 64;

/// Sequential and progressive with Huffman codes. The others aren't for photos, and no browser
/// shows them.
const FRAMES: [u8; 3] = [0xC0, 0xC1, 0xC2];

/// A marker with what belongs to it: a segment, a scan with its data, or the end.
#[derive(Debug, Clone)]
pub(super) struct Piece {
    pub marker: u8,
    /// Where its marker's FF is.
    pub start: usize,
    /// The segment's parameters.
    pub payload: Range<usize>,
    /// Where the next piece begins.
    pub end: usize,
}

/// The piece at that place; none where there is none that is whole.
pub(super) fn piece(bytes: &[u8], at: usize) -> Option<Piece> {
    let filled = bytes
        .get(at..)?
        .iter()
        .take_while(|it| **it == 0xFF)
        .count();
    let marker_at = at + filled;
    let marker = *bytes.get(marker_at)?;
    // T.81 table B.1: 00 is a stuffed byte, the others are reserved or stand alone.
    if filled == 0 || marker < 0xC0 || (0xD0..=0xD8).contains(&marker) {
        return None;
    }
    let start = marker_at - 1;
    let behind = marker_at + 1;
    if marker == END {
        return Some(Piece {
            marker,
            start,
            payload: behind..behind,
            end: behind,
        });
    }
    let length = u16::from_be_bytes(*bytes.get(behind..)?.first_chunk()?);
    let payload = behind + 2..behind + usize::from(length);
    bytes.get(payload.clone())?;
    let end = match marker {
        START_OF_SCAN => scan_end(bytes, payload.end)?,
        _ => payload.end,
    };
    Some(Piece {
        marker,
        start,
        payload,
        end,
    })
}

/// What segments of that marker say before the first scan.
pub(super) fn before_scans(bytes: &[u8], marker: u8) -> impl Iterator<Item = &[u8]> {
    let mut at = START.len();
    iter::from_fn(move || {
        loop {
            let piece = piece(bytes, at)?;
            if matches!(piece.marker, START_OF_SCAN | END) {
                return None;
            }
            at = piece.end;
            if piece.marker == marker {
                return bytes.get(piece.payload);
            }
        }
    })
}

/// Where entropy-coded data ends: every FF in it is stuffed or a restart marker's (T.81 §B.1.1.2). A second FF fills:
/// the marker follows the last.
fn scan_end(bytes: &[u8], from: usize) -> Option<usize> {
    let scan = bytes.get(from..)?;
    let ends =
        |first: u8, second: u8| (first == 0xFF) & !matches!(second, 0x00 | 0xD0..=0xD7 | 0xFF);
    // Whole blocks without a branch are what processors do many bytes of at once, and cost the same whatever they hold.
    let mut at = 0;
    while let (Some(first), Some(second)) = (
        scan[at..].first_chunk::<BLOCK>(),
        scan[at..].get(1..).and_then(<[u8]>::first_chunk::<BLOCK>),
    ) {
        let pairs = first.iter().zip(second);
        if pairs.fold(false, |any, (first, second)| any | ends(*first, *second)) {
            break;
        }
        at += BLOCK;
    }
    scan[at..]
        .windows(2)
        .position(|pair| ends(pair[0], pair[1]))
        .map(|behind| from + at + behind)
}

/// One image of a file, from start to end.
#[derive(Debug)]
pub(super) struct Image {
    pub size: Size,
    /// Where its end marker ends.
    pub end: usize,
}

/// Walks through the image that begins there.
///
/// # Errors
/// It is damaged, too large, or something else too.
pub(super) fn walk(bytes: &[u8], from: usize, max_pixels: u64) -> Result<Image, Unusable> {
    let mut at = from + START.len();
    let mut size = None;
    let mut scans = 0;
    loop {
        let piece = piece(bytes, at).ok_or(Unusable::Damaged)?;
        let payload = &bytes[piece.payload.clone()];
        match piece.marker {
            END if scans > 0 => {
                return Ok(Image {
                    size: size.ok_or(Unusable::Damaged)?,
                    end: piece.end,
                });
            }
            START_OF_SCAN => {
                scans += 1;
                let is_empty = piece.payload.end == piece.end;
                if size.is_none() || is_empty || scans > MOST_SCANS {
                    return Err(Unusable::Damaged);
                }
            }
            marker if FRAMES.contains(&marker) && size.is_none() => {
                size = Some(frame_size(payload, max_pixels)?);
            }
            // A second frame, one of another kind, or an end without a scan.
            END | 0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                return Err(Unusable::Damaged);
            }
            _ => foreign::check(payload)?,
        }
        at = piece.end;
    }
}

fn frame_size(header: &[u8], max_pixels: u64) -> Result<Size, Unusable> {
    let &[8 | 12, h1, h2, w1, w2, components, ref rest @ ..] = header else {
        return Err(Unusable::Damaged);
    };
    if !(1..=4).contains(&components) || rest.len() != 3 * usize::from(components) {
        return Err(Unusable::Damaged);
    }
    Size::within(
        max_pixels,
        u16::from_be_bytes([w1, w2]),
        u16::from_be_bytes([h1, h2]),
    )
}

/// Whether a file is a JPEG.
pub(super) fn inspect(bytes: &[u8], max_pixels: u64) -> Result<Size, Unusable> {
    let image = walk(bytes, 0, max_pixels)?;
    // A first segment of the length `/*` makes its head a name and a comment's begin in JavaScript.
    let is_comment = matches!(bytes, [_, _, _, _, b'/', b'*', ..]);
    if is_comment && foreign::ends_comment(bytes) {
        return Err(Unusable::Polyglot);
    }
    trailer::check(bytes, image.end, true)?;
    Ok(image.size)
}

/// A thumbnail up to its end, if it is a JPEG that has nothing to say but pixels.
pub(super) fn bare(bytes: &[u8]) -> Option<&[u8]> {
    if !bytes.starts_with(&START) {
        return None;
    }
    let image = walk(bytes, 0, u64::MAX).ok()?;
    let mut at = START.len();
    while at < image.end {
        let piece = piece(bytes, at)?;
        let payload = &bytes[piece.payload.clone()];
        let is_bare = match piece.marker {
            APP0 => payload.starts_with(b"JFIF\0") && payload.len() == JFIF + 2,
            APP14 => payload.starts_with(b"Adobe") && payload.len() == ADOBE,
            marker => marker < APP0,
        };
        if !is_bare {
            return None;
        }
        at = piece.end;
    }
    bytes.get(..image.end)
}
