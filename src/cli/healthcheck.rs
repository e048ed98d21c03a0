//! `llavero healthcheck`: for containers without a shell.

use std::time::Duration;

use super::{Failed, env, runtime};

const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The admin port's address [default: that of LLAVERO__SERVER__ADMIN_LISTEN, else http://127.0.0.1:9090]
    #[arg(long)]
    url: Option<String>,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let base = arguments.url.clone().unwrap_or_else(|| {
        let listen = env("LLAVERO__SERVER__ADMIN_LISTEN").unwrap_or_default();
        // What listens on every interface is asked on this machine's own.
        let port = listen
            .rsplit(':')
            .next()
            .and_then(|port| port.parse::<u16>().ok());
        format!("http://127.0.0.1:{}", port.unwrap_or(9090))
    });
    let url = format!("{}/livez", base.trim_end_matches('/'));
    runtime()?.block_on(async {
        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .build()
            .map_err(Failed::new)?;
        match client.get(&url).send().await {
            Ok(response) if response.status().is_success() => Ok(()),
            Ok(response) => Err(Failed(format!("{url} answered {}", response.status()))),
            Err(_) => Err(Failed(format!("{url} doesn't answer"))),
        }
    })
}
