//! The secrets that must never stand in an answer, and the search for them: as they are, and
//! as base64, JSON and addresses would write them. Keys come and go while others search.
//!
//! Every form begins with eight bytes that a small table of bits knows, so that the search is
//! one look for each byte of an answer, whether there are ten keys or a hundred thousand.
//! Only where the table says perhaps are the forms themselves compared.

mod escapes;
mod forms;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{clock::Clock, config::secret::Secret};

/// What every form begins with is this long; a shorter secret would be found in innocent
/// text, and isn't looked for.
const BEGINNING: usize = 8;
/// A key of this length is looked for in everybody's answers. A shorter one may be a word that
/// others' answers have, and is looked for in its own tenant's.
const FOR_EVERYBODY: usize = 16;
/// A secret that isn't used any more is looked for so much longer: answers that were asked for
/// with it may still come, and the ERP may still take it.
const RETIRES_IN: Duration = Duration::from_secs(15 * 60);
/// 2^20 bits: 128 KiB, which a processor keeps near.
const TABLE_BITS: u32 = 20;
/// An odd number without pattern (2^64 divided by the golden ratio).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// The secrets that are looked for. Cheap to clone.
#[derive(Clone)]
pub struct Watchlist(Arc<Parts>);

struct Parts {
    table: Box<[AtomicU64]>,
    needles: RwLock<Needles>,
    /// Counts the secrets that came in.
    version: AtomicU64,
    longest: AtomicUsize,
    clock: Clock,
}

#[derive(Default)]
struct Needles {
    /// By their beginnings.
    by_beginning: HashMap<u64, Vec<Needle>>,
    /// How many beginnings share a bit of the table.
    bits: HashMap<u32, usize>,
    /// Those that are looked for until that moment only.
    retiring: VecDeque<(Instant, Forms)>,
}

/// A form, and how many secrets have it.
struct Needle {
    form: Arc<[u8]>,
    /// The only tenant in whose answers it is looked for.
    owner: Option<Arc<str>>,
    holders: usize,
}

impl Needle {
    fn is(&self, form: &[u8], owner: Option<&Arc<str>>) -> bool {
        *self.form == *form && self.owner.as_ref() == owner
    }
}

/// How one secret may stand in an answer, and in whose.
struct Forms {
    forms: Vec<Arc<[u8]>>,
    owner: Option<Arc<str>>,
}

/// A secret that is looked for until some time after this is dropped.
#[must_use]
pub struct Watched {
    list: Watchlist,
    forms: Option<Forms>,
}

impl Watchlist {
    /// A list of no secrets.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let words = (1_usize << TABLE_BITS) / 64;
        Self(Arc::new(Parts {
            table: (0..words).map(|_| AtomicU64::new(0)).collect(),
            needles: RwLock::default(),
            version: AtomicU64::new(0),
            longest: AtomicUsize::new(0),
            clock,
        }))
    }

    /// Looks from now on for a tenant's key, which somebody chose who is trusted: in everybody's
    /// answers.
    pub fn watch_key(&self, tenant: &str, key: &Secret) -> Watched {
        #[expect(clippy::disallowed_methods, reason = "only how long it is")]
        let is_for_everybody = key.expose().len() >= FOR_EVERYBODY;
        self.watch(key, (!is_for_everybody).then(|| tenant.into()))
    }

    /// Looks from now on for what a tenant's ERP gave: in its own answers. Whatever a broken ERP
    /// calls a session may be in others' by right.
    pub fn watch_session(&self, tenant: &str, secret: &Secret) -> Watched {
        self.watch(secret, Some(tenant.into()))
    }

    fn watch(&self, secret: &Secret, owner: Option<Arc<str>>) -> Watched {
        #[expect(
            clippy::disallowed_methods,
            reason = "its forms are kept to be found, and shown to nobody"
        )]
        let forms = forms::of(secret.expose().as_bytes());
        let forms: Vec<Arc<[u8]>> = forms
            .into_iter()
            .filter(|form| form.len() >= BEGINNING)
            .map(Arc::from)
            .collect();
        let mut needles = self.write();
        self.retire(&mut needles);
        for form in &forms {
            let beginning = beginning_of(form);
            let alike = needles.by_beginning.entry(beginning).or_default();
            let known = alike
                .iter_mut()
                .find(|needle| needle.is(form, owner.as_ref()));
            match known {
                Some(needle) => needle.holders += 1,
                None => {
                    let is_first = alike.is_empty();
                    alike.push(Needle {
                        form: form.clone(),
                        owner: owner.clone(),
                        holders: 1,
                    });
                    if is_first {
                        *needles.bits.entry(place_of(beginning)).or_default() += 1;
                        self.0.set(place_of(beginning), true);
                    }
                }
            }
            self.0.longest.fetch_max(form.len(), Ordering::AcqRel);
        }
        drop(needles);
        self.0.version.fetch_add(1, Ordering::AcqRel);
        Watched {
            list: self.clone(),
            forms: Some(Forms { forms, owner }),
        }
    }

    /// Whether a secret stands in those bytes, in any form, that are meant for a caller of that
    /// tenant; none where it is nobody's.
    #[must_use]
    pub fn finds_in(&self, bytes: &[u8], tenant: Option<&str>) -> bool {
        self.finds_as_it_is(bytes, tenant)
            || escapes::written_out(bytes).is_some_and(|text| self.finds_as_it_is(&text, tenant))
    }

    fn finds_as_it_is(&self, bytes: &[u8], tenant: Option<&str>) -> bool {
        bytes
            .windows(BEGINNING)
            .enumerate()
            .any(|(at, window)| self.0.may_begin(window) && self.begins(&bytes[at..], tenant))
    }

    /// Another number for every secret that comes in: what was searched at that number
    /// needn't be searched again.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Acquire)
    }

    /// The length of the longest form, in bytes: so much may still be part of one that goes on
    /// in the next piece.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.0.longest.load(Ordering::Acquire)
    }

    fn begins(&self, bytes: &[u8], tenant: Option<&str>) -> bool {
        let needles = self.read();
        let is_meant = |needle: &Needle| {
            let owner = needle.owner.as_deref();
            owner.is_none() || owner == tenant
        };
        needles
            .by_beginning
            .get(&beginning_of(bytes))
            .is_some_and(|alike| {
                alike
                    .iter()
                    .any(|needle| is_meant(needle) && bytes.starts_with(&needle.form))
            })
    }

    /// Takes out what has been retired for long enough.
    fn retire(&self, needles: &mut Needles) {
        let now = self.0.clock.instant();
        while let Some((until, _)) = needles.retiring.front()
            && *until <= now
        {
            if let Some((_, forms)) = needles.retiring.pop_front() {
                self.take_out(needles, &forms);
            }
        }
    }

    fn take_out(&self, needles: &mut Needles, gone: &Forms) {
        for form in &gone.forms {
            let beginning = beginning_of(form);
            let Some(alike) = needles.by_beginning.get_mut(&beginning) else {
                continue;
            };
            if let Some(at) = alike
                .iter()
                .position(|needle| needle.is(form, gone.owner.as_ref()))
            {
                alike[at].holders -= 1;
                if alike[at].holders == 0 {
                    alike.swap_remove(at);
                }
            }
            if !alike.is_empty() {
                continue;
            }
            needles.by_beginning.remove(&beginning);
            let place = place_of(beginning);
            if let Some(sharing) = needles.bits.get_mut(&place) {
                *sharing -= 1;
                if *sharing == 0 {
                    needles.bits.remove(&place);
                    self.0.set(place, false);
                }
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Needles> {
        let needles = self.0.needles.read();
        needles.unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Needles> {
        let needles = self.0.needles.write();
        needles.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let Some(forms) = self.forms.take() else {
            return;
        };
        let until = self.list.0.clock.instant() + RETIRES_IN;
        let mut needles = self.list.write();
        needles.retiring.push_back((until, forms));
        self.list.retire(&mut needles);
    }
}

impl Parts {
    fn may_begin(&self, window: &[u8]) -> bool {
        let (word, bit) = word_and_bit(place_of(beginning_of(window)));
        self.table[word].load(Ordering::Relaxed) & bit != 0
    }

    /// Only under the lock of the needles.
    fn set(&self, place: u32, on: bool) {
        let (word, bit) = word_and_bit(place);
        if on {
            self.table[word].fetch_or(bit, Ordering::Release);
        } else {
            self.table[word].fetch_and(!bit, Ordering::Release);
        }
    }
}

/// The first bytes as a number.
fn beginning_of(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk::<BEGINNING>()
        .map_or(0, |beginning| u64::from_le_bytes(*beginning))
}

fn place_of(beginning: u64) -> u32 {
    (beginning.wrapping_mul(SPREAD) >> (u64::BITS - TABLE_BITS)) as u32
}

fn word_and_bit(place: u32) -> (usize, u64) {
    ((place / 64) as usize, 1 << (place % 64))
}

impl fmt::Debug for Watchlist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watchlist")
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watched")
    }
}

#[cfg(test)]
mod tests {
    use base64_simd::{STANDARD, URL_SAFE_NO_PAD};

    use super::*;

    fn secret(text: &str) -> Secret {
        text.to_owned().into()
    }

    #[test]
    fn a_key_is_found_in_every_form_at_every_place() {
        let list = Watchlist::new(Clock::manual());
        let key = r#"4f1c"b\9e/+=%&2d70a6"#;
        let _watched = list.watch_key("t", &secret(key));
        let json = serde_json::to_string(key).expect("JSON");
        let address: String = url::form_urlencoded::byte_serialize(key.as_bytes()).collect();
        for form in [
            key,
            json.trim_matches('"'),
            &address,
            &address.to_lowercase(),
        ] {
            for before in 0..20 {
                let text = format!("{}{form}{}", "x".repeat(before), "y".repeat(20 - before));
                assert!(list.finds_in(text.as_bytes(), None), "{text}");
            }
        }
        for before in 0..9 {
            let text = format!("{}{key}{}", "x".repeat(before), "y".repeat(9));
            for encoded in [
                STANDARD.encode_to_string(&text),
                URL_SAFE_NO_PAD.encode_to_string(&text),
            ] {
                assert!(list.finds_in(encoded.as_bytes(), None), "{encoded}");
            }
        }
        assert!(!list.finds_in(&key.as_bytes()[1..], None));
        assert!(!list.finds_in(&key.as_bytes()[..key.len() - 1], None));
        assert!(!list.finds_in(b"", None));
    }

    #[test]
    fn a_key_is_looked_for_as_long_as_somebody_holds_it() {
        let clock = Clock::manual();
        let list = Watchlist::new(clock.clone());
        let forget = || {
            clock.advance(RETIRES_IN);
            drop(list.watch_key("t", &secret("")));
        };
        let (text, key) = (b"{\"a\":\"0123456789abcdef\"}", secret("0123456789abcdef"));
        let (first, second) = (list.watch_key("t", &key), list.watch_key("t", &key));
        let other = list.watch_key("t", &secret("01234567-and-others"));
        let version = list.version();
        drop(first);
        forget();
        assert!(list.finds_in(text, None));
        drop(second);
        assert!(
            list.finds_in(text, None),
            "answers may still be on their way"
        );
        forget();
        assert!(!list.finds_in(text, None));
        assert!(list.finds_in(b"01234567-and-others", None));
        drop(other);
        forget();
        assert!(!list.finds_in(b"01234567-and-others", None));
        assert!(
            list.0
                .table
                .iter()
                .all(|word| word.load(Ordering::Relaxed) == 0)
        );
        let _again = list.watch_key("t", &key);
        assert!(list.finds_in(text, None) && list.version() != version);
    }

    #[test]
    fn what_an_erp_calls_a_session_is_looked_for_in_its_tenants_answers_only() {
        let list = Watchlist::new(Clock::manual());
        let _session = list.watch_session("mal", &secret("application/json"));
        let _short = list.watch_key("mal", &secret("descripcion"));
        for text in [&b"application/json"[..], b"{\"descripcion\": 1}"] {
            assert!(list.finds_in(text, Some("mal")));
            assert!(!list.finds_in(text, Some("carper")) && !list.finds_in(text, None));
        }
    }

    #[test]
    fn a_key_is_found_however_its_json_is_escaped() {
        let list = Watchlist::new(Clock::manual());
        let key = "sEcReT/0123+4567==";
        let _watched = list.watch_key("t", &secret(key));
        let all: String = key.bytes().map(|byte| format!("\\u{byte:04x}")).collect();
        let hex: String = key.bytes().map(|byte| format!("{byte:02X}")).collect();
        let mime = STANDARD.encode_to_string(key);
        let (first, second) = mime.split_at(9);
        for text in [
            key.replace('=', "\\u003d"),
            key.replace('+', "\\u002B").replace('/', "\\/"),
            all,
            hex,
            format!("{first}\\r\\n{second}"),
            "sEcReT/0123%2B4567%3D%3D".to_owned(),
        ] {
            assert!(
                list.finds_in(format!("{{\"a\":\"{text}\"}}").as_bytes(), None),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_too_short_to_mean_anything_is_not_looked_for() {
        let list = Watchlist::new(Clock::manual());
        let _watched = list.watch_key("t", &secret("orden"));
        assert!(!list.finds_in(b"{\"orden\": 7, \"ordenes\": []}", Some("t")));
    }

    #[test]
    fn many_keys_are_found_and_nothing_else() {
        let list = Watchlist::new(Clock::manual());
        let keys: Vec<_> = (0..5_000_u32)
            .map(|at| format!("{:08x}{at:08x}", at.wrapping_mul(0x9E37_79B9)))
            .collect();
        let watched: Vec<_> = keys
            .iter()
            .map(|key| list.watch_key("t", &secret(key)))
            .collect();
        for key in &keys {
            assert!(list.finds_in(format!("<{key}>").as_bytes(), None));
            assert!(!list.finds_in(format!("<{}>", &key[..15]).as_bytes(), None));
        }
        drop(watched);
        list.0.clock.advance(RETIRES_IN);
        drop(list.watch_key("t", &secret("")));
        assert!(!list.finds_in(keys.concat().as_bytes(), None));
    }
}
