//! `llavero check --explain`: what a token would get, and why.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use crate::{
    caller::Caller,
    config::auth::{Auth, Issuer},
    identity::Claims,
    operation::Scope,
    tenants::{Presented, Rule, Tenant, Tenants},
};

use super::{Failed, print};

#[derive(Debug, clap::Args)]
#[group(id = "explanation")]
pub(super) struct Arguments {
    /// Say which rule, credential and scopes a token would get, and why
    #[arg(long, requires = "sub")]
    explain: bool,
    /// The token's `sub`
    #[arg(long, requires = "explain")]
    sub: Option<String>,
    /// A tenant that the token names, and the one that is asked for; without it the token names none
    #[arg(long, requires = "explain")]
    tenant: Option<String>,
    /// A scope of the token; may be given more than once [default: the issuer's default_scopes]
    #[arg(long, requires = "explain")]
    scope: Vec<String>,
    /// Its `email`, as verified
    #[arg(long, requires = "explain")]
    email: Option<String>,
    /// One of its `groups`; may be given more than once
    #[arg(long, requires = "explain")]
    group: Vec<String>,
    /// Any other claim; may be given more than once
    #[arg(long, value_name = "NAME=VALUE", requires = "explain")]
    claim: Vec<String>,
    /// Its issuer, where several are configured
    #[arg(long, requires = "explain")]
    issuer: Option<String>,
}

impl Arguments {
    pub(super) fn is_wanted(&self) -> bool {
        self.explain
    }

    fn members(&self, issuer: &Issuer) -> Result<Map<String, Value>, Failed> {
        let mut members = Map::new();
        let mut set = |name: &str, value: Value| members.insert(name.to_owned(), value);
        set("iss", json!(issuer.issuer));
        set("sub", json!(self.sub));
        if let Some(tenant) = &self.tenant {
            set(&issuer.claims.tenant, json!([tenant]));
        }
        if !self.scope.is_empty() {
            set(&issuer.claims.scope, json!(self.scope.join(" ")));
        }
        if let Some(email) = &self.email {
            set("email", json!(email));
        }
        if !self.group.is_empty() {
            set("groups", json!(self.group));
        }
        for claim in &self.claim {
            let Some((name, value)) = claim.split_once('=') else {
                return Err(Failed::new("--claim is written NAME=VALUE"));
            };
            let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
            set(name, value);
        }
        Ok(members)
    }
}

/// Says what a token with those claims would get.
pub(super) fn run(auth: &Auth, tenants: &Tenants, arguments: &Arguments) -> Result<(), Failed> {
    let issuer = issuer(auth, arguments)?;
    let subject = arguments.sub.as_deref().unwrap_or_default();
    if subject.is_empty() {
        return Err(Failed::new("--sub must name somebody"));
    }
    let claims = Claims::supposed(auth, issuer, subject, arguments.members(issuer)?);
    let mut told = String::new();
    let _ = writeln!(told, "token: {subject} of {}", issuer.issuer);
    let outcome = explain(&mut told, &claims, tenants, arguments.tenant.as_deref());
    print(&told)?;
    outcome
}

fn issuer<'a>(auth: &'a Auth, arguments: &Arguments) -> Result<&'a Issuer, Failed> {
    let mut issuers = auth.issuers.iter();
    let found = match &arguments.issuer {
        Some(name) => issuers.find(|issuer| issuer.issuer == *name),
        None if auth.issuers.len() == 1 => issuers.next(),
        None => None,
    };
    found.ok_or_else(|| {
        let known: Vec<_> = auth.issuers.iter().map(|it| it.issuer.as_str()).collect();
        Failed(format!(
            "say whose token it is, with --issuer: {}",
            known.join(", ")
        ))
    })
}

fn explain(
    told: &mut String,
    claims: &Claims,
    tenants: &Tenants,
    wanted: Option<&str>,
) -> Result<(), Failed> {
    match wanted {
        Some(id) => match tenants.get(id) {
            None => {
                let _ = writeln!(told, "tenant {id}: there is none of that id");
            }
            Some(tenant) => {
                let _ = writeln!(told, "tenant {id}: the token names it");
                rules(told, tenant, claims);
            }
        },
        None => {
            let named: Vec<_> = tenants.naming(claims).collect();
            if named.is_empty() {
                let _ = writeln!(
                    told,
                    "tenant: the token names none, and no tenant's `users` names this caller by `sub` or `email`{}",
                    if claims.is_of_the_only_issuer() {
                        ""
                    } else {
                        " together with `iss`, as is needed with several issuers"
                    }
                );
            }
            for tenant in named {
                let id = tenant.id();
                let _ = writeln!(told, "tenant {id}: its `users` names this caller");
                rules(told, tenant, claims);
            }
        }
    }
    let caller = Caller::new(claims.clone(), tenants, wanted).map_err(|denied| {
        Failed(format!(
            "the answer would be 403 tenant-not-allowed: {denied}"
        ))
    })?;
    match (caller.tenant(), caller.credential_id()) {
        (Some(tenant), Some(credential)) => {
            let kind = tenants
                .get(tenant.as_str())
                .and_then(|tenant| tenant.credentials().find(|it| it.id() == credential))
                .map_or("", |credential| match credential.presented() {
                    Presented::ApiKey(_) => " (api_key)",
                    Presented::Login(_) => " (login)",
                });
            let _ = writeln!(
                told,
                "acts for {tenant} with the credential {}{kind}",
                credential.name()
            );
            let scopes: Vec<_> = caller.scopes().iter().map(|scope| scope.as_str()).collect();
            if scopes.is_empty() {
                return Err(Failed::new(
                    "scopes: none, so that every operation would be refused (403 insufficient-scope)",
                ));
            } else {
                let _ = writeln!(told, "scopes: {}", scopes.join(" "));
            }
            Ok(())
        }
        _ if caller.allowed().is_empty() => {
            Err(Failed::new("the answer would be 403 tenant-not-allowed"))
        }
        _ => Err(Failed::new(
            "several tenants: `Llavero-Tenant` must choose one (400 tenant-required); say which with --tenant",
        )),
    }
}

/// The rules up to the one that matches, each with what it wants and whether it gets it.
fn rules(told: &mut String, tenant: &Tenant, claims: &Claims) {
    if tenant.users().is_empty() {
        let _ = writeln!(
            told,
            "  it has no `users`: everybody acts with the credential default"
        );
        return;
    }
    let matching = tenant.assign(claims).and_then(|assignment| assignment.rule);
    let looked_at = matching.map_or(tenant.users().len(), |at| at + 1);
    for (at, rule) in tenant.users().iter().enumerate().take(looked_at) {
        let wants: Vec<_> = rule
            .conditions()
            .iter()
            .map(|condition| {
                let holds = if condition.holds(claims) { "yes" } else { "no" };
                let words = condition.any_of().join(" or ");
                format!("{} is {words}: {holds}", condition.claim())
            })
            .collect();
        let wants = if wants.is_empty() {
            "matches everybody".to_owned()
        } else {
            wants.join("; ")
        };
        let verdict = if matching == Some(at) {
            "it is the first that matches"
        } else {
            "passed over"
        };
        let _ = writeln!(
            told,
            "  users[{at}]: {wants} -> {verdict}{}",
            leaves(rule, matching == Some(at))
        );
    }
    if matching.is_none() {
        let _ = writeln!(told, "  no rule matches: the tenant isn't this caller's");
    }
}

fn leaves(rule: &Rule, matches: bool) -> String {
    match rule.scopes() {
        Some(scopes) if matches => {
            let scopes: Vec<_> = scopes.iter().copied().map(Scope::as_str).collect();
            format!(
                "; of the token's scopes it leaves at most: {}",
                scopes.join(" ")
            )
        }
        _ => String::new(),
    }
}
