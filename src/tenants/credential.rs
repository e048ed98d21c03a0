//! What a tenant shows the ERP: keys, of which a second may be on its way in, or a login.

use std::{
    fmt,
    hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState},
    sync::{
        Arc, LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    config::secret::Secret,
    watchlist::{Watched, Watchlist},
};

use super::{Clave, TenantId};

/// Names one credential of one tenant; holds no secret, so it may stand in
/// cache keys, metrics and audit records.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CredentialId {
    tenant: TenantId,
    name: Arc<str>,
}

impl CredentialId {
    /// The tenant that it belongs to.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// Its name in the tenant's file.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }
}

/// One way to be somebody at the ERP. A key belongs to a user of the account, so
/// two credentials of a tenant can see different data.
pub struct Credential {
    id: CredentialId,
    presented: Presented,
    fingerprint: u64,
    watched: OnceLock<Vec<Watched>>,
}

/// Who sees an answer of the ERP: which credential, at which account, as whom it is there
/// right now. Two of them never share an answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Viewer {
    credential: CredentialId,
    clave: Clave,
    revision: u64,
}

impl Viewer {
    /// Whoever acts with that credential at that account now.
    #[must_use]
    pub fn new(clave: &Clave, credential: &Credential) -> Self {
        Self {
            credential: credential.id.clone(),
            clave: clave.clone(),
            revision: credential.revision(),
        }
    }

    /// The tenant whose account it is.
    #[must_use]
    pub fn tenant(&self) -> &TenantId {
        &self.credential.tenant
    }
}

/// What a credential is at the ERP.
pub enum Presented {
    /// The header `Api-key`.
    ApiKey(ApiKeys),
    /// Whatever a login gives.
    Login(Login),
}

/// The present key, and perhaps the one that is to follow it.
pub struct ApiKeys {
    present: Secret,
    next: Option<Secret>,
    /// How often the other key took over. Odd: the next one is active.
    switches: AtomicU64,
}

/// One of a credential's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeySlot {
    /// The first that the file names.
    Present,
    /// The second.
    Next,
}

/// Which key is active, as somebody saw it: a switch on that ground happens once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveKey {
    /// The key.
    pub slot: KeySlot,
    switches: u64,
}

/// A user's name and password.
pub struct Login {
    username: String,
    password: Secret,
    mode: LoginMode,
}

/// What a login gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoginMode {
    /// JWTs: one to be presented, one to refresh it with.
    Jwt,
    /// The user's Api-key.
    ApiKey,
}

/// Keyed by chance at the start, so that a fingerprint says nothing of its secret.
static FINGERPRINTS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

impl Credential {
    /// A credential that sends the header `Api-key`.
    #[must_use]
    pub fn api_key(tenant: TenantId, name: &str, key: Secret) -> Self {
        Self::of(tenant, name, Presented::ApiKey(ApiKeys::new(key, None)))
    }

    /// The same with the key that is to follow.
    #[must_use]
    pub fn rotating(tenant: TenantId, name: &str, present: Secret, next: Secret) -> Self {
        let keys = ApiKeys::new(present, Some(next));
        Self::of(tenant, name, Presented::ApiKey(keys))
    }

    /// A credential that logs in.
    #[must_use]
    pub fn login(tenant: TenantId, name: &str, login: Login) -> Self {
        Self::of(tenant, name, Presented::Login(login))
    }

    fn of(tenant: TenantId, name: &str, presented: Presented) -> Self {
        let mut hasher = FINGERPRINTS.build_hasher();
        presented.hash_source(&mut hasher);
        Self {
            id: CredentialId {
                tenant,
                name: name.into(),
            },
            fingerprint: hasher.finish(),
            watched: OnceLock::new(),
            presented,
        }
    }

    /// The same at that account: an equal key or user of another account is somebody else.
    #[must_use]
    pub fn at(mut self, clave: &Clave) -> Self {
        self.fingerprint = FINGERPRINTS.hash_one((self.fingerprint, clave));
        self
    }

    /// Whose it is and what it is called.
    #[must_use]
    pub fn id(&self) -> &CredentialId {
        &self.id
    }

    /// What it is at the ERP.
    #[must_use]
    pub fn presented(&self) -> &Presented {
        &self.presented
    }

    /// Has its keys looked for in what goes out, for as long as this lives. A password isn't
    /// one: it may be an ordinary word, and no answer of the ERP has it.
    pub fn watch(&self, watchlist: &Watchlist) {
        self.watched.get_or_init(|| match &self.presented {
            Presented::Login(_) => Vec::new(),
            Presented::ApiKey(keys) => [KeySlot::Present, KeySlot::Next]
                .into_iter()
                .filter_map(|slot| keys.key(slot))
                .map(|key| watchlist.watch_key(self.id.tenant.as_str(), key))
                .collect(),
        });
    }

    /// Stands for who it is at the ERP right now: another secret, user or active key has
    /// another. It says nothing of them and is good within this process only. A key that comes
    /// back after another was active has a new one, since answers may have been fetched with either.
    #[must_use]
    pub fn revision(&self) -> u64 {
        match &self.presented {
            Presented::Login(_) => self.fingerprint,
            Presented::ApiKey(keys) => match keys.active().switches {
                0 => self.fingerprint,
                switches => FINGERPRINTS.hash_one((self.fingerprint, switches)),
            },
        }
    }

    /// Stands for what its file says, whichever key is active; like [`Self::revision`] otherwise.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// Whether the other is the same credential with the same secrets, so that its session
    /// and its active key can go on.
    #[must_use]
    pub fn has_same_source(&self, other: &Self) -> bool {
        self.id == other.id && self.presented.has_same_source(&other.presented)
    }
}

impl Presented {
    #[expect(
        clippy::disallowed_methods,
        reason = "hashed one way, under a key of this process"
    )]
    fn hash_source(&self, hasher: &mut impl std::hash::Hasher) {
        match self {
            Self::ApiKey(keys) => {
                0_u8.hash(hasher);
                keys.present.expose().hash(hasher);
                keys.next.as_ref().map(Secret::expose).hash(hasher);
            }
            Self::Login(login) => {
                1_u8.hash(hasher);
                login.username.hash(hasher);
                login.password.expose().hash(hasher);
                login.mode.hash(hasher);
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "compared, and told nobody")]
    fn has_same_source(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::ApiKey(a), Self::ApiKey(b)) => {
                let same = |a: &Secret, b: &Secret| a.expose() == b.expose();
                same(&a.present, &b.present)
                    && match (&a.next, &b.next) {
                        (Some(a), Some(b)) => same(a, b),
                        (None, None) => true,
                        _ => false,
                    }
            }
            (Self::Login(a), Self::Login(b)) => {
                a.username == b.username
                    && a.mode == b.mode
                    && a.password.expose() == b.password.expose()
            }
            _ => false,
        }
    }
}

impl ApiKeys {
    fn new(present: Secret, next: Option<Secret>) -> Self {
        Self {
            present,
            next,
            switches: AtomicU64::new(0),
        }
    }

    /// Which key is presented now.
    #[must_use]
    pub fn active(&self) -> ActiveKey {
        let switches = self.switches.load(Ordering::Acquire);
        let slot = if switches.is_multiple_of(2) {
            KeySlot::Present
        } else {
            KeySlot::Next
        };
        ActiveKey { slot, switches }
    }

    /// The key of that place; none where the file names no second one.
    #[must_use]
    pub fn key(&self, slot: KeySlot) -> Option<&Secret> {
        match slot {
            KeySlot::Present => Some(&self.present),
            KeySlot::Next => self.next.as_ref(),
        }
    }

    /// Makes the other key the active one, unless that has happened since `seen`. Says whether it did.
    pub fn switch(&self, seen: ActiveKey) -> bool {
        self.next.is_some()
            && self
                .switches
                .compare_exchange(
                    seen.switches,
                    seen.switches + 1,
                    Ordering::AcqRel,
                    Ordering::Acquire,
                )
                .is_ok()
    }
}

impl KeySlot {
    /// The other one.
    #[must_use]
    pub const fn other(self) -> Self {
        match self {
            Self::Present => Self::Next,
            Self::Next => Self::Present,
        }
    }
}

impl Login {
    /// That user's login.
    #[must_use]
    pub fn new(username: String, password: Secret, mode: LoginMode) -> Self {
        Self {
            username,
            password,
            mode,
        }
    }

    /// The user's name at the ERP.
    #[must_use]
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The user's password.
    #[must_use]
    pub fn password(&self) -> &Secret {
        &self.password
    }

    /// What the login gives.
    #[must_use]
    pub fn mode(&self) -> LoginMode {
        self.mode
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credential").field(&self.id).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Secret {
        text.to_owned().into()
    }

    fn tenant() -> TenantId {
        "carper".parse().expect("an id")
    }

    fn rotating(present: &str, next: &str) -> Credential {
        Credential::rotating(tenant(), "default", secret(present), secret(next))
    }

    fn login(username: &str, password: &str, mode: LoginMode) -> Credential {
        let login = Login::new(username.to_owned(), secret(password), mode);
        Credential::login(tenant(), "default", login)
    }

    fn keys(credential: &Credential) -> &ApiKeys {
        match credential.presented() {
            Presented::ApiKey(keys) => keys,
            Presented::Login(_) => panic!("has keys"),
        }
    }

    #[test]
    fn whatever_decides_who_it_is_changes_revision_and_source() {
        let all = || {
            [
                Credential::api_key(tenant(), "default", secret("a")),
                Credential::api_key(tenant(), "default", secret("b")),
                rotating("a", "b"),
                rotating("b", "a"),
                login("a", "b", LoginMode::Jwt),
                login("a", "b", LoginMode::ApiKey),
                login("a", "c", LoginMode::Jwt),
                login("c", "b", LoginMode::Jwt),
                login("ab", "", LoginMode::Jwt),
            ]
        };
        for (at, one) in all().iter().enumerate() {
            for (other_at, other) in all().iter().enumerate() {
                let same = at == other_at;
                assert_eq!(one.has_same_source(other), same, "{at} {other_at}");
                assert_eq!(one.revision() == other.revision(), same);
            }
        }
        let elsewhere = Credential::api_key(tenant(), "other", secret("a"));
        assert!(!elsewhere.has_same_source(&all()[0]));
    }

    #[test]
    fn a_key_takes_over_once_and_never_meets_its_old_answers() {
        let credential = rotating("a", "b");
        let keys = keys(&credential);
        let (seen, first) = (keys.active(), credential.revision());
        assert_eq!(seen.slot, KeySlot::Present);
        assert!(keys.switch(seen));
        assert!(!keys.switch(seen), "it has happened");
        assert_eq!(keys.active().slot, KeySlot::Next);
        let second = credential.revision();
        assert!(keys.switch(keys.active()));
        assert_eq!(keys.active().slot, KeySlot::Present);
        let third = credential.revision();
        assert!(first != second && second != third && first != third);
        assert!(credential.has_same_source(&rotating("a", "b")));

        let single = Credential::api_key(tenant(), "default", secret("a"));
        let Presented::ApiKey(keys) = single.presented() else {
            panic!("has a key")
        };
        assert!(!keys.switch(keys.active()), "there is no other");
    }

    #[test]
    fn debug_shows_no_secret() {
        let shown = format!("{:?}", login("ana", "hunter2", LoginMode::Jwt));
        assert!(
            !shown.contains("hunter2") && !shown.contains("ana"),
            "{shown}"
        );
    }
}
