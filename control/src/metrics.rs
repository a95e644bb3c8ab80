//! `/metrics`: what Prometheus asks for, as text. One table says every name, unit and meaning; README.md has the same
//! table, and a test compares them.
//!
//! Few series, whatever the node does: counters of the engine are sums over its shards, nothing has a room's or a
//! viewer's name in it.

use spillway_proto::link::counters::{CounterId, CounterKind};
use spillway_proto::link::quality::{Counted, HistogramId};
use std::fmt::Write;

/// What a family of series is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Counter,
    Gauge,
}

impl Kind {
    fn name(self) -> &'static str {
        if self == Kind::Counter { "counter" } else { "gauge" }
    }
}

/// A family of control's own.
#[derive(Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    /// Its label, if it has one.
    pub label: &'static str,
    pub help: &'static str,
}

const fn gauge(name: &'static str, label: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, label, help }
}

const fn counter(name: &'static str, label: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, label, help }
}

/// Control's own, in the order in which they are written.
pub const FAMILIES: [Family; 27] = [
    gauge("spillway_build_info", "version", "1, with the version of this node"),
    gauge("spillway_engine_up", "", "1 while there is an engine whose state control knows"),
    gauge("spillway_streams", "", "Streams that are live now"),
    gauge("spillway_publishers", "", "Publishers now, joining ones included"),
    gauge("spillway_viewers", "", "Viewers now, joining ones included"),
    counter("spillway_publish_joins_total", "result", "Publishers that came: admitted, or the code of the refusal"),
    counter("spillway_view_joins_total", "result", "Viewers that came: admitted, or the code of the refusal"),
    counter("spillway_requests_limited_total", "by", "Requests refused because one address or one token sent too many"),
    counter("spillway_webhook_deliveries_total", "result", "Attempts delivered and failed; events given up (dead) and not queued (dropped)"),
    gauge("spillway_webhook_queue_depth", "", "Events that wait to be taken by webhooks"),
    gauge("spillway_recordings", "", "Recordings that run now, those that wait for their publisher included"),
    counter("spillway_recording_bytes_total", "", "Bytes that recorders wrote"),
    counter("spillway_recording_gaps_total", "", "Times without media that were marked in recordings"),
    counter("spillway_recording_failures_total", "", "Times that something kept a recording from being written"),
    gauge("spillway_limit", "name", "Limits of admission in force that are not 0"),
    gauge("spillway_capacity_used_ratio", "", "The fullest of the node's limits and tables, 0 to 1"),
    gauge("spillway_egress_bytes_per_second", "", "Bytes that went out over the last second"),
    gauge("spillway_ingress_bytes_per_second", "", "Bytes of media that all publishers sent over the last second"),
    counter("spillway_shard_busy_seconds_total", "shard", "Time a shard was not asleep"),
    gauge("spillway_shard_busy_ratio", "shard", "How busy a shard is, smoothed and without handshakes, 0 to 1"),
    gauge("spillway_shard_sessions", "shard", "Publishers and viewers of a shard now"),
    gauge("spillway_uptime_seconds", "", "Since control was started"),
    gauge("process_resident_memory_bytes", "", "Memory of this node's processes"),
    counter("process_cpu_seconds_total", "", "CPU time of this node's processes"),
    gauge("process_start_time_seconds", "", "When control was started, Unix seconds"),
    gauge("media_server_active_streams", "", "The same as spillway_streams, under a name of other systems"),
    gauge("media_server_streaming_method", "method", "1, with how media is forwarded; a name of other systems"),
];

/// A value of a family, with its label's value.
#[derive(Clone, PartialEq, Debug)]
pub struct Sample {
    pub family: &'static str,
    pub label: String,
    pub value: f64,
}

/// A counter of the engine as a family: its name, its kind, and what its values are multiplied with.
pub fn of_engine(id: CounterId) -> (String, Kind, f64) {
    let seconds = id.unit() == "ns";
    // Base units: `busy_ns` is busy_seconds.
    let name = if seconds { id.name().replace("_ns", "_seconds") } else { id.name().to_owned() };
    let factor = if seconds { 1e-9 } else { 1.0 };
    match id.kind() {
        CounterKind::Counter => (format!("spillway_engine_{name}_total"), Kind::Counter, factor),
        CounterKind::Gauge => (format!("spillway_engine_{name}"), Kind::Gauge, factor),
    }
}

/// The text format of Prometheus, version 0.0.4.
pub fn text(samples: &[Sample], histogram: impl Fn(HistogramId) -> Counted, engine: impl Fn(CounterId) -> u64) -> String {
    let mut out = String::with_capacity(16 * 1_024);
    for family in &FAMILIES {
        let mut of_family = samples.iter().filter(|sample| sample.family == family.name).peekable();
        if of_family.peek().is_none() {
            continue;
        }
        head(&mut out, family.name, family.kind.name(), family.help);
        for sample in of_family {
            // Writing to a String cannot fail.
            let _ = match family.label {
                "" => writeln!(out, "{} {}", family.name, sample.value),
                label => writeln!(out, "{}{{{label}=\"{}\"}} {}", family.name, escaped(&sample.label), sample.value),
            };
        }
    }
    for id in HistogramId::ALL {
        let (name, counted) = (format!("spillway_{}", id.name()), histogram(id));
        head(&mut out, &name, "histogram", id.label());
        let mut count = 0u64;
        let bounds = id.bounds_us().iter().map(|bound| (*bound as f64 / 1e6).to_string()).chain(["+Inf".to_owned()]);
        for (bound, of_bucket) in bounds.zip(counted.counts) {
            count = count.saturating_add(of_bucket);
            let _ = writeln!(out, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(out, "{name}_sum {}\n{name}_count {count}", counted.sum_us as f64 / 1e6);
    }
    for id in CounterId::ALL {
        let (name, kind, factor) = of_engine(*id);
        head(&mut out, &name, kind.name(), id.label());
        let _ = writeln!(out, "{name} {}", engine(*id) as f64 * factor);
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn escaped(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The rows of README.md's table.
#[cfg(test)]
pub fn table() -> Vec<String> {
    let own = FAMILIES.iter().map(|family| {
        let label = if family.label.is_empty() { String::new() } else { format!("{{{}}}", family.label) };
        format!("| `{}{label}` | {} | {} |", family.name, family.kind.name(), family.help)
    });
    let engine = CounterId::ALL.iter().map(|id| {
        let (name, of, _) = of_engine(*id);
        format!("| `{name}` | {} | {} |", of.name(), id.label())
    });
    let histograms = HistogramId::ALL.iter().map(|id| format!("| `spillway_{}` | histogram | {} |", id.name(), id.label()));
    own.chain(histograms).chain(engine).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_promtool_wants() {
        let all = FAMILIES.iter().map(|family| (family.name.to_owned(), family.kind));
        let all: Vec<(String, Kind)> = all.chain(CounterId::ALL.iter().map(|id| of_engine(*id)).map(|(n, k, _)| (n, k))).collect();
        let mut names: Vec<&String> = all.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all.len());
        for (name, kind) in &all {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            let abbreviations = ["ms", "us", "ns", "sec", "kb", "mb", "bits", "milliseconds", "gauge", "counter"];
            assert!(name.split('_').all(|word| !abbreviations.contains(&word)), "{name}");
            assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{name}");
        }
    }

    #[test]
    fn the_text_is_one_block_per_family_and_labels_are_escaped() {
        let sample = |family, label: &str, value| Sample { family, label: label.to_owned(), value };
        let samples = [
            sample("spillway_view_joins_total", "room_full", 2.0),
            sample("spillway_build_info", "a\"b\\c\n", 1.0),
            sample("spillway_view_joins_total", "admitted", 3.0),
        ];
        let histogram = |id| if id == HistogramId::Join { Counted { counts: [2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4], sum_us: 1_500_000 } } else { Counted::default() };
        let text = text(&samples, histogram, |id| if id == CounterId::BusyNs { 1_500_000_000 } else { id as u64 });
        assert!(text.contains("spillway_build_info{version=\"a\\\"b\\\\c\\n\"} 1\n"));
        assert!(text.contains("# TYPE spillway_view_joins_total counter\nspillway_view_joins_total{result=\"room_full\"} 2\nspillway_view_joins_total{result=\"admitted\"} 3\n"));
        assert!(text.contains("spillway_engine_busy_seconds_total 1.5\n"), "{text}");
        assert!(!text.contains("spillway_limit"), "a family without a value is not named");
        let helps = text.lines().filter(|line| line.starts_with("# HELP ")).count();
        assert_eq!(helps, 2 + CounterId::ALL.len() + HistogramId::ALL.len());
        for line in ["_bucket{le=\"0.01\"} 2", "_bucket{le=\"0.1\"} 3", "_bucket{le=\"16\"} 3", "_bucket{le=\"+Inf\"} 7", "_sum 1.5", "_count 7"] {
            assert!(text.contains(&format!("\nspillway_viewer_join_seconds{line}\n")), "{line}\n{text}");
        }
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn readme_has_the_table() {
        let readme = include_str!("../README.md");
        let missing: Vec<String> = table().into_iter().filter(|row| !readme.lines().any(|line| line == row)).collect();
        assert!(missing.is_empty(), "README.md lacks:\n{}", missing.join("\n"));
        let named = readme.lines().filter(|line| line.starts_with("| `spillway_") || line.starts_with("| `process_") || line.starts_with("| `media_server_"));
        assert_eq!(named.count(), table().len(), "README.md has rows that are no metric any more");
    }
}
