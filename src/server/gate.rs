//! How many connections there may be: all together, and from one address. Who comes beyond
//! that is closed at once and can try elsewhere; waiting would look like a gateway that hangs.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ipnet::IpNet;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry as MetricRegistry,
};
use tokio::time::Instant;

/// How often refusals are logged at most.
const LOG: Duration = Duration::from_secs(10);

/// Counts connections. Cheap to clone.
#[derive(Clone)]
pub(super) struct Gate(Arc<Shared>);

/// How many there may be.
pub(super) struct Bounds {
    pub(super) all: usize,
    pub(super) per_address: usize,
    /// Networks whose addresses stand for many: bound by `all` only.
    pub(super) exempt: Vec<IpNet>,
}

struct Shared {
    bounds: Bounds,
    counts: Mutex<Counts>,
    metrics: Metrics,
}

#[derive(Default)]
struct Counts {
    all: usize,
    /// Only addresses that have some.
    by_address: HashMap<IpAddr, usize>,
    logged: Option<Instant>,
}

/// One connection's place; given back when it is dropped.
pub(super) struct Place {
    gate: Gate,
    counted: Option<IpAddr>,
}

impl Gate {
    pub(super) fn new(bounds: Bounds, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            bounds,
            counts: Mutex::default(),
            metrics,
        }))
    }

    /// A place for a connection of that peer, if there is one.
    pub(super) fn enter(&self, peer: IpAddr) -> Option<Place> {
        let bounds = &self.0.bounds;
        let peer = peer.to_canonical();
        let is_exempt = bounds.exempt.iter().any(|network| network.contains(&peer));
        let counted = (!is_exempt).then(|| network(peer));
        let mut counts = self.lock();
        if counts.all >= bounds.all {
            self.refused(counts, "all", peer);
            return None;
        }
        if let Some(address) = counted {
            let of_it = counts.by_address.get(&address).copied().unwrap_or(0);
            if of_it >= bounds.per_address {
                self.refused(counts, "address", peer);
                return None;
            }
            counts.by_address.insert(address, of_it + 1);
        }
        counts.all += 1;
        self.show(&counts);
        drop(counts);
        Some(Place {
            gate: self.clone(),
            counted,
        })
    }

    fn refused(&self, mut counts: MutexGuard<'_, Counts>, reason: &'static str, peer: IpAddr) {
        self.0
            .metrics
            .refused
            .get_or_create(&ReasonLabel { reason })
            .inc();
        if counts.logged.is_none_or(|at| at.elapsed() >= LOG) {
            counts.logged = Some(Instant::now());
            drop(counts);
            tracing::warn!(
                reason,
                %peer,
                "a connection is refused: there are too many of `reason`; see server.connections, and server.trusted_proxies if the peer is a proxy of yours"
            );
        }
    }

    fn show(&self, counts: &Counts) {
        let all = i64::try_from(counts.all).unwrap_or(i64::MAX);
        self.0.metrics.open.set(all);
    }

    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether its peer is one of the networks that stand for many.
    pub(super) fn stands_for_many(&self) -> bool {
        self.counted.is_none()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.gate.lock();
        counts.all -= 1;
        if let Some(address) = self.counted
            && let Some(of_it) = counts.by_address.get_mut(&address)
        {
            *of_it -= 1;
            if *of_it == 0 {
                counts.by_address.remove(&address);
            }
        }
        self.gate.show(&counts);
    }
}

/// Whom an address belongs to: of IPv6 everybody has a /64 at least.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            let network = address.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(network).into()
        }
    }
}

/// What is told of connections.
#[derive(Default)]
pub(super) struct Metrics {
    open: Gauge,
    refused: Family<ReasonLabel, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

impl Metrics {
    pub(super) fn declare(metrics: &mut MetricRegistry) -> Self {
        let this = Self::default();
        metrics.register(
            "llavero_connections",
            "Callers' connections that are open",
            this.open.clone(),
        );
        metrics.register(
            "llavero_connections_refused",
            "Connections that were closed at once, by whose bound they were beyond",
            this.refused.clone(),
        );
        for reason in ["all", "address"] {
            let _ = this.refused.get_or_create(&ReasonLabel { reason });
        }
        this
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(all: usize, per_address: usize) -> Gate {
        let bounds = Bounds {
            all,
            per_address,
            exempt: vec!["10.0.0.0/8".parse().expect("a network")],
        };
        Gate::new(bounds, Metrics::default())
    }

    fn enter(gate: &Gate, peer: &str) -> Option<Place> {
        gate.enter(peer.parse().expect("an address"))
    }

    #[test]
    fn each_address_has_its_bound_and_gets_its_places_back() {
        let gate = gate(100, 2);
        let first = enter(&gate, "192.0.2.1");
        let _second = enter(&gate, "192.0.2.1");
        assert!(first.is_some() && enter(&gate, "192.0.2.1").is_none());
        // The same one, as a listener of IPv6 sees it.
        assert!(enter(&gate, "::ffff:192.0.2.1").is_none());
        let other = enter(&gate, "192.0.2.2");
        assert!(other.is_some());
        drop(first);
        assert!(enter(&gate, "192.0.2.1").is_some());
    }

    #[test]
    fn of_ipv6_a_whole_64_is_one_address() {
        let gate = gate(100, 1);
        let first = enter(&gate, "2001:db8:0:1::1");
        assert!(first.is_some() && enter(&gate, "2001:db8:0:1:ffff::2").is_none());
        assert!(enter(&gate, "2001:db8:0:2::1").is_some());
    }

    #[test]
    fn a_trusted_proxy_is_bound_by_all_together_only() {
        let gate = gate(3, 1);
        let places: Vec<_> = (0..3).map(|_| enter(&gate, "10.1.2.3")).collect();
        assert!(places.iter().all(Option::is_some));
        assert!(enter(&gate, "10.1.2.3").is_none() && enter(&gate, "192.0.2.1").is_none());
        drop(places);
        let counts = gate.lock();
        assert_eq!((counts.all, counts.by_address.len()), (0, 0));
    }

    #[test]
    fn who_was_refused_takes_no_place() {
        let gate = gate(1, 1);
        let first = enter(&gate, "192.0.2.1");
        for _ in 0..5 {
            assert!(enter(&gate, "192.0.2.1").is_none() && enter(&gate, "192.0.2.2").is_none());
        }
        drop(first);
        let counts = gate.lock();
        assert_eq!((counts.all, counts.by_address.len()), (0, 0));
    }
}
