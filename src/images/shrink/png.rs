//! PNG (RFC 2083, W3C PNG third edition). Palettes become colours and sixteen bits eight, so that
//! pixels can be averaged.

use std::io::Cursor;

use png::{BitDepth, ColorType, Decoder, Encoder, Info, Limits, Transformations, chunk::ChunkType};

use crate::in_flight::Buffer;

use super::{
    Fitted, Format, Shrink, Unusable,
    exif::Exif,
    picture::{Channels, Picture, Size},
};

/// At most, with alpha.
pub(super) const BYTES_A_PIXEL: u64 = 4;
/// What the decoder may take beside the pixels: rows of 65,535 and profiles need far less.
const BESIDE_PIXELS: usize = 16 << 20;

pub(super) fn shrink(mut image: Buffer, size: Size, shrink: Shrink) -> Result<Fitted, Unusable> {
    let turn = super::turn(&image, Format::Png);
    let limits = Limits {
        bytes: BESIDE_PIXELS,
    };
    let mut decoder = Decoder::new_with_limits(Cursor::new(&image[..]), limits);
    decoder.set_ignore_text_chunk(true);
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(|_| Unusable::Damaged)?;
    if reader.info().is_animated() {
        drop(reader);
        return Ok(Fitted::AsItWas(image));
    }
    let (color, channels) = match reader.output_color_type() {
        (it @ ColorType::Grayscale, BitDepth::Eight) => (it, Channels::Gray),
        (it @ ColorType::GrayscaleAlpha, BitDepth::Eight) => (it, Channels::GrayAlpha),
        (it @ ColorType::Rgb, BitDepth::Eight) => (it, Channels::Rgb),
        (it @ ColorType::Rgba, BitDepth::Eight) => (it, Channels::Rgba),
        _ => return Err(Unusable::Damaged),
    };
    let mut picture = Picture::blank(size, channels);
    if reader.info().size() != (size.width, size.height)
        || reader.output_buffer_size() != Some(picture.pixels.len())
    {
        return Err(Unusable::Damaged);
    }
    reader
        .next_frame(&mut picture.pixels)
        .map_err(|_| Unusable::Damaged)?;
    // EXIF may stand behind the pixels.
    reader.finish().map_err(|_| Unusable::Damaged)?;
    let mut info = of_colours(reader.info());
    let code_points = reader.info().coding_independent_code_points;
    let exif = reader.info().exif_metadata.as_deref().and_then(Exif::read);
    drop(reader);
    // The memory is needed now.
    image.clear();

    let picture = picture.fit(shrink.max_dimension, turn)?;
    let Size { width, height } = picture.size;
    (info.width, info.height) = (width, height);
    (info.color_type, info.bit_depth) = (color, BitDepth::Eight);
    info.exif_metadata = exif.map(|exif| exif.of_shrunk(width, height).into());
    let mut out = Vec::with_capacity(picture.pixels.len() / 2);
    let mut writer = Encoder::with_info(&mut out, info)
        .and_then(Encoder::write_header)
        .map_err(|_| Unusable::Damaged)?;
    if let Some(points) = code_points {
        let points = [
            points.color_primaries,
            points.transfer_function,
            points.matrix_coefficients,
            u8::from(points.is_video_full_range_image),
        ];
        writer
            .write_chunk(ChunkType(*b"cICP"), &points)
            .map_err(|_| Unusable::Damaged)?;
    }
    writer
        .write_image_data(&picture.pixels)
        .and_then(|()| writer.finish())
        .map_err(|_| Unusable::Damaged)?;
    Ok(Fitted::shrunk(image, out, picture.size))
}

/// What says how colours are meant, as far as the encoder writes it.
fn of_colours(from: &Info<'static>) -> Info<'static> {
    let mut info = Info::default();
    info.source_gamma = from.source_gamma;
    info.source_chromaticities = from.source_chromaticities;
    info.srgb = from.srgb;
    info.icc_profile.clone_from(&from.icc_profile);
    info
}
