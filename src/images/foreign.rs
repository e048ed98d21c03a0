//! What makes an image something else too: pages, scripts, documents and archives inside it.
//!
//! What is short is believed only where text goes on behind it, or where it stands in its own
//! place, so that compressed data doesn't look like it by chance: the rarest of these tests has 50 bits.

use std::sync::LazyLock;

use aho_corasick::{
    Anchored, StartKind,
    automaton::{Automaton as _, StateID},
    dfa::DFA,
};
use memchr::memmem;

use super::Unusable;

/// Readers of PDF look for its head in so many bytes.
const PDF_HEAD_WITHIN: usize = 1024;
/// Readers of ZIP look for its directory's end in so many last bytes: it, and a comment.
const ZIP_END_WITHIN: usize = 22 + 65_535;

/// A text in UTF-16 is known by the zeros of its first letters.
const ZEROS: usize = 4;

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

/// What begins a page or a script: a name in letters of either case, behind `<`.
#[derive(Debug, PartialEq, Eq)]
struct Tag {
    /// In small letters.
    name: &'static [u8],
    /// What ends it: one of these.
    behind: &'static [u8],
    /// How much text there must be from that on, or up to the end.
    text: usize,
}

impl Tag {
    const fn new(name: &'static [u8], behind: &'static [u8], text: usize) -> Self {
        Self { name, behind, text }
    }

    /// Whether it goes on `behind` so many letters of it, and of what ends it, that are known. A letter is the last of
    /// so many bytes.
    fn goes_on(&self, known: usize, behind: &[u8], width: usize) -> bool {
        let letter = |nth: usize| behind.get((nth + 1) * width - 1).copied();
        let name = self.name.get(known..).unwrap_or_default();
        let has_end = known > self.name.len();
        let text = name.len() + usize::from(!has_end);
        let is_named = name
            .iter()
            .enumerate()
            .all(|(nth, it)| letter(nth).is_some_and(|letter| letter.eq_ignore_ascii_case(it)));
        is_named
            && (has_end || letter(name.len()).is_some_and(|it| self.behind.contains(&it)))
            && (text..text + self.text.saturating_sub(1))
                .map_while(letter)
                .all(is_text)
    }
}

const DELIMITERS: &[u8] = b"> /=\t\r\n";

static TAGS: [Tag; 31] = [
    Tag::new(b"script", DELIMITERS, 0),
    Tag::new(b"iframe", DELIMITERS, 0),
    // Apple's property lists, which Photoshop writes, have another.
    Tag::new(b"!doctype html", DELIMITERS, 0),
    Tag::new(b"!doctype svg", DELIMITERS, 0),
    Tag::new(b"!entity", DELIMITERS, 0),
    Tag::new(b"hta:application", DELIMITERS, 0),
    Tag::new(b"object", DELIMITERS, 0),
    Tag::new(b"embed", DELIMITERS, 0),
    Tag::new(b"frame", DELIMITERS, 0),
    Tag::new(b"applet", DELIMITERS, 0),
    Tag::new(b"style", DELIMITERS, 0),
    Tag::new(b"input", DELIMITERS, 0),
    Tag::new(b"button", DELIMITERS, 0),
    Tag::new(b"select", DELIMITERS, 0),
    Tag::new(b"textarea", DELIMITERS, 0),
    Tag::new(b"details", DELIMITERS, 0),
    Tag::new(b"video", DELIMITERS, 0),
    Tag::new(b"audio", DELIMITERS, 0),
    Tag::new(b"marquee", DELIMITERS, 0),
    Tag::new(b"html", DELIMITERS, 2),
    Tag::new(b"body", DELIMITERS, 2),
    Tag::new(b"form", DELIMITERS, 4),
    Tag::new(b"meta", DELIMITERS, 4),
    Tag::new(b"link", DELIMITERS, 4),
    Tag::new(b"base", DELIMITERS, 4),
    Tag::new(b"math", DELIMITERS, 4),
    Tag::new(b"img", DELIMITERS, 8),
    Tag::new(b"svg", DELIMITERS, 8),
    Tag::new(b"?php", DELIMITERS, 4),
    // PHP and ASP have no delimiter here; what follows is code.
    Tag::new(b"?=", b"$`(\"' ", 8),
    Tag::new(b"%", b"@=$( ", 16),
];
/// The namespace that pictures of SVG are in, under whatever prefix.
const SVG: &[u8] = b"http://www.w3.org/2000/svg";
const PDF: &[u8] = b"%PDF-";

/// Searches what isn't compressed pixels. Each byte costs one step of an automaton, whatever it is, since it is a
/// stranger's choice.
///
/// # Errors
/// It holds a page, a script, a document or an archive.
pub(super) fn check(region: &[u8]) -> Result<(), Unusable> {
    static SIGNS: LazyLock<Signs> = LazyLock::new(Signs::new);
    refuse_if(SIGNS.are_in(region))
}

/// Everything that is searched for, in one automaton. What it finds is looked at again, since it knows neither cases
/// nor what must follow.
struct Signs {
    automaton: DFA,
    start: StateID,
    /// In the order of the automaton's patterns.
    signs: Vec<Sign>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// These bytes.
    Mark(&'static [u8]),
    /// The head of a PDF, before its version.
    Document,
    /// So many letters of a tag and of what ends it.
    Tag(&'static Tag, usize),
    /// The same in UTF-16, of either order.
    WideTag(&'static Tag, usize),
}

impl Signs {
    #[expect(clippy::expect_used, reason = "the patterns are few, and our own")]
    fn new() -> Self {
        let marks = MARKS.iter().chain([&SVG]);
        let mut patterns: Vec<(Vec<u8>, Sign)> = marks
            .map(|mark| (mark.to_vec(), Sign::Mark(mark)))
            .chain([(PDF.to_vec(), Sign::Document)])
            .collect();
        for tag in &TAGS {
            for end in tag.behind {
                let text = [tag.name, &[*end]].concat();
                let narrow = [b"<", &text[..]].concat();
                patterns.push((narrow, Sign::Tag(tag, text.len())));
                let known = text.len().min(ZEROS);
                let wide = text[..known].iter().flat_map(|it| [0, *it]);
                let wide = [b'<'].into_iter().chain(wide).collect();
                patterns.push((wide, Sign::WideTag(tag, known)));
            }
        }
        // The beginnings of long tags in UTF-16 are the same whatever ends them.
        patterns.sort_by(|(one, _), (other, _)| one.cmp(other));
        patterns.dedup();
        let (patterns, signs): (Vec<_>, Vec<_>) = patterns.into_iter().unzip();
        let automaton = DFA::builder()
            .ascii_case_insensitive(true)
            // It would make some bytes cheaper than others.
            .prefilter(false)
            .start_kind(StartKind::Unanchored)
            .build(&patterns)
            .expect("they are few");
        let start = automaton.start_state(Anchored::No);
        Self {
            start: start.expect("it is built for that"),
            automaton,
            signs,
        }
    }

    fn are_in(&self, region: &[u8]) -> bool {
        let mut state = self.start;
        (1..).zip(region).any(|(end, byte)| {
            state = self.automaton.next_state(Anchored::No, state, *byte);
            self.automaton.is_special(state) && self.is_one(state, region, end)
        })
    }

    /// Whether one of the patterns that end there is what it looks like.
    fn is_one(&self, state: StateID, region: &[u8], end: usize) -> bool {
        self.automaton.is_match(state)
            && (0..self.automaton.match_len(state)).any(|nth| {
                let pattern = self.automaton.match_pattern(state, nth);
                let is_exactly =
                    |it: &[u8]| region[end - self.automaton.pattern_len(pattern)..end] == *it;
                let behind = &region[end..];
                match self.signs[pattern.as_usize()] {
                    Sign::Mark(mark) => is_exactly(mark),
                    Sign::Document => is_exactly(PDF) && is_version(behind),
                    Sign::Tag(tag, known) => tag.goes_on(known, behind, 1),
                    Sign::WideTag(tag, known) => {
                        let mut zeros = behind.iter().step_by(2).take(ZEROS - known);
                        zeros.all(|it| *it == 0) && tag.goes_on(known, behind, 2)
                    }
                }
            })
    }
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
        memmem::find(head, PDF).is_some()
            || PLACES.iter().any(is_there)
            || memmem::find_iter(tail, b"PK\x05\x06").any(|at| is_zip_end(&tail[at..])),
    )
}

/// Whether a comment of JavaScript that began before `text` ends in it, and code follows. By chance that is rare, not
/// unheard of: ask only where one may have begun.
pub(super) fn ends_comment(text: &[u8]) -> bool {
    text.windows(3).enumerate().any(|(at, three)| {
        three.starts_with(b"*/") && text[at + 2..].iter().take(3).all(|it| is_text(*it))
    })
}

fn refuse_if(condition: bool) -> Result<(), Unusable> {
    if condition {
        Err(Unusable::Polyglot)
    } else {
        Ok(())
    }
}

fn is_text(byte: u8) -> bool {
    matches!(byte, b'\t' | b'\r' | b'\n' | b' '..=b'~')
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

#[cfg(test)]
mod tests {
    use super::*;

    /// As UTF-16 of either order has it, from the `<` on.
    fn wide(text: &[u8]) -> Vec<u8> {
        text.iter().flat_map(|it| [*it, 0]).collect()
    }

    #[track_caller]
    fn is_refused(text: &[u8], expected: bool) {
        for before in [
            &b""[..],
            b"<",
            b"<scrip",
            b"<\0s",
            b"%PDF",
            b"<html>\x01",
            &[0; 70],
        ] {
            let region = [before, text].concat();
            let told = String::from_utf8_lossy(&region);
            assert_eq!(check(&region).is_err(), expected, "{told:?}");
        }
    }

    #[test]
    fn a_tag_is_found_in_either_case_and_width_with_all_that_must_follow() {
        for tag in &TAGS {
            for end in tag.behind {
                let head = [b"<", tag.name, &[*end]].concat();
                let text = [&head[..], &[b'a'; 16]].concat();
                // What is too short is believed where nothing follows.
                for text in [&text, &head, &text.to_ascii_uppercase()] {
                    is_refused(text, true);
                    is_refused(&wide(text), true);
                }
                let must_follow = tag.text.saturating_sub(1);
                let cut = |at: usize| {
                    let mut text = text.clone();
                    text[head.len() + at] = 1;
                    text
                };
                is_refused(&cut(must_follow), true);
                is_refused(&wide(&cut(must_follow)), true);
                if let Some(last) = must_follow.checked_sub(1) {
                    is_refused(&cut(last), false);
                    is_refused(&wide(&cut(last)), false);
                }
                let mut other = text.clone();
                other[head.len() - 1] = 1;
                is_refused(&other, false);
                is_refused(&wide(&other), false);
                for zero in 0..ZEROS {
                    let mut other = wide(&text);
                    other[2 * zero + 1] = 1;
                    is_refused(&other, false);
                }
            }
        }
    }

    #[test]
    fn what_is_no_tag_is_found_as_it_is() {
        for mark in MARKS.iter().chain([&SVG, &&b"%PDF-1.7"[..]]) {
            is_refused(mark, true);
            is_refused(&mark[..mark.len() - 1], false);
            let changed = match mark.to_ascii_uppercase() {
                upper if upper != *mark => upper,
                _ => mark.to_ascii_lowercase(),
            };
            is_refused(&changed, false);
        }
    }
}
