//! What a caller waits for, with the tenant's neighbour well and with its ERP hanging:
//! `cargo bench --bench gateway`. Ends by itself in about half a minute; loopback only.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark may fail, and it measures the machine's own time"
)]

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use jsonwebtoken::{EncodingKey, Header, encode};
use llavero::{
    app::App,
    clock::Clock,
    config,
    server::{self, Drain, Stop},
};
use llavero_simulator::{Faults, Simulator};
use serde_json::json;
use tokio::net::TcpListener;

const SECRET: &str = "a secret for benchmarks of forty-two bytes";
/// How long one measurement takes, and how often each is repeated, in turn with the others.
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 4;
const CALLERS: usize = 4;
/// Open requests to the tenant whose ERP hangs.
const STUCK: usize = 200;

struct Bench {
    client: reqwest::Client,
    public: String,
    erp: Simulator,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // `cargo test` builds and runs benchmarks too, and wants nothing measured.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    let bench = Arc::new(start(files.path()).await);
    let mut samples = vec![Vec::new(); 4];
    for _ in 0..ROUNDS {
        samples[0].extend(bench.measure(false).await);
        samples[1].extend(bench.measure(true).await);
        let stuck = bench.neighbour_hangs().await;
        samples[2].extend(bench.measure(false).await);
        samples[3].extend(bench.measure(true).await);
        bench.neighbour_recovers(stuck).await;
    }
    println!(
        "\n{CALLERS} callers of one tenant, {STUCK} open requests of another whose ERP hangs\n"
    );
    println!("| reads | requests | p50 | p99 | p99.9 |");
    println!("|---|---|---|---|---|");
    let names = [
        "hits",
        "misses",
        "hits, neighbour hangs",
        "misses, neighbour hangs",
    ];
    for (name, samples) in names.into_iter().zip(&mut samples) {
        samples.sort_unstable();
        let at = |part: f64| samples[((samples.len() - 1) as f64 * part) as usize];
        let (count, p50, p99, p999) = (samples.len(), at(0.5), at(0.99), at(0.999));
        println!("| {name} | {count} | {p50:.0?} | {p99:.0?} | {p999:.0?} |");
    }
    for (well, stuck, name) in [(0, 2, "hits"), (1, 3, "misses")] {
        let p99 = |at: usize| samples[at][(samples[at].len() - 1) * 99 / 100].as_secs_f64();
        println!(
            "p99 of {name}, hanging to well: {:.2}",
            p99(stuck) / p99(well)
        );
    }
}

async fn start(dir: &std::path::Path) -> Bench {
    let erp = Simulator::with_demo_tenants();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let erp_at = listener.local_addr().unwrap();
    tokio::spawn(erp.clone().run(listener, std::future::pending()));
    fs::create_dir(dir.join("tenants")).unwrap();
    for tenant in ["carper", "norte"] {
        let key = format!(
            "clave: {tenant}\ncredentials: {{default: {{api_key: sim-key-{tenant}-default}}}}\n"
        );
        fs::write(dir.join(format!("tenants/{tenant}.yaml")), key).unwrap();
    }
    let config = format!(
        "upstream: {{base_url: \"http://{erp_at}/{{clave}}/api/v2/\", timeout: 60s, queue_timeout: 60s}}\n\
         auth: {{issuers: [{{issuer: bench, audience: llavero, algorithms: [HS256], secret: {SECRET}}}]}}\n\
         limits: {{user: {{requests: 4000000000, per: 1s, burst: 4000000000}}, tenant: {{requests: 4000000000, per: 1s, burst: 4000000000}}}}\n\
         audit: {{output: {{file: audit.jsonl}}}}\n"
    );
    let path = dir.join("llavero.yaml");
    fs::write(&path, config).unwrap();
    let config = config::load(&path, []).unwrap();
    let app = App::load(&config, |_| None, Clock::system()).unwrap();
    let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let public_at = format!("http://{}", public.local_addr().unwrap());
    let drain = Drain {
        delay: Duration::ZERO,
        grace: Duration::ZERO,
    };
    tokio::spawn(server::run(app, public, admin, drain, Stop::default()));
    Bench {
        client: reqwest::Client::builder().no_proxy().build().unwrap(),
        public: public_at,
        erp,
    }
}

fn token(tenant: &str) -> String {
    let claims = json!({
        "iss": "bench", "aud": "llavero", "sub": "ana", "tenant": tenant,
        "scope": "ordenes:read", "exp": 4_102_444_800_u64,
    });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), &claims, &key).unwrap()
}

impl Bench {
    /// How long each read of `norte` took; misses ask past the cache.
    async fn measure(self: &Arc<Self>, misses: bool) -> Vec<Duration> {
        let callers = (0..CALLERS).map(|caller| {
            let bench = self.clone();
            let token = token("norte");
            tokio::spawn(async move {
                let (mut took, begun, mut at) = (Vec::new(), Instant::now(), 0);
                while begun.elapsed() < ROUND {
                    at += 1;
                    let id = 21001 + (caller * 20 + at % 20);
                    let mut request = bench
                        .client
                        .get(format!("{}/v1/ordenes/{id}", bench.public))
                        .bearer_auth(&token);
                    if misses {
                        request = request.header("cache-control", "no-cache");
                    }
                    let sent = Instant::now();
                    let response = request.send().await.unwrap();
                    assert_eq!(response.status(), 200);
                    response.bytes().await.unwrap();
                    took.push(sent.elapsed());
                }
                took
            })
        });
        let all = futures_util::future::join_all(callers.collect::<Vec<_>>()).await;
        all.into_iter().flat_map(Result::unwrap).collect()
    }

    async fn neighbour_hangs(self: &Arc<Self>) -> Vec<tokio::task::JoinHandle<()>> {
        let hanging = Faults {
            hang: true,
            ..Faults::default()
        };
        assert!(self.erp.set_faults("carper", hanging));
        let token = token("carper");
        let stuck = (0..STUCK).map(|at| {
            let request = self
                .client
                .get(format!("{}/v1/ordenes?limit=1&offset={at}", self.public))
                .bearer_auth(&token);
            tokio::spawn(async move {
                let _ = request.send().await;
            })
        });
        let stuck = stuck.collect();
        tokio::time::sleep(Duration::from_millis(300)).await;
        stuck
    }

    async fn neighbour_recovers(&self, stuck: Vec<tokio::task::JoinHandle<()>>) {
        stuck.iter().for_each(tokio::task::JoinHandle::abort);
        assert!(self.erp.set_faults("carper", Faults::default()));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}
