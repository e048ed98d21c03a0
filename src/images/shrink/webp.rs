//! WebP (RFC 9649): lossy stays lossy, lossless stays lossless.

use std::io::Cursor;

use bytes::BufMut as _;
use image_webp::WebPDecoder;
use webp::{PixelLayout, WebPConfig};

use crate::in_flight::Buffer;

use super::{
    Fitted, Format, Shrink, Unusable,
    exif::Exif,
    picture::{Channels, Picture, Size},
};

/// With three planes beside the pixels, or a second copy of them.
pub(super) const BYTES_A_PIXEL: u64 = 7;

const HEADER: usize = 12;
const CHUNK_HEADER: usize = 8;
/// The extended header's flags.
const HAS_PROFILE: u8 = 0b0010_0000;
const HAS_ALPHA: u8 = 0b0001_0000;
const HAS_EXIF: u8 = 0b0000_1000;

pub(super) fn shrink(mut image: Buffer, size: Size, shrink: Shrink) -> Result<Fitted, Unusable> {
    let turn = super::turn(&image, Format::Webp);
    let mut decoder = WebPDecoder::new(Cursor::new(&image[..])).map_err(|_| Unusable::Damaged)?;
    if decoder.is_animated() {
        drop(decoder);
        return Ok(Fitted::AsItWas(image));
    }
    // No part that is copied out of a file is longer than the file.
    decoder.set_memory_limit(image.len());
    let channels = match decoder.has_alpha() {
        true => Channels::Rgba,
        false => Channels::Rgb,
    };
    let mut picture = Picture::blank(size, channels);
    if decoder.dimensions() != (size.width, size.height) {
        return Err(Unusable::Damaged);
    }
    decoder
        .read_image(&mut picture.pixels)
        .map_err(|_| Unusable::Damaged)?;
    let is_lossy = decoder.is_lossy();
    let profile = decoder.icc_profile().map_err(|_| Unusable::Damaged)?;
    let exif = decoder.exif_metadata().map_err(|_| Unusable::Damaged)?;
    let exif = exif.as_deref().and_then(Exif::read);
    drop(decoder);
    // The memory is needed now.
    image.clear();

    let picture = picture.fit(shrink.max_dimension, turn)?;
    let Size { width, height } = picture.size;
    let encoded = encode(&picture, is_lossy, shrink.quality)?;
    let exif = exif.map(|exif| exif.of_shrunk(width, height));
    let out = contain(&encoded, picture.size, profile.as_deref(), exif.as_deref())
        .ok_or(Unusable::Damaged)?;
    Ok(Fitted::shrunk(image, out, picture.size))
}

fn encode(picture: &Picture, is_lossy: bool, quality: u8) -> Result<webp::WebPMemory, Unusable> {
    let layout = match picture.channels {
        Channels::Rgba => PixelLayout::Rgba,
        _ => PixelLayout::Rgb,
    };
    let Size { width, height } = picture.size;
    let mut config = WebPConfig::new().map_err(|()| Unusable::Damaged)?;
    config.lossless = i32::from(!is_lossy);
    // Of a lossless picture it says how hard the encoder tries.
    config.quality = if is_lossy { f32::from(quality) } else { 50.0 };
    webp::Encoder::new(&picture.pixels, layout, width, height)
        .encode_advanced(&config)
        .map_err(|_| Unusable::Damaged)
}

/// Puts a picture into a file with what belongs to it (RFC 9649 §2.7).
fn contain(
    encoded: &[u8],
    size: Size,
    profile: Option<&[u8]>,
    exif: Option<&[u8]>,
) -> Option<Vec<u8>> {
    if profile.is_none() && exif.is_none() {
        return Some(encoded.into());
    }
    let chunks = encoded.get(HEADER..)?;
    // An encoder writes the extended header itself where it has an alpha plane to announce.
    let (has_alpha, pixels) = match chunks.get(..4)? {
        b"VP8X" => {
            let flags = *chunks.get(CHUNK_HEADER)?;
            (flags & HAS_ALPHA, chunks.get(CHUNK_HEADER + 10..)?)
        }
        // The alpha hint of a lossless picture: bit 28 behind the signature (RFC 9649 §3.4).
        b"VP8L" => (*chunks.get(CHUNK_HEADER + 4)? & HAS_ALPHA, chunks),
        _ => (0, chunks),
    };
    let mut flags = has_alpha;
    flags |= profile.map_or(0, |_| HAS_PROFILE);
    flags |= exif.map_or(0, |_| HAS_EXIF);

    let mut extended = vec![flags, 0, 0, 0];
    for side in [size.width, size.height] {
        extended.extend(&side.checked_sub(1)?.to_le_bytes()[..3]);
    }
    let beside = [profile, exif]
        .into_iter()
        .flatten()
        .map(<[u8]>::len)
        .sum::<usize>();
    let mut out = Vec::with_capacity(encoded.len() + beside + 64);
    out.put_slice(b"RIFF\0\0\0\0WEBP");
    put_chunk(&mut out, *b"VP8X", &extended)?;
    if let Some(profile) = profile {
        put_chunk(&mut out, *b"ICCP", profile)?;
    }
    out.put_slice(pixels);
    if let Some(exif) = exif {
        put_chunk(&mut out, *b"EXIF", exif)?;
    }
    let length = u32::try_from(out.len() - CHUNK_HEADER).ok()?;
    out[4..8].copy_from_slice(&length.to_le_bytes());
    Some(out)
}

fn put_chunk(out: &mut Vec<u8>, name: [u8; 4], data: &[u8]) -> Option<()> {
    out.put_slice(&name);
    out.put_u32_le(u32::try_from(data.len()).ok()?);
    out.put_slice(data);
    out.put_bytes(0, data.len() % 2);
    Some(())
}
