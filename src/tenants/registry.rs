//! All tenants of the gateway, read from `tenants_dir`.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::config::mistake::{Mistake, Mistakes};

use super::{Tenant, TenantId, file};

/// The tenants that can be served, and the files that can't. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Contents>);

#[derive(Debug, Default)]
struct Contents {
    tenants: HashMap<TenantId, Arc<Tenant>>,
    errors: Vec<TenantFileError>,
}

/// A tenant file that isn't served because of its mistakes.
#[derive(Debug)]
pub struct TenantFileError {
    /// The file.
    pub path: PathBuf,
    /// All that is wrong with it.
    pub mistakes: Mistakes,
}

impl Registry {
    /// Reads every `*.yaml` of the directory. A wrong file is kept as an error
    /// and takes nobody else down; so is a `*.yml`, which would be a second file for one tenant.
    ///
    /// # Errors
    /// The directory itself can't be read.
    pub fn load(dir: &Path, env: &dyn Fn(&str) -> Option<String>) -> io::Result<Self> {
        let mut paths = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            let hidden = path
                .file_name()
                .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            // A mounted ConfigMap's files are links: ask what they lead to.
            if !hidden
                && path
                    .extension()
                    .is_some_and(|ext| ext == "yaml" || ext == "yml")
                && path.is_file()
            {
                paths.push(path);
            }
        }
        paths.sort();
        let mut contents = Contents::default();
        let mut accounts = HashMap::new();
        for path in paths {
            let read = if path.extension().is_some_and(|ending| ending == "yml") {
                let renamed = "a tenant's file ends in .yaml; rename it, or remove it";
                Err(Mistakes::sorted(vec![Mistake::of_file(&path, renamed)]))
            } else {
                file::read(&path, env)
            };
            match read {
                Ok(tenant) if accounts.contains_key(tenant.clave()) => {
                    let other = accounts.get(tenant.clave()).map(ToString::to_string);
                    let what = format!(
                        "clave: names the same account as the tenant {}; a change through one would not show through the other: keep one, with `users` for who is who",
                        other.unwrap_or_default()
                    );
                    let mistakes = Mistakes::sorted(vec![Mistake::of_file(&path, what)]);
                    contents.errors.push(TenantFileError { path, mistakes });
                }
                Ok(tenant) => {
                    accounts.insert(tenant.clave().clone(), tenant.id().clone());
                    contents
                        .tenants
                        .insert(tenant.id().clone(), Arc::new(tenant));
                }
                Err(mistakes) => contents.errors.push(TenantFileError { path, mistakes }),
            }
        }
        Ok(Self(Arc::new(contents)))
    }

    /// A registry of tenants made in memory, for the demo.
    #[must_use]
    pub fn of(tenants: impl IntoIterator<Item = Tenant>) -> Self {
        let tenants = tenants
            .into_iter()
            .map(|tenant| (tenant.id().clone(), Arc::new(tenant)))
            .collect();
        Self(Arc::new(Contents {
            tenants,
            errors: Vec::new(),
        }))
    }

    /// The tenant of that id.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<&Arc<Tenant>> {
        self.0.tenants.get(id)
    }

    /// Every tenant that is served.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Tenant>> {
        self.0.tenants.values()
    }

    /// How many tenants are served.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.tenants.len()
    }

    /// Whether no tenant is served.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.tenants.is_empty()
    }

    /// The files that aren't served.
    #[must_use]
    pub fn errors(&self) -> &[TenantFileError] {
        &self.0.errors
    }
}
