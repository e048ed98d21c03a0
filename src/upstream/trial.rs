//! A cheap `GET` that no caller has asked for: it shows whether the ERP answers, and whether it takes a credential.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    telemetry::traces::Context,
    tenants::{Clave, Credential},
};

use super::{Lane, Party, Request, Target};

/// What it has beside who it is for: nobody abandons it, and it is part of no trace.
pub(super) struct Trial {
    target: Target,
    party: Party,
    abandoned: CancellationToken,
    trace: Context,
}

impl Trial {
    pub(super) fn new() -> Self {
        Self {
            target: Target::cheapest(),
            party: Party::alone(Lane::Trial),
            abandoned: CancellationToken::new(),
            trace: Context::default(),
        }
    }

    pub(super) const fn request<'a>(
        &'a self,
        clave: &'a Clave,
        credential: &'a Arc<Credential>,
    ) -> Request<'a> {
        Request {
            clave,
            credential,
            target: &self.target,
            party: &self.party,
            abandoned: &self.abandoned,
            waited: Duration::ZERO,
            trace: &self.trace,
        }
    }
}
