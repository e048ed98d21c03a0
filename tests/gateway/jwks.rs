//! Keys that an issuer publishes: how they come, how they change, and what holds while their
//! provider fails or lies.

use std::time::Duration;

use futures_util::future::join_all;
use jsonwebtoken::Algorithm;
use serde_json::{Value, json};

use crate::harness::{
    Reply, World, leaks,
    provider::{Key, Manner, Provider, jwks},
};

const NOTHING: Value = Value::Null;

fn nothing() -> Value {
    json!({})
}

/// One issuer, of that name, whose keys are where that setting says.
fn issuer(name: &str, source: &str) -> String {
    format!(
        "    - {{issuer: \"{name}\", audience: llavero, algorithms: [ES256, EdDSA, RS256, ES384], {source}}}\n"
    )
}

fn auth(jwks: &str, issuers: &[String]) -> String {
    format!(
        "auth:\n  jwks: {{allow_loopback_http: true{jwks}}}\n  issuers:\n{}",
        issuers.concat()
    )
}

/// A gateway whose only issuer is that provider.
async fn before(provider: &Provider, jwks: &str) -> World {
    let name = provider.issuer();
    let source = format!("jwks_url: \"{}\"", provider.keys_url());
    World::configured(&auth(jwks, &[issuer(&name, &source)])).await
}

/// The answer to a token of that provider.
async fn ask(world: &World, provider: &Provider, key: &Key) -> Reply {
    let token = key.token(&provider.issuer(), &world.clock, &nothing());
    world.get_as(&token, "/v1/me").await
}

fn is_unavailable(reply: &Reply) {
    reply.problem(503, "identity-unavailable");
    let after: u64 = reply.header("retry-after").parse().unwrap();
    assert!((1..=10).contains(&after), "{after}");
}

fn refreshes(provider: &Provider, result: &str, times: usize) -> String {
    let issuer = provider.issuer();
    format!(r#"llavero_jwks_refresh_total{{issuer="{issuer}",result="{result}"}} {times}"#)
}

/// The log's lines about that provider.
fn lines(provider: &Provider, message: &str) -> Vec<Value> {
    let mut lines = leaks::lines_with(&provider.issuer());
    lines.retain(|line| line["message"].as_str() == Some(message));
    lines
}

#[tokio::test]
async fn keys_of_every_kind_come_from_an_address_and_by_discovery() {
    let keys = [
        Key::new(Algorithm::ES256, "a"),
        Key::new(Algorithm::ES384, "b"),
        Key::new(Algorithm::EdDSA, "c"),
        Key::new(Algorithm::RS256, "d"),
        Key::new(Algorithm::EdDSA, "e").without_kid(),
    ];
    let provider = Provider::start(&keys.each_ref()).await;
    let name = provider.issuer();
    for source in [
        format!("jwks_url: \"{}\"", provider.keys_url()),
        "discovery: true".to_owned(),
    ] {
        let world = World::configured(&auth("", &[issuer(&name, &source)])).await;
        for key in &keys {
            let me = ask(&world, &provider, key).await.ok(200);
            assert_eq!(me["issuer"], name);
        }
    }
}

#[tokio::test]
async fn each_issuer_has_its_own_keys() {
    let (one, other) = (Key::es256("same"), Key::es256("same"));
    let (first, second) = (
        Provider::start(&[&one]).await,
        Provider::start(&[&other]).await,
    );
    let issuers = [&first, &second].map(|provider| {
        let source = format!("jwks_url: \"{}\"", provider.keys_url());
        issuer(&provider.issuer(), &source)
    });
    let world = World::configured(&auth("", &issuers)).await;
    ask(&world, &first, &one).await.ok(200);
    ask(&world, &second, &other).await.ok(200);
    ask(&world, &first, &other)
        .await
        .problem(401, "invalid-token");
    ask(&world, &second, &one)
        .await
        .problem(401, "invalid-token");
}

#[tokio::test]
async fn requests_before_the_first_keys_join_their_fetch() {
    let key = Key::es256("a");
    let provider = Provider::start(&[&key]).await;
    provider.holds();
    let world = before(&provider, "").await;
    let not_ready = world.client.get(format!("{}/readyz?verbose", world.admin));
    let not_ready = world.send(not_ready).await;
    not_ready.problem(503, "identity-unavailable");
    assert!(not_ready.text().contains("0"), "{}", not_ready.text());
    let (replies, ()) = tokio::join!(
        join_all((0..20).map(|_| ask(&world, &provider, &key))),
        async {
            provider.wait_until_asked(1).await;
            provider.lets_go();
        }
    );
    for reply in replies {
        reply.ok(200);
    }
    assert_eq!(provider.asked(), 1);
    let ready = world.client.get(format!("{}/readyz?verbose", world.admin));
    let ready = world.send(ready).await;
    assert_eq!(ready.status, 200);
    assert!(
        ready
            .text()
            .contains(&format!("keys of {}: 1, last fetched", provider.issuer())),
        "{}",
        ready.text()
    );
}

#[tokio::test]
async fn a_new_key_costs_one_fetch_however_many_tokens_it_signs() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let provider = Provider::start(&[&old]).await;
    let world = before(&provider, "").await;
    ask(&world, &provider, &old).await.ok(200);
    provider.publish(&[&old, &new]);
    provider.holds();
    let before = provider.asked();
    // One leaves while it waits; the fetch is everybody's.
    tokio::select! {
        reply = ask(&world, &provider, &new) => panic!("{reply:?}"),
        () = provider.wait_until_asked(before + 1) => {}
    }
    let (replies, ()) = tokio::join!(
        join_all((0..50).map(|_| ask(&world, &provider, &new))),
        async {
            world.wait_until_read().await;
            provider.lets_go();
        }
    );
    for reply in replies {
        reply.ok(200);
    }
    // Those who joined the one that was under way had no need of a second: it has the key.
    assert_eq!(provider.asked(), before + 1);
    ask(&world, &provider, &old).await.ok(200);
    let told = lines(&provider, "an issuer's keys have changed");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(
        (&told[1]["added"], &told[1]["removed"]),
        (&json!("\"new\""), &json!(""))
    );
}

#[tokio::test]
async fn a_key_published_during_a_fetch_is_found_by_the_next() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let provider = Provider::start(&[&old]).await;
    let world = before(&provider, "").await;
    ask(&world, &provider, &old).await.ok(200);
    let asked = provider.asked();
    provider.holds();
    let stranger = Key::es256("nobodys");
    let (strangers, news) = tokio::join!(ask(&world, &provider, &stranger), async {
        provider.wait_until_asked(asked + 1).await;
        provider.publish(&[&old, &new]);
        let (news, ()) = tokio::join!(ask(&world, &provider, &new), async {
            // It joins the fetch that reads the old set.
            world.wait_until_read().await;
            provider.lets_go();
        });
        news
    });
    strangers.problem(401, "invalid-token");
    news.ok(200);
    assert_eq!(provider.asked(), asked + 2);
}

#[tokio::test]
async fn unknown_keys_cause_few_fetches() {
    let (key, stranger) = (Key::es256("a"), Key::es256("b"));
    let provider = Provider::start(&[&key]).await;
    let world = before(&provider, "").await;
    ask(&world, &provider, &key).await.ok(200);
    assert_eq!(provider.asked(), 1);
    for number in 0..30 {
        let mut stranger = stranger.clone();
        stranger.kid = (number % 3 > 0).then(|| format!("made-up-{number}"));
        let reply = ask(&world, &provider, &stranger).await;
        reply.problem(401, "invalid-token");
    }
    assert_eq!(provider.asked(), 4, "three at once");
    world.clock.advance(Duration::from_secs(10));
    for _ in 0..5 {
        let reply = ask(&world, &provider, &stranger).await;
        reply.problem(401, "invalid-token");
    }
    assert_eq!(provider.asked(), 5, "and one more each ten seconds");
    ask(&world, &provider, &key).await.ok(200);
}

#[tokio::test]
async fn a_token_that_would_be_refused_anyhow_causes_no_fetch() {
    let (key, stranger) = (Key::es256("a"), Key::es256("b"));
    let provider = Provider::start(&[&key]).await;
    let world = before(&provider, "").await;
    ask(&world, &provider, &key).await.ok(200);
    let now = world.clock.unix_seconds();
    let mut impostor = stranger.clone();
    impostor.kid = key.kid.clone();
    for (signer, changes) in [
        (&stranger, json!({"exp": now - 100})),
        (&stranger, json!({"aud": "another"})),
        (&stranger, json!({"iat": now + 100})),
        (&stranger, json!({"sub": NOTHING})),
        (&stranger, json!({"iss": "https://elsewhere.example.com/"})),
        (&impostor, nothing()),
    ] {
        let token = signer.token(&provider.issuer(), &world.clock, &changes);
        let reply = world.get_as(&token, "/v1/me").await;
        reply.problem(401, "invalid-token");
    }
    assert_eq!(provider.asked(), 1);
}

#[tokio::test]
async fn a_removed_key_stops_working_within_the_interval_remembered_or_not() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let provider = Provider::start(&[&old, &new]).await;
    let world = before(&provider, "").await;
    let remembered = old.token(&provider.issuer(), &world.clock, &nothing());
    for _ in 0..3 {
        world.get_as(&remembered, "/v1/me").await.ok(200);
    }
    let counted = r#"llavero_token_verifications_total{result="remembered"} 2"#;
    assert!(world.metrics().await.contains(counted));
    provider.publish(&[&new]);
    world.clock.advance(Duration::from_secs(300));
    let reply = world.get_as(&remembered, "/v1/me").await;
    reply.problem(401, "invalid-token");
    ask(&world, &provider, &old)
        .await
        .problem(401, "invalid-token");
    ask(&world, &provider, &new).await.ok(200);
}

#[tokio::test]
async fn another_key_under_the_same_name_takes_its_place() {
    let (old, new) = (Key::es256("a"), Key::es256("a"));
    let provider = Provider::start(&[&old]).await;
    let world = before(&provider, "").await;
    let remembered = old.token(&provider.issuer(), &world.clock, &nothing());
    world.get_as(&remembered, "/v1/me").await.ok(200);
    provider.publish(&[&new]);
    world.clock.advance(Duration::from_secs(300));
    world
        .get_as(&remembered, "/v1/me")
        .await
        .problem(401, "invalid-token");
    ask(&world, &provider, &new).await.ok(200);
}

#[tokio::test]
async fn the_same_keys_again_forget_nothing() {
    let key = Key::es256("a");
    let provider = Provider::start(&[&key]).await;
    let world = before(&provider, "").await;
    let token = key.token(&provider.issuer(), &world.clock, &nothing());
    world.get_as(&token, "/v1/me").await.ok(200);
    for times in 1..=2 {
        world.clock.advance(Duration::from_secs(150));
        world
            .wait_for_metric(&refreshes(&provider, "unchanged", times))
            .await;
    }
    world.get_as(&token, "/v1/me").await.ok(200);
    let metrics = world.metrics().await;
    for line in [
        refreshes(&provider, "ok", 1),
        refreshes(&provider, "failed", 0),
        r#"llavero_token_verifications_total{result="verified"} 1"#.to_owned(),
        r#"llavero_token_verifications_total{result="remembered"} 1"#.to_owned(),
    ] {
        assert!(metrics.contains(&line), "{line} is missing in\n{metrics}");
    }
}

#[tokio::test]
async fn the_last_good_keys_outlive_their_provider_for_as_long_as_configured() {
    let (key, stranger) = (Key::es256("a"), Key::es256("b"));
    let provider = Provider::start(&[&key]).await;
    let world = before(&provider, ", refresh: 10s, keep_for: 2m, timeout: 1s").await;
    ask(&world, &provider, &key).await.ok(200);
    let long = json!({"exp": world.clock.unix_seconds() + 100_000});
    let remembered = key.token(&provider.issuer(), &world.clock, &long);
    world.get_as(&remembered, "/v1/me").await.ok(200);
    let issuer = provider.issuer();
    let is_failing = |is: u8| format!(r#"llavero_jwks_failing{{issuer="{issuer}"}} {is}"#);
    world.wait_for_metric(&is_failing(0)).await;
    let until = expiry(&world, &provider).await;
    assert_eq!(until, confirmed(&world, &provider).await + 120, "keep_for");

    provider.answers(Manner::Status(503, None));
    world.clock.advance(Duration::from_secs(60));
    ask(&world, &provider, &key).await.ok(200);
    world.get_as(&remembered, "/v1/me").await.ok(200);
    {
        // Nobody knows whether the stranger's key is a new one.
        let _time = world.time_flies_by(Duration::from_millis(5));
        is_unavailable(&ask(&world, &provider, &stranger).await);
    }
    world.wait_for_metric(&is_failing(1)).await;
    assert_eq!(
        expiry(&world, &provider).await,
        until,
        "nothing confirmed them"
    );
    let told = lines(&provider, "an issuer's keys can't be fetched");
    assert_eq!(told.len(), 1, "once, not for each attempt: {told:?}");
    assert_eq!(told[0]["level"], "WARN");
    assert!(told[0]["cause"].as_str().unwrap().contains("503"));
    let verbose = world.client.get(format!("{}/readyz?verbose", world.admin));
    let verbose = world.send(verbose).await.text();
    assert!(verbose.contains("failing since"), "{verbose}");

    world.clock.advance(Duration::from_secs(60));
    {
        let _time = world.time_flies_by(Duration::from_millis(5));
        is_unavailable(&world.get_as(&remembered, "/v1/me").await);
        is_unavailable(&ask(&world, &provider, &key).await);
        wait_for_line(&provider, DROPPED).await;
    }
    let not_ready = world.client.get(format!("{}/readyz", world.admin));
    world
        .send(not_ready)
        .await
        .problem(503, "identity-unavailable");
    world.wait_for_metric("llavero_ready 0").await;

    provider.answers(Manner::Well);
    let _time = world.time_flies_by(Duration::from_millis(50));
    let begun = std::time::Instant::now();
    loop {
        let reply = ask(&world, &provider, &key).await;
        if reply.status == 200 {
            break;
        }
        is_unavailable(&reply);
        assert!(begun.elapsed().as_secs() < 30, "it doesn't come back");
    }
    assert_eq!(
        lines(&provider, "an issuer's keys can be fetched again").len(),
        1
    );
    assert_eq!(lines(&provider, DROPPED).len(), 1);
    world.wait_for_metric(&is_failing(0)).await;
    world.wait_for_metric("llavero_ready 1").await;
    assert!(expiry(&world, &provider).await > until + 120);
}

/// When that provider's keys are believed no more, as the metrics say.
async fn expiry(world: &World, provider: &Provider) -> u64 {
    moment(world, provider, "llavero_jwks_expiry_timestamp_seconds").await
}

/// When they were last fetched.
async fn confirmed(world: &World, provider: &Provider) -> u64 {
    let name = "llavero_jwks_last_success_timestamp_seconds";
    moment(world, provider, name).await
}

async fn moment(world: &World, provider: &Provider, name: &str) -> u64 {
    let start = format!(r#"{name}{{issuer="{}"}} "#, provider.issuer());
    let metrics = world.metrics().await;
    let found = metrics.lines().find_map(|line| line.strip_prefix(&start));
    found.expect("is there").parse().unwrap()
}

const DROPPED: &str =
    "an issuer's keys are dropped: they couldn't be fetched for longer than auth.jwks.keep_for";

/// What a provider may answer instead of its keys.
fn lies(attacker: &Provider, key: &Key) -> Vec<(&'static str, Manner, &'static str)> {
    let bytes = |text: String| Manner::Bytes(text.into_bytes());
    let mut private = key.public();
    private["d"] = json!("AAAA");
    let shared = json!({"keys": [{"kty": "oct", "kid": "a", "alg": "HS256", "k": "AAAA"}]});
    let truth = jwks(&[key]).to_string();
    let to_attacker = Some(attacker.keys_url());
    vec![
        (
            "a redirect",
            Manner::Status(302, to_attacker.clone()),
            "status was 302",
        ),
        (
            "a permanent redirect",
            Manner::Status(308, to_attacker),
            "status was 308",
        ),
        (
            "an endless body",
            Manner::Endless(vec![b' '; 64 * 1024]),
            "over 256 KiB",
        ),
        (
            "a body of 10 MB",
            Manner::Bytes([truth.as_bytes(), &vec![b' '; 10_000_000]].concat()),
            "over 256 KiB",
        ),
        ("half a body", Manner::Stalled, "within auth.jwks.timeout"),
        ("nothing", Manner::Silent, "within auth.jwks.timeout"),
        (
            "a page",
            bytes("<html>hello</html>".to_owned()),
            "isn't a JWK Set",
        ),
        ("a list", bytes("[]".to_owned()), "isn't a JWK Set"),
        (
            "a set that says `keys` twice",
            bytes(truth.replacen('{', r#"{"keys":[],"#, 1)),
            "isn't a JWK Set",
        ),
        (
            "an empty set",
            bytes(r#"{"keys":[]}"#.to_owned()),
            "no signing key",
        ),
        (
            "a shared secret",
            bytes(shared.to_string()),
            "no signing key",
        ),
        (
            "a private key",
            bytes(json!({ "keys": [private] }).to_string()),
            "no signing key",
        ),
        ("no content", Manner::Status(204, None), "status was 204"),
        ("an outage", Manner::Status(500, None), "status was 500"),
    ]
}

/// A gateway whose issuers are all of those providers.
async fn before_all(providers: &[Provider], jwks: &str) -> World {
    let issuers: Vec<_> = providers
        .iter()
        .map(|provider| {
            let source = format!("jwks_url: \"{}\"", provider.keys_url());
            issuer(&provider.issuer(), &source)
        })
        .collect();
    World::configured(&auth(jwks, &issuers)).await
}

/// Waits for a line about that provider, which must come soon.
async fn wait_for_line(provider: &Provider, message: &str) -> Value {
    leaks::line_with(&provider.issuer(), |line| line["message"] == message).await
}

/// Why that provider's keys can't be fetched.
async fn cause(provider: &Provider) -> String {
    let line = wait_for_line(provider, "an issuer's keys can't be fetched").await;
    line["cause"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_provider_that_lies_brings_no_keys() {
    let (key, attackers) = (Key::es256("a"), Key::es256("attackers"));
    let attacker = Provider::start(&[&attackers]).await;
    let lies = lies(&attacker, &key);
    let mut providers = Vec::new();
    for (_, manner, _) in &lies {
        let provider = Provider::start(&[&key]).await;
        provider.answers(manner.clone());
        providers.push(provider);
    }
    let world = before_all(&providers, ", timeout: 10s").await;
    let _time = world.time_flies_by(Duration::from_millis(20));
    let asked = providers
        .iter()
        .flat_map(|provider| [&key, &attackers].map(|key| ask(&world, provider, key)));
    for reply in join_all(asked).await {
        is_unavailable(&reply);
    }
    for (provider, (what, _, expected)) in providers.iter().zip(lies) {
        let told = cause(provider).await;
        assert!(told.contains(expected), "{what}: {told}");
        let taken = provider.sent() / provider.asked();
        assert!(taken < 10_000_000, "{what}: {taken} bytes each time");
    }
    assert_eq!(attacker.asked(), 0, "no redirect was followed");
}

#[tokio::test]
async fn a_provider_that_begins_to_lie_takes_no_keys_away() {
    let (key, attackers) = (Key::es256("a"), Key::es256("attackers"));
    let attacker = Provider::start(&[&attackers]).await;
    let lies = lies(&attacker, &key);
    let mut providers = Vec::new();
    for _ in &lies {
        providers.push(Provider::start(&[&key]).await);
    }
    let world = before_all(&providers, ", timeout: 10s").await;
    for (provider, (_, manner, _)) in providers.iter().zip(&lies) {
        ask(&world, provider, &key).await.ok(200);
        provider.answers(manner.clone());
    }
    world.clock.advance(Duration::from_secs(150));
    let is_endless = |manner: &Manner| matches!(manner, Manner::Stalled | Manner::Silent);
    for (provider, (_, manner, _)) in providers.iter().zip(&lies) {
        provider.wait_until_asked(2).await;
        if !is_endless(manner) {
            cause(provider).await;
        }
    }
    // The others have no more time.
    world.clock.advance(Duration::from_secs(10));
    for (provider, (what, _, expected)) in providers.iter().zip(lies) {
        let told = cause(provider).await;
        assert!(told.contains(expected), "{what}: {told}");
        ask(&world, provider, &key).await.ok(200);
    }
    assert_eq!(attacker.asked(), 0, "no redirect was followed");
}

#[tokio::test]
async fn one_bad_key_of_a_set_is_told_once_and_takes_no_other_down() {
    let (good, bad) = (Key::es256("good"), Key::es256("bad\u{1b}[31m"));
    let provider = Provider::start(&[&good]).await;
    let mut private = bad.public();
    private["d"] = json!("AAAA");
    let set = json!({"keys": [
        private, good.public(), Key::es256("good").public(), {"kty": "oct", "k": "AAAA"}, {"kty": "new"}, 7
    ]});
    provider.answers(Manner::Bytes(set.to_string().into_bytes()));
    let world = before(&provider, "").await;
    ask(&world, &provider, &good).await.ok(200);
    let reply = ask(&world, &provider, &bad).await;
    reply.problem(401, "invalid-token");
    let told = lines(&provider, "a key of an issuer isn't used");
    let kids: Vec<_> = told
        .iter()
        .map(|line| line["kid"].as_str().unwrap())
        .collect();
    assert_eq!(kids, ["\"bad??31m\"", "\"good\"", "number 4"]);
}

#[tokio::test]
async fn a_discovery_document_speaks_for_its_issuer_only() {
    let key = Key::es256("a");
    let attacker = Provider::start(&[&key]).await;
    let documents = [
        (
            "another issuer",
            json!({"issuer": "https://id.example.com/", "jwks_uri": "KEYS"}),
            "another issuer's",
        ),
        (
            "nearly the same issuer",
            json!({"issuer": "ISSUER/", "jwks_uri": "KEYS"}),
            "another issuer's",
        ),
        ("no issuer", json!({"jwks_uri": "KEYS"}), "another issuer's"),
        ("no address", json!({"issuer": "ISSUER"}), "`jwks_uri`"),
        (
            "an address without TLS",
            json!({"issuer": "ISSUER", "jwks_uri": "http://id.example.com/keys"}),
            "`jwks_uri`",
        ),
        (
            "a file",
            json!({"issuer": "ISSUER", "jwks_uri": "file:///etc/keys.json"}),
            "`jwks_uri`",
        ),
        ("a list", json!([]), "can't be read"),
    ];
    let (mut providers, mut issuers) = (Vec::new(), Vec::new());
    for (_, document, _) in &documents {
        let provider = Provider::start(&[&key]).await;
        let document = document
            .to_string()
            .replace("ISSUER", &provider.issuer())
            .replace("KEYS", &attacker.keys_url());
        provider.publish_discovery(serde_json::from_str(&document).unwrap());
        issuers.push(issuer(&provider.issuer(), "discovery: true"));
        providers.push(provider);
    }
    let world = World::configured(&auth(", timeout: 5s", &issuers)).await;
    let _time = world.time_flies_by(Duration::from_millis(20));
    let asked = providers.iter().map(|provider| ask(&world, provider, &key));
    for reply in join_all(asked).await {
        is_unavailable(&reply);
    }
    for (provider, (what, _, expected)) in providers.iter().zip(documents) {
        let told = cause(provider).await;
        assert!(told.contains(expected), "{what}: {told}");
    }
    assert_eq!(attacker.asked(), 0);
}

#[tokio::test]
async fn where_the_keys_were_is_known_while_the_discovery_document_is_away() {
    let (old, new) = (Key::es256("old"), Key::es256("new"));
    let (keys, provider) = (
        Provider::start(&[&old]).await,
        Provider::start(&[&old]).await,
    );
    let name = provider.issuer();
    provider.publish_discovery(json!({"issuer": name, "jwks_uri": keys.keys_url()}));
    let world = World::configured(&auth("", &[issuer(&name, "discovery: true")])).await;
    ask(&world, &provider, &old).await.ok(200);
    provider.answers(Manner::Status(503, None));
    keys.publish(&[&new]);
    ask(&world, &provider, &new).await.ok(200);
}

#[tokio::test]
async fn nothing_of_ours_is_sent_to_a_provider() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let name = format!("http://{address}");
    let own = issuer(&name, &format!("jwks_url: \"{name}/keys?a=b\""));
    let _world = World::configured(&auth("", &[own])).await;
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap());
    }
    let expected =
        format!("GET /keys?a=b HTTP/1.1\r\naccept: application/json\r\nhost: {address}\r\n\r\n");
    assert_eq!(
        String::from_utf8(head).unwrap().to_lowercase(),
        expected.to_lowercase()
    );
}

#[tokio::test]
async fn a_provider_that_hangs_holds_no_drain_up() {
    let key = Key::es256("a");
    let provider = Provider::start(&[&key]).await;
    provider.answers(Manner::Silent);
    let mut world = before(&provider, "").await;
    provider.wait_until_asked(1).await;
    world.shutdown.cancel();
    let drained = tokio::time::timeout(Duration::from_secs(20), &mut world.served);
    drained.await.unwrap().unwrap().unwrap();
    let asked = provider.asked();
    provider.answers(Manner::Well);
    world.clock.advance(Duration::from_secs(3600));
    // What others ask by then is counted before the last of these.
    for _ in 0..3 {
        let keys = world.client.get(provider.keys_url()).send().await;
        assert_eq!(keys.unwrap().status(), 200);
    }
    assert_eq!(provider.asked(), asked + 3, "nobody asks after the end");
}

#[tokio::test]
async fn a_providers_outage_is_no_other_issuers() {
    let key = Key::es256("a");
    let (up, down) = (Provider::start(&[&key]).await, Provider::start(&[]).await);
    down.answers(Manner::Silent);
    let issuers = [&up, &down].map(|provider| {
        let source = format!("jwks_url: \"{}\"", provider.keys_url());
        issuer(&provider.issuer(), &source)
    });
    let world = World::configured(&auth("", &issuers)).await;
    ask(&world, &up, &key).await.ok(200);
    let ready = world.client.get(format!("{}/readyz", world.admin));
    assert_eq!(world.send(ready).await.status, 200);
}

/// However short the interval is: nobody calls, and nobody is helped by asking more.
#[tokio::test]
async fn a_dead_provider_is_asked_ever_less_often() {
    let provider = Provider::start(&[&Key::es256("a")]).await;
    let world = before(&provider, ", refresh: 10s").await;
    world.wait_for_metric(&refreshes(&provider, "ok", 1)).await;
    provider.answers(Manner::Status(503, None));
    let _time = world.time_flies_by(Duration::from_secs(1));
    let end = world.clock.instant() + Duration::from_secs(3600);
    world.clock.sleep_until(end).await;
    // Each pause is at least half of ten seconds.
    let asked = provider.asked();
    assert!((50..=750).contains(&asked), "{asked} in an hour");
}
