//! The fuzz targets' properties over their corpora: what was found once isn't found again, and the
//! targets don't rot.

#[path = "../../fuzz/src/lib.rs"]
mod properties;

use std::{collections::BTreeSet, fs, path::Path};

use properties::{multipart, paging, tenant_file, token};

/// Runs a target's corpus; the names of what was accepted.
fn accepted(target: &str, check: fn(&[u8]) -> bool) -> BTreeSet<String> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut accepted = BTreeSet::new();
    for entry in fs::read_dir(corpus).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        // Where a property fails, its panic says what and this says with which input.
        println!("{target}/{name}");
        if check(&fs::read(path).unwrap()) {
            accepted.insert(name);
        }
    }
    accepted
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn tokens() {
    assert_eq!(
        accepted("token", token::check),
        names([
            "deep",
            "machines",
            "odd-dates",
            "own-key",
            "people",
            "plain-machines"
        ])
    );
}

#[test]
fn tenants_files() {
    assert_eq!(
        accepted("tenant_file", tenant_file::check),
        names([
            "directory",
            "directory-login",
            "directory-whole",
            "everything",
            "key",
            "reload",
            "reload-place",
            "rotating"
        ])
    );
}

#[test]
fn uploads() {
    assert_eq!(
        accepted("multipart", multipart::check),
        names([
            "boundary-inside",
            "jpeg",
            "long-epilogue",
            "long-head",
            "long-preamble",
            "png",
            "preamble"
        ])
    );
}

#[test]
fn links() {
    assert_eq!(
        accepted("paging", paging::check),
        names([
            "answer",
            "cursor",
            "first-page-of-cursor",
            "no-query",
            "not-utf8",
            "odd-links",
            "offset",
            "page",
            "page-of-cursor"
        ])
    );
}
