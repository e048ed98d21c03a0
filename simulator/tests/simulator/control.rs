//! The side door, and what the journal says.

use llavero_simulator::Faults;
use reqwest::Method;
use serde_json::json;

use crate::harness::{Erp, answer};

#[tokio::test]
async fn the_journal_tells_what_arrived_and_keeps_no_secret() {
    let erp = Erp::start().await;
    erp.get("ordenes_servicio/?status=1").await;
    let elsewhere = format!("{}/nadie/api/v2/ordenes_servicio/", erp.origin);
    erp.client.get(elsewhere).send().await.unwrap();

    let (status, all) = erp.sim(Method::GET, "requests", None).await;
    assert_eq!((status, all.as_array().unwrap().len()), (200, 2));
    assert!(all[1]["clave"].is_null());
    assert!(!all.to_string().contains("llave-todo"));
    let (_, of_one) = erp.sim(Method::GET, "requests?clave=prueba", None).await;
    let [received] = of_one.as_array().unwrap().as_slice() else {
        panic!("{of_one}");
    };
    assert_eq!(received["method"], "GET");
    assert_eq!(received["path"], "/prueba/api/v2/ordenes_servicio/");
    assert_eq!(received["query"], "status=1");
    assert_eq!(
        received["headers"],
        json!(["accept", "accept-encoding", "api-key", "host"])
    );
    assert_eq!(received["credential"], "todo");
    assert_eq!(received["status"], 200);

    erp.sim(Method::DELETE, "requests", None).await;
    assert!(erp.simulator.requests().is_empty());
    erp.get("ordenes_servicio/").await;
    assert_eq!(erp.last_request().status, Some(200));
}

#[tokio::test]
async fn the_journal_tells_how_many_were_served_at_once() {
    let erp = Erp::start().await;
    erp.faulty(Faults::holding());
    tokio::join!(
        erp.get("ordenes_servicio/1/"),
        erp.get("ordenes_servicio/2/"),
        erp.get("ordenes_servicio/3/"),
        async {
            erp.wait_until_received(3).await;
            erp.faulty(Faults::default());
            assert!(erp.simulator.let_go("prueba"));
        }
    );
    let mut at_once: Vec<usize> = erp.simulator.requests().iter().map(|r| r.at_once).collect();
    at_once.sort();
    assert_eq!(at_once, [1, 2, 3]);
    erp.get("ordenes_servicio/").await;
    assert_eq!(erp.last_request().at_once, 1);
}

#[tokio::test]
async fn faults_are_set_shown_and_cleared_over_http() {
    let erp = Erp::start().await;
    let path = "tenants/prueba/faults";
    let faults = json!({"status": {"code": 502, "times": 3}, "paging": "page"});
    assert_eq!(erp.sim(Method::PUT, path, Some(faults)).await.0, 200);
    assert_eq!(erp.get("ordenes_servicio/").await.status(), 502);
    let (_, shown) = erp.sim(Method::GET, path, None).await;
    assert_eq!(shown["status"], json!({"code": 502, "times": 2}));
    erp.sim(Method::DELETE, path, None).await;
    assert_eq!(erp.get("ordenes_servicio/").await.status(), 200);

    for (mistake, word) in [
        (json!({"dely": 5}), "dely"),
        (json!({"status": {"code": 42}}), "42"),
        (json!({"paging": "pages"}), "pages"),
        (json!({"only": {"path": "x"}}), "path"),
    ] {
        let (status, refusal) = erp.sim(Method::PUT, path, Some(mistake)).await;
        assert_eq!(status, 400);
        assert!(
            refusal["error"].as_str().unwrap().contains(word),
            "{refusal}"
        );
    }
    let nobody = erp.sim(Method::PUT, "tenants/nadie/faults", Some(json!({})));
    assert_eq!(nobody.await.0, 404);
}

#[tokio::test]
async fn a_tenant_is_made_over_http() {
    let erp = Erp::start().await;
    let seed = json!({
        "users": [{"username": "u", "password": "p", "api_key": "k"}],
        "orders": 3,
        "first_id": 500,
    });
    let made = erp.sim(Method::PUT, "tenants/nueva", Some(seed.clone()));
    assert_eq!(made.await.0, 200);
    let url = format!("{}/nueva/api/v2/ordenes_servicio/502/", erp.origin);
    let detail = erp.client.get(url).header("Api-key", "k");
    assert_eq!(answer(detail.send().await.unwrap()).await.0, 200);

    assert_eq!(
        erp.sim(Method::PUT, "tenants/No.Vale", Some(seed)).await.0,
        400
    );
    let unknown = json!({"orden": 3});
    assert_eq!(
        erp.sim(Method::PUT, "tenants/otra", Some(unknown)).await.0,
        400
    );
}

#[tokio::test]
async fn the_side_door_explains_itself() {
    let erp = Erp::start().await;
    for path in ["/_sim", "/_sim/"] {
        let help = erp.client.get(format!("{}{path}", erp.origin));
        let help = help.send().await.unwrap().text().await.unwrap();
        assert!(help.contains("/_sim/requests"));
    }
    assert_eq!(erp.sim(Method::GET, "nada", None).await.0, 404);
    assert!(erp.simulator.requests().is_empty());
}

#[tokio::test]
async fn every_fault_in_the_readme_is_one_that_can_be_set() {
    let erp = Erp::start().await;
    let examples: Vec<&str> = include_str!("../../README.md")
        .lines()
        .filter_map(|line| line.strip_prefix("$FAULTS -d '")?.strip_suffix('\''))
        .collect();
    assert!(examples.len() >= 14);
    for example in examples {
        let faults = serde_json::from_str(example).unwrap();
        let (status, shown) = erp
            .sim(Method::PUT, "tenants/carper/faults", Some(faults))
            .await;
        assert_eq!(status, 200, "{example}: {shown}");
    }
}
