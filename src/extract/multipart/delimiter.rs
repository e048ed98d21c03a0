//! The lines between parts, and the search for them.

use memchr::memmem::Finder;

use super::boundary::Boundary;

/// The most spaces and tabs that a delimiter's line may have (RFC 2046 §5.1.1 sets no bound).
/// With more it is none, so that what is held back while it isn't whole stays small.
const MAX_PADDING: usize = 256;

/// How a form's lines end: its first delimiter's line says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineEnd {
    Crlf,
    /// As bodies that are made by hand have them.
    Lf,
}

impl LineEnd {
    pub(super) const fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Crlf => b"\r\n",
            Self::Lf => b"\n",
        }
    }
}

/// A delimiter's line, by the search for how it begins: a line's end, `--` and the boundary.
#[derive(Debug)]
pub(super) struct Delimiter {
    finder: Finder<'static>,
    /// None before the first part, where either counts.
    line_end: Option<LineEnd>,
}

/// How a delimiter's line goes on behind its boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A part's head.
    Part(LineEnd),
    /// Nothing: it is the form's last.
    End,
}

/// What was found in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// So many bytes are none of a delimiter's line. Those behind them may be the beginning of one.
    Content(usize),
    /// Behind so many bytes there is a delimiter's line of so many.
    Line {
        before: usize,
        length: usize,
        next: Next,
    },
}

impl Delimiter {
    /// The first of a form: a line of its own, whatever its end is.
    pub(super) fn first(boundary: &Boundary) -> Self {
        Self::new(boundary, None, LineEnd::Lf)
    }

    /// The others.
    pub(super) fn behind_a_part(boundary: &Boundary, line_end: LineEnd) -> Self {
        Self::new(boundary, Some(line_end), line_end)
    }

    fn new(boundary: &Boundary, line_end: Option<LineEnd>, begins: LineEnd) -> Self {
        let text = [begins.as_bytes(), b"--", boundary.as_bytes()].concat();
        Self {
            finder: Finder::new(&text).into_owned(),
            line_end,
        }
    }

    fn text(&self) -> &[u8] {
        self.finder.needle()
    }

    /// The most bytes of which it may not be clear what they are, and one.
    pub(super) fn longest_line(&self) -> usize {
        self.text().len() + MAX_PADDING + 2
    }

    /// The first delimiter's line. Each byte is looked at a bounded number of times: no two
    /// texts overlap, since a boundary has no line end in it.
    pub(super) fn find(&self, bytes: &[u8]) -> Found {
        let mut from = 0;
        while let Some(at) = self.finder.find(&bytes[from..]) {
            let before = from + at;
            let behind = before + self.text().len();
            match self.rest_of_line(&bytes[behind..]) {
                Rest::Whole { length, next } => {
                    let length = self.text().len() + length;
                    return Found::Line {
                        before,
                        length,
                        next,
                    };
                }
                Rest::Short => return Found::Content(before),
                Rest::Other => from = behind,
            }
        }
        Found::Content(from + self.without_beginning(&bytes[from..]))
    }

    /// How many bytes can't be the beginning of the text. Its first byte stands nowhere else in
    /// it, so only the last of those can begin it.
    fn without_beginning(&self, bytes: &[u8]) -> usize {
        let text = self.text();
        let tail = bytes.len().saturating_sub(text.len() - 1);
        match memchr::memrchr(text[0], &bytes[tail..]) {
            Some(at) if text.starts_with(&bytes[tail + at..]) => tail + at,
            _ => bytes.len(),
        }
    }

    fn rest_of_line(&self, rest: &[u8]) -> Rest {
        match rest {
            [b'-', b'-', ..] => {
                return Rest::Whole {
                    length: 2,
                    next: Next::End,
                };
            }
            [b'-'] => return Rest::Short,
            _ => {}
        }
        let is_padding = |byte: &u8| matches!(byte, b' ' | b'\t');
        let padding = rest
            .iter()
            .take(MAX_PADDING + 1)
            .take_while(|it| is_padding(it));
        let padding = padding.count();
        if padding > MAX_PADDING {
            return Rest::Other;
        }
        let line_end = match &rest[padding..] {
            [] | [b'\r'] => return Rest::Short,
            [b'\r', b'\n', ..] => LineEnd::Crlf,
            [b'\n', ..] => LineEnd::Lf,
            _ => return Rest::Other,
        };
        if self.line_end.is_some_and(|it| it != line_end) {
            return Rest::Other;
        }
        Rest::Whole {
            length: padding + line_end.as_bytes().len(),
            next: Next::Part(line_end),
        }
    }
}

/// What stands behind a delimiter's text.
enum Rest {
    /// The rest of its line.
    Whole {
        length: usize,
        next: Next,
    },
    /// It may become that.
    Short,
    Other,
}
