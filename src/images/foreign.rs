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

/// Archives that are found wherever they begin, PHP's, and addresses that are scripts.
const MARKS: [&[u8]; 4] = [
    b"Rar!\x1A\x07",
    b"7z\xBC\xAF\x27\x1C",
    b"__HALT_COMPILER",
    b"javascript:",
];

/// What begins a page or a script, in small letters and behind its `<`; and how much text must follow.
const TAGS: [(&[u8], usize); 29] = [
    (b"script", 0),
    (b"iframe", 0),
    // Apple's property lists, which Photoshop writes, have another.
    (b"!doctype html", 0),
    (b"!doctype svg", 0),
    (b"!entity", 0),
    (b"hta:application", 0),
    (b"object", 0),
    (b"embed", 0),
    (b"frame", 0),
    (b"applet", 0),
    (b"style", 0),
    (b"input", 0),
    (b"button", 0),
    (b"select", 0),
    (b"textarea", 0),
    (b"details", 0),
    (b"video", 0),
    (b"audio", 0),
    (b"marquee", 0),
    (b"html", 2),
    (b"body", 2),
    (b"form", 4),
    (b"meta", 4),
    (b"link", 4),
    (b"base", 4),
    (b"math", 4),
    (b"img", 8),
    (b"svg", 8),
    (b"?php", 4),
];
/// `<?=` and `<%` are PHP and ASP without a delimiter behind them; what follows is code.
const ECHOES: [(&[u8], &[u8], usize); 2] = [(b"?=", b"$`(\"' ", 8), (b"%", b"@=$( ", 16)];
/// The namespace that pictures of SVG are in, under whatever prefix.
const SVG: &[u8] = b"http://www.w3.org/2000/svg";

/// Searches what isn't compressed pixels.
///
/// # Errors
/// It holds a page, a script, a document or an archive.
pub(super) fn check(region: &[u8]) -> Result<(), Unusable> {
    let is_marked = MARKS
        .iter()
        .any(|mark| memmem::find(region, mark).is_some());
    let has_tag = || {
        memchr::memchr_iter(b'<', region)
            .any(|at| is_tag(&region[at + 1..]) || is_wide_tag(&region[at + 1..]))
    };
    let has_document =
        || memmem::find_iter(region, b"%PDF-").any(|at| is_version(&region[at + 5..]));
    let is_svg = || memmem::find(region, SVG).is_some();
    refuse_if(is_marked || has_tag() || has_document() || is_svg())
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

/// Whether a comment of JavaScript that began before `text` ends in it, and code follows. By chance that is rare, not
/// unheard of: ask only where one may have begun.
pub(super) fn ends_comment(text: &[u8]) -> bool {
    memmem::find_iter(text, b"*/").any(|at| is_text(&text[at + 2..], 3))
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
                .is_some_and(|it| b"> /=\t\r\n".contains(it))
            && is_text(&text[name.len()..], *text_behind)
    });
    let is_echo = ECHOES.iter().any(|(echo, code, length)| {
        text.strip_prefix(*echo).is_some_and(|rest| {
            rest.first().is_some_and(|first| code.contains(first)) && is_text(rest, *length)
        })
    });
    delimited || is_echo
}

/// The same in UTF-16, of either order.
fn is_wide_tag(text: &[u8]) -> bool {
    const LONGEST: usize = 64;
    if text.first() != Some(&0) {
        return false;
    }
    let narrow: Vec<u8> = text[1..].iter().step_by(2).take(LONGEST).copied().collect();
    let zeros = text.iter().step_by(2).take(4).all(|it| *it == 0);
    zeros && is_tag(&narrow)
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
