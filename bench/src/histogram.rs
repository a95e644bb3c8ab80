//! Percentiles of millions of values in 15 KB: buckets that are 1.6 % wide, whatever the magnitude.

/// Steps within a power of two.
const STEPS: u64 = 64;
const POWERS: usize = 30;
const BUCKETS: usize = POWERS * STEPS as usize;

#[derive(Clone)]
pub struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    sum: u128,
    max: u64,
}

impl Histogram {
    pub fn new() -> Histogram {
        Histogram { buckets: vec![0; BUCKETS], count: 0, sum: 0, max: 0 }
    }

    fn place(value: u64) -> usize {
        if value < STEPS {
            return value as usize;
        }
        let power = value.ilog2() - STEPS.ilog2();
        ((u64::from(power) * STEPS + (value >> power)) as usize).min(BUCKETS - 1)
    }

    /// The middle of a bucket.
    fn value(place: usize) -> f64 {
        let place = place as u64;
        if place < 2 * STEPS {
            return place as f64;
        }
        let power = place / STEPS - 1;
        ((place - power * STEPS) << power) as f64 + (1_u64 << power) as f64 / 2.0
    }

    pub fn add(&mut self, value: u64) {
        self.buckets[Self::place(value)] += 1;
        self.count += 1;
        self.sum += u128::from(value);
        self.max = self.max.max(value);
    }

    pub fn merge(&mut self, other: &Histogram) {
        for (ours, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *ours += theirs;
        }
        self.count += other.count;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value below which the share `quantile` of all stands; none of none.
    pub fn at(&self, quantile: f64) -> Option<f64> {
        let rank = (quantile * self.count as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        for (place, count) in self.buckets.iter().enumerate() {
            below += count;
            if below >= rank {
                return Some(Self::value(place).min(self.max as f64));
            }
        }
        None
    }
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_two_percent_of_the_truth() {
        for scale in [1, 37, 1_000, 1_000_003] {
            let mut histogram = Histogram::new();
            (1..=10_000).for_each(|value| histogram.add(value * scale));
            for quantile in [0.01, 0.5, 0.95, 0.99, 0.999, 1.0] {
                let (found, truth) = (histogram.at(quantile).unwrap(), 10_000.0 * quantile * scale as f64);
                assert!((found / truth - 1.0).abs() < 0.02, "{found} for {truth}");
            }
        }
    }

    #[test]
    fn of_nothing_there_is_no_percentile_and_the_largest_fits() {
        assert_eq!(Histogram::new().at(0.5), None);
        let mut histogram = Histogram::new();
        histogram.add(u64::MAX);
        histogram.add(0);
        assert_eq!(histogram.at(0.5), Some(0.0));
        assert!(histogram.at(1.0).is_some());
    }

    #[test]
    fn two_halves_make_the_whole() {
        let (mut whole, mut one, mut other) = (Histogram::new(), Histogram::new(), Histogram::new());
        for value in 0..5_000 {
            whole.add(value);
            if value % 3 == 0 { one.add(value) } else { other.add(value) }
        }
        one.merge(&other);
        assert_eq!((one.count(), one.at(0.5), one.at(0.99)), (whole.count(), whole.at(0.5), whole.at(0.99)));
        other.add(1_000_000);
        one.merge(&other);
        assert_eq!(one.at(1.0), other.at(1.0), "the largest of both");
    }
}
