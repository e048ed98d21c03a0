//! `PATCH /v1/ordenes/{id}`.

use llavero_simulator::Faults;
use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::{World, with_clave};

#[tokio::test]
async fn names_go_out_as_codes_and_come_back_as_names() {
    let world = World::start().await;
    let body = json!({
        "status": "terminada", "prioridad": "alta", "descripcion": "<p>Listo ✓</p>",
        "bitacora_inicio_cliente": "2026-01-01T09:44:27-06:00", "bitacora_llegada_base": null,
    });
    let orden = world.patch("/v1/ordenes/11001", body).await.ok(200);
    assert_eq!(
        (&orden["status"], &orden["prioridad"]),
        (&json!("terminada"), &json!("alta"))
    );
    assert_eq!(orden["descripcion"], "<p>Listo ✓</p>");
    let erp = world.erp.orden(&with_clave("carper"), 11001).unwrap();
    assert_eq!((&erp["status"], &erp["prioridad"]), (&json!(3), &json!(1)));
    assert_eq!(erp["bitacora_inicio_cliente"], "2026-01-01T09:44:27-06:00");
    let [received] = &world.received()[..] else {
        panic!("one request")
    };
    assert_eq!(
        (received.method.as_str(), received.content_length),
        ("PATCH", Some(received.body_bytes as u64))
    );
}

#[tokio::test]
async fn merge_patch_is_taken_too() {
    let world = World::start().await;
    let request = world
        .request(Method::PATCH, "/v1/ordenes/11001")
        .header(
            "content-type",
            "application/merge-patch+json; charset=UTF-8",
        )
        .body(r#"{"status": 4}"#);
    assert_eq!(world.send(request).await.ok(200)["status"], "cancelada");
}

#[tokio::test]
async fn every_wrong_field_is_named_and_nothing_is_sent() {
    let world = World::start().await;
    let reply = world
        .patch(
            "/v1/ordenes/11001",
            json!({"status": "lista", "prioridad": 7, "id": 5, "descripcion": "está bien"}),
        )
        .await;
    reply.problem(422, "validation-failed");
    assert_eq!(reply.named(), ["/status", "/prioridad", "/id"]);
    world
        .patch("/v1/ordenes/11001", json!({}))
        .await
        .problem(422, "validation-failed");
    for body in [
        json!({"status": null}),
        json!({"status": "desconocido"}),
        json!({"bitacora_inicio_cliente": "ayer"}),
        json!({"descripcion": ["<p>"]}),
        json!({"a/b~c": 1}),
    ] {
        let reply = world.patch("/v1/ordenes/11001", body.clone()).await;
        reply.problem(422, "validation-failed");
        assert_eq!(reply.named().len(), 1, "{body}");
    }
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn a_body_that_is_no_object_is_malformed() {
    let world = World::start().await;
    for body in [
        "",
        "[]",
        "null",
        "{",
        "{\"status\": 1} x",
        "status=1",
        "\u{0}",
        "{\"status\": 1,}",
    ] {
        let request = world
            .request(Method::PATCH, "/v1/ordenes/11001")
            .header("content-type", "application/json")
            .body(body);
        world.send(request).await.problem(400, "malformed-body");
    }
    let deep = "[".repeat(100_000);
    let request = world
        .request(Method::PATCH, "/v1/ordenes/11001")
        .header("content-type", "application/json")
        .body(format!("{{\"status\": {deep}"));
    world.send(request).await.problem(400, "malformed-body");
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn a_change_that_was_changed_on_the_way_is_refused() {
    const BODY: &str = r#"{"status": 4}"#;
    let digest = |body: &str| {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
        let text = base64_simd::STANDARD.encode_to_string(digest);
        format!("sha-256=:{text}:")
    };
    let world = World::start().await;
    let change = |field: &str, value: String| {
        let request = world.request(Method::PATCH, "/v1/ordenes/11001");
        let request = request.header("content-type", "application/json");
        world.send(request.header(field, value).body(BODY))
    };
    for field in ["content-digest", "repr-digest"] {
        for wrong in [digest(r#"{"status": 3}"#), "sha-256=:AAAA:".to_owned()] {
            let reply = change(field, wrong).await;
            reply.problem(400, "malformed-body");
            assert_eq!(reply.named(), [field]);
        }
    }
    assert!(world.received().is_empty());
    for field in ["content-digest", "repr-digest"] {
        let orden = change(field, digest(BODY)).await.ok(200);
        assert_eq!(orden["status"], "cancelada");
        change(field, "md5=:AAAA:".to_owned()).await.ok(200);
    }
}

#[tokio::test]
async fn a_member_that_is_there_twice_is_named() {
    let world = World::start().await;
    for (body, pointer) in [
        (r#"{"status":"abierta","status":"terminada"}"#, "/status"),
        (r#"{"status":"abierta","\u0073tatus":"abierta"}"#, "/status"),
        (
            r#"{"prioridad":{"a":[{"b/c":1,"b/c":1}]}}"#,
            "/prioridad/a/0/b~1c",
        ),
    ] {
        let request = world
            .request(Method::PATCH, "/v1/ordenes/11001")
            .header("content-type", "application/json")
            .body(body);
        let reply = world.send(request).await;
        reply.problem(400, "malformed-body");
        assert_eq!(reply.named(), [pointer], "{body}");
    }
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let world = World::start().await;
    let body = format!(r#"{{"descripcion": "{}"}}"#, "x".repeat(300 * 1024));
    let request = world
        .request(Method::PATCH, "/v1/ordenes/11001")
        .header("content-type", "application/json")
        .body(body);
    world.send(request).await.problem(413, "payload-too-large");
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn the_erps_refusal_is_mapped_field_by_field() {
    let world = World::start().await;
    world.faults("carper", Faults::answering(400));
    let reply = world.patch("/v1/ordenes/11001", json!({"status": 2})).await;
    reply.problem(422, "upstream-validation");
}

#[tokio::test]
async fn if_match_guards_a_change() {
    let world = World::start().await;
    let etag = world
        .get("/v1/ordenes/11001")
        .await
        .header("etag")
        .to_owned();
    let guarded = |etag: &str, body: Value| {
        world
            .request(Method::PATCH, "/v1/ordenes/11001")
            .header("if-match", etag)
            .json(&body)
    };
    let reply = world
        .send(guarded("\"another\"", json!({"status": 2})))
        .await;
    reply.problem(412, "precondition-failed");
    let reply = world
        .send(guarded(&format!("W/{etag}"), json!({"status": 2})))
        .await;
    reply.problem(400, "invalid-parameter");
    let unquoted = etag.trim_matches('"');
    let reply = world.send(guarded(unquoted, json!({"status": 2}))).await;
    reply.problem(400, "invalid-parameter");
    assert!(world.received().iter().all(|it| it.method == "GET"));

    let reply = world
        .send(guarded(&format!("\"x\", {etag}"), json!({"status": 2})))
        .await;
    assert_eq!(reply.ok(200)["status"], "en_proceso");
    // The old validator is spent; the answer's own holds.
    let new = reply.header("etag").to_owned();
    world
        .send(guarded(&etag, json!({"status": 3})))
        .await
        .problem(412, "precondition-failed");
    world
        .send(guarded(&new, json!({"status": 3})))
        .await
        .ok(200);
    world.send(guarded("*", json!({"status": 1}))).await.ok(200);
}

#[tokio::test]
async fn if_match_sees_what_others_changed_at_the_erp() {
    let world = World::start().await;
    let etag = world
        .get("/v1/ordenes/11001")
        .await
        .header("etag")
        .to_owned();
    let mut orden = world.erp.orden(&with_clave("carper"), 11001).unwrap();
    orden["descripcion"] = json!("cambiada en el ERP");
    world.erp.put_orden(&with_clave("carper"), 11001, orden);
    let request = world
        .request(Method::PATCH, "/v1/ordenes/11001")
        .header("if-match", etag)
        .json(&json!({"status": 2}));
    world
        .send(request)
        .await
        .problem(412, "precondition-failed");
}

#[tokio::test]
async fn of_many_changes_that_were_made_for_one_state_one_is_made() {
    let world = World::start().await;
    let etag = world.get("/v1/ordenes/11001").await;
    let etag = etag.header("etag");
    world.holds("carper");
    let changes = (0..6).map(|at| {
        let change = world
            .request(Method::PATCH, "/v1/ordenes/11001")
            .header("if-match", etag)
            .json(&json!({"descripcion": format!("<p>{at}</p>")}));
        world.send(change)
    });
    let (replies, ()) = tokio::join!(futures_util::future::join_all(changes), async {
        // The first is at the ERP by then, and the others are behind it.
        world.wait_until_authenticated(7).await;
        world.wait_until_received(2).await;
        world.lets_go("carper");
    });
    let mut made = 0;
    for reply in replies {
        if reply.status == 200 {
            made += 1;
        } else {
            reply.problem(412, "precondition-failed");
        }
    }
    assert_eq!(made, 1);
    let sent = world.received();
    assert_eq!(sent.iter().filter(|it| it.method == "PATCH").count(), 1);
}
