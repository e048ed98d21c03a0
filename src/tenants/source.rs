//! Where tenants stand in `tenants_dir`, and whether what is there has changed.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

/// A file that was written so shortly before it was read may be written again without
/// looking any different.
const SETTLED: Duration = Duration::from_secs(2);

/// One tenant's place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Source {
    /// `<tenant-id>.yaml`.
    File(PathBuf),
    /// `<tenant-id>/`, with a file for each setting: a Secret, mounted.
    Directory(PathBuf),
    /// What looks like a tenant's file and isn't one.
    Misnamed(PathBuf),
}

impl Source {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Directory(path) | Self::Misnamed(path) => path,
        }
    }

    /// The name that the tenant has by its place.
    pub(super) fn name(&self) -> &str {
        let path = self.path();
        let name = match self {
            Self::Directory(_) => path.file_name(),
            Self::File(_) | Self::Misnamed(_) => path.file_stem(),
        };
        name.and_then(|name| name.to_str()).unwrap_or_default()
    }
}

/// Every tenant's place, in the order of the names. What begins with a dot is somebody else's
/// (Kubernetes keeps what it mounted last under `..data`).
pub(super) fn list(dir: &Path) -> io::Result<Vec<Source>> {
    let mut sources = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_hidden = path
            .file_name()
            .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if is_hidden {
            continue;
        }
        let ending = path.extension().and_then(|ending| ending.to_str());
        // A mounted file is a link: what counts is where it leads.
        let source = match ending {
            _ if path.is_dir() => Source::Directory(path),
            // A link that leads nowhere is a file that can't be read, not one that is gone.
            Some("yaml") => Source::File(path),
            Some("yml") => Source::Misnamed(path),
            _ => continue,
        };
        sources.push(source);
    }
    sources.sort_by(|a, b| a.path().cmp(b.path()));
    Ok(sources)
}

/// How files looked when they were read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<Look>);

#[derive(Debug, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// How those files look now; none where one isn't there, or has been written so lately
    /// that its look says nothing.
    pub(super) fn of<'p>(
        paths: impl IntoIterator<Item = &'p PathBuf>,
        now: SystemTime,
    ) -> Option<Self> {
        let look = |path: &PathBuf| {
            let metadata = fs::metadata(path).ok()?;
            let latest = metadata.mtime().max(metadata.ctime());
            let written = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(latest).ok()?);
            let is_settled = now
                .duration_since(written)
                .is_ok_and(|since| since >= SETTLED);
            is_settled.then(|| Look {
                device: metadata.dev(),
                inode: metadata.ino(),
                bytes: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            })
        };
        paths.into_iter().map(look).collect::<Option<_>>().map(Self)
    }
}
