//! `llavero sim`.

use std::net::SocketAddr;

use llavero_simulator::Simulator;

use super::{Failed, runtime, serve::listen, stop_signals};

/// Run the simulated ERP alone
///
/// Three accounts (carper, norte, bahia) with work orders in memory, below
/// http://LISTEN/{clave}/api/v2/. GET /_sim/ explains how to plant faults, for example:
///
///   curl -X PUT localhost:8081/_sim/tenants/carper/faults -d '{"delay": 2000}'
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Arguments {
    /// Where to listen
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8081")]
    listen: SocketAddr,
}

pub(super) fn run(arguments: &Arguments) -> Result<(), Failed> {
    runtime()?.block_on(async {
        let stop = stop_signals(None)?;
        let listener = listen(arguments.listen, "--listen").await?;
        let address = listener.local_addr().map_err(Failed::new)?;
        println!("The simulated ERP is at http://{address}/{{clave}}/api/v2/; http://{address}/_sim/ controls it.");
        let simulator = Simulator::with_demo_tenants();
        simulator
            .run(listener, async move { stop.drain.cancelled().await })
            .await
            .map_err(Failed::new)
    })
}
