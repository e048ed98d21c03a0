//! An identity provider: keys of its own, tokens signed with them, and an address that
//! publishes them, or answers with something else.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
};
use axum::{
    Router,
    body::{Body, Bytes},
    response::Response,
};
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use llavero::clock::Clock;
use serde_json::{Map, Value, json};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{fixture, tokens};

/// A key pair with its `kid`.
#[derive(Clone)]
pub struct Key {
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    pub private: EncodingKey,
}

impl Key {
    pub fn new(algorithm: Algorithm, kid: &str) -> Self {
        let ec = |kind| {
            let pair = EcdsaKeyPair::generate(kind).unwrap();
            EncodingKey::from_ec_der(pair.to_pkcs8v1().unwrap().as_ref())
        };
        let private = match algorithm {
            Algorithm::ES256 => ec(&ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::ES384 => ec(&ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::EdDSA => {
                let pair = Ed25519KeyPair::generate().unwrap();
                EncodingKey::from_ed_der(pair.to_pkcs8v1().unwrap().as_ref())
            }
            // Making one takes seconds.
            Algorithm::RS256 => {
                let pem = std::fs::read(fixture("keys/rs256.private.pem")).unwrap();
                EncodingKey::from_rsa_pem(&pem).unwrap()
            }
            other => panic!("no key for {other:?}"),
        };
        Self {
            kid: Some(kid.to_owned()),
            algorithm,
            private,
        }
    }

    pub fn es256(kid: &str) -> Self {
        Self::new(Algorithm::ES256, kid)
    }

    pub fn without_kid(mut self) -> Self {
        self.kid = None;
        self
    }

    /// Its public half as it is published.
    pub fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.private, self.algorithm).unwrap();
        jwk.common.key_id = self.kid.clone();
        serde_json::to_value(jwk).unwrap()
    }

    /// A token of `ana` of `carper`, valid for an hour, with other claims where given.
    pub fn token(&self, issuer: &str, clock: &Clock, changes: &Value) -> String {
        let claims = tokens::claims(tokens::Signer::Es256, clock.unix_seconds());
        let claims = tokens::with(claims, &json!({ "iss": issuer }));
        self.sign(&tokens::with(claims, changes))
    }

    pub fn sign(&self, claims: &Map<String, Value>) -> String {
        let mut header = Header::new(self.algorithm);
        header.kid = self.kid.clone();
        tokens::sign(&header, claims, &self.private)
    }
}

/// A JWK Set of those keys.
pub fn jwks(keys: &[&Key]) -> Value {
    json!({ "keys": keys.iter().map(|key| key.public()).collect::<Vec<_>>() })
}

/// How it answers.
#[derive(Clone)]
pub enum Manner {
    /// Truly.
    Well,
    /// With that status and nothing else; redirects lead to the address given.
    Status(u16, Option<String>),
    /// With those bytes instead.
    Bytes(Vec<u8>),
    /// With those bytes over and over.
    Endless(Vec<u8>),
    /// With the head, a byte, and then nothing more.
    Stalled,
    /// With nothing at all.
    Silent,
    /// Truly or with 503, by chance.
    HalfTheTime(Arc<Mutex<fastrand::Rng>>),
}

struct Published {
    keys: Value,
    discovery: Value,
    manner: Manner,
}

/// The provider. It ends when it is dropped.
pub struct Provider {
    address: SocketAddr,
    issuer: String,
    published: Arc<Mutex<Published>>,
    asked: Arc<AtomicUsize>,
    sent: Arc<AtomicUsize>,
    /// False holds answers back.
    open: watch::Sender<bool>,
    _stop: DropGuard,
}

impl Provider {
    pub async fn start(keys: &[&Key]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Ports come again; the log is one for all tests.
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        let number = STARTED.fetch_add(1, Ordering::SeqCst);
        let issuer = format!("http://{address}/{number:06}");
        let published = Arc::new(Mutex::new(Published {
            keys: jwks(keys),
            discovery: json!({"issuer": issuer, "jwks_uri": format!("http://{address}/keys")}),
            manner: Manner::Well,
        }));
        let (asked, sent) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (open, gate) = watch::channel(true);
        let stop = CancellationToken::new();
        let handler = {
            let (published, asked, sent) = (published.clone(), asked.clone(), sent.clone());
            move |request: axum::extract::Request| {
                let sent = sent.clone();
                let mut gate = gate.clone();
                // What is published when the request comes is what is answered in the end.
                let is_discovery = request.uri().path().contains("/.well-known/");
                let (truth, manner) = published.lock().unwrap().now(is_discovery);
                asked.fetch_add(1, Ordering::SeqCst);
                async move {
                    let _ = gate.wait_for(|open| *open).await;
                    answer(truth, manner, sent).await
                }
            }
        };
        let app = Router::new().fallback(handler);
        let stopped = stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                _ = axum::serve(listener, app) => {}
                () = stopped.cancelled() => {}
            }
        });
        Self {
            address,
            issuer,
            published,
            asked,
            sent,
            open,
            _stop: stop.drop_guard(),
        }
    }

    /// Its name as an issuer whose keys are discovered.
    pub fn issuer(&self) -> String {
        self.issuer.clone()
    }

    /// Where its keys are.
    pub fn keys_url(&self) -> String {
        format!("http://{}/keys", self.address)
    }

    pub fn publish(&self, keys: &[&Key]) {
        self.published.lock().unwrap().keys = jwks(keys);
    }

    pub fn publish_discovery(&self, document: Value) {
        self.published.lock().unwrap().discovery = document;
    }

    pub fn answers(&self, manner: Manner) {
        self.published.lock().unwrap().manner = manner;
    }

    /// How many requests came.
    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    /// How many bytes of endless answers were taken.
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// Holds answers back until [`Self::lets_go`].
    pub fn holds(&self) {
        self.open.send_replace(false);
    }

    pub fn lets_go(&self) {
        self.open.send_replace(true);
    }

    /// Waits until so many requests have come.
    pub async fn wait_until_asked(&self, times: usize) {
        let begun = std::time::Instant::now();
        while self.asked() < times {
            assert!(
                begun.elapsed().as_secs() < 30,
                "{} of {times} requests came",
                self.asked()
            );
            tokio::task::yield_now().await;
        }
    }
}

impl Published {
    fn now(&self, is_discovery: bool) -> (String, Manner) {
        let truth = if is_discovery {
            &self.discovery
        } else {
            &self.keys
        };
        (truth.to_string(), self.manner.clone())
    }
}

async fn answer(truth: String, manner: Manner, sent: Arc<AtomicUsize>) -> Response {
    let with = |status: u16, body: Body| {
        Response::builder()
            .status(status)
            .header("content-type", "application/json")
            .body(body)
            .unwrap()
    };
    match manner {
        Manner::Well => with(200, truth.into()),
        Manner::Status(status, None) => with(status, Body::empty()),
        Manner::Status(status, Some(location)) => Response::builder()
            .status(status)
            .header("location", location)
            .body(truth.into())
            .unwrap(),
        Manner::Bytes(bytes) => with(200, bytes.into()),
        Manner::Endless(bytes) => {
            let bytes = Bytes::from(bytes);
            let pieces = std::iter::repeat_with(move || {
                sent.fetch_add(bytes.len(), Ordering::SeqCst);
                Ok::<_, Infallible>(bytes.clone())
            });
            with(200, Body::from_stream(futures_util::stream::iter(pieces)))
        }
        Manner::Stalled => {
            use futures_util::StreamExt as _;
            let first = futures_util::stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"{"))]);
            let body = first.chain(futures_util::stream::pending());
            with(200, Body::from_stream(body))
        }
        Manner::Silent => std::future::pending().await,
        Manner::HalfTheTime(chance) => {
            if chance.lock().unwrap().bool() {
                with(200, truth.into())
            } else {
                with(503, Body::empty())
            }
        }
    }
}
