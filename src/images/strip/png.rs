//! PNG chunks that stay: the picture's, its animation's, its colours', EXIF and, where only the place goes, the time.

use super::{Compaction, Exif, Stripped, Unusable};
use crate::images::Metadata;
use crate::images::png::{self, FRAME, SIGNATURE};

const PICTURE: [&[u8; 4]; 20] = [
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT", b"cHRM", b"gAMA",
    b"iCCP", b"sBIT", b"sRGB", b"cICP", b"mDCV", b"cLLI", b"bKGD", b"hIST", b"pHYs", b"sPLT",
];

pub(super) fn strip(
    image: &mut [u8],
    mut exif: Exif,
    metadata: Metadata,
) -> Result<Stripped, Unusable> {
    let mut kept = Compaction::of(image, SIGNATURE);
    let mut at = SIGNATURE;
    loop {
        let chunk = png::chunk(kept.image, at).ok_or(Unusable::Damaged)?;
        let is_last = chunk.kind == *b"IEND";
        let stays = match &chunk.kind {
            b"tIME" => metadata == Metadata::StripLocation,
            kind => PICTURE.contains(&kind),
        };
        if is_last {
            let most = kept.room(chunk.start).saturating_sub(FRAME);
            put(&mut kept, exif.rest(most));
        } else if !stays {
            let most = kept.room(chunk.end).saturating_sub(FRAME);
            put(&mut kept, exif.whole(most));
        }
        if stays {
            kept.keep(chunk.start..chunk.end);
        }
        if is_last {
            return Ok(kept.finish());
        }
        at = chunk.end;
    }
}

fn put(kept: &mut Compaction<'_>, exif: Option<Vec<u8>>) {
    if let Some(tiff) = exif {
        kept.put(&png::framed(*b"eXIf", &tiff));
    }
}
