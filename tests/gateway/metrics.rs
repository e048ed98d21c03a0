//! What the metrics promise: each is told of in README.md, and bounds stand beside what they bound.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::harness::World;

fn value(metrics: &str, name: &str) -> u64 {
    let start = format!("{name} ");
    let found = metrics.lines().find_map(|line| line.strip_prefix(&start));
    let found = found.unwrap_or_else(|| panic!("{name} is missing in\n{metrics}"));
    found.parse().unwrap()
}

#[tokio::test]
async fn bounds_stand_beside_what_they_bound() {
    let world = World::configured("images: {in_flight_bytes: 64MiB}\n").await;
    let metrics = world.metrics().await;
    let most = value(&metrics, "llavero_uploads_in_flight_limit_bytes");
    assert_eq!(most, 64 << 20);
    let memory = fs::read_to_string("/proc/meminfo").unwrap();
    let total = memory.lines().find_map(|it| it.strip_prefix("MemTotal:"));
    let total = total.and_then(|it| it.trim().strip_suffix(" kB")).unwrap();
    let machine = total.parse::<u64>().unwrap() * 1024;
    let limit = value(&metrics, "llavero_memory_limit_bytes");
    assert!(0 < limit && limit <= machine, "{limit} of {machine}");
}

/// The names in the first column of README.md's table, a row may have several.
fn documented() -> BTreeSet<String> {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = fs::read_to_string(readme).unwrap();
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| "));
    let names = rows.filter_map(|row| row.split_once(" |"));
    let names = names.flat_map(|(names, _)| names.split(", "));
    let names = names.filter_map(|name| name.strip_prefix('`')?.strip_suffix('`'));
    let is_metric = |name: &&str| is_name(name);
    names.filter(is_metric).map(str::to_owned).collect()
}

fn is_name(text: &str) -> bool {
    let rest = ["llavero_", "http_server_", "http_client_", "process_"]
        .iter()
        .find_map(|prefix| text.strip_prefix(prefix));
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    rest.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(plain))
}

/// Every text in `src` that is a metric's name.
fn declared() -> BTreeSet<String> {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut names = BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = fs::read_to_string(path).unwrap();
                let (code, _) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
                let texts = code.split('"').filter(|text| is_name(text));
                names.extend(texts.map(str::to_owned));
            }
        }
    }
    names
}

#[tokio::test]
async fn each_metric_is_told_of_in_the_readme() {
    let (documented, declared) = (documented(), declared());
    assert!(declared.len() > 30, "they are found: {declared:?}");
    // The names of counters and infos get their ends when they are written.
    let written = |name: &String| ["", "_total", "_info"].map(|end| format!("{name}{end}"));
    let untold: Vec<_> = declared
        .iter()
        .filter(|name| !written(name).iter().any(|it| documented.contains(it)))
        .collect();
    assert!(untold.is_empty(), "not in README.md: {untold:?}");
    let exposed = World::start().await.metrics().await;
    for name in &documented {
        let plain = name.strip_suffix("_total");
        let plain = plain.or(name.strip_suffix("_info")).unwrap_or(name);
        let is_declared = declared.contains(name) || declared.contains(plain);
        assert!(is_declared, "{name} of README.md is no metric");
    }
    for line in exposed.lines() {
        if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|line| line.split_once(' '))
        {
            // OpenMetrics leaves the end of a counter's name out here, the older format doesn't.
            let end = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let name = format!("{}{end}", name.trim_end_matches(end));
            assert!(documented.contains(&name), "{name} isn't in README.md");
        }
    }
}
