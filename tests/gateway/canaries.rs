//! Planted secrets come out nowhere. Every world of every test searches what it
//! sees; here is what proves that the search finds, and the ways that tests of other
//! subjects don't go.

use base64_simd::{STANDARD, URL_SAFE_NO_PAD};
use llavero_simulator::Faults;
use reqwest::{
    Method,
    multipart::{Form, Part},
};
use serde_json::json;

use crate::harness::{
    World,
    leaks::{self, CLAVE_MARK, KEY_MARK, UPSTREAM_MARK},
    photo,
};

#[test]
fn the_search_finds_every_form() {
    let token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJwbGFudGVkLWZvci10aGUtc2VhcmNoIn0.c2lnbmF0dXJlLWZvci10aGUtc2VhcmNo";
    leaks::register_token(token);
    for secret in [CLAVE_MARK, KEY_MARK, UPSTREAM_MARK, token] {
        let quoted = serde_json::to_string(secret).unwrap();
        let form: String = url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
        let percent: String = secret.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let mut forms = vec![
            format!("x{secret}x"),
            quoted,
            form,
            percent,
            secret.to_uppercase(),
        ];
        for before in ["", "a", "ab", "abc"] {
            let text = format!("{before}{secret}-y");
            forms.push(STANDARD.encode_to_string(&text));
            forms.push(URL_SAFE_NO_PAD.encode_to_string(&text));
        }
        for form in forms {
            assert!(leaks::found_in(form.as_bytes()).is_some(), "{form}");
        }
    }
    let signature = format!("x {}, y", token.rsplit('.').next().unwrap());
    assert!(leaks::found_in(signature.as_bytes()).is_some());
    assert!(leaks::found_in(b"nothing of the kind").is_none());
}

#[tokio::test]
async fn nothing_comes_out_of_any_operation_under_any_fault() {
    let faults = [
        Faults::default(),
        Faults::answering(401),
        Faults::answering(403),
        Faults::answering(429),
        Faults::answering(500),
        Faults {
            html: true,
            ..Faults::default()
        },
        Faults {
            garbage: true,
            ..Faults::default()
        },
        Faults {
            truncate: true,
            ..Faults::default()
        },
        Faults::hanging(),
        Faults {
            accept_then_hang: true,
            ..Faults::default()
        },
        Faults {
            redirect: Some(format!("https://{CLAVE_MARK}.example.com/{UPSTREAM_MARK}")),
            ..Faults::default()
        },
        Faults {
            wrong_record: true,
            ..Faults::default()
        },
        Faults {
            odd_data: true,
            ..Faults::default()
        },
        Faults {
            paging: Some(llavero_simulator::Paging::Cursor),
            ..Faults::default()
        },
    ];
    for fault in faults {
        let world = World::start().await;
        let _time = world.time_flies();
        world.faults("carper", fault);
        world.get("/v1/ordenes?limit=3").await;
        world.get("/v1/ordenes/11001").await;
        world
            .patch("/v1/ordenes/11001", json!({"status": "abierta"}))
            .await;
        let form = Form::new()
            .text("proceso", "antes")
            .part("imagen", Part::bytes(photo("sony-rx1r.jpg")));
        world.upload("/v1/ordenes/11001/imagenes", form).await;
        world.metrics().await;
    }
}

#[tokio::test]
async fn a_token_in_the_wrong_place_is_not_repeated() {
    let world = World::start().await;
    let token = world.token(&json!({}));
    for path in [
        format!("/v1/{token}"),
        format!("/{token}"),
        format!("/v1/ordenes/{token}"),
        format!("/problems/{token}"),
    ] {
        world.get(&path).await;
        world.send(world.bare(Method::GET, &path)).await;
    }
    for (name, value) in [
        ("llavero-tenant", token.clone()),
        ("x-request-id", format!("{token}!")),
        ("if-none-match", token.clone()),
        ("content-type", token.clone()),
        ("authorization", format!("Token {token}")),
    ] {
        world
            .send(world.bare(Method::GET, "/v1/ordenes").header(name, value))
            .await;
    }
}
