//! What is asked once is done once: `Idempotency-Key`, equal photos, and outcomes that nobody knows.

use std::time::Duration;

use llavero::in_flight::BESIDE_IMAGE;
use llavero_simulator::{Faults, Only, StatusFault};
use reqwest::{
    Method, RequestBuilder,
    multipart::{Form, Part},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket},
};

use crate::harness::{Reply, World, key, photo, with_clave};

const IMAGENES: &str = "/v1/ordenes/11001/imagenes";
const ORDEN: &str = "/v1/ordenes/11001";

fn form(titulo: Option<&str>, image: Vec<u8>) -> Form {
    let form = Form::new()
        .text("proceso", "antes")
        .part("imagen", Part::bytes(image).file_name("foto.jpg"));
    match titulo {
        Some(titulo) => form.text("titulo", titulo.to_owned()),
        None => form,
    }
}

fn sony() -> Vec<u8> {
    photo("sony-rx1r.jpg")
}

/// Another photo: what cameras append behind the end is theirs.
fn other() -> Vec<u8> {
    photo("no-exif.jpg")
}

/// What hits uploads and changes only.
fn hits_writes(faults: Faults) -> Faults {
    Faults {
        only: Some(Only {
            method: Some("POST".to_owned()),
            path_contains: None,
        }),
        ..faults
    }
}

fn hits_changes(faults: Faults) -> Faults {
    Faults {
        only: Some(Only {
            method: Some("PATCH".to_owned()),
            path_contains: None,
        }),
        ..faults
    }
}

impl World {
    fn keyed(&self, key: &str) -> RequestBuilder {
        self.request(Method::POST, IMAGENES)
            .header("idempotency-key", key)
    }

    async fn upload_keyed(&self, key: &str, image: Vec<u8>) -> Reply {
        self.send(self.keyed(key).multipart(form(None, image)))
            .await
    }

    async fn change_keyed(&self, key: &str, body: Value) -> Reply {
        let request = self
            .request(Method::PATCH, ORDEN)
            .header("idempotency-key", key);
        self.send(request.json(&body)).await
    }

    /// How many photos the ERP has got.
    fn attached(&self) -> usize {
        let received = self.received();
        received
            .iter()
            .filter(|request| request.archivo_id.is_some())
            .count()
    }

    fn sent(&self, method: &str) -> usize {
        let received = self.received();
        received
            .iter()
            .filter(|request| request.method == method)
            .count()
    }
}

/// A record of something that wasn't done, which says of which photo.
fn assert_is_of(record: &Value, image: &[u8]) {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, image);
    let hex: String = digest
        .as_ref()
        .iter()
        .map(|it| format!("{it:02x}"))
        .collect();
    assert_eq!(record["outcome"], "refused");
    assert_eq!(record["image_sha256"], hex);
    assert_eq!(record["image_bytes"], image.len());
}

fn assert_replayed(reply: &Reply, first: &Reply) {
    assert_eq!(reply.status, first.status);
    assert_eq!(reply.header("idempotent-replayed"), "true");
    assert_eq!(reply.body, first.body, "the same answer");
    assert_eq!(reply.header("location"), first.header("location"));
    assert_eq!(reply.header("etag"), first.header("etag"));
}

#[tokio::test]
async fn a_photo_that_is_sent_again_under_its_key_is_attached_once() {
    let world = World::configured("images: {dedupe_window: 0}\n").await;
    let first = world.upload_keyed("8e03978e", sony()).await;
    first.ok(201);
    assert_eq!(first.header("idempotent-replayed"), "");
    for key in ["8e03978e", "\"8e03978e\"", "\"8e03978e\";p=1"] {
        let again = world.upload_keyed(key, sony()).await;
        assert_replayed(&again, &first);
    }
    assert_eq!(world.attached(), 1);
    world.clock.advance(Duration::from_secs(72 * 3600 - 10));
    assert_replayed(&world.upload_keyed("8e03978e", sony()).await, &first);
    world.clock.advance(Duration::from_secs(20));
    let later = world.upload_keyed("8e03978e", sony()).await;
    later.ok(201);
    assert_eq!(later.header("idempotent-replayed"), "");
    assert_eq!(world.attached(), 2);
}

#[tokio::test]
async fn another_photo_under_a_used_key_is_refused() {
    let world = World::start().await;
    world.upload_keyed("k", sony()).await.ok(201);
    let request = world.keyed("k").header("x-request-id", "refused");
    let mismatch = world.send(request.multipart(form(None, other()))).await;
    mismatch.problem(422, "idempotency-mismatch");
    assert_eq!(mismatch.named(), ["Idempotency-Key"]);
    let record = world.record_of("refused").await;
    assert_eq!(record["code"], "idempotency-mismatch");
    assert_is_of(&record, &other());
    let titled = world
        .keyed("k")
        .multipart(form(Some("Otro título"), sony()));
    let titled = world.send(titled).await;
    titled.problem(422, "idempotency-mismatch");
    let step = Form::new()
        .text("proceso", "despues")
        .part("imagen", Part::bytes(sony()));
    let step = world.send(world.keyed("k").multipart(step)).await;
    step.problem(422, "idempotency-mismatch");
    assert_eq!(world.attached(), 1);
}

#[tokio::test]
async fn a_key_is_its_tenants_its_subjects_and_its_routes() {
    let world = World::configured("images: {dedupe_window: 0}\n").await;
    world.upload_keyed("k", sony()).await.ok(201);
    let elsewhere = world
        .request(Method::POST, "/v1/ordenes/11003/imagenes")
        .header("idempotency-key", "k")
        .multipart(form(None, sony()));
    let others = [json!({"sub": "beto"}), json!({"tenant": "norte"})];
    let others = others.map(|claims| {
        let path = match claims["tenant"].as_str() {
            Some(_) => "/v1/ordenes/21001/imagenes",
            None => IMAGENES,
        };
        world
            .bare(Method::POST, path)
            .bearer_auth(world.token(&claims))
            .header("idempotency-key", "k")
            .multipart(form(None, sony()))
    });
    for request in others.into_iter().chain([elsewhere]) {
        let reply = world.send(request).await;
        reply.ok(201);
        assert_eq!(reply.header("idempotent-replayed"), "");
    }
    // A change of the same order under the same key is another route.
    world
        .change_keyed("k", json!({"prioridad": "alta"}))
        .await
        .ok(200);
    // A new token of the same subject is nobody else.
    let renewed = world
        .bare(Method::POST, IMAGENES)
        .bearer_auth(world.token(&json!({"jti": "another"})))
        .header("idempotency-key", "k")
        .multipart(form(None, sony()));
    let renewed = world.send(renewed).await;
    assert_eq!(renewed.header("idempotent-replayed"), "true");
    assert_eq!(world.attached(), 4);
}

#[tokio::test]
async fn a_key_that_is_none_is_refused_before_anything_else() {
    let world = World::start().await;
    for bad in ["", "a b", "\"a", &"x".repeat(256)] {
        let reply = world.upload_keyed(bad, sony()).await;
        reply.problem(400, "invalid-parameter");
        assert_eq!(reply.named(), ["Idempotency-Key"]);
    }
    let twice = world
        .keyed("a")
        .header("idempotency-key", "b")
        .multipart(form(None, sony()));
    world.send(twice).await.problem(400, "invalid-parameter");
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn the_same_key_while_it_runs_is_told_to_wait() {
    let world = World::start().await;
    // It runs as long as the clock stands still, and is then found.
    let silent = Faults {
        accept_then_hang: true,
        ..Faults::default()
    };
    world.faults("carper", hits_writes(silent));
    let (first, (second, _time)) = tokio::join!(world.upload_keyed("k", sony()), async {
        while world.received().is_empty() {
            tokio::task::yield_now().await;
        }
        let mismatch = world.upload_keyed("k", other()).await;
        mismatch.problem(422, "idempotency-mismatch");
        let request = world.keyed("k").header("x-request-id", "early");
        let second = world.send(request.multipart(form(None, sony()))).await;
        (second, world.time_flies())
    });
    first.ok(201);
    second.problem(409, "idempotency-conflict");
    assert_is_of(&world.record_of("early").await, &sony());
    assert!(second.header("retry-after").parse::<u64>().unwrap() >= 1);
    let third = world.upload_keyed("k", sony()).await;
    assert_replayed(&third, &first);
    assert_eq!(world.attached(), 1);
}

#[tokio::test]
async fn a_refusal_is_not_kept() {
    let world = World::start().await;
    world.faults("carper", Faults::answering(400));
    let refused = world.upload_keyed("k", sony()).await;
    refused.problem(422, "upstream-validation");
    world.faults("carper", Faults::default());
    let reply = world.upload_keyed("k", other()).await;
    reply.ok(201);
    assert_eq!(reply.header("idempotent-replayed"), "");
}

#[tokio::test]
async fn an_equal_photo_without_a_key_is_the_same_upload_for_a_while() {
    let world = World::start().await;
    let send = |path: &'static str, proceso: &'static str, image: Vec<u8>| {
        let form = Form::new()
            .text("proceso", proceso)
            .part("imagen", Part::bytes(image));
        world.upload(path, form)
    };
    let first = send(IMAGENES, "antes", sony()).await;
    first.ok(201);
    assert_replayed(&send(IMAGENES, "1", sony()).await, &first);
    for (path, proceso, image) in [
        (IMAGENES, "despues", sony()),
        ("/v1/ordenes/11003/imagenes", "antes", sony()),
        (IMAGENES, "antes", other()),
    ] {
        let reply = send(path, proceso, image).await;
        reply.ok(201);
        assert_eq!(reply.header("idempotent-replayed"), "", "{path} {proceso}");
    }
    world.clock.advance(Duration::from_secs(601));
    let later = send(IMAGENES, "antes", sony()).await;
    assert_eq!(later.header("idempotent-replayed"), "");
    assert_eq!(world.attached(), 5);
}

#[tokio::test]
async fn equal_photos_at_once_are_attached_once() {
    let world = World::start().await;
    world.holds("carper");
    let uploads = (0..5).map(|_| world.upload(IMAGENES, form(None, sony())));
    let (replies, ()) = tokio::join!(futures_util::future::join_all(uploads), async {
        world.wait_until_received(1).await;
        world.wait_until_authenticated(5).await;
        world.lets_go("carper");
    });
    let first = replies[0].ok(201);
    for reply in &replies {
        assert_eq!(reply.ok(201), first);
    }
    let replayed = |reply: &&Reply| reply.header("idempotent-replayed") == "true";
    assert_eq!(replies.iter().filter(replayed).count(), 4);
    assert_eq!(world.attached(), 1);
}

#[tokio::test]
async fn a_photo_without_a_key_waits_for_the_same_one_that_runs_under_a_key() {
    let world = World::start().await;
    let refusal = StatusFault {
        code: 422,
        retry_after: None,
        times: None,
    };
    for (image, refusal) in [(sony(), None), (other(), Some(refusal))] {
        world.erp.clear_requests();
        let is_made = refusal.is_none();
        let hold = Faults {
            hold: true,
            status: refusal,
            ..Faults::default()
        };
        world.faults("carper", hold);
        let keyed = world.upload_keyed(if is_made { "k" } else { "l" }, image.clone());
        let without = async {
            world.wait_until_received(1).await;
            let (without, ()) =
                tokio::join!(world.upload(IMAGENES, form(None, image.clone())), async {
                    // Both are here.
                    let held = 2 * (image.len() as u64 + BESIDE_IMAGE);
                    let held = format!("llavero_uploads_in_flight_bytes {held}");
                    for _ in 0..20 {
                        world.wait_for_metric(&held).await;
                    }
                    assert_eq!(world.received().len(), 1, "the other one waits");
                    world.lets_go("carper");
                });
            without
        };
        let (keyed, without) = tokio::join!(keyed, without);
        let without_id = &without.ok(201)["id"];
        if is_made {
            assert_eq!(&keyed.ok(201)["id"], without_id);
            assert_eq!(without.header("idempotent-replayed"), "true");
        } else {
            keyed.problem(422, "upstream-validation");
            assert_eq!(without.header("idempotent-replayed"), "");
        }
        assert_eq!(world.attached(), 1);
    }
}

#[tokio::test]
async fn without_a_window_a_photo_in_doubt_is_still_looked_for() {
    let world = World::configured("images: {dedupe_window: 0s}\n").await;
    let time = world.time_flies();
    let upload = || world.upload(IMAGENES, form(None, other()));
    let reply = lost(&world, upload(), Faults::hanging()).await;
    reply.problem(504, "upstream-timeout");
    assert!(!reply.header("retry-after").is_empty());
    drop(time);
    world.faults("carper", Faults::default());
    let found = once_it_is_asked(upload).await;
    found.ok(201);
    assert_eq!(found.header("idempotent-replayed"), "true");
    assert_eq!(world.attached(), 1);
}

#[tokio::test]
async fn an_equal_photo_of_another_credential_is_another() {
    let world = World::start().await;
    world.upload(IMAGENES, form(None, sony())).await.ok(201);
    let tecnico = world.token(&json!({"scope": "imagenes:write rol:tecnico"}));
    let request = world
        .bare(Method::POST, IMAGENES)
        .bearer_auth(tecnico)
        .multipart(form(None, sony()));
    let reply = world.send(request).await;
    reply.ok(201);
    assert_eq!(reply.header("idempotent-replayed"), "");
    assert_eq!(world.attached(), 2);
    let _ = key("carper", "tecnicos");
}

#[tokio::test]
async fn without_a_window_equal_photos_are_two() {
    let world = World::configured("images: {dedupe_window: 0s}\n").await;
    for _ in 0..2 {
        let reply = world.upload(IMAGENES, form(None, sony())).await;
        reply.ok(201);
        assert_eq!(reply.header("idempotent-replayed"), "");
    }
    assert_eq!(world.attached(), 2);
}

#[tokio::test]
async fn a_photo_whose_answer_never_came_is_found_at_once() {
    let world = World::start().await;
    let _time = world.time_flies();
    world.faults(
        "carper",
        hits_writes(Faults {
            accept_then_hang: true,
            ..Faults::default()
        }),
    );
    let first = world.upload_keyed("k", sony()).await;
    let archivo = first.ok(201);
    let received = world.received();
    let id = received.iter().find_map(|request| request.archivo_id);
    assert_eq!(archivo["id"].as_u64(), id);
    assert_replayed(&world.upload_keyed("k", sony()).await, &first);
    assert_eq!(world.attached(), 1);
    let requests = world.audit().await;
    let outcomes: Vec<_> = requests.iter().map(|record| &record["outcome"]).collect();
    assert_eq!(outcomes, ["done", "replayed"]);
}

#[tokio::test]
async fn what_nobody_knows_is_looked_for_before_anything_is_sent_again() {
    let world = World::start().await;
    let time = world.time_flies();
    // It takes the photo, and then nobody answers anything.
    world.faults(
        "carper",
        Faults {
            accept_then_hang: true,
            ..Faults::default()
        },
    );
    let blind = Faults::hanging();
    let (first, ()) = tokio::join!(world.upload_keyed("k", sony()), async {
        while world.attached() == 0 {
            tokio::task::yield_now().await;
        }
        world.faults("carper", blind.clone());
    });
    first.problem(504, "upstream-timeout");
    // Still nobody knows: nothing is sent.
    let second = world.upload_keyed("k", sony()).await;
    assert!(second.status.is_server_error(), "{}", second.text());
    assert_eq!(world.sent("POST"), 1);
    drop(time);
    world.faults("carper", Faults::default());
    world.clock.advance(Duration::from_secs(60));
    // The breaker tries first.
    let found = loop {
        let reply = world.upload_keyed("k", sony()).await;
        match reply.status.as_u16() {
            503 => tokio::task::yield_now().await,
            _ => break reply,
        }
    };
    found.ok(201);
    assert_eq!(found.header("idempotent-replayed"), "true");
    assert_eq!(world.sent("POST"), 1);
    assert_replayed(&world.upload_keyed("k", sony()).await, &found);
    // What was learnt by looking is recorded as such, and which file it is.
    let records = world.audit().await;
    let replayed: Vec<_> = records
        .iter()
        .filter(|record| record["outcome"] == "replayed")
        .map(|record| [&record["found"], &record["archivo"]])
        .collect();
    let id = &found.json()["id"];
    assert_eq!(replayed, [[&json!(true), id], [&Value::Null, id]]);
    assert!(records[0].get("archivo").is_none() && records[0]["outcome"] == "unknown");
}

#[tokio::test]
async fn what_left_no_trace_is_sent_again_once_it_is_certain() {
    let world = World::start().await;
    world.faults(
        "carper",
        hits_writes(Faults::from(StatusFault {
            times: Some(1),
            ..StatusFault::new(500)
        })),
    );
    world
        .upload_keyed("k", sony())
        .await
        .problem(502, "upstream-error");
    // It may yet be made.
    let early = world.upload_keyed("k", sony()).await;
    early.problem(409, "idempotency-conflict");
    assert_eq!(early.header("retry-after"), "10");
    world.clock.advance(Duration::from_secs(58));
    let late = world.upload_keyed("k", sony()).await;
    late.problem(409, "idempotency-conflict");
    assert_eq!(late.header("retry-after"), "2");
    assert_eq!(world.sent("POST"), 1);
    world.clock.advance(Duration::from_secs(2));
    let reply = world.upload_keyed("k", sony()).await;
    reply.ok(201);
    assert_eq!(reply.header("idempotent-replayed"), "");
    assert_eq!(world.attached(), 1);
}

#[tokio::test]
async fn a_photo_of_the_same_title_is_not_taken_for_another() {
    let world = World::start().await;
    let titled = |image| form(Some("Fachada"), image);
    world
        .send(world.keyed("a").multipart(titled(sony())))
        .await
        .ok(201);
    // The second isn't made, and mustn't be found in the first.
    world.faults(
        "carper",
        hits_writes(Faults::from(StatusFault {
            times: Some(1),
            ..StatusFault::new(500)
        })),
    );
    let second = world
        .send(world.keyed("b").multipart(titled(other())))
        .await;
    second.problem(502, "upstream-error");
    // Nor in a third, which comes in between.
    let third = Form::new()
        .text("proceso", "antes")
        .text("titulo", "Fachada")
        .part("imagen", Part::bytes(photo("lumia-gps.jpg")));
    world.send(world.keyed("c").multipart(third)).await.ok(201);
    world.clock.advance(Duration::from_secs(60));
    let again = world
        .send(world.keyed("b").multipart(titled(other())))
        .await;
    again.ok(201);
    assert_eq!(again.header("idempotent-replayed"), "");
    assert_eq!(world.attached(), 3);
}

#[tokio::test]
async fn who_waits_for_a_photo_of_the_same_title_waits_no_longer_than_for_a_turn() {
    let world = World::start().await;
    world.holds("carper");
    let first = world.keyed("k").multipart(form(Some("Fachada"), sony()));
    let second = world.keyed("l").multipart(form(Some("Fachada"), other()));
    let (first, ()) = tokio::join!(world.send(first), async {
        world.wait_until_received(1).await;
        let second = tokio::spawn(second.send());
        world.wait_until_authenticated(2).await;
        let time = world.time_flies();
        let second = second.await.unwrap().unwrap();
        drop(time);
        assert_eq!(second.status(), 503);
        assert_eq!(second.headers()["retry-after"], "10");
        let problem: Value = second.json().await.unwrap();
        assert_eq!(problem["code"], "overloaded");
        let detail = problem["detail"].as_str().unwrap();
        assert!(
            detail.contains("another photo with the same `titulo`"),
            "{detail}"
        );
        assert_eq!(world.received().len(), 1);
        world.lets_go("carper");
    });
    first.ok(201);
}

/// The database's clock may be wrong, and what it writes unreadable.
#[tokio::test]
async fn a_title_that_the_gateway_made_is_enough_to_know_a_photo() {
    let clave = with_clave("carper");
    for (creado, retitled) in [
        (json!("2020-01-01T00:00:00+00:00"), None),
        (json!("2026-01-27T22:20:56"), None),
        (Value::Null, Some("ANTES_del_servicio")),
    ] {
        let world = World::start().await;
        world.faults(
            "carper",
            hits_writes(Faults {
                accept_then_hang: true,
                ..Faults::default()
            }),
        );
        let (reply, _time) = tokio::join!(world.upload_keyed("k", sony()), async {
            while world.attached() == 0 {
                tokio::task::yield_now().await;
            }
            let mut orden = world.erp.orden(&clave, 11001).unwrap();
            let archivo = orden["archivos"]
                .as_array_mut()
                .unwrap()
                .last_mut()
                .unwrap();
            archivo["creado"] = creado.clone();
            if let Some(step) = retitled {
                let titulo = archivo["titulo"].as_str().unwrap().to_uppercase();
                let (_, rest) = titulo.split_once(" - ").unwrap();
                archivo["titulo"] = json!(format!("{step}_-_{rest}"));
            }
            assert!(world.erp.put_orden(&clave, 11001, orden));
            world.time_flies()
        });
        reply.ok(201);
        assert_eq!(world.attached(), 1, "{creado}");
        assert_eq!(world.sent("POST"), 1, "{creado}");
    }
}

#[tokio::test]
async fn the_same_photo_of_another_step_is_not_taken_for_one_that_failed() {
    let world = World::start().await;
    let of_step = |key: &str, step: &str| {
        let part = Part::bytes(sony()).file_name("foto.jpg");
        let form = Form::new()
            .text("proceso", step.to_owned())
            .part("imagen", part);
        world.send(world.keyed(key).multipart(form))
    };
    // Both within a second.
    of_step("k", "antes").await.ok(201);
    world.faults(
        "carper",
        hits_writes(Faults {
            status: Some(StatusFault {
                times: Some(1),
                ..StatusFault::new(500)
            }),
            ..Faults::default()
        }),
    );
    of_step("l", "despues").await.problem(502, "upstream-error");
    world.clock.advance(Duration::from_secs(60));
    let made = of_step("l", "despues").await;
    made.ok(201);
    assert_eq!(made.header("idempotent-replayed"), "");
    assert_eq!(world.attached(), 2);
}

#[tokio::test]
async fn an_older_photo_of_the_same_title_is_not_taken_for_one_that_failed() {
    let world = World::start().await;
    let clave = with_clave("carper");
    let mut orden = world.erp.orden(&clave, 11001).unwrap();
    orden["archivos"] = json!([
        {"id": 1, "url": "https://a.example.net/1", "titulo": "Fachada", "creado": "2026-01-27T22:20:56.787815+00:00"},
        {"id": 2, "url": "https://a.example.net/2", "titulo": "Fachada", "creado": null}
    ]);
    assert!(world.erp.put_orden(&clave, 11001, orden));
    world.faults(
        "carper",
        hits_writes(Faults::from(StatusFault {
            times: Some(1),
            ..StatusFault::new(500)
        })),
    );
    let send = || world.keyed("k").multipart(form(Some("Fachada"), sony()));
    let failed = world.send(send()).await;
    failed.problem(502, "upstream-error");
    world.clock.advance(Duration::from_secs(60));
    let made = world.send(send()).await;
    made.ok(201);
    assert_eq!(made.header("idempotent-replayed"), "");
    assert_eq!(world.attached(), 1);
}

#[tokio::test]
async fn a_change_that_is_found_later_shows_in_reads_at_once() {
    let world = World::start().await;
    let time = world.time_flies();
    let body = json!({"status": "terminada"});
    world.faults(
        "carper",
        Faults {
            accept_then_hang: true,
            ..Faults::default()
        },
    );
    let (first, ()) = tokio::join!(world.change_keyed("k", body.clone()), async {
        let clave = with_clave("carper");
        while world.erp.orden(&clave, 11001).unwrap()["status"] != 3 {
            tokio::task::yield_now().await;
        }
        let hang = Faults::hanging();
        world.faults("carper", hang);
    });
    first.problem(504, "upstream-timeout");
    drop(time);
    world.faults("carper", Faults::default());
    // Another's change in the ERP, and then what the cache has of it.
    world.clock.advance(Duration::from_secs(60));
    let seen = loop {
        let seen = world.get(ORDEN).await;
        if seen.status == 200 && seen.json()["status"] == "terminada" {
            break seen;
        }
        world.clock.advance(Duration::from_secs(31));
    };
    let fetches = world.sent("GET");
    let found = world.change_keyed("k", body).await;
    assert_eq!(found.ok(200)["status"], seen.json()["status"]);
    assert_eq!(found.header("idempotent-replayed"), "true");
    let again = world.get(ORDEN).await;
    assert!(
        again.header("cache-status").contains("fwd="),
        "{}",
        again.header("cache-status")
    );
    assert_eq!(world.sent("GET"), fetches + 2, "the look, and this read");
}

#[tokio::test]
async fn photos_of_one_second_get_titles_of_their_own() {
    let world = World::start().await;
    let photos = [sony(), other(), photo("lumia-gps.jpg")];
    let uploads = photos.map(|image| world.upload(IMAGENES, form(None, image)));
    let replies = futures_util::future::join_all(uploads).await;
    let mut titles: Vec<String> = replies
        .iter()
        .map(|reply| reply.ok(201)["titulo"].as_str().unwrap().to_owned())
        .collect();
    titles.sort();
    titles.dedup();
    assert_eq!(titles.len(), 3, "{titles:?}");
}

#[tokio::test]
async fn the_answer_has_the_digest_of_what_the_erp_got() {
    let world = World::start().await;
    let archivo = world.upload(IMAGENES, form(None, sony())).await.ok(201);
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &sony());
    let digest = base64_simd::STANDARD.encode_to_string(digest.as_ref());
    assert_eq!(archivo["digest"], format!("sha-256=:{digest}:"));
}

#[tokio::test]
async fn a_change_that_is_sent_again_under_its_key_is_made_once() {
    let world = World::start().await;
    let body = json!({"status": "en_proceso", "prioridad": "alta"});
    let first = world.change_keyed("k", body.clone()).await;
    first.ok(200);
    let reordered = json!({"prioridad": 1, "status": "2"});
    assert_replayed(&world.change_keyed("k", reordered).await, &first);
    let other = world.change_keyed("k", json!({"status": "abierta"})).await;
    other.problem(422, "idempotency-mismatch");
    assert_eq!(world.sent("PATCH"), 1);
    world.clock.advance(Duration::from_secs(24 * 3600 + 1));
    world.change_keyed("k", body).await.ok(200);
    assert_eq!(world.sent("PATCH"), 2);
}

#[tokio::test]
async fn a_change_whose_answer_never_came_is_looked_for() {
    let world = World::start().await;
    let _time = world.time_flies();
    world.faults(
        "carper",
        hits_changes(Faults {
            accept_then_hang: true,
            ..Faults::default()
        }),
    );
    let body = json!({
        "status": "terminada", "prioridad": null, "descripcion": "<p>Ñandú</p>",
        "bitacora_inicio_cliente": "2026-01-01T09:44:27-06:00"
    });
    let first = world.change_keyed("k", body.clone()).await;
    assert_eq!(first.ok(200)["status"], "terminada");
    assert_replayed(&world.change_keyed("k", body.clone()).await, &first);
    assert_eq!(world.sent("PATCH"), 1);
    // Without a key nobody looks.
    let unkeyed = world.patch(ORDEN, json!({"status": "abierta"})).await;
    unkeyed.problem(504, "upstream-timeout");
}

#[tokio::test]
async fn a_change_that_wasnt_made_is_made_when_it_is_sent_again() {
    let world = World::start().await;
    world.faults(
        "carper",
        hits_changes(Faults::from(StatusFault {
            times: Some(1),
            ..StatusFault::new(500)
        })),
    );
    let body = json!({"status": "cancelada"});
    let failed = world.change_keyed("k", body.clone()).await;
    failed.problem(502, "upstream-error");
    world.clock.advance(Duration::from_secs(60));
    let made = world.change_keyed("k", body).await;
    assert_eq!(made.ok(200)["status"], "cancelada");
    assert_eq!(made.header("idempotent-replayed"), "");
    assert_eq!(world.sent("PATCH"), 2);
}

#[tokio::test]
async fn a_change_with_a_condition_is_replayed_though_the_record_has_changed() {
    let world = World::start().await;
    let etag = world.get(ORDEN).await.header("etag").to_owned();
    let send = || {
        world
            .request(Method::PATCH, ORDEN)
            .header("idempotency-key", "k")
            .header("if-match", &etag)
            .json(&json!({"status": "terminada"}))
    };
    let first = world.send(send()).await;
    first.ok(200);
    assert_replayed(&world.send(send()).await, &first);
    assert_eq!(world.sent("PATCH"), 1);
}

#[tokio::test]
async fn a_caller_that_leaves_finds_its_answer_later() {
    let world = World::start().await;
    world.holds("carper");
    let leaves = world.keyed("k").header("x-request-id", "photo-of-who-left");
    let leaves = tokio::spawn(leaves.multipart(form(None, sony())).send());
    world.wait_until_received(1).await;
    leaves.abort();
    world.wait_until_left("photo-of-who-left").await;
    let early = world.upload_keyed("k", sony()).await;
    early.problem(409, "idempotency-conflict");
    world.lets_go("carper");
    let reply = loop {
        let reply = world.upload_keyed("k", sony()).await;
        if reply.status != 409 {
            break reply;
        }
    };
    reply.ok(201);
    assert_eq!(reply.header("idempotent-replayed"), "true");
    assert_eq!(world.attached(), 1);
    let clave = with_clave("carper");
    let received = world.received();
    let id = received.iter().find_map(|request| request.archivo_id);
    assert!(world.erp.imagen(&clave, id.unwrap()).unwrap() == sony());
}

/// An ERP that has an order, and closes the connection in the middle of the first photo.
async fn breaks_off_once(listener: TcpListener) -> usize {
    let mut photos = 0;
    loop {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        let mut piece = vec![0; 16 * 1024];
        loop {
            let read = socket.read(&mut piece).await.unwrap();
            if read == 0 {
                break;
            }
            request.extend_from_slice(&piece[..read]);
            if photos == 0 && request.len() > 64 * 1024 {
                photos += 1;
                break;
            }
            let body = match &request[..] {
                get if get.starts_with(b"GET") => json!({"id": 11001, "status": 1}),
                post if post.ends_with(b"\"}") => json!({
                    "id": 7, "url": "https://a.example.net/7", "titulo": "t",
                    "creado": "2026-01-28T17:53:36Z"
                }),
                _ => continue,
            };
            let is_photo = request.starts_with(b"POST");
            request.clear();
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            socket.write_all(head.as_bytes()).await.unwrap();
            if is_photo {
                return photos + 1;
            }
        }
    }
}

#[tokio::test]
async fn a_body_that_broke_off_cant_have_been_taken_and_is_sent_again() {
    // What the machine keeps for the ERP must be less than the photo.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16).unwrap();
    let address = listener.local_addr().unwrap();
    let erp = tokio::spawn(breaks_off_once(listener));
    let base_url = format!("http://{address}/{{clave}}/api/v2/");
    let world = World::before_upstream(&base_url, "").await;
    let _time = world.time_flies();
    // One retry is saved by five requests.
    for _ in 0..5 {
        let fresh = world
            .request(Method::GET, ORDEN)
            .header("cache-control", "no-cache");
        world.send(fresh).await.ok(200);
    }
    // One pixel, and more comment than the machine keeps on its way.
    let mut large = b"\xff\xd8".to_vec();
    for _ in 0..170 {
        large.extend(b"\xff\xfe\xff\xff");
        large.extend([0; 0xfffd]);
    }
    large.extend(
        b"\xff\xc0\0\x0b\x08\0\x01\0\x01\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0\x37\xff\xd9",
    );
    let reply = world.upload(IMAGENES, form(None, large)).await;
    assert_eq!(reply.ok(201)["id"], 7);
    assert_eq!(erp.await.unwrap(), 2);
}

#[tokio::test]
async fn a_photo_in_doubt_is_looked_for_whatever_its_next_key_is() {
    for (first, next) in [
        (Some("aa"), None),
        (Some("aa"), Some("bb")),
        (None, Some("cc")),
    ] {
        let world = World::start().await;
        let time = world.time_flies();
        let send = |key: Option<&str>| {
            let request = match key {
                Some(key) => world.keyed(key),
                None => world.request(Method::POST, IMAGENES),
            };
            world.send(request.multipart(form(None, sony())))
        };
        let reply = lost(&world, send(first), Faults::hanging()).await;
        reply.problem(504, "upstream-timeout");
        assert!(reply.text().contains("Send the same request again"));
        assert_eq!(reply.header("retry-after"), "10");
        drop(time);
        world.faults("carper", Faults::default());
        world.clock.advance(Duration::from_secs(60));
        let found = once_it_is_asked(|| send(next)).await;
        found.ok(201);
        assert_eq!(
            found.header("idempotent-replayed"),
            "true",
            "{first:?} {next:?}"
        );
        assert_eq!(world.sent("POST"), 1);
    }
}

/// What comes of an upload that the ERP takes and doesn't answer, where looking for it meets those faults.
async fn lost(world: &World, upload: impl Future<Output = Reply>, looking: Faults) -> Reply {
    let silent = Faults {
        accept_then_hang: true,
        ..Faults::default()
    };
    world.faults("carper", silent);
    let before = world.attached();
    let (reply, ()) = tokio::join!(upload, async {
        while world.attached() == before {
            tokio::task::yield_now().await;
        }
        world.faults("carper", looking);
    });
    reply
}

/// The first answer after those of a breaker that is still open.
async fn once_it_is_asked<F: Future<Output = Reply>>(send: impl Fn() -> F) -> Reply {
    loop {
        let reply = send().await;
        if reply.status != 503 {
            return reply;
        }
        tokio::task::yield_now().await;
    }
}

/// An upload that the ERP takes, and nobody learns of that.
async fn taken_unseen(world: &World, key: &str, titulo: &str) {
    let time = world.time_flies();
    let reply = lost(world, titled(world, key, titulo), unseen(500)).await;
    reply.problem(504, "upstream-timeout");
    drop(time);
}

/// An upload that the ERP doesn't take, without saying so.
async fn not_taken(world: &World, key: &str, titulo: &str) {
    world.faults("carper", hits_writes(Faults::answering(500)));
    let failed = titled(world, key, titulo).await;
    failed.problem(502, "upstream-error");
    world.faults("carper", Faults::default());
}

/// The ERP answers that to whoever looks.
fn unseen(status: u16) -> Faults {
    Faults {
        status: Some(StatusFault::new(status)),
        only: Some(Only {
            method: Some("GET".to_owned()),
            path_contains: None,
        }),
        ..Faults::default()
    }
}

async fn titled(world: &World, key: &str, titulo: &str) -> Reply {
    let form = form(Some(titulo), sony());
    world.send(world.keyed(key).multipart(form)).await
}

/// What is answered in the end to who asks again when it is told to.
async fn answered(world: &World, key: &str, titulo: &str) -> Reply {
    for _ in 0..100 {
        let reply = titled(world, key, titulo).await;
        if !matches!(reply.status.as_u16(), 409 | 502..=504) {
            return reply;
        }
        let seconds = reply.header("retry-after").parse().unwrap();
        world.clock.advance(Duration::from_secs(seconds));
    }
    panic!("there is no end of it");
}

#[tokio::test]
async fn who_finds_a_photo_in_doubt_finds_it_for_whoever_sent_it() {
    for settings in ["", "images: {dedupe_window: 0}\n"] {
        for (titulo, is_same) in [("Titulo A", true), ("Titulo B", false)] {
            let world = World::configured(settings).await;
            taken_unseen(&world, "aa", "Titulo A").await;
            world.faults("carper", Faults::default());
            let other = answered(&world, "bb", titulo).await;
            assert_eq!(other.ok(201)["titulo"], titulo);
            let replayed = if is_same { "true" } else { "" };
            assert_eq!(other.header("idempotent-replayed"), replayed, "{titulo}");
            let own = answered(&world, "aa", "Titulo A").await;
            assert_eq!(own.ok(201)["titulo"], "Titulo A");
            assert_eq!(own.header("idempotent-replayed"), "true");
            assert_eq!(own.body == other.body, is_same);
            assert_replayed(&titled(&world, "aa", "Titulo A").await, &own);
            assert_eq!(world.attached(), if is_same { 1 } else { 2 });
        }
    }
}

#[tokio::test]
async fn who_makes_up_for_a_photo_that_failed_does_it_for_whoever_sent_it() {
    let world = World::start().await;
    not_taken(&world, "aa", "Titulo A").await;
    titled(&world, "bb", "Titulo A")
        .await
        .problem(409, "idempotency-conflict");
    let made = answered(&world, "bb", "Titulo A").await;
    made.ok(201);
    assert_eq!(made.header("idempotent-replayed"), "");
    // Its own key is as good, and another one is another upload again.
    assert_replayed(&titled(&world, "aa", "Titulo A").await, &made);
    assert_replayed(&titled(&world, "bb", "Titulo A").await, &made);
    let next = titled(&world, "cc", "Titulo A").await;
    next.ok(201);
    assert_eq!(next.header("idempotent-replayed"), "");
    assert_eq!(world.attached(), 2);
}

#[tokio::test]
async fn who_has_no_key_leaves_an_answer_for_as_long_as_keys_last() {
    let world = World::start().await;
    taken_unseen(&world, "aa", "Titulo A").await;
    world.faults("carper", Faults::default());
    world.clock.advance(Duration::from_secs(60));
    let without = form(Some("Titulo A"), sony());
    let found = world.upload(IMAGENES, without).await;
    found.ok(201);
    assert_eq!(found.header("idempotent-replayed"), "true");
    world.clock.advance(Duration::from_secs(3600));
    assert_replayed(&titled(&world, "aa", "Titulo A").await, &found);
    assert_eq!(world.attached(), 1);
}

#[tokio::test]
async fn of_those_that_make_up_for_it_at_once_one_does() {
    let world = World::start().await;
    not_taken(&world, "aa", "Titulo A").await;
    world.clock.advance(Duration::from_secs(61));
    let (one, other) = tokio::join!(
        titled(&world, "bb", "Titulo A"),
        titled(&world, "aa", "Titulo A")
    );
    assert_eq!(one.ok(201), other.ok(201));
    assert_eq!(world.attached(), 1);
}

#[tokio::test]
async fn what_the_erp_says_to_a_look_is_not_told_of_the_photo() {
    for (status, told) in [
        (400, (409, "idempotency-conflict")),
        // Without the order there is nothing to find, but it may yet be made.
        (404, (409, "idempotency-conflict")),
        (413, (409, "idempotency-conflict")),
        (429, (503, "upstream-rate-limited")),
        (500, (502, "upstream-error")),
    ] {
        let world = World::start().await;
        taken_unseen(&world, "aa", "Titulo A").await;
        world.faults("carper", unseen(status));
        // Reads are tried again after a pause, and a credential that was limited has one.
        let _time = world.time_flies();
        let reply = titled(&world, "aa", "Titulo A").await;
        reply.problem(told.0, told.1);
        assert!(!reply.header("retry-after").is_empty());
        let detail = reply.json()["detail"].as_str().unwrap().to_lowercase();
        assert!(detail.contains("earlier attempt"), "{detail}");
        assert!(detail.contains("nothing was sent"), "{detail}");
        assert!(detail.contains("send the same request again"), "{detail}");
        assert_eq!(world.sent("POST"), 1);
        world.faults("carper", Faults::default());
        let found = answered(&world, "aa", "Titulo A").await;
        found.ok(201);
        assert_eq!(found.header("idempotent-replayed"), "true", "{status}");
        assert_eq!(world.attached(), 1);
    }
}

#[tokio::test]
async fn whoever_floods_a_tenant_gives_up_what_is_theirs_and_no_colleagues() {
    let world = World::configured("idempotency: {max_bytes: 1MiB}\n").await;
    let change = json!({"prioridad": "alta"});
    let colleagues = world.change_keyed("k", change.clone()).await;
    colleagues.ok(200);
    // It would be the soonest to end.
    world.clock.advance(Duration::from_secs(1));
    let flooder = world.token(&json!({"sub": "eva"}));
    // Twice as much as is kept.
    for at in 0..40 {
        let descripcion = format!("{at}{}", "x".repeat(50_000));
        let request = world
            .bare(Method::PATCH, "/v1/ordenes/11002")
            .bearer_auth(&flooder)
            .header("idempotency-key", format!("k{at}"));
        let request = request.json(&json!({"descripcion": descripcion}));
        world.send(request).await.ok(200);
    }
    let metrics = world.metrics().await;
    assert!(metrics.contains("\nllavero_idempotency_evicted_total "));
    assert!(!metrics.contains("\nllavero_idempotency_evicted_total 0\n"));
    assert_replayed(&world.change_keyed("k", change).await, &colleagues);
    assert_eq!(world.sent("PATCH"), 41);
}
