//! JPEG segments that stay: tables, frames and scans, JFIF, EXIF, ICC profiles and Adobe's colour transform.

use bytes::BytesMut;

use super::{Compaction, Exif, Unusable};
use crate::images::jpeg::{self, ADOBE, APP0, APP1, APP2, APP14, APP15, COMMENT, END, JFIF, START};

/// A marker and a length.
const SEGMENT_HEAD: usize = 4;

pub(super) fn strip(image: &mut BytesMut, exif: Exif) -> Result<bool, Unusable> {
    let mut kept = Compaction::of(image, START.len());
    let mut at = START.len();
    let mut has_exif = false;
    loop {
        let piece = jpeg::piece(kept.image, at).ok_or(Unusable::Damaged)?;
        let payload = &kept.image[piece.payload.clone()];
        match piece.marker {
            // Without its thumbnail, which is nobody's.
            APP0 if payload.starts_with(b"JFIF\0") && payload.len() >= JFIF + 2 => {
                let segment = segment(APP0, &[&payload[..JFIF], &[0, 0]]);
                kept.put(&segment);
            }
            APP1 if !has_exif && payload.starts_with(jpeg::EXIF) => {
                let most = kept.room(piece.end) - SEGMENT_HEAD - jpeg::EXIF.len();
                let most = most.min(usize::from(u16::MAX) - 2 - jpeg::EXIF.len());
                if let Some(tiff) = exif.of(&payload[jpeg::EXIF.len()..], most) {
                    let segment = segment(APP1, &[jpeg::EXIF, &tiff]);
                    kept.put(&segment);
                    has_exif = true;
                }
            }
            APP2 if payload.starts_with(b"ICC_PROFILE\0") => kept.keep(piece.start..piece.end),
            APP14 if payload.starts_with(b"Adobe") && payload.len() >= ADOBE => {
                let segment = segment(APP14, &[&payload[..ADOBE]]);
                kept.put(&segment);
            }
            APP0..=APP15 | COMMENT => {}
            // Reserved for extensions that no decoder of photos has.
            0xF0..=0xFD => {}
            END => {
                kept.keep(piece.start..piece.end);
                return Ok(kept.finish());
            }
            _ => kept.keep(piece.start..piece.end),
        }
        at = piece.end;
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
