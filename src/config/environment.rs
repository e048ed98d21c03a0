//! Environment variables over the tree: `LLAVERO__SERVER__LISTEN` sets `server.listen`.

use super::{
    mistake::Mistake,
    tree::{NodeId, Origin, ROOT, Step, Tree, Value},
    yaml,
};

/// Two underscores: a Kubernetes service called `llavero` sets `LLAVERO_PORT` and the like.
const PREFIX: &str = "LLAVERO__";

/// A part of a variable's name. Sorted so that a section comes before what is in it,
/// and a list's entries come in order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Index(usize),
    Key(String),
}

struct Variable {
    parts: Vec<Part>,
    name: String,
    value: String,
}

/// Sets what the environment sets. A variable for a whole section or list replaces it.
pub(super) fn apply(
    tree: &mut Tree,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut variables = Vec::new();
    for (name, value) in environment {
        let Some(parts) = parts(&name) else { continue };
        if parts.contains(&Part::Key(String::new())) {
            let what = "isn't a setting's name; write it like LLAVERO__SERVER__LISTEN";
            mistakes.push(of_variable(tree, &name, what));
        } else {
            variables.push(Variable { parts, name, value });
        }
    }
    variables.sort_by(|a, b| (&a.parts, &a.name).cmp(&(&b.parts, &b.name)));
    let mut previous: Option<Variable> = None;
    for variable in variables {
        match &previous {
            Some(same) if same.parts == variable.parts => {
                let what = format!("sets the same as {}; remove one", same.name);
                mistakes.push(of_variable(tree, &variable.name, what));
                continue;
            }
            _ => {}
        }
        if let Err(what) = set(tree, &variable, &mut mistakes) {
            mistakes.push(of_variable(tree, &variable.name, what));
        }
        previous = Some(variable);
    }
    mistakes
}

fn parts(name: &str) -> Option<Vec<Part>> {
    let prefix = name.get(..PREFIX.len())?;
    if !prefix.eq_ignore_ascii_case(PREFIX) {
        return None;
    }
    let rest = name.get(PREFIX.len()..)?.to_ascii_lowercase();
    let part = |text: &str| {
        text.parse()
            .map_or_else(|_| Part::Key(text.to_owned()), Part::Index)
    };
    Some(rest.split("__").map(part).collect())
}

fn of_variable(tree: &Tree, name: &str, what: impl Into<String>) -> Mistake {
    Mistake {
        variable: Some(name.to_owned()),
        ..Mistake::of_file(tree.file(), what)
    }
}

fn set(tree: &mut Tree, variable: &Variable, mistakes: &mut Vec<Mistake>) -> Result<(), String> {
    let origin = Origin::Variable(variable.name.as_str().into());
    let mut at = ROOT;
    for part in &variable.parts {
        open(tree, at, part, mistakes);
        at = enter(tree, at, part, &origin)?;
    }
    let node = tree.node_mut(at);
    node.origin = origin;
    node.value = Value::Raw(variable.value.clone());
    Ok(())
}

/// Makes sure that a node can have a child of that kind.
fn open(tree: &mut Tree, at: NodeId, part: &Part, mistakes: &mut Vec<Mistake>) {
    if matches!(&tree.node(at).value, Value::Raw(text) if text.trim_start().starts_with(['[', '{']))
    {
        match yaml::expand(tree, at) {
            Ok(found) => mistakes.extend(found),
            Err(what) => mistakes.push(tree.mistake(at, what)),
        }
    }
    if !matches!(tree.node(at).value, Value::List(_) | Value::Map(_)) {
        tree.node_mut(at).value = match part {
            Part::Index(_) => Value::List(Vec::new()),
            Part::Key(_) => Value::Map(Vec::new()),
        };
    }
}

fn enter(tree: &mut Tree, at: NodeId, part: &Part, origin: &Origin) -> Result<NodeId, String> {
    let entries = tree.children(at).len();
    match (&tree.node(at).value, part) {
        (Value::List(children), Part::Index(index)) => match children.get(*index) {
            Some(child) => Ok(*child),
            None if *index == entries => {
                Ok(tree.add(at, Step::Index(*index), origin.clone(), Value::Null))
            }
            None => Err(format!(
                "{} has {entries} entries, so the next one is number {entries}",
                tree.key(at)
            )),
        },
        (Value::List(_), Part::Key(_)) => Err(format!(
            "{0} is a list: name its entry by number, like LLAVERO__{1}__0__…",
            tree.key(at),
            tree.key(at)
                .to_uppercase()
                .replace(['.', '['], "__")
                .replace(']', "")
        )),
        (_, part) => {
            let key = match part {
                Part::Index(index) => index.to_string(),
                Part::Key(key) => key.clone(),
            };
            let existing = tree.child(at, &key);
            Ok(existing
                .unwrap_or_else(|| tree.add(at, Step::Key(key), origin.clone(), Value::Null)))
        }
    }
}
