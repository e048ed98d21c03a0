//! What the ERP remembers: its tenants with their users, orders, images and tokens, and the journal.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use base64_simd::URL_SAFE_NO_PAD;
use bytes::Bytes;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::faults::ActiveFaults;
use crate::journal::Journal;
use crate::seed::{self, TenantSeed, TokenForm, UserChange, UserSeed};

/// A clock on the wall.
type WallClock = dyn Fn() -> SystemTime + Send + Sync;

/// The state behind every clone of a `Simulator`. Locks are held for a lookup or a change, never across an await.
#[derive(Default)]
pub(crate) struct Shared {
    tenants: Mutex<BTreeMap<String, Tenant>>,
    journal: Mutex<Journal>,
    /// What the ERP's clock shows, where it isn't the machine's.
    clock: OnceLock<Box<WallClock>>,
}

impl Shared {
    pub(crate) fn insert(&self, tenant: Tenant) {
        locked(&self.tenants).insert(tenant.clave.clone(), tenant);
    }

    /// What the ERP's clock shows.
    pub(crate) fn now(&self) -> OffsetDateTime {
        match self.clock.get() {
            Some(clock) => clock().into(),
            None => OffsetDateTime::now_utc(),
        }
    }

    /// False where it has one already.
    pub(crate) fn keep_time(&self, clock: Box<WallClock>) -> bool {
        self.clock.set(clock).is_ok()
    }

    pub(crate) fn knows(&self, clave: &str) -> bool {
        locked(&self.tenants).contains_key(clave)
    }

    /// What `f` makes of the tenant, or `None` where there is no such tenant.
    pub(crate) fn with<T>(&self, clave: &str, f: impl FnOnce(&mut Tenant) -> T) -> Option<T> {
        locked(&self.tenants).get_mut(clave).map(f)
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        locked(&self.journal)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One account of the ERP.
pub(crate) struct Tenant {
    pub(crate) clave: String,
    pub(crate) users: Vec<UserSeed>,
    pub(crate) ordenes: BTreeMap<u64, Value>,
    pub(crate) imagenes: Imagenes,
    pub(crate) tokens: Tokens,
    pub(crate) faults: ActiveFaults,
}

impl Tenant {
    pub(crate) fn planted(seed: TenantSeed) -> Self {
        let (ordenes, next_archivo) = seed::ordenes(&seed);
        Self {
            ordenes,
            imagenes: Imagenes::starting_at(next_archivo),
            tokens: Tokens::new(&seed),
            faults: ActiveFaults::default(),
            clave: seed.clave,
            users: seed.users,
        }
    }

    pub(crate) fn user(&self, username: &str) -> Option<&UserSeed> {
        self.users.iter().find(|user| user.username == username)
    }

    pub(crate) fn user_with_key(&self, api_key: &str) -> Option<&UserSeed> {
        self.users.iter().find(|user| user.api_key == api_key)
    }

    /// Says whether there is such a user.
    pub(crate) fn change_user(&mut self, username: &str, change: UserChange) -> bool {
        let Some(user) = self.users.iter_mut().find(|user| user.username == username) else {
            return false;
        };
        if let Some(password) = change.password {
            user.password = password;
        }
        if let Some(api_key) = change.api_key {
            user.api_key = api_key;
        }
        true
    }

    /// An order, if it exists and this user may see it. The ERP doesn't tell the two apart.
    pub(crate) fn visible_orden(&self, username: &str, id: u64) -> Option<&Value> {
        self.user(username)?
            .sees(id)
            .then(|| self.ordenes.get(&id))?
    }
}

/// The uploaded images of one tenant, the newest 256 MiB of them.
pub(crate) struct Imagenes {
    next_id: u64,
    bytes: usize,
    kept: BTreeMap<u64, Bytes>,
}

impl Imagenes {
    const MAX_BYTES: usize = 256 << 20;

    fn starting_at(next_id: u64) -> Self {
        Self {
            next_id,
            bytes: 0,
            kept: BTreeMap::new(),
        }
    }

    pub(crate) fn get(&self, archivo_id: u64) -> Option<Bytes> {
        self.kept.get(&archivo_id).cloned()
    }

    /// Keeps an image and gives it an id.
    pub(crate) fn keep(&mut self, imagen: Bytes) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.bytes += imagen.len();
        self.kept.insert(id, imagen);
        while self.bytes > Self::MAX_BYTES {
            let Some((_, oldest)) = self.kept.pop_first() else {
                break;
            };
            self.bytes -= oldest.len();
        }
        id
    }
}

/// The bearer tokens that one tenant has given out.
pub(crate) struct Tokens {
    access_lifetime: Duration,
    refresh_lifetime: Duration,
    form: TokenForm,
    rotate_refresh: bool,
    issued: u64,
    random: RandomState,
    live: HashMap<String, Token>,
}

struct Token {
    kind: TokenKind,
    username: String,
    expires: Instant,
}

/// What a token is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// For requests.
    Access,
    /// For another access token.
    Refresh,
}

impl Tokens {
    fn new(seed: &TenantSeed) -> Self {
        Self {
            access_lifetime: Duration::from_secs(seed.access_seconds),
            refresh_lifetime: Duration::from_secs(seed.refresh_seconds),
            form: seed.token_form,
            rotate_refresh: seed.rotate_refresh,
            issued: 0,
            random: RandomState::new(),
            live: HashMap::new(),
        }
    }

    pub(crate) fn issue(&mut self, kind: TokenKind, username: &str) -> String {
        let now = Instant::now();
        self.live.retain(|_, token| token.expires > now);
        let lifetime = match kind {
            TokenKind::Access => self.access_lifetime,
            TokenKind::Refresh => self.refresh_lifetime,
        };
        self.issued += 1;
        let secret = format!(
            "{:016x}{:016x}",
            self.random.hash_one((self.issued, 0)),
            self.random.hash_one((self.issued, 1))
        );
        let text = match self.form {
            TokenForm::Opaque => secret,
            TokenForm::Jwt => jwt(kind, lifetime, username, &secret),
        };
        let token = Token {
            kind,
            username: username.to_owned(),
            expires: now + lifetime,
        };
        self.live.insert(text.clone(), token);
        text
    }

    /// A new access token for a refresh token, and a new refresh token in its place where they rotate.
    pub(crate) fn refresh(&mut self, refresh: &str) -> Option<(String, Option<String>)> {
        let username = self.owner(TokenKind::Refresh, refresh)?.to_owned();
        let access = self.issue(TokenKind::Access, &username);
        let next = self.rotate_refresh.then(|| {
            self.live.remove(refresh);
            self.issue(TokenKind::Refresh, &username)
        });
        Some((access, next))
    }

    /// From now on no token of that kind that was given out is good; of both, if none is said.
    pub(crate) fn revoke(&mut self, kind: Option<TokenKind>) {
        self.live
            .retain(|_, token| kind.is_some_and(|kind| token.kind != kind));
    }

    /// Whose token this is, if it is of this kind and hasn't expired.
    pub(crate) fn owner(&self, kind: TokenKind, text: &str) -> Option<&str> {
        self.live
            .get(text)
            .filter(|token| token.kind == kind && token.expires > Instant::now())
            .map(|token| token.username.as_str())
    }
}

/// A token that reads like the vendor's. The signature is random: only the one who issued it looks at it.
fn jwt(kind: TokenKind, lifetime: Duration, username: &str, secret: &str) -> String {
    let now = OffsetDateTime::now_utc().unix_timestamp().cast_unsigned();
    let header = json!({"alg": "HS256", "typ": "JWT"});
    let payload = json!({
        "token_type": match kind {
            TokenKind::Access => "access",
            TokenKind::Refresh => "refresh",
        },
        "exp": now + lifetime.as_secs(),
        "iat": now,
        "jti": secret,
        "username": username,
    });
    let part = |value: Value| URL_SAFE_NO_PAD.encode_to_string(value.to_string());
    let signature = URL_SAFE_NO_PAD.encode_to_string(secret);
    format!("{}.{}.{signature}", part(header), part(payload))
}
