//! What every stream receives and what goes out to viewers, as rates over the last second, from the engine's running
//! totals. Decides nothing.

use crate::events::TrackTotals;
use spillway_proto::id::TrackId;
use std::collections::HashMap;
use std::time::Instant;

/// Of one track.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Rates {
    pub bitrate_bps: u64,
    pub frames_per_second: f64,
    pub loss_ratio: f64,
    pub keyframe_interval_ms: u64,
}

#[derive(Debug, Default)]
pub struct Meters {
    before: Option<Before>,
    rates: HashMap<TrackId, Rates>,
    pub egress_bps: u64,
    shards: Option<(Instant, Vec<u64>)>,
}

#[derive(Debug)]
struct Before {
    at: Instant,
    tracks: HashMap<TrackId, TrackTotals>,
    bytes_sent: u64,
}

impl Meters {
    pub fn measure(
        &mut self,
        now: Instant,
        tracks: impl Iterator<Item = TrackId>,
        totals: impl Fn(TrackId) -> Option<TrackTotals>,
        bytes_sent: u64,
    ) {
        let present: HashMap<TrackId, TrackTotals> = tracks.filter_map(|track| Some((track, totals(track)?))).collect();
        self.rates.clear();
        let micros = self.before.as_ref().map_or(0, |before| now.saturating_duration_since(before.at).as_micros());
        let per_second = |count: u64, unit: u128| match micros {
            0 => 0,
            micros => u64::try_from(u128::from(count) * unit * 1_000_000 / micros).unwrap_or(u64::MAX),
        };
        for (track, totals) in &present {
            let past = self.before.as_ref().and_then(|before| before.tracks.get(track)).copied();
            // What came before the first look is no rate.
            let past = past.unwrap_or(*totals);
            let grown = |of: fn(&TrackTotals) -> u64| of(totals).saturating_sub(of(&past));
            let (lost, expected) = (grown(|totals| totals.lost), grown(|totals| totals.expected));
            self.rates.insert(*track, Rates {
                bitrate_bps: per_second(grown(|totals| totals.bytes), 8),
                frames_per_second: per_second(grown(|totals| totals.frames), 10) as f64 / 10.0,
                // Late packets can make `lost` shrink, and a ratio is at most 1.
                loss_ratio: if expected == 0 { 0.0 } else { (lost as f64 / expected as f64).min(1.0) },
                keyframe_interval_ms: totals.keyframe_interval_ms,
            });
        }
        let sent = self.before.as_ref().map_or(0, |before| bytes_sent.saturating_sub(before.bytes_sent));
        self.egress_bps = per_second(sent, 8);
        self.before = Some(Before { at: now, tracks: present, bytes_sent });
    }

    /// How busy each shard was since the last call, 0 to 1, from the nanoseconds it has worked in all; empty the first time.
    pub fn measure_shards(&mut self, now: Instant, worked: Vec<u64>) -> Vec<f64> {
        let before = self.shards.replace((now, worked.clone()));
        let Some((at, before)) = before.filter(|(at, _)| now > *at) else { return Vec::new() };
        let span = now.saturating_duration_since(at).as_nanos() as f64;
        worked.iter().zip(before).map(|(now, before)| (now.saturating_sub(before) as f64 / span).min(1.0)).collect()
    }

    pub fn rates(&self, track: TrackId) -> Rates {
        self.rates.get(&track).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_shard_is_as_busy_as_it_worked_of_the_time() {
        let (begin, second) = (Instant::now(), Duration::from_secs(1));
        let mut meters = Meters::default();
        assert!(meters.measure_shards(begin, vec![5_000_000_000, 0]).is_empty());
        let busy = meters.measure_shards(begin + 2 * second, vec![6_000_000_000, 100_000_000]);
        assert_eq!(busy, [0.5, 0.05]);
        // A tick that began before is counted when it ends; and nobody works more than all the time.
        assert_eq!(meters.measure_shards(begin + 3 * second, vec![9_000_000_000, 0]), [1.0, 0.0]);
    }

    #[test]
    fn rates_are_what_grew_in_the_time_between() {
        let (now, track) = (Instant::now(), TrackId::new(1, 1));
        let totals = |bytes, lost, frames| TrackTotals { bytes, lost, expected: bytes / 10, frames, keyframe_interval_ms: 2_000 };
        let mut meters = Meters::default();
        meters.measure(now, [track].into_iter(), |_| Some(totals(1_000, 0, 30)), 5_000);
        assert_eq!(meters.rates(track), Rates { keyframe_interval_ms: 2_000, ..Rates::default() });
        assert_eq!(meters.egress_bps, 0);
        meters.measure(now + Duration::from_secs(2), [track].into_iter(), |_| Some(totals(3_000, 20, 89)), 7_000);
        let rates = meters.rates(track);
        assert_eq!((rates.bitrate_bps, rates.frames_per_second, rates.loss_ratio), (8_000, 29.5, 0.1));
        assert_eq!(meters.egress_bps, 8_000);
        // The counters of another engine begin anew, and a track that is gone has none.
        meters.measure(now + Duration::from_secs(3), [].into_iter(), |_| None, 10);
        assert_eq!((meters.egress_bps, meters.rates(track)), (0, Rates::default()));
    }
}
