//! What may stand behind an image's end: what cameras put there, and nothing that is a file of its own.

use super::{Unusable, foreign, jpeg};

/// How programs, archives, documents and pictures begin.
const FILES: [&[u8]; 24] = [
    b"PK\x03\x04",
    b"PK\x05\x06",
    b"\x7FELF",
    b"MZ",
    b"\xFE\xED\xFA\xCE",
    b"\xFE\xED\xFA\xCF",
    b"\xCE\xFA\xED\xFE",
    b"\xCF\xFA\xED\xFE",
    b"\xCA\xFE\xBA\xBE",
    b"asm\x01",
    b"dex\n",
    b"#!",
    b"\x1F\x8B\x08",
    b"BZh",
    b"\xFD7zXZ",
    b"\x28\xB5\x2F\xFD",
    b"\xD0\xCF\x11\xE0",
    b"{\\rtf",
    b"SQLite format 3",
    b"\xFF\xD8\xFF",
    b"\x89PNG",
    b"GIF8",
    b"RIFF",
    b"II*",
];

/// What a video is made of at its top (ISO/IEC 14496-12), as a motion photo has it appended.
const VIDEO_BOXES: [&[u8; 4]; 11] = [
    b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"uuid", b"meta", b"moof", b"mfra",
    b"udta",
];

/// Looks at what is behind an image's end: padding, further JPEGs behind a JPEG, a motion photo's video, and what phones
/// and programs append. Previews, gain maps and depth maps are announced in many ways, or in none.
///
/// # Errors
/// It is a file of another kind, or is cut off.
pub(super) fn check(bytes: &[u8], end: usize, is_jpeg: bool) -> Result<(), Unusable> {
    let mut at = end;
    loop {
        at += padding(bytes.get(at..).ok_or(Unusable::Damaged)?);
        let rest = &bytes[at..];
        if rest.is_empty() {
            return Ok(());
        }
        if is_jpeg && rest.starts_with(&jpeg::START) {
            at = jpeg::walk(bytes, at, u64::MAX)?.end;
        } else if rest.get(4..8) == Some(b"ftyp") {
            at += video(rest)?;
        } else {
            return check_unknown(rest);
        }
    }
}

/// Phones and programs append data of their own, and new ones always will: it is theirs, unless it is a
/// file of another kind.
fn check_unknown(rest: &[u8]) -> Result<(), Unusable> {
    foreign::check(rest)?;
    let is_file = FILES.iter().any(|begin| rest.starts_with(begin));
    if is_file {
        return Err(Unusable::Polyglot);
    }
    Ok(())
}

/// Fill bytes and line ends. The first of a video's are its first box's size.
fn padding(rest: &[u8]) -> usize {
    const SIZE: usize = 3;
    let is_padding = |it: &&u8| matches!(**it, 0 | b'\r' | b'\n');
    let length = rest.iter().take_while(is_padding).count();
    let is_size = rest[length..].get(1..5) == Some(b"ftyp");
    length.saturating_sub(if is_size { SIZE } else { 0 })
}

/// How many bytes are a video's, which has an index and what that is of.
fn video(rest: &[u8]) -> Result<usize, Unusable> {
    let mut at = 0;
    let (mut has_index, mut has_data) = (false, false);
    while let Some(head) = rest.get(at..at + 8) {
        if !VIDEO_BOXES.iter().any(|it| head.ends_with(*it)) {
            break;
        }
        let size = box_size(&rest[at..]).ok_or(Unusable::Damaged)?;
        let content = rest.get(at..at + size).ok_or(Unusable::Damaged)?;
        foreign::check(content)?;
        has_index |= head.ends_with(b"moov");
        has_data |= head.ends_with(b"mdat");
        at += size;
    }
    (has_index && has_data)
        .then_some(at)
        .ok_or(Unusable::Damaged)
}

/// The size of the box there, of which 8 bytes are there at least.
pub(super) fn box_size(rest: &[u8]) -> Option<usize> {
    let short = u32::from_be_bytes(*rest.first_chunk()?);
    let (size, least) = match short {
        0 => (rest.len(), 8),
        1 => {
            let long = u64::from_be_bytes(*rest.get(8..)?.first_chunk()?);
            (usize::try_from(long).ok()?, 16)
        }
        size => (size as usize, 8),
    };
    (least..=rest.len()).contains(&size).then_some(size)
}
