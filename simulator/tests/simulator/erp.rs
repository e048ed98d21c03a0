//! What the vendor's page promises, and what the framework below it does.

use std::time::Duration;

use llavero_simulator::{TenantSeed, TokenForm, UserSeed};
use reqwest::Method;
use serde_json::json;

use crate::harness::{Erp, answer, ids};

#[tokio::test]
async fn a_list_pages_with_absolute_links_that_keep_the_query() {
    let erp = Erp::start().await;
    let (status, first) = answer(erp.get("ordenes_servicio/?limit=3&typo=x").await).await;
    assert_eq!((status, &first["count"]), (200, &json!(7)));
    assert_eq!(ids(&first), [1, 2, 3]);
    assert!(first["previous"].is_null());
    let next = first["next"].as_str().unwrap();
    assert_eq!(
        next,
        format!(
            "{}/prueba/api/v2/ordenes_servicio/?limit=3&offset=3&typo=x",
            erp.origin
        )
    );

    let second = erp.client.get(next).header("Api-key", "llave-todo");
    let (_, second) = answer(second.send().await.unwrap()).await;
    assert_eq!(ids(&second), [4, 5, 6]);
    assert!(
        second["previous"]
            .as_str()
            .unwrap()
            .ends_with("?limit=3&typo=x")
    );
}

#[tokio::test]
async fn a_page_has_a_hundred_orders_at_most_without_their_files() {
    let erp = Erp::start().await;
    let url = format!("{}/carper/api/v2/ordenes_servicio/?limit=500", erp.origin);
    let request = erp
        .client
        .get(url)
        .header("Api-key", "sim-key-carper-default");
    let (_, list) = answer(request.send().await.unwrap()).await;
    assert_eq!(list["results"].as_array().unwrap().len(), 100);
    assert_eq!(list["count"], 127);
    let orden = list["results"][0].as_object().unwrap();
    assert_eq!(orden["id"], 11_001);
    let fields: Vec<&str> = orden.keys().map(String::as_str).collect();
    assert_eq!(
        fields,
        [
            "id",
            "status",
            "prioridad",
            "bitacora_inicio_cliente",
            "bitacora_llegada_base",
            "descripcion",
            "status_display",
            "clave",
            "periodicidad",
            "prioridad_display",
            "tipo_servicio",
            "sucursal",
            "cliente"
        ]
    );
}

#[tokio::test]
async fn a_list_is_filtered_by_status_and_a_bad_one_is_refused() {
    let erp = Erp::start().await;
    erp.simulator
        .put_orden("prueba", 3, json!({"id": 3, "status": "4"}));
    let (_, list) = answer(erp.get("ordenes_servicio/?status=4").await).await;
    assert!(ids(&list).contains(&3));
    for orden in list["results"].as_array().unwrap() {
        assert!(orden["status"] == 4 || orden["status"] == "4");
    }
    let (status, errors) = answer(erp.get("ordenes_servicio/?status=6").await).await;
    assert_eq!(status, 400);
    assert!(errors["status"][0].is_string());
}

#[tokio::test]
async fn a_key_shows_what_its_user_may_see() {
    let erp = Erp::start().await;
    let get = async |path: &str, key: &str| {
        let request = erp.anonymous(Method::GET, path).header("Api-key", key);
        answer(request.send().await.unwrap()).await
    };
    let (_, list) = get("ordenes_servicio/", "llave-poco").await;
    assert_eq!(ids(&list), [2, 5]);
    assert_eq!(get("ordenes_servicio/5/", "llave-poco").await.0, 200);
    assert_eq!(get("ordenes_servicio/3/", "llave-poco").await.0, 404);
    assert_eq!(get("ordenes_servicio/3/", "llave-todo").await.0, 200);

    let (status, refusal) = get("ordenes_servicio/3/", "sim-key-carper-default").await;
    assert_eq!(status, 401);
    assert!(refusal["detail"].is_string());
    let nobody = erp.anonymous(Method::GET, "ordenes_servicio/3/");
    assert_eq!(answer(nobody.send().await.unwrap()).await.0, 401);
}

#[tokio::test]
async fn a_tenant_is_found_by_host_too() {
    let erp = Erp::start().await;
    let get = async |host: &str| {
        let request = erp
            .client
            .get(format!("{}/api/v2/ordenes_servicio/?limit=1", erp.origin))
            .header("Host", host)
            .header("Api-key", "llave-todo");
        request.send().await.unwrap()
    };
    let (status, list) = answer(get("prueba.admintotal.test:8081").await).await;
    assert_eq!(status, 200);
    assert_eq!(
        list["next"],
        "http://prueba.admintotal.test:8081/api/v2/ordenes_servicio/?limit=1&offset=1"
    );
    assert_eq!(get("nadie.admintotal.test").await.status(), 404);
}

#[tokio::test]
async fn a_patch_changes_the_order_and_its_displays() {
    let erp = Erp::start().await;
    let changes = json!({
        "status": 3,
        "prioridad": 1,
        "descripción": "<p>LISTO</p>",
        "bitacora_llegada_base": "2026-01-27T09:44:27-06:00",
        "bitacora_inicio_cliente": null,
        "clave": "not the caller's to set",
    });
    let (status, orden) = answer(erp.patch("ordenes_servicio/4/", changes).await).await;
    assert_eq!(status, 200);
    assert_eq!(orden, erp.simulator.orden("prueba", 4).unwrap());
    assert_eq!(orden["status_display"], "Terminada");
    assert_eq!(orden["prioridad_display"], "Alta");
    assert_eq!(orden["descripcion"], "<p>LISTO</p>");
    assert_ne!(orden["clave"], "not the caller's to set");
    assert!(orden.get("descripción").is_none() && orden["archivos"].is_array());

    let (_, orden) = answer(
        erp.patch("ordenes_servicio/4/", json!({"prioridad": null}))
            .await,
    )
    .await;
    assert!(orden["prioridad"].is_null() && orden["prioridad_display"].is_null());
}

#[tokio::test]
async fn a_patch_with_mistakes_names_every_field_and_changes_nothing() {
    let erp = Erp::start().await;
    let before = erp.simulator.orden("prueba", 4);
    let changes = json!({
        "status": 6, "prioridad": "urgente", "descripcion": 5,
        "bitacora_llegada_base": "ayer", "bitacora_inicio_cliente": "2026-01-27T09:44:27-06:00",
    });
    let (status, errors) = answer(erp.patch("ordenes_servicio/4/", changes).await).await;
    assert_eq!(status, 400);
    let mut fields: Vec<&String> = errors.as_object().unwrap().keys().collect();
    fields.sort();
    assert_eq!(
        fields,
        [
            "bitacora_llegada_base",
            "descripcion",
            "prioridad",
            "status"
        ]
    );
    assert_eq!(erp.simulator.orden("prueba", 4), before);
    assert_eq!(
        erp.patch("ordenes_servicio/4/", json!({"status": null}))
            .await
            .status(),
        400
    );
    assert_eq!(
        erp.patch("ordenes_servicio/4/", json!([1])).await.status(),
        400
    );
}

#[tokio::test]
async fn an_image_arrives_decoded_and_becomes_a_file_of_the_order() {
    let erp = Erp::start().await;
    let photo: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let base64 = base64_simd::STANDARD.encode_to_string(&photo);
    for imagen in [base64.clone(), format!("data:image/jpeg;base64,{base64}")] {
        let body = json!({"titulo": "Antes", "proceso": 1, "imagen": imagen});
        let (status, archivo) =
            answer(erp.post("ordenes_servicio/2/adjuntar_imagen/", body).await).await;
        assert_eq!(status, 201);
        let id = archivo["id"].as_u64().unwrap();
        assert_eq!(erp.simulator.imagen("prueba", id).unwrap(), photo);
        let url = archivo["url"].as_str().unwrap();
        assert!(url.starts_with("https://archivos.example.net/") && !url.contains("prueba"));
        let orden = erp.simulator.orden("prueba", 2).unwrap();
        assert_eq!(orden["archivos"].as_array().unwrap().last(), Some(&archivo));

        let received = erp.last_request();
        assert_eq!(received.archivo_id, Some(id));
        assert_eq!(received.imagen_bytes, Some(photo.len()));
        assert_eq!(received.proceso, Some(1));
        assert_eq!(received.content_length, Some(received.body_bytes as u64));
        let url = format!("{}/_sim/tenants/prueba/imagenes/{id}", erp.origin);
        let bytes = erp.client.get(url).send().await.unwrap().bytes().await;
        assert_eq!(bytes.unwrap(), photo);
    }
}

#[tokio::test]
async fn an_image_that_does_not_decode_is_refused() {
    let erp = Erp::start().await;
    let before = erp.simulator.orden("prueba", 2);
    for imagen in ["no es base64", "AAA", "data:image/jpeg,AAAA"] {
        let body = json!({"titulo": "Antes", "proceso": 1, "imagen": imagen});
        let (status, errors) =
            answer(erp.post("ordenes_servicio/2/adjuntar_imagen/", body).await).await;
        assert_eq!(status, 400);
        assert!(errors["imagen"][0].is_string());
    }
    let (_, errors) = answer(
        erp.post("ordenes_servicio/2/adjuntar_imagen/", json!({"proceso": 4}))
            .await,
    )
    .await;
    assert_eq!(errors.as_object().unwrap().len(), 3);
    assert_eq!(erp.simulator.orden("prueba", 2), before);
}

#[tokio::test]
async fn both_logins_give_a_credential_that_works() {
    let erp = Erp::start().await;
    let login = json!({"username": "poco", "password": "secreto"});
    let post = async |path: &str, body: &serde_json::Value| {
        let request = erp.anonymous(Method::POST, path).json(body);
        answer(request.send().await.unwrap()).await
    };
    let (status, answered) = post("usuarios/login_usuario/", &login).await;
    assert_eq!((status, &answered["ok"]), (200, &json!(true)));
    assert_eq!(answered["usuario"]["api_key"], "llave-poco");

    let (_, tokens) = post("token/", &login).await;
    let refresh = json!({"refresh": tokens["refresh"]});
    let (_, refreshed) = post("refresh/", &refresh).await;
    for access in [&tokens["access"], &refreshed["access"]] {
        let list = erp
            .anonymous(Method::GET, "ordenes_servicio/")
            .bearer_auth(access.as_str().unwrap());
        assert_eq!(ids(&answer(list.send().await.unwrap()).await.1), [2, 5]);
        assert_eq!(erp.last_request().credential.as_deref(), Some("poco"));
    }

    let wrong = json!({"username": "poco", "password": "adivinada"});
    assert_eq!(post("usuarios/login_usuario/", &wrong).await.0, 401);
    assert_eq!(post("token/", &wrong).await.0, 401);
    assert_eq!(post("token/", &json!({})).await.0, 400);
    let access_as_refresh = json!({"refresh": tokens["access"]});
    assert_eq!(post("refresh/", &access_as_refresh).await.0, 401);
}

#[tokio::test]
async fn a_user_changes_tokens_are_revoked_and_refresh_tokens_rotate() {
    let erp = Erp::start().await;
    let seed = json!({
        "users": [{"username": "ana", "password": "x", "api_key": "k"}],
        "orders": 1, "rotate_refresh": true,
    });
    let door = format!("{}/_sim/tenants", erp.origin);
    let put = |path: &str, body: &serde_json::Value| {
        erp.client.put(format!("{door}/{path}")).json(body).send()
    };
    assert_eq!(put("rota", &seed).await.unwrap().status(), 200);
    let post = async |path: &str, body: serde_json::Value| {
        let address = format!("{}/rota/api/v2/{path}", erp.origin);
        answer(erp.client.post(address).json(&body).send().await.unwrap()).await
    };
    let login = |password: &str| json!({"username": "ana", "password": password});
    let (_, tokens) = post("token/", login("x")).await;
    let (_, next) = post("refresh/", json!({"refresh": tokens["refresh"]})).await;
    assert_ne!(next["refresh"], tokens["refresh"]);
    let old = json!({"refresh": tokens["refresh"]});
    assert_eq!(post("refresh/", old).await.0, 401, "it was good once");
    let change = json!({"password": "y", "api_key": "l"});
    assert_eq!(put("rota/users/ana", &change).await.unwrap().status(), 200);
    assert_eq!(put("rota/users/eva", &change).await.unwrap().status(), 404);
    assert_eq!(post("token/", login("x")).await.0, 401);
    assert_eq!(post("token/", login("y")).await.0, 200);
    let tokens = erp.client.delete(format!("{door}/rota/tokens")).send();
    assert_eq!(tokens.await.unwrap().status(), 200);
    let newest = json!({"refresh": next["refresh"]});
    assert_eq!(post("refresh/", newest).await.0, 401);
    for (key, status) in [("k", 401), ("l", 200)] {
        let list = format!("{}/rota/api/v2/ordenes_servicio/", erp.origin);
        let list = erp.client.get(list).header("Api-key", key).send();
        assert_eq!(list.await.unwrap().status(), status);
    }
}

#[tokio::test]
async fn an_access_token_expires_and_can_be_refreshed() {
    let erp = Erp::start().await;
    erp.simulator.add_tenant(TenantSeed {
        access_seconds: 300,
        token_form: TokenForm::Opaque,
        ..TenantSeed::new("prueba").user(UserSeed::new("ana", "x", "k"))
    });
    let login = erp.anonymous(Method::POST, "token/");
    let login = login.json(&json!({"username": "ana", "password": "x"}));
    let (_, tokens) = answer(login.send().await.unwrap()).await;
    let list = async |token: &serde_json::Value| {
        let request = erp.anonymous(Method::GET, "ordenes_servicio/");
        let request = request.bearer_auth(token.as_str().unwrap());
        request.send().await.unwrap().status().as_u16()
    };
    assert_eq!(list(&tokens["access"]).await, 200);
    // Time passes, and nobody waits for it.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(300)).await;
    tokio::time::resume();
    assert_eq!(list(&tokens["access"]).await, 401);
    let refresh = erp.anonymous(Method::POST, "refresh/");
    let refresh = refresh.json(&json!({"refresh": tokens["refresh"]}));
    let (_, tokens) = answer(refresh.send().await.unwrap()).await;
    assert_eq!(list(&tokens["access"]).await, 200);
}

#[tokio::test]
async fn a_missing_slash_redirects_a_get_and_breaks_a_write() {
    let erp = Erp::start().await;
    let redirected = erp.get("ordenes_servicio?limit=1").await;
    assert_eq!(redirected.status(), 301);
    assert_eq!(
        redirected.headers()["location"],
        "/prueba/api/v2/ordenes_servicio/?limit=1"
    );
    let broken = erp.patch("ordenes_servicio/4", json!({"status": 3})).await;
    assert_eq!(broken.status(), 500);
    assert!(broken.text().await.unwrap().contains("<html"));
}

#[tokio::test]
async fn refusals_are_the_frameworks() {
    let erp = Erp::start().await;
    assert_eq!(erp.get("ordenes_servicio/999/").await.status(), 404);
    assert_eq!(erp.get("ordenes_servicio/2761-13-1/").await.status(), 404);
    assert_eq!(erp.get("facturas/").await.status(), 404);
    let put = erp.request(Method::PUT, "ordenes_servicio/4/");
    let put = put.json(&json!({})).send().await.unwrap();
    assert_eq!(put.status(), 405);
    assert_eq!(put.headers()["allow"], "GET, PATCH, HEAD, OPTIONS");
    let form = erp.request(Method::PATCH, "ordenes_servicio/4/");
    let form = form.header("Content-Type", "text/plain").body("status=3");
    let (status, refusal) = answer(form.send().await.unwrap()).await;
    assert_eq!(status, 415);
    assert!(refusal["detail"].is_string());
    let broken = erp.request(Method::PATCH, "ordenes_servicio/4/");
    let broken = broken.header("Content-Type", "application/json").body("{");
    assert_eq!(broken.send().await.unwrap().status(), 400);
}
