//! HEIC (ISO/IEC 23008-12): boxes. It is passed as it is, so only its frame is looked at.

use super::{Unusable, foreign, inspect::Size, trailer::box_size};

/// Brands of images and image sequences in HEVC. `mif1` and `msf1` say HEIF only, which may be AVIF.
const BRANDS: [&[u8; 4]; 8] = [
    b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs",
];

/// What a file has at its top; `mpvd` and `sefd` are Samsung's.
const TOP: [&[u8; 4]; 11] = [
    b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"wide", b"uuid", b"idat", b"mpvd",
    b"sefd",
];

/// Brands of images and image sequences in whatever coding.
const ANY_CODING: [&[u8; 4]; 2] = [b"mif1", b"msf1"];

/// Whether the first box says so.
pub(super) fn is_heic(bytes: &[u8]) -> bool {
    has_brand(bytes, &BRANDS)
}

/// Whether the first box says that it is an image at all.
pub(super) fn is_image(bytes: &[u8]) -> bool {
    has_brand(bytes, &ANY_CODING)
}

fn has_brand(bytes: &[u8], wanted: &[&[u8; 4]]) -> bool {
    let Some((size, rest)) = bytes.split_first_chunk::<4>() else {
        return false;
    };
    let size = u32::from_be_bytes(*size) as usize;
    // The major brand and its version, then those that it is compatible with.
    let Some(brands) = rest
        .strip_prefix(b"ftyp")
        .and_then(|brands| brands.get(..size.checked_sub(8)?))
    else {
        return false;
    };
    let mut brands = brands.chunks_exact(4).enumerate();
    brands.any(|(at, brand)| at != 1 && wanted.iter().any(|it| brand == *it))
}

/// Whether a file is an HEIC whose boxes add up.
pub(super) fn inspect(bytes: &[u8], max_pixels: u64) -> Result<Size, Unusable> {
    let mut largest: Option<Size> = None;
    let mut has_pixels = false;
    for each in Boxes(bytes) {
        let (kind, content) = each?;
        if !TOP.contains(&&kind) {
            return Err(Unusable::Polyglot);
        }
        match &kind {
            b"meta" => {
                // The grid that tiles are put into is larger than each of them.
                for size in sizes(content, max_pixels)? {
                    if largest.is_none_or(|it| size.width * size.height > it.width * it.height) {
                        largest = Some(size);
                    }
                }
                has_pixels |= has_child(content.get(4..).unwrap_or_default(), *b"idat");
            }
            b"mdat" | b"idat" => has_pixels = true,
            _ => {}
        }
        if kind != *b"mdat" {
            foreign::check(content)?;
        }
    }
    match largest {
        Some(size) if has_pixels => Ok(size),
        _ => Err(Unusable::Damaged),
    }
}

/// Boxes one after the other, each with its type and content.
struct Boxes<'a>(&'a [u8]);

impl<'a> Iterator for Boxes<'a> {
    type Item = Result<([u8; 4], &'a [u8]), Unusable>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let taken = box_size(self.0).and_then(|size| {
            let (this, rest) = self.0.split_at_checked(size)?;
            let kind = *this.get(4..)?.first_chunk()?;
            let head = if this.starts_with(&[0, 0, 0, 1]) {
                16
            } else {
                8
            };
            Some((kind, this.get(head..)?, rest))
        });
        let Some((kind, content, rest)) = taken else {
            self.0 = &[];
            return Some(Err(Unusable::Damaged));
        };
        self.0 = rest;
        Some(Ok((kind, content)))
    }
}

fn child(boxes: &[u8], kind: [u8; 4]) -> Result<Option<&[u8]>, Unusable> {
    for each in Boxes(boxes) {
        let (found, content) = each?;
        if found == kind {
            return Ok(Some(content));
        }
    }
    Ok(None)
}

fn has_child(boxes: &[u8], kind: [u8; 4]) -> bool {
    matches!(child(boxes, kind), Ok(Some(_)))
}

/// What `meta/iprp/ipco/ispe` say (§6.5.3). `meta` and `ispe` have four bytes of version and flags.
fn sizes(meta: &[u8], max_pixels: u64) -> Result<Vec<Size>, Unusable> {
    let meta = meta.get(4..).ok_or(Unusable::Damaged)?;
    let properties = match child(meta, *b"iprp")? {
        Some(iprp) => child(iprp, *b"ipco")?,
        None => None,
    };
    let mut sizes = Vec::new();
    for each in Boxes(properties.unwrap_or_default()) {
        let (kind, content) = each?;
        if kind == *b"ispe" {
            let &[_, _, _, _, w1, w2, w3, w4, h1, h2, h3, h4] = content else {
                return Err(Unusable::Damaged);
            };
            let width = u32::from_be_bytes([w1, w2, w3, w4]);
            let height = u32::from_be_bytes([h1, h2, h3, h4]);
            sizes.push(Size::within(max_pixels, width, height)?);
        }
    }
    Ok(sizes)
}
