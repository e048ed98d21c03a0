//! Whole files and variables, read as the program reads them.

use std::{fs, time::Duration};

use super::*;

/// A file that is good, to be added to.
const ISSUER: &str = "auth:
  issuers:
    - issuer: https://id.example.com/
      audience: llavero
      algorithms: [RS256]
      jwks_file: keys/id.json
";

fn load_with(text: &str, variables: &[(&str, &str)]) -> Result<Config, Mistakes> {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("llavero.yaml");
    fs::write(&path, text).expect("can be written");
    let variables = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    load(&path, variables)
}

fn good(text: &str, variables: &[(&str, &str)]) -> Config {
    load_with(text, variables).expect("is good")
}

/// The mistakes, each with the line or variable before it and without the directory.
fn told(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let mistakes = load_with(text, variables).expect_err("has mistakes");
    mistakes
        .into_iter()
        .map(
            |mistake| match mistake.to_string().split_once("llavero.yaml:") {
                Some((_, told)) => told.trim().to_owned(),
                None => mistake.to_string(),
            },
        )
        .collect()
}

#[test]
fn all_mistakes_are_told_in_one_run() {
    let text = "server:
  lisen: 0.0.0.0:80
  admin_listen: localhost
  drain_delay: 3 seconds
  cors: {allowed_origins: ['*', https://a.example.com/]}
upstream:
  base_url: http://{clave}.admintotal.com/
  max_concurrency: many
  image_encoding: data-url
auth:
  leeway: 1d
  issuers:
    - issuer: https://id.example.com/
      audience: []
      algorithms: [RS265, HS256]
      jwks_url: http://id.example.com/jwks
      secret: {flie: x}
    - issuer: https://id.example.com/
      audience: a
      algorithms: [HS256]
      public_key_file: k.pem
      default_scopes: [ordenes:raed]
tenant_dir: t
cache: {ttl: [1s]}
images:
  formats: [jpeg, heic]
  metadata: strip-all
  quality: 0
  max_bytes: 1KiB
proxy:
  allow:
    - {methods: [get], path: /x}
";
    let expected = [
        "2: server.lisen: unknown key; did you mean \"listen\"?",
        "3: server.admin_listen: expected an address with a port, e.g. 0.0.0.0:8080 or [::1]:8080",
        "4: server.drain_delay: expected a duration such as 250ms, 30s, 5m, 2h or 3d",
        "5: server.cors.allowed_origins[0]: `*` would let any page call with its visitor's token; list each origin, e.g. https://app.example.com",
        "5: server.cors.allowed_origins[1]: isn't an origin as browsers send it; write https://a.example.com",
        "7: upstream.base_url: must be https: an Api-key would travel in the clear; http is for loopback hosts only",
        "8: upstream.max_concurrency: expected a whole number, 0 or more",
        "9: upstream.image_encoding: unknown value; did you mean \"data-uri\"?",
        "11: auth.leeway: must be at most 10m: tokens would be accepted that long after their end",
        "14: auth.issuers[0].audience: is missing; write the `aud` that tokens for this gateway have, e.g. [llavero]",
        "15: auth.issuers[0].algorithms[0]: unknown value; did you mean \"RS256\"?",
        "16: auth.issuers[0].jwks_url: must be https, without a user: whoever changes the answer on its way could sign tokens (auth.jwks.allow_loopback_http admits http on this machine)",
        "17: auth.issuers[0].secret: unknown key; known here: file, env",
        "18: auth.issuers[1].issuer: is another entry's issuer already; make them one",
        "20: auth.issuers[1].algorithms[0]: HS* needs `secret`; for public keys write what the issuer signs with, e.g. RS256",
        "22: auth.issuers[1].default_scopes[0]: unknown value; did you mean \"ordenes:read\"?",
        "23: tenant_dir: unknown key; did you mean \"tenants_dir\"?",
        "24: cache.ttl: expected a mapping, e.g. {key: value}, found a list",
        "26: images.formats[1]: HEIC is passed as it is, so it can't be taken where photos are changed; remove heic and let the app send JPEG, or write metadata: keep and max_dimension: off",
        "28: images.quality: must be from 1 to 100; 85 shows no difference on a screen",
        "29: images.max_bytes: must be at least 64KiB: phones make no smaller photos",
        "31: proxy.allow: isn't available in this version; write [] and use the operations of the OpenAPI document",
        "32: proxy.allow[0].methods[0]: unknown value; did you mean \"GET\"?",
        "32: proxy.allow[0].path: must be a path below the base address, without `/` before it and without empty or dot segments, e.g. productos/**",
    ];
    let told = told(text, &[]);
    for (told, expected) in told.iter().zip(expected) {
        assert_eq!(told, expected);
    }
    assert_eq!(told.len(), expected.len(), "{told:#?}");
}

#[test]
fn what_a_photo_may_be_is_told_where_it_is_written() {
    for (images, expected) in [
        (
            "dedupe_window: off",
            "images.dedupe_window: expected a duration such as 30s, 10m or 1h, or 0 to turn it off",
        ),
        (
            "max_dimension: 255",
            "images.max_dimension: must be at least 256, or off: nothing could be seen in such photos",
        ),
        (
            "max_pixels: 1000000001",
            "images.max_pixels: must be from 1 to 1000000000: memory for photos that are made smaller is planned by it, 9 bytes for each",
        ),
        (
            "max_bytes: 600MiB",
            "images.max_bytes: is more than images.in_flight_bytes, which is 512MiB, so the largest image would never be let in; write in_flight_bytes too, a few times as large",
        ),
        (
            "in_flight_bytes: 1MiB",
            "images.in_flight_bytes: must be at least images.max_bytes, or the largest image would never be let in",
        ),
    ] {
        let text = format!("{ISSUER}images:\n  {images}\n");
        let line = text.lines().count();
        assert_eq!(told(&text, &[]), [format!("{line}: {expected}")]);
    }
    for images in [
        "max_dimension: off",
        "max_dimension: no",
        "max_dimension: false",
        "max_pixels: 1000000000",
        "dedupe_window: 0",
        "max_bytes: 512MiB",
    ] {
        let text = format!("{ISSUER}images:\n  {images}\n");
        assert!(load_with(&text, &[]).is_ok(), "{images}");
    }
}

#[test]
fn a_mistake_isnt_told_again_by_what_depends_on_it() {
    for (text, expected) in [
        (
            "auth: {issuers: x}",
            "1: auth.issuers: expected a list, e.g. [a, b]",
        ),
        (
            "auth: {isuers: []}",
            "1: auth.isuers: unknown key; did you mean \"issuers\"?",
        ),
    ] {
        assert_eq!(told(text, &[]), [expected]);
    }
    let misspelt = ISSUER.replace("jwks_file", "jwks_fiel");
    assert_eq!(
        told(&misspelt, &[]),
        ["6: auth.issuers[0].jwks_fiel: unknown key; did you mean \"jwks_file\"?"]
    );
}

#[test]
fn indices_are_those_of_the_file_even_beside_a_wrong_entry() {
    let text = format!("{ISSUER}      default_scopes: [{{}}, nothing, ordenes:rea]\n");
    assert_eq!(
        told(&text, &[]),
        [
            "7: auth.issuers[0].default_scopes[0]: expected a string, found a mapping",
            "7: auth.issuers[0].default_scopes[1]: unknown value; write one of ordenes:read, ordenes:write, imagenes:write, proxy:read, proxy:write",
            "7: auth.issuers[0].default_scopes[2]: unknown value; did you mean \"ordenes:read\"?",
        ]
    );
}

#[test]
fn an_issuer_needs_one_kind_of_key_that_fits_its_algorithms() {
    let issuer = |rest: &str| format!("auth: {{issuers: [{{issuer: a, audience: b, {rest}}}]}}");
    for (rest, expected) in [
        ("algorithms: [RS256]", "auth.issuers[0]: has no keys"),
        (
            "algorithms: [RS256], jwks_file: a, public_key_file: b",
            "has keys from jwks_file and public_key_file; keep one",
        ),
        (
            "algorithms: [RS256], jwks_url: 'https://a/', discovery: true, jwks_file: a",
            "has keys from jwks_url and discovery",
        ),
        (
            "algorithms: [RS256], discovery: true",
            "auth.issuers[0].discovery: needs an `issuer` that is an https address",
        ),
        ("jwks_file: a", "algorithms: is missing"),
        (
            "algorithms: [HS256], jwks_file: a",
            "algorithms[0]: HS* needs `secret`",
        ),
        (
            "algorithms: [HS256, ES256], secret: {env: A}",
            "algorithms[1]: with `secret` only HS256",
        ),
        (
            "algorithms: [RS256, ES256], public_key_file: a",
            "algorithms[1]: is for another kind of key",
        ),
        (
            "algorithms: [ES256, ES384], public_key_file: a",
            "algorithms[1]: is for another kind of key",
        ),
    ] {
        let told = told(&issuer(rest), &[]);
        assert!(
            told.len() == 1 && told[0].contains(expected),
            "{rest}: {told:?}"
        );
    }
    for rest in [
        "algorithms: [HS256, HS512], secret: {env: A}",
        "algorithms: [RS256, PS512], public_key_file: a",
        "algorithms: [RS256, EdDSA], jwks_file: a",
    ] {
        good(&issuer(rest), &[]);
    }
}

#[test]
fn how_keys_are_fetched_is_checked_for_sense() {
    for (jwks, expected) in [
        ("{refresh: 9s}", "auth.jwks.refresh: must be from 10s to 1h"),
        ("{refresh: 2h}", "auth.jwks.refresh: must be from 10s to 1h"),
        (
            "{keep_for: 1m}",
            "auth.jwks.keep_for: must be at least auth.jwks.refresh",
        ),
        ("{timeout: 0}", "auth.jwks.timeout: must be longer than 0"),
        ("{timeout: 31s}", "auth.jwks.timeout: must be longer than 0"),
        (
            "{alow_loopback_http: true}",
            "auth.jwks.alow_loopback_http: unknown key; did you mean",
        ),
    ] {
        let text = ISSUER.replace("auth:\n", &format!("auth:\n  jwks: {jwks}\n"));
        let told = told(&text, &[]);
        assert!(
            told.len() == 1 && told[0].contains(expected),
            "{jwks}: {told:?}"
        );
    }
    let local = ISSUER
            .replace(
                "auth:\n",
                "auth:\n  jwks: {allow_loopback_http: true, refresh: 10s, keep_for: 10s, timeout: 30s}\n",
            )
            .replace(
                "jwks_file: keys/id.json",
                "jwks_url: http://127.0.0.1:8000/jwks",
            );
    good(&local, &[]);
}

#[test]
fn the_environment_wins_over_the_file() {
    let config = good(
        ISSUER,
        &[
            ("PATH", "/bin"),
            ("LLAVERO_PORT", "tcp://10.0.0.1:80"),
            ("LLAVERO__SERVER__LISTEN", "127.0.0.1:1"),
            ("llavero__upstream__Max_Concurrency", "7"),
            (
                "LLAVERO__SERVER__CORS__ALLOWED_ORIGINS",
                "[https://a.example.com, https://b.example.com]",
            ),
            ("LLAVERO__CACHE__TTL", "{list: 1s}"),
            ("LLAVERO__CACHE__TTL__DETAIL", "2s"),
            ("LLAVERO__LIMITS__USER__REQUESTS", "9"),
            ("LLAVERO__AUTH__ISSUERS__0__AUDIENCE__1", "second"),
            ("LLAVERO__AUTH__ISSUERS__0__AUDIENCE__0", "first"),
            ("LLAVERO__AUTH__ISSUERS__1__ISSUER", "123"),
            ("LLAVERO__AUTH__ISSUERS__1__AUDIENCE", "b"),
            ("LLAVERO__AUTH__ISSUERS__1__ALGORITHMS", "[HS256]"),
            ("LLAVERO__AUTH__ISSUERS__1__SECRET__ENV", "JWT_SECRET"),
            ("LLAVERO__TENANTS_DIR", "/etc/llavero/tenants"),
        ],
    );
    assert_eq!(config.server.listen.port(), 1);
    assert_eq!(config.upstream.max_concurrency, 7);
    assert_eq!(config.server.cors.allowed_origins.len(), 2);
    assert_eq!(
        (config.cache.ttl.list, config.cache.ttl.detail),
        (Duration::from_secs(1), Duration::from_secs(2))
    );
    assert_eq!(
        (config.limits.user.requests, config.limits.user.burst),
        (9, 30)
    );
    assert_eq!(config.auth.issuers[0].audience, ["first", "second"]);
    assert_eq!(config.auth.issuers[1].issuer, "123");
    assert!(
        matches!(&config.auth.issuers[1].secret, Some(secret::SecretSource::Env(name)) if name == "JWT_SECRET")
    );
    assert_eq!(config.tenants_dir, Path::new("/etc/llavero/tenants"));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the test's own secrets")]
fn a_variable_is_a_plain_text_where_one_is_wanted() {
    let text = ISSUER
        .replace("RS256", "HS256")
        .replace("jwks_file: keys/id.json", "secret: x");
    for secret in ["0123", "true", "[a", "a: b", "# x", "", "'q'"] {
        let config = good(&text, &[("LLAVERO__AUTH__ISSUERS__0__SECRET", secret)]);
        let Some(secret::SecretSource::Inline(read)) = &config.auth.issuers[0].secret else {
            panic!("is inline")
        };
        assert_eq!(read.expose(), secret);
    }
    let config = good(&text, &[("LLAVERO__AUTH__ISSUERS__0__SECRET", "{file: k}")]);
    assert!(matches!(
        &config.auth.issuers[0].secret,
        Some(secret::SecretSource::File(_))
    ));
    assert!(
        !format!(
            "{:?}",
            good(&text, &[("LLAVERO__AUTH__ISSUERS__0__SECRET", "hunter2")])
        )
        .contains("hunter2")
    );
}

#[test]
fn a_mistake_in_the_environment_names_the_variable() {
    assert_eq!(
        told(
            ISSUER,
            &[
                ("LLAVERO__SERVER__LISEN", "0.0.0.0:1"),
                ("LLAVERO__SEVER__LISTEN", "0.0.0.0:1"),
                ("LLAVERO__SERVER__DRAIN_DELAY", "soon"),
                ("LLAVERO__AUTH__ISSUERS__5__ISSUER", "x"),
                ("LLAVERO__AUTH__ISSUERS__ISSUER", "x"),
                ("LLAVERO__", "x"),
                ("LLAVERO__TENANTS_DIR", "a"),
                ("LLAVERO__tenants_dir", "b"),
                ("LLAVERO__PROXY__ALLOW", "[hunter2"),
                ("LLAVERO__AUTH__ISSUERS__0__SECRET__HUNTER2", "hunter2"),
            ]
        )
        .iter()
        .map(|told| told.split(';').next().unwrap_or_default())
        .collect::<Vec<_>>(),
        [
            "LLAVERO__: isn't a setting's name",
            "LLAVERO__AUTH__ISSUERS__0__SECRET__HUNTER2: auth.issuers[0].secret: unknown key",
            "LLAVERO__AUTH__ISSUERS__5__ISSUER: auth.issuers has 1 entries, so the next one is number 1",
            "LLAVERO__AUTH__ISSUERS__ISSUER: auth.issuers is a list: name its entry by number, like LLAVERO__AUTH__ISSUERS__0__…",
            "LLAVERO__PROXY__ALLOW: proxy.allow: isn't a value such as [a, b] or {key: value}",
            "LLAVERO__SERVER__DRAIN_DELAY: server.drain_delay: expected a duration such as 250ms, 30s, 5m, 2h or 3d",
            "LLAVERO__SERVER__LISEN: server.lisen: unknown key",
            "LLAVERO__SEVER__LISTEN: sever: unknown key",
            "LLAVERO__tenants_dir: sets the same as LLAVERO__TENANTS_DIR",
        ]
    );
}

#[test]
fn a_limit_is_kept_within_what_can_be_counted_and_told() {
    for (limit, expected) in [
        (
            "user: {requests: 0}",
            "limits.user.requests: must be at least 1",
        ),
        (
            "tenant: {per: 1500ms}",
            "limits.tenant.per: must be whole seconds",
        ),
        (
            "failures: {per: 2d}",
            "limits.failures.per: must be whole seconds",
        ),
        ("user: {burst: 0}", "limits.user.burst: must be at least 1"),
        (
            "user: {requests: 1, per: 1h, burst: 25}",
            "limits.user.burst: takes more than a day to come back",
        ),
    ] {
        let told = told(&format!("{ISSUER}limits: {{{limit}}}\n"), &[]);
        assert!(told.len() == 1 && told[0].contains(expected), "{told:?}");
    }
    let limits = good(
        &format!("{ISSUER}limits: {{failures: {{burst: 5}}}}\n"),
        &[],
    )
    .limits;
    assert_eq!((limits.failures.requests, limits.failures.burst), (300, 5));
}

#[test]
fn everybody_is_no_trusted_proxy() {
    let told = told(
        &format!("{ISSUER}server: {{trusted_proxies: [10.0.0.0/8, \"::/0\", 0.0.0.0/0]}}\n"),
        &[],
    );
    for (told, index) in told.iter().zip([1, 2]) {
        let expected = format!("7: server.trusted_proxies[{index}]: is everybody");
        assert!(told.starts_with(&expected), "{told}");
    }
    assert_eq!(told.len(), 2);
}

#[test]
fn audit_records_go_to_stdout_or_a_file() {
    let file = |text: &str| good(&format!("{ISSUER}audit: {text}\n"), &[]).audit.output;
    assert_eq!(file("{output: stdout}"), audit::Output::Stdout);
    assert!(
        matches!(file("{output: {file: a.jsonl}}"), audit::Output::File(path) if path.is_absolute() && path.ends_with("a.jsonl"))
    );
    for (text, expected) in [
        (
            "{output: stderr}",
            "8: audit.output: expected stdout or {file: PATH}",
        ),
        (
            "{output: {}}",
            "8: audit.output: expected stdout or {file: PATH}",
        ),
        (
            "{output: {fiel: a}}",
            "8: audit.output: unknown key; known here: file",
        ),
        (
            "{output: {file: ..}}",
            "8: audit.output.file: must be a file's path, e.g. audit.jsonl",
        ),
    ] {
        assert_eq!(told(&format!("{ISSUER}\naudit: {text}\n"), &[]), [expected]);
    }
}

#[test]
fn relative_paths_start_at_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("llavero.yaml");
    fs::write(&path, ISSUER).expect("can be written");
    let config = load(&path, []).expect("is good");
    assert_eq!(config.tenants_dir, dir.path().join("tenants"));
    assert_eq!(
        config.auth.issuers[0].jwks_file,
        Some(dir.path().join("keys/id.json"))
    );
    assert_eq!(config.base_dir, dir.path());
}

#[test]
fn paths_are_absolute_wherever_the_file_is_named_from() {
    let config = load(Path::new("examples/two-tenants/llavero.yaml"), []).expect("is good");
    let here = std::env::current_dir().expect("there is one");
    assert_eq!(config.base_dir, here.join("examples/two-tenants"));
    assert_eq!(
        config.tenants_dir,
        here.join("examples/two-tenants/tenants")
    );
}

#[test]
fn what_is_missing_is_told_once() {
    let text = format!("{ISSUER}server: {{tls: {{cert_file: a.crt}}}}\n");
    assert_eq!(
        told(&text, &[]),
        ["7: server.tls: `key_file` is missing; it has no default"]
    );
    let text = format!("{ISSUER}server: {{tls: {{cert_file: a.crt, key_file: ''}}}}\n");
    assert_eq!(
        told(&text, &[]),
        ["7: server.tls.key_file: must be a file in PEM, e.g. tls/tls.key"]
    );
}

#[test]
fn a_file_that_isnt_there_is_a_mistake_of_the_file() {
    let mistakes = load(Path::new("no/such.yaml"), []).expect_err("isn't there");
    assert!(
        mistakes
            .to_string()
            .starts_with("no/such.yaml: can't be read: "),
        "{mistakes}"
    );
}

#[test]
fn the_reference_equals_the_defaults() {
    let reference = include_str!("reference.yaml");
    let issuer = ISSUER
        .strip_prefix("auth:\n  issuers:\n")
        .expect("begins so");
    let text = reference.replace("  issuers:\n", &format!("  issuers:\n{issuer}"));
    let mut config = load_with(&text, &[]).expect("is good");
    let plain = good(ISSUER, &[]);
    // Each was read from a directory of its own.
    config.base_dir = PathBuf::new();
    config.tenants_dir = "tenants".into();
    config.auth.issuers.clear();
    assert_eq!(format!("{config:?}"), format!("{:?}", Config::default()));
    assert_eq!(plain.auth.issuers.len(), 1);
}
