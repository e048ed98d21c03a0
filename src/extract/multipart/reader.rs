//! The reading of a form, part after part.

use super::{
    boundary::Boundary,
    delimiter::{Delimiter, Found, LineEnd, Next},
    head::{Head, InvalidHead},
};

/// What may stand before the first part, its delimiter included, in bytes.
pub(in crate::extract) const MAX_PREAMBLE: usize = 256 * 1024;
/// The longest head of a part, in bytes.
pub(in crate::extract) const MAX_HEAD: usize = 64 * 1024;

/// What the next bytes are.
#[derive(Debug)]
pub(in crate::extract) enum Event<'a> {
    /// A part begins.
    Part(Head),
    /// These are the part's.
    Data(&'a [u8]),
    /// The part is whole.
    PartEnd,
}

/// Why bytes are no form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(in crate::extract) enum Malformed {
    /// No part begins within [`MAX_PREAMBLE`].
    #[error("no part begins in the first {MAX_PREAMBLE} bytes")]
    NoPart,
    /// A head doesn't end within [`MAX_HEAD`].
    #[error("the head of a part has more than {MAX_HEAD} bytes")]
    HeadTooLong,
    /// A head can't be read.
    #[error("the head of a part {0}")]
    Head(#[from] InvalidHead),
}

/// Reads one form.
#[derive(Debug)]
pub(in crate::extract) struct Reader {
    boundary: Boundary,
    delimiter: Delimiter,
    state: State,
    /// How many parts have begun.
    parts: usize,
    /// Bytes of which it isn't clear yet whether they are the beginning of a delimiter's line: fewer
    /// than its longest has.
    held: Vec<u8>,
    /// How many of them were given out last.
    given: usize,
}

#[derive(Debug)]
enum State {
    /// Before the first part, of which so many bytes have come.
    Preamble(usize),
    Head(Lines),
    Data,
    End,
}

/// The lines of a head that have come.
#[derive(Debug)]
struct Lines {
    bytes: Vec<u8>,
    /// Where the last of them begins.
    last: usize,
    line_end: LineEnd,
}

/// What is known of the next bytes.
enum Step {
    /// So many that were held back are content.
    Held(usize),
    /// So many that were taken from the input are.
    Taken(usize),
    /// A delimiter's line is over.
    Line(Next),
    /// Nothing before there are more.
    More,
}

impl Reader {
    pub(in crate::extract) fn new(boundary: Boundary) -> Self {
        Self {
            delimiter: Delimiter::first(&boundary),
            boundary,
            state: State::Preamble(0),
            parts: 0,
            // Where a body begins, a line does.
            held: LineEnd::Lf.as_bytes().to_vec(),
            given: 0,
        }
    }

    /// Whether the form's last delimiter has come. What follows isn't the form's.
    pub(in crate::extract) fn has_ended(&self) -> bool {
        matches!(self.state, State::End)
    }

    /// The number of the part that is being read, from 1.
    pub(in crate::extract) const fn part(&self) -> usize {
        self.parts
    }

    /// What comes next in the input, from which it is taken. None where there must be more, and at
    /// the form's end.
    pub(in crate::extract) fn next<'a, 'input: 'a>(
        &'a mut self,
        input: &mut &'input [u8],
    ) -> Result<Option<Event<'a>>, Malformed> {
        self.drop_held(self.given);
        self.skip_preamble(input)?;
        match &mut self.state {
            State::Preamble(_) | State::End => Ok(None),
            State::Head(lines) => {
                if !lines.take(input)? {
                    return Ok(None);
                }
                let head = Head::read(&lines.bytes)?;
                self.state = State::Data;
                Ok(Some(Event::Part(head)))
            }
            State::Data => {
                let before = *input;
                match self.step(input) {
                    Step::Held(bytes) => {
                        self.given = bytes;
                        Ok(Some(Event::Data(&self.held[..bytes])))
                    }
                    Step::Taken(bytes) => Ok(Some(Event::Data(&before[..bytes]))),
                    Step::Line(next) => {
                        self.goes_on(next);
                        Ok(Some(Event::PartEnd))
                    }
                    Step::More => Ok(None),
                }
            }
        }
    }

    /// Takes what stands before the first part.
    fn skip_preamble(&mut self, input: &mut &[u8]) -> Result<(), Malformed> {
        while let State::Preamble(before) = self.state {
            if input.is_empty() {
                return Ok(());
            }
            let most = MAX_PREAMBLE - before;
            if most == 0 {
                return Err(Malformed::NoPart);
            }
            let mut within = &input[..input.len().min(most)];
            let offered = within.len();
            let step = self.step(&mut within);
            let taken = offered - within.len();
            *input = &input[taken..];
            self.state = State::Preamble(before + taken);
            match step {
                Step::Held(bytes) => self.drop_held(bytes),
                Step::Taken(_) | Step::More => {}
                Step::Line(next) => {
                    if let Next::Part(line_end) = next {
                        self.delimiter = Delimiter::behind_a_part(&self.boundary, line_end);
                    }
                    self.goes_on(next);
                }
            }
        }
        Ok(())
    }

    fn goes_on(&mut self, next: Next) {
        self.parts += usize::from(matches!(next, Next::Part(_)));
        self.state = State::behind(next);
    }

    fn drop_held(&mut self, bytes: usize) {
        self.held.drain(..bytes);
        self.given = 0;
    }

    fn step(&mut self, input: &mut &[u8]) -> Step {
        if self.held.is_empty() {
            self.search(input)
        } else {
            self.decide(input)
        }
    }

    /// Looks for a delimiter's line in the input; holds back what may be the beginning of one.
    fn search(&mut self, input: &mut &[u8]) -> Step {
        match self.delimiter.find(input) {
            Found::Line {
                before: 0,
                length,
                next,
            } => {
                *input = &input[length..];
                Step::Line(next)
            }
            Found::Line { before, .. } => {
                *input = &input[before..];
                Step::Taken(before)
            }
            Found::Content(bytes) => {
                self.held.extend_from_slice(&input[bytes..]);
                *input = &[];
                match bytes {
                    0 => Step::More,
                    bytes => Step::Taken(bytes),
                }
            }
        }
    }

    /// Looks at what was held back, with enough of the input behind it to be sure.
    fn decide(&mut self, input: &mut &[u8]) -> Step {
        let held = self.held.len();
        let lent = input.len().min(self.delimiter.longest_line() - held);
        self.held.extend_from_slice(&input[..lent]);
        let content = match self.delimiter.find(&self.held) {
            Found::Line {
                before: 0,
                length,
                next,
            } => {
                // It was held back because it wasn't whole, so it ends in what was lent.
                *input = &input[length - held..];
                self.held.clear();
                return Step::Line(next);
            }
            Found::Content(0) => {
                *input = &input[lent..];
                return Step::More;
            }
            Found::Line { before, .. } => before,
            Found::Content(bytes) => bytes,
        };
        // What was lent is searched again, where it stands.
        self.held.truncate(held);
        Step::Held(content.min(held))
    }
}

impl State {
    fn behind(next: Next) -> Self {
        match next {
            Next::Part(line_end) => Self::Head(Lines {
                bytes: Vec::new(),
                last: 0,
                line_end,
            }),
            Next::End => Self::End,
        }
    }
}

impl Lines {
    /// Takes lines from the input; whether the empty one that ends a head has come.
    fn take(&mut self, input: &mut &[u8]) -> Result<bool, Malformed> {
        while !input.is_empty() {
            let line = memchr::memchr(b'\n', input).map(|at| at + 1);
            let (piece, rest) = input.split_at(line.unwrap_or(input.len()));
            if self.bytes.len() + piece.len() > MAX_HEAD {
                return Err(Malformed::HeadTooLong);
            }
            self.bytes.extend_from_slice(piece);
            *input = rest;
            if line.is_none() {
                return Ok(false);
            }
            let last = &self.bytes[self.last..];
            let line_end = self.line_end.as_bytes();
            if last == line_end {
                return Ok(true);
            }
            // One that ends otherwise than the first delimiter's would be read in two ways.
            let is_lf = !last.ends_with(b"\r\n");
            if is_lf != (self.line_end == LineEnd::Lf) {
                return Err(InvalidHead::Line.into());
            }
            self.last = self.bytes.len();
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The parts of a body that arrives in such pieces, over and over; none where it has no end.
    type Parts = Result<Option<Vec<(String, Vec<u8>)>>, Malformed>;

    fn read(boundary: &str, body: &[u8], sizes: &[usize]) -> Parts {
        let content_type = format!("multipart/form-data; boundary=\"{boundary}\"");
        let boundary = Boundary::of(content_type.as_bytes()).expect("is a boundary");
        let mut reader = Reader::new(boundary);
        let (mut parts, mut open) = (Vec::new(), None);
        let (mut rest, mut sizes) = (body, sizes.iter().cycle());
        while !rest.is_empty() {
            let size = sizes.next().map_or(rest.len(), |size| *size);
            let (mut piece, behind) = rest.split_at(size.clamp(1, rest.len()));
            rest = behind;
            while let Some(event) = reader.next(&mut piece)? {
                match event {
                    Event::Part(head) => open = Some((head.name, Vec::new())),
                    Event::Data(bytes) => {
                        assert!(!bytes.is_empty());
                        open.as_mut().expect("a part").1.extend_from_slice(bytes);
                    }
                    Event::PartEnd => parts.extend(open.take()),
                }
            }
            assert!(piece.is_empty() || reader.has_ended(), "all is taken");
            assert!(reader.held.len() < reader.delimiter.longest_line());
        }
        Ok(reader.has_ended().then_some(parts))
    }

    fn parts(parts: &[(&str, &[u8])]) -> Parts {
        let owned = |(name, bytes): &(&str, &[u8])| ((*name).to_owned(), bytes.to_vec());
        Ok(Some(parts.iter().map(owned).collect()))
    }

    /// A body whose one part is that.
    fn one(line_end: &str, before: &str, content: &[u8], behind: &str) -> Vec<u8> {
        let head = format!(
            "{before}--b{line_end}Content-Disposition: form-data; name=\"a\"{line_end}{line_end}"
        );
        [
            head.as_bytes(),
            content,
            format!("{line_end}--b{behind}").as_bytes(),
        ]
        .concat()
    }

    #[test]
    fn a_form_is_read_whatever_stands_around_its_parts() {
        for line_end in ["\r\n", "\n"] {
            for before in [
                "",
                line_end,
                "preamble\r\n",
                "\n\r\n--\n",
                "--bb\r\n--b x\n",
                "--b\r \n",
            ] {
                for behind in ["--", "--\r\n", "-- \t\r\n", "--\r\nepilogue\r\n--b\r\n"] {
                    let body = one(line_end, before, b"content", behind);
                    let expected = parts(&[("a", b"content")]);
                    for size in 1..body.len() {
                        assert_eq!(read("b", &body, &[size]), expected, "{before:?} {behind:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn only_a_whole_line_ends_a_part_however_it_is_cut() {
        let padding = " ".repeat(257);
        for content in [
            "",
            "\r",
            "\r\n",
            "\r\n-",
            "\r\n--",
            "\r\r\n",
            "\r\n--bx",
            "\r\n--b-",
            "\r\n--b-\r\n",
            "\r\n--b \tx",
            "\r\n--b\r",
            "\r\n--b\n",
            "\r\n--b \r",
            "\r\n--b\r\r\n--bx",
            "\n--b\r\n",
            "\n--b--",
            "--b\r\n",
            "--b--\r\n",
            "\r\n--\r\n--bb\r\n--",
            &format!("\r\n--b{padding}\r\n"),
        ] {
            for prefix in ["", "x", "\r\n\r\nx"] {
                let content = format!("{prefix}{content}");
                let body = one("\r\n", "", content.as_bytes(), "--\r\n");
                let expected = parts(&[("a", content.as_bytes())]);
                for size in 1..body.len() {
                    for first in 1..3 {
                        assert_eq!(read("b", &body, &[first, size]), expected, "{content:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn lines_end_as_the_first_delimiters_does() {
        // What ends a part of the one kind is content of the other.
        let crlf = one("\n", "", b"x\r\n--b\r\ny", "--");
        assert_eq!(read("b", &crlf, &[3]), parts(&[("a", b"x\r\n--b\r\ny")]));
        let mixed = b"--b\r\nContent-Disposition: form-data; name=\"a\"\n\r\nx\r\n--b--";
        assert_eq!(read("b", mixed, &[7]), Err(InvalidHead::Line.into()));
        let mixed = b"--b\nContent-Disposition: form-data; name=\"a\"\r\n\nx\n--b--";
        assert_eq!(read("b", mixed, &[7]), Err(InvalidHead::Line.into()));
    }

    #[test]
    fn what_has_no_end_has_none() {
        let whole = one("\r\n", "", b"content", "--");
        for end in 0..whole.len() {
            assert_eq!(read("b", &whole[..end], &[5]), Ok(None));
        }
        assert_eq!(read("b", b"--b--", &[1]), parts(&[]));
    }

    #[test]
    fn what_stands_before_a_part_is_bounded() {
        let good = |before: usize| one("\r\n", &format!("{}\r\n", "x".repeat(before)), b"", "--");
        let most = MAX_PREAMBLE - "\r\n--b\r\n".len();
        for sizes in [&[usize::MAX][..], &[4096], &[1000, 1]] {
            assert_eq!(read("b", &good(most), sizes), parts(&[("a", b"")]));
            assert_eq!(read("b", &good(most + 1), sizes), Err(Malformed::NoPart));
        }
        let head = |filling: usize| {
            let begin = "Content-Disposition: form-data; name=a\r\nX: ";
            let head = format!("{begin}{}\r\n\r\n", "x".repeat(filling - begin.len() - 4));
            format!("--b\r\n{head}\r\n--b--").into_bytes()
        };
        for sizes in [&[usize::MAX][..], &[4096], &[1000, 1]] {
            assert_eq!(read("b", &head(MAX_HEAD), sizes), parts(&[("a", b"")]));
            assert_eq!(
                read("b", &head(MAX_HEAD + 1), sizes),
                Err(Malformed::HeadTooLong)
            );
        }
    }

    proptest! {
        /// What is read is what a search of the whole body for whole lines finds, whatever the pieces.
        #[test]
        fn pieces_decide_nothing(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    &b"\r"[..], b"\n", b"\r\n", b"-", b"--", b"--b", b"\r\n--b", b"\r\n--b ", b"\r\n--b\r\n",
                    b"\n--b\n", b"\r\n--b--", b"b", b" ", b"\t", b"x",
                    b"Content-Disposition: form-data; name=a\r\n\r\n", b"Content-Disposition: form-data; name=a\n\n",
                ]),
                0..40,
            ),
            begins in any::<bool>(),
            sizes in prop::collection::vec(1_usize..40, 1..6),
        ) {
            let mut body = words.concat();
            if begins {
                body = [b"--b\r\nContent-Disposition: form-data; name=a\r\n\r\n", &*body].concat();
            }
            prop_assert_eq!(read("b", &body, &sizes), read("b", &body, &[usize::MAX]));
            prop_assert_eq!(read("b", &body, &[1]), read("b", &body, &[usize::MAX]));
        }

        #[test]
        fn what_is_written_is_read(
            contents in prop::collection::vec(prop::collection::vec(prop::sample::select(b"\r\n-b x".to_vec()), 0..60), 0..4),
            sizes in prop::collection::vec(1_usize..40, 1..6),
        ) {
            let mut body = Vec::new();
            for content in &contents {
                body.extend_from_slice(b"--bound\r\nContent-Disposition: form-data; name=a\r\n\r\n");
                body.extend_from_slice(content);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"--bound--");
            let expected = contents.into_iter().map(|content| ("a".to_owned(), content));
            prop_assert_eq!(read("bound", &body, &sizes), Ok(Some(expected.collect())));
        }
    }
}
