//! What thousands of tenants cost: their first reading, a change of one and of all, the memory, and
//! the search for their keys in what goes out: `cargo bench --bench tenants`. Some seconds, loopback only.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark may fail, and it measures the machine's own time"
)]

use std::{
    fs,
    hint::black_box,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, Instant},
};

use jsonwebtoken::{EncodingKey, Header, encode};
use llavero::{
    app::App,
    clock::Clock,
    config,
    server::{self, Drain, Stop},
    tenants::Loader,
    watchlist::Watchlist,
};
use serde_json::json;
use tokio::net::TcpListener;

const TENANTS: usize = 5_000;
const SECRET: &str = "a secret for benchmarks of forty-two bytes";

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    // `cargo test` builds and runs benchmarks too, and wants nothing measured.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let files = tempfile::tempdir().unwrap();
    println!("{TENANTS} tenants, each a file, a rule for each of two users, and a key in a file\n");
    mount(files.path(), "..first");
    let before = resident();
    let mut loader = Loader::new(&files.path().join("tenants"), |_| None);
    let clock = Clock::system();
    let (tenants, took) = timed(|| loader.load(clock.wall()).unwrap());
    assert_eq!((tenants.len(), tenants.errors().len()), (TENANTS, 0));
    println!("first reading: {took:.0?}");
    println!(
        "resident memory of the tenants: {} KiB",
        resident().saturating_sub(before)
    );

    let watchlist = Watchlist::new(Clock::system());
    let (_, took) = timed(|| tenants.watch(&watchlist));
    println!("their keys on the list that answers are searched for: {took:.0?}");
    println!(
        "resident memory with the list: {} KiB",
        resident().saturating_sub(before)
    );
    search(&watchlist);
    drop(tenants);

    // Written less than two seconds ago they would all be read anew.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let _ = loader.load(clock.wall()).unwrap();
    let (_, took) = timed(|| loader.load(clock.wall()).unwrap());
    println!("a look at all, nothing changed: {took:.0?}");
    replace(
        &files.path().join("tenants/t00042.yaml"),
        &tenant_file(42, "otra"),
    );
    let (_, took) = timed(|| loader.load(clock.wall()).unwrap());
    println!("one changed, read: {took:.0?}");
    mount(files.path(), "..second");
    let (_, took) = timed(|| loader.load(clock.wall()).unwrap());
    println!("all swapped (`..data`), read: {took:.0?}");

    served(files.path()).await;
}

/// The same with the whole gateway: from the change on the disk to the first answer that shows it.
async fn served(dir: &Path) {
    let config = format!(
        "auth: {{issuers: [{{issuer: bench, audience: llavero, algorithms: [HS256], secret: {SECRET}}}]}}\n\
         limits: {{user: {{requests: 4000000000, per: 1s, burst: 4000000000}}, tenant: {{requests: 4000000000, per: 1s, burst: 4000000000}}}}\n\
         audit: {{output: {{file: audit.jsonl}}}}\n"
    );
    let path = dir.join("llavero.yaml");
    fs::write(&path, config).unwrap();
    let config = config::load(&path, []).unwrap();
    let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/v1/me", public.local_addr().unwrap());
    let begun = Instant::now();
    let app = App::load(&config, |_| None, Clock::system()).unwrap();
    let drain = Drain {
        delay: Duration::ZERO,
        grace: Duration::ZERO,
    };
    tokio::spawn(server::run(app, public, admin, drain, Stop::default()));
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let scopes = async || {
        let answer = client
            .get(&address)
            .bearer_auth(token())
            .send()
            .await
            .unwrap();
        let body: serde_json::Value =
            serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        body["scopes"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(scopes().await, 1);
    println!("from start-up to the first answer: {:.0?}", begun.elapsed());
    // Its watch is set by then.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let begun = Instant::now();
    let wider = tenant_file(7, "ana").replace("[ordenes:read]", "[ordenes:read, ordenes:write]");
    replace(&dir.join("tenants/t00007.yaml"), &wider);
    while scopes().await != 2 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    println!("one changed, served: {:.0?}", begun.elapsed());
    let begun = Instant::now();
    fs::remove_file(dir.join("tenants/t00007.yaml")).unwrap();
    mount(dir, "..third");
    let written = begun.elapsed();
    while scopes().await != 1 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    println!(
        "all swapped, served: {:.0?}, of which writing them {written:.0?}",
        begun.elapsed()
    );
}

/// What a look through an answer costs, beside the cheapest look that there is.
fn search(watchlist: &Watchlist) {
    let page: String = (0..40)
        .map(|id| {
            json!({"id": id, "status": "abierta", "descripcion": "<p>MANTENIMIENTO A INMUEBLES MANO DE OBRA</p>",
                "clave": format!("2761-13-{id}/1"), "cliente": {"rfc": "XAXX010101000", "razon_social": "OPERADORA SA DE CV",
                "direccion": "Calle Ejemplo 31, Col. Hipódromo Condesa, CP 06170, Ciudad de México"}})
            .to_string()
        })
        .collect();
    let page = page.as_bytes();
    let mut least = Duration::MAX;
    for _ in 0..2_000 {
        let (found, took) = timed(|| watchlist.finds_in(black_box(page), Some("t00001")));
        assert!(!found);
        least = least.min(took);
    }
    let nanoseconds = least.as_secs_f64() * 1e9 / page.len() as f64;
    println!(
        "a search through {} KiB: {least:.1?}, {nanoseconds:.2} ns a byte",
        page.len() / 1024
    );
}

/// Writes every tenant as a volume that is mounted, and swaps it in.
fn mount(dir: &Path, version: &str) {
    let tenants = dir.join("tenants");
    let data = tenants.join(version);
    fs::create_dir_all(&data).unwrap();
    fs::create_dir_all(dir.join("keys")).unwrap();
    for at in 0..TENANTS {
        let name = format!("t{at:05}.yaml");
        fs::write(data.join(&name), tenant_file(at, "ana")).unwrap();
        fs::write(dir.join(format!("keys/{at:05}")), format!("{at:040x}\n")).unwrap();
        let link = tenants.join(&name);
        if !link.exists() {
            symlink(format!("..data/{name}"), link).unwrap();
        }
    }
    symlink(version, tenants.join("..data_tmp")).unwrap();
    fs::rename(tenants.join("..data_tmp"), tenants.join("..data")).unwrap();
}

fn tenant_file(at: usize, sub: &str) -> String {
    format!(
        "clave: cuenta-{at}\n\
         credentials:\n  default: {{api_key: {{file: ../keys/{at:05}}}}}\n\
         users:\n  \
           - {{match: {{sub: {sub}}}, credential: default, scopes: [ordenes:read]}}\n  \
           - {{match: {{email: luis@example.com}}, credential: default}}\n"
    )
}

fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).unwrap();
    fs::rename(beside, path).unwrap();
}

fn token() -> String {
    let claims = json!({
        "iss": "bench", "aud": "llavero", "sub": "ana", "tenant": "t00007",
        "scope": "ordenes:read ordenes:write", "exp": 4_102_444_800_u64,
    });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), &claims, &key).unwrap()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let begun = Instant::now();
    let result = work();
    (result, begun.elapsed())
}

/// Resident memory of this process, in KiB.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}
