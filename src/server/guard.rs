//! What stands before a listener's connections: how many there may be, TLS, and a bound for floods.

use prometheus_client::{metrics::counter::Counter, registry::Registry as MetricRegistry};

use super::{
    accept,
    gate::{self, Bounds, Gate},
    handshake::{self, Handshakes},
};
use crate::{config::server::Server as Settings, tls::Tls};

/// Guards one listener.
pub struct Guard {
    pub(super) gate: Gate,
    pub(super) handshakes: Option<Handshakes>,
    /// Connections that were cut for their HTTP/2 frames.
    pub(super) floods: Counter,
}

impl Guard {
    /// Of the public listener, by `server.connections`, `server.trusted_proxies` and, with TLS, the pair.
    #[must_use]
    pub fn of_public(settings: &Settings, tls: Option<Tls>, metrics: &mut MetricRegistry) -> Self {
        let most = |most: u32| usize::try_from(most).unwrap_or(usize::MAX);
        let bounds = Bounds {
            all: most(settings.connections.max).min(accept::capacity()),
            per_address: most(settings.connections.per_address),
            exempt: settings.trusted_proxies.clone(),
        };
        let floods = Counter::default();
        metrics.register(
            "llavero_http2_floods",
            "Connections that were cut as they sent more HTTP/2 frames that ask for nothing than any client needs",
            floods.clone(),
        );
        let gate = Gate::new(bounds, gate::Metrics::declare(metrics));
        let handshakes = tls.map(|tls| Handshakes::new(tls, handshake::Metrics::declare(metrics)));
        Self {
            gate,
            handshakes,
            floods,
        }
    }

    /// Of the admin listener, which is few people's and plain.
    pub(super) fn of_admin(most: usize) -> Self {
        let bounds = Bounds {
            all: most,
            per_address: most,
            exempt: Vec::new(),
        };
        Self {
            gate: Gate::new(bounds, gate::Metrics::default()),
            handshakes: None,
            floods: Counter::default(),
        }
    }
}
