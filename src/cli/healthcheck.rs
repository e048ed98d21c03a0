//! `llavero healthcheck`: for containers without a shell.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use crate::config::{self, server::Server};

use super::{Failed, env, runtime};

const TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The admin port's address, such as http://127.0.0.1:9090 [default: that of
    /// LLAVERO__SERVER__ADMIN_LISTEN, else of the configuration]
    #[arg(long)]
    url: Option<String>,
    /// The configuration file, where the gateway has one that can be read here
    #[arg(long, value_name = "FILE", default_value = "llavero.yaml")]
    config: PathBuf,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    let base = arguments
        .url
        .clone()
        .unwrap_or_else(|| format!("http://{}", reachable(admin_listen(&arguments.config))));
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
            Err(_) => Err(Failed(format!(
                "{url} doesn't answer; if the gateway's admin port is elsewhere, name its --config or the --url"
            ))),
        }
    })
}

/// As `serve` finds it, but for a file that is wrong or isn't there: a gateway may have been started
/// without one, or before it was spoilt.
fn admin_listen(config: &Path) -> SocketAddr {
    let variable = env("LLAVERO__SERVER__ADMIN_LISTEN");
    variable
        .and_then(|listen| listen.parse().ok())
        .or_else(|| {
            let survey = config::survey(config, config::process_env());
            survey.config.map(|config| config.server.admin_listen)
        })
        .unwrap_or_else(|| Server::default().admin_listen)
}

/// What listens on every interface is asked on this machine's own.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_interface_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:9090", "127.0.0.1:9090"),
            ("[::]:9191", "[::1]:9191"),
            ("10.1.2.3:80", "10.1.2.3:80"),
        ] {
            let listen = listen.parse().expect("an address");
            assert_eq!(reachable(listen).to_string(), asked);
        }
    }
}
