//! An issuer changes its keys again and again under load, while its provider fails half the
//! time: every token of a key that is published is taken, and none of a key that was taken back
//! once the interval is over, whether or not it was verified before.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;

use crate::harness::{
    World,
    provider::{Key, Manner, Provider},
};

const REFRESH: Duration = Duration::from_secs(10);
const ROTATIONS: usize = 3;
const CALLERS: usize = 4;
/// A chance that never says no more than four times in a row among its first 400 answers, so that
/// the provider does answer within every half of an interval.
const SEED: u64 = 332;

/// A key, when it was taken back, and a token that comes again and again.
struct Published {
    key: Key,
    token: String,
    removed: Option<Instant>,
}

#[derive(Default)]
struct Seen {
    valid: AtomicUsize,
    revoked: AtomicUsize,
    between: AtomicUsize,
}

fn longest_outage(seed: u64) -> usize {
    let mut chance = fastrand::Rng::with_seed(seed);
    let answers: Vec<bool> = (0..400).map(|_| chance.bool()).collect();
    let outages = answers.split(|answers| *answers).map(<[bool]>::len);
    outages.max().unwrap()
}

#[tokio::test]
async fn keys_change_under_load_while_the_provider_fails_half_the_time() {
    assert!(longest_outage(SEED) <= 4, "{}", longest_outage(SEED));
    let first = Key::es256("key-0");
    let provider = Provider::start(&[&first]).await;
    let chance = fastrand::Rng::with_seed(SEED);
    provider.answers(Manner::HalfTheTime(Arc::new(Mutex::new(chance))));
    let issuer = provider.issuer();
    let world = World::configured(&format!(
        "auth:\n  jwks: {{allow_loopback_http: true, refresh: 10s, timeout: 30s}}\n  issuers:\n    \
           - {{issuer: \"{issuer}\", audience: llavero, algorithms: [ES256], jwks_url: \"{}\"}}\n",
        provider.keys_url()
    ))
    .await;
    let publish = |key: Key| Published {
        token: key.token(&issuer, &world.clock, &json!({"exp": 4_102_444_800_i64})),
        key,
        removed: None,
    };
    let keys = Mutex::new(vec![publish(first)]);
    let seen = Seen::default();
    let _time = world.time_flies_by(Duration::from_millis(50));

    let wait = async |time: Duration| {
        world.clock.sleep_until(world.clock.instant() + time).await;
    };
    let rotations = async {
        wait(REFRESH / 2).await;
        for number in 1..=ROTATIONS {
            let new = Key::es256(&format!("key-{number}"));
            {
                let mut keys = keys.lock().unwrap();
                let old = keys.last().unwrap().key.clone();
                provider.publish(&[&old, &new]);
                keys.push(publish(new.clone()));
            }
            wait(Duration::from_secs(3)).await;
            {
                let mut keys = keys.lock().unwrap();
                provider.publish(&[&new]);
                let old = keys.len() - 2;
                keys[old].removed = Some(world.clock.instant());
            }
            wait(REFRESH + Duration::from_secs(3)).await;
        }
    };
    let callers = futures_util::future::join_all(
        (0..CALLERS).map(|caller| call(&world, &issuer, &keys, &seen, caller)),
    );
    tokio::select! {
        () = rotations => {}
        _ = callers => unreachable!("they call until the rotations are over"),
    }

    let counted = |count: &AtomicUsize| count.load(Ordering::Relaxed);
    assert!(counted(&seen.valid) > 100, "{}", counted(&seen.valid));
    assert!(counted(&seen.revoked) > 50, "{}", counted(&seen.revoked));
    assert!(counted(&seen.between) > 20, "{}", counted(&seen.between));
    let metrics = world.metrics().await;
    for result in ["ok", "unchanged", "failed"] {
        let series =
            format!(r#"llavero_jwks_refresh_total{{issuer="{issuer}",result="{result}"}} "#);
        let line = metrics.lines().find_map(|line| line.strip_prefix(&series));
        assert!(line.is_some_and(|count| count != "0"), "{series}{line:?}");
    }
    assert!(provider.asked() < 400, "{}", provider.asked());
}

/// Calls with any key's token, an old one or one that was never seen, and judges the answers.
async fn call(
    world: &World,
    issuer: &str,
    keys: &Mutex<Vec<Published>>,
    seen: &Seen,
    caller: usize,
) {
    let mut chance = fastrand::Rng::with_seed(caller as u64);
    for number in 0.. {
        let (at, token, removed) = {
            let keys = keys.lock().unwrap();
            // Mostly the latest two.
            let oldest = keys
                .len()
                .saturating_sub(if chance.u8(..) < 40 { 9 } else { 2 });
            let at = chance.usize(oldest..keys.len());
            let key = &keys[at];
            let token = if chance.bool() {
                key.token.clone()
            } else {
                let never_seen = json!({"jti": format!("{caller}-{number}")});
                key.key.token(issuer, &world.clock, &never_seen)
            };
            (at, token, key.removed)
        };
        let begun = world.clock.instant();
        let reply = world.get_as(&token, "/v1/me").await;
        let status = reply.status.as_u16();
        let is_revoked = removed.is_some_and(|removed| begun >= removed + REFRESH);
        let is_valid = keys.lock().unwrap()[at].removed.is_none();
        if is_valid {
            assert_eq!(status, 200, "a valid token: {}", reply.text());
            seen.valid.fetch_add(1, Ordering::Relaxed);
        } else if is_revoked {
            // 503 where the provider couldn't be asked whether the key is a new one.
            assert!(
                matches!(status, 401 | 503),
                "a key taken back {:?} ago: {}",
                begun.duration_since(removed.unwrap()),
                reply.text()
            );
            seen.revoked.fetch_add(1, Ordering::Relaxed);
        } else {
            assert!(matches!(status, 200 | 401 | 503), "{}", reply.text());
            seen.between.fetch_add(1, Ordering::Relaxed);
        }
    }
}
