//! A running ERP and a client that follows nothing and hides nothing.

use std::time::Duration;

use llavero_simulator::{Faults, ReceivedRequest, Simulator, TenantSeed, UserSeed};
use reqwest::{
    Client, Method, RequestBuilder, Response,
    header::{ACCEPT_ENCODING, HeaderMap, HeaderValue},
    redirect,
};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub struct Erp {
    pub simulator: Simulator,
    pub origin: String,
    pub client: Client,
    stop: oneshot::Sender<()>,
    running: JoinHandle<std::io::Result<()>>,
}

impl Erp {
    /// The demo tenants, and `prueba` with orders 1 to 7 whose user `poco` sees 2 and 5.
    pub async fn start() -> Self {
        let simulator = Simulator::with_demo_tenants();
        simulator.add_tenant(
            TenantSeed::new("prueba")
                .orders(7, 1)
                .user(UserSeed::new("todo", "secreto", "llave-todo"))
                .user(UserSeed::new("poco", "secreto", "llave-poco").seeing([2, 5])),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let origin = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(simulator.clone().run(listener, async {
            let _ = stopped.await;
        }));
        // Said here, so that it is the same whatever features the client is built with.
        let identity =
            HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_static("identity"))]);
        let client = Client::builder()
            .default_headers(identity)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .build()
            .unwrap();
        Self {
            simulator,
            origin,
            client,
            stop,
            running,
        }
    }

    pub async fn stop(self) {
        drop(self.client);
        self.stop.send(()).unwrap();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.running);
        ended.await.unwrap().unwrap().unwrap();
    }

    pub fn faulty(&self, faults: Faults) {
        assert!(self.simulator.set_faults("prueba", faults));
    }

    /// Waits until so many requests have come.
    pub async fn wait_until_received(&self, number: usize) {
        let come = async {
            while self.simulator.requests().len() < number {
                tokio::task::yield_now().await;
            }
        };
        let come = tokio::time::timeout(Duration::from_secs(20), come).await;
        assert!(come.is_ok(), "{number} requests don't come");
    }

    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        let address = format!("{}/prueba/api/v2/{path}", self.origin);
        self.client.request(method, address)
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).header("Api-key", "llave-todo")
    }

    pub async fn get(&self, path: &str) -> Response {
        self.request(Method::GET, path).send().await.unwrap()
    }

    pub async fn patch(&self, path: &str, body: Value) -> Response {
        let request = self.request(Method::PATCH, path).json(&body);
        request.send().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Response {
        let request = self.request(Method::POST, path).json(&body);
        request.send().await.unwrap()
    }

    pub async fn sim(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let mut request = self
            .client
            .request(method, format!("{}/_sim/{path}", self.origin));
        if let Some(body) = body {
            request = request.json(&body);
        }
        answer(request.send().await.unwrap()).await
    }

    pub fn last_request(&self) -> ReceivedRequest {
        self.simulator.requests().pop().unwrap()
    }
}

/// The status and the JSON of an answer.
pub async fn answer(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    (status, response.json().await.unwrap())
}

pub fn ids(list: &Value) -> Vec<u64> {
    let results = list["results"].as_array().unwrap();
    results
        .iter()
        .map(|orden| orden["id"].as_u64().unwrap())
        .collect()
}
