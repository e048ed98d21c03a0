//! Sessions: what a login gave, shared by all requests with its credential. This file
//! decides who logs in, who waits, and for how long a refusal is believed; it sends nothing.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{OnceCell, watch};

use crate::{
    clock::Clock,
    config::secret::Secret,
    tenants::{Credential, CredentialId, LoginMode, Presented, TenantId},
    watchlist::{Watched, Watchlist},
};

use super::{Failure, cursor::CursorSeed};

/// How long a refused login isn't tried again; doubled with each refusal in a row. An account
/// that sees more wrong passwords than this may be locked.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(15 * 60);
/// How long a 401 isn't answered with another login after one was. Where nothing has been accepted
/// since, it is as long as for a refused login.
const RELOGIN_PAUSE: Duration = Duration::from_secs(10);
/// A session is refreshed when so much of its life is left, or a fifth if that is more.
const REFRESH_AHEAD: Duration = Duration::from_secs(30);
/// A refresh ahead that failed isn't tried again sooner.
const REFRESH_AGAIN: Duration = Duration::from_secs(10);

/// Every login credential's session.
pub(super) struct Sessions {
    slots: Mutex<HashMap<(CredentialId, u64), Owned>>,
    clock: Clock,
    watchlist: Watchlist,
}

/// A slot, and a look at whether its credential is still somebody's.
struct Owned {
    credential: Weak<Credential>,
    slot: Arc<Slot>,
}

/// One credential's place for a session.
pub(super) struct Slot {
    state: Mutex<State>,
    clock: Clock,
    watchlist: Watchlist,
    tenant: TenantId,
    /// What its cursors' key comes from: dear to derive, so it is derived once.
    cursor_seed: OnceCell<CursorSeed>,
}

#[derive(Default)]
struct State {
    session: Option<Arc<Session>>,
    /// Sessions so far.
    generation: u64,
    under_way: Option<Pending>,
    /// Logins that failed so far, and how the last one did: who asked before it shares it.
    failures: u64,
    last_failure: Option<Failure>,
    refusal: Option<Refusal>,
    /// Logins because of a 401 since a session was last accepted.
    relogins: u32,
    no_relogin_before: Option<Instant>,
    no_refresh_before: Option<Instant>,
}

/// The ERP refuses the login.
struct Refusal {
    status: u16,
    in_a_row: u32,
    until: Instant,
}

/// What a login gave.
pub(super) struct Session {
    granted: Granted,
    generation: u64,
    /// The ERP has accepted it.
    is_proved: AtomicBool,
    _watched: Vec<Watched>,
}

/// What the ERP gave for a login or a refresh.
pub(super) struct Granted {
    /// What is presented.
    pub(super) secret: Secret,
    /// As what.
    pub(super) mode: LoginMode,
    /// For the next one.
    pub(super) refresh: Option<Secret>,
    /// When it was asked for, and how long it lives from then on; none: until it is refused.
    pub(super) asked_at: Instant,
    /// Its life.
    pub(super) life: Option<Duration>,
}

type Outcome = Result<Arc<Session>, Failure>;

/// A login that is under way.
#[derive(Clone)]
pub(super) struct Pending(watch::Receiver<Option<Outcome>>);

/// What whoever needs a session gets.
pub(super) enum Asked {
    /// One to present; `is_due` where whoever asks should see to its refresh.
    Have {
        /// The session.
        session: Arc<Session>,
        /// Told once in a while.
        is_due: bool,
    },
    /// Somebody is at it.
    Wait(Pending),
    /// Whoever asks is to do it.
    Begin(Errand),
    /// There is none, and another try now would be one too many.
    Failed(Failure),
}

/// The duty to log in or refresh. Dropped without an outcome, whoever asks next has it.
pub(super) struct Errand {
    slot: Arc<Slot>,
    outcome: watch::Sender<Option<Outcome>>,
    refresh: Option<Secret>,
}

impl Sessions {
    /// What logins give is looked for on `watchlist`, for as long as it is used.
    pub(super) fn new(clock: Clock, watchlist: Watchlist) -> Self {
        Self {
            slots: Mutex::default(),
            clock,
            watchlist,
        }
    }

    /// The place of that credential's session; none where it needs none.
    pub(super) fn of(&self, credential: &Arc<Credential>) -> Option<Arc<Slot>> {
        if matches!(credential.presented(), Presented::ApiKey(_)) {
            return None;
        }
        let mut slots = lock(&self.slots);
        let key = (credential.id().clone(), credential.fingerprint());
        if let Some(owned) = slots.get_mut(&key) {
            if owned.credential.strong_count() == 0 {
                owned.credential = Arc::downgrade(credential);
            }
            return Some(owned.slot.clone());
        }
        slots.retain(|_, owned| owned.credential.strong_count() > 0);
        let slot = Arc::new(Slot {
            state: Mutex::default(),
            clock: self.clock.clone(),
            watchlist: self.watchlist.clone(),
            tenant: credential.id().tenant().clone(),
            cursor_seed: OnceCell::new(),
        });
        let owned = Owned {
            credential: Arc::downgrade(credential),
            slot: slot.clone(),
        };
        slots.insert(key, owned);
        Some(slot)
    }

    /// Drops a tenant's sessions.
    pub(super) fn forget(&self, tenant: &TenantId) {
        lock(&self.slots).retain(|(id, _), _| id.tenant() != tenant);
    }
}

impl Slot {
    /// Logins that failed so far. Whoever remembers it before waiting for a turn shares the
    /// failure of a login that ends meanwhile, instead of trying again at once.
    pub(super) fn failures(&self) -> u64 {
        lock(&self.state).failures
    }

    /// The status of the refusal that is believed now, where there is no session to do without a login.
    pub(super) fn refusal(&self) -> Option<u16> {
        let (state, now) = (lock(&self.state), self.clock.instant());
        match &state.session {
            Some(session) if session.is_usable(now) => None,
            _ => state.refusal(now),
        }
    }

    /// Asks for a session; `seen` is what [`Self::failures`] was.
    pub(super) fn ask(self: &Arc<Self>, seen: u64) -> Asked {
        let mut state = lock(&self.state);
        let now = self.clock.instant();
        if let Some(session) = state.session.clone()
            && session.is_usable(now)
        {
            let is_due = session.is_due(now) && state.no_refresh_before.is_none_or(|at| at <= now);
            if is_due {
                state.no_refresh_before = Some(now + REFRESH_AGAIN);
            }
            return Asked::Have { session, is_due };
        }
        if let Some(pending) = state.pending() {
            return Asked::Wait(pending);
        }
        if let (true, Some(failure)) = (state.failures > seen, &state.last_failure) {
            return Asked::Failed(failure.clone());
        }
        if let Some(status) = state.refusal(now) {
            return Asked::Failed(Failure::CredentialRejected(status));
        }
        Asked::Begin(self.begin(&mut state))
    }

    /// The duty to refresh that session, unless it was done or begun meanwhile.
    pub(super) fn begin_ahead(self: &Arc<Self>, session: &Session) -> Option<Errand> {
        let mut state = lock(&self.state);
        let is_current = state.is_current(session) && state.pending().is_none();
        is_current.then(|| self.begin(&mut state))
    }

    fn begin(self: &Arc<Self>, state: &mut State) -> Errand {
        let (outcome, pending) = watch::channel(None);
        state.under_way = Some(Pending(pending));
        let refresh = state.session.as_ref();
        Errand {
            slot: self.clone(),
            outcome,
            refresh: refresh.and_then(|session| session.granted.refresh.clone()),
        }
    }

    /// The ERP accepted a request with it.
    pub(super) fn prove(&self, session: &Session) {
        if session.is_proved.swap(true, Ordering::AcqRel) {
            return;
        }
        let mut state = lock(&self.state);
        if state.is_current(session) {
            state.relogins = 0;
        }
    }

    /// The ERP answered 401 to a request with it. Says whether the request may be sent again,
    /// with the session that [`Self::ask`] gives then.
    pub(super) fn refuse(&self, session: &Session) -> bool {
        let mut state = lock(&self.state);
        let now = self.clock.instant();
        if !state.is_current(session) {
            // Another is there or on its way.
            return true;
        }
        if state.no_relogin_before.is_some_and(|at| now < at) {
            // A login just for this didn't help. It stays, since others may be served with it.
            return false;
        }
        let pause = match state.relogins {
            0 => RELOGIN_PAUSE,
            in_a_row => pause(in_a_row),
        };
        state.session = None;
        state.relogins += 1;
        state.no_relogin_before = Some(now + pause);
        true
    }

    /// What the cursors' key comes from, derived by `derive` the first time.
    pub(super) async fn cursor_seed<F>(&self, derive: impl FnOnce() -> F) -> Option<CursorSeed>
    where
        F: Future<Output = Option<CursorSeed>>,
    {
        let derived = async { derive().await.ok_or(()) };
        self.cursor_seed
            .get_or_try_init(|| derived)
            .await
            .ok()
            .cloned()
    }
}

impl State {
    fn pending(&self) -> Option<Pending> {
        let pending = self.under_way.as_ref()?;
        // Closed without an outcome: it was torn down.
        let is_alive = pending.0.has_changed().is_ok();
        is_alive.then(|| pending.clone())
    }

    fn refusal(&self, now: Instant) -> Option<u16> {
        let refusal = self.refusal.as_ref().filter(|it| now < it.until)?;
        Some(refusal.status)
    }

    fn refused(&mut self, now: Instant, status: u16) {
        let in_a_row = self.refusal.as_ref().map_or(0, |it| it.in_a_row) + 1;
        self.refusal = Some(Refusal {
            status,
            in_a_row,
            until: now + pause(in_a_row),
        });
    }

    fn is_current(&self, session: &Session) -> bool {
        let current = self.session.as_ref();
        current.is_some_and(|current| current.generation == session.generation)
    }
}

/// The status of an answer that took the password and gave no session: asked again at once it
/// would say the same, and count as another wrong password. An outage is the breaker's business.
fn denied_with(failure: &Failure) -> Option<u16> {
    match failure {
        Failure::CredentialRejected(status) => Some(*status),
        Failure::Login(failure) => denied_with(failure),
        Failure::Status(status) if *status < 500 => Some(*status),
        Failure::LoginUnreadable | Failure::Oversized { .. } => Some(200),
        _ => None,
    }
}

/// How long to do without another login after so many in vain.
fn pause(in_a_row: u32) -> Duration {
    let pause = FIRST_PAUSE.saturating_mul(1 << in_a_row.saturating_sub(1).min(10));
    pause.min(LONGEST_PAUSE)
}

impl Session {
    /// What is presented.
    pub(super) fn secret(&self) -> &Secret {
        &self.granted.secret
    }

    /// As what.
    pub(super) fn mode(&self) -> LoginMode {
        self.granted.mode
    }

    fn is_usable(&self, now: Instant) -> bool {
        self.granted.ends().is_none_or(|end| now < end)
    }

    fn is_due(&self, now: Instant) -> bool {
        let Granted { life, .. } = self.granted;
        match (self.granted.ends(), life) {
            (Some(end), Some(life)) => {
                // Of a short life, not more than half.
                let ahead = REFRESH_AHEAD.max(life / 5).min(life / 2);
                now + ahead >= end
            }
            _ => false,
        }
    }
}

impl Granted {
    fn ends(&self) -> Option<Instant> {
        Some(self.asked_at + self.life?)
    }
}

impl Pending {
    /// The login's outcome; none where it was torn down without one.
    pub(super) async fn outcome(mut self) -> Option<Outcome> {
        let outcome = self.0.wait_for(Option::is_some).await.ok()?;
        outcome.clone()
    }
}

impl Errand {
    /// Where its outcome will be.
    pub(super) fn pending(&self) -> Pending {
        Pending(self.outcome.subscribe())
    }

    /// What may be refreshed instead of a login.
    pub(super) fn refresh(&self) -> Option<&Secret> {
        self.refresh.as_ref()
    }

    /// Tells everybody who waits, and keeps it for those who come.
    pub(super) fn end(self, granted: Result<Granted, Failure>) -> Outcome {
        let mut state = lock(&self.slot.state);
        state.under_way = None;
        let outcome = match granted {
            Ok(granted) => {
                state.generation += 1;
                let secrets = [Some(&granted.secret), granted.refresh.as_ref()];
                let tenant = self.slot.tenant.as_str();
                let watch = |secret| self.slot.watchlist.watch_session(tenant, secret);
                let watched = secrets.into_iter().flatten().map(watch).collect();
                let session = Arc::new(Session {
                    granted,
                    generation: state.generation,
                    is_proved: AtomicBool::new(false),
                    _watched: watched,
                });
                state.session = Some(session.clone());
                state.no_refresh_before = None;
                state.refusal = None;
                Ok(session)
            }
            Err(failure) => {
                if let Some(status) = denied_with(&failure) {
                    state.refused(self.slot.clock.instant(), status);
                }
                state.failures += 1;
                state.last_failure = Some(failure.clone());
                Err(failure)
            }
        };
        self.outcome.send_replace(Some(outcome.clone()));
        outcome
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use crate::tenants::Login;

    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn credential(password: &str) -> Arc<Credential> {
        let tenant = "carper".parse().expect("an id");
        let login = Login::new("app".to_owned(), password.to_owned().into(), LoginMode::Jwt);
        Arc::new(Credential::login(tenant, "default", login))
    }

    struct Place {
        slot: Arc<Slot>,
        clock: Clock,
        logins: u32,
        _credential: Arc<Credential>,
    }

    impl Place {
        fn new() -> Self {
            let (clock, credential) = (Clock::manual(), credential("p"));
            let slot =
                Sessions::new(clock.clone(), Watchlist::new(Clock::manual())).of(&credential);
            Self {
                slot: slot.expect("it logs in"),
                clock,
                logins: 0,
                _credential: credential,
            }
        }

        fn granted(&self, life: u64) -> Granted {
            Granted {
                secret: "s".to_owned().into(),
                mode: LoginMode::Jwt,
                refresh: Some("r".to_owned().into()),
                asked_at: self.clock.instant(),
                life: Some(seconds(life)),
            }
        }

        fn errand(&mut self) -> Errand {
            match self.slot.ask(self.slot.failures()) {
                Asked::Begin(errand) => {
                    self.logins += 1;
                    errand
                }
                _ => panic!("a login is due"),
            }
        }

        fn session(&mut self) -> Arc<Session> {
            match self.slot.ask(self.slot.failures()) {
                Asked::Have { session, .. } => session,
                Asked::Begin(errand) => {
                    self.logins += 1;
                    let Ok(session) = errand.end(Ok(self.granted(300))) else {
                        panic!("it was granted")
                    };
                    session
                }
                _ => panic!("there is one to be had"),
            }
        }

        fn failure(&self) -> Option<Failure> {
            match self.slot.ask(self.slot.failures()) {
                Asked::Failed(failure) => Some(failure),
                _ => None,
            }
        }
    }

    #[test]
    fn one_logs_in_and_the_others_wait() {
        let mut place = Place::new();
        let errand = place.errand();
        for _ in 0..3 {
            assert!(matches!(place.slot.ask(0), Asked::Wait(_)));
        }
        drop(errand);
        let errand = place.errand();
        let _ = errand.end(Ok(place.granted(300)));
        assert!(matches!(
            place.slot.ask(0),
            Asked::Have { is_due: false, .. }
        ));
    }

    #[test]
    fn who_asked_before_a_login_failed_shares_it_and_who_asks_later_tries() {
        let mut place = Place::new();
        let seen = place.slot.failures();
        let failure = Failure::Login(Box::new(Failure::Status(503)));
        let _ = place.errand().end(Err(failure.clone()));
        assert!(matches!(place.slot.ask(seen), Asked::Failed(it) if it == failure));
        place.errand();
    }

    #[test]
    fn a_refused_login_pauses_for_longer_each_time_up_to_a_bound() {
        let mut place = Place::new();
        for pause in [60, 120, 240, 480, 900, 900] {
            let _ = place.errand().end(Err(Failure::CredentialRejected(400)));
            for left in [pause - 1, 1] {
                assert_eq!(place.failure(), Some(Failure::CredentialRejected(400)));
                assert_eq!(place.slot.refusal(), Some(400));
                place.clock.advance(seconds(left));
            }
            assert_eq!(place.slot.refusal(), None, "{pause}");
        }
    }

    #[test]
    fn a_refused_session_is_replaced_once_and_then_ever_more_seldom() {
        let mut place = Place::new();
        for pause in [10, 60, 120, 240, 480, 900, 900] {
            let session = place.session();
            assert!(place.slot.refuse(&session));
            let next = place.session();
            assert!(place.slot.refuse(&session), "another is there");
            place.clock.advance(seconds(pause - 1));
            // Behind that its token's life is over.
            if pause <= 240 {
                assert!(!place.slot.refuse(&next), "{pause}");
                assert!(matches!(place.slot.ask(0), Asked::Have { .. }), "it stays");
            }
            place.clock.advance(seconds(1));
        }
    }

    #[test]
    fn a_session_that_is_accepted_is_replaced_again_soon() {
        let mut place = Place::new();
        for logins in 2..6 {
            let session = place.session();
            place.slot.prove(&session);
            assert!(place.slot.refuse(&session));
            let session = place.session();
            place.slot.prove(&session);
            assert!(!place.slot.refuse(&session));
            assert_eq!(place.logins, logins);
            place.clock.advance(seconds(10));
        }
    }

    #[test]
    fn a_session_is_refreshed_ahead_once_in_a_while_and_serves_meanwhile() {
        let mut place = Place::new();
        let session = place.session();
        let due = |place: &Place| match place.slot.ask(0) {
            Asked::Have { is_due, .. } => is_due,
            _ => panic!("it is still good"),
        };
        place.clock.advance(seconds(239));
        assert!(!due(&place));
        place.clock.advance(seconds(1));
        assert_eq!([due(&place), due(&place)], [true, false]);
        let errand = place.slot.begin_ahead(&session).expect("it is due");
        assert!(errand.refresh().is_some());
        assert!(place.slot.begin_ahead(&session).is_none(), "it has begun");
        let _ = errand.end(Err(Failure::Login(Box::new(Failure::Timeout))));
        place.clock.advance(seconds(10));
        assert!(due(&place), "again after a while");
        let errand = place.slot.begin_ahead(&session).expect("it is due");
        let _ = errand.end(Ok(place.granted(300)));
        assert!(place.slot.begin_ahead(&session).is_none(), "it is done");
        assert!(!due(&place));
        place.clock.advance(seconds(300));
        assert!(
            place.errand().refresh().is_some(),
            "an expired one is refreshed"
        );
    }

    #[test]
    fn sessions_go_with_their_credentials() {
        let sessions = Sessions::new(Clock::manual(), Watchlist::new(Clock::manual()));
        let (old, new) = (credential("old"), credential("new"));
        let slot = |credential: &Arc<Credential>| sessions.of(credential).expect("it logs in");
        let first = slot(&old);
        assert!(Arc::ptr_eq(&first, &slot(&old)));
        assert!(
            Arc::ptr_eq(&first, &slot(&credential("old"))),
            "the same source"
        );
        assert!(!Arc::ptr_eq(&first, &slot(&new)), "another password");
        drop(old);
        slot(&credential("newest"));
        assert_eq!(lock(&sessions.slots).len(), 2, "the old one is gone");
        sessions.forget(new.id().tenant());
        assert!(lock(&sessions.slots).is_empty());
    }
}
