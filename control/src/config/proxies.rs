//! Which peers are proxies whose word on their clients is taken.

use std::net::IpAddr;

/// Networks as configured.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Proxies(Vec<(IpAddr, u8)>);

impl Proxies {
    /// Addresses, or networks as 10.0.0.0/8. Err is the one that is neither.
    pub fn parse(items: &[String]) -> Result<Proxies, String> {
        let one = |item: &String| {
            let (address, bits) = item.split_once('/').map_or((item.as_str(), None), |(address, bits)| (address, Some(bits)));
            let address: IpAddr = address.parse().map_err(|_| item.clone())?;
            let all = if address.is_ipv4() { 32 } else { 128 };
            let bits = bits.map_or(Ok(all), |bits| bits.parse().map_err(|_| item.clone()))?;
            if bits <= all { Ok((address, bits)) } else { Err(item.clone()) }
        };
        items.iter().map(one).collect::<Result<_, _>>().map(Proxies)
    }

    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|(network, bits)| match (network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                u64::from(network.to_bits() ^ address.to_bits()) >> (32 - bits) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                // A shift by all bits is no shift to Rust.
                *bits == 0 || (network.to_bits() ^ address.to_bits()) >> (128 - bits) == 0
            }
            _ => false,
        })
    }
}
