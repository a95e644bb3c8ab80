//! What came of viewers, added up as each of them goes: a soak of hours keeps no more of them than a run of seconds.

use crate::histogram::Histogram;
use crate::ledger::Sums;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// A stream that ends so long before its publisher does has ended early.
const SILENCE_MAX: Duration = Duration::from_secs(1);

/// When a viewer was how far.
#[derive(Clone, Copy, Default, Debug)]
pub struct Phases {
    /// When it was due to begin, however late the generator or the server was with those before it.
    pub scheduled: Duration,
    pub answered: Duration,
    pub reached: Option<Duration>,
    pub connected: Option<Duration>,
    pub first_packet: Option<Duration>,
    pub first_frame: Option<Duration>,
    /// The first picture packet that is not of the past (witnesses).
    pub live: Option<Duration>,
}

/// What one viewer's run came to.
pub struct Account {
    pub phases: Phases,
    pub failure: Option<String>,
    pub profile: Option<&'static str>,
    pub sums: Sums,
    /// Sum and number of its packets' latencies (witnesses).
    pub latency_ns: (u64, u64),
    /// From its newest packet to the end of the publishers; nothing for who left before.
    pub silent: Duration,
    pub socket_drops: u64,
}

/// Of all viewers so far. Times in microseconds.
#[derive(Clone, Default)]
pub struct Totals {
    /// Who got at least a packet.
    pub joined: u64,
    pub failures: BTreeMap<String, u64>,
    pub profiles: BTreeSet<&'static str>,
    pub sums: Sums,
    /// How long streams were silent that ended early, all together.
    pub silent: Duration,
    pub socket_drops: u64,
    pub ttff: Histogram,
    pub http: Histogram,
    pub ice: Histogram,
    pub dtls: Histogram,
    pub first_packet: Histogram,
    pub first_frame: Histogram,
    pub live: Histogram,
    /// Mean latencies of viewers.
    pub means_ns: Means,
}

/// Numbers of which the least, the most and the mean matter.
#[derive(Clone, Copy, Default, PartialEq, Debug)]
pub struct Means {
    range: Option<(f64, f64)>,
    sum: f64,
    count: u64,
}

impl Means {
    pub fn add(&mut self, value: f64) {
        self.merge(&Means { range: Some((value, value)), sum: value, count: 1 });
    }

    fn merge(&mut self, other: &Means) {
        self.range = match (self.range, other.range) {
            (Some(ours), Some(theirs)) => Some((ours.0.min(theirs.0), ours.1.max(theirs.1))),
            (ours, theirs) => ours.or(theirs),
        };
        self.sum += other.sum;
        self.count += other.count;
    }

    /// How far they lie apart, by their mean.
    pub fn spread(&self) -> Option<f64> {
        let (least, most) = self.range.filter(|_| self.count > 1 && self.sum > 0.0)?;
        Some((most - least) / (self.sum / self.count as f64))
    }
}

impl Totals {
    pub fn add(&mut self, account: &Account) {
        if let Some(reason) = &account.failure {
            *self.failures.entry(reason.clone()).or_default() += 1;
        }
        self.socket_drops += account.socket_drops;
        let phases = &account.phases;
        if phases.first_packet.is_none() {
            return;
        }
        self.joined += 1;
        self.profiles.extend(account.profile);
        self.add_sums(&account.sums);
        if account.silent > SILENCE_MAX {
            self.silent += account.silent;
        }
        if account.latency_ns.1 > 0 {
            self.means_ns.add(account.latency_ns.0 as f64 / account.latency_ns.1 as f64);
        }
        let begun = Some(phases.scheduled);
        for (histogram, from, to) in [
            (&mut self.ttff, begun, phases.first_frame),
            (&mut self.http, begun, Some(phases.answered)),
            (&mut self.ice, Some(phases.answered), phases.reached),
            (&mut self.dtls, phases.reached, phases.connected),
            (&mut self.first_packet, phases.connected, phases.first_packet),
            (&mut self.first_frame, phases.connected, phases.first_frame),
            (&mut self.live, phases.connected, phases.live),
        ] {
            if let (Some(from), Some(to)) = (from, to) {
                histogram.add(to.saturating_sub(from).as_micros() as u64);
            }
        }
    }

    fn add_sums(&mut self, sums: &Sums) {
        self.sums.due += sums.due;
        self.sums.received += sums.received;
        self.sums.recovered += sums.recovered;
        self.sums.duplicates += sums.duplicates;
        self.sums.resent += sums.resent;
    }

    pub fn merge(&mut self, other: &Totals) {
        self.joined += other.joined;
        for (reason, count) in &other.failures {
            *self.failures.entry(reason.clone()).or_default() += count;
        }
        self.profiles.extend(&other.profiles);
        self.add_sums(&other.sums);
        self.silent += other.silent;
        self.socket_drops += other.socket_drops;
        self.means_ns.merge(&other.means_ns);
        for (ours, theirs) in [
            (&mut self.ttff, &other.ttff),
            (&mut self.http, &other.http),
            (&mut self.ice, &other.ice),
            (&mut self.dtls, &other.dtls),
            (&mut self.first_packet, &other.first_packet),
            (&mut self.first_frame, &other.first_frame),
            (&mut self.live, &other.live),
        ] {
            ours.merge(theirs);
        }
    }

    /// Lost after and before recovery, and doubled, as shares of what was due. A viewer whose stream ended early shows no
    /// hole: what came after its last packet was due all the same, `pps` a second.
    pub fn ratios(&self, pps: f64) -> (f64, f64, f64) {
        let due = self.sums.due + (self.silent.as_secs_f64() * pps) as u64;
        let ratio = |part: u64| if due == 0 { 0.0 } else { part as f64 / due as f64 };
        let at_first = self.sums.received.saturating_sub(self.sums.recovered);
        (ratio(due.saturating_sub(self.sums.received)), ratio(due.saturating_sub(at_first)), ratio(self.sums.duplicates))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn viewer(first_packet: Option<u64>) -> Account {
        let at = Duration::from_millis;
        let phases = Phases {
            scheduled: at(1_000),
            answered: at(1_200),
            reached: Some(at(1_230)),
            connected: Some(at(1_234)),
            first_packet: first_packet.map(at),
            first_frame: first_packet.map(|first| at(first + 8)),
            live: first_packet.map(|first| at(first + 40)),
        };
        let sums = Sums { due: 1_000, received: 990, recovered: 5, duplicates: 2, resent: 6 };
        Account { phases, failure: None, profile: Some("AEAD_AES_256_GCM"), sums, latency_ns: (0, 0), silent: Duration::ZERO, socket_drops: 0 }
    }

    #[test]
    fn each_phase_begins_where_the_one_before_ends_and_the_picture_when_the_viewer_was_due() {
        let mut totals = Totals::default();
        totals.add(&viewer(Some(1_241)));
        let histograms = [&totals.http, &totals.ice, &totals.dtls, &totals.first_packet, &totals.ttff];
        for (histogram, truth) in histograms.into_iter().zip([200_000.0, 30_000.0, 4_000.0, 7_000.0, 249_000.0]) {
            let found = histogram.at(1.0).unwrap();
            assert!((found / truth - 1.0).abs() < 0.02, "{found} for {truth}");
        }
    }

    #[test]
    fn means_of_two_viewers_lie_apart_by_their_difference() {
        let mut totals = Totals::default();
        for latency_ns in [(900, 9), (1_200, 10), (0, 0)] {
            assert_eq!(totals.means_ns.spread(), None);
            totals.add(&Account { latency_ns, ..viewer(Some(1_241)) });
            if latency_ns.0 == 1_200 {
                break;
            }
        }
        totals.add(&viewer(Some(1_241)));
        let found = totals.means_ns.spread().unwrap();
        assert!((found - 20.0 / 110.0).abs() < 1e-9, "{found}");
        let mut twice = Totals::default();
        twice.merge(&totals);
        twice.merge(&totals);
        assert_eq!(twice.means_ns.spread(), Some(found));
        assert!((totals.first_frame.at(0.5).unwrap() / 15_000.0 - 1.0).abs() < 0.02 && (totals.live.at(0.5).unwrap() / 47_000.0 - 1.0).abs() < 0.02);
    }

    #[test]
    fn who_never_got_a_packet_is_no_viewer_and_has_a_reason() {
        let mut totals = Totals::default();
        totals.add(&Account { failure: Some("no".into()), socket_drops: 3, ..viewer(None) });
        assert_eq!((totals.joined, totals.sums, totals.ttff.count()), (0, Sums::default(), 0));
        assert_eq!((totals.failures["no"], totals.socket_drops), (1, 3));
        // One that was lost on the way is both.
        totals.add(&Account { failure: Some("no".into()), ..viewer(Some(1_300)) });
        assert_eq!((totals.joined, totals.failures["no"]), (1, 2));
    }

    #[test]
    fn loss_is_of_what_was_due_also_behind_the_last_packet() {
        let mut totals = Totals::default();
        assert_eq!(totals.ratios(310.0), (0.0, 0.0, 0.0));
        totals.add(&viewer(Some(1_300)));
        assert_eq!(totals.ratios(310.0), (0.01, 0.015, 0.002));
        // A second is a pause, and no end.
        totals.add(&Account { silent: Duration::from_secs(1), ..viewer(Some(1_300)) });
        assert_eq!(totals.ratios(310.0), (0.01, 0.015, 0.002));
        totals.add(&Account { silent: Duration::from_secs(2), ..viewer(Some(1_300)) });
        assert_eq!(totals.ratios(500.0), (1_030.0 / 4_000.0, 1_045.0 / 4_000.0, 6.0 / 4_000.0));
    }

    #[test]
    fn two_threads_make_the_whole() {
        let (mut one, mut other, mut whole) = (Totals::default(), Totals::default(), Totals::default());
        for place in 0..40 {
            let account = Account {
                failure: (place % 7 == 0).then(|| format!("reason {}", place % 2)),
                silent: Duration::from_secs(place % 3),
                socket_drops: place,
                profile: Some(if place % 2 == 0 { "AEAD_AES_256_GCM" } else { "AEAD_AES_128_GCM" }),
                ..viewer((place % 5 != 0).then_some(1_250 + place))
            };
            if place % 2 == 0 { one.add(&account) } else { other.add(&account) }
            whole.add(&account);
        }
        one.merge(&other);
        assert_eq!((one.joined, &one.failures, &one.profiles, one.sums), (whole.joined, &whole.failures, &whole.profiles, whole.sums));
        assert_eq!((one.silent, one.socket_drops), (whole.silent, whole.socket_drops));
        let medians = |totals: &Totals| [&totals.ttff, &totals.http, &totals.ice, &totals.dtls, &totals.first_packet].map(|all| (all.count(), all.at(0.5)));
        assert_eq!(medians(&one), medians(&whole));
    }
}
