//! How a picture is to be turned, wherever its file says so: in EXIF, which counts first, or else in XMP.
//!
//! A PNG's EXIF may also stand in a text, as programs wrote it before there was a chunk for it (ImageMagick's raw
//! profiles: a line with the name, one with the length, and the bytes in hex).

use std::{io::Read as _, iter};

use flate2::read::ZlibDecoder;

use super::{Format, exif, jpeg, png, webp, xmp};

/// What begins a JPEG's XMP segment (ISO 16684-3 §3.3.2).
const XMP: &[u8] = b"http://ns.adobe.com/xap/1.0/\0";
const XMP_OF_PNG: &[u8] = b"XML:com.adobe.xmp";
const EXIF_PROFILES: [&[u8]; 2] = [b"Raw profile type exif", b"Raw profile type APP1"];
const XMP_PROFILE: &[u8] = b"Raw profile type xmp";

/// How much is read of all of a PNG's texts together, unpacked: twice what an EXIF block of JPEG's has in hex.
const MOST_TEXT: usize = 256 * 1024;

/// 1 to 8, as in EXIF; none where the file doesn't say.
pub(super) fn of(image: &[u8], format: Format) -> Option<u16> {
    let said = match format {
        Format::Jpeg => of_jpeg(image),
        Format::Png => of_png(image),
        Format::Webp => of_webp(image),
        // Its turning isn't EXIF's, and nothing in it is touched.
        Format::Heic => Said::default(),
    };
    said.by_exif.or(said.by_text).or(said.by_xmp)
}

/// The EXIF blocks in the places that are meant for them.
pub(super) fn exif_blocks(image: &[u8], format: Format) -> Box<dyn Iterator<Item = &[u8]> + '_> {
    match format {
        Format::Jpeg => Box::new(
            jpeg::before_scans(image, jpeg::APP1).filter_map(|it| it.strip_prefix(jpeg::EXIF)),
        ),
        Format::Png => Box::new(
            png::chunks(image)
                .filter(|(kind, _)| kind == b"eXIf")
                .map(|(_, data)| without_prefix(data)),
        ),
        Format::Webp => Box::new(
            webp::chunks(image)
                .filter(|(kind, _)| kind == b"EXIF")
                .map(|(_, data)| without_prefix(data)),
        ),
        Format::Heic => Box::new(iter::empty()),
    }
}

/// Some writers take JPEG's words before a block with it.
fn without_prefix(block: &[u8]) -> &[u8] {
    block.strip_prefix(jpeg::EXIF).unwrap_or(block)
}

/// The first word of each kind.
#[derive(Default)]
struct Said {
    by_exif: Option<u16>,
    /// EXIF in a text.
    by_text: Option<u16>,
    by_xmp: Option<u16>,
}

impl Said {
    fn exif(&mut self, block: &[u8]) {
        set(&mut self.by_exif, || of_block(block));
    }

    fn xmp(&mut self, packet: &[u8]) {
        set(&mut self.by_xmp, || xmp::orientation(packet));
    }
}

fn set(said: &mut Option<u16>, read: impl FnOnce() -> Option<u16>) {
    if said.is_none() {
        *said = read();
    }
}

fn of_block(block: &[u8]) -> Option<u16> {
    exif::orientation(without_prefix(block))
}

fn of_jpeg(image: &[u8]) -> Said {
    let mut said = Said::default();
    for payload in jpeg::before_scans(image, jpeg::APP1) {
        if let Some(tiff) = payload.strip_prefix(jpeg::EXIF) {
            said.exif(tiff);
        } else if let Some(packet) = payload.strip_prefix(XMP) {
            said.xmp(packet);
        }
    }
    said
}

fn of_webp(image: &[u8]) -> Said {
    let mut said = Said::default();
    for (kind, data) in webp::chunks(image) {
        match &kind {
            b"EXIF" => said.exif(data),
            b"XMP " => said.xmp(data),
            _ => {}
        }
    }
    said
}

fn of_png(image: &[u8]) -> Said {
    let mut said = Said::default();
    let mut left = MOST_TEXT;
    for (kind, data) in png::chunks(image) {
        match &kind {
            b"eXIf" => said.exif(data),
            b"tEXt" | b"zTXt" | b"iTXt" if left > 0 => {
                if let Some((keyword, text)) = text(kind, data, left) {
                    left -= text.len();
                    said.text(keyword, &text);
                }
            }
            _ => {}
        }
    }
    said
}

impl Said {
    fn text(&mut self, keyword: &[u8], text: &[u8]) {
        if keyword == XMP_OF_PNG {
            self.xmp(text);
        } else if keyword == XMP_PROFILE {
            self.xmp(&profile(text).unwrap_or_default());
        } else if let Some(block) = profile(text) {
            // An `APP1` may be either.
            match block.strip_prefix(XMP) {
                Some(packet) => self.xmp(packet),
                None => set(&mut self.by_text, || of_block(&block)),
            }
        }
    }
}

/// The keyword of a text that may say it, and so much of the text at most (W3C PNG third edition, §11.3.3).
fn text(kind: [u8; 4], data: &[u8], most: usize) -> Option<(&[u8], Vec<u8>)> {
    let (keyword, rest) = cut(data)?;
    if ![XMP_OF_PNG, XMP_PROFILE].contains(&keyword) && !EXIF_PROFILES.contains(&keyword) {
        return None;
    }
    let (is_packed, text) = match (&kind, rest) {
        (b"tEXt", text) => (false, text),
        (b"zTXt", [0, text @ ..]) => (true, text),
        (b"iTXt", [is_packed @ (0 | 1), 0, rest @ ..]) => {
            let (_language, rest) = cut(rest)?;
            let (_translated, text) = cut(rest)?;
            (*is_packed == 1, text)
        }
        _ => return None,
    };
    let mut out = Vec::new();
    if is_packed {
        // What broke off may have said it before.
        let mut unpacked = ZlibDecoder::new(text).take(most as u64);
        let _ = unpacked.read_to_end(&mut out);
    } else {
        out.extend_from_slice(&text[..text.len().min(most)]);
    }
    Some((keyword, out))
}

fn cut(data: &[u8]) -> Option<(&[u8], &[u8])> {
    data.split_at_checked(memchr::memchr(0, data)?)
        .map(|(before, behind)| (before, &behind[1..]))
}

/// The bytes of a raw profile: behind its name and length, as far as they are hex.
fn profile(text: &[u8]) -> Option<Vec<u8>> {
    let lines = text.split(|it| *it == b'\n').map(<[u8]>::trim_ascii);
    let mut lines = lines.filter(|it| !it.is_empty());
    let (_name, _length) = (lines.next()?, lines.next()?);
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let digits: Vec<u32> = lines.flatten().map_while(digit).collect();
    let byte = |pair: &[u32]| u8::try_from(pair[0] * 16 + pair[1]).unwrap_or_default();
    Some(digits.chunks_exact(2).map(byte).collect())
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::ZlibEncoder};

    use super::*;

    const PACKET: &[u8] = b"<rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>\
        <rdf:Description xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation='8'/></rdf:RDF>";
    /// Orientation 6.
    const BLOCK: &[u8] = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";

    fn packed(text: &[u8]) -> Vec<u8> {
        let mut packed = ZlibEncoder::new(Vec::new(), Compression::best());
        packed.write_all(text).expect("a vector");
        packed.finish().expect("a vector")
    }

    fn hex(bytes: &[u8]) -> Vec<u8> {
        let mut text = format!("\ngeneric profile\n{:8}\n", bytes.len());
        for (at, byte) in bytes.iter().enumerate() {
            text += &format!("{byte:02X}{}", if at % 36 == 35 { "\n" } else { "" });
        }
        text.into_bytes()
    }

    fn png(chunks: &[([u8; 4], Vec<u8>)]) -> Option<u16> {
        let mut image = b"\x89PNG\r\n\x1a\n".to_vec();
        for (kind, data) in chunks {
            image.extend(png::framed(*kind, data));
        }
        of(&image, Format::Png)
    }

    fn named(keyword: &str, more: &[u8], text: &[u8]) -> Vec<u8> {
        [keyword.as_bytes(), b"\0", more, text].concat()
    }

    #[test]
    fn a_png_says_it_in_many_places_and_exif_counts_first() {
        let exif = || (*b"eXIf", BLOCK.to_vec());
        let other = [BLOCK, b""].concat().into_iter().enumerate();
        let other: Vec<u8> = other
            .map(|(at, it)| if at == 18 { 3 } else { it })
            .collect();
        let with_head = [b"Exif\0\0", &other[..]].concat();
        let profile = |keyword| (*b"zTXt", named(keyword, b"\0", &packed(&hex(&with_head))));
        let in_full = || {
            (
                *b"iTXt",
                named("Raw profile type exif", b"\0\0\0\0", &hex(&other)),
            )
        };
        let xmp = || (*b"iTXt", named("XML:com.adobe.xmp", b"\0\0\0\0", PACKET));
        let packed_xmp = || {
            (
                *b"iTXt",
                named("XML:com.adobe.xmp", b"\x01\0en\0x\0", &packed(PACKET)),
            )
        };
        let as_app1 = [XMP, PACKET].concat();
        let raw_xmp = || {
            (
                *b"tEXt",
                named("Raw profile type APP1", b"", &hex(&as_app1)),
            )
        };
        let silent = || (*b"eXIf", b"II*\0\x08\0\0\0\0\0\0\0\0\0".to_vec());
        for (chunks, expected) in [
            (vec![exif()], Some(6)),
            (vec![profile("Raw profile type exif")], Some(3)),
            (vec![profile("Raw profile type APP1")], Some(3)),
            (vec![in_full()], Some(3)),
            (vec![xmp()], Some(8)),
            (vec![packed_xmp()], Some(8)),
            (vec![raw_xmp()], Some(8)),
            (vec![xmp(), in_full(), exif()], Some(6)),
            (vec![xmp(), in_full(), silent()], Some(3)),
            (vec![silent(), packed_xmp()], Some(8)),
            (vec![profile("Raw profile type icc")], None),
            (vec![(*b"tEXt", named("Title", b"", PACKET))], None),
            (vec![(*b"IEND", Vec::new()), exif()], None),
            (vec![], None),
        ] {
            assert_eq!(png(&chunks), expected, "{chunks:?}");
        }
    }

    #[test]
    fn what_is_unpacked_is_bounded() {
        let spaces = vec![b' '; MOST_TEXT];
        let bomb = |text: &[u8]| {
            let text = packed(&[&spaces[..], text].concat());
            (*b"iTXt", named("XML:com.adobe.xmp", b"\x01\0\0\0", &text))
        };
        assert_eq!(png(&[bomb(PACKET)]), None);
        let behind = (*b"iTXt", named("XML:com.adobe.xmp", b"\0\0\0\0", PACKET));
        assert_eq!(
            png(&[bomb(b""), behind.clone()]),
            None,
            "all of them together"
        );
        let long = named(
            "XML:com.adobe.xmp",
            b"\0\0\0\0",
            &[&spaces[..], b" "].concat(),
        );
        assert_eq!(png(&[(*b"iTXt", long), behind.clone()]), None);
        assert_eq!(png(&[behind]), Some(8));
        let whole = packed(&hex(BLOCK));
        let broken = (
            *b"zTXt",
            named("Raw profile type exif", b"\0", &whole[..whole.len() - 5]),
        );
        assert_eq!(png(&[broken]), Some(6), "it was said before it broke off");
    }
}
