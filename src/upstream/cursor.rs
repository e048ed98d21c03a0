//! Opaque cursors. Where the ERP pages by something else than `limit` and
//! `offset`, its link's parameters travel sealed: the caller can neither read them
//! nor make their own, and a cursor opens only under the credential that it was
//! made for, on every replica.

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, LessSafeKey, Nonce, UnboundKey},
    hmac,
};
use base64_simd::URL_SAFE_NO_PAD;

use crate::tenants::{Credential, Presented};

const NONCE_BYTES: usize = 12;
/// The longest cursor that is looked at, in characters.
const MAX_CURSOR_CHARS: usize = 4096;

/// Parameters of one of the ERP's links.
pub(super) type Parameters = Vec<(String, String)>;

/// Seals and opens the cursors of one credential.
pub struct CursorKey {
    seal: LessSafeKey,
    nonce: hmac::Key,
    aad: Vec<u8>,
}

/// A cursor that this gateway didn't make for this caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this gateway for this tenant and credential")]
pub struct InvalidCursor;

impl CursorKey {
    /// The key of a credential's cursors, derived from its secret so that replicas agree on it.
    #[must_use]
    pub fn of(credential: &Credential) -> Option<Self> {
        let Presented::ApiKey(secret) = credential.presented();
        #[expect(
            clippy::disallowed_methods,
            reason = "a key is derived from it, one way"
        )]
        let secret = hmac::Key::new(hmac::HMAC_SHA256, secret.expose().as_bytes());
        let derive = |label: &[u8]| hmac::sign(&secret, label);
        let seal = UnboundKey::new(&AES_256_GCM_SIV, derive(b"llavero cursor seal v1").as_ref());
        let id = credential.id();
        Some(Self {
            seal: LessSafeKey::new(seal.ok()?),
            nonce: hmac::Key::new(
                hmac::HMAC_SHA256,
                derive(b"llavero cursor nonce v1").as_ref(),
            ),
            aad: format!("{}\0{}", id.tenant(), id.name()).into_bytes(),
        })
    }

    /// The cursor for those parameters. Equal parameters give equal cursors, so that
    /// an unchanged page keeps its `ETag`.
    pub(super) fn seal(&self, parameters: &Parameters) -> Option<String> {
        let mut sealed = serde_json::to_vec(parameters).ok()?;
        let tag = hmac::sign(&self.nonce, &sealed);
        let nonce = &tag.as_ref()[..NONCE_BYTES];
        let unique = Nonce::try_assume_unique_for_key(nonce).ok()?;
        self.seal
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
        let mut bytes = URL_SAFE_NO_PAD
            .decode_to_vec(cursor.as_bytes())
            .map_err(|_| InvalidCursor)?;
        let (nonce, sealed) = bytes
            .split_at_mut_checked(NONCE_BYTES)
            .ok_or(InvalidCursor)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| InvalidCursor)?;
        let opened = self
            .seal
            .open_in_place(nonce, Aad::from(&self.aad), sealed)
            .map_err(|_| InvalidCursor)?;
        serde_json::from_slice(opened).map_err(|_| InvalidCursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(tenant: &str, name: &str, secret: &str) -> CursorKey {
        let tenant = tenant.parse().expect("an id");
        CursorKey::of(&Credential::api_key(tenant, name, secret.to_owned().into())).expect("a key")
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
}
