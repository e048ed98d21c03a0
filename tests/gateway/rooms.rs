//! Which room of `src` may name which: the table of `docs/architecture.md`, held.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// A room, and what it may name of ours. Rooms that only join others (app, router,
/// server, admin, cli) are bound by their callers instead: nobody but the rooms listed may name them.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("config", &[]),
    ("clock", &[]),
    ("operation", &[]),
    ("fair", &[]),
    ("images", &["fair", "in_flight", "tenants"]),
    ("process", &[]),
    ("i_json", &[]),
    ("idempotency", &["clock", "tenants"]),
    ("identity", &["clock", "config", "i_json"]),
    ("tenants", &["config", "identity", "operation", "watchlist"]),
    ("watchlist", &["clock", "config"]),
    (
        "caller",
        &["identity", "operation", "problem", "telemetry", "tenants"],
    ),
    ("cache", &["tenants"]),
    ("telemetry", &["clock", "config", "tenants"]),
    ("limits", &["clock", "config", "tenants"]),
    ("in_flight", &["clock", "tenants"]),
    (
        "upstream",
        &[
            "clock",
            "config",
            "fair",
            "telemetry",
            "tenants",
            "watchlist",
        ],
    ),
    (
        "exchange",
        &[
            "cache",
            "caller",
            "clock",
            "idempotency",
            "operation",
            "telemetry",
            "tenants",
            "upstream",
            "watchlist",
        ],
    ),
    (
        "problem",
        &[
            "caller",
            "exchange",
            "idempotency",
            "identity",
            "images",
            "in_flight",
            "limits",
            "upstream",
        ],
    ),
    (
        "extract",
        &[
            "caller",
            "clock",
            "exchange",
            "i_json",
            "idempotency",
            "images",
            "in_flight",
            "problem",
            "tenants",
        ],
    ),
    (
        "layers",
        &[
            "cache",
            "caller",
            "clock",
            "exchange",
            "identity",
            "limits",
            "operation",
            "problem",
            "telemetry",
            "tenants",
            "watchlist",
        ],
    ),
    (
        "reload",
        &[
            "clock",
            "exchange",
            "identity",
            "telemetry",
            "tenants",
            "tls",
            "watchlist",
        ],
    ),
    (
        "resources",
        &[
            "app",
            "cache",
            "caller",
            "clock",
            "exchange",
            "extract",
            "idempotency",
            "layers",
            "operation",
            "problem",
            "telemetry",
            "upstream",
        ],
    ),
    (
        "router",
        &["app", "layers", "problem", "resources", "telemetry"],
    ),
    (
        "admin",
        &[
            "exchange",
            "identity",
            "layers",
            "problem",
            "telemetry",
            "tenants",
            "tls",
        ],
    ),
    (
        "server",
        &["admin", "app", "clock", "config", "problem", "tls"],
    ),
    ("tls", &["clock", "config"]),
];

#[test]
fn no_room_names_another_than_the_table_says() {
    let table: BTreeMap<_, BTreeSet<_>> = MAY_NAME
        .iter()
        .map(|(room, named)| (*room, named.iter().copied().collect()))
        .collect();
    let mut wrong = Vec::new();
    for (room, file, text) in sources() {
        // These two build everything and may name everything.
        if matches!(room.as_str(), "app" | "cli" | "lib" | "main") {
            continue;
        }
        let allowed = table.get(room.as_str()).unwrap_or_else(|| {
            panic!("the room {room} isn't in the table: add it, and to docs/architecture.md")
        });
        for named in rooms_named(&text) {
            if named != room && !allowed.contains(named.as_str()) {
                wrong.push(format!("{} names crate::{named}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_rooms_of_the_edge_name_axum() {
    let edge = [
        "admin",
        "app",
        "caller",
        "extract",
        "layers",
        "problem",
        "resources",
        "router",
        "server",
    ];
    for (room, file, text) in sources() {
        assert!(
            edge.contains(&room.as_str()) || !text.contains("axum::"),
            "{} names axum",
            file.display()
        );
    }
}

/// Every source file with its room: the folder or file directly below `src`.
fn sources() -> Vec<(String, PathBuf, String)> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut open = vec![src.clone()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let below = path.strip_prefix(&src).unwrap().to_owned();
                let room = below.iter().next().unwrap().to_str().unwrap();
                let room = room.trim_end_matches(".rs").to_owned();
                sources.push((room, below, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(sources.len() > 50, "the sources are found");
    sources
}

/// The first segments of all `crate::` paths, of grouped ones each member's.
fn rooms_named(text: &str) -> BTreeSet<String> {
    let word = |text: &str| -> String {
        text.trim_start()
            .chars()
            .take_while(|it| it.is_alphanumeric() || *it == '_')
            .collect()
    };
    let mut rooms = BTreeSet::new();
    for (at, _) in text.match_indices("crate::") {
        let rest = &text[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            rooms.insert(word(rest));
            continue;
        };
        let (mut depth, mut begins) = (1, 0);
        for (at, letter) in group.char_indices() {
            match letter {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if (letter == ',' && depth == 1) || depth == 0 {
                rooms.insert(word(&group[begins..at]));
                begins = at + 1;
            }
            if depth == 0 {
                break;
            }
        }
    }
    rooms.remove("");
    rooms
}
