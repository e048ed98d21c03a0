//! `llavero serve`.

use std::{path::PathBuf, time::Duration};

use tokio::net::TcpListener;

use crate::{
    app::{App, BuildError, Telemetry},
    clock::Clock,
    config::mistake::Mistakes,
    server::{self, Drain},
    telemetry::{logs, traces},
    tls::TlsError,
};

use super::{Failed, correct, env, issuer_mistakes, load, pair_mistake, runtime, stop_signals};

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "llavero.yaml")]
    config: PathBuf,
}

pub(super) fn run(arguments: &Arguments, memory_is_private: bool) -> Result<(), Failed> {
    let (_logs, lost_lines) = logs::init(env("RUST_LOG"));
    if !memory_is_private {
        tracing::warn!("core dumps can't be turned off here: see that nobody can make or read one");
    }
    let config = load(&arguments.config)?;
    let telemetry = Telemetry {
        traces: traces::Settings::of(env),
        lost_lines,
    };
    let app = App::load_with(&config, env, Clock::system(), telemetry);
    let app = app.map_err(|error| match error {
        BuildError::Issuers(errors) => correct(&Mistakes::sorted(issuer_mistakes(
            &arguments.config,
            &errors,
        ))),
        BuildError::Tls(TlsError::Pair(error)) => {
            correct(&Mistakes(vec![pair_mistake(&arguments.config, &error)]))
        }
        error => Failed::new(error),
    })?;
    let runtime = runtime()?;
    let served = runtime.block_on(async {
        let stop = stop_signals(app.reload.clone())?;
        let public = listen(config.server.listen, "server.listen").await?;
        let admin = listen(config.server.admin_listen, "server.admin_listen").await?;
        tracing::info!(
            listen = %config.server.listen,
            admin_listen = %config.server.admin_listen,
            tls = config.server.tls.is_some(),
            version = env!("CARGO_PKG_VERSION"),
            "serving"
        );
        let drain = Drain {
            delay: config.server.drain_delay,
            grace: config.server.shutdown_grace,
        };
        server::run(app, public, admin, drain, stop)
            .await
            .map_err(Failed::new)
    });
    // A read that never ends, of a file system that is gone, keeps nobody here.
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

pub(super) async fn listen(
    address: std::net::SocketAddr,
    setting: &str,
) -> Result<TcpListener, Failed> {
    TcpListener::bind(address).await.map_err(|error| {
        Failed(format!("can't listen on {address}: {error}. Stop what uses it, or choose another with {setting}."))
    })
}
