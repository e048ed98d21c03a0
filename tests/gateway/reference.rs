//! The reference document and its page.

use std::{fs, path::Path};

use llavero::{resources::reference::Rendered, router};
use llavero_simulator::Faults;
use reqwest::{Method, multipart};
use serde_json::{Value, json};

use crate::harness::{Reply, World, photo};

#[test]
fn the_committed_document_is_the_codes() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/llavero.yaml");
    let committed = fs::read_to_string(path).unwrap();
    let made = Rendered::new(&router::document());
    assert!(
        committed == made.yaml(),
        "openapi/llavero.yaml is out of date: run `cargo run -- openapi > openapi/llavero.yaml`"
    );
}

#[test]
fn every_operation_is_described_whole() {
    let document: Value = serde_json::from_str(Rendered::new(&router::document()).json()).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    let operations: Vec<_> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item
                .as_object()
                .unwrap()
                .iter()
                .filter(|(name, _)| *name != "parameters");
            methods.map(move |(method, operation)| (format!("{method} {path}"), operation))
        })
        .collect();
    let names: Vec<_> = operations.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "get /v1/ordenes",
        "get /v1/ordenes/{id}",
        "patch /v1/ordenes/{id}",
        "post /v1/ordenes/{id}/imagenes",
        "get /v1/me",
    ] {
        assert!(names.contains(&name), "{name}");
    }
    for (name, operation) in operations {
        for member in ["operationId", "summary", "description"] {
            assert!(operation[member].is_string(), "{name} lacks {member}");
        }
        let responses = operation["responses"].as_object().unwrap();
        assert!(
            responses.keys().any(|status| status.starts_with('2')),
            "{name}"
        );
        for (status, response) in responses {
            assert!(
                response["description"]
                    .as_str()
                    .is_some_and(|it| !it.is_empty()),
                "{name} {status}"
            );
            if status.starts_with('2') && name.contains("/v1/") {
                let content = &response["content"]["application/json"];
                assert!(content["schema"].is_object(), "{name} {status}");
            } else if status.as_str() >= "400" {
                assert!(
                    response["content"]["application/problem+json"]["schema"].is_object(),
                    "{name} {status}"
                );
            }
            assert!(
                response["headers"]["X-Request-Id"].is_object(),
                "{name} {status}"
            );
        }
    }
    assert_eq!(
        document["components"]["securitySchemes"]["bearer"]["scheme"],
        "bearer"
    );
    let upload = &document["paths"]["/v1/ordenes/{id}/imagenes"]["post"]["requestBody"]["content"];
    assert!(upload["multipart/form-data"]["schema"].is_object());
}

/// What a status, a path and a method promise, against what came.
fn fits(document: &Value, path: &str, method: &str, reply: &Reply) {
    let status = reply.status.as_str();
    let response = &document["paths"][path][method]["responses"][status];
    assert!(
        response.is_object(),
        "{method} {path} doesn't promise {status}"
    );
    let content_type = reply.header("content-type");
    assert!(
        response["content"][content_type].is_object(),
        "{method} {path} {status} {content_type}"
    );
}

#[tokio::test]
async fn real_answers_are_promised_ones() {
    let world = World::start().await;
    let document = world
        .send(world.bare(Method::GET, "/openapi.json"))
        .await
        .ok(200);
    fits(
        &document,
        "/v1/ordenes",
        "get",
        &world.get("/v1/ordenes").await,
    );
    fits(
        &document,
        "/v1/ordenes",
        "get",
        &world.get("/v1/ordenes?limit=0").await,
    );
    fits(
        &document,
        "/v1/ordenes/{id}",
        "get",
        &world.get("/v1/ordenes/11001").await,
    );
    fits(
        &document,
        "/v1/ordenes/{id}",
        "get",
        &world.get("/v1/ordenes/1").await,
    );
    fits(
        &document,
        "/v1/ordenes/{id}",
        "patch",
        &world.patch("/v1/ordenes/11001", json!({})).await,
    );
    fits(
        &document,
        "/v1/ordenes/{id}",
        "patch",
        &world.patch("/v1/ordenes/11001", json!({"status": 1})).await,
    );
    fits(&document, "/v1/me", "get", &world.get("/v1/me").await);
}

#[tokio::test]
async fn what_the_examples_of_problems_say_is_said() {
    let world = World::start().await;
    let document: Value = serde_json::from_str(Rendered::new(&router::document()).json()).unwrap();
    let said = |path: &str, method: &str, reply: &Reply| {
        let problem: Value = serde_json::from_slice(&reply.body).unwrap();
        let (status, code) = (reply.status.as_u16(), problem["code"].as_str().unwrap());
        let answer = &document["paths"][path][method]["responses"][status.to_string()];
        let example = &answer["content"]["application/problem+json"]["examples"][code]["value"];
        for member in ["title", "detail", "errors"] {
            assert_eq!(problem[member], example[member], "{method} {code}");
        }
        // A field of the answer's that the document doesn't have.
        let waits = reply.headers.contains_key("retry-after");
        assert!(!waits || answer["headers"]["Retry-After"]["schema"]["minimum"] == 1);
        code.to_owned()
    };
    let (change, upload) = ("/v1/ordenes/{id}", "/v1/ordenes/{id}/imagenes");
    let photo_of = |bytes: Vec<u8>| {
        let form = multipart::Form::new().text("proceso", "antes");
        form.part("imagen", multipart::Part::bytes(bytes))
    };
    let uploads = [
        (vec![0; 12 * 1024 * 1024 + 1], "payload-too-large"),
        (photo("iphone.heic"), "unsupported-media-type"),
        (photo("truncated.jpg"), "invalid-image"),
    ];
    let post = |form| {
        let request = world.request(Method::POST, "/v1/ordenes/11001/imagenes");
        request.multipart(form)
    };
    for (bytes, code) in uploads {
        let reply = world.send(post(photo_of(bytes))).await;
        assert_eq!(said(upload, "post", &reply), code);
    }
    let patch = |kind: &str, body: String| {
        let request = world.request(Method::PATCH, "/v1/ordenes/11001");
        request.header("content-type", kind).body(body)
    };
    let reply = world.send(patch("text/plain", "{}".to_owned())).await;
    assert_eq!(said(change, "patch", &reply), "unsupported-media-type");
    let long = format!("{{\"descripcion\": \"{}\"}}", "x".repeat(256 * 1024));
    let reply = world.send(patch("application/json", long)).await;
    assert_eq!(said(change, "patch", &reply), "payload-too-large");

    // The ERP breaks off what it has begun to answer, and nobody knows what became of it.
    let broken = Faults {
        truncate: true,
        ..Faults::default()
    };
    world.faults("carper", broken);
    let keyed = patch("application/json", r#"{"prioridad":"alta"}"#.to_owned());
    let reply = world.send(keyed.header("idempotency-key", "a")).await;
    let example = said_again(&reply);
    let reply = world.send(post(photo_of(photo("no-exif.jpg")))).await;
    assert_eq!(said(upload, "post", &reply), "upstream-error");
    assert_eq!(said_again(&reply), example);
    let reply = world
        .send(patch(
            "application/json",
            r#"{"prioridad":"baja"}"#.to_owned(),
        ))
        .await;
    assert_eq!(said(change, "patch", &reply), "upstream-error");
    assert!(!reply.headers.contains_key("retry-after"));
}

/// What the sender of a write that can be sent again as it is is told.
fn said_again(reply: &Reply) -> Value {
    reply.problem(502, "upstream-error");
    assert_eq!(reply.header("retry-after"), "10");
    let problem: Value = serde_json::from_slice(&reply.body).unwrap();
    let detail = &problem["detail"];
    assert!(
        detail
            .as_str()
            .unwrap()
            .contains("Send the same request again")
    );
    detail.clone()
}

#[tokio::test]
async fn the_document_is_served_in_both_forms_without_a_token() {
    let world = World::start().await;
    let yaml = world.send(world.bare(Method::GET, "/openapi.yaml")).await;
    assert_eq!(yaml.header("content-type"), "application/yaml");
    assert_eq!(yaml.text(), Rendered::new(&router::document()).yaml());
    let json = world.send(world.bare(Method::GET, "/openapi.json")).await;
    assert_eq!(json.header("content-type"), "application/json");
    assert_eq!(json.ok(200)["info"]["title"], "Llavero");
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let world = World::start().await;
    let mut reply = world.send(world.bare(Method::GET, "/docs")).await;
    while reply.status.is_redirection() {
        let path = reply.header("location").to_owned();
        reply = world.send(world.bare(Method::GET, &path)).await;
    }
    assert_eq!(reply.status, 200);
    let page = reply.text();
    assert!(
        !page.contains("//unpkg") && !page.contains("https://"),
        "{page}"
    );
    let policy = reply.header("content-security-policy");
    assert!(policy.contains("default-src 'self'"), "{policy}");
    // Whatever it names is here.
    for attribute in ["src=\"", "href=\""] {
        for part in page.split(attribute).skip(1) {
            let name = part.split('"').next().unwrap().trim_start_matches("./");
            let part = world
                .send(world.bare(Method::GET, &format!("/docs/{name}")))
                .await;
            assert_eq!(part.status, 200, "{name}");
        }
    }
}

#[tokio::test]
async fn every_documented_value_of_a_change_is_taken() {
    let world = World::start().await;
    let document: Value = serde_json::from_str(Rendered::new(&router::document()).json()).unwrap();
    let fields = &document["components"]["schemas"]["CambioDeOrden"]["properties"];
    for (name, schema) in fields.as_object().unwrap() {
        let listed = schema["enum"].as_array().cloned().unwrap_or_default();
        let examples = schema["examples"].as_array().cloned().unwrap_or_default();
        let values: Vec<_> = listed.into_iter().chain(examples).collect();
        assert!(
            !values.is_empty() || schema["example"].is_string(),
            "{name}"
        );
        for value in values.into_iter().chain(schema.get("example").cloned()) {
            world
                .patch("/v1/ordenes/11001", json!({ name: value }))
                .await
                .ok(200);
        }
    }
}

#[tokio::test]
async fn every_code_is_explained_to_programs_and_to_people() {
    let world = World::start().await;
    let all = world
        .send(world.bare(Method::GET, "/problems"))
        .await
        .ok(200);
    assert!(all.as_array().unwrap().len() > 20);
    for problem in all.as_array().unwrap() {
        let path = format!("/problems/{}", problem["code"].as_str().unwrap());
        let one = world.send(world.bare(Method::GET, &path)).await.ok(200);
        assert_eq!(&one, problem);
        let page = world
            .bare(Method::GET, &path)
            .header("accept", "text/html,*/*;q=0.8");
        let page = world.send(page).await;
        assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
        assert!(page.text().contains(problem["title"].as_str().unwrap()));
    }
}
