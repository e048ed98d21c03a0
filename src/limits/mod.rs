//! How much a user, a tenant, and a client without a good token may ask of this gateway
//! (`limits`). The ERP's own limits are `upstream`'s affair.

mod failures;
mod limiter;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::HeaderValue;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry as MetricRegistry,
};

use crate::{
    clock::Clock,
    config::{self, limits::RateLimit},
    tenants::TenantId,
};

use failures::Failures;
use limiter::{Limiter, Standing};

/// A tenant's limit that refuses is told so often at most.
const WARNING: RateLimit = RateLimit {
    requests: 1,
    per: Duration::from_secs(60),
    burst: 1,
};

/// All limits. Cheap to clone.
#[derive(Clone)]
pub struct Limits(Arc<Parts>);

struct Parts {
    user: RateLimit,
    tenant: RateLimit,
    failures: RateLimit,
    users: Limiter<User>,
    tenants: Limiter<TenantId>,
    addresses: Failures,
    warned: Limiter<TenantId>,
    refusals: Family<LimitLabel, Counter>,
    policy: HeaderValue,
    policy_without_tenant: HeaderValue,
}

/// Who is counted. The same subject at two tenants, or of two issuers, is two users.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// The tenant that the request acts for; none where that isn't clear.
    pub tenant: Option<TenantId>,
    /// `iss`.
    pub issuer: Arc<str>,
    /// `sub`.
    pub subject: Arc<str>,
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whose {
    /// One user's.
    User,
    /// All users' of one tenant.
    Tenant,
    /// One address's without a good token.
    Failures,
}

/// A request beyond a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the limit `limits.{}` is reached", whose.as_str())]
pub struct Refusal {
    /// Whose limit it is.
    pub whose: Whose,
    /// What may be asked.
    pub limit: RateLimit,
    /// When the next may come.
    pub retry_after: Duration,
}

/// What an answer's fields tell of the limits that it counted for
/// (draft-ietf-httpapi-ratelimit-headers-10).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    /// `RateLimit-Policy`.
    pub policy: HeaderValue,
    /// `RateLimit`.
    pub current: HeaderValue,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: &'static str,
}

impl Whose {
    const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Tenant => "tenant",
            Self::Failures => "failures",
        }
    }
}

impl Limits {
    /// Those limits, with nothing asked yet.
    #[must_use]
    pub fn new(
        limits: &config::limits::Limits,
        clock: &Clock,
        metrics: &mut MetricRegistry,
    ) -> Self {
        let refusals = Family::<LimitLabel, Counter>::default();
        metrics.register(
            "llavero_rate_limited",
            "Requests that one of the gateway's own limits refused",
            refusals.clone(),
        );
        // Every series is there from the start, so that a first event is an increase.
        for whose in [Whose::User, Whose::Tenant, Whose::Failures] {
            let limit = whose.as_str();
            let _ = refusals.get_or_create(&LimitLabel { limit });
        }
        let (user, tenant) = (policy("user", limits.user), policy("tenant", limits.tenant));
        Self(Arc::new(Parts {
            user: limits.user,
            tenant: limits.tenant,
            failures: limits.failures,
            users: Limiter::new(limits.user, clock.clone()),
            tenants: Limiter::new(limits.tenant, clock.clone()),
            addresses: Failures::new(limits.failures, clock.clone()),
            warned: Limiter::new(WARNING, clock.clone()),
            refusals,
            policy: field(format!("{user}, {tenant}")),
            policy_without_tenant: field(user),
        }))
    }

    /// Counts a request of a known user: for the user, and where that is within the limit
    /// for the tenant.
    ///
    /// # Errors
    /// One of the two limits is reached.
    pub fn spend(&self, user: &User) -> Result<(), Refusal> {
        let parts = &*self.0;
        parts
            .users
            .spend(user)
            .map_err(|wait| parts.refuse(Whose::User, parts.user, wait))?;
        let Some(tenant) = &user.tenant else {
            return Ok(());
        };
        parts.tenants.spend(tenant).map_err(|wait| {
            if parts.warned.spend(tenant).is_ok() {
                tracing::warn!(
                    tenant = tenant.as_str(),
                    requests = parts.tenant.requests,
                    per_seconds = parts.tenant.per.as_secs(),
                    "the users of a tenant ask more than limits.tenant allows and are refused"
                );
            }
            parts.refuse(Whose::Tenant, parts.tenant, wait)
        })
    }

    /// How the user stands now, to be told with an answer.
    #[must_use]
    pub fn fields(&self, user: &User) -> Fields {
        let parts = &*self.0;
        let mine = current("user", parts.users.standing(user));
        match &user.tenant {
            None => Fields {
                policy: parts.policy_without_tenant.clone(),
                current: field(mine),
            },
            Some(tenant) => {
                let theirs = current("tenant", parts.tenants.standing(tenant));
                Fields {
                    policy: parts.policy.clone(),
                    current: field(format!("{mine}, {theirs}")),
                }
            }
        }
    }

    /// Whether a token of that address may be looked at. Counts nothing.
    ///
    /// # Errors
    /// Too many requests of that address came without a good token.
    pub fn ask(&self, address: IpAddr) -> Result<(), Refusal> {
        let parts = &*self.0;
        parts
            .addresses
            .ask(address)
            .map_err(|wait| parts.refuse(Whose::Failures, parts.failures, wait))
    }

    /// Counts a request of that address that came without a good token.
    pub fn count_failure(&self, address: IpAddr) {
        self.0.addresses.count(address);
    }

    /// Whether the refusal of an address is the first in a minute, which a record tells of.
    #[must_use]
    pub fn is_news(&self, address: IpAddr) -> bool {
        self.0.addresses.is_news(address)
    }
}

impl Parts {
    fn refuse(&self, whose: Whose, limit: RateLimit, retry_after: Duration) -> Refusal {
        let label = LimitLabel {
            limit: whose.as_str(),
        };
        self.refusals.get_or_create(&label).inc();
        Refusal {
            whose,
            limit,
            retry_after,
        }
    }
}

/// One quota policy (draft §3). How many may come at once has no parameter of the draft's.
fn policy(name: &str, limit: RateLimit) -> String {
    let RateLimit {
        requests,
        per,
        burst,
    } = limit;
    let seconds = per.as_secs();
    format!(r#""{name}";q={requests};w={seconds};llavero-burst={burst}"#)
}

/// One service limit (draft §4): what could be asked now, and in how many seconds all of it
/// is there again.
fn current(name: &str, standing: Standing) -> String {
    let (left, seconds) = (standing.left, whole_seconds(standing.whole_in));
    format!(r#""{name}";r={left};t={seconds}"#)
}

fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn field(text: String) -> HeaderValue {
    // It is made of digits and our own words.
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(user: u32, tenant: u32) -> (Limits, Clock) {
        let clock = Clock::manual();
        let limit = |burst| RateLimit {
            requests: 60,
            per: Duration::from_secs(60),
            burst,
        };
        let settings = config::limits::Limits {
            user: limit(user),
            tenant: limit(tenant),
            failures: limit(1),
        };
        let limits = Limits::new(&settings, &clock, &mut MetricRegistry::default());
        (limits, clock)
    }

    fn user(tenant: Option<&str>, issuer: &str, subject: &str) -> User {
        User {
            tenant: tenant.map(|id| id.parse().expect("an id")),
            issuer: issuer.into(),
            subject: subject.into(),
        }
    }

    #[test]
    fn who_is_refused_by_the_own_limit_spends_nothing_of_the_tenants() {
        let (limits, _clock) = limits(2, 3);
        let ana = user(Some("carper"), "i", "ana");
        let refused = (0..10).filter(|_| limits.spend(&ana).is_err()).count();
        assert_eq!(refused, 8);
        let beto = user(Some("carper"), "i", "beto");
        assert_eq!(limits.spend(&beto), Ok(()));
        assert_eq!(
            limits.spend(&beto).map_err(|it| it.whose),
            Err(Whose::Tenant)
        );
        assert_eq!(limits.spend(&ana).map_err(|it| it.whose), Err(Whose::User));
    }

    #[test]
    fn a_user_is_a_subject_of_an_issuer_at_a_tenant() {
        let (limits, _clock) = limits(1, 100);
        let all = [
            user(Some("carper"), "i", "ana"),
            user(Some("norte"), "i", "ana"),
            user(Some("carper"), "j", "ana"),
            user(None, "i", "ana"),
            user(Some("carper"), "i", "an"),
            user(Some("carper"), "ia", "na"),
        ];
        for user in &all {
            assert_eq!(limits.spend(user), Ok(()), "{user:?}");
        }
        for user in &all {
            assert!(limits.spend(user).is_err(), "{user:?}");
        }
    }

    #[test]
    fn the_fields_tell_both_limits_or_the_users_alone() {
        let (limits, clock) = limits(30, 200);
        let ana = user(Some("carper"), "i", "ana");
        limits.spend(&ana).expect("the first");
        limits.spend(&ana).expect("the second");
        clock.advance(Duration::from_millis(100));
        let fields = limits.fields(&ana);
        assert_eq!(
            fields.policy,
            r#""user";q=60;w=60;llavero-burst=30, "tenant";q=60;w=60;llavero-burst=200"#
        );
        assert_eq!(fields.current, r#""user";r=28;t=2, "tenant";r=198;t=2"#);
        let nobodys = limits.fields(&user(None, "i", "ana"));
        assert_eq!(nobodys.policy, r#""user";q=60;w=60;llavero-burst=30"#);
        assert_eq!(nobodys.current, r#""user";r=30;t=0"#);
    }
}
