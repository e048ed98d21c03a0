//! `GET /v1/ordenes/{id}`.

use llavero_simulator::Faults;
use serde_json::json;

use crate::harness::{World, with_clave};

#[tokio::test]
async fn an_order_comes_with_its_people_and_files() {
    let world = World::start().await;
    let orden = world.get("/v1/ordenes/11003").await.ok(200);
    assert_eq!(orden["id"], 11003);
    assert!(orden["empleados"].is_array() && orden["archivos"].is_array());
    let erp = world.erp.orden(&with_clave("carper"), 11003).unwrap();
    for (name, value) in erp.as_object().unwrap() {
        if !["status", "prioridad"].contains(&name.as_str()) {
            assert_eq!(&orden[name], value, "{name} passes unchanged");
        }
    }
    assert_eq!(
        world.received()[0].path,
        format!("/{}/api/v2/ordenes_servicio/11003/", with_clave("carper"))
    );
}

#[tokio::test]
async fn an_id_is_a_positive_whole_number() {
    let world = World::start().await;
    for id in [
        "0",
        "-1",
        "abc",
        "1.0",
        "01",
        "1%2F2",
        "9223372036854775808",
        "2761-13-1",
        "%31%31",
        "..%2f11001",
        "1?x=2",
    ] {
        let reply = world.get(&format!("/v1/ordenes/{id}")).await;
        // `%31%31` is 11 in other clothes.
        if id == "%31%31" {
            reply.problem(404, "not-found");
        } else if id == "1?x=2" {
            reply.problem(400, "unknown-parameter");
        } else {
            reply.problem(400, "invalid-parameter");
            assert_eq!(reply.named(), ["id"], "{id}");
        }
    }
    assert!(world.received().len() <= 1);
}

#[tokio::test]
async fn an_unknown_order_is_not_found() {
    let world = World::start().await;
    world
        .get("/v1/ordenes/99999")
        .await
        .problem(404, "not-found");
}

#[tokio::test]
async fn another_record_than_the_one_asked_for_is_no_answer() {
    let world = World::start().await;
    world.faults(
        "carper",
        Faults {
            wrong_record: true,
            ..Faults::default()
        },
    );
    world
        .get("/v1/ordenes/11001")
        .await
        .problem(502, "upstream-mismatch");
    world.faults("carper", Faults::default());
    let reply = world.get("/v1/ordenes/11001").await;
    assert_eq!(reply.ok(200)["id"], 11001);
    assert!(
        reply.header("cache-status").contains("uri-miss"),
        "the wrong one wasn't kept"
    );
}

#[tokio::test]
async fn odd_fields_do_not_break_the_order() {
    let world = World::start().await;
    let odd = json!({"id": "11001", "status": "2", "prioridad": 9, "empleados": null, "archivos": [{"id": "x"}], "cliente": null});
    world.erp.put_orden(&with_clave("carper"), 11001, odd);
    let orden = world.get("/v1/ordenes/11001").await.ok(200);
    assert_eq!(orden["status"], "en_proceso");
    assert_eq!(
        (&orden["prioridad"], &orden["prioridad_codigo"]),
        (&json!("desconocido"), &json!(9))
    );
    assert_eq!(
        (&orden["empleados"], &orden["archivos"]),
        (&json!([]), &json!([{"id": "x"}]))
    );
}
