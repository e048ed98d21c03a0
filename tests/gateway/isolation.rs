//! Many tenants, users, credentials and operations at once, while the tenants' files change:
//! nobody gets anything of another.

use std::{
    collections::HashMap,
    fs,
    sync::{Arc, Mutex},
    time::Duration,
};

use llavero_simulator::{TenantSeed, UserSeed};
use reqwest::{Method, multipart};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::harness::{World, key, leaks, photo, with_clave};

const TENANTS: usize = 50;
const ORDERS: u64 = 12;
const WORKERS: usize = 12;

/// The whole of it is 100,000 requests, which `.ci/run` asks for.
fn requests() -> usize {
    std::env::var("LLAVERO_ISOLATION_REQUESTS")
        .map_or(4_000, |text| text.parse().expect("a number"))
}

fn tenant(at: usize) -> String {
    format!("t{at:02}")
}

/// Stands in everything that a tenant's ERP has to say, and nowhere else.
fn mark(tenant: &str) -> String {
    format!("marca-de-{tenant}-")
}

/// The tenants whose marks a text has.
fn marks_in(text: &str) -> Vec<&str> {
    let found = text.match_indices("marca-de-").filter_map(|(at, mark)| {
        let rest = text.get(at + mark.len()..)?;
        rest.get(..3)
    });
    found.collect()
}

fn write_file(world: &World, tenant: &str, technicians: &str) {
    let text = format!(
        "clave: {}\n\
         credentials:\n  \
           default: {{api_key: {{file: ../{tenant}-default.key}}}}\n  \
           tecnicos: {{api_key: {{file: ../{tenant}-{technicians}.key}}}}\n\
         users:\n  \
           - {{match: {{scope: \"rol:tecnico\"}}, credential: tecnicos}}\n  \
           - {{match: {{}}, credential: default}}\n",
        with_clave(tenant)
    );
    world.replace_file(&format!("tenants/{tenant}.yaml"), &text);
}

/// Every tenant has the orders 1 to 12, of which its technicians see the even ones.
fn furnish(world: &World) {
    for at in 0..TENANTS {
        let tenant = tenant(at);
        let evens = || (2..=ORDERS).step_by(2);
        let user = |name: &str| UserSeed::new(name, "contrasena", key(&tenant, name));
        world.erp.add_tenant(
            TenantSeed::new(with_clave(&tenant))
                .user(user("default"))
                .user(user("tecnicos").seeing(evens()))
                .user(user("suplentes").seeing(evens())),
        );
        for id in 1..=ORDERS {
            let orden = json!({"id": id, "status": 1, "descripcion": format!("{}{id}", mark(&tenant)), "archivos": []});
            world.erp.put_orden(&with_clave(&tenant), id, orden);
        }
        for credential in ["default", "tecnicos", "suplentes"] {
            let file = world.files().join(format!("{tenant}-{credential}.key"));
            fs::write(file, key(&tenant, credential)).unwrap();
        }
        write_file(world, &tenant, "tecnicos");
    }
}

/// One caller: who it is, and whether a technician.
struct Caller {
    tenant: String,
    token: String,
    is_technician: bool,
}

fn callers(world: &World) -> Vec<Caller> {
    let mut callers = Vec::new();
    for at in 0..TENANTS {
        for user in 0..4 {
            let is_technician = user % 2 == 1;
            let role = if is_technician { " rol:tecnico" } else { "" };
            // Equal subjects in every tenant.
            let claims = json!({
                "sub": format!("usuario-{user}"), "tenant": tenant(at),
                "scope": format!("ordenes:read ordenes:write imagenes:write{role}"),
            });
            callers.push(Caller {
                tenant: tenant(at),
                token: world.token(&claims),
                is_technician,
            });
        }
    }
    callers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_gets_anything_of_another() {
    let world = Arc::new(World::start().await);
    world.reloaded(|| furnish(&world)).await;
    world
        .wait_for_metric(&format!("llavero_tenants {}", TENANTS + 2))
        .await;
    let flying = world.time_flies_by(Duration::from_millis(4));
    let callers = Arc::new(callers(&world));
    let left = Arc::new(watch::Sender::new(requests()));
    let counts = Arc::new(Mutex::new(HashMap::<&str, usize>::new()));
    let workers = (0..WORKERS).map(|worker| {
        let (world, callers, left, counts) =
            (world.clone(), callers.clone(), left.clone(), counts.clone());
        tokio::spawn(async move {
            let mut random = fastrand::Rng::with_seed(worker as u64);
            let mut serial = 0_usize;
            while take(&left) {
                serial += 1;
                let caller = &callers[random.usize(..callers.len())];
                let id = format!("iso-{}-{worker}-{serial}", caller.tenant);
                let what = ask(&world, caller, &id, &mut random).await;
                *counts.lock().unwrap().entry(what).or_default() += 1;
            }
        })
    });
    let workers: Vec<_> = workers.collect();
    let mut random = fastrand::Rng::with_seed(99);
    while *left.borrow() > 0 {
        change(&world, &mut random, &left).await;
    }
    for worker in workers {
        worker.await.unwrap();
    }
    drop(flying);
    let counts = counts.lock().unwrap().clone();
    for what in [
        "hit", "fetched", "changed", "uploaded", "not-seen", "refused",
    ] {
        assert!(
            counts.get(what).is_some_and(|count| *count > 0),
            "{what}: {counts:?}"
        );
    }
    check_records(&world).await;
    check_lines();
}

/// One request, and what came of it.
async fn ask(world: &World, caller: &Caller, id: &str, random: &mut fastrand::Rng) -> &'static str {
    let order = random.u64(1..=ORDERS);
    let path = format!("/v1/ordenes/{order}");
    let request = |method, path: &str| {
        world
            .bare(method, path)
            .bearer_auth(&caller.token)
            .header("x-request-id", id)
    };
    let (request, is_write) = match random.u32(..100) {
        0..60 => (request(Method::GET, &path), false),
        60..80 => (request(Method::GET, "/v1/ordenes?limit=5"), false),
        80..84 => (request(Method::GET, "/v1/me"), false),
        84..88 => {
            let other = tenant(random.usize(..TENANTS));
            let request = request(Method::GET, &path).header("llavero-tenant", &other);
            let answer = world.send(request).await;
            if other == caller.tenant {
                assert!(matches!(answer.status.as_u16(), 200 | 403 | 404));
            } else {
                answer.problem(403, "tenant-not-allowed");
            }
            return "refused";
        }
        88..98 => {
            let text = format!("{}{}", mark(&caller.tenant), random.u32(..));
            let request = request(Method::PATCH, &path).json(&json!({"descripcion": text}));
            (request, true)
        }
        _ => {
            let image = multipart::Part::bytes(photo("no-exif.jpg")).file_name("a.jpg");
            let form = multipart::Form::new()
                .text("proceso", "antes")
                .text("titulo", mark(&caller.tenant))
                .part("imagen", image);
            let request = request(Method::POST, &format!("{path}/imagenes")).multipart(form);
            (request, true)
        }
    };
    let answer = world.send(request).await;
    let text = answer.text();
    for found in marks_in(&text) {
        assert_eq!(found, caller.tenant, "{text}");
    }
    match answer.status.as_u16() {
        // Its file is gone for a moment.
        403 => {
            answer.problem(403, "tenant-not-allowed");
            "refused"
        }
        404 => {
            assert!(caller.is_technician && order % 2 == 1, "{text}");
            "not-seen"
        }
        201 => "uploaded",
        200 if is_write => "changed",
        200 => {
            let body = answer.json();
            if let Some(results) = body["results"].as_array() {
                assert!(results.iter().all(|orden| may_see(caller, orden)), "{text}");
            } else if body["id"].is_number() {
                assert!(body["id"] == order && may_see(caller, &body), "{text}");
            } else {
                assert!(
                    body["tenant"].is_null() || body["tenant"] == caller.tenant,
                    "{text}"
                );
            }
            if answer.header("cache-status").contains("hit") {
                "hit"
            } else {
                "fetched"
            }
        }
        _ => panic!("{text}"),
    }
}

fn may_see(caller: &Caller, orden: &Value) -> bool {
    let id = orden["id"].as_u64().unwrap();
    let text = orden["descripcion"].as_str().unwrap();
    text.starts_with(&mark(&caller.tenant)) && (!caller.is_technician || id.is_multiple_of(2))
}

/// A tenant's file changes: its technicians act as another user who sees the same, it
/// is wrong, or it goes and comes back.
async fn change(world: &World, random: &mut fastrand::Rng, left: &watch::Sender<usize>) {
    let tenant = tenant(random.usize(..TENANTS));
    let path = world.files().join(format!("tenants/{tenant}.yaml"));
    match random.u32(..4) {
        0 => write_file(world, &tenant, "tecnicos"),
        1 => write_file(world, &tenant, "suplentes"),
        2 => fs::write(&path, "clave: [").unwrap(),
        _ => {
            // Of those that are asked for meanwhile, some are its own.
            fs::remove_file(&path).unwrap();
            pass(left, TENANTS).await;
            write_file(world, &tenant, "tecnicos");
        }
    }
    pass(left, TENANTS / 2).await;
}

/// Takes one of the requests that are left, if any is.
fn take(left: &watch::Sender<usize>) -> bool {
    left.send_if_modified(|left| {
        let is_one = *left > 0;
        *left -= usize::from(is_one);
        is_one
    })
}

/// Waits until so many more requests have begun, or none is left.
async fn pass(left: &watch::Sender<usize>, requests: usize) {
    let until = left.borrow().saturating_sub(requests);
    let mut left = left.subscribe();
    left.wait_for(|left| *left <= until).await.unwrap();
}

/// The tenant that a request's id names.
fn tenant_of(id: &str) -> Option<&str> {
    id.strip_prefix("iso-")?.get(..3)
}

async fn check_records(world: &World) {
    let records = world.audit().await;
    let mut writes = 0;
    for record in &records {
        let Some(own) = record["request_id"].as_str().and_then(tenant_of) else {
            continue;
        };
        assert!(
            record["tenant"].is_null() || record["tenant"] == own,
            "{record}"
        );
        assert!(
            record["tenant"] == own || record["outcome"] == "denied",
            "{record}"
        );
        writes += usize::from(record["outcome"] == "done");
    }
    assert!(writes > 0, "nothing was changed");
}

fn check_lines() {
    let mut tenants = 0;
    for line in leaks::lines_with("\"iso-") {
        let Some(own) = line["span"]["request_id"].as_str().and_then(tenant_of) else {
            continue;
        };
        let told = &line["span"]["tenant"];
        assert!(told.is_null() || told == own, "{line}");
        let told = &line["tenant"];
        assert!(told.is_null() || told == own, "{line}");
        tenants += usize::from(!line["span"]["tenant"].is_null());
    }
    assert!(tenants > 0, "no line names a tenant");
}
