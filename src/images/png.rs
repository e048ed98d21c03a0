//! PNG (RFC 2083, W3C PNG third edition): chunks.

use std::{iter, ops::Range};

use super::{Unusable, foreign, inspect::Size, trailer};

pub(super) const SIGNATURE: usize = 8;
/// What a chunk has around its data: length, type, CRC.
pub(super) const FRAME: usize = 12;

/// One chunk.
#[derive(Debug, Clone)]
pub(super) struct Chunk {
    pub kind: [u8; 4],
    pub start: usize,
    pub data: Range<usize>,
    pub end: usize,
}

/// The chunk at that place; none where there is none that is whole.
pub(super) fn chunk(bytes: &[u8], at: usize) -> Option<Chunk> {
    let head: &[u8; 8] = bytes.get(at..)?.first_chunk()?;
    let [l1, l2, l3, l4, kind @ ..] = *head;
    let length = u32::from_be_bytes([l1, l2, l3, l4]) as usize;
    let data = at + 8..(at + 8).checked_add(length)?;
    let end = data.end.checked_add(4)?;
    let is_sound = end <= bytes.len() && kind.iter().all(u8::is_ascii_alphabetic);
    is_sound.then_some(Chunk {
        kind,
        start: at,
        data,
        end,
    })
}

/// The types and data of the chunks before the last one, as far as they are whole.
pub(super) fn chunks(bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut at = SIGNATURE;
    iter::from_fn(move || {
        let chunk = chunk(bytes, at).filter(|chunk| chunk.kind != *b"IEND")?;
        at = chunk.end;
        Some((chunk.kind, &bytes[chunk.data]))
    })
}

/// A chunk's type and data with their length and CRC.
pub(super) fn framed(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut framed = Vec::with_capacity(data.len() + FRAME);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(&kind);
    framed.extend_from_slice(data);
    let crc = crc32fast::hash(&framed[4..]);
    framed.extend_from_slice(&crc.to_be_bytes());
    framed
}

/// Whether a chunk is as it was written, where it has a part in the picture (W3C PNG §5.3, §5.4). Programs that change
/// what only describes the picture have been careless with its CRC.
fn check_crc(bytes: &[u8], chunk: &Chunk) -> Result<(), Unusable> {
    // It covers the type too.
    let is_whole = || {
        let crc = crc32fast::hash(&bytes[chunk.start + 4..chunk.data.end]);
        bytes[chunk.data.end..chunk.end] == crc.to_be_bytes()
    };
    if chunk.kind[0].is_ascii_uppercase() && !is_whole() {
        return Err(Unusable::Chunk(chunk.kind));
    }
    Ok(())
}

/// Whether a file is a PNG.
pub(super) fn inspect(bytes: &[u8], max_pixels: u64) -> Result<Size, Unusable> {
    let first = chunk(bytes, SIGNATURE).ok_or(Unusable::Damaged)?;
    let size = header_size(bytes, &first, max_pixels)?;
    let mut at = first.end;
    let mut has_pixels = false;
    loop {
        let chunk = chunk(bytes, at).ok_or(Unusable::Damaged)?;
        check_crc(bytes, &chunk)?;
        match &chunk.kind {
            b"IHDR" => return Err(Unusable::Damaged),
            b"IDAT" => has_pixels |= !chunk.data.is_empty(),
            b"fdAT" => {}
            b"IEND" if has_pixels && chunk.data.is_empty() => {
                trailer::check(bytes, chunk.end, false)?;
                return Ok(size);
            }
            b"IEND" => return Err(Unusable::Damaged),
            _ => foreign::check(&bytes[chunk.data])?,
        }
        at = chunk.end;
    }
}

fn header_size(bytes: &[u8], first: &Chunk, max_pixels: u64) -> Result<Size, Unusable> {
    let header = &bytes[first.data.clone()];
    if first.kind != *b"IHDR" {
        return Err(Unusable::Damaged);
    }
    check_crc(bytes, first)?;
    let &[w1, w2, w3, w4, h1, h2, h3, h4, depth, colour, 0, 0, 0 | 1] = header else {
        return Err(Unusable::Damaged);
    };
    let is_sane = match colour {
        0 => matches!(depth, 1 | 2 | 4 | 8 | 16),
        2 | 4 | 6 => matches!(depth, 8 | 16),
        3 => matches!(depth, 1 | 2 | 4 | 8),
        _ => false,
    };
    let width = u32::from_be_bytes([w1, w2, w3, w4]);
    let height = u32::from_be_bytes([h1, h2, h3, h4]);
    if !is_sane || width.max(height) > i32::MAX as u32 {
        return Err(Unusable::Damaged);
    }
    Size::within(max_pixels, width, height)
}
