//! How often one client's address may come without a token that is accepted. Nothing is
//! known of such a caller but the address, and each costs a signature's check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::{clock::Clock, config::limits::RateLimit};

use super::limiter::Limiter;

/// How many addresses are counted apart.
const MOST: usize = 100_000;

/// One record a minute of an address that is beyond its limit.
const TOLD: RateLimit = RateLimit {
    requests: 1,
    per: std::time::Duration::from_secs(60),
    burst: 1,
};

pub(super) struct Failures {
    counted: Limiter<IpNet>,
    told: Limiter<IpNet>,
    /// The most networks of each width.
    most: usize,
}

impl Failures {
    pub(super) fn new(limit: RateLimit, clock: Clock) -> Self {
        Self {
            counted: Limiter::new(limit, clock.clone()),
            told: Limiter::new(TOLD, clock),
            most: MOST,
        }
    }

    /// Whether another request of that address may be looked at. Counts nothing.
    ///
    /// # Errors
    /// How long until one may.
    pub(super) fn ask(&self, address: IpAddr) -> Result<(), std::time::Duration> {
        let network = network(&self.counted, self.most, address);
        let wait = self.counted.standing(&network).next_in;
        if wait.is_zero() { Ok(()) } else { Err(wait) }
    }

    /// Counts one failure.
    pub(super) fn count(&self, address: IpAddr) {
        // What comes at the same time as others passed before the limit was reached.
        let _ = self
            .counted
            .spend(&network(&self.counted, self.most, address));
    }

    /// Whether a refusal of that address is the first in a minute.
    pub(super) fn is_news(&self, address: IpAddr) -> bool {
        self.told
            .spend(&network(&self.told, self.most, address))
            .is_ok()
    }
}

/// What stands for an address: of IPv4 all of it, of IPv6 the /64, which is one customer's.
/// Where so many are counted already that more would cost memory without end, those who
/// come new share wider networks, and in the end one.
fn network(limiter: &Limiter<IpNet>, most: usize, address: IpAddr) -> IpNet {
    let wide_enough = |width: usize, network: &IpNet| {
        limiter.knows(network) || limiter.len() < most.saturating_mul(width)
    };
    [(1, 32, 64), (2, 16, 32)]
        .into_iter()
        .map(|(width, v4, v6)| (width, of(address, v4, v6)))
        .find(|(width, network)| wide_enough(*width, network))
        .map_or_else(|| everybody(address), |(_, network)| network)
}

fn of(address: IpAddr, v4: u8, v6: u8) -> IpNet {
    let length = match address {
        IpAddr::V4(_) => v4,
        IpAddr::V6(_) => v6,
    };
    IpNet::new(address, length).map_or_else(|_| everybody(address), |network| network.trunc())
}

fn everybody(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(_) => IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0),
        IpAddr::V6(_) => IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn failures(burst: u32) -> (Failures, Clock) {
        let clock = Clock::manual();
        let limit = RateLimit {
            requests: 60,
            per: Duration::from_secs(60),
            burst,
        };
        (Failures::new(limit, clock.clone()), clock)
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn an_address_is_refused_beyond_its_limit_and_others_arent() {
        let (failures, clock) = failures(2);
        let client = ip("192.0.2.1");
        for _ in 0..2 {
            assert_eq!(failures.ask(client), Ok(()));
            failures.count(client);
        }
        assert_eq!(failures.ask(client), Err(Duration::from_secs(1)));
        assert_eq!(failures.ask(client), Err(Duration::from_secs(1)));
        assert_eq!(failures.ask(ip("192.0.2.2")), Ok(()));
        clock.advance(Duration::from_secs(1));
        assert_eq!(failures.ask(client), Ok(()));
    }

    #[test]
    fn the_addresses_of_one_64_are_one_client() {
        let (failures, _clock) = failures(1);
        failures.count(ip("2001:db8:1:2::1"));
        assert!(failures.ask(ip("2001:db8:1:2:ffff::9")).is_err());
        assert!(failures.ask(ip("2001:db8:1:3::1")).is_ok());
    }

    #[test]
    fn too_many_addresses_share_wider_networks_instead_of_growing() {
        let (mut failures, _clock) = failures(1);
        failures.most = 100;
        for at in 0..=u16::MAX {
            let [high, low] = at.to_be_bytes();
            failures.count(ip(&format!("10.{high}.{low}.1")));
            failures.count(ip(&format!("{}.{low}.1.1", high.max(11))));
            failures.count(ip(&format!("2001:{at:x}::1")));
        }
        assert!(failures.counted.len() <= 202, "{}", failures.counted.len());
        assert!(failures.ask(ip("10.0.0.1")).is_err(), "kept apart");
        assert!(failures.ask(ip("10.9.9.9")).is_err(), "with its neighbours");
    }

    #[test]
    fn a_refusal_is_news_once_a_minute() {
        let (failures, clock) = failures(1);
        let client = ip("192.0.2.1");
        assert!(failures.is_news(client));
        assert!(!failures.is_news(client));
        clock.advance(Duration::from_secs(60));
        assert!(failures.is_news(client));
    }
}
