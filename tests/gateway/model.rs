//! Readers, writers, failures and expiries at random, against a model of what may be
//! seen: nobody sees another tenant's or credential's answer, and after a change was
//! answered nobody sees what was before it.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{Reply, World};

const STEPS: usize = 10_000;
const ACTORS: usize = 12;
const ORDENES: u64 = 4;
/// Tenant and credential, with the claims that lead there.
const CALLERS: [(&str, &str, &str); 4] = [
    ("carper", "default", "ordenes:read ordenes:write"),
    (
        "carper",
        "tecnicos",
        "ordenes:read ordenes:write rol:tecnico",
    ),
    ("norte", "default", "ordenes:read ordenes:write"),
    (
        "norte",
        "tecnicos",
        "ordenes:read ordenes:write rol:tecnico",
    ),
];

/// An ERP whose orders count their changes, and that fails in every way.
#[derive(Default)]
struct Erp {
    versions: Mutex<HashMap<(String, u64), u64>>,
    random: Mutex<fastrand::Rng>,
    is_well: std::sync::atomic::AtomicBool,
}

impl Erp {
    fn orden(&self, tenant: &str, credential: &str, id: u64) -> Value {
        let versions = self.versions.lock().unwrap();
        let version = versions.get(&(tenant.to_owned(), id)).copied();
        let version = version.unwrap_or(0);
        json!({"id": id, "status": 1, "descripcion": format!("{tenant}/{credential}/{id}/{version}")})
    }

    fn change(&self, tenant: &str, id: u64) {
        let mut versions = self.versions.lock().unwrap();
        *versions.entry((tenant.to_owned(), id)).or_default() += 1;
    }

    fn dice(&self) -> u32 {
        if self.is_well.load(Ordering::Relaxed) {
            return 999;
        }
        self.random.lock().unwrap().u32(0..1000)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let key = request.headers()["api-key"].to_str().unwrap().to_owned();
        let (key, credential) = key.rsplit_once('-').unwrap();
        let tenant = key.rsplit_once('-').unwrap().1;
        assert!(
            path.split('/').nth(1).unwrap().ends_with(tenant),
            "a key of {tenant} went to {path}"
        );
        let id: Option<u64> = path.split('/').find_map(|part| part.parse().ok());
        let _ = request.into_body().collect().await;
        let pause = self.random.lock().unwrap().u32(0..20);
        for _ in 0..pause {
            tokio::task::yield_now().await;
        }
        let dice = self.dice();
        let body = match id {
            Some(id) => {
                // What is read may be old by the time that it arrives.
                let before = self.orden(tenant, credential, id);
                if method == Method::PATCH {
                    if (60..100).contains(&dice) {
                        return status(500);
                    }
                    if (100..104).contains(&dice) {
                        return status(429);
                    }
                    if (160..200).contains(&dice) {
                        return status(400);
                    }
                    self.change(tenant, id);
                    self.orden(tenant, credential, id)
                } else {
                    before
                }
            }
            None => {
                let results: Vec<_> = (1..=ORDENES)
                    .map(|id| self.orden(tenant, credential, id))
                    .collect();
                json!({"count": ORDENES, "next": null, "previous": null, "results": results})
            }
        };
        for _ in 0..pause {
            tokio::task::yield_now().await;
        }
        match dice {
            0..15 => std::future::pending().await,
            15..50 => status(503),
            200..220 => status(500),
            220..223 => status(429),
            240..260 => html(),
            _ => Response::new(Full::from(body.to_string())),
        }
    }
}

fn status(status: u16) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from("{}"));
    *response.status_mut() = status.try_into().unwrap();
    response
}

fn html() -> Response<Full<Bytes>> {
    Response::new(Full::from("<html>mantenimiento</html>"))
}

async fn start(erp: Arc<Erp>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let erp = erp.clone();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let erp = erp.clone();
                    async move { Ok::<_, Infallible>(erp.answer(request).await) }
                });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                let _ = builder
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    format!("http://{at}/{{clave}}/api/v2/")
}

/// Waits for as long as an answer says, as a good client does, though not for ever.
async fn patient(world: &World, reply: &Reply) {
    if reply.status == 503 {
        let seconds: u64 = reply.header("retry-after").parse().unwrap();
        let until = world.clock.instant() + Duration::from_secs(seconds.min(10));
        world.clock.sleep_until(until).await;
    }
}

/// The newest version of each order that a change was answered with.
#[derive(Default)]
struct Model([[AtomicU64; ORDENES as usize + 1]; 2]);

impl Model {
    fn of(&self, tenant: &str, id: u64) -> &AtomicU64 {
        &self.0[usize::from(tenant == "norte")][usize::try_from(id).unwrap()]
    }
}

/// The version that an order shows, which must be the caller's own.
fn version(orden: &Value, tenant: &str, credential: &str) -> (u64, u64) {
    let id = orden["id"].as_u64().unwrap();
    let descripcion = orden["descripcion"].as_str().unwrap();
    let own = format!("{tenant}/{credential}/{id}/");
    let version = descripcion.strip_prefix(&own);
    let version = version.unwrap_or_else(|| panic!("{own} was answered with {descripcion}"));
    (id, version.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_anothers_answer_or_what_was_before_a_change() {
    let seed = 20_261_124;
    let erp = Arc::new(Erp {
        random: Mutex::new(fastrand::Rng::with_seed(seed)),
        ..Erp::default()
    });
    let base_url = start(erp.clone()).await;
    let world = Arc::new(World::before_upstream(&base_url, "").await);
    let time = world.time_flies_by(Duration::from_millis(400));
    let (model, steps) = (Arc::<Model>::default(), Arc::<AtomicUsize>::default());
    let (served, changed) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let actors = (0..ACTORS).map(|actor| {
        let (world, model, steps) = (world.clone(), model.clone(), steps.clone());
        let (served, changed) = (served.clone(), changed.clone());
        let mut random = fastrand::Rng::with_seed(seed + actor as u64);
        tokio::spawn(async move {
            let tokens: Vec<_> = CALLERS
                .iter()
                .map(|(tenant, _, scope)| {
                    // Time passes: by the end an hour may not be enough.
                    let exp = world.clock.unix_seconds() + 1_000_000;
                    let sub = format!("actor-{actor}");
                    world.token(&json!({"sub": sub, "tenant": tenant, "scope": scope, "exp": exp}))
                })
                .collect();
            while steps.fetch_add(1, Ordering::Relaxed) < STEPS {
                let caller = random.usize(0..CALLERS.len());
                let (tenant, credential, _) = CALLERS[caller];
                let (token, id) = (&tokens[caller], random.u64(1..=ORDENES));
                let path = format!("/v1/ordenes/{id}");
                match random.u32(0..100) {
                    0..55 => {
                        let least = model.of(tenant, id).load(Ordering::SeqCst);
                        let reply = world.get_as(token, &path).await;
                        patient(&world, &reply).await;
                        if reply.status == 200 {
                            let seen = version(&reply.json(), tenant, credential);
                            assert!(
                                seen.0 == id && seen.1 >= least,
                                "{seen:?} after {least} was answered: {}",
                                reply.header("cache-status")
                            );
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    55..75 => {
                        let least: Vec<_> = (1..=ORDENES)
                            .map(|id| model.of(tenant, id).load(Ordering::SeqCst))
                            .collect();
                        let reply = world.get_as(token, "/v1/ordenes").await;
                        patient(&world, &reply).await;
                        if reply.status == 200 {
                            for orden in reply.json()["results"].as_array().unwrap() {
                                let (id, seen) = version(orden, tenant, credential);
                                let least = least[usize::try_from(id).unwrap() - 1];
                                assert!(
                                    seen >= least,
                                    "a list has {seen} of {id} after {least} was answered: {}",
                                    reply.header("cache-status")
                                );
                            }
                            served.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    75..95 => {
                        let change = world
                            .bare(Method::PATCH, &path)
                            .bearer_auth(token)
                            .json(&json!({"status": "abierta"}));
                        let reply = world.send(change).await;
                        patient(&world, &reply).await;
                        if reply.status == 200 {
                            let (_, now) = version(&reply.json(), tenant, credential);
                            model.of(tenant, id).fetch_max(now, Ordering::SeqCst);
                            changed.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    95..98 => world.clock.advance(Duration::from_secs(random.u64(0..40))),
                    // Somebody whose network drops.
                    _ => {
                        let patience = Duration::from_millis(random.u64(0..3));
                        let request = world.bare(Method::GET, &path).bearer_auth(token);
                        let _ = request.timeout(patience).send().await;
                    }
                }
            }
        })
    });
    for actor in futures_util::future::join_all(actors).await {
        actor.unwrap();
    }
    drop(time);

    // It was more than a model of failing, and it is over: every place is given back.
    let (served, changed) = (
        served.load(Ordering::Relaxed),
        changed.load(Ordering::Relaxed),
    );
    assert!(served > STEPS / 5, "{served} reads were answered");
    assert!(changed > STEPS / 100, "{changed} changes were answered");
    erp.is_well.store(true, Ordering::Relaxed);
    let time = world.time_flies();
    for gauge in [
        "llavero_upstream_requests_in_flight 0",
        "llavero_upstream_requests_waiting 0",
    ] {
        world.wait_for_metric(gauge).await;
    }
    world.clock.advance(Duration::from_secs(120));
    for (tenant, _, scope) in CALLERS {
        let exp = world.clock.unix_seconds() + 1_000;
        let token = world.token(&json!({"tenant": tenant, "scope": scope, "exp": exp}));
        while world.get_as(&token, "/v1/ordenes/1").await.status != 200 {
            world.clock.advance(Duration::from_secs(10));
        }
    }
    drop(time);
}
