//! `llavero check`.

use std::path::PathBuf;

use serde::de::IgnoredAny;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    config::{Config, mistake::Mistake},
    identity::Identity,
    tenants::Registry,
    upstream::{Failure, Jitter, Lane, Party, Request, Target, Upstream},
};

use super::{Failed, counted, env, issuer_mistakes, runtime};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "llavero.yaml")]
    config: PathBuf,
    /// Also try each credential at the ERP, with one cheap GET
    #[arg(long)]
    live: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let survey = crate::config::survey(&arguments.config, crate::config::process_env());
    let mut mistakes = survey.mistakes.0;
    let Some(config) = survey.config else {
        return report(mistakes);
    };
    for notice in &survey.notices {
        println!("note: {notice}");
    }
    // Where an issuer is wrong already, its keys would only add to the noise.
    if !mistakes
        .iter()
        .any(|mistake| mistake.key.starts_with("auth"))
        && let Err(errors) = Identity::load(&config.auth, &config.base_dir, &env, Clock::system())
    {
        mistakes.extend(issuer_mistakes(&arguments.config, &errors));
    }
    let registry = match Registry::load(&config.tenants_dir, &env) {
        Ok(registry) => registry,
        Err(error) => {
            mistakes.push(Mistake::of_file(
                &config.tenants_dir,
                format!("tenants_dir can't be read: {error}; create it, with one <tenant-id>.yaml for each tenant"),
            ));
            Registry::default()
        }
    };
    if registry.is_empty() && registry.errors().is_empty() && config.tenants_dir.is_dir() {
        mistakes.push(Mistake::of_file(
            &config.tenants_dir,
            "holds no tenant; write one <tenant-id>.yaml for each",
        ));
    }
    for error in registry.errors() {
        mistakes.extend(error.mistakes.0.iter().cloned());
    }
    if !mistakes.is_empty() {
        return report(mistakes);
    }
    println!(
        "The configuration is good: {}, {}.",
        counted(config.auth.issuers.len(), "issuer"),
        counted(registry.len(), "tenant")
    );
    if arguments.live {
        live(&config, &registry)
    } else {
        Ok(())
    }
}

fn report(mistakes: Vec<Mistake>) -> Result<(), Failed> {
    let count = mistakes.len();
    for mistake in mistakes {
        println!("{mistake}");
    }
    Err(Failed(counted(count, "mistake")))
}

/// Tries every credential; the answers are as good as their status.
fn live(config: &Config, registry: &Registry) -> Result<(), Failed> {
    let mut metrics = prometheus_client::registry::Registry::default();
    let upstream = Upstream::new(
        &config.upstream,
        Clock::system(),
        Jitter::random(),
        &mut metrics,
    )
    .map_err(Failed::new)?;
    let failed = runtime()?.block_on(async {
        let mut failed = 0_usize;
        let mut tenants: Vec<_> = registry.iter().collect();
        tenants.sort_by(|a, b| a.id().cmp(b.id()));
        for tenant in tenants {
            for credential in tenant.credentials() {
                let name = format!("{}: {}", tenant.id(), credential.id().name());
                let request = Request {
                    clave: tenant.clave(),
                    credential,
                    target: &Target::cheapest(),
                    party: &Party::alone(Lane::Trial),
                    abandoned: &CancellationToken::new(),
                };
                match upstream.get(request).await {
                    Ok(body) if serde_json::from_slice::<IgnoredAny>(&body).is_ok() => {
                        println!("{name}: accepted");
                    }
                    Ok(_) => {
                        failed += 1;
                        println!("{name}: what answers isn't the ERP's API: check upstream.base_url and the tenant's clave");
                    }
                    Err(Failure::NotFound) => {
                        failed += 1;
                        println!("{name}: nothing is at the ERP's address: check upstream.base_url and the tenant's clave");
                    }
                    Err(failure) => {
                        failed += 1;
                        println!("{name}: the ERP can't be used with it: {failure}");
                    }
                }
            }
        }
        failed
    });
    if failed == 0 {
        Ok(())
    } else {
        Err(Failed(format!("{} failed", counted(failed, "credential"))))
    }
}
