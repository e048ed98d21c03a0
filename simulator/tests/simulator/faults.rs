//! Each fault as a client meets it.

use std::time::Duration;

use llavero_simulator::{Faults, Only, Paging, RateLimit, StatusFault};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::harness::{Erp, answer, ids};

/// Sends a request that isn't answered: one that came later has been, and it still waits.
async fn stays_unanswered(erp: &Erp, request: reqwest::RequestBuilder) {
    let before = erp.simulator.requests().len();
    let waiting = tokio::spawn(request.send());
    erp.wait_until_received(before + 1).await;
    for _ in 0..3 {
        assert_eq!(erp.sim(Method::GET, "requests", None).await.0, 200);
    }
    assert!(!waiting.is_finished());
    waiting.abort();
}

#[tokio::test(start_paused = true)]
async fn a_delay_comes_before_the_answer() {
    let erp = Erp::start().await;
    erp.faulty(Faults {
        delay: Some(150),
        ..Faults::default()
    });
    let start = Instant::now();
    assert_eq!(erp.get("ordenes_servicio/").await.status(), 200);
    assert!(start.elapsed() >= Duration::from_millis(150));
}

#[tokio::test]
async fn a_hanging_tenant_never_answers_and_does_not_keep_the_erp_from_stopping() {
    let erp = Erp::start().await;
    erp.faulty(Faults::hanging());
    stays_unanswered(&erp, erp.request(Method::GET, "ordenes_servicio/")).await;
    assert_eq!(erp.last_request().status, None);

    let waiting = erp.request(Method::GET, "ordenes_servicio/").send();
    let waiting = tokio::spawn(waiting);
    erp.wait_until_received(2).await;
    erp.stop().await;
    waiting.await.unwrap().unwrap();
}

#[tokio::test]
async fn who_is_held_is_served_when_let_go_whatever_goes_wrong_by_then() {
    let erp = Erp::start().await;
    erp.faulty(Faults::holding());
    let held = tokio::spawn(erp.request(Method::GET, "ordenes_servicio/1/").send());
    erp.wait_until_received(1).await;
    erp.faulty(Faults::answering(503));
    assert_eq!(erp.get("ordenes_servicio/1/").await.status(), 503);
    assert_eq!(erp.simulator.requests()[0].status, None, "it waits");
    let let_go = erp.sim(Method::DELETE, "tenants/prueba/held", None);
    assert_eq!(let_go.await.0, 200);
    assert_eq!(held.await.unwrap().unwrap().status(), 200);
    let nobody = erp.sim(Method::DELETE, "tenants/nadie/held", None);
    assert_eq!(nobody.await.0, 404);
}

#[tokio::test]
async fn who_is_held_does_not_keep_the_erp_from_stopping() {
    let erp = Erp::start().await;
    erp.faulty(Faults::holding());
    let held = tokio::spawn(erp.request(Method::GET, "ordenes_servicio/1/").send());
    erp.wait_until_received(1).await;
    erp.stop().await;
    held.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_status_is_answered_as_often_as_was_said() {
    let erp = Erp::start().await;
    erp.faulty(Faults::from(StatusFault {
        code: 429,
        retry_after: Some("2".to_owned()),
        times: Some(1),
    }));
    let refused = erp.get("ordenes_servicio/").await;
    assert_eq!(refused.headers()["retry-after"], "2");
    let (status, refusal) = answer(refused).await;
    assert_eq!(status, 429);
    assert!(refusal["detail"].is_string());
    assert_eq!(erp.get("ordenes_servicio/").await.status(), 200);

    erp.faulty(Faults::answering(503));
    for _ in 0..3 {
        let refused = erp.get("ordenes_servicio/").await;
        assert_eq!(refused.status(), 503);
        assert!(!refused.headers().contains_key("retry-after"));
        assert!(refused.text().await.unwrap().contains("<html"));
    }
}

#[tokio::test]
async fn answers_can_be_html_garbage_or_elsewhere() {
    let erp = Erp::start().await;
    erp.faulty(Faults {
        html: true,
        ..Faults::default()
    });
    let html = erp.get("ordenes_servicio/").await;
    assert_eq!(html.status(), 200);
    assert_eq!(html.headers()["content-type"], "text/html; charset=utf-8");

    erp.faulty(Faults {
        garbage: true,
        ..Faults::default()
    });
    let garbage = erp.get("ordenes_servicio/").await;
    assert_eq!(garbage.status(), 200);
    assert!(garbage.json::<Value>().await.is_err());

    erp.faulty(Faults {
        redirect: Some("http://elsewhere.test/".to_owned()),
        ..Faults::default()
    });
    let redirect = erp.get("ordenes_servicio/").await;
    assert_eq!(redirect.status(), 302);
    assert_eq!(redirect.headers()["location"], "http://elsewhere.test/");
}

#[tokio::test]
async fn a_truncated_body_is_shorter_than_announced() {
    let erp = Erp::start().await;
    let whole = erp.get("ordenes_servicio/").await.bytes().await.unwrap();
    erp.faulty(Faults {
        truncate: true,
        ..Faults::default()
    });
    let mut truncated: Response = erp.get("ordenes_servicio/").await;
    assert_eq!(truncated.status(), 200);
    assert_eq!(
        truncated.headers()["content-length"],
        whole.len().to_string()
    );
    let mut arrived = Vec::new();
    let end = loop {
        match truncated.chunk().await {
            Ok(Some(chunk)) => arrived.extend_from_slice(&chunk),
            other => break other,
        }
    };
    assert!(end.is_err());
    assert_eq!(arrived, whole[..whole.len() / 2]);
}

#[tokio::test]
async fn a_detail_can_be_of_another_record() {
    let erp = Erp::start().await;
    erp.faulty(Faults {
        wrong_record: true,
        ..Faults::default()
    });
    let (status, orden) = answer(erp.get("ordenes_servicio/3/").await).await;
    assert_eq!((status, &orden["id"]), (200, &json!(4)));
    let (_, orden) = answer(erp.get("ordenes_servicio/7/").await).await;
    assert_eq!(orden["id"], 1);
}

#[tokio::test]
async fn expired_tokens_are_refused_while_logins_and_keys_work() {
    let erp = Erp::start().await;
    erp.faulty(Faults {
        expired_tokens: true,
        ..Faults::default()
    });
    let login = erp.anonymous(Method::POST, "token/");
    let login = login.json(&json!({"username": "todo", "password": "secreto"}));
    let (status, tokens) = answer(login.send().await.unwrap()).await;
    assert_eq!(status, 200);
    let list = erp
        .anonymous(Method::GET, "ordenes_servicio/")
        .bearer_auth(tokens["access"].as_str().unwrap());
    let (status, refusal) = answer(list.send().await.unwrap()).await;
    assert_eq!((status, &refusal["code"]), (401, &json!("token_not_valid")));
    assert_eq!(erp.get("ordenes_servicio/").await.status(), 200);
}

#[tokio::test]
async fn links_can_lead_on_by_page_or_cursor() {
    let erp = Erp::start().await;
    for (paging, mark) in [(Paging::Page, "page=2"), (Paging::Cursor, "cursor=")] {
        erp.faulty(Faults {
            paging: Some(paging),
            ..Faults::default()
        });
        let (_, mut page) = answer(erp.get("ordenes_servicio/?limit=3").await).await;
        assert!(page["next"].as_str().unwrap().contains(mark));
        let mut seen = ids(&page);
        while let Some(next) = page["next"].as_str() {
            let request = erp.client.get(next).header("Api-key", "llave-todo");
            page = answer(request.send().await.unwrap()).await.1;
            seen.extend(ids(&page));
        }
        assert_eq!(seen, [1, 2, 3, 4, 5, 6, 7]);
    }
}

#[tokio::test]
async fn a_hidden_limit_refuses_what_exceeds_it() {
    let erp = Erp::start().await;
    erp.faulty(Faults {
        rate_limit: Some(RateLimit {
            per_minute: 2,
            retry_after: false,
        }),
        ..Faults::default()
    });
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(erp.get("ordenes_servicio/").await.status().as_u16());
    }
    assert_eq!(statuses, [200, 200, 429, 429]);
}

#[tokio::test]
async fn odd_data_comes_in_every_variation() {
    let erp = Erp::start().await;
    erp.faulty(Faults {
        odd_data: true,
        ..Faults::default()
    });
    let (_, list) = answer(erp.get("ordenes_servicio/").await).await;
    let orden = |id: usize| &list["results"][id - 1];
    assert!(orden(6)["status"].is_string());
    assert!(orden(1).get("prioridad").is_none());
    assert_eq!(orden(2)["id"], "2");
    assert_eq!(orden(3)["status"], 9);
    assert!(orden(4)["campo_nuevo"].is_object());
    assert!(orden(5)["sucursal"].is_string() && orden(5)["cliente"].is_null());
    let (_, detail) = answer(erp.get("ordenes_servicio/3/").await).await;
    assert_eq!(detail["status"], 9);
    assert_ne!(erp.simulator.orden("prueba", 3).unwrap()["status"], 9);
}

#[tokio::test]
async fn only_some_requests_of_only_one_tenant_are_hit() {
    let erp = Erp::start().await;
    erp.faulty(Faults {
        status: Some(StatusFault::new(500)),
        only: Some(Only {
            method: Some("patch".to_owned()),
            path_contains: Some("ordenes_servicio/4/".to_owned()),
        }),
        ..Faults::default()
    });
    let change = json!({"status": 2});
    assert_eq!(
        erp.patch("ordenes_servicio/4/", change.clone())
            .await
            .status(),
        500
    );
    assert_eq!(erp.patch("ordenes_servicio/5/", change).await.status(), 200);
    assert_eq!(erp.get("ordenes_servicio/4/").await.status(), 200);
}

#[tokio::test]
async fn a_write_can_be_taken_and_never_answered() {
    let erp = Erp::start().await;
    erp.faulty(Faults {
        accept_then_hang: true,
        ..Faults::default()
    });
    let change = json!({"descripcion": "tomada"});
    stays_unanswered(
        &erp,
        erp.request(Method::PATCH, "ordenes_servicio/4/")
            .json(&change),
    )
    .await;
    assert_eq!(
        erp.simulator.orden("prueba", 4).unwrap()["descripcion"],
        "tomada"
    );
    assert_eq!(erp.last_request().status, None);
    assert_eq!(erp.get("ordenes_servicio/4/").await.status(), 200);
    assert_eq!(
        erp.patch("ordenes_servicio/4/", json!({"status": 8}))
            .await
            .status(),
        400
    );
}
