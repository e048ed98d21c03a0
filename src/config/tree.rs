//! Settings as they were written: a tree whose every node knows the line or the
//! variable that set it, and what has become of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::zeroize::Zeroize;

use super::mistake::Mistake;

/// What stands under these keys is never repeated, not even a part of its structure.
const SECRET_KEYS: [&str; 3] = ["secret", "api_key", "password"];

/// Whether a key may be told. `api_key:hunter2` is one key where the blank is missing, and
/// `"password: hunter2"` where the quotes stand too far out.
pub(super) fn may_be_told(key: &str) -> bool {
    let is_plain = |letter: char| letter.is_alphanumeric() || "_-.".contains(letter);
    let lower = key.to_ascii_lowercase();
    key.chars().all(is_plain) || !SECRET_KEYS.iter().any(|secret| lower.contains(secret))
}

/// A node's place in its tree's list.
pub(super) type NodeId = usize;

/// The whole document.
pub(super) const ROOT: NodeId = 0;

/// One file's settings, with the environment's over them.
pub(super) struct Tree {
    file: PathBuf,
    nodes: Vec<Node>,
    /// Keys that were most likely meant by a misspelt one beside them.
    meant: Vec<(NodeId, String)>,
}

pub(super) struct Node {
    pub(super) parent: Option<NodeId>,
    pub(super) step: Step,
    pub(super) origin: Origin,
    pub(super) state: State,
    pub(super) value: Value,
}

/// How a node is reached from its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Root,
    Key(String),
    Index(usize),
}

/// What set a node.
#[derive(Debug, Clone)]
pub(super) enum Origin {
    Line(usize),
    Variable(Arc<str>),
}

/// Whether decoding sees a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Live,
    /// Written without a value: the default applies.
    Unset,
    /// Its mistake is reported; what depends on it isn't.
    Spoiled,
}

pub(super) enum Value {
    Null,
    /// What is quoted is never taken for a number or a boolean.
    Scalar {
        text: String,
        quoted: bool,
    },
    /// A variable's value: read as YAML only where no plain text is wanted.
    Raw(String),
    List(Vec<NodeId>),
    Map(Vec<NodeId>),
    /// Stands in for a missing value, so that reading goes on to further mistakes.
    Phantom,
    /// What can't be a setting, and why.
    Unusable(&'static str),
}

impl Tree {
    pub(super) fn new(file: &Path) -> Self {
        let root = Node {
            parent: None,
            step: Step::Root,
            origin: Origin::Line(1),
            state: State::Live,
            value: Value::Map(Vec::new()),
        };
        Self {
            file: file.to_owned(),
            nodes: vec![root],
            meant: Vec::new(),
        }
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id]
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// Adds a node to a list or mapping.
    pub(super) fn add(
        &mut self,
        parent: NodeId,
        step: Step,
        origin: Origin,
        value: Value,
    ) -> NodeId {
        let id = self.nodes.len();
        self.nodes.push(Node {
            parent: Some(parent),
            step,
            origin,
            state: State::Live,
            value,
        });
        if let Value::List(children) | Value::Map(children) = &mut self.nodes[parent].value {
            children.push(id);
        }
        id
    }

    pub(super) fn children(&self, id: NodeId) -> &[NodeId] {
        match &self.nodes[id].value {
            Value::List(children) | Value::Map(children) => children,
            _ => &[],
        }
    }

    pub(super) fn live_children(&self, id: NodeId) -> impl Iterator<Item = NodeId> {
        self.children(id)
            .iter()
            .copied()
            .filter(|&child| self.nodes[child].state == State::Live)
    }

    pub(super) fn child(&self, id: NodeId, key: &str) -> Option<NodeId> {
        let named =
            |&child: &NodeId| matches!(&self.nodes[child].step, Step::Key(name) if name == key);
        self.children(id).iter().copied().find(named)
    }

    /// Notes that a misspelt key beside it was most likely meant to be this one.
    pub(super) fn mean(&mut self, parent: NodeId, key: &str) {
        self.meant.push((parent, key.to_owned()));
    }

    /// The dotted key of a node; of what stands under a secret, or may hold one itself, only that
    /// it does.
    pub(super) fn key(&self, id: NodeId) -> String {
        let mut steps = Vec::new();
        let mut at = Some(id);
        while let Some(id) = at {
            steps.push(&self.nodes[id].step);
            at = self.nodes[id].parent;
        }
        let mut key = String::new();
        let mut secret = false;
        for step in steps.into_iter().rev() {
            match step {
                Step::Root => {}
                Step::Key(name) if secret && name != "file" && name != "env" => break,
                Step::Key(name) if !may_be_told(name) => break,
                Step::Key(name) => {
                    if !key.is_empty() {
                        key.push('.');
                    }
                    key.push_str(name);
                    secret = SECRET_KEYS.contains(&name.to_ascii_lowercase().as_str());
                }
                Step::Index(index) => key.push_str(&format!("[{index}]")),
            }
        }
        key
    }

    /// A mistake at a node.
    pub(super) fn mistake(&self, id: NodeId, what: impl Into<String>) -> Mistake {
        let (line, variable) = match &self.nodes[id].origin {
            Origin::Line(_) if id == ROOT => (None, None),
            Origin::Line(line) => (Some(*line), None),
            Origin::Variable(name) => (None, Some(name.to_string())),
        };
        Mistake {
            line,
            variable,
            key: self.key(id),
            ..Mistake::of_file(&self.file, what)
        }
    }

    /// The node of a dotted key, or the nearest that exists above it with the rest of the key.
    ///
    /// Indices count what decoding saw; keys of a mapping may have dots in them.
    pub(super) fn find<'k>(&self, key: &'k str) -> (NodeId, &'k str) {
        let (mut at, mut rest) = (ROOT, key);
        while let Some((child, left)) = self.step(at, rest) {
            (at, rest) = (child, left);
        }
        (at, rest)
    }

    fn step<'k>(&self, at: NodeId, key: &'k str) -> Option<(NodeId, &'k str)> {
        if let Some(rest) = key.strip_prefix('[') {
            let (index, left) = rest.split_once(']')?;
            let index = index.parse::<usize>().ok()?;
            return Some((self.live_children(at).nth(index)?, left));
        }
        let key = key.strip_prefix('.').unwrap_or(key);
        self.children(at)
            .iter()
            .filter_map(|&child| match &self.nodes[child].step {
                Step::Key(name) => {
                    let left = key.strip_prefix(name.as_str())?;
                    let ends = left.is_empty() || left.starts_with(['.', '[']);
                    (ends && !name.is_empty()).then_some((child, left))
                }
                Step::Root | Step::Index(_) => None,
            })
            .min_by_key(|(_, left)| left.len())
    }

    /// Whether what is wrong at a key follows from a mistake that is reported already:
    /// at the key, above it, below it, in a misspelling of it, or in its being missing.
    pub(super) fn is_spoiled(&self, key: &str) -> bool {
        let (id, rest) = self.find(key);
        let mut at = Some(id);
        while let Some(above) = at {
            let node = &self.nodes[above];
            if node.state == State::Spoiled || matches!(node.value, Value::Phantom) {
                return true;
            }
            at = self.nodes[above].parent;
        }
        if rest.is_empty() {
            return self.spoiled_below(id);
        }
        let name = rest.trim_start_matches('.');
        self.meant.iter().any(|(parent, meant)| {
            *parent == id
                && name
                    .strip_prefix(meant.as_str())
                    .is_some_and(|left| left.is_empty() || left.starts_with(['.', '[']))
        })
    }

    fn spoiled_below(&self, id: NodeId) -> bool {
        let mut open = vec![id];
        while let Some(at) = open.pop() {
            let spoiled = |&child: &NodeId| self.nodes[child].state == State::Spoiled;
            let misspelt = self.meant.iter().any(|(parent, _)| *parent == at);
            if misspelt || self.children(at).iter().any(spoiled) {
                return true;
            }
            open.extend(self.children(at));
        }
        false
    }

    /// Wipes the values: what stays says only where things are.
    pub(super) fn forget_values(&mut self) {
        for node in &mut self.nodes {
            if let Value::Scalar { text, .. } | Value::Raw(text) = &mut node.value {
                text.zeroize();
            }
        }
    }
}
