//! The world itself, and what comes back from it.

use std::{
    collections::HashMap,
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};

use bytes::Bytes;
use llavero::{
    app::{App, Telemetry},
    clock::Clock,
    config,
    server::{self, Drain, Stop},
    telemetry::{audit::AuditLog, traces},
};
use llavero_simulator::{Faults, ReceivedRequest, Simulator, TenantSeed, UserSeed};
use reqwest::{Client, Method, RequestBuilder, StatusCode, header::HeaderMap, multipart, redirect};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{
    certificates::{self, AUTHORITY, Io},
    fixture,
    leaks::{self, CLAVE_MARK, KEY_MARK, PASSWORD_MARK},
    tokens::{self, HS_SECRET, Signer},
};

/// A photo of `tests/fixtures/photos`.
pub fn photo(name: &str) -> Vec<u8> {
    fs::read(fixture("photos").join(name)).unwrap()
}

/// The clave of a tenant in every test's world.
pub fn with_clave(tenant: &str) -> String {
    format!("{CLAVE_MARK}-{tenant}")
}

/// The password of every user at the ERP.
pub fn password() -> String {
    format!("{PASSWORD_MARK}-app")
}

/// The Api-key of a tenant's user: `default` is that of `app`, `tecnicos` that of `tecnicos`,
/// and `nobody` nobody's.
pub fn key(tenant: &str, credential: &str) -> String {
    format!("{KEY_MARK}-{tenant}-{credential}")
}

/// In the place of `TENANT` stands the tenant's id.
pub const DEFAULT_CREDENTIAL: &str = "{api_key: {file: ../TENANT-default.key}}";
/// Where the gateway's audit records go.
const AUDIT_FILE: &str = "audit.jsonl";

/// More than any test asks.
const NO_LIMITS: &str = "limits:\n  \
    user: {requests: 4000000000, per: 1s, burst: 4000000000}\n  \
    tenant: {requests: 4000000000, per: 1s, burst: 4000000000}\n  \
    failures: {requests: 4000000000, per: 1s, burst: 4000000000}\n";

/// The tenants: 127 orders from 11001, 83 from 21001.
const TENANTS: [(&str, usize, u64); 2] = [("carper", 127, 11001), ("norte", 83, 21001)];

/// The settings of a world with TLS.
pub const TLS: &str =
    "server:\n  drain_delay: 0s\n  tls: {cert_file: tls.crt, key_file: tls.key}\n";

/// The simulated ERP, the gateway before it, and a client.
pub struct World {
    pub erp: Simulator,
    pub public: String,
    pub admin: String,
    pub client: Client,
    pub clock: Clock,
    pub shutdown: CancellationToken,
    pub at_once: CancellationToken,
    pub served: JoinHandle<std::io::Result<()>>,
    pub audit_log: AuditLog,
    erp_stop: Mutex<CancellationToken>,
    _files: tempfile::TempDir,
}

impl World {
    /// With the usual settings.
    pub async fn start() -> Self {
        Self::configured("").await
    }

    /// With more settings: top-level YAML keys beside `upstream`'s address, `server` and `auth` in
    /// the place of the usual ones.
    pub async fn configured(settings: &str) -> Self {
        Self::with_default(DEFAULT_CREDENTIAL, settings).await
    }

    /// With another credential `default` of `carper`, as its file has it; beside it are
    /// the files `carper-default.key`, `carper-tecnicos.key`, `carper-nobody.key` and `app.password`.
    pub async fn with_default(credential: &str, settings: &str) -> Self {
        Self::telling(credential, settings, Telemetry::default()).await
    }

    /// With traces, sent as those environment variables say.
    pub async fn traced(credential: &str, settings: &str, variables: &[(&str, &str)]) -> Self {
        let variables: HashMap<_, _> = variables.iter().copied().collect();
        let env = |name: &str| variables.get(name).map(|value| (*value).to_owned());
        let telemetry = Telemetry {
            traces: traces::Settings::of(env),
            ..Telemetry::default()
        };
        Self::telling(credential, settings, telemetry).await
    }

    async fn telling(credential: &str, settings: &str, telemetry: Telemetry) -> Self {
        let erp = Simulator::new();
        for (tenant, orders, first) in TENANTS {
            erp.add_tenant(
                TenantSeed::new(with_clave(tenant))
                    .orders(orders, first)
                    .user(UserSeed::new("app", password(), key(tenant, "default")))
                    .user(
                        UserSeed::new("tecnicos", password(), key(tenant, "tecnicos"))
                            .seeing((first..first + orders as u64).step_by(2)),
                    ),
            );
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!(
            "http://{}/{{clave}}/api/v2/",
            listener.local_addr().unwrap()
        );
        let erp_stop = serve(&erp, listener);
        Self::before(erp, erp_stop, &base_url, credential, settings, telemetry).await
    }

    /// The ERP goes down: nobody listens at its address.
    pub async fn erp_goes_down(&self) {
        self.erp_stop.lock().unwrap().cancel();
        while TcpStream::connect(self.erp_authority()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    /// It comes back at the same address, with all that it knew.
    pub async fn erp_comes_back(&self) {
        let listener = TcpListener::bind(self.erp_authority()).await.unwrap();
        *self.erp_stop.lock().unwrap() = serve(&self.erp, listener);
    }

    /// Before another upstream than the simulated one.
    pub async fn before_upstream(base_url: &str, settings: &str) -> Self {
        Self::before(
            Simulator::new(),
            CancellationToken::new(),
            base_url,
            DEFAULT_CREDENTIAL,
            settings,
            Telemetry::default(),
        )
        .await
    }

    async fn before(
        erp: Simulator,
        erp_stop: CancellationToken,
        base_url: &str,
        credential: &str,
        settings: &str,
        telemetry: Telemetry,
    ) -> Self {
        leaks::watch_logs();
        let files = configuration(base_url, credential, settings);
        let path = files.path().join("llavero.yaml");
        let config = config::load(&path, Vec::new()).unwrap_or_else(|mistakes| {
            panic!("the test's own configuration is wrong:\n{mistakes}")
        });
        let clock = Clock::manual();
        let of_the_erp = clock.clone();
        erp.keep_time(move || of_the_erp.wall());
        let app = App::load_with(&config, |_| None, clock.clone(), telemetry).unwrap();
        let audit_log = app.audit.clone();
        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let admin = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if config.server.tls.is_some() {
            "https"
        } else {
            "http"
        };
        let public_at = format!("{scheme}://{}", public.local_addr().unwrap());
        let admin_at = format!("http://{}", admin.local_addr().unwrap());
        let shutdown = CancellationToken::new();
        let drain = Drain {
            delay: config.server.drain_delay,
            grace: config.server.shutdown_grace,
        };
        let stop = Stop {
            drain: shutdown.clone(),
            ..Stop::default()
        };
        let at_once = stop.at_once.clone();
        let served = tokio::spawn(server::run(app, public, admin, drain, stop));
        let mut client = Client::builder()
            .redirect(redirect::Policy::none())
            .no_proxy()
            .no_gzip()
            .timeout(Duration::from_secs(20));
        if config.server.tls.is_some() {
            let authority = reqwest::Certificate::from_pem(AUTHORITY.pem.as_bytes()).unwrap();
            client = client.tls_certs_only([authority]);
        }
        let client = client.build().unwrap();
        Self {
            erp,
            public: public_at,
            admin: admin_at,
            client,
            clock,
            shutdown,
            at_once,
            served,
            audit_log,
            erp_stop: Mutex::new(erp_stop),
            _files: files,
        }
    }

    /// Where the public listener is.
    pub fn address(&self) -> SocketAddr {
        let (_, address) = self.public.split_once("://").unwrap();
        address.parse().unwrap()
    }

    /// A connection to it, by a client of HTTP/1.1.
    pub async fn connect(&self) -> Box<dyn Io> {
        self.connect_with(&["http/1.1"]).await
    }

    /// The same by one that offers that, where there is TLS to offer it.
    pub async fn connect_with(&self, alpn: &[&str]) -> Box<dyn Io> {
        if self.public.starts_with("https:") {
            let client = certificates::client(alpn);
            Box::new(certificates::connect(self.address(), client).await.unwrap())
        } else {
            Box::new(TcpStream::connect(self.address()).await.unwrap())
        }
    }

    /// A token of `ana` of `carper`, signed with ES256, with other claims where given.
    pub fn token(&self, changes: &Value) -> String {
        self.token_by(Signer::Es256, changes)
    }

    /// The same by another issuer or key.
    pub fn token_by(&self, signer: Signer, changes: &Value) -> String {
        let claims = tokens::with(tokens::claims(signer, self.clock.unix_seconds()), changes);
        tokens::sign(&signer.header(), &claims, &signer.key())
    }

    /// A request without a token.
    pub fn bare(&self, method: Method, path: &str) -> RequestBuilder {
        self.client
            .request(method, format!("{}{path}", self.public))
    }

    /// A request of `ana`.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.bare(method, path).bearer_auth(self.token(&json!({})))
    }

    /// A `GET` of `ana`.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(self.request(Method::GET, path)).await
    }

    /// A `GET` with that token.
    pub async fn get_as(&self, token: &str, path: &str) -> Reply {
        self.send(self.bare(Method::GET, path).bearer_auth(token))
            .await
    }

    /// A `PATCH` of `ana`.
    pub async fn patch(&self, path: &str, body: Value) -> Reply {
        self.send(self.request(Method::PATCH, path).json(&body))
            .await
    }

    /// An upload of `ana`.
    pub async fn upload(&self, path: &str, form: multipart::Form) -> Reply {
        self.send(self.request(Method::POST, path).multipart(form))
            .await
    }

    /// Sends, and searches the answer for what must not come out.
    pub async fn send(&self, request: RequestBuilder) -> Reply {
        let response = request.send().await.unwrap();
        let reply = Reply {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await.unwrap(),
        };
        let erp = self.erp_authority();
        for (name, value) in &reply.headers {
            leaks::assert_none_in(&format!("the header {name}"), value.as_bytes());
            assert!(
                !String::from_utf8_lossy(value.as_bytes()).contains(&erp),
                "{name} names the ERP's host"
            );
        }
        leaks::assert_none_in("a body", &reply.body);
        assert!(
            memchr::memmem::find(&reply.body, erp.as_bytes()).is_none(),
            "a body names the ERP's host: {}",
            reply.text()
        );
        reply
    }

    fn erp_authority(&self) -> String {
        let path = self._files.path().join("authority");
        fs::read_to_string(path).unwrap()
    }

    /// The directory of the configuration; `tenants` and the keys are in it.
    pub fn files(&self) -> &Path {
        self._files.path()
    }

    /// Replaces a file there as careful programs do: at once.
    pub fn replace_file(&self, name: &str, text: &str) {
        let path = self.files().join(name);
        let beside = path.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, path).unwrap();
    }

    /// Waits until what has changed in `tenants` by `change` is served. The clock goes on by a
    /// few seconds at most.
    pub async fn reloaded(&self, change: impl FnOnce()) {
        let before = self.reloads().await;
        change();
        let begun = std::time::Instant::now();
        while self.reloads().await == before {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "nothing is reloaded"
            );
            self.clock.advance(Duration::from_millis(50));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Waits until the metric of that name and labels has grown by what `change` does, which must be sooner
    /// than files are looked at anyway.
    pub async fn noticed(&self, metric: &str, change: impl FnOnce()) {
        let count = async || {
            let metrics = self.metrics().await;
            let line = metrics.lines().find(|line| line.starts_with(metric));
            line.unwrap_or_else(|| panic!("{metrics}")).to_owned()
        };
        let before = count().await;
        change();
        let step = Duration::from_millis(50);
        let mut left = Duration::from_secs(20);
        while count().await == before {
            left = left
                .checked_sub(step)
                .unwrap_or_else(|| panic!("it isn't noticed: {before}"));
            self.clock.advance(step);
            // The watch is told on the machine's own time.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// How often the tenants have changed, or were found wrong.
    async fn reloads(&self) -> Vec<String> {
        let metrics = self.metrics().await;
        let changed = "llavero_tenant_reloads_total{result=\"changed\"}";
        let lines = metrics.lines().filter(|line| line.starts_with(changed));
        lines.map(str::to_owned).collect()
    }

    /// What the ERP received.
    pub fn received(&self) -> Vec<ReceivedRequest> {
        self.erp.requests()
    }

    /// The metrics as they are now.
    pub async fn metrics(&self) -> String {
        let metrics = self.client.get(format!("{}/metrics", self.admin));
        self.send(metrics).await.text()
    }

    /// Waits until a line stands in the metrics, which must be soon.
    pub async fn wait_for_metric(&self, line: &str) {
        let begun = std::time::Instant::now();
        loop {
            let metrics = self.metrics().await;
            if metrics.lines().any(|it| it == line) {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{line} doesn't come in\n{metrics}"
            );
            tokio::task::yield_now().await;
        }
    }

    /// The audit records so far, in order, once all that were left are written.
    pub async fn audit(&self) -> Vec<Value> {
        self.audit_log.finish().await;
        self.written()
    }

    /// Those of them that are in the file now.
    pub fn written(&self) -> Vec<Value> {
        let text = fs::read(self.audit_file()).unwrap_or_default();
        leaks::assert_none_in("the audit", &text);
        text.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    /// The audit records of one request.
    pub async fn audit_of(&self, request_id: &str) -> Vec<Value> {
        let mut records = self.audit().await;
        records.retain(|record| record["request_id"] == request_id);
        records
    }

    /// Where the audit records are.
    pub fn audit_file(&self) -> PathBuf {
        self._files.path().join(AUDIT_FILE)
    }

    /// The one audit record of a request, which must come soon.
    pub async fn record_of(&self, request_id: &str) -> Value {
        let begun = std::time::Instant::now();
        loop {
            if let [record] = &self.audit_of(request_id).await[..] {
                return record.clone();
            }
            let found = self.audit_of(request_id).await;
            assert!(
                begun.elapsed() < Duration::from_secs(30) && found.len() < 2,
                "one record of {request_id}: {found:#?}"
            );
            tokio::task::yield_now().await;
        }
    }

    /// Lets the clock run by itself, much faster than the machine's, until the guard is dropped:
    /// for tests in which the gateway waits for time and it doesn't matter for how long.
    #[must_use]
    pub fn time_flies(&self) -> TimeFlies {
        self.time_flies_by(Duration::from_millis(100))
    }

    /// The same with so much of the clock's time for a millisecond of the machine's, and no more than that for what a
    /// request to the ERP and back takes through sockets: on a machine that is slow or stalls, the clock
    /// would run away from them.
    #[must_use]
    pub fn time_flies_by(&self, step: Duration) -> TimeFlies {
        let clock = self.clock.clone();
        TimeFlies(tokio::spawn(async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let here = TcpStream::connect(listener.local_addr().unwrap());
            let (here, there) = tokio::join!(here, listener.accept());
            let (mut here, (mut there, _)) = (here.unwrap(), there.unwrap());
            here.set_nodelay(true).unwrap();
            // Reading less than there is room for makes the next one wait for the system's word.
            let mut read = [0; 8];
            loop {
                tokio::time::sleep(Duration::from_millis(1)).await;
                for _ in 0..4 {
                    here.write_all(b"x").await.unwrap();
                    assert_eq!(there.read(&mut read).await.unwrap(), 1);
                }
                clock.advance(step);
            }
        }))
    }

    /// Keeps a tenant's requests waiting at the ERP until [`Self::lets_go`].
    pub fn holds(&self, tenant: &str) {
        let hold = Faults::holding();
        self.faults(tenant, hold);
    }

    /// Nothing goes wrong for a tenant any more, and those go on that the ERP holds.
    pub fn lets_go(&self, tenant: &str) {
        self.faults(tenant, Faults::default());
        assert!(self.erp.let_go(&with_clave(tenant)));
    }

    /// Waits until the ERP has received so many requests, which must be soon.
    pub async fn wait_until_received(&self, number: usize) {
        let begun = std::time::Instant::now();
        while self.received().len() < number {
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{number} requests don't come: {:?}",
                self.received()
            );
            tokio::task::yield_now().await;
        }
    }

    /// Waits until so many good tokens have come since the start. Where a test has one thread, their
    /// requests are by then where they first wait: for the ERP, or for another's answer.
    pub async fn wait_until_authenticated(&self, number: u64) {
        let begun = std::time::Instant::now();
        loop {
            let metrics = self.metrics().await;
            let come: u64 = ["remembered", "verified"]
                .iter()
                .filter_map(|result| {
                    let name = format!("llavero_token_verifications_total{{result=\"{result}\"}} ");
                    let count = metrics.lines().find_map(|line| line.strip_prefix(&name))?;
                    count.parse::<u64>().ok()
                })
                .sum();
            if come >= number {
                return;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(30),
                "{come} of {number} tokens have come"
            );
        }
    }

    /// Waits until what was sent to the gateway before has been read there, where a test has one thread: others that
    /// came later, on connections of their own, have been answered.
    pub async fn wait_until_read(&self) {
        for _ in 0..3 {
            let mut later = self.connect().await;
            let request = b"GET /nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
            later.write_all(request).await.unwrap();
            let mut answer = Vec::new();
            later.read_to_end(&mut answer).await.unwrap();
            assert!(answer.starts_with(b"HTTP/1.1 404"));
        }
    }

    /// Waits until the caller of a request has left it, as its line in the log tells.
    pub async fn wait_until_left(&self, request_id: &str) -> Value {
        let line = leaks::line_with(request_id, |line| line["message"] == "request").await;
        assert_eq!(line["status"], 499, "{line}");
        line
    }

    /// What goes wrong for a tenant from now on.
    pub fn faults(&self, tenant: &str, faults: Faults) {
        assert!(self.erp.set_faults(&with_clave(tenant), faults));
    }
}

fn serve(erp: &Simulator, listener: TcpListener) -> CancellationToken {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(
        erp.clone()
            .run(listener, async move { stopped.cancelled().await }),
    );
    stop
}

/// While it lives, time flies.
pub struct TimeFlies(JoinHandle<()>);

impl Drop for TimeFlies {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.erp_stop.lock().unwrap().cancel();
        if !std::thread::panicking() {
            leaks::assert_none_logged();
            self.written();
        }
    }
}

fn configuration(base_url: &str, credential: &str, settings: &str) -> tempfile::TempDir {
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(files.path().join(name), text).unwrap();
    fs::create_dir(files.path().join("tenants")).unwrap();
    for (tenant, ..) in TENANTS {
        for credential in ["default", "tecnicos", "nobody"] {
            write(
                &format!("{tenant}-{credential}.key"),
                &format!("{}\n", key(tenant, credential)),
            );
        }
        let clave = with_clave(tenant);
        let default = match tenant {
            "carper" => credential,
            _ => DEFAULT_CREDENTIAL,
        };
        let default = default.replace("TENANT", tenant);
        let file = format!(
            "clave: {clave}\n\
             credentials:\n  \
               default: {default}\n  \
               tecnicos: {{api_key: {{file: ../{tenant}-tecnicos.key}}}}\n\
             users:\n  \
               - {{match: {{scope: \"rol:tecnico\"}}, credential: tecnicos}}\n  \
               - {{match: {{sub: lectora}}, credential: default, scopes: [\"ordenes:read\"]}}\n  \
               - {{match: {{}}, credential: default}}\n"
        );
        write(&format!("tenants/{tenant}.yaml"), &file);
    }
    if settings.contains("tls:") {
        AUTHORITY.issue().write(files.path());
    }
    write("app.password", &password());
    write("hs.secret", HS_SECRET);
    let authority = base_url
        .split('/')
        .nth(2)
        .unwrap()
        .trim_start_matches("{clave}.");
    write("authority", authority);
    let rsa = fixture("keys/rs256.public.pem");
    let jwks = fixture("keys/jwks.json");
    let own_auth = settings.lines().any(|line| line.starts_with("auth:"));
    let usual_auth = format!(
        "auth:\n  issuers:\n    \
           - {{issuer: \"https://rsa.example.com/\", audience: [llavero], algorithms: [RS256], public_key_file: \"{}\"}}\n    \
           - {{issuer: \"https://ec.example.com/\", audience: [llavero, other], algorithms: [ES256, EdDSA], jwks_file: \"{}\"}}\n    \
           - {{issuer: \"https://hs.example.com/\", audience: [llavero], algorithms: [HS256], secret: {{file: hs.secret}}, \
               claims: {{tenant: app.tenants, scope: permisos}}, default_scopes: [\"ordenes:read\"]}}\n",
        rsa.display(),
        jwks.display()
    );
    let mut text = if own_auth { String::new() } else { usual_auth };
    // A test may set more of `upstream`; the address is the world's.
    let (upstream, rest) = split_upstream(settings);
    let _ = write!(text, "upstream:\n  base_url: \"{base_url}\"\n{upstream}");
    let server = "server:\n  drain_delay: 0s\n";
    if !rest.contains("server:") {
        text.push_str(server);
    }
    if !rest.contains("limits:") {
        text.push_str(NO_LIMITS);
    }
    if !rest.contains("audit:") {
        let _ = writeln!(text, "audit: {{output: {{file: {AUDIT_FILE}}}}}");
    }
    text.push_str(&rest);
    write("llavero.yaml", &text);
    files
}

/// The lines below `upstream:` and the others.
fn split_upstream(settings: &str) -> (String, String) {
    let (mut upstream, mut rest, mut inside) = (String::new(), String::new(), false);
    for line in settings.lines() {
        if !line.starts_with(' ') {
            inside = line.starts_with("upstream:");
            if inside {
                assert_eq!(line, "upstream:", "its keys stand on lines of their own");
                continue;
            }
        }
        let part = if inside { &mut upstream } else { &mut rest };
        let _ = writeln!(part, "{line}");
    }
    (upstream, rest)
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {} {}", self.status, self.text()))
    }

    /// A header's text; empty where there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Fails unless the status is that; gives the JSON back.
    #[track_caller]
    pub fn ok(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self.json()
    }

    /// Fails unless this is a complete problem of that status and code.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        let text = self.text();
        assert_eq!(self.status.as_u16(), status, "{text}");
        assert_eq!(
            self.header("content-type"),
            "application/problem+json",
            "{text}"
        );
        let problem = self.json();
        assert_eq!(problem["code"], code, "{text}");
        assert_eq!(problem["status"], status, "{text}");
        assert_eq!(problem["type"], format!("/problems/{code}"));
        let id = self.header("x-request-id");
        assert_eq!(problem["instance"], format!("urn:uuid:{id}"));
        for member in ["title", "detail"] {
            assert!(
                problem[member].as_str().is_some_and(|it| it.len() > 3),
                "{text}"
            );
        }
        assert_eq!(
            self.header("content-length"),
            self.body.len().to_string(),
            "{text}"
        );
        problem
    }

    /// The pointers and parameters that a problem names.
    pub fn named(&self) -> Vec<String> {
        let problem = self.json();
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        errors
            .iter()
            .map(|error| {
                let name = error["pointer"].as_str().or(error["parameter"].as_str());
                name.unwrap_or("?").to_owned()
            })
            .collect()
    }
}
