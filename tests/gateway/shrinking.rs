//! `images.max_dimension`: photos that are made smaller before the ERP gets them.

use std::io::Cursor;

use bytes::Bytes;
use exif::{In, Tag, Value};
use futures_util::FutureExt as _;
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder as _, ImageEncoder, ImageReader, Rgb, RgbImage,
    Rgba, RgbaImage,
    codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder},
    imageops::FilterType,
    metadata::Orientation,
};
use llavero::{
    clock::Clock,
    images::{Fitted, Format, Shrink, Shrinker, Unusable},
    in_flight::{BESIDE_IMAGE, Budget, Buffer, Owner},
};
use prometheus_client::registry::Registry;
use reqwest::multipart::{Form, Part};

use crate::harness::{World, photo, with_clave};

const PATH: &str = "/v1/ordenes/11001/imagenes";
const MAX_PIXELS: u64 = 50_000_000;

fn form(image: &[u8]) -> Form {
    let part = Part::bytes(image.to_vec()).file_name("foto");
    Form::new().text("proceso", "antes").part("imagen", part)
}

/// What the ERP keeps of an upload that it took.
async fn kept(world: &World, image: &[u8]) -> Bytes {
    world.erp.clear_requests();
    let reply = world.upload(PATH, form(image)).await;
    let archivo = reply.ok(201);
    assert!(
        archivo["id"].is_u64() && archivo["url"].is_string(),
        "{archivo}"
    );
    let [received] = &world.received()[..] else {
        panic!("one request")
    };
    let id = received.archivo_id.unwrap();
    world.erp.imagen(&with_clave("carper"), id).unwrap().into()
}

/// As an upload has it that has arrived.
fn buffer(image: &[u8]) -> Buffer {
    let most = image.len() as u64 + BESIDE_IMAGE;
    let budget = Budget::new(u64::MAX, most, Clock::manual(), &mut Registry::default());
    let tenant = "carper".parse().unwrap();
    let owner = Owner::new(tenant, "https://issuer".into(), "ana".into());
    let reserved = budget.reserve(&owner, most).now_or_never();
    let mut buffer = reserved.unwrap().unwrap();
    buffer.extend_from_slice(image);
    buffer
}

/// Of that longer side, straight from the gateway's own part.
async fn shrunk(image: &[u8], format: Format, max_dimension: u32) -> Result<Fitted, Unusable> {
    let size = imagesize::blob_size(image).unwrap();
    let shrink = Shrink {
        max_dimension,
        quality: 90,
    };
    Shrinker::new(shrink, MAX_PIXELS)
        .shrink(
            &"carper".parse().unwrap(),
            buffer(image),
            format,
            size.width as u64,
            size.height as u64,
        )
        .await
}

async fn bytes(image: &[u8], format: Format, max_dimension: u32) -> Buffer {
    match shrunk(image, format, max_dimension).await.unwrap() {
        Fitted::Shrunk(shrunk) => {
            let picture = decoded(&shrunk.bytes);
            assert_eq!(u64::from(picture.width()), shrunk.width);
            assert_eq!(u64::from(picture.height()), shrunk.height);
            shrunk.bytes
        }
        Fitted::AsItWas(_) => panic!("it is made smaller"),
    }
}

/// As stored, and how it is to be turned.
fn read(image: &[u8]) -> (DynamicImage, Orientation, Option<Vec<u8>>) {
    let reader = ImageReader::new(Cursor::new(image)).with_guessed_format();
    let mut decoder = reader.unwrap().into_decoder().unwrap();
    let orientation = decoder.orientation().unwrap();
    let profile = decoder.icc_profile().unwrap();
    let picture = DynamicImage::from_decoder(decoder).unwrap();
    (picture, orientation, profile)
}

fn decoded(image: &[u8]) -> DynamicImage {
    read(image).0
}

/// How far apart two pictures of one size are, in steps of a channel on average.
fn distance(one: &DynamicImage, other: &DynamicImage) -> f64 {
    let (one, other) = (one.to_rgba8(), other.to_rgba8());
    assert_eq!(one.dimensions(), other.dimensions());
    let sum: u64 = one
        .as_raw()
        .iter()
        .zip(other.as_raw())
        .map(|(one, other)| u64::from(one.abs_diff(*other)))
        .sum();
    sum as f64 / one.as_raw().len() as f64
}

fn exif_of(image: &[u8]) -> exif::Exif {
    exif::Reader::new()
        .continue_on_error(true)
        .read_from_container(&mut Cursor::new(image))
        .or_else(|error| error.distill_partial_result(|_| {}))
        .unwrap()
}

#[tokio::test]
async fn the_erp_gets_a_photo_that_fits_and_stands_upright() {
    let world = World::configured("images:\n  max_dimension: 400\n").await;
    for (name, width, height) in [
        ("phone-12mp-gps-rotated.jpg", 300, 400),
        ("lumia-gps.jpg", 400, 225),
        ("no-exif.jpg", 400, 267),
        ("astronaut.png", 400, 400),
        ("coffee.webp", 267, 400),
    ] {
        let original = photo(name);
        let kept = kept(&world, &original).await;
        let (picture, turn, profile) = read(&kept);
        assert_eq!(
            (picture.width(), picture.height()),
            (width, height),
            "{name}"
        );
        assert_eq!(turn, Orientation::NoTransforms, "{name}");

        let (mut expected, turn, expected_profile) = read(&original);
        assert_eq!(profile, expected_profile, "{name}");
        expected.apply_orientation(turn);
        let expected = expected.resize_exact(width, height, FilterType::Triangle);
        let distance = distance(&picture, &expected);
        assert!(distance < 6.0, "{name}: {distance}");
    }
}

#[tokio::test]
async fn a_photo_is_made_upright_wherever_its_file_said_so() {
    for (name, format, turned) in [
        ("turned/attribute.jpg", Format::Jpeg, 6),
        ("turned/element.jpg", Format::Jpeg, 6),
        ("turned/exif-first.jpg", Format::Jpeg, 8),
        ("turned/xmp.png", Format::Png, 6),
        ("turned/packed-xmp.png", Format::Png, 6),
        ("turned/raw-exif.png", Format::Png, 6),
        ("turned/raw-app1.png", Format::Png, 6),
        ("turned/xmp.webp", Format::Webp, 6),
    ] {
        let small = bytes(&photo(name), format, 48).await;
        let (picture, turn, _) = read(&small);
        assert_eq!(turn, Orientation::NoTransforms, "{name}");
        assert_eq!((picture.width(), picture.height()), (32, 48), "{name}");
        // The red corner was above on the left: turned clockwise it is on the right, the other way below.
        let (x, y) = if turned == 6 { (27, 4) } else { (4, 43) };
        let Rgb([red, green, blue]) = *picture.to_rgb8().get_pixel(x, y);
        assert!(red > 190 && green < 80 && blue < 80, "{name}");
    }
}

#[tokio::test]
async fn a_photo_within_the_limit_arrives_as_it_is() {
    let world = World::configured("images:\n  max_dimension: 1278\n").await;
    for name in [
        "lumia-gps.jpg",
        "sony-rx1r.jpg",
        "astronaut.png",
        "coffee.webp",
    ] {
        assert!(kept(&world, &photo(name)).await == photo(name), "{name}");
    }
}

#[tokio::test]
async fn what_cannot_be_decoded_is_refused_and_not_sent() {
    let world = World::configured("images:\n  max_dimension: 400\n").await;
    let mut jpeg = photo("lumia-gps.jpg");
    let middle = jpeg.len() * 3 / 4;
    // An end in the middle of the scan: a header that promises more than there is.
    jpeg.truncate(middle);
    jpeg.extend([0xFF, 0xD9]);
    let mut png = photo("astronaut.png");
    let middle = png.len() / 2;
    png[middle] ^= 1;
    let mut webp = photo("coffee.webp");
    let at = memchr::memmem::find(&webp, b"VP8 ").unwrap();
    webp[at + 4 + 4 + 3] ^= 0xFF;
    for (name, image) in [("jpeg", jpeg), ("png", png), ("webp", webp)] {
        let reply = world.upload(PATH, form(&image)).await;
        reply.problem(422, "invalid-image");
        assert_eq!(reply.named(), ["/imagen"], "{name}");
    }
    assert!(world.received().is_empty());
    kept(&world, &photo("lumia-gps.jpg")).await;
}

#[tokio::test]
async fn when_and_where_a_photo_was_taken_stays_with_it() {
    for (name, format, date) in [
        (
            "phone-12mp-gps-rotated.jpg",
            Format::Jpeg,
            "2026-01-27 15:03:10",
        ),
        ("lumia-gps.jpg", Format::Jpeg, "2013-05-10 15:21:35"),
        ("coffee.webp", Format::Webp, "2026-01-27 15:03:10"),
    ] {
        let original = photo(name);
        let small = bytes(&original, format, 320).await;
        let (before, after) = (exif_of(&original), exif_of(&small));
        let shown = |exif: &exif::Exif, tag| {
            let field = exif.get_field(tag, In::PRIMARY);
            field.map(|field| field.display_value().to_string())
        };
        assert_eq!(shown(&after, Tag::DateTimeOriginal).as_deref(), Some(date));
        for tag in [
            Tag::Make,
            Tag::Model,
            Tag::GPSLatitude,
            Tag::GPSLatitudeRef,
            Tag::GPSLongitude,
            Tag::GPSLongitudeRef,
        ] {
            assert_eq!(shown(&after, tag), shown(&before, tag), "{name}: {tag}");
            assert!(shown(&after, tag).is_some(), "{name}: {tag}");
        }
        assert_eq!(
            before
                .fields()
                .filter(|it| it.ifd_num == In::PRIMARY)
                .count(),
            after.fields().count(),
            "{name}: all but the thumbnail's"
        );
        let number = |tag| {
            let field = after.get_field(tag, In::PRIMARY)?;
            field.value.get_uint(0)
        };
        assert_eq!(number(Tag::Orientation), Some(1));
        let picture = decoded(&small);
        for (tag, side) in [
            (Tag::PixelXDimension, picture.width()),
            (Tag::PixelYDimension, picture.height()),
        ] {
            assert!(number(tag).is_none_or(|it| it == side), "{name}: {tag}");
        }
        // A thumbnail is a JPEG of its own.
        let starts = memchr::memmem::find_iter(&small, &[0xFF, 0xD8, 0xFF]).count();
        assert_eq!(starts, usize::from(format == Format::Jpeg), "{name}");
    }
}

/// Four quarters: red, green, blue, white, clockwise from above left.
fn quarters() -> RgbImage {
    RgbImage::from_fn(96, 64, |x, y| {
        Rgb(match (x < 48, y < 32) {
            (true, true) => [255, 0, 0],
            (false, true) => [0, 255, 0],
            (false, false) => [0, 0, 255],
            (true, false) => [255, 255, 255],
        })
    })
}

/// One tag.
fn exif_with(orientation: u8) -> Vec<u8> {
    let mut block = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\0\0\0\0\0\0\0".to_vec();
    block[19] = orientation;
    block
}

fn encoded(
    mut encoder: impl ImageEncoder,
    image: &DynamicImage,
    exif: Option<Vec<u8>>,
    profile: Option<Vec<u8>>,
) {
    if let Some(exif) = exif {
        encoder.set_exif_metadata(exif).unwrap();
    }
    if let Some(profile) = profile {
        encoder.set_icc_profile(profile).unwrap();
    }
    let kind: ExtendedColorType = image.color().into();
    encoder
        .write_image(image.as_bytes(), image.width(), image.height(), kind)
        .unwrap();
}

fn file(
    format: Format,
    image: impl Into<DynamicImage>,
    exif: Option<Vec<u8>>,
    profile: Option<Vec<u8>>,
) -> Vec<u8> {
    let mut out = Vec::new();
    let image = image.into();
    match format {
        Format::Jpeg => encoded(
            JpegEncoder::new_with_quality(&mut out, 95),
            &image,
            exif,
            profile,
        ),
        Format::Png => encoded(PngEncoder::new(&mut out), &image, exif, profile),
        Format::Webp => encoded(WebPEncoder::new_lossless(&mut out), &image, exif, profile),
        Format::Heic => panic!("nothing here writes it"),
    }
    out
}

#[tokio::test]
async fn each_of_the_eight_orientations_is_made_upright() {
    // What stands where in the end, clockwise from above left, of the quarters 1 to 4.
    let upright = [
        [1, 2, 3, 4],
        [2, 1, 4, 3],
        [3, 4, 1, 2],
        [4, 3, 2, 1],
        [1, 4, 3, 2],
        [4, 1, 2, 3],
        [3, 2, 1, 4],
        [2, 3, 4, 1],
    ];
    for format in [Format::Jpeg, Format::Png, Format::Webp] {
        for (orientation, expected) in (1..).zip(upright) {
            let image = file(format, quarters(), Some(exif_with(orientation)), None);
            let small = bytes(&image, format, 48).await;
            let (picture, turn, _) = read(&small);
            assert_eq!(turn, Orientation::NoTransforms);
            let picture = picture.to_rgb8();
            let (width, height) = picture.dimensions();
            let lies = orientation <= 4;
            assert_eq!((width, height), if lies { (48, 32) } else { (32, 48) });
            let (right, low) = (width * 3 / 4, height * 3 / 4);
            let (left, high) = (width / 4, height / 4);
            let found = [(left, high), (right, high), (right, low), (left, low)];
            let found = found.map(
                |(x, y)| match picture.get_pixel(x, y).0.map(|it| it > 127) {
                    [true, false, false] => 1,
                    [false, true, false] => 2,
                    [false, false, true] => 3,
                    [true, true, true] => 4,
                    other => panic!("{other:?}"),
                },
            );
            assert_eq!(found, expected, "{} {orientation}", format.name());
        }
    }
}

#[tokio::test]
async fn a_profile_says_what_colours_mean_afterwards_too() {
    let profile: Vec<u8> = (0..80_001u32).map(|it| it as u8).collect();
    for format in [Format::Jpeg, Format::Png, Format::Webp] {
        for exif in [None, Some(exif_with(6))] {
            let image = file(format, quarters(), exif, Some(profile.clone()));
            let small = bytes(&image, format, 48).await;
            assert!(
                read(&small).2.as_ref() == Some(&profile),
                "{}",
                format.name()
            );
        }
    }
}

#[tokio::test]
async fn gray_stays_gray_and_what_is_transparent_transparent() {
    let gray = DynamicImage::from(quarters()).to_luma8();
    let clear = RgbaImage::from_fn(96, 64, |x, _| match x < 48 {
        true => Rgba([255, 0, 0, 255]),
        // Of what can't be seen nothing may run into the rest.
        false => Rgba([0, 255, 0, 0]),
    });
    for format in [Format::Jpeg, Format::Png] {
        let image = file(format, gray.clone(), None, None);
        let small = decoded(&bytes(&image, format, 48).await);
        assert_eq!(small.color(), image::ColorType::L8, "{}", format.name());
    }
    for format in [Format::Png, Format::Webp] {
        for exif in [None, Some(exif_with(1))] {
            let image = file(format, clear.clone(), exif, None);
            let small = decoded(&bytes(&image, format, 48).await).to_rgba8();
            assert_eq!(
                small.get_pixel(8, 8).0,
                [255, 0, 0, 255],
                "{}",
                format.name()
            );
            assert_eq!(small.get_pixel(40, 8).0[3], 0, "{}", format.name());
            let edge = (0..48).map(|x| small.get_pixel(x, 8).0);
            assert!(edge.filter(|it| it[3] > 0).all(|it| it[1] == 0));
        }
    }
    let deep = DynamicImage::from(quarters()).to_rgb16();
    let image = file(Format::Png, deep, None, None);
    let small = decoded(&bytes(&image, Format::Png, 48).await);
    assert_eq!(small.color(), image::ColorType::Rgb8);
}

#[tokio::test]
async fn what_is_lossless_stays_so_and_the_rest_has_its_quality() {
    let picture = decoded(&photo("coffee.webp"));
    let lossless = file(Format::Webp, picture, None, None);
    let small = bytes(&lossless, Format::Webp, 300).await;
    assert!(memchr::memmem::find(&small, b"VP8L").is_some());
    let small = bytes(&photo("coffee.webp"), Format::Webp, 300).await;
    assert!(memchr::memmem::find(&small, b"VP8 ").is_some());

    for name in ["lumia-gps.jpg", "coffee.webp"] {
        let mut sizes = Vec::new();
        for quality in [30, 85] {
            let world = World::configured(&format!(
                "images:\n  max_dimension: 500\n  quality: {quality}\n"
            ))
            .await;
            sizes.push(kept(&world, &photo(name)).await.len());
        }
        assert!(sizes[0] < sizes[1], "{name}: {sizes:?}");
    }
}

#[tokio::test]
async fn what_is_not_a_photo_stays_as_it_is() {
    let frames = [quarters(), image::imageops::rotate180(&quarters())].map(RgbImage::into_raw);
    let mut apng = Vec::new();
    let mut encoder = png::Encoder::new(&mut apng, 96, 64);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_animated(2, 0).unwrap();
    let mut writer = encoder.write_header().unwrap();
    for frame in &frames {
        writer.write_image_data(frame).unwrap();
    }
    writer.finish().unwrap();

    let config = webp::WebPConfig::new().unwrap();
    let mut encoder = webp::AnimEncoder::new(96, 64, &config);
    for (frame, at) in frames.iter().zip([0, 100]) {
        encoder.add_frame(webp::AnimFrame::from_rgb(frame, 96, 64, at));
    }
    let animated = encoder.encode();

    // Four components: the colours of a printer.
    let cmyk =
        b"\xff\xd8\xff\xc0\0\x14\x08\0\x40\0\x60\x04\x01\x11\0\x02\x11\0\x03\x11\0\x04\x11\0\
        \xff\xda\0\x0e\x04\x01\0\x02\0\x03\0\x04\0\0\x3f\0\x37\xff\xd9";
    for (format, image) in [
        (Format::Png, &apng[..]),
        (Format::Webp, &animated[..]),
        (Format::Jpeg, &cmyk[..]),
    ] {
        match shrunk(image, format, 48).await.unwrap() {
            Fitted::AsItWas(bytes) => assert!(*bytes == *image),
            Fitted::Shrunk(_) => panic!("{} was changed", format.name()),
        }
    }
}

#[tokio::test]
async fn a_header_that_says_less_than_the_decoder_finds_is_refused() {
    for format in [Format::Jpeg, Format::Png, Format::Webp] {
        let image = file(format, quarters(), None, None);
        let shrink = Shrink {
            max_dimension: 48,
            quality: 85,
        };
        let shrinker = Shrinker::new(shrink, MAX_PIXELS);
        let tenant = "carper".parse().unwrap();
        for (width, height) in [(96, 63), (95, 64), (64, 96), (9600, 64)] {
            let fitted = shrinker.shrink(&tenant, buffer(&image), format, width, height);
            assert_eq!(fitted.await.unwrap_err(), Unusable::Damaged);
        }
    }
}

#[tokio::test]
async fn very_long_pictures_keep_a_pixel_of_their_width() {
    let line = RgbImage::from_pixel(2000, 2, Rgb([9, 99, 199]));
    for format in [Format::Jpeg, Format::Png, Format::Webp] {
        let image = file(format, line.clone(), None, None);
        let small = decoded(&bytes(&image, format, 100).await);
        assert_eq!((small.width(), small.height()), (100, 1));
    }
}

#[test]
fn the_exif_reader_of_these_tests_sees_places() {
    let exif = exif_of(&photo("phone-12mp-gps-rotated.jpg"));
    let latitude = exif.get_field(Tag::GPSLatitude, In::PRIMARY).unwrap();
    assert!(matches!(&latitude.value, Value::Rational(parts) if parts.len() == 3));
}
