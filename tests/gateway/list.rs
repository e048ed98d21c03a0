//! `GET /v1/ordenes`: parameters, representation, and the ways that paging leads on.

use llavero_simulator::{Faults, Paging};
use serde_json::{Value, json};

use crate::harness::{Reply, World, with_clave};

fn ids(page: &Value) -> Vec<u64> {
    let rows = page["results"].as_array().unwrap();
    rows.iter().map(|row| row["id"].as_u64().unwrap()).collect()
}

#[tokio::test]
async fn a_page_has_names_for_codes_and_links_on_this_gateway() {
    let world = World::start().await;
    let reply = world
        .get("/v1/ordenes?limit=2&offset=2&status=abierta")
        .await;
    let page = reply.ok(200);
    assert_eq!(page["next"], "/v1/ordenes?status=abierta&limit=2&offset=4");
    assert_eq!(
        page["previous"],
        "/v1/ordenes?status=abierta&limit=2&offset=0"
    );
    assert_eq!(
        reply.header("link"),
        r#"</v1/ordenes?status=abierta&limit=2&offset=4>; rel="next", </v1/ordenes?status=abierta&limit=2&offset=0>; rel="prev""#
    );
    for row in page["results"].as_array().unwrap() {
        assert_eq!(row["status"], "abierta");
        assert_eq!(row["status_display"], "Abierta");
        assert!(row.get("status_codigo").is_none());
        assert!(row["cliente"]["rfc"].is_string());
    }
    let received = world.received();
    assert_eq!(
        received[0].query.as_deref(),
        Some("limit=2&offset=2&status=1")
    );
}

#[tokio::test]
async fn names_and_codes_of_status_are_one_request() {
    let world = World::start().await;
    let named = world.get("/v1/ordenes?status=en_proceso&limit=3").await;
    let coded = world.get("/v1/ordenes?limit=3&status=2&offset=0").await;
    assert_eq!(named.ok(200), coded.ok(200));
    assert!(coded.header("cache-status").starts_with("llavero; hit"));
    assert_eq!(world.received().len(), 1);
}

#[tokio::test]
async fn each_wrong_parameter_is_named() {
    let world = World::start().await;
    for (query, code, named) in [
        ("limit=0", "invalid-parameter", "limit"),
        ("limit=101", "invalid-parameter", "limit"),
        ("limit=", "invalid-parameter", "limit"),
        ("limit=1.5", "invalid-parameter", "limit"),
        ("limit=5&limit=6", "invalid-parameter", "limit"),
        ("offset=-1", "invalid-parameter", "offset"),
        ("offset=99999999999999999999", "invalid-parameter", "offset"),
        ("status=abierto", "invalid-parameter", "status"),
        ("status=6", "invalid-parameter", "status"),
        ("status=desconocido", "invalid-parameter", "status"),
        ("cursor=abc", "invalid-parameter", "cursor"),
        ("cursor=", "invalid-parameter", "cursor"),
        ("cursor=abc&limit=5", "invalid-parameter", "cursor"),
        ("page=2", "unknown-parameter", "page"),
        ("Status=1", "unknown-parameter", "Status"),
        ("limit=5&host=evil.example.com", "unknown-parameter", "host"),
    ] {
        let reply = world.get(&format!("/v1/ordenes?{query}")).await;
        reply.problem(400, code);
        assert!(
            reply.named().iter().any(|it| it == named),
            "{query}: {}",
            reply.text()
        );
    }
    assert!(world.received().is_empty());
}

#[tokio::test]
async fn every_wrong_parameter_is_named_at_once() {
    let world = World::start().await;
    let reply = world.get("/v1/ordenes?limit=0&offset=x&status=9").await;
    reply.problem(400, "invalid-parameter");
    assert_eq!(reply.named(), ["status", "limit", "offset"]);
}

/// Follows `next` to the end and gives back every id.
async fn walk(world: &World, mut reply: Reply) -> Vec<u64> {
    let mut seen = Vec::new();
    for _ in 0..50 {
        let page = reply.ok(200);
        seen.extend(ids(&page));
        let Some(next) = page["next"].as_str() else {
            return seen;
        };
        assert!(next.starts_with("/v1/ordenes?"), "{next}");
        reply = world.get(next).await;
    }
    panic!("the pages don't end");
}

#[tokio::test]
async fn every_way_of_paging_leads_through_all_orders() {
    let world = World::start().await;
    let all: Vec<u64> = (11001..11128).collect();
    for paging in [Paging::LimitOffset, Paging::Page, Paging::Cursor] {
        world.faults(
            "carper",
            Faults {
                paging: Some(paging),
                ..Faults::default()
            },
        );
        world.clock.advance(std::time::Duration::from_secs(60));
        let first = world.get("/v1/ordenes?limit=50").await;
        let page = first.ok(200);
        let next = page["next"].as_str().unwrap();
        let opaque = next.starts_with("/v1/ordenes?cursor=");
        assert_eq!(opaque, paging != Paging::LimitOffset, "{next}");
        assert_eq!(walk(&world, first).await, all, "{paging:?}");
    }
}

#[tokio::test]
async fn a_cursor_belongs_to_its_tenant_and_credential_and_cannot_be_made() {
    let world = World::start().await;
    world.faults(
        "carper",
        Faults {
            paging: Some(Paging::Cursor),
            ..Faults::default()
        },
    );
    let page = world.get("/v1/ordenes?limit=50").await.ok(200);
    let next = page["next"].as_str().unwrap().to_owned();
    let again = world.get("/v1/ordenes?limit=50").await.ok(200);
    assert_eq!(again["next"], next, "equal pages have equal links");
    world.get(&next).await.ok(200);

    let norte = world.token(&json!({"tenant": "norte"}));
    world
        .get_as(&norte, &next)
        .await
        .problem(400, "invalid-parameter");
    let tecnico = world.token(&json!({"scope": "rol:tecnico ordenes:read"}));
    world
        .get_as(&tecnico, &next)
        .await
        .problem(400, "invalid-parameter");
    let cursor = next.split_once('=').unwrap().1;
    for at in [0, cursor.len() / 2, cursor.len() - 1] {
        let mut changed = cursor.to_owned().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let reply = world.get(&format!("/v1/ordenes?cursor={changed}")).await;
        reply.problem(400, "invalid-parameter");
    }
}

#[tokio::test]
async fn odd_rows_do_not_break_the_list() {
    let world = World::start().await;
    let clave = with_clave("carper");
    world.erp.put_orden(
        &clave,
        11001,
        json!({"id": "11001", "status": "3", "prioridad": null}),
    );
    world.erp.put_orden(
        &clave,
        11002,
        json!({"id": 11002, "status": 17, "prioridad": "x", "nuevo": {"a": [1.50]}}),
    );
    world.erp.put_orden(&clave, 11003, json!({"id": 11003}));
    world.erp.put_orden(
        &clave,
        11004,
        json!({"id": 11004, "status": null, "prioridad": "1"}),
    );
    let page = world.get("/v1/ordenes?limit=4").await.ok(200);
    let rows = page["results"].as_array().unwrap();
    assert_eq!(rows.len(), 4);
    assert_eq!(
        (&rows[0]["id"], &rows[0]["status"]),
        (&json!(11001), &json!("terminada"))
    );
    assert_eq!(
        (&rows[1]["status"], &rows[1]["status_codigo"]),
        (&json!("desconocido"), &json!(17))
    );
    assert_eq!(rows[1]["nuevo"], json!({"a": [1.50]}));
    assert_eq!(
        (&rows[2]["status"], &rows[2]["prioridad"]),
        (&json!(null), &json!(null))
    );
    assert_eq!(
        (&rows[3]["status"], &rows[3]["prioridad"]),
        (&json!(null), &json!("alta"))
    );
}

#[tokio::test]
async fn an_answer_with_far_more_rows_than_a_page_has_is_none() {
    let server = wiremock::MockServer::start().await;
    let rows = |many| format!("[{}]", vec!["{}"; many].join(","));
    for (many, status) in [(1000, 200), (1001, 502), (500_000, 502)] {
        server.reset().await;
        let answer =
            wiremock::ResponseTemplate::new(200).set_body_raw(rows(many), "application/json");
        wiremock::Mock::given(wiremock::matchers::any())
            .respond_with(answer)
            .mount(&server)
            .await;
        let world =
            World::before_upstream(&format!("{}/{{clave}}/api/v2/", server.uri()), "").await;
        assert_eq!(world.get("/v1/ordenes").await.status, status, "{many}");
    }
}

#[tokio::test]
async fn a_query_of_thousands_of_mistakes_names_the_first() {
    let world = World::start().await;
    let path = format!("/v1/ordenes?{}", vec!["a"; 5000].join("&"));
    let problem = world.get(&path).await.problem(400, "unknown-parameter");
    assert_eq!(problem["errors"].as_array().unwrap().len(), 25);
}
