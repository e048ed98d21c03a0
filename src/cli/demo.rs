//! `llavero demo`: everything in one process, no account, no files, no network.

use std::{fmt::Write as _, fs, net::SocketAddr, path::PathBuf, time::Duration};

use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64_simd::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use llavero_simulator::Simulator;
use serde_json::json;

use crate::{
    app::App,
    clock::Clock,
    config::{Config, auth, upstream::BaseUrl},
    identity::Identity,
    server::{self, Drain},
    telemetry::logs,
    tenants::{Clave, Credential, Registry, Tenant, TenantId},
};

use super::{Failed, env, print, runtime, serve::listen, stop_signals, token};

/// A small real photo, for the upload line.
const PHOTO: &[u8] = include_bytes!("demo.jpg");
const ISSUER: &str = "https://demo.llavero.invalid/";
const KEY_ID: &str = "demo";
const TOKEN_TTL: Duration = Duration::from_secs(8 * 3600);

/// Who can be played: name, tenants, scopes.
const USERS: [(&str, &[&str], &[&str]); 4] = [
    (
        "ana",
        &["carper"],
        &["ordenes:read", "ordenes:write", "imagenes:write"],
    ),
    (
        "beto",
        &["norte"],
        &["ordenes:read", "ordenes:write", "imagenes:write"],
    ),
    ("carla", &["bahia"], &["ordenes:read"]),
    ("diana", &["carper", "norte", "bahia"], &["ordenes:read"]),
];
/// An order of the tenant `carper` in the simulated ERP.
const ORDEN: u64 = 11001;

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Where the gateway listens
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Where probes and metrics are
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9090")]
    admin_listen: SocketAddr,
    /// Where the simulated ERP listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    sim_listen: SocketAddr,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let (_logs, _) = logs::init(env("RUST_LOG").or_else(|| Some("warn".to_owned())));
    runtime()?.block_on(demo(arguments))
}

async fn demo(arguments: &Arguments) -> Result<(), Failed> {
    let stop = stop_signals(None)?;
    let public = listen(arguments.listen, "--listen").await?;
    let admin = listen(arguments.admin_listen, "--admin-listen").await?;
    let erp = listen(arguments.sim_listen, "--sim-listen").await?;
    let at = |listener: &tokio::net::TcpListener| listener.local_addr().map_err(Failed::new);
    let (public_at, admin_at, erp_at) = (at(&public)?, at(&admin)?, at(&erp)?);

    let clock = Clock::system();
    let issuer = issuer();
    let (key, jwks) = signing_key()?;
    let scratch = tempdir()?;
    let jwks_file = scratch.path().join("jwks.json");
    let photo_file = scratch.path().join("foto.jpg");
    write(&jwks_file, jwks.to_string().as_bytes())?;
    write(&photo_file, PHOTO)?;

    let mut config = Config::default();
    config.upstream.base_url = format!("http://{erp_at}/{{clave}}/api/v2/")
        .parse::<BaseUrl>()
        .map_err(Failed::new)?;
    config.auth.issuers = vec![auth::Issuer {
        jwks_file: Some(jwks_file),
        ..issuer.clone()
    }];
    let identity = Identity::load(&config.auth, scratch.path(), &env, clock.clone())
        .map_err(|_| Failed::new("the demo's own key can't be read back"))?;
    let tenants = ["carper", "norte", "bahia"]
        .into_iter()
        .map(demo_tenant)
        .collect::<Result<Vec<_>, _>>()?;
    let app =
        App::build(&config, identity, Registry::of(tenants), clock.clone()).map_err(Failed::new)?;

    let tokens = USERS
        .iter()
        .map(|(sub, tenants, scopes)| {
            let owned = |words: &[&str]| {
                words
                    .iter()
                    .map(|&word| word.to_owned())
                    .collect::<Vec<_>>()
            };
            let claims = token::claims(
                &issuer,
                sub,
                &owned(tenants),
                &owned(scopes),
                TOKEN_TTL,
                &clock,
            );
            let mut header = Header::new(Algorithm::ES256);
            header.kid = Some(KEY_ID.to_owned());
            encode(&header, &claims, &key).map_err(Failed::new)
        })
        .collect::<Result<Vec<_>, _>>()?;

    let simulator = Simulator::with_demo_tenants();
    let drained = tokio_util::sync::CancellationToken::new();
    let erp_stop = drained.clone();
    #[expect(
        clippy::disallowed_methods,
        reason = "it outlives the gateway's own tasks, which use it"
    )]
    let erp_task = tokio::spawn(async move {
        let _ = simulator
            .run(erp, async move { erp_stop.cancelled().await })
            .await;
    });

    let mut text = String::new();
    let _ = writeln!(
        text,
        "Llavero's demo: a simulated ERP with three tenants, and the gateway before it.\n"
    );
    let _ = writeln!(
        text,
        "  gateway        http://{public_at}      reference page: http://{public_at}/docs"
    );
    let _ = writeln!(
        text,
        "  admin port     http://{admin_at}      /metrics, /readyz?verbose"
    );
    let _ = writeln!(
        text,
        "  simulated ERP  http://{erp_at}      what it received: http://{erp_at}/_sim/requests\n"
    );
    let _ = writeln!(text, "Tokens, valid for 8 hours and in this process only:");
    for ((sub, tenants, scopes), token) in USERS.iter().zip(&tokens) {
        let _ = writeln!(
            text,
            "\n  {sub}: {} ({})\n  {token}",
            tenants.join(", "),
            scopes.join(" ")
        );
    }
    let token = tokens.first().map(String::as_str).unwrap_or_default();
    let orders = format!("http://{public_at}/v1/ordenes");
    let bearer = format!("-H 'Authorization: Bearer {token}'");
    let _ = writeln!(
        text,
        "\nTry it as ana: list, read, change, attach a photo.\n"
    );
    let _ = writeln!(text, "curl {bearer} '{orders}?status=abierta&limit=2'");
    let _ = writeln!(text, "curl {bearer} '{orders}/{ORDEN}'");
    let _ = writeln!(
        text,
        "curl {bearer} -X PATCH -H 'Content-Type: application/json' -d '{{\"status\":\"en_proceso\",\"prioridad\":\"alta\"}}' '{orders}/{ORDEN}'"
    );
    let _ = writeln!(
        text,
        "curl {bearer} -F proceso=antes -F 'imagen=@\"{}\"' '{orders}/{ORDEN}/imagenes'",
        photo_file.display()
    );
    let _ = writeln!(text, "\nCtrl-C ends it.");
    print(&text)?;

    let drain = Drain {
        delay: Duration::ZERO,
        grace: Duration::from_secs(5),
    };
    let ended = server::run(app, public, admin, drain, stop)
        .await
        .map_err(Failed::new);
    drained.cancel();
    let _ = erp_task.await;
    ended
}

fn issuer() -> auth::Issuer {
    auth::Issuer {
        issuer: ISSUER.to_owned(),
        audience: vec!["llavero".to_owned()],
        algorithms: vec![Algorithm::ES256],
        ..auth::Issuer::default()
    }
}

/// A key made on the spot: its private half to sign with, its public half as a JWK Set.
fn signing_key() -> Result<(EncodingKey, serde_json::Value), Failed> {
    let broken = |_| Failed::new("a signing key can't be made");
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(broken)?;
    let private = pair.to_pkcs8v1().map_err(broken)?;
    // An uncompressed point: 04, then x and y of 32 bytes each (SEC 1 §2.3.3).
    let point = pair.public_key().as_ref();
    let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
        return Err(Failed::new("a signing key can't be made"));
    };
    let jwks = json!({"keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": KEY_ID,
        "x": URL_SAFE_NO_PAD.encode_to_string(x),
        "y": URL_SAFE_NO_PAD.encode_to_string(y),
    }]});
    Ok((EncodingKey::from_ec_der(private.as_ref()), jwks))
}

fn demo_tenant(name: &str) -> Result<Tenant, Failed> {
    let id: TenantId = name.parse().map_err(Failed::new)?;
    let clave: Clave = name.parse().map_err(Failed::new)?;
    let key = format!("sim-key-{name}-default");
    let credential = Credential::api_key(id.clone(), "default", key.into());
    Ok(Tenant::with_default(id, clave, credential))
}

/// A directory that is ours alone; it goes when it is dropped.
fn tempdir() -> Result<tempfile::TempDir, Failed> {
    tempfile::Builder::new()
        .prefix("llavero-demo-")
        .tempdir()
        .map_err(|error| Failed(format!("can't make a temporary directory: {error}")))
}

fn write(path: &PathBuf, bytes: &[u8]) -> Result<(), Failed> {
    fs::write(path, bytes)
        .map_err(|error| Failed(format!("can't write {}: {error}", path.display())))
}
