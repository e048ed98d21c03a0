//! WebP chunks that stay: the picture's, its animation's, its colours' and EXIF.

use super::{Compaction, Exif, Stripped, Unusable};
use crate::images::webp::{self, CHUNK_HEAD, Chunk, FRAME_HEAD, HEAD};

/// `VP8X` says what there is (RFC 9649 §2.7.1).
const HAS_EXIF: u8 = 0x08;
const HAS_XMP: u8 = 0x04;

pub(super) fn strip(image: &mut [u8], mut exif: Exif) -> Result<Stripped, Unusable> {
    let end = webp::end(image).ok_or(Unusable::Damaged)?;
    let mut kept = Compaction::of(image, HEAD);
    let mut at = HEAD;
    let mut has_exif = false;
    while at < end {
        let chunk = webp::chunk(kept.image, at, end).ok_or(Unusable::Damaged)?;
        match &chunk.kind {
            b"ANMF" => keep_frame(&mut kept, &chunk)?,
            b"VP8X" | b"ICCP" | b"ANIM" | b"ALPH" | b"VP8 " | b"VP8L" => {
                kept.keep(chunk.start..chunk.end);
            }
            _ => {
                let most = room(&kept, chunk.end);
                has_exif |= put(&mut kept, exif.whole(most));
            }
        }
        at = chunk.end;
    }
    let most = room(&kept, end);
    has_exif |= put(&mut kept, exif.rest(most));
    correct_head(&mut kept, has_exif);
    Ok(kept.finish())
}

/// For an EXIF block, where what was read ends there. An odd length is made even.
fn room(kept: &Compaction<'_>, read: usize) -> usize {
    kept.room(read).saturating_sub(CHUNK_HEAD) & !1
}

/// Whether it was put.
fn put(kept: &mut Compaction<'_>, exif: Option<Vec<u8>>) -> bool {
    let Some(tiff) = exif else {
        return false;
    };
    kept.put(&framed(*b"EXIF", &tiff));
    true
}

/// A frame, without the chunks in it that nobody knows.
fn keep_frame(kept: &mut Compaction<'_>, frame: &Chunk) -> Result<(), Unusable> {
    let length_at = kept.done + 4;
    let content = frame.data.start + FRAME_HEAD;
    if content > frame.data.end {
        return Err(Unusable::Damaged);
    }
    kept.keep(frame.start..content);
    let begin = kept.done - FRAME_HEAD;
    let mut at = content;
    while at < frame.data.end {
        let chunk = webp::chunk(kept.image, at, frame.data.end).ok_or(Unusable::Damaged)?;
        if matches!(&chunk.kind, b"ALPH" | b"VP8 " | b"VP8L") {
            kept.keep(chunk.start..chunk.end);
        }
        at = chunk.end;
    }
    let length = kept.done - begin;
    write(kept, length_at, length);
    if !length.is_multiple_of(2) && frame.end > frame.data.end {
        kept.keep(frame.data.end..frame.end);
    }
    Ok(())
}

/// The file's size, and what its first chunk says is there.
fn correct_head(kept: &mut Compaction<'_>, has_exif: bool) {
    let size = kept.done - 8;
    write(kept, 4, size);
    let flags_at = HEAD + CHUNK_HEAD;
    if kept.image[HEAD..].starts_with(b"VP8X") {
        let flags = kept.image[flags_at] & !(HAS_EXIF | HAS_XMP);
        let exif = if has_exif { HAS_EXIF } else { 0 };
        kept.changed |= kept.image[flags_at] != flags | exif;
        kept.image[flags_at] = flags | exif;
    }
}

fn write(kept: &mut Compaction<'_>, at: usize, number: usize) {
    let number = u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
    kept.changed |= kept.image[at..at + 4] != number;
    kept.image[at..at + 4].copy_from_slice(&number);
}

fn framed(kind: [u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut framed = kind.to_vec();
    framed.extend_from_slice(&length.to_le_bytes());
    framed.extend_from_slice(data);
    if !data.len().is_multiple_of(2) {
        framed.push(0);
    }
    framed
}
