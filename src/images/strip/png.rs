//! PNG chunks that stay: the picture's, its animation's, its colours', EXIF and, where only the place goes, the time.

use bytes::BytesMut;

use super::{Compaction, Exif, Unusable};
use crate::images::png::{self, FRAME, SIGNATURE};

const PICTURE: [&[u8; 4]; 20] = [
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"cHRM", b"gAMA",
    b"iCCP", b"sBIT", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"bKGD", b"hIST", b"pHYs", b"sPLT",
];

pub(super) fn strip(image: &mut BytesMut, exif: Exif) -> Result<bool, Unusable> {
    let mut kept = Compaction::of(image, SIGNATURE);
    let mut at = SIGNATURE;
    let mut has_exif = false;
    loop {
        let chunk = png::chunk(kept.image, at).ok_or(Unusable::Damaged)?;
        match &chunk.kind {
            b"eXIf" if !has_exif => {
                let most = kept.room(chunk.end) - FRAME;
                let data = &kept.image[chunk.data];
                let tiff = data.strip_prefix(b"Exif\0\0").unwrap_or(data);
                if let Some(tiff) = exif.of(tiff, most) {
                    kept.put(&png::framed(*b"eXIf", &tiff));
                    has_exif = true;
                }
            }
            b"tIME" if exif == Exif::WithoutLocation => kept.keep(chunk.start..chunk.end),
            kind if PICTURE.contains(&kind) => kept.keep(chunk.start..chunk.end),
            _ => {}
        }
        if chunk.kind == *b"IEND" {
            return Ok(kept.finish());
        }
        at = chunk.end;
    }
}
