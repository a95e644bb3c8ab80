//! Limits of requests, per address and per token, and who is at the other end when a proxy stands before us. Owns two
//! bounded tables; a request that is one too many costs a look at them and nothing else.

use super::listener::Peer;
use super::problem::Problem;
use crate::auth;
use crate::config::Proxies;
use crate::service::Service;
use aws_lc_rs::digest;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So much of the rate may come at once: a page with all it loads, a storm of joins behind one address.
const BURST_SECONDS: u64 = 10;
/// Addresses and tokens that are remembered, some 60 bytes each.
const ENTRIES_MAX: usize = 65_536;
/// What is idle is looked for at most so often.
const SWEEP_WAIT: Duration = Duration::from_secs(1);
/// Of X-Forwarded-For; more proxies than that stand nowhere.
const HOPS_MAX: usize = 16;

/// Whose requests are counted together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    Address(IpAddr),
    Token([u8; 16]),
}

/// For each key the time at which all it took is given back (the generic cell rate algorithm).
struct Table<K> {
    entries: HashMap<K, u64>,
    /// Of all who find no place in a full table.
    others: u64,
    swept: u64,
}

impl<K: Hash + Eq> Table<K> {
    fn new() -> Table<K> {
        Table { entries: HashMap::new(), others: 0, swept: 0 }
    }

    /// Takes one at `now` (nanoseconds); Err: nanoseconds until there is one again.
    fn take(&mut self, key: K, per_second: u32, now: u64, entries_max: usize) -> Result<(), u64> {
        if per_second == 0 {
            return Ok(());
        }
        let each = 1_000_000_000 / u64::from(per_second);
        let burst = each.saturating_mul(u64::from(per_second)).saturating_mul(BURST_SECONDS);
        if self.entries.len() >= entries_max && now.saturating_sub(self.swept) >= SWEEP_WAIT.as_nanos() as u64 {
            self.swept = now;
            self.entries.retain(|_, full_at| *full_at > now);
        }
        let is_full = self.entries.len() >= entries_max;
        let full_at = match self.entries.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            // Those who are known go on; who is new shares with all who are.
            Entry::Vacant(_) if is_full => &mut self.others,
            Entry::Vacant(entry) => entry.insert(0),
        };
        let next = (*full_at).max(now) + each;
        if next - now > burst {
            return Err(next - now - burst);
        }
        *full_at = next;
        Ok(())
    }
}

pub struct Rates {
    table: Mutex<(Table<IpAddr>, Table<[u8; 16]>)>,
    began: Instant,
}

impl Default for Rates {
    fn default() -> Rates {
        Rates { table: Mutex::new((Table::new(), Table::new())), began: Instant::now() }
    }
}

impl Rates {
    /// Err: seconds to wait.
    pub fn take(&self, source: Source, per_second: u32) -> Result<(), u64> {
        // From 1 on: 0 is long ago.
        let now = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX / 2).saturating_add(1);
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = match source {
            Source::Address(address) => table.0.take(network(address), per_second, now, ENTRIES_MAX),
            Source::Token(token) => table.1.take(token, per_second, now, ENTRIES_MAX),
        };
        taken.map_err(|nanoseconds| nanoseconds.div_ceil(1_000_000_000).max(1))
    }
}

/// Whoever has one IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

/// Before anything else of a request is looked at.
pub async fn limited(State(service): State<Arc<Service>>, request: Request, next: Next) -> Response {
    let limits = service.request_limits();
    let headers = request.headers();
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| info.0.0.ip());
    if let Some(address) = peer.map(|peer| client_of(peer, headers, &limits.proxies)) {
        // This machine's own programs; a proxy among them names its clients, once it is trusted.
        if !address.to_canonical().is_loopback()
            && let Err(seconds) = service.rates.take(Source::Address(address), limits.per_address)
        {
            service.count_limited("address");
            return Problem::rate_limited("address", seconds).into_response();
        }
    }
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    if let Some(token) = auth::token_of(authorization, request.uri().query()) {
        let hash = digest::digest(&digest::SHA256, token.as_bytes());
        let name = hash.as_ref().first_chunk::<16>().copied().unwrap_or_default();
        if let Err(seconds) = service.rates.take(Source::Token(name), limits.per_token) {
            service.count_limited("token");
            return Problem::rate_limited("token", seconds).into_response();
        }
    }
    next.run(request).await
}

/// What is in force of the settings.
#[derive(Clone, Debug, Default)]
pub struct RequestLimits {
    pub per_address: u32,
    pub per_token: u32,
    /// Of pages that may call: `*`, or origins.
    pub origins: Arc<[String]>,
    pub proxies: Arc<Proxies>,
}

/// The nearest address that is not of a trusted proxy: what stands further left anybody may have written.
fn client_of(peer: IpAddr, headers: &HeaderMap, proxies: &Proxies) -> IpAddr {
    if !proxies.trusts(peer) {
        return peer;
    }
    let lines: Vec<&str> = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok()).collect();
    let hops = lines.iter().rev().flat_map(|line| line.rsplit(',')).take(HOPS_MAX);
    let mut client = peer;
    for hop in hops {
        let Some(address) = address_of(hop.trim()) else { break };
        client = address;
        if !proxies.trusts(address) {
            break;
        }
    }
    client
}

/// `203.0.113.5`, `203.0.113.5:1234`, `[2001:db8::1]:1234`.
fn address_of(text: &str) -> Option<IpAddr> {
    let plain = text.trim_start_matches('[').trim_end_matches(']');
    plain.parse().ok().or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_burst_then_the_rate_and_each_for_itself() {
        let mut table = Table::new();
        let mut take = |key: u8, at: u64| table.take(key, 5, at, 9);
        let begin = 100 * SECOND;
        assert_eq!((0..100).filter(|_| take(1, begin).is_ok()).count(), 50);
        assert_eq!(take(1, begin), Err(SECOND / 5));
        assert_eq!((0..100).filter(|_| take(1, begin + SECOND).is_ok()).count(), 5);
        assert_eq!(take(2, begin + SECOND), Ok(()));
        assert_eq!((0..100).filter(|_| take(1, begin + 60 * SECOND).is_ok()).count(), 50, "no more than the burst is saved up");
        assert_eq!(Table::new().take(1, 0, begin, 9), Ok(()), "0 is no limit");
    }

    #[test]
    fn a_full_table_lets_the_known_go_on_and_forgets_the_idle() {
        let mut table = Table::new();
        for key in 0..4u32 {
            table.take(key, 1, SECOND, 4).unwrap();
        }
        let strangers = (100..200).filter(|key| table.take(*key, 1, SECOND, 4).is_ok()).count();
        assert_eq!(strangers, BURST_SECONDS as usize, "they share what one may have");
        assert_eq!(table.take(2, 1, SECOND, 4), Ok(()));
        assert!(table.entries.len() <= 4);
        table.take(500, 1, 60 * SECOND, 4).unwrap();
        assert_eq!(table.entries.len(), 1, "what is idle has made room");
    }

    #[test]
    fn a_network_of_ipv6_is_one_and_an_address_in_disguise_is_itself() {
        let network = |text: &str| network(text.parse().unwrap());
        assert_eq!(network("2001:db8:1:2:3::9"), network("2001:db8:1:2:ffff::1"));
        assert_ne!(network("2001:db8:1:2::9"), network("2001:db8:1:3::9"));
        assert_eq!(network("::ffff:192.0.2.7"), network("192.0.2.7"));
    }

    #[test]
    fn only_a_trusted_proxy_names_its_clients() {
        let proxies = Proxies::parse(&["127.0.0.1".to_owned(), "10.0.0.0/8".to_owned(), "fd00::/16".to_owned()]).unwrap();
        let client = |peer: &str, forwarded: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in forwarded {
                headers.append("x-forwarded-for", line.parse().unwrap());
            }
            client_of(peer.parse().unwrap(), &headers, &proxies).to_string()
        };
        assert_eq!(client("198.51.100.9", &["203.0.113.1"]), "198.51.100.9", "anybody can write that");
        assert_eq!(client("127.0.0.1", &["203.0.113.1"]), "203.0.113.1");
        assert_eq!(client("127.0.0.1", &["1.2.3.4, 203.0.113.1, 10.1.2.3"]), "203.0.113.1", "what is behind it was forged");
        assert_eq!(client("10.9.9.9", &["1.2.3.4", "203.0.113.1"]), "203.0.113.1");
        assert_eq!(client("fd00::1", &["[2001:db8::5]:443"]), "2001:db8::5");
        assert_eq!(client("127.0.0.1", &["nonsense"]), "127.0.0.1");
        assert_eq!(client("127.0.0.1", &[]), "127.0.0.1");
        assert_eq!(client("127.0.0.1", &["10.0.0.1"]), "10.0.0.1", "proxies alone");
        for wrong in ["10.0.0.0/33", "x", "::/129", "10.0.0.1/"] {
            assert!(Proxies::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
