//! `llavero token`.

use std::{fs, path::PathBuf, time::Duration};

use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header, encode};
use serde_json::{Map, Value, json};

use crate::{
    clock::Clock,
    config::{auth::Issuer, units},
    operation::Scope,
};

use super::{Failed, env, load};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration file, for the issuer's name, audience, algorithm and claims
    #[arg(long, value_name = "FILE", default_value = "llavero.yaml")]
    config: PathBuf,
    /// Who the token is for
    #[arg(long)]
    sub: String,
    /// The tenant that it allows; may be given more than once
    #[arg(long, required = true)]
    tenant: Vec<String>,
    /// A scope; may be given more than once [default: ordenes:read ordenes:write imagenes:write]
    #[arg(long)]
    scope: Vec<String>,
    /// How long it is valid
    #[arg(long, default_value = "1h")]
    ttl: String,
    /// Which issuer signs it, where several are configured
    #[arg(long)]
    issuer: Option<String>,
    /// The issuer's private key in PEM; not needed for an issuer with `secret`
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The key's id in the issuer's JWK Set
    #[arg(long)]
    kid: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let config = load(&arguments.config)?;
    let issuer = match &arguments.issuer {
        Some(name) => config
            .auth
            .issuers
            .iter()
            .find(|issuer| issuer.issuer == *name),
        None if config.auth.issuers.len() == 1 => config.auth.issuers.first(),
        None => None,
    }
    .ok_or_else(|| {
        let known: Vec<&str> = config
            .auth
            .issuers
            .iter()
            .map(|it| it.issuer.as_str())
            .collect();
        Failed(format!(
            "say which issuer signs, with --issuer: {}",
            known.join(", ")
        ))
    })?;
    if arguments.sub.is_empty() {
        return Err(Failed::new(
            "--sub must name somebody: a token without a subject is refused",
        ));
    }
    // As in a token, one argument may hold several words.
    let words = arguments.scope.iter().flat_map(|it| it.split_whitespace());
    let words: Vec<String> = words.map(str::to_owned).collect();
    if let Some(unknown) = words.iter().find(|word| is_misspelt(word)) {
        let known = Scope::ALL.map(Scope::as_str).join(", ");
        return Err(Failed(format!(
            "there is no scope {unknown:?}; there are: {known}"
        )));
    }
    for tenant in &arguments.tenant {
        let dir = config.tenants_dir.join(tenant);
        let file = config.tenants_dir.join(format!("{tenant}.yaml"));
        if !file.is_file() && !dir.is_dir() {
            eprintln!(
                "note: there is no {}: the gateway refuses this tenant",
                file.display()
            );
        }
    }
    let ttl = units::parse_duration(&arguments.ttl)
        .ok_or_else(|| Failed("--ttl must be a duration such as 15m, 1h or 8h".to_owned()))?;
    let algorithm = *issuer
        .algorithms
        .first()
        .ok_or_else(|| Failed::new("the issuer has no algorithm"))?;
    let key = match (&issuer.secret, &arguments.key) {
        (Some(_), Some(_)) => {
            return Err(Failed::new(
                "this issuer signs with its `secret`; leave --key out",
            ));
        }
        (Some(secret), None) => {
            let secret = secret
                .resolve(&config.base_dir, &env)
                .map_err(Failed::new)?;
            #[expect(clippy::disallowed_methods, reason = "the key of an HMAC")]
            EncodingKey::from_secret(secret.expose().as_bytes())
        }
        (None, Some(path)) => {
            let pem = fs::read(path)
                .map_err(|error| Failed(format!("can't read {}: {error}", path.display())))?;
            private_key(algorithm.family(), &pem).ok_or_else(|| {
                Failed(format!(
                    "{} isn't a private key in PEM (PKCS#8) for {algorithm:?}; `openssl pkcs8 -topk8 -nocrypt` converts other forms",
                    path.display()
                ))
            })?
        }
        (None, None) => {
            return Err(Failed(
                "this issuer's tokens are signed with a private key: name its file with --key"
                    .to_owned(),
            ));
        }
    };
    let default_scopes = ["ordenes:read", "ordenes:write", "imagenes:write"].map(str::to_owned);
    let scopes = if words.is_empty() {
        &default_scopes[..]
    } else {
        &words
    };
    let claims = claims(
        issuer,
        &arguments.sub,
        &arguments.tenant,
        scopes,
        ttl,
        &Clock::system(),
    );
    let mut header = Header::new(algorithm);
    header.kid.clone_from(&arguments.kid);
    let token = encode(&header, &claims, &key)
        .map_err(|_| Failed(format!("the key can't sign with {algorithm:?}")))?;
    println!("{token}");
    Ok(())
}

/// A word in the form of our scopes that is none of them. Other words, such as roles
/// that a tenant's rules look for, are the issuer's own.
fn is_misspelt(word: &str) -> bool {
    let family = |word: &str| word.split(':').next().map(str::to_owned);
    word.parse::<Scope>().is_err()
        && Scope::ALL
            .iter()
            .any(|scope| family(scope.as_str()) == family(word))
}

fn private_key(family: AlgorithmFamily, pem: &[u8]) -> Option<EncodingKey> {
    match family {
        AlgorithmFamily::Rsa => EncodingKey::from_rsa_pem(pem),
        AlgorithmFamily::Ec => EncodingKey::from_ec_pem(pem),
        AlgorithmFamily::Ed => EncodingKey::from_ed_pem(pem),
        AlgorithmFamily::Hmac => return None,
    }
    .ok()
}

/// The claims that an issuer of that configuration would write.
pub(super) fn claims(
    issuer: &Issuer,
    sub: &str,
    tenants: &[String],
    scopes: &[String],
    ttl: Duration,
    clock: &Clock,
) -> Map<String, Value> {
    let now = clock.unix_seconds();
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), json!(issuer.issuer));
    claims.insert("aud".to_owned(), json!(issuer.audience.first()));
    claims.insert("sub".to_owned(), json!(sub));
    claims.insert("iat".to_owned(), json!(now));
    claims.insert(
        "exp".to_owned(),
        json!(now.saturating_add_unsigned(ttl.as_secs())),
    );
    let tenants = match tenants {
        [tenant] => json!(tenant),
        several => json!(several),
    };
    insert(&mut claims, &issuer.claims.tenant, tenants);
    insert(&mut claims, &issuer.claims.scope, json!(scopes.join(" ")));
    claims
}

/// Puts a claim at its path: a name that isn't an address is split at its dots.
fn insert(claims: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        Some((first, rest)) if !path.contains("://") => {
            let inner = claims.entry(first).or_insert_with(|| json!({}));
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
        _ => {
            claims.insert(path.to_owned(), value);
        }
    }
}
