//! `--fail 'ttff_p99<1s'`: what has to hold, else the run ends with 99. Written as what shall be true.

use crate::summary::{Summary, Verdict};

/// Names, and the unit a bare number has.
pub const METRICS: [(&str, Unit); 18] = [
    ("ttff_p50", Unit::Time),
    ("ttff_p95", Unit::Time),
    ("ttff_p99", Unit::Time),
    ("http_p99", Unit::Time),
    ("ice_p99", Unit::Time),
    ("dtls_p99", Unit::Time),
    ("latency_p50", Unit::Time),
    ("latency_p99", Unit::Time),
    ("latency_p999", Unit::Time),
    ("loss", Unit::Ratio),
    ("loss_raw", Unit::Ratio),
    ("duplicates", Unit::Ratio),
    ("cpu", Unit::Ratio),
    ("join_failures", Unit::Number),
    ("viewers", Unit::Number),
    ("pps", Unit::Number),
    ("mbps", Unit::Number),
    ("cpu_ns", Unit::Number),
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// In milliseconds.
    Time,
    Ratio,
    Number,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Comparison {
    Below,
    AtMost,
    Above,
    AtLeast,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Threshold {
    text: String,
    metric: &'static str,
    comparison: Comparison,
    limit: f64,
}

pub fn parse(text: &str) -> Result<Threshold, String> {
    let names = || METRICS.map(|(name, _)| name).join(", ");
    let at = text.find(['<', '>']).ok_or_else(|| format!("{text:?} has no < or >: write 'ttff_p99<1s' or 'loss<0.1%'"))?;
    let (name, rest) = (text[..at].trim(), &text[at..]);
    let (comparison, value) = match (rest.strip_prefix("<="), rest.strip_prefix(">="), rest.strip_prefix('<')) {
        (Some(value), ..) => (Comparison::AtMost, value),
        (_, Some(value), _) => (Comparison::AtLeast, value),
        (.., Some(value)) => (Comparison::Below, value),
        _ => (Comparison::Above, rest.strip_prefix('>').unwrap_or_default()),
    };
    let (metric, unit) = METRICS.into_iter().find(|(known, _)| *known == name).ok_or_else(|| format!("{name:?} is not measured; there are {}", names()))?;
    let value = value.trim();
    let number = |digits: &str, scale: f64| digits.trim().parse::<f64>().ok().filter(|value| value.is_finite()).map(|value| value * scale);
    let limit = match unit {
        Unit::Time if value.ends_with("us") => number(&value[..value.len() - 2], 0.001),
        Unit::Time if value.ends_with("ms") => number(&value[..value.len() - 2], 1.0),
        Unit::Time if value.ends_with('s') => number(&value[..value.len() - 1], 1_000.0),
        // A bare number could be anything.
        Unit::Time => None,
        Unit::Ratio if value.ends_with('%') => number(&value[..value.len() - 1], 0.01),
        Unit::Ratio | Unit::Number => number(value, 1.0),
    };
    let limit = limit.ok_or_else(|| {
        let example = match unit {
            Unit::Time => "250ms or 1s",
            Unit::Ratio => "0.1% or 0.001",
            Unit::Number => "10",
        };
        format!("{value:?} is no limit for {metric}: write {example}")
    })?;
    Ok(Threshold { text: text.to_owned(), metric, comparison, limit })
}

impl Threshold {
    /// What was never measured is not met.
    pub fn judge(&self, summary: &Summary) -> Verdict {
        let measured = summary.metric(self.metric);
        let met = measured.is_some_and(|value| match self.comparison {
            Comparison::Below => value < self.limit,
            Comparison::AtMost => value <= self.limit,
            Comparison::Above => value > self.limit,
            Comparison::AtLeast => value >= self.limit,
        });
        Verdict { text: self.text.clone(), measured, met }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_with_their_units() {
        for (text, metric, comparison, limit) in [
            ("ttff_p99<1s", "ttff_p99", Comparison::Below, 1_000.0),
            ("ttff_p50 <= 250ms", "ttff_p50", Comparison::AtMost, 250.0),
            ("latency_p999<500us", "latency_p999", Comparison::Below, 0.5),
            ("loss<0.1%", "loss", Comparison::Below, 0.001),
            ("loss<=0.02", "loss", Comparison::AtMost, 0.02),
            ("viewers>=2000", "viewers", Comparison::AtLeast, 2_000.0),
            ("pps>300", "pps", Comparison::Above, 300.0),
        ] {
            let found = parse(text).unwrap();
            assert_eq!((found.metric, found.comparison), (metric, comparison));
            assert!((found.limit - limit).abs() < 1e-9, "{text}: {}", found.limit);
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_with_an_example() {
        for (text, word) in [("ttff_p99", "ttff_p99<1s"), ("speed<1", "loss_raw"), ("ttff_p99<1", "250ms"), ("loss<x%", "0.1%"), ("pps>=", "10")] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
