//! The names that decide what a path leads to.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs, io,
    path::{Component, Path, PathBuf},
};

/// As many links as Linux follows (`path_resolution(7)`).
const MOST_LINKS: usize = 40;

/// The real path of what `path` leads to from the real directory `from`. `names` gets the real
/// place of each link on the way, or of the first thing that isn't there: whoever makes or
/// replaces one of these changes where the path leads.
pub(super) fn follow(from: &Path, path: &Path, names: &mut BTreeSet<PathBuf>) -> Option<PathBuf> {
    let mut at = from.to_owned();
    let mut ahead = parts(path);
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        match Path::new(&part).components().next() {
            Some(Component::RootDir) => at = PathBuf::from("/"),
            Some(Component::ParentDir) => {
                at.pop();
            }
            Some(Component::Normal(name)) => {
                at.push(name);
                match fs::read_link(&at) {
                    Ok(target) => {
                        names.insert(at.clone());
                        links += 1;
                        if links > MOST_LINKS {
                            return None;
                        }
                        at.pop();
                        ahead.extend(parts(&target));
                    }
                    // It is there, and no link.
                    Err(error) if error.kind() == io::ErrorKind::InvalidInput => {}
                    Err(_) => {
                        names.insert(at);
                        return None;
                    }
                }
            }
            _ => {}
        }
    }
    Some(at)
}

/// The first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let parts = path.components().rev();
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn every_link_on_the_way_counts_and_the_first_thing_that_is_missing() {
        let dir = tempfile::tempdir().expect("a directory");
        let dir = fs::canonicalize(dir.path()).expect("is there");
        fs::create_dir_all(dir.join("archive/a")).expect("can be made");
        fs::write(dir.join("archive/a/key"), "k").expect("can be written");
        let link = |to: &str, at: &str| symlink(to, dir.join(at)).expect("can be made");
        link("archive/../archive/a", "live");
        link("../../live/key", "archive/a/link");
        link("round", "round");
        let absolute = dir.join("archive/a/key");
        link(absolute.to_str().expect("is text"), "far");
        let followed = |path: &str| {
            let mut names = BTreeSet::new();
            let real = follow(&dir, Path::new(path), &mut names);
            let of = |path: &PathBuf| {
                let path = path.strip_prefix(&dir).expect("is within");
                path.to_str().expect("is text").to_owned()
            };
            let names: Vec<_> = names.iter().map(of).collect();
            (real.as_ref().map(of), names)
        };
        let to = |real: &str, names: &[&str]| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            ((!real.is_empty()).then(|| real.to_owned()), names)
        };
        let key = "archive/a/key";
        assert_eq!(followed(key), to(key, &[]));
        assert_eq!(followed("./archive/../archive/a/key"), to(key, &[]));
        assert_eq!(followed("live/key"), to(key, &["live"]));
        assert_eq!(followed("live/link"), to(key, &["archive/a/link", "live"]));
        assert_eq!(followed("far"), to(key, &["far"]));
        assert_eq!(followed("live/no/key"), to("", &["archive/a/no", "live"]));
        assert_eq!(followed("round"), to("", &["round"]));
    }
}
