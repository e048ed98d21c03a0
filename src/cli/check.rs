//! `llavero check`.

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;
use serde::de::IgnoredAny;

use crate::{
    clock::Clock,
    config::{Config, mistake::Mistake},
    identity::Identity,
    telemetry::traces,
    tenants::{Clave, Credential, KeySlot, Loader, Presented, Tenants},
    tls,
    upstream::{Failure, Jitter, Upstream},
    watchlist::Watchlist,
};

use super::{Failed, counted, env, explain, issuer_mistakes, pair_mistake, runtime};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "llavero.yaml")]
    config: PathBuf,
    /// Also fetch the keys of each issuer that publishes them, try each credential at the
    /// ERP with one cheap GET, and send the collector of traces an empty export
    #[arg(long)]
    live: bool,
    #[command(flatten)]
    explain: explain::Arguments,
}

/// What failed of what was tried.
#[derive(Default)]
struct Tally {
    issuers: usize,
    credentials: usize,
    collectors: usize,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let survey = crate::config::survey(&arguments.config, crate::config::process_env());
    let mut mistakes = survey.mistakes.0;
    let Some(config) = survey.config else {
        return report(mistakes);
    };
    // Where an issuer or the pair is wrong already, their files would only add to the noise.
    let auth_is_good = !mistakes
        .iter()
        .any(|mistake| mistake.key.starts_with("auth"));
    let identity = auth_is_good
        .then(|| Identity::load(&config.auth, &config.base_dir, &env, Clock::system()))
        .transpose()
        .unwrap_or_else(|errors| {
            mistakes.extend(issuer_mistakes(&arguments.config, &errors));
            None
        });
    let tls_is_good = !mistakes
        .iter()
        .any(|mistake| mistake.key.starts_with("server.tls"));
    if let Some(files) = config.server.tls.as_ref().filter(|_| tls_is_good)
        && let Err(error) = tls::check(files, Clock::system().wall())
    {
        mistakes.push(pair_mistake(&arguments.config, &error));
    }
    let mut loader = Loader::new(&config.tenants_dir, env);
    let tenants = match loader.load(Clock::system().wall()) {
        Ok(tenants) => tenants,
        Err(error) => {
            mistakes.push(Mistake::of_file(
                &config.tenants_dir,
                format!("tenants_dir can't be read: {error}; create it, with one <tenant-id>.yaml for each tenant"),
            ));
            Tenants::default()
        }
    };
    if tenants.is_empty() && tenants.errors().is_empty() && config.tenants_dir.is_dir() {
        mistakes.push(Mistake::of_file(
            &config.tenants_dir,
            "holds no tenant; write one <tenant-id>.yaml for each, or a directory <tenant-id>/ with its settings as files",
        ));
    }
    for error in tenants.errors() {
        mistakes.extend(error.mistakes.0.iter().cloned());
    }
    let traces = traces::Settings::of(env);
    mistakes.extend(traces.mistakes().iter().map(|unusable| Mistake {
        variable: Some(unusable.variable.clone()),
        ..Mistake::of_file(&arguments.config, unusable.what.clone())
    }));
    if !mistakes.is_empty() {
        return report(mistakes);
    }
    println!(
        "The configuration is good: {}, {}.",
        counted(config.auth.issuers.len(), "issuer"),
        counted(tenants.len(), "tenant")
    );
    if arguments.explain.is_wanted() {
        return explain::run(&config.auth, &tenants, &arguments.explain);
    }
    match identity {
        Some(identity) if arguments.live => live(&config, &identity, &tenants, &traces),
        _ => Ok(()),
    }
}

fn report(mistakes: Vec<Mistake>) -> Result<(), Failed> {
    let count = mistakes.len();
    for mistake in mistakes {
        println!("{mistake}");
    }
    Err(Failed(counted(count, "mistake")))
}

/// Fetches every provider's keys, and tries every credential and the collector; the ERP's answers
/// are as good as their status.
fn live(
    config: &Config,
    identity: &Identity,
    tenants: &Tenants,
    traces: &traces::Settings,
) -> Result<(), Failed> {
    let mut metrics = prometheus_client::registry::Registry::default();
    let upstream = Upstream::new(
        &config.upstream,
        Clock::system(),
        Jitter::random(),
        Watchlist::new(Clock::system()),
        &mut metrics,
    )
    .map_err(Failed::new)?;
    let failed = runtime()?.block_on(async {
        let mut failed = Tally::default();
        for (issuer, tried) in identity.try_providers().await {
            match tried {
                Ok(keys) => println!("{issuer}: {}", counted(keys, "key")),
                Err(cause) => {
                    failed.issuers += 1;
                    println!("{issuer}: its keys can't be fetched: {cause}");
                }
            }
        }
        let mut tenants: Vec<_> = tenants.iter().collect();
        tenants.sort_by(|a, b| a.id().cmp(b.id()));
        for tenant in tenants {
            for credential in tenant.credentials() {
                for (what, outcome) in try_credential(&upstream, tenant.clave(), credential).await {
                    let name = credential.id().name();
                    let told = match told(&outcome) {
                        Ok(told) => told,
                        Err(told) => {
                            failed.credentials += 1;
                            told
                        }
                    };
                    println!("{}: {name}{what}: {told}", tenant.id());
                }
            }
        }
        match traces::try_collector(traces, &Clock::system()).await {
            None => {}
            Some(Ok(())) => println!("traces: the collector accepts them"),
            Some(Err(what)) => {
                failed.collectors += 1;
                println!("traces: the collector doesn't accept them: {what}");
            }
        }
        failed
    });
    let told: Vec<_> = [
        (failed.issuers, "issuer"),
        (failed.credentials, "credential"),
        (failed.collectors, "collector"),
    ]
    .into_iter()
    .filter(|(count, _)| *count > 0)
    .map(|(count, what)| counted(count, what))
    .collect();
    if told.is_empty() {
        Ok(())
    } else {
        Err(Failed(format!("{} failed", told.join(" and "))))
    }
}

/// What a trial is called behind its credential's name, and the answer; a login has none.
type Trial = (&'static str, Result<Option<Bytes>, Failure>);

/// Each key, or the login and what it gave.
async fn try_credential(
    upstream: &Upstream,
    clave: &Clave,
    credential: &Arc<Credential>,
) -> Vec<Trial> {
    let probe = async |key: Option<KeySlot>| upstream.probe(clave, credential, key).await.map(Some);
    match credential.presented() {
        Presented::ApiKey(keys) => {
            let mut trials = vec![("", probe(Some(KeySlot::Present)).await)];
            if keys.key(KeySlot::Next).is_some() {
                trials.push((" (next key)", probe(Some(KeySlot::Next)).await));
            }
            trials
        }
        Presented::Login(_) => {
            let login = upstream.log_in(clave, credential).await;
            let is_in = login.is_ok();
            let mut trials = vec![(" (login)", login.map(|()| None))];
            if is_in {
                trials.push(("", probe(None).await));
            }
            trials
        }
    }
}

fn told(outcome: &Result<Option<Bytes>, Failure>) -> Result<String, String> {
    match outcome {
        Ok(None) => Ok("accepted".to_owned()),
        Ok(Some(body)) if serde_json::from_slice::<IgnoredAny>(body).is_ok() => {
            Ok("accepted".to_owned())
        }
        Ok(Some(_)) => Err(
            "what answers isn't the ERP's API: check upstream.base_url and the tenant's clave"
                .to_owned(),
        ),
        Err(Failure::NotFound) => Err(
            "nothing is at the ERP's address: check upstream.base_url and the tenant's clave"
                .to_owned(),
        ),
        Err(failure) => Err(format!("the ERP can't be used with it: {failure}")),
    }
}
