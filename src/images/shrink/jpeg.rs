//! JPEG (ITU T.81): sequential and progressive, in grey or in colour.

use std::{iter, ops::Range};

use image::{ExtendedColorType, ImageEncoder as _, codecs::jpeg::JpegEncoder};
use memchr::memmem;
use zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::JpegDecoder;

use crate::in_flight::Buffer;

use super::{
    Fitted, Format, Shrink, Unusable,
    exif::Exif,
    picture::{Channels, Picture, Size},
};

const APP1: u8 = 0xE1;
const EXIF: &[u8] = b"Exif\0\0";
const START_OF_SCAN: u8 = 0xDA;
const END_OF_IMAGE: [u8; 2] = [0xFF, 0xD9];

/// A picture in one sequential scan is decoded row by row into its pixels.
const BYTES_A_PIXEL: u64 = 3;
/// Of others, all coefficients of three components, two bytes each, are kept until the last scan.
pub(super) const BYTES_A_PIXEL_OF_SCANS: u64 = 3 + 3 * 2;

/// More than the decoder reads ahead.
const PADDING: usize = 16;

/// What stands before the pixels.
#[derive(Debug, Default)]
struct Head {
    /// How many a pixel has.
    components: u8,
    /// Where the pixels of a picture in one sequential scan begin.
    one_scan_at: Option<usize>,
    exif: Option<Range<usize>>,
}

impl Head {
    fn read(bytes: &[u8]) -> Self {
        let mut head = Self::default();
        let mut is_sequential = false;
        for (marker, payload) in segments(bytes) {
            let data = &bytes[payload.clone()];
            match marker {
                // Frames (ITU T.81 table B.1), of which 0 and 1 are sequential with Huffman codes.
                0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                    head.components = data.get(5).copied().unwrap_or_default();
                    is_sequential = marker <= 0xC1;
                }
                APP1 if head.exif.is_none() && data.starts_with(EXIF) => head.exif = Some(payload),
                START_OF_SCAN if is_sequential && data.first() == Some(&head.components) => {
                    head.one_scan_at = Some(payload.end);
                }
                _ => {}
            }
        }
        head
    }
}

/// The segments before the first scan's pixels: marker and place of the payload.
fn segments(bytes: &[u8]) -> impl Iterator<Item = (u8, Range<usize>)> {
    let mut at = 2;
    let mut is_over = false;
    iter::from_fn(move || {
        while !is_over {
            let (&[first, marker], tail) = bytes.get(at..)?.split_first_chunk::<2>()?;
            match marker {
                _ if first != 0xFF => return None,
                // A fill byte before the marker.
                0xFF => at += 1,
                // Markers without a length (ITU T.81 table B.1).
                0x01 | 0xD0..=0xD7 => at += 2,
                _ => {
                    let length = usize::from(u16::from_be_bytes(*tail.first_chunk()?));
                    let payload = at + 4..at + 2 + length;
                    bytes.get(payload.clone())?;
                    at = payload.end;
                    is_over = marker == START_OF_SCAN;
                    return Some((marker, payload));
                }
            }
        }
        None
    })
}

/// What decoding takes for each pixel, in bytes.
pub(super) fn bytes_a_pixel(bytes: &[u8]) -> u64 {
    match Head::read(bytes).one_scan_at {
        Some(_) => BYTES_A_PIXEL,
        None => BYTES_A_PIXEL_OF_SCANS,
    }
}

/// Takes the end marker away. A decoder that meets it early makes up the rest; without it, it runs
/// out of bytes and says so, unless less than a row of blocks is missing.
fn leave_the_end_open(image: &mut Buffer, scan_at: usize) {
    if let Some(end) = memmem::find(&image[scan_at..], &END_OF_IMAGE) {
        image.truncate(scan_at + end);
        image.extend_from_slice(&[0; PADDING]);
    }
}

pub(super) fn shrink(mut image: Buffer, size: Size, shrink: Shrink) -> Result<Fitted, Unusable> {
    let turn = super::turn(&image, Format::Jpeg);
    let head = Head::read(&image);
    let (space, channels) = match head.components {
        1 => (ColorSpace::Luma, Channels::Gray),
        3 => (ColorSpace::RGB, Channels::Rgb),
        // For printing: its colours can't be kept without its profile being applied.
        4 => return Ok(Fitted::AsItWas(image)),
        _ => return Err(Unusable::Damaged),
    };
    if let Some(scan_at) = head.one_scan_at {
        leave_the_end_open(&mut image, scan_at);
    }
    // What a lenient decoder can't read it leaves grey.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(size.width as usize)
        .set_max_height(size.height as usize)
        .jpeg_set_out_colorspace(space);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&image[..]), options);
    decoder.decode_headers().map_err(|_| Unusable::Damaged)?;
    let mut picture = Picture::blank(size, channels);
    let found = decoder.dimensions();
    if found != Some((size.width as usize, size.height as usize))
        || decoder.output_buffer_size() != Some(picture.pixels.len())
    {
        return Err(Unusable::Damaged);
    }
    decoder
        .decode_into(&mut picture.pixels)
        .map_err(|_| Unusable::Damaged)?;
    let profile = decoder.icc_profile();
    drop(decoder);
    let exif = head.exif.and_then(|exif| Exif::read(&image[exif]));
    // The memory is needed now.
    image.clear();

    let picture = picture.fit(shrink.max_dimension, turn)?;
    let Size { width, height } = picture.size;
    let mut out = Vec::with_capacity(picture.size.pixels() / 4);
    let mut encoder = JpegEncoder::new_with_quality(&mut out, shrink.quality);
    let kind = match channels {
        Channels::Gray => ExtendedColorType::L8,
        _ => ExtendedColorType::Rgb8,
    };
    let with_metadata = [
        profile.map(|profile| encoder.set_icc_profile(profile)),
        exif.map(|exif| encoder.set_exif_metadata(exif.of_shrunk(width, height))),
    ];
    if with_metadata.into_iter().flatten().any(|it| it.is_err()) {
        return Err(Unusable::Damaged);
    }
    encoder
        .write_image(&picture.pixels, width, height, kind)
        .map_err(|_| Unusable::Damaged)?;
    Ok(Fitted::shrunk(image, out, picture.size))
}
