//! Real photos, cut, changed, and with something else in them.

use std::{fs, path::Path, sync::LazyLock};

use futures_util::FutureExt as _;
use prometheus_client::registry::Registry as MetricRegistry;
use proptest::{prelude::*, sample::Index};

use crate::in_flight::{Budget, Owner};

use super::*;

fn rules() -> Rules {
    Rules {
        max_bytes: u64::MAX,
        max_pixels: 50_000_000,
        formats: vec![Format::Jpeg, Format::Png, Format::Webp, Format::Heic],
        metadata: Metadata::Keep,
        shrink: None,
    }
}

fn looked_at(bytes: &[u8]) -> Result<Inspected, Unusable> {
    inspect(bytes, &rules())
}

fn photos() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos");
    let mut photos = Vec::new();
    for folder in ["", "makers", "made"] {
        for entry in fs::read_dir(root.join(folder)).expect("fixtures") {
            let path = entry.expect("a file").path();
            let is_photo = path
                .extension()
                .and_then(|it| it.to_str())
                .is_some_and(|it| ["jpg", "png", "webp", "heic"].contains(&it));
            let name = path
                .strip_prefix(&root)
                .expect("below")
                .display()
                .to_string();
            let is_bad = ["truncated.jpg", "not-an-image.jpg", "bomb-60000x60000.png"]
                .contains(&name.as_str());
            if is_photo && !is_bad {
                photos.push((name, fs::read(path).expect("a photo")));
            }
        }
    }
    assert!(photos.len() > 60, "{}", photos.len());
    photos
}

fn photo(name: &str) -> Vec<u8> {
    let all = photos();
    let found = all.into_iter().find(|(it, _)| it == name);
    found.unwrap_or_else(|| panic!("no {name}")).1
}

fn buffer(bytes: &[u8]) -> Buffer {
    let metrics = &mut MetricRegistry::default();
    let largest = bytes.len() as u64;
    let budget = Budget::new(u64::MAX, largest, Default::default(), metrics);
    let tenant = "carper".parse().expect("an id");
    let owner = Owner::new(tenant, "https://issuer".into(), "ana".into());
    let reserved = budget.reserve(&owner, largest).now_or_never();
    let mut buffer = reserved.expect("at once").expect("there is room");
    buffer.extend_from_slice(bytes);
    buffer
}

/// Where the picture ends.
fn end(bytes: &[u8]) -> usize {
    match Format::announced(bytes).expect("an image") {
        Format::Jpeg => jpeg::walk(bytes, 0, u64::MAX).expect("is whole").end,
        Format::Png => memchr::memmem::find(bytes, b"IEND").expect("an end") + 8,
        Format::Webp => webp::end(bytes).expect("an end"),
        Format::Heic => bytes.len(),
    }
}

fn stripped(bytes: &[u8], metadata: Metadata) -> Result<(Vec<u8>, bool), Unusable> {
    let mut image = bytes.to_vec();
    let format = Format::announced(bytes)?;
    let Stripped { length, changed } = strip(&mut image, format, metadata)?;
    image.truncate(length);
    Ok((image, changed))
}

/// What must hold of whatever is sent.
fn check(bytes: &[u8]) {
    let Ok(inspected) = looked_at(bytes) else {
        return;
    };
    if inspected.format == Format::Heic {
        return;
    }
    for metadata in [Metadata::StripLocation, Metadata::StripAll] {
        let (once, changed) = stripped(bytes, metadata).expect("what is taken can be stripped");
        assert_eq!(changed, once != bytes);
        assert!(once.len() <= bytes.len());
        assert_eq!(looked_at(&once), Ok(inspected), "it stays the same image");
        let twice = stripped(&once, metadata).expect("again");
        assert!(
            twice == (once, false),
            "what is stripped has nothing to strip"
        );
    }
}

#[test]
fn what_cameras_write_is_taken() {
    for (name, bytes) in photos() {
        assert!(looked_at(&bytes).is_ok(), "{name}");
        check(&bytes);
    }
}

#[test]
fn what_phones_append_is_taken_unless_it_holds_something_else() {
    let clean = photo("no-exif.jpg");
    for (trailer, expected) in [
        (
            &b"vivo{\"a\":1}\0\xFF\xFF\xFF\xFF\x1B*9HWfu\x84\x93\xA2\xB1"[..],
            true,
        ),
        (
            b"vivo{\"a\":\"<script>\"}\0\xFF\xFF\xFF\xFF\x1B*9HWfu\x84\x93\xA2\xB1",
            false,
        ),
        (
            b"x vivo{\"a\":1}\0\xFF\xFF\xFF\xFF\x1B*9HWfu\x84\x93\xA2\xB1",
            true,
        ),
        (b"{\"oplus\":1}\0\0\0\x09jxrs", true),
        (b"{\"oplus\":\"<script>\"}\0\0\0\x09jxrs", false),
        (b"--", true),
        (b"<svg xmlns=\"http://www.w3.org/2000/svg\">", false),
        (b"#!/bin/sh\n\xFF", false),
        (b"MZ\x90\0\x03\0\0\0\x04", false),
        (b"\x7FELF\x02\x01\x01", false),
        (b"PK\x03\x04\x14\0\0\0", false),
        (b"\0\0\x89PNG\r\n\x1a\n", false),
        (b"\r\n--5D9144052FC54aa4--\r\n", true),
        (b"\r\n--5D9144052FC54aa4", true),
        (b"SEFH\x6b\0\0\0\0\0\0\0\x0c\0\0\0SEFT", true),
        (b"xSEFH\x6b\0\0\0\0\0\0\0\x0c\0\0\0SEFT", true),
    ] {
        let found = looked_at(&[&clean[..], trailer].concat());
        let expected_found = if expected {
            Ok(())
        } else {
            Err(Unusable::Polyglot)
        };
        assert_eq!(
            found.map(drop),
            expected_found,
            "{}",
            trailer.escape_ascii()
        );
    }
}

#[test]
fn what_is_cut_is_refused() {
    for (name, bytes) in photos() {
        if looked_at(&bytes).is_err() {
            continue;
        }
        let end = end(&bytes);
        // Each length of a small file, and some of a large one.
        let step = if bytes.len() < 10_000 {
            1
        } else {
            bytes.len() / 200
        };
        for length in (0..bytes.len()).step_by(step) {
            if looked_at(&bytes[..length]).is_ok() {
                assert!(length >= end, "{name} was taken with {length} bytes");
                // Behind the end only padding may be cut, and what only its program knows.
                let cut = bytes[end..length].trim_ascii_start();
                let begin = cut.iter().position(|it| *it != 0).unwrap_or(cut.len());
                let is_video = cut.get(4..8) == Some(b"ftyp");
                let is_image = cut[begin..].starts_with(b"\xFF\xD8");
                assert!(!is_video && !is_image, "{name} at {length}");
            }
        }
    }
}

#[test]
fn what_is_something_else_too_is_refused() {
    let zip_end = [b"PK\x05\x06".as_slice(), &[0; 18]].concat();
    let behind: [&[u8]; 12] = [
        b"<html><script>alert(1)</script>",
        b"%PDF-1.7 trailer",
        b"<?php system($_GET[0]);",
        b"MZ\x90\0",
        b"\x7fELF\x02\x01",
        b"\xfe\xed\xfa\xcf",
        b"Rar!\x1a\x07\x01\0",
        b"7z\xbc\xaf\x27\x1c",
        b"#!/bin/sh\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        &zip_end,
    ];
    for name in [
        "no-exif.jpg",
        "made/everywhere.png",
        "coffee.webp",
        "iphone.heic",
    ] {
        let clean = photo(name);
        for text in behind {
            let both = [&clean, text].concat();
            let found = looked_at(&both);
            assert!(found.is_err(), "{name} with {}", text.escape_ascii());
            if name != "iphone.heic" {
                assert_eq!(
                    found,
                    Err(Unusable::Polyglot),
                    "{name} with {}",
                    text.escape_ascii()
                );
            }
        }
        let padded = [&clean[..], &[0; 3000]].concat();
        assert_eq!(
            looked_at(&padded).is_ok(),
            name != "iphone.heic",
            "{name} with padding"
        );
    }
    let another = photo("makers/GPS.jpg");
    for name in ["made/everywhere.png", "coffee.webp"] {
        let both = [&photo(name)[..], &another].concat();
        assert_eq!(looked_at(&both), Err(Unusable::Polyglot), "{name}");
    }
}

#[test]
fn jpegs_stand_behind_a_jpeg_whole_whether_or_not_it_says_so() {
    let clean = photo("no-exif.jpg");
    let another = photo("makers/GPS.jpg");
    let another = &another[..end(&another)];
    for between in [&b""[..], &[0; 3000], b"\r\n"] {
        let both = [&clean[..], between, another, between, another].concat();
        assert_eq!(looked_at(&both), looked_at(&clean));
        check(&both);
        let (left, _) = stripped(&both, Metadata::StripLocation).expect("is a photo");
        let (alone, _) = stripped(&clean, Metadata::StripLocation).expect("is a photo");
        assert!(left == alone, "they have metadata of their own, and go");
        let cut = &both[..both.len() - 10];
        assert_eq!(looked_at(cut), Err(Unusable::Damaged));
        let page = [&both[..], b"<script>alert(1)</script>"].concat();
        assert_eq!(looked_at(&page), Err(Unusable::Polyglot));
    }
}

#[test]
fn a_png_of_which_a_bit_fell_over_is_refused_and_the_chunk_named() {
    let image = photo("made/everywhere.png");
    let flipped = |at: usize| {
        let mut image = image.clone();
        image[at] ^= 1;
        looked_at(&image)
    };
    let mut at = png::SIGNATURE;
    let mut critical = Vec::new();
    while let Some(chunk) = png::chunk(&image, at) {
        let is_critical = chunk.kind[0].is_ascii_uppercase();
        for at in [chunk.data.start, chunk.data.end - 1, chunk.data.end] {
            // One without data has nothing but its CRC.
            if is_critical && !(chunk.data.is_empty() && at < chunk.data.end) {
                assert_eq!(flipped(at), Err(Unusable::Chunk(chunk.kind)), "{chunk:?}");
            }
        }
        if is_critical {
            critical.push(chunk.kind);
        } else {
            // What only describes the picture may be as some program left it.
            assert!(flipped(chunk.data.end).is_ok(), "{chunk:?}");
        }
        at = chunk.end;
    }
    critical.dedup();
    assert_eq!(critical, [*b"IHDR", *b"IDAT", *b"IEND"]);
    let with_palette = [&image[..33], &png::framed(*b"PLTE", b"abc"), &image[33..]].concat();
    assert!(looked_at(&with_palette).is_ok());
    let mut damaged = with_palette;
    damaged[33 + 8] ^= 1;
    assert_eq!(looked_at(&damaged), Err(Unusable::Chunk(*b"PLTE")));
}

#[test]
fn what_is_something_else_inside_is_refused() {
    let zip_end = [b"PK\x05\x06".as_slice(), &[0; 18]].concat();
    let jpeg = photo("no-exif.jpg");
    let png = photo("astronaut.png");
    let webp = photo("coffee.webp");
    let insert = |into: &[u8], at: usize, what: &[u8]| [&into[..at], what, &into[at..]].concat();
    let in_jpeg = |marker: u8, text: &[u8]| {
        let length = u16::try_from(text.len() + 2)
            .expect("is short")
            .to_be_bytes();
        insert(&jpeg, 2, &[&[0xFF, marker], &length[..], text].concat())
    };
    let in_png = |text: &[u8]| {
        insert(
            &png,
            33,
            &png::framed(*b"tEXt", &[b"Comment\0", text].concat()),
        )
    };
    let in_webp = |text: &[u8]| {
        let text = [text, &[b' '; 16][..16 - text.len() % 2]].concat();
        let length = u32::try_from(text.len()).expect("is short").to_le_bytes();
        let mut both = [&webp, &b"XMP "[..], &length, &text].concat();
        let size = u32::try_from(both.len() - 8)
            .expect("is short")
            .to_le_bytes();
        both[4..8].copy_from_slice(&size);
        both
    };
    for text in [
        &b"<script>alert(1)</script>"[..],
        b"<SCRIPT SRC=//x></SCRIPT>",
        b"\0<svg onload=alert(1)></svg>",
        b"<svg/onload=alert(1)>",
        b"<!DOCTYPE html><p>",
        b"<html><body>",
        b"<iframe src=x>",
        b"<?php echo 1; ?>",
        b"<img src=x onerror=alert(1)>",
        b"<video src=x onerror=alert(1)>",
        b"<a href=javascript:alert(1)>x</a>",
        b"<style>@import'//x.example'</style>",
        b"<meta http-equiv=refresh content=0>",
        b"<details open ontoggle=alert(1)>",
        b"<s:svg xmlns:s=\"http://www.w3.org/2000/svg\"/>",
        b"<%= system('id') %>",
        b"<\0s\0c\0r\0i\0p\0t\0>\0a\0l\0",
        b"\x01\x02<?=`id`; ?>\x01",
        b"<?PHP\nsystem($_GET[0]);",
        b"<?=`$_GET[0]`?> and so on",
        b"x __HALT_COMPILER(); ?>",
        b"%PDF-1.4\n",
        b"Rar!\x1a\x07\0",
        b"7z\xbc\xaf\x27\x1c",
    ] {
        for marker in [0xE0, 0xE1, 0xED, 0xFE] {
            assert_eq!(
                looked_at(&in_jpeg(marker, text)),
                Err(Unusable::Polyglot),
                "{}",
                text.escape_ascii()
            );
        }
        assert_eq!(
            looked_at(&in_png(text)),
            Err(Unusable::Polyglot),
            "{}",
            text.escape_ascii()
        );
        assert_eq!(
            looked_at(&in_webp(text)),
            Err(Unusable::Polyglot),
            "{}",
            text.escape_ascii()
        );
    }
    // An archive whose directory's end is in the last segment, and the picture its comment.
    assert_eq!(
        looked_at(&in_jpeg(0xFE, &zip_end)).is_ok(),
        jpeg.len() > 70_000
    );
    let small = photo("made/bare-thumbnail.jpg");
    let comment = [&[0xFF, 0xFE, 0, 24], &zip_end[..]].concat();
    assert_eq!(
        looked_at(&insert(&small, 2, &comment)),
        Err(Unusable::Polyglot)
    );
    // JavaScript: a name, a comment until `*/`.
    let mut script = vec![b' '; 0x2F2A - 2];
    script[100..120].copy_from_slice(b"*/=alert(1);/*      ");
    assert_eq!(looked_at(&in_jpeg(0xE0, &script)), Err(Unusable::Polyglot));
    // Words that are none of that.
    for text in [
        &b"<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF><rdf:li>&lt;script&gt;</rdf:li>"[..],
        b"<?xpacket begin='' id='W5M0MpCehiHzreSzNTczkc9d'?>",
        b"<a href='x'>caption</a><br> <b>bold</b>, <3 and PK\x05\x06 and <?phpx",
        b"<svg>\x80\x81\x82<html>\x90\x91<?php \x80<?=$x\x80 */\x80 %PDF",
    ] {
        assert!(
            looked_at(&in_jpeg(0xFE, text)).is_ok(),
            "{}",
            text.escape_ascii()
        );
        assert!(looked_at(&in_png(text)).is_ok(), "{}", text.escape_ascii());
        assert!(looked_at(&in_webp(text)).is_ok(), "{}", text.escape_ascii());
    }
}

#[test]
fn formats_that_are_pictures_only_by_name_are_none() {
    for (text, expected) in [
        (
            &b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>"[..],
            Unusable::NotAnImage(Some("a page or an SVG")),
        ),
        (
            b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
            Unusable::NotAnImage(Some("a page or an SVG")),
        ),
        (
            b"<!DOCTYPE html><html><body>",
            Unusable::NotAnImage(Some("a page or an SVG")),
        ),
        (
            b"%PDF-1.7 and so on and on",
            Unusable::NotAnImage(Some("a PDF")),
        ),
        (b"GIF89a\x01\0\x01\0\0\0\0\0\0\0", Unusable::Format("gif")),
        (b"BM\0\0\0\0\0\0\0\0\0\0\0\0\0\0", Unusable::Format("bmp")),
        (
            b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf",
            Unusable::Format("avif"),
        ),
        (b"II*\0\x08\0\0\0\0\0\0\0", Unusable::Format("tiff")),
        (
            b"\0\0\0\x18ftypisom\0\0\0\0mp41isom",
            Unusable::NotAnImage(Some("a video")),
        ),
        (
            b"PK\x03\x04\x14\0\0\0\0\0",
            Unusable::NotAnImage(Some("an archive or an office document")),
        ),
        (b"a text that is none of those", Unusable::NotAnImage(None)),
        (b"", Unusable::Empty),
        (b"\xff\xd8\xff", Unusable::Damaged),
        (b"\x89PNG\r\n\x1a\n", Unusable::Damaged),
        (b"RIFF\0\0\0\0WEBP", Unusable::Damaged),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", Unusable::Damaged),
    ] {
        assert_eq!(looked_at(text), Err(expected), "{}", text.escape_ascii());
    }
}

#[test]
fn too_many_pixels_are_told_of_each_format() {
    for name in [
        "no-exif.jpg",
        "astronaut.png",
        "coffee.webp",
        "made/lossless.webp",
        "iphone.heic",
    ] {
        let bytes = photo(name);
        let found = looked_at(&bytes).expect("is good");
        let pixels = found.width * found.height;
        let few = Rules {
            max_pixels: pixels - 1,
            ..rules()
        };
        assert_eq!(
            inspect(&bytes, &few),
            Err(Unusable::TooManyPixels(pixels)),
            "{name}"
        );
        let enough = Rules {
            max_pixels: pixels,
            ..rules()
        };
        assert_eq!(inspect(&bytes, &enough), Ok(found), "{name}");
    }
}

/// A small JPEG whose frame's parameters are those.
fn with_frame(frame: &[u8], scans: usize) -> Vec<u8> {
    let length = u16::try_from(frame.len() + 1)
        .expect("is short")
        .to_be_bytes();
    let mut bytes = [&b"\xff\xd8\xff"[..], &frame[..1], &length, &frame[1..]].concat();
    for _ in 0..scans {
        bytes.extend(b"\xff\xda\0\x08\x01\x01\0\0\x3f\0\x37");
    }
    bytes.extend(b"\xff\xd9");
    bytes
}

#[test]
fn headers_that_cannot_be_are_refused() {
    let sound = b"\xc0\x08\0\x01\0\x01\x01\x01\x11\0";
    assert!(looked_at(&with_frame(sound, 1)).is_ok());
    assert!(looked_at(&with_frame(sound, 100)).is_ok());
    for (what, bytes) in [
        ("no scan", with_frame(sound, 0)),
        ("more scans than an encoder writes", with_frame(sound, 101)),
        (
            "no width",
            with_frame(b"\xc0\x08\0\x01\0\0\x01\x01\x11\0", 1),
        ),
        (
            "no height",
            with_frame(b"\xc0\x08\0\0\0\x01\x01\x01\x11\0", 1),
        ),
        ("no components", with_frame(b"\xc0\x08\0\x01\0\x01\0", 1)),
        (
            "lossless",
            with_frame(b"\xc3\x08\0\x01\0\x01\x01\x01\x11\0", 1),
        ),
        (
            "another length",
            with_frame(b"\xc0\x08\0\x01\0\x01\x02\x01\x11\0", 1),
        ),
        ("a picture within", {
            let mut bytes = with_frame(sound, 1);
            bytes.splice(2..2, b"\xff\xd8".iter().copied());
            bytes
        }),
        ("two frames", {
            let mut bytes = with_frame(sound, 1);
            let frame = bytes[2..15].to_vec();
            bytes.splice(2..2, frame);
            bytes
        }),
    ] {
        assert_eq!(looked_at(&bytes), Err(Unusable::Damaged), "{what}");
    }

    let png = photo("made/everywhere.png");
    let webp = photo("coffee.webp");
    let changed = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        bytes
    };
    for at in 8..33 {
        let found = looked_at(&changed(&png, at));
        let is_damaged = matches!(found, Err(Unusable::Damaged | Unusable::Chunk(_)));
        assert!(is_damaged, "a PNG's header at {at}: {found:?}");
    }
    // VP8X's canvas isn't the picture's, or the file's size another.
    assert!(webp[12..].starts_with(b"VP8X"));
    for at in [4, 24, 27] {
        let found = looked_at(&changed(&webp, at));
        assert!(found.is_err(), "a WebP's header at {at}");
    }
    // Without its pixels.
    let at = memchr::memmem::find(&png, b"IDAT").expect("pixels") - 4;
    let end = memchr::memmem::find(&png, b"IEND").expect("an end") - 4;
    let empty = [&png[..at], &png[end..]].concat();
    assert_eq!(looked_at(&empty), Err(Unusable::Damaged));
}

/// A block with a camera and, where it is turned, an orientation.
fn exif(order: &[u8; 4], turned: Option<u8>) -> Vec<u8> {
    let short = |number: u8| match order {
        b"II*\0" => [number, 0],
        _ => [0, number],
    };
    let tagged = |tag: [u8; 2], kind, count, value: &[u8; 4]| {
        let tag = if order == b"II*\0" {
            [tag[1], tag[0]]
        } else {
            tag
        };
        let count = match order {
            b"II*\0" => [count, 0, 0, 0],
            _ => [0, 0, 0, count],
        };
        [&tag[..], &short(kind), &count, value].concat()
    };
    let at = match order {
        b"II*\0" => [8, 0, 0, 0],
        _ => [0, 0, 0, 8],
    };
    let entries = match turned {
        Some(turned) => {
            let [first, second] = short(turned);
            vec![tagged([0x01, 0x12], 3, 1, &[first, second, 0, 0])]
        }
        None => vec![tagged([0x01, 0x0F], 2, 4, CAMERA)],
    };
    [&order[..], &at, &short(1), &entries.concat(), &[0; 4]].concat()
}

const CAMERA: &[u8; 4] = b"acm\0";
const TURNED_IN_XMP: &[u8] = b"<r:RDF xmlns:r='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>\
    <r:Description xmlns:t='http://ns.adobe.com/tiff/1.0/' t:Orientation='6'/></r:RDF>";

/// The photo with more segments before its own.
fn jpeg_with(payloads: &[&[&[u8]]]) -> Vec<u8> {
    let photo = photo("no-exif.jpg");
    let mut image = photo[..2].to_vec();
    for payload in payloads {
        let payload = payload.concat();
        let length = u16::try_from(payload.len() + 2)
            .expect("short")
            .to_be_bytes();
        image.extend([&[0xFF, jpeg::APP1][..], &length, &payload].concat());
    }
    image.extend(&photo[2..]);
    image
}

fn turned(name: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/photos/turned");
    fs::read(root.join(name)).expect("a photo")
}

/// The image with a block, whose chunk stands before the pixels of a PNG and at the end of a WebP.
fn with_block(format: Format, block: &[u8]) -> Vec<u8> {
    match format {
        Format::Png => {
            const HEADER: usize = 8 + 12 + 13;
            let png = photo("astronaut.png");
            let chunk = png::framed(*b"eXIf", block);
            [&png[..HEADER], &chunk, &png[HEADER..]].concat()
        }
        Format::Webp => {
            let mut webp = turned("xmp.webp");
            let length = u32::try_from(block.len()).expect("short").to_le_bytes();
            webp.extend([b"EXIF", &length[..], block].concat());
            let size = u32::try_from(webp.len() - 8).expect("short").to_le_bytes();
            webp[4..8].copy_from_slice(&size);
            webp
        }
        _ => jpeg_with(&[&[jpeg::EXIF, block]]),
    }
}

fn has(image: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(image, what).is_some()
}

#[test]
fn the_camera_stays_beside_an_orientation_from_elsewhere() {
    let exif = exif(b"II*\0", None);
    let packet = [b"http://ns.adobe.com/xap/1.0/\0", TURNED_IN_XMP].concat();
    let image = jpeg_with(&[&[jpeg::EXIF, &exif], &[&packet]]);
    let (stripped, _) = stripped(&image, Metadata::StripLocation).expect("is sound");
    assert_eq!(orientation::of(&stripped, Format::Jpeg), Some(6));
    assert!(has(&stripped, CAMERA) && !has(&stripped, b"RDF"));
}

#[test]
fn the_camera_stays_where_a_block_has_the_words_of_jpeg() {
    let block = [jpeg::EXIF, &exif(b"MM\0*", None)].concat();
    for format in [Format::Png, Format::Webp] {
        let image = with_block(format, &block);
        let (stripped, _) = stripped(&image, Metadata::StripLocation).expect("is sound");
        assert!(has(&stripped, CAMERA));
    }
}

#[test]
fn an_orientation_stays_where_the_rest_has_grown_too_large() {
    // Five texts in the same place, which each have their own afterwards.
    let texts = [0x12, 0x0F, 0x10, 0x31, 0x32, 0x3B].map(|tag: u8| match tag {
        0x12 => b"\x12\x01\x03\0\x01\0\0\0\x03\0\0\0".to_vec(),
        _ => [&[tag, 1, 2, 0, 200, 0, 0, 0][..], &[86, 0, 0, 0]].concat(),
    });
    let block = [
        b"II*\0\x08\0\0\0\x06\0",
        &texts.concat()[..],
        &[0; 4],
        &[b'x'; 200],
    ]
    .concat();
    for format in [Format::Jpeg, Format::Png, Format::Webp] {
        let image = with_block(format, &block);
        // What XMP leaves would be room for it.
        let image = match format {
            Format::Webp => {
                let xmp = memchr::memmem::find(&image, b"XMP ").expect("it is there");
                let mut image = image;
                let exif = memchr::memmem::find(&image, b"EXIF").expect("it is there");
                image.drain(xmp..exif);
                let size = u32::try_from(image.len() - 8).expect("short").to_le_bytes();
                image[4..8].copy_from_slice(&size);
                image
            }
            _ => image,
        };
        let (stripped, _) = stripped(&image, Metadata::StripLocation).expect("is sound");
        assert_eq!(orientation::of(&stripped, format), Some(3), "{format:?}");
        assert!(!has(&stripped, &[b'x'; 200]), "{format:?}");
        let flags = stripped.get(20).copied();
        assert!(format != Format::Webp || flags.is_some_and(|it| it & 0x08 != 0));
    }
}

#[test]
fn a_picture_that_is_upright_needs_no_exif() {
    let exif = exif(b"II*\0", Some(1));
    let image = jpeg_with(&[&[jpeg::EXIF, &exif]]);
    let (without, changed) = stripped(&image, Metadata::StripAll).expect("is sound");
    assert!(changed && !has(&without, jpeg::EXIF));
}

#[test]
fn what_has_no_more_than_its_orientation_is_left_as_it_is() {
    for order in [b"II*\0", b"MM\0*"] {
        let exif = exif(order, Some(6));
        let bare = stripped(&jpeg_with(&[]), Metadata::StripAll);
        let bare = bare.expect("is sound").0;
        let segment = [&[0xFF, jpeg::APP1, 0, 34][..], jpeg::EXIF, &exif].concat();
        let at = memchr::memmem::find(&bare, &[0xFF, 0xDA]).expect("a scan");
        let image = [&bare[..at], &segment, &bare[at..]].concat();
        let (stripped, changed) = stripped(&image, Metadata::StripAll).expect("is sound");
        assert!(stripped == image && !changed, "{order:?}");
    }
}

#[test]
fn animations_keep_their_frames() {
    use image::{
        AnimationDecoder,
        codecs::{png::PngDecoder, webp::WebPDecoder},
    };
    use std::io::Cursor;
    let frames = |bytes: &[u8]| {
        let bytes = Cursor::new(bytes);
        let frames = match Format::announced(bytes.get_ref()) {
            Ok(Format::Png) => PngDecoder::new(bytes)
                .and_then(PngDecoder::apng)
                .expect("a PNG")
                .into_frames()
                .collect_frames(),
            _ => WebPDecoder::new(bytes)
                .expect("a WebP")
                .into_frames()
                .collect_frames(),
        };
        let frames = frames.expect("frames").into_iter();
        frames
            .map(|it| (it.delay(), it.into_buffer().into_raw()))
            .collect::<Vec<_>>()
    };
    for (name, count) in [("made/animated.png", 3), ("made/animated.webp", 4)] {
        let bytes = photo(name);
        let before = frames(&bytes);
        assert_eq!(before.len(), count, "{name}");
        for metadata in [Metadata::StripLocation, Metadata::StripAll] {
            let (after, changed) = stripped(&bytes, metadata).expect("is good");
            assert!(changed && frames(&after) == before, "{name}");
        }
    }
}

#[test]
fn a_scan_ends_at_its_first_marker_wherever_that_is() {
    let head = [0xFF, jpeg::START_OF_SCAN, 0, 2];
    for filling in [&[7][..], &[0xFF, 0], &[0xFF, 0xD3], &[0xFF], &[]] {
        for length in 0..200 {
            let filling = filling.iter().cycle().copied();
            let scan: Vec<u8> = filling.take(length).chain([0]).collect();
            let scan = [&head[..], &scan].concat();
            let end = |bytes: &[u8]| jpeg::piece(bytes, 0).map(|piece| piece.end);
            assert_eq!(end(&scan), None);
            assert_eq!(end(&[&scan[..], &[0xFF]].concat()), None);
            for second in 0..=u8::MAX {
                let is_marker = !matches!(second, 0 | 0xD0..=0xD7 | 0xFF);
                let behind = [&scan[..], &[0xFF, second, 0]].concat();
                let expected = is_marker.then_some(scan.len());
                assert_eq!(end(&behind), expected, "{length}, {second:X}");
                // The first one counts.
                let twice = [&behind[..], &scan[4..], &[0xFF, jpeg::END]].concat();
                let expected = expected.unwrap_or(twice.len() - 2);
                assert_eq!(end(&twice), Some(expected), "{length}, {second:X}");
            }
        }
    }
}

#[test]
fn compressed_data_is_not_taken_for_something_else() {
    let mut random = fastrand::Rng::with_seed(5);
    let mut bytes = vec![0; 8 << 20];
    random.fill(&mut bytes);
    assert_eq!(foreign::check(&bytes), Ok(()));
}

#[tokio::test]
async fn a_large_image_waits_for_its_turn_and_a_small_one_for_nobody() {
    let mut large = photo("made/everywhere.png");
    large.resize(LOOKED_AT_IN_PLACE, b'<');
    let small = large.clone();
    large.push(b'<');
    for metadata in [Metadata::Keep, Metadata::StripAll] {
        let images = Images {
            turns: Turns::new(1, u64::MAX),
            ..Images::new(Rules {
                metadata,
                ..rules()
            })
        };
        let tenant = "carper".parse().expect("an id");
        let others = images.turns.take(&tenant, 0).await;
        let mut waits = Box::pin(images.accept(&tenant, buffer(&large)));
        assert!(futures_util::poll!(&mut waits).is_pending());
        if metadata == Metadata::Keep {
            let at_once = Box::pin(images.accept(&tenant, buffer(&small)));
            assert!(futures_util::poll!(at_once).is_ready());
        }
        drop(others);
        assert!(waits.await.is_ok());
    }
}

static SMALL: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let photos = photos().into_iter().map(|(_, bytes)| bytes);
    photos.filter(|it| it.len() < 12_000).collect()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn whatever_is_changed_stays_sound_or_is_refused(
        which: Index,
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..8),
        copied in prop::option::of((any::<Index>(), any::<Index>(), any::<Index>())),
    ) {
        let mut bytes = SMALL[which.index(SMALL.len())].clone();
        for (at, value) in changes {
            // The heads are where most is decided.
            let at = at.index(bytes.len().min(3000));
            bytes[at] = value;
        }
        if let Some((from, to, at)) = copied {
            let (from, to) = (from.index(bytes.len()), to.index(bytes.len()));
            let piece = bytes[from.min(to)..from.max(to)].to_vec();
            let at = at.index(bytes.len());
            bytes.splice(at..at, piece);
        }
        check(&bytes);
    }
}
