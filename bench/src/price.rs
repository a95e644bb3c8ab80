//! What viewers cost: cores and traffic of a run, as the price of 1,000 viewer-hours. Pure; money is whatever the prices
//! are in.

use crate::cli::VerdictArgs;
use serde::Serialize;

/// IPv4 and UDP headers: what is billed and is not in a datagram's length.
const HEADER_BYTES: u64 = 28;
const VIEWERS: f64 = 1_000.0;

/// Of 1,000 viewer-hours.
#[derive(Clone, PartialEq, Serialize, Default, Debug)]
pub struct Price {
    /// What was given.
    pub core_hour: Option<f64>,
    pub gb: Option<f64>,
    /// Hours of a core, if the server's processes were known.
    pub core_hours: Option<f64>,
    /// Towards viewers, headers included, in units of 10^9 bytes.
    pub traffic_gb: f64,
    /// Of both, as far as they are known.
    pub cost: f64,
    /// In words.
    pub text: String,
}

/// Nothing without prices, or without viewers.
pub fn price(asked: &VerdictArgs, packets: u64, bytes: u64, seconds: f64, viewers: u64, cores: Option<f64>) -> Option<Price> {
    let (core_hour, gb) = (asked.price_core_hour, asked.price_gb);
    if core_hour.is_none() && gb.is_none() || viewers == 0 || seconds <= 0.0 {
        return None;
    }
    let share = VIEWERS / viewers as f64;
    let core_hours = cores.map(|cores| cores * share);
    let traffic_gb = (bytes + packets * HEADER_BYTES) as f64 / 1e9 / seconds * 3_600.0 * share;
    let mut parts = Vec::new();
    let mut cost = 0.0;
    if let Some(price) = core_hour {
        match core_hours {
            Some(hours) => {
                cost += hours * price;
                parts.push(format!("{} for {hours:.3} core-hours", money(hours * price)));
            }
            None => parts.push("cores unknown without --server-pid".to_owned()),
        }
    }
    if let Some(price) = gb {
        cost += traffic_gb * price;
        parts.push(format!("{} for {traffic_gb:.0} GB", money(traffic_gb * price)));
    }
    let text = format!("1,000 viewer-hours cost {}: {}", money(cost), parts.join(", "));
    Some(Price { core_hour, gb, core_hours, traffic_gb, cost, text })
}

/// Thousandths matter of cents, and of hundreds they do not.
fn money(value: f64) -> String {
    if value < 1.0 { format!("{value:.4}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(core_hour: Option<f64>, gb: Option<f64>) -> VerdictArgs {
        VerdictArgs { price_core_hour: core_hour, price_gb: gb, ..VerdictArgs::default() }
    }

    #[test]
    fn a_thousand_viewer_hours_are_counted_from_what_was_measured() {
        // 500 viewers for 10 s: 1,000 packets each of 972 bytes are 1,000 bytes with headers.
        let price = |asked, cores| price(&asked, 500_000, 500_000 * 972, 10.0, 500, cores);
        let both = price(asked(Some(0.04), Some(0.01)), Some(0.25)).unwrap();
        // Half a core for a thousand; 100 kB a second and viewer are 360 MB an hour: 360 GB.
        assert_eq!((both.core_hours, both.traffic_gb.round()), (Some(0.5), 360.0));
        assert!((both.cost - (0.02 + 3.6)).abs() < 1e-9);
        assert_eq!(both.text, "1,000 viewer-hours cost 3.62: 0.0200 for 0.500 core-hours, 3.60 for 360 GB");
        let traffic = price(asked(None, Some(0.01)), None).unwrap();
        assert!((traffic.cost - 3.6).abs() < 1e-9 && traffic.core_hours.is_none());
        assert!(price(asked(Some(0.04), None), None).unwrap().text.contains("--server-pid"));
        assert_eq!(price(asked(None, None), Some(0.25)), None);
        assert_eq!(super::price(&asked(Some(1.0), None), 0, 0, 10.0, 0, Some(0.2)), None, "nobody watched");
    }
}
