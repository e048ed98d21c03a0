//! Reads `tenants_dir`, the first time and again: only what has changed is read anew, what
//! is wrong keeps its last good version, and what is gone is gone.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    num::NonZero,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::SystemTime,
};

use crate::config::mistake::{Mistake, Mistakes};

use super::{
    Clave, Tenant, TenantFileError, TenantId, Tenants, file, mounted,
    source::{self, Source, Stamp},
};

/// Gives an environment variable's value.
pub type Environment = fn(&str) -> Option<String>;

/// Reads the tenants' directory, and remembers what it read.
#[derive(Debug)]
pub struct Loader {
    dir: PathBuf,
    env: Environment,
    known: BTreeMap<Source, Known>,
}

/// What is known of one tenant's place.
#[derive(Debug)]
struct Known {
    read: Read,
    /// The version that is served.
    good: Option<Arc<Tenant>>,
    error: Option<Arc<TenantFileError>>,
}

/// What came of reading it.
#[derive(Debug)]
struct Read {
    /// Everything that it was read from.
    files: Vec<PathBuf>,
    stamp: Option<Stamp>,
    tenant: Result<Arc<Tenant>, Mistakes>,
}

impl Loader {
    /// A loader of that directory, which has read nothing yet.
    #[must_use]
    pub fn new(dir: &Path, env: Environment) -> Self {
        Self {
            dir: dir.to_owned(),
            env,
            known: BTreeMap::new(),
        }
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What gives it environment variables.
    #[must_use]
    pub fn env(&self) -> Environment {
        self.env
    }

    /// Every file that tenants were read from.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.known
            .values()
            .flat_map(|known| &known.read.files)
            .map(PathBuf::as_path)
    }

    /// The tenants as the directory has them now.
    ///
    /// # Errors
    /// The directory itself can't be read: then nothing has changed.
    pub fn load(&mut self, now: SystemTime) -> io::Result<Tenants> {
        let sources = source::list(&self.dir)?;
        let read_anew = self.read_anew(&sources, now);
        let mut before = std::mem::take(&mut self.known);
        for (source, mut read) in read_anew {
            let old = before.remove(&source);
            // Removed after it was listed.
            if read.tenant.is_err() && fs::symlink_metadata(source.path()).is_err() {
                continue;
            }
            let (good, error) = old.map_or((None, None), |old| (old.good, old.error));
            if let (Ok(tenant), Some(good)) = (&mut read.tenant, &good) {
                if let Some(tenant) = Arc::get_mut(tenant) {
                    tenant.go_on_from(good);
                }
                if tenant.is_as(good) {
                    *tenant = good.clone();
                }
            }
            self.known.insert(source, Known { read, good, error });
        }
        for source in sources {
            if let Some(unchanged) = before.remove(&source) {
                self.known.insert(source, unchanged);
            }
        }
        Ok(self.settle())
    }

    /// Reads what is new or looks different, on every core.
    fn read_anew(&self, sources: &[Source], now: SystemTime) -> Vec<(Source, Read)> {
        let changed: Vec<&Source> = sources
            .iter()
            .filter(|source| {
                self.known.get(source).is_none_or(|known| {
                    let before = &known.read;
                    before.stamp.is_none() || before.stamp != Stamp::of(&before.files, now)
                })
            })
            .collect();
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        let share = changed.len().div_ceil(cores).max(1);
        let env = self.env;
        thread::scope(|scope| {
            let parts: Vec<_> = changed
                .chunks(share)
                .map(|part| {
                    scope.spawn(move || {
                        part.iter()
                            .map(|&source| (source.clone(), Read::of(source, env, now)))
                            .collect::<Vec<_>>()
                    })
                })
                .collect();
            parts
                .into_iter()
                .flat_map(|part| part.join().unwrap_or_default())
                .collect()
        })
    }

    /// Decides which version of each is served.
    fn settle(&mut self) -> Tenants {
        let mut served = HashMap::<TenantId, Arc<Tenant>>::new();
        let mut accounts = HashMap::<Clave, TenantId>::new();
        let mut errors = Vec::new();
        // Who has an account already keeps it, whatever a new file's name sorts before.
        let mut known: Vec<_> = self.known.iter_mut().collect();
        known.sort_by_key(|(_, known)| match (&known.read.tenant, &known.good) {
            (Ok(now), Some(good)) => now.clave() != good.clave(),
            (Err(_), Some(_)) => false,
            (_, None) => true,
        });
        for (source, known) in known {
            let is_free = |tenant: &Tenant| {
                if served.contains_key(tenant.id()) {
                    return Err(format!(
                        "the tenant {} has a file and a directory; remove one",
                        tenant.id()
                    ));
                }
                match accounts.get(tenant.clave()) {
                    Some(other) => Err(format!(
                        "clave: names the same account as the tenant {other}; a change through one would not show through the other: keep one, with `users` for who is who"
                    )),
                    None => Ok(()),
                }
            };
            let read = known.read.tenant.clone().and_then(|tenant| {
                is_free(&tenant).map_err(|what| Mistake::of_file(source.path(), what))?;
                Ok(tenant)
            });
            let (tenant, mistakes) = match read {
                Ok(tenant) => (Some(tenant), None),
                Err(mistakes) => {
                    let good = known.good.take();
                    let good = good.filter(|good| is_free(good).is_ok());
                    (good, Some(mistakes))
                }
            };
            known.error = mistakes.map(|mistakes| {
                let error = TenantFileError {
                    path: source.path().to_owned(),
                    mistakes,
                    last_good_is_served: tenant.is_some(),
                };
                match known.error.take() {
                    // The same object, so that it isn't told again.
                    Some(told) if *told == error => told,
                    _ => Arc::new(error),
                }
            });
            errors.extend(known.error.clone());
            if let Some(tenant) = &tenant {
                accounts.insert(tenant.clave().clone(), tenant.id().clone());
                served.insert(tenant.id().clone(), tenant.clone());
            }
            known.good = tenant;
        }
        errors.sort_by(|a, b| a.path.cmp(&b.path));
        Tenants::new(served.into_values(), errors)
    }
}

impl Read {
    fn of(source: &Source, env: Environment, now: SystemTime) -> Self {
        let mut files = vec![source.path().to_owned()];
        let tenant = match source {
            Source::File(path) => file::read(path, source.name(), env, &mut files),
            Source::Directory(path) => mounted::read(path, source.name(), env, &mut files),
            Source::Misnamed(path) => {
                let renamed = "a tenant's file ends in .yaml; rename it, or remove it";
                Err(Mistake::of_file(path, renamed).into())
            }
        };
        let stamp = Stamp::of(&files, now);
        Self {
            files,
            stamp,
            tenant: tenant.map(Arc::new),
        }
    }
}
