//! The handle that programs hold: starting, seeding, breaking and inspecting the simulated ERP.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::serve::ListenerExt;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::control;
use crate::erp::{self, Entry};
use crate::faults::Faults;
use crate::journal::ReceivedRequest;
use crate::seed::{self, TenantSeed, UserChange};
use crate::state::{Shared, Tenant, TokenKind};

/// A simulated ERP. Clones share one state.
#[derive(Clone, Default)]
pub struct Simulator {
    shared: Arc<Shared>,
}

impl Simulator {
    /// An ERP without tenants.
    pub fn new() -> Self {
        Self::default()
    }

    /// An ERP with the tenants `carper` (orders from 11001), `norte` (from 21001) and `bahia` (from 31001).
    ///
    /// Each has the users `app-default` (key `sim-key-<clave>-default`), who sees every order, and `app-tecnicos`
    /// (key `sim-key-<clave>-tecnicos`), who sees every other one. Both have the password `demo`.
    pub fn with_demo_tenants() -> Self {
        let simulator = Self::new();
        for tenant in seed::demo_tenants() {
            simulator.add_tenant(tenant);
        }
        simulator
    }

    /// Adds a tenant, in place of an earlier one of the same clave.
    pub fn add_tenant(&self, tenant: TenantSeed) {
        self.shared.insert(Tenant::planted(tenant));
    }

    /// The whole ERP and its `/_sim/` door, for callers who serve it themselves.
    pub fn router(&self) -> Router {
        self.router_until(watch::channel(false).1)
    }

    /// Serves until `shutdown` completes, then lets go of the requests that are being kept waiting.
    ///
    /// The state outlives the run, so a clone can be run again: a test can stop the ERP and bring it back.
    pub async fn run(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let (close, closing) = watch::channel(false);
        let router = self.router_until(closing);
        let listener = listener.tap_io(|stream| {
            // Only latency is lost where a platform refuses.
            let _ = stream.set_nodelay(true);
        });
        axum::serve(listener, router)
            .with_graceful_shutdown(async move {
                shutdown.await;
                close.send_replace(true);
            })
            .await
    }

    /// Gives the ERP another clock than the machine's, for what it writes into `creado` and `Date`. Says
    /// whether it is the first that it is given; it keeps that.
    pub fn keep_time(&self, clock: impl Fn() -> SystemTime + Send + Sync + 'static) -> bool {
        self.shared.keep_time(Box::new(clock))
    }

    /// What is to go wrong for a tenant from now on; replaces what was set before. Says whether the tenant exists.
    pub fn set_faults(&self, clave: &str, faults: Faults) -> bool {
        self.shared
            .with(clave, |tenant| tenant.faults.set(faults))
            .is_some()
    }

    /// Lets a tenant's requests go that the fault `hold` keeps waiting. Says whether the tenant exists.
    pub fn let_go(&self, clave: &str) -> bool {
        self.shared
            .with(clave, |tenant| tenant.faults.let_go())
            .is_some()
    }

    /// Changes a user's password or key. Says whether there is such a user.
    pub fn change_user(&self, clave: &str, username: &str, change: UserChange) -> bool {
        self.shared
            .with(clave, |tenant| tenant.change_user(username, change))
            .unwrap_or(false)
    }

    /// Makes the tokens of a kind that were given out so far good no more, or all of them.
    /// Says whether the tenant exists.
    pub fn revoke_tokens(&self, clave: &str, kind: Option<TokenKind>) -> bool {
        self.shared
            .with(clave, |tenant| tenant.tokens.revoke(kind))
            .is_some()
    }

    /// The requests received so far, oldest first, without those to `/_sim/`. The last 10,000 are kept.
    pub fn requests(&self) -> Vec<ReceivedRequest> {
        self.shared.journal().list()
    }

    /// Forgets the requests received so far.
    pub fn clear_requests(&self) {
        self.shared.journal().clear();
    }

    /// An order as it is stored, with `empleados` and `archivos`.
    pub fn orden(&self, clave: &str, id: u64) -> Option<Value> {
        self.shared
            .with(clave, |tenant| tenant.ordenes.get(&id).cloned())?
    }

    /// Stores any JSON as the order at this id, so that a test can plant what real data looks like.
    /// Says whether the tenant exists.
    pub fn put_orden(&self, clave: &str, id: u64, orden: Value) -> bool {
        self.shared
            .with(clave, |tenant| tenant.ordenes.insert(id, orden))
            .is_some()
    }

    /// The decoded bytes of an uploaded image. Files that came with the seed have none.
    pub fn imagen(&self, clave: &str, archivo_id: u64) -> Option<Vec<u8>> {
        self.shared
            .with(clave, |tenant| tenant.imagenes.get(archivo_id))?
            .map(|bytes| bytes.to_vec())
    }

    fn router_until(&self, closing: watch::Receiver<bool>) -> Router {
        control::routes(self.shared.clone()).fallback_service(erp::routes(Entry {
            shared: self.shared.clone(),
            closing,
        }))
    }
}
