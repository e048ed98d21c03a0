//! What makes an image something else too: pages, scripts, documents and archives inside it.
//!
//! What is short is believed only where text goes on behind it, or where it stands in its own
//! place, so that compressed data doesn't look like it by chance: the rarest of these tests has 50 bits.

use memchr::memmem;

use super::Unusable;

/// Readers of PDF look for its head in so many bytes.
const PDF_HEAD_WITHIN: usize = 1024;
/// Readers of ZIP look for its directory's end in so many last bytes: it, and a comment.
const ZIP_END_WITHIN: usize = 22 + 65_535;

/// Formats that are known by bytes in a fixed place behind the beginning.
const PLACES: [(usize, &[u8]); 3] = [
    (128, b"DICM"),     // DICOM
    (257, b"ustar"),    // tar
    (32_769, b"CD001"), // ISO 9660
];

/// Archives that are found wherever they begin, and PHP's.
const MARKS: [&[u8]; 3] = [b"Rar!\x1A\x07", b"7z\xBC\xAF\x27\x1C", b"__HALT_COMPILER"];

/// What begins a page or a script, in small letters and behind its `<`; and how much text must follow.
const TAGS: [(&[u8], usize); 12] = [
    (b"script", 0),
    (b"iframe", 0),
    // Apple's property lists, which Photoshop writes, have another.
    (b"!doctype html", 0),
    (b"!doctype svg", 0),
    (b"!entity", 0),
    (b"object", 4),
    (b"embed", 6),
    (b"html", 8),
    (b"body", 8),
    (b"svg", 14),
    (b"?php", 8),
    (b"%@", 18),
];
/// `<?=` is PHP without a delimiter behind it.
const PHP_ECHO: (&[u8], usize) = (b"?=", 16);

/// Searches what isn't compressed pixels.
///
/// # Errors
/// It holds a page, a script, a document or an archive.
pub(super) fn check(region: &[u8]) -> Result<(), Unusable> {
    let is_marked = MARKS
        .iter()
        .any(|mark| memmem::find(region, mark).is_some());
    let has_tag = || memchr::memchr_iter(b'<', region).any(|at| is_tag(&region[at + 1..]));
    let has_document =
        || memmem::find_iter(region, b"%PDF-").any(|at| is_version(&region[at + 5..]));
    refuse_if(is_marked || has_tag() || has_document())
}

/// Looks at the places of the whole file that other formats are known by.
///
/// # Errors
/// It is one of them.
pub(super) fn check_places(bytes: &[u8]) -> Result<(), Unusable> {
    let head = &bytes[..bytes.len().min(PDF_HEAD_WITHIN)];
    let tail = &bytes[bytes.len().saturating_sub(ZIP_END_WITHIN)..];
    let is_there =
        |(at, mark): &(usize, &[u8])| bytes.get(*at..).is_some_and(|rest| rest.starts_with(mark));
    refuse_if(
        memmem::find(head, b"%PDF-").is_some()
            || PLACES.iter().any(is_there)
            || memmem::find_iter(tail, b"PK\x05\x06").any(|at| is_zip_end(&tail[at..])),
    )
}

/// Whether JavaScript would take the segments before `text` for a name and a comment that
/// ends in it.
pub(super) fn ends_comment(text: &[u8]) -> bool {
    memmem::find_iter(text, b"*/").any(|at| is_text(&text[at + 2..], 12))
}

fn refuse_if(condition: bool) -> Result<(), Unusable> {
    if condition {
        Err(Unusable::Polyglot)
    } else {
        Ok(())
    }
}

fn is_tag(text: &[u8]) -> bool {
    let delimited = TAGS.iter().any(|(name, text_behind)| {
        starts_with(text, name)
            && text
                .get(name.len())
                .is_some_and(|it| b"> /\t\r\n".contains(it))
            && is_text(&text[name.len()..], *text_behind)
    });
    let (echo, text_behind) = PHP_ECHO;
    delimited || (starts_with(text, echo) && is_text(&text[echo.len()..], text_behind))
}

fn starts_with(text: &[u8], name: &[u8]) -> bool {
    text.get(..name.len())
        .is_some_and(|begin| begin.eq_ignore_ascii_case(name))
}

/// Whether so many bytes are ASCII text, or all that there are; at least one.
fn is_text(bytes: &[u8], length: usize) -> bool {
    let bytes = &bytes[..bytes.len().min(length)];
    let is_text = |it: &u8| matches!(it, b'\t' | b'\r' | b'\n' | b' '..=b'~');
    (length == 0 || !bytes.is_empty()) && bytes.iter().all(is_text)
}

/// `1.7`, say.
fn is_version(text: &[u8]) -> bool {
    matches!(text, [b'0'..=b'9', b'.', b'0'..=b'9', ..])
}

/// The end of central directory record (APPNOTE 4.3.16), of an archive on one disk.
fn is_zip_end(record: &[u8]) -> bool {
    let is_first = |disk: &[u8]| matches!(disk, [0, 0] | [0xFF, 0xFF]);
    record.len() >= 22
        && is_first(&record[4..6])
        && is_first(&record[6..8])
        && record[8..10] == record[10..12]
}
