//! A YAML document as a value, with all of its mistakes in one reading.
//!
//! serde stops at the first mistake. So a document is decoded, the mistake noted,
//! its node taken out, and the rest decoded again until nothing is wrong any more.
//! What was taken out is remembered: a check that fails only because of it stays quiet.

use std::{fmt, path::Path};

use serde::de::DeserializeOwned;

use super::{
    decode::{Fault, Kind, Place},
    environment,
    mistake::{Mistake, Mistakes, nearest},
    tree::{NodeId, ROOT, State, Step, Tree, Value, may_be_told},
    yaml,
};

/// More mistakes than anybody corrects in one go.
const MAX_MISTAKES: usize = 100;
/// The most decodings of one document: each of them reads all of it.
const MAX_ROUNDS: usize = 300;

/// Where a document's settings stand. It keeps no values.
pub struct Document(Tree);

/// What a document says, where it says it, and what is wrong with it. There may be a
/// value and mistakes at once: a value of what is good, for checks that look at meaning.
#[derive(Debug)]
pub struct Decoded<T> {
    /// The value; none where too little of it is good.
    pub value: Option<T>,
    /// Where its parts stand.
    pub document: Document,
    /// Repeated and unknown keys, missing and wrong values.
    pub mistakes: Vec<Mistake>,
}

/// Reads a YAML file, and over it the variables `LLAVERO__…` of `environment`.
///
/// # Errors
/// The file can't be read or isn't YAML.
pub fn decode_file<T: DeserializeOwned>(
    path: &Path,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Decoded<T>, Mistakes> {
    let (mut tree, mut mistakes) = yaml::read(path)?;
    mistakes.extend(environment::apply(&mut tree, environment));
    Ok(decode(tree, mistakes))
}

impl Document {
    /// Where a file's settings stand, whatever they are.
    ///
    /// # Errors
    /// The file can't be read or isn't YAML.
    pub fn read(path: &Path) -> Result<Self, Mistakes> {
        let (mut tree, _) = yaml::read(path)?;
        tree.forget_values();
        Ok(Self(tree))
    }

    /// A mistake at a dotted key, with its file and line, or those of the nearest
    /// key above it that was written.
    #[must_use]
    pub fn mistake(&self, key: &str, what: impl Into<String>) -> Mistake {
        let (id, rest) = self.0.find(key);
        let mut mistake = self.0.mistake(id, what);
        match rest {
            "" => {}
            rest if !may_be_told(rest.trim_start_matches('.')) => {}
            rest if mistake.key.is_empty() => {
                rest.trim_start_matches('.').clone_into(&mut mistake.key)
            }
            rest if rest.starts_with('[') => mistake.key.push_str(rest),
            rest => {
                mistake.key.push('.');
                mistake.key.push_str(rest.trim_start_matches('.'));
            }
        }
        mistake
    }
}

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Document").field(&self.0.file()).finish()
    }
}

/// Collects what a section's check finds.
pub struct Checker<'d> {
    document: &'d Document,
    mistakes: Vec<Mistake>,
}

impl<'d> Checker<'d> {
    pub(super) fn new(document: &'d Document) -> Self {
        Self {
            document,
            mistakes: Vec::new(),
        }
    }

    /// Notes a mistake at a dotted key, unless it follows from one that is known already.
    pub fn mistake(&mut self, key: &str, what: impl Into<String>) {
        if !self.is_told(key) {
            self.mistakes.push(self.document.mistake(key, what));
        }
    }

    /// Whether what is wrong at a key is told already, there, above or below it.
    #[must_use]
    pub fn is_told(&self, key: &str) -> bool {
        self.document.0.is_spoiled(key)
    }

    /// Notes a word that isn't among those known, unless it follows likewise.
    pub fn unknown_word(&mut self, key: &str, word: &str, known: &[&str]) {
        if !self.is_told(key) {
            let (what, nearest) = unknown_word(word, known);
            self.mistakes.push(Mistake {
                nearest,
                ..self.document.mistake(key, what)
            });
        }
    }

    /// Notes a mistake unless the condition holds.
    pub fn require(&mut self, condition: bool, key: &str, what: &str) {
        if !condition {
            self.mistake(key, what);
        }
    }

    pub(super) fn into_mistakes(self) -> Vec<Mistake> {
        self.mistakes
    }
}

fn unknown_word(word: &str, known: &[&str]) -> (String, Option<String>) {
    match nearest(word, known.iter().copied()) {
        Some(nearest) => ("unknown value".to_owned(), Some(nearest.to_owned())),
        None => (
            format!("unknown value; write one of {}", known.join(", ")),
            None,
        ),
    }
}

fn decode<T: DeserializeOwned>(mut tree: Tree, mut mistakes: Vec<Mistake>) -> Decoded<T> {
    let mut value = None;
    let mut rounds = 0;
    while value.is_none() {
        if mistakes.len() >= MAX_MISTAKES || rounds == MAX_ROUNDS {
            let what = "there may be more mistakes; correct these and check again";
            mistakes.push(Mistake::of_file(tree.file(), what));
            break;
        }
        rounds += 1;
        match T::deserialize(Place {
            tree: &tree,
            id: ROOT,
        }) {
            Ok(decoded) => value = Some(decoded),
            Err(fault) => {
                if !resolve(&mut tree, fault, &mut mistakes) {
                    break;
                }
            }
        }
    }
    tree.forget_values();
    Decoded {
        value,
        document: Document(tree),
        mistakes,
    }
}

/// Notes a mistake and changes the tree so that the next decoding comes further;
/// false where there is no further.
fn resolve(tree: &mut Tree, fault: Fault, mistakes: &mut Vec<Mistake>) -> bool {
    let id = fault.at.unwrap_or(ROOT);
    if matches!(tree.node(id).value, Value::Phantom) {
        // Its absence is reported; nothing stands in for a value of this kind.
        return tree
            .node(id)
            .parent
            .is_some_and(|parent| spoil(tree, parent));
    }
    match fault.kind {
        Kind::Unset if matches!(tree.node(id).step, Step::Key(_)) => {
            tree.node_mut(id).state = State::Unset;
            return true;
        }
        Kind::Structured => {
            return match yaml::expand(tree, id) {
                Ok(found) => {
                    mistakes.extend(found);
                    true
                }
                Err(what) => {
                    mistakes.push(tree.mistake(id, what));
                    spoil(tree, id)
                }
            };
        }
        Kind::Missing(field) => {
            match tree.child(id, field) {
                Some(child) if tree.node(child).state == State::Spoiled => {}
                _ => mistakes.push(missing(tree, id, field)),
            }
            return stand_in(tree, id, field);
        }
        Kind::UnknownKey(known) => {
            let (mistake, meant) = unknown_key(tree, id, known);
            mistakes.push(mistake);
            if let (Some(parent), Some(meant)) = (tree.node(id).parent, meant) {
                tree.mean(parent, meant);
            }
        }
        Kind::UnknownWord { word, known } => {
            let (what, nearest) = unknown_word(&word, known);
            mistakes.push(Mistake {
                nearest,
                ..tree.mistake(id, what)
            });
        }
        Kind::Expected(expected) => {
            let found = match &tree.node(id).value {
                Value::Map(_) => ", found a mapping",
                Value::List(_) => ", found a list",
                _ => "",
            };
            mistakes.push(tree.mistake(id, format!("expected {expected}{found}")));
        }
        Kind::Says(what) => mistakes.push(tree.mistake(id, what)),
        Kind::Unset => {
            mistakes.push(tree.mistake(id, "is empty; write a value or remove the entry"));
        }
    }
    spoil(tree, id)
}

fn spoil(tree: &mut Tree, id: NodeId) -> bool {
    let news = id != ROOT && tree.node(id).state == State::Live;
    tree.node_mut(id).state = State::Spoiled;
    news
}

/// Puts something in a missing field's place.
fn stand_in(tree: &mut Tree, id: NodeId, field: &str) -> bool {
    match tree.child(id, field) {
        Some(child) if tree.node(child).state == State::Live => spoil(tree, id),
        _ if !matches!(tree.node(id).value, Value::Map(_)) => spoil(tree, id),
        Some(child) => {
            // Live again, as a stand-in: what was there is known to be wrong.
            let node = tree.node_mut(child);
            node.state = State::Live;
            node.value = Value::Phantom;
            true
        }
        None => {
            let origin = tree.node(id).origin.clone();
            tree.add(id, Step::Key(field.to_owned()), origin, Value::Phantom);
            true
        }
    }
}

fn missing(tree: &Tree, id: NodeId, field: &str) -> Mistake {
    let mut mistake = match tree.child(id, field) {
        Some(child) => tree.mistake(child, ""),
        None => tree.mistake(id, ""),
    };
    mistake.what = if mistake.key.is_empty() || tree.child(id, field).is_some() {
        "is missing; it has no default".to_owned()
    } else {
        format!("`{field}` is missing; it has no default")
    };
    if mistake.key.is_empty() {
        field.clone_into(&mut mistake.key);
    }
    mistake
}

fn unknown_key(
    tree: &Tree,
    id: NodeId,
    known: &'static [&'static str],
) -> (Mistake, Option<&'static str>) {
    let node = tree.node(id);
    let Step::Key(key) = &node.step else {
        return (
            tree.mistake(id, format!("unknown key; known here: {}", known.join(", "))),
            None,
        );
    };
    let meant = nearest(key, known.iter().copied());
    let mut mistake = match meant {
        Some(meant) => Mistake {
            nearest: Some(meant.to_owned()),
            ..tree.mistake(id, "unknown key")
        },
        None if known.is_empty() => tree.mistake(id, "unknown key; remove it"),
        None => tree.mistake(id, format!("unknown key; known here: {}", known.join(", "))),
    };
    // `{secret-in-braces}` is a key without a value, and `{secret: x}` one that is no setting's name.
    let is_a_name = key.len() <= 40
        && key
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let may_be_secret = matches!(node.value, Value::Null) || !is_a_name;
    if let (true, None, Some(parent)) = (may_be_secret, meant, node.parent) {
        mistake.key = tree.key(parent);
    }
    (mistake, meant)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fmt::Write as _};

    use serde::Deserialize;

    use super::{super::secret::SecretSource, *};

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct TenantLike {
        clave: String,
        credentials: BTreeMap<String, CredentialLike>,
        #[serde(default)]
        users: Vec<UserLike>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct CredentialLike {
        api_key: Option<SecretSource>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct UserLike {
        credential: String,
        mode: Mode,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Mode {
        Jwt,
        Cookie,
    }

    fn told<T: DeserializeOwned>(text: &str) -> String {
        match yaml::parse(Path::new("t.yaml"), text) {
            Err(mistakes) => mistakes.to_string(),
            Ok((tree, found)) => Mistakes::sorted(decode::<T>(tree, found).mistakes).to_string(),
        }
    }

    fn read<T: DeserializeOwned>(text: &str) -> (T, Document) {
        let (tree, found) = yaml::parse(Path::new("t.yaml"), text).expect("is YAML");
        let Decoded {
            value,
            document,
            mistakes,
        } = decode::<T>(tree, found);
        assert_eq!(Mistakes(mistakes).to_string(), "");
        (value.expect("is good"), document)
    }

    #[test]
    fn every_missing_field_is_named_and_reading_goes_on() {
        assert_eq!(
            told::<TenantLike>(
                "users:\n  - {}\n  - {credential: a, mode: jwtt}\n  - {credential: b, mode: x}\n"
            ),
            "t.yaml: clave: is missing; it has no default\n\
             t.yaml: credentials: is missing; it has no default\n\
             t.yaml:2: users[0]: `credential` is missing; it has no default\n\
             t.yaml:2: users[0]: `mode` is missing; it has no default\n\
             t.yaml:3: users[1].mode: unknown value; did you mean \"jwt\"?\n\
             t.yaml:4: users[2].mode: unknown value; write one of jwt, cookie"
        );
    }

    #[test]
    fn a_required_value_that_is_wrong_is_not_missing_too() {
        assert_eq!(
            told::<TenantLike>("clave: [a]\ncredentials: {}\n"),
            "t.yaml:1: clave: expected a string, found a list"
        );
    }

    #[test]
    fn a_number_is_a_fine_text_as_it_is_written() {
        for (written, read_as) in [
            ("0123", "0123"),
            ("1e3", "1e3"),
            ("true", "true"),
            ("'5'", "5"),
            ("!!str 7", "7"),
        ] {
            let (tenant, _) = read::<TenantLike>(&format!("clave: {written}\ncredentials: {{}}"));
            assert_eq!(tenant.clave, read_as);
        }
    }

    #[test]
    fn a_key_without_value_counts_as_not_written() {
        let (tenant, _) = read::<TenantLike>("clave: a\ncredentials: {}\nusers:\n");
        assert!(tenant.users.is_empty());
        assert_eq!(
            told::<TenantLike>("clave: ~\ncredentials: {}\nusers: [~]"),
            "t.yaml:1: clave: is missing; it has no default\n\
             t.yaml:3: users[0]: is empty; write a value or remove the entry"
        );
    }

    #[test]
    fn what_is_no_mapping_of_settings_is_told_plainly() {
        for (text, expected) in [
            ("", "t.yaml: is empty"),
            ("# nothing\n", "t.yaml: is empty"),
            ("---\n", "t.yaml: is empty"),
            ("- a\n", "t.yaml: isn't a mapping"),
            ("hello", "t.yaml: isn't a mapping"),
            ("a: 1\n---\nb: 2\n", "t.yaml:2: a second YAML document"),
            ("clave: a\n  b: 1\n", "t.yaml:2: isn't valid YAML"),
            ("clave: 'a\n", "isn't valid YAML: a quote"),
            ("clave: @hunter2\n", "t.yaml:1: isn't valid YAML"),
            ("clave: a\n\tb: c\n", "isn't valid YAML"),
            ("a: *b\n", "t.yaml:1: isn't valid YAML"),
            ("[a, b]: c\n", "t.yaml:1: a key must be a word"),
            (
                "clave: !x a\ncredentials: {}\n",
                "t.yaml:1: clave: has a YAML tag",
            ),
            (
                "clave: &a x\ncredentials: *a\n",
                "t.yaml:2: credentials: is a YAML alias",
            ),
        ] {
            let told = told::<TenantLike>(text);
            assert!(told.contains(expected), "{text:?}: {told}");
            assert!(!told.contains("hunter2"));
        }
    }

    #[test]
    fn a_repeated_key_is_named_with_both_lines() {
        assert_eq!(
            told::<TenantLike>("clave: a\ncredentials: {}\nclave: b\nclave: c\nuser: []\n"),
            "t.yaml:3: clave: is set in line 1 already; remove one\n\
             t.yaml:4: clave: is set in line 1 already; remove one\n\
             t.yaml:5: user: unknown key; did you mean \"users\"?"
        );
    }

    #[test]
    fn no_secret_is_repeated() {
        for text in [
            "clave: a\ncredentials: {default: hunter2}",
            "clave: a\ncredentials: {default: {hunter2}}",
            "clave: a\ncredentials: {default: {api_key: {hunter2}}}",
            "clave: a\ncredentials: {default: {api_key: {hunter2: x}}}",
            "clave: a\ncredentials: {default: {api_key: [hunter2]}}",
            "clave: a\ncredentials: {default: {api_key: [{hunter2: hunter2}]}}",
            "clave: a\ncredentials: {default: {api_key: {file: [hunter2]}}}",
            "clave: a\ncredentials: {default: {api_key: {file: a, env: hunter2}}}",
            "clave: a\ncredentials: {default: {api_kye: hunter2}}",
            "clave: a\ncredentials: {default: {api_key: {a: {hunter2: b}}}}",
            "clave: a\ncredentials: {default: {api_key: 'hunter2\n",
            "clave: a\ncredentials: {default: {api_key: hunter2: x}}",
        ] {
            let told = told::<TenantLike>(text);
            assert!(
                !told.is_empty() && !told.contains("hunter2"),
                "{text}: {told}"
            );
        }
        let (tenant, document) =
            read::<TenantLike>("clave: a\ncredentials: {default: {api_key: hunter2}}");
        assert!(!format!("{tenant:?}").contains("hunter2"));
        assert_eq!(format!("{document:?}"), "Document(\"t.yaml\")");
    }

    #[test]
    fn a_check_finds_the_line_of_a_key_or_of_the_nearest_above() {
        let (_, document) = read::<TenantLike>(
            "clave: a\ncredentials:\n  default:\n    api_key: x\n  a.b:\n    api_key: y\nusers:\n  - credential: x\n    mode: jwt\n",
        );
        for (key, told) in [
            ("clave", "t.yaml:1: clave: x"),
            (
                "credentials.default.api_key",
                "t.yaml:4: credentials.default.api_key: x",
            ),
            (
                "credentials.a.b.api_key",
                "t.yaml:6: credentials.a.b.api_key: x",
            ),
            (
                "credentials.default.login.mode",
                "t.yaml:3: credentials.default.login.mode: x",
            ),
            ("users[0].mode", "t.yaml:9: users[0].mode: x"),
            ("users[0].scopes[1]", "t.yaml:8: users[0].scopes[1]: x"),
            ("users[7].mode", "t.yaml:7: users[7].mode: x"),
            ("nowhere", "t.yaml: nowhere: x"),
            ("", "t.yaml: x"),
        ] {
            assert_eq!(document.mistake(key, "x").to_string(), told);
        }
    }

    #[test]
    fn the_reference_has_every_key() {
        // Settings that are off have their `#` in the first column and their text further in.
        let text = include_str!("reference.yaml")
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(setting) if setting.starts_with("  ") => setting,
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n")
            .replace(
                "allow: []",
                "allow: [{methods: [GET], path: productos/**, ttl: 60s}]",
            );
        let (mut tree, _) = yaml::parse(Path::new("reference.yaml"), &text).expect("is YAML");
        let mut open = vec![ROOT];
        while let Some(id) = open.pop() {
            open.extend(tree.children(id));
            // A key that nobody knows makes serde tell those that are known.
            if !matches!(tree.node(id).value, Value::Map(_)) || tree.key(id).ends_with("secret") {
                continue;
            }
            let origin = tree.node(id).origin.clone();
            let probe = tree.add(id, Step::Key("no-such-key".to_owned()), origin, Value::Null);
            let fault = crate::config::Config::deserialize(Place {
                tree: &tree,
                id: ROOT,
            })
            .expect_err("the probe is unknown");
            tree.node_mut(probe).state = State::Unset;
            let (Some(at), Kind::UnknownKey(known)) = (fault.at, fault.kind) else {
                panic!("{}: a mistake beside the probe", tree.key(id));
            };
            assert_eq!(at, probe);
            for key in known {
                assert!(
                    tree.child(id, key).is_some(),
                    "{}: {key} isn't in it",
                    tree.key(id)
                );
            }
        }
    }

    #[test]
    fn nasty_documents_end_with_a_mistake() {
        let deep = |open: &str, close: &str| open.repeat(100_000) + &close.repeat(100_000);
        let staircase = (0..600).fold(String::new(), |mut text, depth| {
            let _ = writeln!(text, "{}a:", " ".repeat(depth));
            text
        });
        let bomb = (1..20).fold(
            "a0: &a0 [x, x, x, x, x, x, x, x]\n".to_owned(),
            |mut text, level| {
                let below = level - 1;
                let _ = writeln!(
                    text,
                    "a{level}: &a{level} [*a{below}, *a{below}, *a{below}, *a{below}]"
                );
                text
            },
        );
        for text in [
            deep("[", "]"),
            deep("{a: ", "}"),
            "- ".repeat(100_000),
            "? ".repeat(100_000),
            "a: ".repeat(1000),
            "&a ".repeat(1000),
            staircase,
            bomb,
            format!("users: [{}]", "x, ".repeat(200_000)),
            format!("users: [{}]", "~, ".repeat(200_000)),
            format!(
                "credentials: {{{}}}",
                (0..20_000)
                    .map(|n| format!("k{n}: ~, "))
                    .collect::<String>()
            ),
            (0..990).map(|n| format!("k{n}: 1\n")).collect(),
            (0..900).map(|_| "clave: 1\n").collect(),
            "\u{FEFF}a: \u{7}".to_owned(),
        ] {
            let told = told::<TenantLike>(&text);
            assert!(
                !told.is_empty() && told.lines().count() <= 1010,
                "{}",
                text.get(..40).unwrap_or(&text)
            );
        }
    }
}
