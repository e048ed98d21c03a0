//! WebP (RFC 9649): a RIFF file's chunks.

use std::{iter, ops::Range};

use super::{Unusable, foreign, inspect::Size, trailer};

/// `RIFF`, the size, `WEBP`.
pub(super) const HEAD: usize = 12;
/// What stands before a chunk's data: type, length.
pub(super) const CHUNK_HEAD: usize = 8;
/// What stands in a frame before its own chunks: place, size, duration, flags.
pub(super) const FRAME_HEAD: usize = 16;

/// One chunk.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub kind: [u8; 4],
    pub start: usize,
    pub data: Range<usize>,
    /// With the byte that makes it even.
    pub end: usize,
}

/// The chunk at that place and before that end; none where there is none that is whole.
pub(super) fn chunk(bytes: &[u8], at: usize, end: usize) -> Option<Chunk> {
    let head: &[u8; 8] = bytes.get(at..end)?.first_chunk()?;
    let [kind @ .., l1, l2, l3, l4] = *head;
    let length = u32::from_le_bytes([l1, l2, l3, l4]) as usize;
    let data = at + CHUNK_HEAD..(at + CHUNK_HEAD).checked_add(length)?;
    // Some writers leave out the last byte that makes it even.
    let padded = data.end.checked_add(length % 2)?;
    let is_sound = data.end <= end && kind.iter().all(|it| (b' '..=b'~').contains(it));
    is_sound.then_some(Chunk {
        kind,
        start: at,
        data,
        end: padded.min(end),
    })
}

/// Where the file says that it ends.
pub(super) fn end(bytes: &[u8]) -> Option<usize> {
    let size = u32::from_le_bytes(*bytes.get(4..)?.first_chunk()?) as usize;
    let end = size.checked_add(8)?;
    (HEAD..=bytes.len()).contains(&end).then_some(end)
}

/// The types and data of a file's chunks, as far as they are whole.
pub(super) fn chunks(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let end = end(bytes).unwrap_or_default();
    let mut at = HEAD;
    iter::from_fn(move || {
        let chunk = chunk(bytes, at, end)?;
        at = chunk.end;
        Some((chunk.kind, &bytes[chunk.data]))
    })
}

/// Whether a file is a WebP.
pub(super) fn inspect(bytes: &[u8], max_pixels: u64) -> Result<Size, Unusable> {
    // The header first: what is too large is told so, even where it is cut.
    let canvas = canvas(bytes.get(HEAD..).unwrap_or_default(), max_pixels)?;
    let end = end(bytes).ok_or(Unusable::Damaged)?;
    let mut at = HEAD;
    let mut has_pixels = false;
    while at < end {
        let chunk = chunk(bytes, at, end).ok_or(Unusable::Damaged)?;
        let data = &bytes[chunk.data];
        match &chunk.kind {
            b"VP8 " | b"VP8L" => {
                if has_pixels || frame(&chunk.kind, data, max_pixels)? != canvas {
                    return Err(Unusable::Damaged);
                }
                has_pixels = true;
            }
            b"ANMF" => {
                check_frame(data, canvas, max_pixels)?;
                has_pixels = true;
            }
            b"VP8X" if at > HEAD => return Err(Unusable::Damaged),
            b"ALPH" => {}
            _ => foreign::check(data)?,
        }
        at = chunk.end;
    }
    if !has_pixels {
        return Err(Unusable::Damaged);
    }
    trailer::check(bytes, end, false)?;
    Ok(canvas)
}

fn canvas(chunks: &[u8], max_pixels: u64) -> Result<Size, Unusable> {
    let (kind, data) = chunks
        .split_first_chunk::<4>()
        .and_then(|(kind, rest)| Some((kind, rest.get(4..)?)))
        .ok_or(Unusable::Damaged)?;
    match (kind, data) {
        (b"VP8X", &[_, _, _, _, w1, w2, w3, h1, h2, h3, ..]) => {
            let side = |bytes: [u8; 4]| u32::from_le_bytes(bytes) + 1;
            Size::within(max_pixels, side([w1, w2, w3, 0]), side([h1, h2, h3, 0]))
        }
        (b"VP8 " | b"VP8L", _) => frame(kind, data, max_pixels),
        _ => Err(Unusable::Damaged),
    }
}

/// The size in a bitstream's own header.
fn frame(kind: &[u8; 4], data: &[u8], max_pixels: u64) -> Result<Size, Unusable> {
    const SIDE: u32 = 0x3FFF;
    match (kind, data) {
        // RFC 6386 §9.1; the first bit says that it is a key frame.
        (b"VP8 ", &[tag, _, _, 0x9D, 0x01, 0x2A, w1, w2, h1, h2, ..]) if tag & 1 == 0 => {
            let side = |bytes| u32::from(u16::from_le_bytes(bytes)) & SIDE;
            Size::within(max_pixels, side([w1, w2]), side([h1, h2]))
        }
        // RFC 9649 §3.4: two sides less one, of 14 bits each, and a version of 0.
        (b"VP8L", &[0x2F, b1, b2, b3, b4, ..]) if b4 >> 5 == 0 => {
            let bits = u32::from_le_bytes([b1, b2, b3, b4]);
            Size::within(max_pixels, (bits & SIDE) + 1, ((bits >> 14) & SIDE) + 1)
        }
        _ => Err(Unusable::Damaged),
    }
}

/// A frame of an animation: chunks behind a head, within the canvas.
fn check_frame(data: &[u8], canvas: Size, max_pixels: u64) -> Result<(), Unusable> {
    let mut at = FRAME_HEAD;
    let mut has_pixels = false;
    while at < data.len() {
        let chunk = chunk(data, at, data.len()).ok_or(Unusable::Damaged)?;
        let content = &data[chunk.data];
        match &chunk.kind {
            b"VP8 " | b"VP8L" => {
                let size = frame(&chunk.kind, content, max_pixels)?;
                if size.width > canvas.width || size.height > canvas.height {
                    return Err(Unusable::Damaged);
                }
                has_pixels = true;
            }
            b"ALPH" => {}
            _ => foreign::check(content)?,
        }
        at = chunk.end;
    }
    has_pixels.then_some(()).ok_or(Unusable::Damaged)
}
