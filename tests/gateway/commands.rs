//! The binary as people run it: real processes, real files, real signals.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness::{
    certificates::{self, AUTHORITY},
    collector::{Collector, Mood},
    fixture, leaks,
    provider::{Key, Manner, Provider},
};

/// `server.tls`, with the pair beside the configuration.
const PAIR: &str = "{cert_file: tls.crt, key_file: tls.key}";

fn llavero() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llavero"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    llavero().args(arguments).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// A port that was free a moment ago.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// What it says goes nowhere.
    fn quietly(command: &mut Command) -> Self {
        let command = command.stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, name: &str) {
        let id = self.0.id().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &id])
                .status()
                .unwrap()
                .success()
        );
    }
}

/// Whether something answers there within a few seconds.
fn wait_for(address: SocketAddr) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {address}");
        std::thread::yield_now();
    }
}

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[test]
fn check_names_every_mistake_with_file_line_and_key() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "llavero.yaml",
        "server:\n  lisen: 0.0.0.0:8080\n  drain_delay: soon\nimages:\n  max_bytes: 12MB\nauth:\n  issuers:\n    - issuer: https://id.example.com/\n      audience: [llavero]\n      algorithms: [RS256, HS256]\n      public_key_file: nowhere.pem\n",
    );
    write(
        dir.path(),
        "tenants/carper.yaml",
        "clave: not a label\ncredentials:\n  default: {api_key: {env: NO_SUCH_VARIABLE}}\nuser: []\n",
    );
    write(dir.path(), "tenants/carper.yml", "clave: carper\n");
    write(
        dir.path(),
        "tenants/UPPER.yaml",
        "clave: carper\ncredentials: {}\n",
    );
    let config = dir.path().join("llavero.yaml");
    let output = run(&["check", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    for expected in [
        "llavero.yaml:2: server.lisen: ",
        "did you mean \"listen\"?",
        "llavero.yaml:3: server.drain_delay: ",
        "llavero.yaml:5: images.max_bytes: ",
        "auth.issuers[0].algorithms",
        "carper.yaml:1: clave: ",
        "carper.yaml:3: credentials.default.api_key",
        "NO_SUCH_VARIABLE",
        "carper.yaml:4: user: ",
        "UPPER.yaml",
        "carper.yml: a tenant's file ends in .yaml",
    ] {
        assert!(
            text.contains(expected),
            "{expected:?} is missing in\n{text}"
        );
    }
}

#[test]
fn check_says_that_all_is_well() {
    let dir = tempfile::tempdir().unwrap();
    let (erp, listen, admin) = (free(), free(), free());
    configure(dir.path(), erp, listen, admin);
    let config = dir.path().join("llavero.yaml");
    let output = run(&["check", "--config", config.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stdout(&output));
    assert!(stdout(&output).contains("2 issuers, 2 tenants"));
}

/// Two tenants of the simulated ERP and two issuers, by hand.
fn configure(dir: &Path, erp: SocketAddr, listen: SocketAddr, admin: SocketAddr) {
    let keys = fixture("keys");
    let keys = keys.display();
    write(
        dir,
        "llavero.yaml",
        &format!(
            "server: {{listen: \"{listen}\", admin_listen: \"{admin}\", drain_delay: 0s}}\n\
         upstream: {{base_url: \"http://{erp}/{{clave}}/api/v2/\"}}\n\
         auth:\n  issuers:\n    \
           - {{issuer: \"https://rsa.example.com/\", audience: [llavero], algorithms: [RS256], public_key_file: \"{keys}/rs256.public.pem\"}}\n    \
           - {{issuer: \"https://ec.example.com/\", audience: [llavero], algorithms: [ES256], jwks_file: \"{keys}/jwks.json\"}}\n"
        ),
    );
    for tenant in ["carper", "norte"] {
        write(
            dir,
            &format!("secrets/{tenant}"),
            &format!("sim-key-{tenant}-default\n"),
        );
        write(
            dir,
            &format!("tenants/{tenant}.yaml"),
            &format!(
                "clave: https://{tenant}.admintotal.com/\ncredentials:\n  default: {{api_key: {{file: ../secrets/{tenant}}}}}\n"
            ),
        );
    }
}

fn token(dir: &Path, issuer: &str, key: &str, kid: Option<&str>, tenant: &str) -> String {
    let config = dir.join("llavero.yaml");
    let key = fixture("keys").join(key);
    let mut arguments = vec![
        "token",
        "--config",
        config.to_str().unwrap(),
        "--issuer",
        issuer,
        "--key",
        key.to_str().unwrap(),
        "--sub",
        "ana",
        "--tenant",
        tenant,
        "--ttl",
        "10m",
    ];
    if let Some(kid) = kid {
        arguments.extend(["--kid", kid]);
    }
    let output = run(&arguments);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let token = stdout(&output).trim().to_owned();
    leaks::register_token(&token);
    token
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_and_sim_work_as_two_processes() {
    let dir = tempfile::tempdir().unwrap();
    let (erp, listen, admin) = (free(), free(), free());
    configure(dir.path(), erp, listen, admin);
    let _sim = Running::quietly(llavero().args(["sim", "--listen", &erp.to_string()]));
    let config = dir.path().join("llavero.yaml");
    let log = dir.path().join("log");
    let mut serve = Running(
        llavero()
            .args(["serve", "--config", config.to_str().unwrap()])
            .env("RUST_LOG", "trace")
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap(),
    );
    wait_for(erp);
    wait_for(listen);
    wait_for(admin);
    let rsa = token(
        dir.path(),
        "https://rsa.example.com/",
        "rs256.private.pem",
        None,
        "carper",
    );
    let ec = token(
        dir.path(),
        "https://ec.example.com/",
        "es256.private.pem",
        Some("ec-1"),
        "norte",
    );
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let get = async |token: &str, id: u64| {
        let url = format!("http://{listen}/v1/ordenes/{id}");
        client.get(url).bearer_auth(token).send().await.unwrap()
    };
    assert_eq!(get(&rsa, 11001).await.status(), 200);
    assert_eq!(get(&ec, 21001).await.status(), 200);
    assert_eq!(get(&rsa, 21001).await.status(), 404);
    assert_eq!(get(&ec, 11001).await.status(), 404);
    let orden: Value = get(&ec, 21001).await.json().await.unwrap();
    assert_eq!(orden["id"], 21001);

    let health = llavero()
        .args(["healthcheck", "--url", &format!("http://{admin}")])
        .output()
        .unwrap();
    assert!(
        health.status.success(),
        "{}",
        String::from_utf8_lossy(&health.stderr)
    );
    let live = run(&["check", "--live", "--config", config.to_str().unwrap()]);
    assert!(live.status.success(), "{}", stdout(&live));
    assert!(stdout(&live).contains("carper: default: accepted"));

    let tenant = dir.path().join("tenants/carper.yaml");
    let credentials = "clave: carper\ncredentials:\n  \
         default: {api_key: [sim-key-carper-default, sim-key-carper-none]}\n  \
         jwt: {login: {username: app-tecnicos, password: demo}}\n  \
         key: {login: {username: app-tecnicos, password: demo, mode: api_key}}\n  \
         wrong: {login: {username: app-tecnicos, password: dem0}}\n";
    fs::write(tenant, credentials).unwrap();
    let live = run(&["check", "--live", "--config", config.to_str().unwrap()]);
    assert!(!live.status.success());
    let told = stdout(&live);
    let refused = "the ERP can't be used with it: it refused the credential with 401";
    for line in [
        "carper: default: accepted".to_owned(),
        format!("carper: default (next key): {refused}"),
        "carper: jwt (login): accepted".to_owned(),
        "carper: jwt: accepted".to_owned(),
        "carper: key (login): accepted".to_owned(),
        "carper: key: accepted".to_owned(),
        format!("carper: wrong (login): {refused}"),
        "norte: default: accepted".to_owned(),
    ] {
        assert!(told.lines().any(|it| it == line), "{line}\n{told}");
    }
    assert!(!told.contains("wrong:") && !told.contains("dem0"), "{told}");

    serve.signal("TERM");
    assert!(serve.0.wait().unwrap().success(), "a drain ends well");
    let health = llavero()
        .args(["healthcheck", "--url", &format!("http://{admin}")])
        .output()
        .unwrap();
    assert!(!health.status.success());
    // At TRACE, and with nothing that must not be there.
    let log = fs::read_to_string(log).unwrap();
    assert!(log.lines().count() >= 5 && log.contains("drained"), "{log}");
    leaks::assert_none_in("the log", log.as_bytes());
    for secret in ["sim-key-", "admintotal.com", &erp.to_string()] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demos_lines_work_as_printed() {
    let (listen, admin, erp) = (free(), free(), free());
    let mut demo = Running(
        llavero()
            .args([
                "demo",
                "--listen",
                &listen.to_string(),
                "--admin-listen",
                &admin.to_string(),
                "--sim-listen",
                &erp.to_string(),
            ])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap(),
    );
    let mut lines = Vec::new();
    for line in BufReader::new(demo.0.stdout.as_mut().unwrap()).lines() {
        let line = line.unwrap();
        if line.starts_with("Ctrl-C") {
            break;
        }
        lines.push(line);
    }
    wait_for(listen);
    let curls: Vec<_> = lines
        .iter()
        .filter(|line| line.starts_with("curl "))
        .collect();
    assert_eq!(curls.len(), 4);
    let mut photo_file = String::new();
    for (line, expected) in curls.iter().zip(["200", "200", "200", "201"]) {
        if let Some((_, path)) = line.split_once("imagen=@\"") {
            path.split('"').next().unwrap().clone_into(&mut photo_file);
        }
        let script = format!("{line} -s -o /dev/null -w '%{{http_code}}'");
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(stdout(&output), expected, "{line}");
    }
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let requests: Value = client
        .get(format!("http://{erp}/_sim/requests"))
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    let upload = requests.as_array().unwrap().last().unwrap();
    let id = &upload["archivo_id"];
    let kept = client
        .get(format!("http://{erp}/_sim/tenants/carper/imagenes/{id}"))
        .send()
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert!(
        kept == fs::read(&photo_file).unwrap(),
        "the ERP has the photo's very bytes"
    );
    demo.signal("INT");
    assert!(demo.0.wait().unwrap().success());
    assert!(!Path::new(&photo_file).exists(), "it cleans up");
}

#[test]
fn serve_refuses_a_wrong_configuration_and_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let output = run(&["serve", "--config", "/nowhere/llavero.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere/llavero.yaml"));
    write(dir.path(), "llavero.yaml", "auth: {issuers: []}\n");
    let config = dir.path().join("llavero.yaml");
    let output = run(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("auth.issuers"));
}

#[test]
fn a_taken_port_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    configure(dir.path(), free(), taken.local_addr().unwrap(), free());
    let config = dir.path().join("llavero.yaml");
    let output = run(&["serve", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        text.contains("server.listen") && text.contains(&taken.local_addr().unwrap().to_string()),
        "{text}"
    );
}

#[test]
fn the_environment_sets_any_key() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), free(), free(), free());
    let config = dir.path().join("llavero.yaml");
    let with = |name: &str, value: &str| {
        llavero()
            .args(["check", "--config", config.to_str().unwrap()])
            .env(name, value)
            .output()
            .unwrap()
    };
    assert!(with("LLAVERO__IMAGES__MAX_BYTES", "1MiB").status.success());
    let output = with("LLAVERO__IMAGES__MAX_BYTES", "lots");
    assert!(
        stdout(&output).contains("LLAVERO__IMAGES__MAX_BYTES: images.max_bytes: "),
        "{}",
        stdout(&output)
    );
    let output = with("LLAVERO__IMAGES__MAX_BITES", "1MiB");
    assert!(
        stdout(&output).contains("LLAVERO__IMAGES__MAX_BITES"),
        "{}",
        stdout(&output)
    );
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn results_go_to_stdout() {
    let yaml = run(&["openapi"]);
    let committed =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/llavero.yaml")).unwrap();
    assert!(yaml.stdout == committed);
    let json = run(&["openapi", "--format", "json"]);
    let document: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(document["openapi"], "3.1.0");
    assert!(stdout(&run(&["--version"])).starts_with("llavero "));
    assert!(stdout(&run(&["completions", "bash"])).contains("llavero"));
    let mut nothing = String::new();
    let output = run(&["nonsense"]);
    (&output.stdout[..]).read_to_string(&mut nothing).unwrap();
    assert!(nothing.is_empty() && output.status.code() == Some(2));
}

#[test]
fn check_refuses_keys_that_no_token_could_be_verified_with() {
    let (erp, listen, admin) = (free(), free(), free());
    let rsa = fs::read_to_string(fixture("keys/rs256.private.pem")).unwrap();
    let ec = fs::read_to_string(fixture("keys/es256.public.pem")).unwrap();
    let jwks: Value =
        serde_json::from_slice(&fs::read(fixture("keys/jwks.json")).unwrap()).unwrap();
    let with = |name: &str, value: Value| {
        let mut jwks = jwks.clone();
        jwks["keys"][0][name] = value;
        jwks.to_string()
    };
    let mut twice = jwks.clone();
    twice["keys"]
        .as_array_mut()
        .unwrap()
        .push(jwks["keys"][0].clone());
    for (file, content, expected) in [
        ("rsa.pem", rsa, "isn't a public key in PEM"),
        ("rsa.pem", ec, "isn't a public key in PEM"),
        (
            "jwks.json",
            with("x", "AAAA".into()),
            "isn't a public key of its kind",
        ),
        (
            "jwks.json",
            with("y", jwks["keys"][0]["x"].clone()),
            "isn't a public key of its kind",
        ),
        ("jwks.json", with("d", "AAAA".into()), "is a private key"),
        (
            "jwks.json",
            twice.to_string(),
            "has the same `kid` as another",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        configure(dir.path(), erp, listen, admin);
        write(dir.path(), file, &content);
        let config = dir.path().join("llavero.yaml");
        let text = fs::read_to_string(&config).unwrap();
        let usual = match file {
            "rsa.pem" => fixture("keys/rs256.public.pem"),
            _ => fixture("keys/jwks.json"),
        };
        let (usual, own) = (usual.display().to_string(), dir.path().join(file));
        let text = text.replace(&usual, &own.display().to_string());
        fs::write(&config, text).unwrap();
        let output = run(&["check", "--config", config.to_str().unwrap()]);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{expected}: {}",
            stdout(&output)
        );
        assert!(stdout(&output).contains(expected), "{}", stdout(&output));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_asks_providers_only_where_it_may() {
    let (up, down) = (
        Provider::start(&[&Key::es256("a"), &Key::es256("b")]).await,
        Provider::start(&[]).await,
    );
    down.answers(Manner::Status(404, None));
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), free(), free(), free());
    let config = dir.path().join("llavero.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let issuers = [&up, &down].map(|provider| {
        format!(
            "    - {{issuer: \"{}\", audience: [llavero], algorithms: [ES256], jwks_url: \"{}\"}}\n",
            provider.issuer(),
            provider.keys_url()
        )
    });
    let text = text.replace(
        "auth:\n  issuers:\n",
        &format!(
            "auth:\n  jwks: {{allow_loopback_http: true}}\n  issuers:\n{}",
            issuers.concat()
        ),
    );
    fs::write(&config, text).unwrap();
    let check = async |more: &[&str]| {
        let arguments = [&["check", "--config", config.to_str().unwrap()], more].concat();
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        tokio::task::spawn_blocking(move || llavero().args(arguments).output().unwrap())
            .await
            .unwrap()
    };
    let form = check(&[]).await;
    assert!(form.status.success(), "{}", stdout(&form));
    assert_eq!((up.asked(), down.asked()), (0, 0));

    let live = check(&["--live"]).await;
    assert_eq!(live.status.code(), Some(1));
    let told = stdout(&live);
    for line in [
        format!("{}: 2 keys", up.issuer()),
        format!(
            "{}: its keys can't be fetched: the status was 404",
            down.issuer()
        ),
    ] {
        assert!(told.contains(&line), "{line} is missing in {told}");
    }
    let summary = String::from_utf8_lossy(&live.stderr);
    assert!(
        summary.contains("1 issuer and 2 credentials failed"),
        "{summary}"
    );
    assert_eq!((up.asked(), down.asked()), (1, 1));
}

#[test]
fn two_tenants_are_not_one_account() {
    let dir = tempfile::tempdir().unwrap();
    let (erp, listen, admin) = (free(), free(), free());
    configure(dir.path(), erp, listen, admin);
    let twin = "clave: CARPER.admintotal.com\ncredentials: {default: {api_key: {file: ../secrets/carper}}}\n";
    write(dir.path(), "tenants/twin.yaml", twin);
    let config = dir.path().join("llavero.yaml");
    let output = run(&["check", "--config", config.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let told = "twin.yaml: clave: names the same account as the tenant carper";
    assert!(stdout(&output).contains(told), "{}", stdout(&output));
}

#[test]
fn who_stops_reading_is_no_failure() {
    let mut child = llavero()
        .arg("openapi")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn check_explains_what_a_token_would_get() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), free(), free(), free());
    write(
        dir.path(),
        "tenants/carper.yaml",
        "clave: carper\ncredentials:\n  default: {api_key: {file: ../secrets/carper}}\n  campo: {api_key: {file: ../secrets/norte}}\n\
         users:\n  - {match: {scope: 'rol:tecnico'}, credential: campo, scopes: [ordenes:read]}\n  - {match: {iss: 'https://ec.example.com/', email: eva@example.com}, credential: default}\n",
    );
    let config = dir.path().join("llavero.yaml");
    let explain = |arguments: &str| {
        let mut all = vec!["check", "--config", config.to_str().unwrap(), "--explain"];
        all.extend(arguments.split(' '));
        let output = run(&all);
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), stdout(&output) + &told)
    };
    let ec = "--issuer https://ec.example.com/ --sub ana";
    for (arguments, good, told) in [
        (
            format!(
                "{ec} --tenant carper --scope ordenes:read --scope ordenes:write --scope rol:tecnico"
            ),
            true,
            &[
                "users[0]: scope is rol:tecnico: yes -> it is the first that matches",
                "with the credential campo (api_key)",
                "scopes: ordenes:read\n",
            ][..],
        ),
        (
            format!("{ec} --email Eva@example.com --scope ordenes:read"),
            true,
            &[
                "tenant carper: its `users` names this caller",
                "users[0]: scope is rol:tecnico: no -> passed over",
                "with the credential default",
            ],
        ),
        (
            "--issuer https://rsa.example.com/ --sub ana --email eva@example.com".to_owned(),
            false,
            &["together with `iss`", "403 tenant-not-allowed"],
        ),
        (
            format!("{ec} --tenant carper"),
            false,
            &["no rule matches", "403 tenant-not-allowed"],
        ),
        (
            format!("{ec} --tenant nadie"),
            false,
            &["there is none of that id", "403"],
        ),
        (
            format!("{ec} --tenant norte"),
            false,
            &[
                "everybody acts with the credential default",
                "403 insufficient-scope",
            ],
        ),
        (
            "--sub ana".to_owned(),
            false,
            &["say whose token it is, with --issuer"],
        ),
    ] {
        let (is_good, text) = explain(&arguments);
        assert_eq!(is_good, good, "{arguments}\n{text}");
        for expected in told {
            assert!(
                text.contains(expected),
                "{expected:?} is missing in\n{text}"
            );
        }
        assert!(!text.contains("sim-key-"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reloads_and_opens_the_audit_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, admin) = (free(), free());
    configure(dir.path(), free(), listen, admin);
    let config = dir.path().join("llavero.yaml");
    let audit = dir.path().join("audit.jsonl");
    let log = dir.path().join("log");
    let serve = Running(
        llavero()
            .args(["serve", "--config", config.to_str().unwrap()])
            .env(
                "LLAVERO__AUDIT__OUTPUT",
                format!("{{file: {}}}", audit.display()),
            )
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap(),
    );
    wait_for(listen);
    wait_for(admin);
    fs::rename(&audit, dir.path().join("audit.jsonl.1")).unwrap();
    serve.signal("HUP");
    let begun = Instant::now();
    let tells = |line: &str| fs::read_to_string(&log).unwrap().contains(line);
    while !audit.exists() || !tells("reloading") {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "nothing is reloaded"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // What can't be dumped can't be read by its own user either.
    let environment = fs::File::open(format!("/proc/{}/environ", serve.0.id()));
    let limits = fs::read_to_string(format!("/proc/{}/limits", serve.0.id())).unwrap();
    assert!(
        limits.lines().any(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            words.starts_with(&["Max", "core", "file", "size", "0", "0"])
        }),
        "{limits}"
    );
    drop(environment);
    // Pages of 2 MiB would be held for a photo that touches a part of them. Old kernels don't tell.
    let status = fs::read_to_string(format!("/proc/{}/status", serve.0.id())).unwrap();
    let large_pages = status
        .lines()
        .find_map(|line| line.strip_prefix("THP_enabled:"));
    assert!(
        large_pages.is_none_or(|enabled| enabled.trim() == "0"),
        "{status}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn serve_speaks_tls_and_a_hangup_looks_at_the_pair_again() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, admin) = (free(), free());
    configure(dir.path(), free(), listen, admin);
    AUTHORITY.issue().write(dir.path());
    let config = dir.path().join("llavero.yaml");
    let serve = Running::quietly(
        llavero()
            .args(["serve", "--config", config.to_str().unwrap()])
            .env("LLAVERO__SERVER__TLS", PAIR),
    );
    wait_for(listen);
    wait_for(admin);
    let stream = certificates::connect(listen, certificates::client(&["h2"])).await;
    assert_eq!(
        stream.unwrap().get_ref().1.alpn_protocol(),
        Some(&b"h2"[..])
    );
    let healthy = llavero()
        .args(["healthcheck", "--url", &format!("http://{admin}")])
        .status();
    assert!(healthy.unwrap().success());
    serve.signal("HUP");
    wait_for_metric(admin, "llavero_tls_reloads_total{result=\"unchanged\"} 1").await;
}

/// Waits until the gateway's metrics have that line, sooner than files are looked at anyway.
async fn wait_for_metric(admin: SocketAddr, line: &str) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let begun = Instant::now();
    loop {
        let metrics = client.get(format!("http://{admin}/metrics")).send();
        let metrics = metrics.await.unwrap().text().await.unwrap();
        if metrics.lines().any(|it| it == line) {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{line} doesn't come in\n{metrics}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// As the README has it: the file is named from where it lies.
#[tokio::test(flavor = "multi_thread")]
async fn changes_are_noticed_by_relative_paths_too() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, admin) = (free(), free());
    configure(dir.path(), free(), listen, admin);
    AUTHORITY.issue().write(dir.path());
    let _serve = Running::quietly(
        llavero()
            .arg("serve")
            .current_dir(dir.path())
            .env("LLAVERO__SERVER__TLS", PAIR),
    );
    wait_for(listen);
    wait_for(admin);
    write(dir.path(), "secrets/carper", "sim-key-carper-tecnicos");
    wait_for_metric(admin, "llavero_tenant_reloads_total{result=\"changed\"} 1").await;
    AUTHORITY.issue().write(dir.path());
    wait_for_metric(admin, "llavero_tls_reloads_total{result=\"changed\"} 1").await;
    fs::remove_file(dir.path().join("tenants/norte.yaml")).unwrap();
    wait_for_metric(admin, "llavero_tenants 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_asks_where_serve_listens() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, admin) = (free(), free());
    let everywhere = SocketAddr::new([0, 0, 0, 0].into(), admin.port());
    configure(dir.path(), free(), listen, everywhere);
    let _serve = Running::quietly(llavero().arg("serve").current_dir(dir.path()));
    wait_for(admin);
    let elsewhere = tempfile::tempdir().unwrap();
    let healthcheck = |dir: &Path, arguments: &[&str], listen: Option<SocketAddr>| {
        let mut command = llavero();
        command.arg("healthcheck").args(arguments).current_dir(dir);
        if let Some(listen) = listen {
            command.env("LLAVERO__SERVER__ADMIN_LISTEN", listen.to_string());
        }
        command.output().unwrap().status.success()
    };
    let config = dir.path().join("llavero.yaml");
    let named = ["--config", config.to_str().unwrap()];
    assert!(healthcheck(dir.path(), &[], None));
    assert!(healthcheck(elsewhere.path(), &named, None));
    assert!(healthcheck(elsewhere.path(), &[], Some(everywhere)));
    // The variable is what `serve` takes too.
    assert!(!healthcheck(dir.path(), &[], Some(free())));
    let url = format!("http://{admin}/");
    assert!(healthcheck(
        elsewhere.path(),
        &["--url", &url],
        Some(free())
    ));
}

#[test]
fn one_thing_that_is_missing_is_one_mistake() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), free(), free(), free());
    let config = dir.path().join("llavero.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let with_tls = |tls: &str| {
        let text = text.replace(
            "drain_delay: 0s}",
            &format!("drain_delay: 0s, tls: {tls}}}"),
        );
        fs::write(&config, text).unwrap();
        run(&["check", "--config", config.to_str().unwrap()])
    };
    for (tls, expected) in [
        (
            "{cert_file: tls.crt}",
            "server.tls: `key_file` is missing; it has no default",
        ),
        (
            "{cert_file: tls.crt, key_file: ''}",
            "server.tls.key_file: must be a file in PEM, e.g. tls/tls.key",
        ),
    ] {
        let output = with_tls(tls);
        let told = stdout(&output);
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(expected), "{told}");
        assert_eq!(String::from_utf8_lossy(&output.stderr), "1 mistake\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tries_the_collector_and_gives_nothing_away() {
    let dir = tempfile::tempdir().unwrap();
    configure(dir.path(), free(), free(), free());
    let config = dir.path().join("llavero.yaml");
    let check = async |arguments: &[&str], variables: &[(&str, &str)]| {
        let mut command = llavero();
        command
            .args(["check", "--config", config.to_str().unwrap()])
            .args(arguments)
            .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hunter2")
            .envs(variables.iter().copied());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let told = stdout(&output) + &String::from_utf8_lossy(&output.stderr);
        assert!(!told.contains("hunter2"), "{told}");
        (told, output.status.success())
    };
    let collector = Collector::start().await;
    let endpoint = [("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint())];
    let (_, is_good) = check(&[], &endpoint).await;
    assert!(is_good && collector.requests() == 0, "only where it may");
    let (told, _) = check(&["--live"], &endpoint).await;
    assert!(
        told.contains("traces: the collector accepts them") && !told.contains("collector failed"),
        "{told}"
    );
    assert_eq!(collector.requests(), 1);
    assert_eq!(collector.headers()[0]["x-key"], "hunter2");
    assert!(collector.spans().is_empty());

    for (mood, expected) in [
        (
            Mood::Answers(401),
            "it answered 401 Unauthorized; see what it wants in OTEL_EXPORTER_OTLP_HEADERS",
        ),
        (Mood::Hangs, "no whole answer in time; "),
    ] {
        collector.is(mood);
        let short = [endpoint[0], ("OTEL_EXPORTER_OTLP_TIMEOUT", "300")];
        let (told, is_good) = check(&["--live"], &short).await;
        assert!(told.contains(expected) && !is_good, "{told}");
        assert!(told.contains("and 1 collector failed"), "{told}");
    }
    let nobody = format!("http://{}", free());
    let (told, _) = check(&["--live"], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &nobody)]).await;
    assert!(told.contains("no connection; see that it runs"), "{told}");

    // What can't be used is told by its name alone.
    let (_, address) = collector.endpoint().split_once("://").unwrap();
    let with_user = format!("http://ana:hunter2@{address}");
    for (variable, value, expected) in [
        ("OTEL_SDK_DISABLED", "yes", "only `true` turns traces off"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.1", "means nothing"),
        (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            &with_user,
            "OTEL_EXPORTER_OTLP_HEADERS",
        ),
    ] {
        let (told, is_good) = check(&[], &[endpoint[0], (variable, value)]).await;
        assert!(
            told.contains(variable) && told.contains(expected) && !is_good,
            "{told}"
        );
    }
}

#[test]
fn a_pair_that_cant_be_shown_is_told_before_it_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, admin) = (free(), free());
    configure(dir.path(), free(), listen, admin);
    let (one, other) = (AUTHORITY.issue(), AUTHORITY.issue());
    write(dir.path(), "tls.crt", &one.certificate);
    write(dir.path(), "tls.key", &other.key);
    let config = dir.path().join("llavero.yaml");
    let text = fs::read_to_string(&config).unwrap();
    let text = text.replace(
        "drain_delay: 0s}",
        "drain_delay: 0s,\n  tls: {cert_file: tls.crt,\n    key_file: tls.key}}",
    );
    fs::write(&config, text).unwrap();
    for command in ["check", "serve"] {
        let output = run(&[command, "--config", config.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(1));
        let told = [stdout(&output), String::from_utf8(output.stderr).unwrap()].concat();
        let expected = "llavero.yaml:3: server.tls.key_file: ";
        assert!(
            told.contains(expected) && told.contains("isn't that of the first certificate"),
            "{command}: {told}"
        );
        assert!(!told.contains("PRIVATE KEY"), "{told}");
    }
    one.write(dir.path());
    let output = run(&["check", "--config", config.to_str().unwrap()]);
    assert!(output.status.success(), "{}", stdout(&output));
}

/// What a process logs is nobody's duty to read.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_holds_up_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let (listen, admin) = (free(), free());
    configure(dir.path(), free(), listen, admin);
    let config = dir.path().join("llavero.yaml");
    let mut serve = Running(
        llavero()
            .args(["serve", "--config", config.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    wait_for(listen);
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap();
    // Far more than a pipe holds.
    for _ in 0..600 {
        let url = format!("http://{listen}/nowhere");
        assert_eq!(client.get(url).send().await.unwrap().status(), 404);
    }
    serve.signal("TERM");
    let begun = Instant::now();
    while serve.0.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it doesn't end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
