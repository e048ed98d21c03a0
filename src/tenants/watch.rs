//! Tells when files may have changed. What has changed, the loader finds out.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    iter,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::Notify;

use super::way;

/// Watches directories: files are replaced rather than written, and a mounted Secret changes
/// by a swap of the link `..data` beside them. Each directory is watched once and by its real path,
/// which is what is told of events in it: by whatever other names and links files are known, what
/// counts is where they lead.
pub struct Watch {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeMap<PathBuf, bool>,
    wanted: Arc<RwLock<Wanted>>,
    changed: Arc<Notify>,
}

/// Which events tell something, by real paths. A log may be written beside a key.
#[derive(Default)]
struct Wanted {
    /// Of whatever is in these directories.
    whole: BTreeSet<PathBuf>,
    /// Of these files, and of the links that lead to them.
    names: BTreeSet<PathBuf>,
    /// What is watched for their sake, which may be moved away.
    dirs: BTreeSet<PathBuf>,
}

impl Wanted {
    fn of<'f>(paths: impl Iterator<Item = &'f Path>) -> Self {
        let mut wanted = Self::default();
        let root = Path::new("/");
        // Thousands of files lie in a few directories.
        let mut parents = HashMap::new();
        for path in paths {
            let parent = path.parent().unwrap_or(root);
            let parent = parents
                .entry(parent)
                .or_insert_with(|| way::follow(root, parent, &mut wanted.names));
            let (Some(parent), Some(name)) = (parent, path.components().next_back()) else {
                continue;
            };
            match way::follow(parent, name.as_ref(), &mut wanted.names) {
                Some(real) if real.is_dir() => wanted.whole.insert(real),
                Some(real) => wanted.names.insert(real),
                None => continue,
            };
        }
        let parents = wanted.names.iter().filter_map(|name| name.parent());
        let parents = parents.filter(|dir| !is_of_a_mount(dir));
        wanted.dirs = parents.map(Path::to_owned).collect();
        wanted.dirs.extend(wanted.whole.iter().cloned());
        wanted
    }

    fn is_about(&self, path: &Path) -> bool {
        is_of_a_mount(path)
            || self.names.contains(path)
            || self.dirs.contains(path)
            || path.parent().is_some_and(|dir| self.whole.contains(dir))
    }
}

/// Whether Kubernetes made that for a volume: its versions, which never change, and the link to
/// the present one.
fn is_of_a_mount(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b".."))
}

impl Watch {
    /// A watch of nothing yet. Where the machine has none to give, nothing is ever told, and
    /// [`Watch::is_complete`] says so.
    #[must_use]
    pub fn new() -> Self {
        let changed = Arc::new(Notify::new());
        let wanted = Arc::new(RwLock::new(Wanted::default()));
        let (told, about) = (changed.clone(), wanted.clone());
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let is_news = event.map_or(true, |event| {
                let about = about.read().unwrap_or_else(PoisonError::into_inner);
                // Our own reading is an event too.
                !matches!(event.kind, EventKind::Access(_))
                    && (event.need_rescan() || event.paths.iter().any(|path| about.is_about(path)))
            });
            if is_news {
                told.notify_one();
            }
        });
        Self {
            watcher: watcher.ok(),
            watched: BTreeMap::new(),
            wanted,
            changed,
        }
    }

    /// Watches `dir`, those files and the directories among them, and nothing else. The paths are
    /// absolute.
    pub fn follow<'f>(&mut self, dir: &'f Path, files: impl IntoIterator<Item = &'f Path>) {
        let wanted = Wanted::of(iter::once(dir).chain(files));
        let dirs = wanted.dirs.clone();
        *self.wanted.write().unwrap_or_else(PoisonError::into_inner) = wanted;
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        self.watched.retain(|path, _| {
            let is_wanted = dirs.contains(path);
            if !is_wanted {
                let _ = watcher.unwatch(path);
            }
            is_wanted
        });
        // Also what is watched already: another directory may have come in its place.
        for path in dirs {
            let watched = watcher.watch(&path, RecursiveMode::NonRecursive).is_ok();
            self.watched.insert(path, watched);
        }
    }

    /// Whether every change will be told.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.watcher.is_some() && self.watched.values().all(|watched| *watched)
    }

    /// Waits until something may have changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Forgets what was told until now.
    pub fn forget(&self) {
        // A permit that is kept is taken at once.
        use futures_util::FutureExt as _;
        let _ = self.changed.notified().now_or_never();
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(&self.watched).finish()
    }
}
