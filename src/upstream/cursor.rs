//! Opaque cursors. Where the ERP pages by something else than `limit` and
//! `offset`, its link's parameters travel sealed: the caller can neither read them
//! nor make their own, and a cursor opens only under the credential that it was
//! made for, on every replica.

use std::num::NonZeroU32;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
    pbkdf2::{self, PBKDF2_HMAC_SHA256},
};
use base64_simd::URL_SAFE_NO_PAD;

use crate::{
    config::secret::Secret,
    tenants::{ApiKeys, CredentialId, Login},
};

const NONCE_BYTES: usize = 12;
/// The longest cursor that is looked at, in characters.
const MAX_CURSOR_CHARS: usize = 4096;
/// A cursor is a way to try passwords without asking the ERP: each try costs this much
/// (OWASP *Password Storage Cheat Sheet*, PBKDF2-HMAC-SHA256).
const PASSWORD_ITERATIONS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();

/// Parameters of one of the ERP's links.
type Parameters = Vec<(String, String)>;

/// Seals and opens the cursors of one credential.
pub struct CursorKey {
    seal: SealKey,
    /// Of the key that isn't active: its cursors go on.
    other: Option<SealKey>,
    aad: Vec<u8>,
}

struct SealKey {
    seal: LessSafeKey,
    nonce: hmac::Key,
}

/// What a credential's cursor key is derived from.
#[derive(Clone)]
pub(super) struct CursorSeed(hmac::Key);

/// A cursor that this gateway didn't make for this caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this gateway for this tenant and credential")]
pub struct InvalidCursor;

impl CursorSeed {
    /// A key is long and random already.
    #[expect(
        clippy::disallowed_methods,
        reason = "a key is derived from it, one way"
    )]
    fn of_key(key: &Secret) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes()))
    }

    /// A password may be guessed, so this takes its time: 60 ms to a fifth of a second.
    #[expect(
        clippy::disallowed_methods,
        reason = "a key is derived from it, one way"
    )]
    pub(super) fn of_login(id: &CredentialId, login: &Login) -> Self {
        let (tenant, name, username) = (id.tenant(), id.name(), login.username());
        let salt = format!("llavero cursor password v1\0{tenant}\0{name}\0{username}");
        let mut derived = [0; 32];
        pbkdf2::derive(
            PBKDF2_HMAC_SHA256,
            PASSWORD_ITERATIONS,
            salt.as_bytes(),
            login.password().expose().as_bytes(),
            &mut derived,
        );
        Self(hmac::Key::new(hmac::HMAC_SHA256, &derived))
    }

    fn seal_key(&self) -> Option<SealKey> {
        let derive = |label: &[u8]| hmac::sign(&self.0, label);
        let seal = UnboundKey::new(&AES_256_GCM_SIV, derive(b"llavero cursor seal v1").as_ref());
        let nonce = derive(b"llavero cursor nonce v1");
        Some(SealKey {
            seal: LessSafeKey::new(seal.ok()?),
            nonce: hmac::Key::new(hmac::HMAC_SHA256, nonce.as_ref()),
        })
    }
}

impl SealKey {
    fn open(&self, aad: &[u8], cursor: &[u8]) -> Option<Parameters> {
        let mut cursor = cursor.to_vec();
        let (nonce, sealed) = cursor.split_at_mut_checked(NONCE_BYTES)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let opened = self.seal.open_in_place(nonce, Aad::from(aad), sealed);
        serde_json::from_slice(opened.ok()?).ok()
    }
}

impl CursorKey {
    /// The key of a credential's cursors, derived from its keys so that replicas agree on it: the
    /// active one seals, and either opens. None where they give none.
    #[must_use]
    pub fn of_keys(id: &CredentialId, keys: &ApiKeys) -> Option<Self> {
        let active = keys.active().slot;
        let of = |slot| CursorSeed::of_key(keys.key(slot)?).seal_key();
        Some(Self {
            seal: of(active)?,
            other: of(active.other()),
            aad: aad(id),
        })
    }

    /// The same derived from a login's password.
    pub(super) fn of_seed(id: &CredentialId, seed: &CursorSeed) -> Option<Self> {
        Some(Self {
            seal: seed.seal_key()?,
            other: None,
            aad: aad(id),
        })
    }

    /// The cursor for those parameters; none where they are too long. Equal parameters give equal
    /// cursors, so that an unchanged page keeps its `ETag`.
    #[must_use]
    pub fn seal(&self, parameters: &[(String, String)]) -> Option<String> {
        let mut sealed = serde_json::to_vec(parameters).ok()?;
        let tag = hmac::sign(&self.seal.nonce, &sealed);
        let nonce = &tag.as_ref()[..NONCE_BYTES];
        let unique = Nonce::try_assume_unique_for_key(nonce).ok()?;
        self.seal
            .seal
            .seal_in_place_append_tag(unique, Aad::from(&self.aad), &mut sealed)
            .ok()?;
        let cursor = URL_SAFE_NO_PAD.encode_to_string([nonce, &sealed].concat());
        (cursor.len() <= MAX_CURSOR_CHARS).then_some(cursor)
    }

    /// The parameters that were sealed.
    ///
    /// # Errors
    /// Anything that `seal` didn't give for this credential.
    pub fn open(&self, cursor: &str) -> Result<Vec<(String, String)>, InvalidCursor> {
        if cursor.len() > MAX_CURSOR_CHARS {
            return Err(InvalidCursor);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode_to_vec(cursor.as_bytes())
            .map_err(|_| InvalidCursor)?;
        let mut keys = [Some(&self.seal), self.other.as_ref()]
            .into_iter()
            .flatten();
        keys.find_map(|key| key.open(&self.aad, &bytes))
            .ok_or(InvalidCursor)
    }
}

fn aad(id: &CredentialId) -> Vec<u8> {
    format!("{}\0{}", id.tenant(), id.name()).into_bytes()
}

#[cfg(test)]
mod tests {
    use crate::tenants::{Credential, LoginMode, Presented};

    use super::*;

    fn of_keys(credential: &Credential) -> CursorKey {
        let Presented::ApiKey(keys) = credential.presented() else {
            panic!("it has keys")
        };
        CursorKey::of_keys(credential.id(), keys).expect("a key")
    }

    fn key(tenant: &str, name: &str, secret: &str) -> CursorKey {
        let tenant = tenant.parse().expect("an id");
        of_keys(&Credential::api_key(tenant, name, secret.to_owned().into()))
    }

    fn page(number: u32) -> Parameters {
        vec![("page".to_owned(), number.to_string())]
    }

    #[test]
    fn a_cursor_opens_only_where_it_was_made_and_only_unchanged() {
        let ours = key("carper", "default", "k-1");
        let parameters = vec![("page".to_owned(), "2".to_owned())];
        let cursor = ours.seal(&parameters).expect("sealed");
        assert_eq!(
            ours.seal(&parameters).as_ref(),
            Some(&cursor),
            "equal pages, equal cursors"
        );
        assert_eq!(ours.open(&cursor), Ok(parameters));
        for other in [
            key("norte", "default", "k-1"),
            key("carper", "b", "k-1"),
            key("carper", "default", "k-2"),
        ] {
            assert_eq!(other.open(&cursor), Err(InvalidCursor));
        }
        for at in 0..cursor.len() {
            let mut forged = cursor.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("ASCII");
            assert_eq!(ours.open(&forged), Err(InvalidCursor));
        }
        assert_eq!(ours.open(""), Err(InvalidCursor));
    }
    #[test]
    fn a_rotating_pair_opens_with_both_and_seals_with_the_active_one() {
        let tenant = "carper".parse().expect("an id");
        let secret = |text: &str| Secret::from(text.to_owned());
        let pair = Credential::rotating(tenant, "default", secret("k-1"), secret("k-2"));
        let (first, second) = (
            key("carper", "default", "k-1"),
            key("carper", "default", "k-2"),
        );
        let by_first = of_keys(&pair).seal(&page(2)).expect("sealed");
        assert_eq!(first.open(&by_first), Ok(page(2)));
        assert_eq!(second.open(&by_first), Err(InvalidCursor));
        let Presented::ApiKey(keys) = pair.presented() else {
            panic!("it has keys")
        };
        assert!(keys.switch(keys.active()));
        let by_second = of_keys(&pair).seal(&page(3)).expect("sealed");
        assert_eq!(second.open(&by_second), Ok(page(3)));
        assert_eq!(of_keys(&pair).open(&by_first), Ok(page(2)));
    }

    #[test]
    fn a_logins_cursor_opens_for_that_user_and_password_only() {
        let key = |name: &str, username: &str, password: &str| {
            let tenant = "carper".parse().expect("an id");
            let login = Login::new(
                username.to_owned(),
                password.to_owned().into(),
                LoginMode::Jwt,
            );
            let credential = Credential::login(tenant, name, login);
            let Presented::Login(login) = credential.presented() else {
                panic!("it logs in")
            };
            let seed = CursorSeed::of_login(credential.id(), login);
            CursorKey::of_seed(credential.id(), &seed).expect("a key")
        };
        let cursor = key("a", "app", "p").seal(&page(2)).expect("sealed");
        assert_eq!(key("a", "app", "p").open(&cursor), Ok(page(2)));
        for other in [
            key("b", "app", "p"),
            key("a", "apq", "p"),
            key("a", "app", "q"),
        ] {
            assert_eq!(other.open(&cursor), Err(InvalidCursor));
        }
    }
}
