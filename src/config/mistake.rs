//! What is wrong in a configuration, where, and what to write instead.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// One mistake of a configuration. It never repeats a value: it may be a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The file, as it was named on the way in.
    pub file: PathBuf,
    /// The line in it, from 1; none where the mistake belongs to no line.
    pub line: Option<usize>,
    /// The environment variable that set the value; it stands in place of file and line.
    pub variable: Option<String>,
    /// The dotted key, such as `auth.issuers[0].algorithms[1]`; empty for the file as a whole.
    pub key: String,
    /// What is wrong and what to do.
    pub what: String,
    /// The known word nearest to an unknown one.
    pub nearest: Option<String>,
}

impl Mistake {
    /// A mistake of a file as a whole.
    #[must_use]
    pub fn of_file(file: &Path, what: impl Into<String>) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            variable: None,
            key: String::new(),
            what: what.into(),
            nearest: None,
        }
    }
}

/// `llavero.yaml:12: server.lisen: unknown key; did you mean "listen"?`
impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.variable, self.line) {
            (Some(variable), _) => f.write_str(variable)?,
            (None, Some(line)) => write!(f, "{}:{line}", self.file.display())?,
            (None, None) => write!(f, "{}", self.file.display())?,
        }
        if !self.key.is_empty() {
            write!(f, ": {}", self.key)?;
        }
        write!(f, ": {}", self.what)?;
        match &self.nearest {
            Some(nearest) => write!(f, "; did you mean \"{nearest}\"?"),
            None => Ok(()),
        }
    }
}

/// Every mistake of one run, in the order of the file; the environment's come last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mistakes(pub Vec<Mistake>);

impl Mistakes {
    /// In the order of the file, the environment's last.
    #[must_use]
    pub fn sorted(mut mistakes: Vec<Mistake>) -> Self {
        mistakes.sort_by(|a, b| (&a.variable, a.line).cmp(&(&b.variable, b.line)));
        Self(mistakes)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, mistake) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{mistake}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

impl From<Mistake> for Mistakes {
    fn from(mistake: Mistake) -> Self {
        Self(vec![mistake])
    }
}

impl Extend<Mistake> for Mistakes {
    fn extend<I: IntoIterator<Item = Mistake>>(&mut self, mistakes: I) {
        self.0.extend(mistakes);
    }
}

impl IntoIterator for Mistakes {
    type Item = Mistake;
    type IntoIter = std::vec::IntoIter<Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// The known word that somebody most likely meant, if any is near enough.
pub(super) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Beyond this no word of the model is long, and the distance costs its square.
    if word.len() > 64 {
        return None;
    }
    let alike = |text: &str| text.to_lowercase().replace(['-', '_', ' '], "");
    let word = alike(word);
    known
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&word, &alike(candidate)),
                candidate,
            )
        })
        .filter(|(distance, candidate)| *distance <= (candidate.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_names_file_line_key_and_the_nearest_key() {
        let mistake = Mistake {
            line: Some(12),
            key: "server.lisen".into(),
            nearest: Some("listen".into()),
            ..Mistake::of_file(Path::new("llavero.yaml"), "unknown key")
        };
        assert_eq!(
            mistake.to_string(),
            "llavero.yaml:12: server.lisen: unknown key; did you mean \"listen\"?"
        );
    }

    #[test]
    fn a_mistake_of_the_environment_names_the_variable() {
        let mistake = Mistake {
            variable: Some("LLAVERO__A".into()),
            key: "a".into(),
            ..Mistake::of_file(Path::new("llavero.yaml"), "unknown key")
        };
        assert_eq!(mistake.to_string(), "LLAVERO__A: a: unknown key");
    }

    #[test]
    fn only_a_word_that_is_near_is_suggested() {
        let known = ["listen", "admin_listen", "tls"];
        assert_eq!(nearest("lisen", known), Some("listen"));
        assert_eq!(nearest("Admin-Listen", known), Some("admin_listen"));
        assert_eq!(nearest("port", known), None);
        assert_eq!(nearest(&"x".repeat(100_000), known), None);
    }
}
