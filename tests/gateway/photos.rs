//! What of a photo reaches the ERP: with metadata removed, the same picture turned the same way, and no
//! place in any corner of the file.

use std::{env, fs, io::Cursor, path::PathBuf, process::Command};

use reqwest::multipart::{Form, Part};

use crate::harness::{World, fixture, photo, with_clave};

const PATH: &str = "/v1/ordenes/11001/imagenes";

/// Photos that are taken, of all folders of `tests/fixtures/photos`.
fn photos() -> Vec<String> {
    let refused = [
        "truncated.jpg",
        "not-an-image.jpg",
        "bomb-60000x60000.png",
        "makers/AFCP.jpg",
        "makers/ExifTool.jpg",
        "makers/FotoStation.jpg",
        "makers/PhotoMechanic.jpg",
    ];
    let root = fixture("photos");
    let mut photos = Vec::new();
    for folder in ["", "makers", "made"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&root).unwrap().to_str().unwrap();
            let is_photo = [".jpg", ".png", ".webp"]
                .iter()
                .any(|it| name.ends_with(it));
            if is_photo && !refused.contains(&name) {
                photos.push(name.to_owned());
            }
        }
    }
    photos.sort();
    assert!(photos.len() > 60);
    photos
}

/// What the ERP got of an upload.
async fn through(world: &World, bytes: Vec<u8>) -> Vec<u8> {
    world.erp.clear_requests();
    let form = Form::new()
        .text("proceso", "antes")
        .part("imagen", Part::bytes(bytes).file_name("foto"));
    world.upload(PATH, form).await.ok(201);
    let [received] = &world.received()[..] else {
        panic!("one request")
    };
    world
        .erp
        .imagen(&with_clave("carper"), received.archivo_id.unwrap())
        .unwrap()
}

/// Width, height and every channel of every pixel; none where the picture can't be decoded, as of those
/// fixtures whose makers left out tables.
fn pixels(bytes: &[u8]) -> Option<(u32, u32, Vec<u8>)> {
    let picture = image::ImageReader::new(Cursor::new(bytes))
        .with_guessed_format()
        .unwrap()
        .decode()
        .ok()?;
    Some((picture.width(), picture.height(), picture.into_bytes()))
}

/// All fields that an independent reader finds.
fn fields(bytes: &[u8]) -> Vec<exif::Field> {
    let mut reader = exif::Reader::new();
    reader.continue_on_error(true);
    let read = reader.read_from_container(&mut Cursor::new(bytes));
    let read = read.or_else(|error| error.distill_partial_result(|_| {}));
    read.map(|it| it.fields().cloned().collect())
        .unwrap_or_default()
}

fn orientation(bytes: &[u8]) -> u32 {
    let fields = fields(bytes);
    let found = fields
        .iter()
        .find(|it| it.tag == exif::Tag::Orientation && it.ifd_num == exif::In::PRIMARY)
        .and_then(|it| it.value.get_uint(0));
    // 0 and 9 mean nothing, which is to say 1.
    found.filter(|it| (1..=8).contains(it)).unwrap_or(1)
}

/// The raw bytes of a file's coordinates, as EXIF has them: degrees, minutes and seconds together.
fn coordinates(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    for field in fields(bytes) {
        let (exif::Tag::GPSLatitude | exif::Tag::GPSLongitude) = field.tag else {
            continue;
        };
        if let exif::Value::Rational(parts) = &field.value {
            let mut little = Vec::new();
            let mut big = Vec::new();
            for part in parts.iter().filter(|it| it.num > 0) {
                for number in [part.num, part.denom] {
                    little.extend(number.to_le_bytes());
                    big.extend(number.to_be_bytes());
                }
            }
            if little.len() >= 16 {
                found.extend([little, big]);
            }
        }
    }
    found
}

fn holds(bytes: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(bytes, what).is_some()
}

/// No place, found without a tool: no GPS field, no known coordinates, no word that a fixture has for a
/// place, and none of the segments and chunks that could hold one.
fn assert_nowhere(name: &str, original: &[u8], bytes: &[u8]) {
    for field in fields(bytes) {
        let is_gps = field.tag.context() == exif::Context::Gps;
        assert!(!is_gps, "{name} has {}", field.tag);
        assert_ne!(field.tag, exif::Tag::MakerNote, "{name}");
        assert_ne!(field.tag, exif::Tag::UserComment, "{name}");
    }
    for coordinates in coordinates(original) {
        assert!(!holds(bytes, &coordinates), "{name} has its coordinates");
    }
    for word in [
        &b"Tlatelolco"[..],
        b"T\0l\0a\0t\0e\0l\0o\0l\0c\0o\0",
        b"19.4514",
        b"GPSL",
        b"http://ns.adobe.com/x",
        b"Photoshop 3.0",
        b"MPF\0",
        b"ftyp",
        b"SEFT",
        b"XMP ",
        b"tEXt",
        b"zTXt",
        b"iTXt",
    ] {
        assert!(!holds(bytes, word), "{name} has {}", word.escape_ascii());
    }
}

/// What exiftool finds of a place in files of that folder, if it is installed.
fn exiftool(folder: &tempfile::TempDir) -> Option<String> {
    const ALL: [&str; 8] = ["-a", "-G1", "-s", "-ee", "-u", "-U", "-m", "-q"];
    let output = Command::new("exiftool")
        .args(ALL)
        .arg(folder.path())
        .output();
    match output {
        Ok(output) => Some(String::from_utf8_lossy(&output.stdout).into_owned()),
        Err(_) if env::var_os("LLAVERO_EXIFTOOL").is_none() => None,
        Err(error) => panic!("exiftool is required: {error}"),
    }
}

fn tells_place(line: &str) -> bool {
    // Where in the picture the subject is, and where the file is.
    let is_harmless = line.contains("SubjectLocation") || line.contains("[System]");
    let words = [
        "GPS",
        "Latitude",
        "Longitude",
        "Altitude",
        "City",
        "Country",
        "ublocation",
        "Sub-location",
        "Location",
        "Landmark",
        "Tlatelolco",
        "[MPImage",
        "[XMP",
        "[IPTC",
        "[Photoshop",
        "[Track",
        "MakerNote",
    ];
    !is_harmless && words.iter().any(|word| line.contains(word))
}

async fn check_all(metadata: &str) {
    let world = World::configured(&format!(
        "images: {{metadata: {metadata}, dedupe_window: 0}}\n"
    ))
    .await;
    let folder = tempfile::tempdir().unwrap();
    let (mut decoded, mut with_place, mut turned) = (0, 0, 0);
    for name in photos() {
        let original = photo(&name);
        let got = through(&world, original.clone()).await;
        assert!(got.len() <= original.len(), "{name}");
        assert_nowhere(&name, &original, &got);
        assert_eq!(orientation(&got), orientation(&original), "{name}");
        let (before, after) = (pixels(&original), pixels(&got));
        assert!(before == after, "{name} decodes to other pixels");
        decoded += usize::from(after.is_some());
        with_place += usize::from(!coordinates(&original).is_empty());
        turned += usize::from(orientation(&got) > 1);
        let file: PathBuf = folder.path().join(name.replace('/', "-"));
        fs::write(file, &got).unwrap();
    }
    println!("{decoded} decoded, {with_place} had coordinates, {turned} are turned");
    assert!(decoded > 55 && with_place >= 12 && turned >= 12);
    if let Some(told) = exiftool(&folder) {
        let places: Vec<&str> = told.lines().filter(|line| tells_place(line)).collect();
        assert!(places.is_empty(), "{}", places.join("\n"));
    }
}

#[tokio::test]
async fn a_photo_without_its_place_is_the_same_picture() {
    check_all("strip-location").await;
}

#[tokio::test]
async fn a_photo_without_metadata_is_the_same_picture() {
    check_all("strip-all").await;
}

/// Files that say how they are to be turned otherwise than in EXIF's own place, and how.
const TURNED: [(&str, u32); 8] = [
    ("turned/attribute.jpg", 6),
    ("turned/element.jpg", 6),
    ("turned/exif-first.jpg", 8),
    ("turned/xmp.png", 6),
    ("turned/packed-xmp.png", 6),
    ("turned/raw-exif.png", 6),
    ("turned/raw-app1.png", 6),
    ("turned/xmp.webp", 6),
];

#[tokio::test]
async fn a_photo_stays_turned_wherever_its_file_said_so() {
    for metadata in ["strip-location", "strip-all"] {
        let world = World::configured(&format!(
            "images: {{metadata: {metadata}, dedupe_window: 0}}\n"
        ))
        .await;
        for (name, turned) in TURNED {
            let original = photo(name);
            let got = through(&world, original.clone()).await;
            assert_eq!(orientation(&got), turned, "{name}");
            assert_nowhere(name, &original, &got);
            assert!(pixels(&got) == pixels(&original), "{name}");
            assert!(got.len() <= original.len(), "{name}");
        }
    }
}

#[tokio::test]
async fn what_is_not_a_place_stays_and_goes_with_all() {
    let camera = [
        exif::Tag::Make,
        exif::Tag::Model,
        exif::Tag::DateTimeOriginal,
        exif::Tag::ExposureTime,
        exif::Tag::FNumber,
        exif::Tag::PhotographicSensitivity,
    ];
    for metadata in ["strip-location", "strip-all"] {
        let world = World::configured(&format!(
            "images: {{metadata: {metadata}, dedupe_window: 0}}\n"
        ))
        .await;
        for name in [
            "made/everywhere.jpg",
            "made/everywhere.png",
            "made/everywhere.webp",
        ] {
            let got = through(&world, photo(name)).await;
            let found = fields(&got);
            for tag in camera {
                let is_there = found.iter().any(|it| it.tag == tag);
                assert_eq!(is_there, metadata == "strip-location", "{name}: {tag}");
            }
            if metadata == "strip-all" {
                assert_eq!(found.len(), 1, "{name}: only the orientation");
            }
            // Colours mean nothing without their profile; in a PNG it is compressed.
            let has_profile = [&b"acsp"[..], b"iCCP"].iter().any(|it| holds(&got, it));
            assert!(has_profile, "{name}");
        }
        // A thumbnail stays where it has nothing of its own to tell.
        let thumbnails = |got: &[u8]| memchr::memmem::find_iter(got, &[0xFF, 0xD8, 0xFF]).count();
        let got = through(&world, photo("made/bare-thumbnail.jpg")).await;
        assert_eq!(
            thumbnails(&got),
            if metadata == "strip-location" { 2 } else { 1 }
        );
        let got = through(&world, photo("made/everywhere.jpg")).await;
        assert_eq!(thumbnails(&got), 1, "{metadata}");
    }
}

#[tokio::test]
async fn kept_photos_arrive_as_they_are() {
    let world =
        World::configured("images: {formats: [jpeg, png, webp, heic], dedupe_window: 0}\n").await;
    for name in photos().into_iter().chain(["iphone.heic".to_owned()]) {
        let got = through(&world, photo(&name)).await;
        assert!(got == photo(&name), "{name} arrived changed");
    }
}

#[tokio::test]
async fn jpegs_behind_a_jpeg_are_kept_with_it_and_go_where_metadata_goes() {
    for (metadata, stays) in [("keep", true), ("strip-location", false)] {
        let world = World::configured(&format!("images: {{metadata: {metadata}}}\n")).await;
        let first = photo("no-exif.jpg");
        let both = [&first[..], &[0; 100], &photo("sony-rx1r.jpg")].concat();
        let got = through(&world, both.clone()).await;
        assert_eq!(got == both, stays, "{metadata}");
        assert!(stays || got.len() <= first.len(), "{metadata}");
    }
}

#[tokio::test]
async fn a_png_that_was_damaged_on_the_way_is_refused() {
    let world = World::start().await;
    let mut image = photo("astronaut.png");
    let middle = image.len() / 2;
    image[middle] ^= 1;
    let form = Form::new()
        .text("proceso", "antes")
        .part("imagen", Part::bytes(image).file_name("foto.png"));
    let reply = world.upload(PATH, form).await;
    let problem = reply.problem(422, "invalid-image");
    assert_eq!(reply.named(), ["/imagen"]);
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("chunk IDAT") && detail.contains("CRC"),
        "{detail}"
    );
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn an_image_that_is_something_else_too_is_refused() {
    let world = World::start().await;
    for behind in [
        &b"<?php system($_GET['c']); ?>"[..],
        b"<html><script>alert(1)</script></html>",
        b"%PDF-1.7",
        b"PK\x03\x04\x14\0\0\0",
    ] {
        let both = [&photo("no-exif.jpg"), behind].concat();
        let form = Form::new()
            .text("proceso", "antes")
            .part("imagen", Part::bytes(both).file_name("foto.jpg"));
        let reply = world.upload(PATH, form).await;
        let problem = reply.problem(422, "invalid-image");
        assert_eq!(reply.named(), ["/imagen"]);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("something else in it"), "{detail}");
    }
    assert!(world.received().is_empty());
}
