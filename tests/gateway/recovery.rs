//! Troubles that are over are seen to be over, whether or not anybody calls.

use std::{fs, time::Duration};

use llavero_simulator::{Faults, ReceivedRequest, StatusFault, UserChange};
use serde_json::json;

use crate::harness::{World, key, password, seconds, with_clave};

const ORDEN: &str = "/v1/ordenes/11001";
const JWT: &str = "{login: {username: app, password: {file: ../app.password}}}";
const UNKNOWN_NEXT: &str =
    "{api_key: [{file: ../carper-default.key}, {file: ../carper-nobody.key}]}";

fn breaker(state: u8) -> String {
    format!(r#"llavero_upstream_breaker_state{{tenant="carper"}} {state}"#)
}

fn rejected(value: u8) -> String {
    format!(r#"llavero_credential_rejected{{tenant="carper",credential="default"}} {value}"#)
}

async fn is_shown(world: &World, text: &str) -> bool {
    let ready = world.client.get(format!("{}/readyz?verbose", world.admin));
    world.send(ready).await.text().contains(text)
}

fn received(world: &World, tenant: &str) -> Vec<ReceivedRequest> {
    let mut received = world.received();
    received.retain(|it| it.clave == Some(with_clave(tenant)));
    received
}

/// `app` has that key at the ERP.
fn give_key(world: &World, user: &str, api_key: &str) {
    let change = UserChange {
        password: None,
        api_key: Some(api_key.to_owned()),
    };
    assert!(world.erp.change_user(&with_clave("carper"), user, change));
}

fn give_password(world: &World, password: &str) {
    let change = UserChange {
        password: Some(password.to_owned()),
        api_key: None,
    };
    assert!(world.erp.change_user(&with_clave("carper"), "app", change));
}

async fn open_breaker(world: &World) {
    world.faults("carper", Faults::answering(500));
    for id in 11001..11006 {
        let path = format!("/v1/ordenes/{id}");
        world.get(&path).await.problem(502, "upstream-error");
    }
    world.wait_for_metric(&breaker(2)).await;
}

async fn refuse(world: &World) {
    give_key(world, "app", "of-nobody");
    world
        .get(ORDEN)
        .await
        .problem(502, "upstream-credential-rejected");
    world.wait_for_metric(&rejected(1)).await;
}

/// Lets so much of the clock's time pass, in a few seconds.
async fn wait(world: &World, time: Duration) {
    let _time = world.time_flies_by(seconds(1));
    let end = world.clock.instant() + time;
    world.clock.sleep_until(end).await;
}

#[tokio::test]
async fn a_breaker_closes_without_a_caller_and_nobody_else_is_asked() {
    let world = World::start().await;
    open_breaker(&world).await;
    world.faults("carper", Faults::default());
    world.clock.advance(seconds(7));
    world.wait_for_metric(&breaker(0)).await;
    assert!(!is_shown(&world, "breaker of carper").await);
    let asked = received(&world, "carper");
    assert_eq!(asked.len(), 6);
    assert_eq!(
        (asked[5].method.as_str(), asked[5].query.as_deref()),
        ("GET", Some("limit=1"))
    );
    wait(&world, seconds(600)).await;
    assert_eq!(received(&world, "carper").len(), 6, "it is well again");
    assert!(received(&world, "norte").is_empty(), "it never had trouble");
}

#[tokio::test]
async fn an_erp_that_stays_down_is_tried_about_once_a_minute() {
    let world = World::start().await;
    open_breaker(&world).await;
    wait(&world, seconds(3600)).await;
    let trials = received(&world, "carper").len() - 5;
    assert!((50..=66).contains(&trials), "{trials} in an hour");
    world.faults("carper", Faults::default());
    wait(&world, seconds(75)).await;
    world.wait_for_metric(&breaker(0)).await;
}

#[tokio::test]
async fn a_request_waits_for_the_trial_that_is_under_way() {
    let world = World::start().await;
    open_breaker(&world).await;
    world.holds("carper");
    world.clock.advance(seconds(7));
    world.wait_for_metric(&breaker(1)).await;
    let change = world.patch(ORDEN, json!({"status": "cancelada"}));
    let (changed, ()) = tokio::join!(change, async {
        // Five have opened the breaker.
        world.wait_until_authenticated(6).await;
        world.lets_go("carper");
    });
    changed.ok(200);
    world.wait_for_metric(&breaker(0)).await;
}

#[tokio::test]
async fn a_trial_that_hangs_keeps_a_request_for_a_second() {
    let world = World::start().await;
    open_breaker(&world).await;
    world.faults("carper", Faults::hanging());
    world.clock.advance(seconds(7));
    world.wait_for_metric(&breaker(1)).await;
    let _time = world.time_flies_by(Duration::from_millis(20));
    let reply = world.get("/v1/ordenes/11050").await;
    reply.problem(503, "upstream-unavailable");
    // After the trial's own end, ten seconds later, it would be longer.
    assert_eq!(reply.header("retry-after"), "1");
}

#[tokio::test]
async fn a_tenant_that_is_gone_is_tried_no_more() {
    let world = World::start().await;
    open_breaker(&world).await;
    world
        .reloaded(|| fs::remove_file(world.files().join("tenants/carper.yaml")).unwrap())
        .await;
    wait(&world, seconds(600)).await;
    let asked = received(&world, "carper").len();
    assert!((5..=6).contains(&asked), "{asked}");
    assert!(!is_shown(&world, "carper").await);
    assert!(!world.metrics().await.contains("carper"));
}

#[tokio::test]
async fn a_credential_that_the_erp_takes_again_is_seen_without_a_caller() {
    let world = World::start().await;
    refuse(&world).await;
    give_key(&world, "app", &key("carper", "default"));
    assert!(is_shown(&world, "credential default of carper: refused").await);
    world.clock.advance(seconds(37));
    world.wait_for_metric(&rejected(0)).await;
    assert!(!is_shown(&world, "credential default of carper").await);
    assert_eq!(received(&world, "carper").len(), 2);
    assert!(received(&world, "norte").is_empty());
}

#[tokio::test]
async fn a_credential_that_stays_refused_is_tried_every_few_minutes() {
    let world = World::start().await;
    refuse(&world).await;
    wait(&world, seconds(3600)).await;
    let tries = received(&world, "carper").len() - 1;
    assert!((10..=15).contains(&tries), "{tries} in an hour");
    let path = world.files().join("tenants/carper.yaml");
    world.reloaded(|| fs::remove_file(path).unwrap()).await;
    let asked = received(&world, "carper").len();
    wait(&world, seconds(600)).await;
    assert_eq!(received(&world, "carper").len(), asked);
}

#[tokio::test]
async fn a_changed_secret_has_a_standing_of_its_own() {
    let world = World::start().await;
    let write = |key: &str| world.replace_file("carper-default.key", &format!("{key}\n"));
    let good = key("carper", "default");
    world.reloaded(|| write(&format!("{good}-wrong"))).await;
    world
        .get(ORDEN)
        .await
        .problem(502, "upstream-credential-rejected");
    world.wait_for_metric(&rejected(1)).await;
    // Another wrong one is found out without a caller.
    wait(&world, seconds(20)).await;
    world.reloaded(|| write(&format!("{good}-bad"))).await;
    wait(&world, seconds(2)).await;
    world.wait_for_metric(&rejected(1)).await;
    assert!(
        is_shown(
            &world,
            "credential default of carper: refused by the ERP with 401"
        )
        .await
    );
    // Nothing is known of the next one, since the ERP fails.
    world.faults("carper", Faults::answering(500));
    world.reloaded(|| write(&good)).await;
    world.wait_for_metric(&rejected(0)).await;
    assert!(!is_shown(&world, "credential default of carper").await);
}

#[tokio::test]
async fn a_credential_that_is_configured_no_more_has_no_standing() {
    let world = World::start().await;
    let tecnico = world.token(&json!({"scope": "rol:tecnico ordenes:read"}));
    give_key(&world, "tecnicos", "of-nobody");
    world
        .get_as(&tecnico, ORDEN)
        .await
        .problem(502, "upstream-credential-rejected");
    let series = r#"llavero_credential_rejected{tenant="carper",credential="tecnicos"}"#;
    world.wait_for_metric(&format!("{series} 1")).await;
    let file = fs::read_to_string(world.files().join("tenants/carper.yaml")).unwrap();
    let without: Vec<_> = file.lines().filter(|it| !it.contains("tecnicos")).collect();
    world
        .reloaded(|| world.replace_file("tenants/carper.yaml", &without.join("\n")))
        .await;
    world
        .wait_for_metric("llavero_credentials_rejected 0")
        .await;
    assert!(!world.metrics().await.contains(series));
    let asked = received(&world, "carper").len();
    wait(&world, seconds(600)).await;
    assert_eq!(received(&world, "carper").len(), asked);
}

#[tokio::test]
async fn a_next_key_that_takes_over_ends_the_refusal() {
    let world = World::with_default(UNKNOWN_NEXT, "").await;
    let is_tried = |it: &ReceivedRequest| it.query.is_some() && it.status.is_some();
    while !received(&world, "carper").iter().any(is_tried) {
        tokio::task::yield_now().await;
    }
    world
        .wait_for_metric("llavero_upstream_requests_in_flight 0")
        .await;
    refuse(&world).await;
    give_key(&world, "tecnicos", &key("carper", "nobody"));
    // The next key is tried now, the refused credential somewhat later.
    world.clock.advance(seconds(30));
    world.wait_for_metric(&rejected(0)).await;
}

/// Each login that is refused may bring the account nearer to being locked.
#[tokio::test]
async fn a_login_that_is_refused_is_tried_no_more_often_than_by_callers() {
    let world = World::with_default(JWT, "").await;
    give_password(&world, "another");
    world
        .get(ORDEN)
        .await
        .problem(502, "upstream-credential-rejected");
    world.wait_for_metric(&rejected(1)).await;
    let logins = || {
        let mut received = received(&world, "carper");
        received.retain(|it| it.path.ends_with("/token/"));
        received.len()
    };
    wait(&world, seconds(3600)).await;
    let tried = logins();
    assert!((5..=8).contains(&tried), "{tried} logins in an hour");
    assert_eq!(received(&world, "carper").len(), tried, "and nothing else");
    give_password(&world, &password());
    wait(&world, seconds(22 * 60)).await;
    world.wait_for_metric(&rejected(0)).await;
    assert_eq!(logins(), tried + 1);
}

#[tokio::test]
async fn where_the_credential_that_failed_last_pauses_another_tries() {
    let world = World::start().await;
    world.faults("carper", Faults::hanging());
    let hangs = world.get("/v1/ordenes/11003");
    let meanwhile = async {
        while received(&world, "carper").is_empty() {
            tokio::task::yield_now().await;
        }
        let paused = StatusFault {
            retry_after: Some("300".to_owned()),
            ..StatusFault::new(429)
        };
        let paused = Faults::from(paused);
        world.faults("carper", paused);
        world.get(ORDEN).await.problem(503, "upstream-rate-limited");
        world.faults("carper", Faults::answering(500));
        let tecnico = world.token(&json!({"scope": "rol:tecnico ordenes:read"}));
        for id in 11005..11009 {
            let path = format!("/v1/ordenes/{id}");
            let reply = world.get_as(&tecnico, &path).await;
            reply.problem(502, "upstream-error");
        }
        // The fifth failure is the one that hung.
        world.clock.advance(seconds(15));
    };
    let (hung, ()) = tokio::join!(hangs, meanwhile);
    hung.problem(504, "upstream-timeout");
    world.wait_for_metric(&breaker(2)).await;
    world.faults("carper", Faults::default());
    world.clock.advance(seconds(7));
    world.wait_for_metric(&breaker(0)).await;
    let trial = received(&world, "carper").pop().unwrap();
    assert_eq!(trial.credential.as_deref(), Some("tecnicos"));
}
