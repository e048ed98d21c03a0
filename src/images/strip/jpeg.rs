//! JPEG segments that stay: tables, frames and scans, JFIF, EXIF, ICC profiles and Adobe's colour transform.

use super::{Compaction, Exif, Stripped, Unusable};
use crate::images::jpeg::{
    self, ADOBE, APP0, APP1, APP2, APP14, APP15, COMMENT, END, JFIF, START, START_OF_SCAN,
};

/// A marker and a length.
const SEGMENT_HEAD: usize = 4;

pub(super) fn strip(image: &mut [u8], mut exif: Exif) -> Result<Stripped, Unusable> {
    let mut kept = Compaction::of(image, START.len());
    let mut at = START.len();
    loop {
        let piece = jpeg::piece(kept.image, at).ok_or(Unusable::Damaged)?;
        let payload = &kept.image[piece.payload.clone()];
        match piece.marker {
            // Without its thumbnail, which is nobody's.
            APP0 if payload.starts_with(b"JFIF\0") && payload.len() >= JFIF + 2 => {
                let segment = segment(APP0, &[&payload[..JFIF], &[0, 0]]);
                kept.put(&segment);
            }
            APP2 if payload.starts_with(b"ICC_PROFILE\0") => kept.keep(piece.start..piece.end),
            APP14 if payload.starts_with(b"Adobe") && payload.len() >= ADOBE => {
                let segment = segment(APP14, &[&payload[..ADOBE]]);
                kept.put(&segment);
            }
            // From F0 to FD they are reserved for extensions that no decoder of photos has.
            APP0..=APP15 | 0xF0..=COMMENT => {
                let most = room(&kept, piece.end);
                put(&mut kept, exif.whole(most));
            }
            START_OF_SCAN => {
                let most = room(&kept, piece.start);
                put(&mut kept, exif.rest(most));
                kept.keep(piece.start..piece.end);
            }
            END => {
                kept.keep(piece.start..piece.end);
                return Ok(kept.finish());
            }
            _ => kept.keep(piece.start..piece.end),
        }
        at = piece.end;
    }
}

/// For an EXIF block, where what was read ends there.
fn room(kept: &Compaction<'_>, read: usize) -> usize {
    let most = kept.room(read).min(2 + usize::from(u16::MAX));
    most.saturating_sub(SEGMENT_HEAD + jpeg::EXIF.len())
}

fn put(kept: &mut Compaction<'_>, exif: Option<Vec<u8>>) {
    if let Some(tiff) = exif {
        kept.put(&segment(APP1, &[jpeg::EXIF, &tiff]));
    }
}

fn segment(marker: u8, payload: &[&[u8]]) -> Vec<u8> {
    let payload = payload.concat();
    let length = u16::try_from(payload.len() + 2).unwrap_or(u16::MAX);
    let mut segment = vec![0xFF, marker];
    segment.extend_from_slice(&length.to_be_bytes());
    segment.extend_from_slice(&payload);
    segment
}
