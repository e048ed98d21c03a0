//! YAML text → tree. Knows YAML and nothing of the settings.
//!
//! Built from the parser's events: an error there is only a line, a repeated key
//! doesn't end the reading, and no text is nested deeper than our own limit.

use std::path::Path;

use saphyr_parser::{Event, Parser, ScalarStyle, Tag};

use super::{
    files,
    mistake::{Mistake, Mistakes},
    tree::{NodeId, Origin, ROOT, State, Step, Tree, Value},
};

/// The largest file, in bytes: far above any real one, far below what costs memory.
const MAX_BYTES: usize = 1024 * 1024;
/// The deepest nesting that is read; the model needs 6.
const MAX_DEPTH: usize = 32;
/// The most keys of one mapping: each is compared with those before it.
const MAX_KEYS: usize = 1000;

/// Reads a file; what is wrong but leaves the rest readable is in the list.
pub(super) fn read(path: &Path) -> Result<(Tree, Vec<Mistake>), Mistakes> {
    let mistake = |what: String| Mistakes::from(Mistake::of_file(path, what));
    let bytes = files::read_at_most(path, MAX_BYTES).map_err(|error| {
        mistake(format!(
            "can't be read: {error}; check the path and its permissions"
        ))
    })?;
    if bytes.len() > MAX_BYTES {
        return Err(mistake(
            "is larger than 1 MiB; this can't be the right file".to_owned(),
        ));
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| mistake("isn't UTF-8 text; save it as UTF-8".to_owned()))?;
    parse(path, &text)
}

/// The settings of a text; `path` is the name that mistakes get.
pub(super) fn parse(path: &Path, text: &str) -> Result<(Tree, Vec<Mistake>), Mistakes> {
    let mut tree = Tree::new(path);
    let mut mistakes = Vec::new();
    tree.node_mut(ROOT).value = Value::Null;
    build(text, &mut tree, ROOT, None, &mut mistakes).map_err(|broken| Mistake {
        line: Some(broken.line),
        ..Mistake::of_file(path, broken.what)
    })?;
    let what = match tree.node(ROOT).value {
        Value::Map(_) => return Ok((tree, mistakes)),
        // A file of comments has nothing in it either.
        Value::Null => {
            "is empty; write settings in it, or `{}` where all of them come from the environment"
        }
        _ => "isn't a mapping; write settings as `key: value` lines",
    };
    Err(Mistake::of_file(path, what).into())
}

/// Replaces a variable's text, which begins with `[` or `{`, by the tree it describes.
pub(super) fn expand(tree: &mut Tree, id: NodeId) -> Result<Vec<Mistake>, &'static str> {
    let node = tree.node_mut(id);
    let Value::Raw(text) = std::mem::replace(&mut node.value, Value::Null) else {
        return Ok(Vec::new());
    };
    let origin = node.origin.clone();
    let mut mistakes = Vec::new();
    build(&text, tree, id, Some(&origin), &mut mistakes)
        .map_err(|_| "isn't a value such as [a, b] or {key: value}; check brackets and quotes")?;
    Ok(mistakes)
}

/// A text that isn't the YAML of settings.
struct Broken {
    line: usize,
    what: &'static str,
}

/// A list or mapping whose end hasn't come yet.
struct Open {
    id: NodeId,
    /// In a mapping the entry whose value comes next; none before its key.
    entry: Option<NodeId>,
}

/// Gives a node the value of a text.
fn build(
    text: &str,
    tree: &mut Tree,
    root: NodeId,
    variable: Option<&Origin>,
    mistakes: &mut Vec<Mistake>,
) -> Result<(), Broken> {
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(text);
    let mut open: Vec<Open> = Vec::new();
    let mut documents = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| Broken {
            line: error.marker().line(),
            what: in_words(error.info()),
        })?;
        let line = span.start.line();
        let broken = |what| Err(Broken { line, what });
        let value = match event {
            Event::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    return broken("a second YAML document begins; keep one, without `---`");
                }
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
                continue;
            }
            Event::Scalar(text, style, _, tag) => scalar(text.into_owned(), style, tag.as_deref()),
            Event::SequenceStart(_, None) => Value::List(Vec::new()),
            Event::MappingStart(_, None) => Value::Map(Vec::new()),
            Event::SequenceStart(..) | Event::MappingStart(..) => {
                return broken("a list or mapping has a YAML tag; remove the tag");
            }
            Event::Alias(_) => Value::Unusable("is a YAML alias; write the value itself"),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => continue,
        };
        let origin = variable.map_or(Origin::Line(line), Clone::clone);
        let id = match open.last_mut() {
            None => root,
            Some(list) if matches!(tree.node(list.id).value, Value::List(_)) => {
                let step = Step::Index(tree.children(list.id).len());
                tree.add(list.id, step, origin, Value::Null)
            }
            Some(mapping) => match (mapping.entry.take(), value) {
                (Some(entry), value) => {
                    tree.node_mut(entry).value = value;
                    if matches!(tree.node(entry).value, Value::List(_) | Value::Map(_)) {
                        open.push(Open {
                            id: entry,
                            entry: None,
                        });
                    }
                    if open.len() > MAX_DEPTH {
                        return broken("is nested too deeply to be a setting");
                    }
                    continue;
                }
                (None, _) if tree.children(mapping.id).len() == MAX_KEYS => {
                    return broken("the mapping has more than 1000 keys");
                }
                (None, Value::Scalar { text, .. }) => {
                    mapping.entry = Some(add_entry(tree, mapping.id, text, origin, mistakes));
                    continue;
                }
                (None, _) => return broken("a key must be a word"),
            },
        };
        tree.node_mut(id).value = value;
        if matches!(tree.node(id).value, Value::List(_) | Value::Map(_)) {
            open.push(Open { id, entry: None });
        }
        if open.len() > MAX_DEPTH {
            return broken("is nested too deeply to be a setting");
        }
    }
    Ok(())
}

/// An entry for a key; a repeated one is a mistake and isn't looked at further.
fn add_entry(
    tree: &mut Tree,
    mapping: NodeId,
    key: String,
    origin: Origin,
    mistakes: &mut Vec<Mistake>,
) -> NodeId {
    let first = tree
        .child(mapping, &key)
        .map(|first| tree.node(first).origin.clone());
    let entry = tree.add(mapping, Step::Key(key), origin, Value::Null);
    if let Some(first) = first {
        tree.node_mut(entry).state = State::Spoiled;
        mistakes.push(tree.mistake(
            entry,
            match first {
                Origin::Line(line) => format!("is set in line {line} already; remove one"),
                Origin::Variable(_) => "is set twice; remove one".to_owned(),
            },
        ));
    }
    entry
}

fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    let quoted = style != ScalarStyle::Plain;
    match tag {
        Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => {
            Value::Scalar { text, quoted: true }
        }
        Some(_) => Value::Unusable("has a YAML tag; remove the tag"),
        None if !quoted && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL") => {
            Value::Null
        }
        None => Value::Scalar { text, quoted },
    }
}

/// What is wrong with a text, without a word of it: the parser's own may repeat some.
fn in_words(info: &str) -> &'static str {
    if info.starts_with("unexpected character") {
        "isn't valid YAML: a value that begins with @, ` or % needs quotes"
    } else if info.contains("tab") {
        "isn't valid YAML: indent with spaces, not with tabs"
    } else if info.contains("quoted scalar") {
        "isn't valid YAML: a quote isn't closed, or something follows it"
    } else if info.contains("mapping values are not allowed") {
        "isn't valid YAML: a `:` too many, or an indentation that isn't right; a value with `: ` in it needs quotes"
    } else if info.contains("unknown anchor") {
        "isn't valid YAML: a value that begins with * needs quotes"
    } else if info.contains("recursion limit") {
        "is nested too deeply to be a setting"
    } else {
        "isn't valid YAML: look here and above for an indentation, a quote or a bracket that isn't right"
    }
}
