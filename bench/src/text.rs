//! A summary on a terminal.

use crate::find_max::{self, Found};
use crate::summary::{Latencies, Percentiles, Summary};
use std::fmt::Write;

pub fn time(milliseconds: Option<f64>) -> String {
    match milliseconds {
        None => "-".into(),
        Some(value) if value < 1.0 => format!("{:.0} us", value * 1e3),
        Some(value) if value < 100.0 => format!("{value:.1} ms"),
        Some(value) if value < 10_000.0 => format!("{value:.0} ms"),
        Some(value) => format!("{:.1} s", value / 1e3),
    }
}

fn three(values: &Percentiles) -> String {
    format!("p50 {}   p95 {}   p99 {}", time(values.p50), time(values.p95), time(values.p99))
}

fn delays(values: &Latencies) -> String {
    let of = |value: Option<f64>| time(value.map(|us| us / 1e3));
    format!("p50 {}   p99 {}   p99.9 {}   ({} packets)", of(values.p50), of(values.p99), of(values.p999), values.samples)
}

/// What a search came to: the curve, the price, and the number with its reason last.
pub fn write_found(found: &Found) -> String {
    let mut out: String = found.curve().into_iter().map(|step| find_max::line(step) + "\n").collect();
    if let Some(step) = &found.at_busy {
        let _ = writeln!(out, "  at {:.0} % of a core: {} viewers, {:.0} ns of CPU per packet", step.server_cpu.unwrap_or_default() * 1e2, step.viewers, step.cpu_ns_per_packet.unwrap_or_default());
    }
    if let Some(price) = &found.price {
        let _ = writeln!(out, "{}", price.text);
    }
    let _ = writeln!(out, "{}", found.verdict);
    out
}

pub fn write(summary: &Summary) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: String| {
        let _ = writeln!(out, "  {name:<12} {text}");
    };
    let scenario = summary.scenario.as_ref().map_or(String::new(), |name| format!(" (scenario {name})"));
    line("viewers", format!("{} of {} in {} room(s), {} of them witnesses{scenario}", summary.viewers_joined, summary.viewers_offered, summary.rooms, summary.witnesses));
    for (reason, count) in &summary.failures {
        line("", format!("{count} failed: {reason}"));
    }
    line("delivered", format!("{} packets in {:.1} s: {:.1} Mbit/s, {:.1} packets/s per viewer ({:.1} offered)", summary.delivered_packets, summary.duration_s, summary.delivered_mbps, summary.pps_per_viewer, summary.offered_pps_per_viewer));
    line("loss", format!("{:.4} %, before recovery {:.4} %; {:.4} % twice", summary.loss_ratio * 1e2, summary.loss_raw_ratio * 1e2, summary.duplicate_ratio * 1e2));
    line("first frame", three(&summary.ttff_ms));
    line("  http", three(&summary.join_ms.http));
    line("  ice", three(&summary.join_ms.ice));
    line("  dtls", three(&summary.join_ms.dtls));
    line("  packet", three(&summary.join_ms.first_packet));
    line("live", format!("{}   (after connecting; witnesses)", three(&summary.join_ms.live)));
    line("latency", delays(&summary.latency_us));
    line("  audio", delays(&summary.latency_audio_us));
    line("  frames", delays(&summary.latency_frame_us));
    line("  keyframes", delays(&summary.latency_keyframe_us));
    line("crypto", summary.srtp_profile.clone().unwrap_or_else(|| "-".into()));
    if let Some(server) = &summary.server {
        line("server", format!("{:.0} ns CPU per packet, {:.1} % of a core, {:.1} KB per viewer", server.cpu_ns_per_packet, server.cpu_ratio * 1e2, server.rss_bytes_per_viewer / 1e3));
        for usage in &server.processes {
            line("", format!("{} {}: {:.2} s user, {:.2} s system, {:.1} MB", usage.pid, usage.name, usage.user_s, usage.system_s, usage.rss_bytes as f64 / 1e6));
        }
    }
    if let Some(server) = summary.server.as_ref().filter(|_| summary.duration_s >= 60.0) {
        for slope in server.slopes.iter().chain(&summary.generator.slope) {
            line("", format!("{} {}: memory {:+.2} +- {:.2} MB/h, open files {:+.1} +- {:.1} /h", slope.pid, slope.name, slope.rss_bytes_per_hour / 1e6, slope.rss_error / 1e6, slope.files_per_hour, slope.files_error));
        }
    }
    let generator = &summary.generator;
    line("generator", format!("{:.1} % of a core, {:.1} % waiting for one ({} thread(s) of viewers, cores {:.0} % idle), timers {:.1} ms late (p99), {} datagrams dropped unread", generator.cpu_ratio * 1e2, generator.waited_ratio * 1e2, generator.threads, generator.cores_idle_ratio * 1e2, generator.lag_ms_p99, generator.socket_drops));
    line("publisher", format!("{} packets, {} again, asked {} times for a keyframe, {:.1} ms late (p99; {:.1} at most)", summary.publisher.packets, summary.publisher.resent, summary.publisher.keyframes_asked, summary.publisher.lag_ms_p99, summary.publisher.lag_ms_max));
    if summary.publisher.lost_sessions > 0 {
        line("", format!("{} publisher(s) were lost on the way: the server ended them, or stopped answering", summary.publisher.lost_sessions));
    }
    if let Some(burst) = &summary.burst {
        let of = |value: Option<f64>| time(value.map(|us| us / 1e3));
        line("burst", format!("{} of {} more, due in {:.1} s, had a picture after {:.1} s; first frame {}", burst.joined, burst.viewers, burst.due_s, burst.took_s, three(&burst.ttff_ms)));
        for (reason, count) in &burst.failures {
            line("", format!("{count} of them failed: {reason}"));
        }
        let (before, during) = (&burst.latency_before_us, &burst.latency_during_us);
        line("  felt as", format!("p50 {} before, {} meanwhile; p99 {} before, {} meanwhile ({} and {} packets)", of(before.p50), of(during.p50), of(before.p99), of(during.p99), before.samples, during.samples));
    }
    for verdict in &summary.thresholds {
        let measured = verdict.measured.map_or("not measured".into(), |value| format!("{value:.4}"));
        line(if verdict.met { "met" } else { "NOT MET" }, format!("{} (measured {measured})", verdict.text));
    }
    if let Some(price) = &summary.price {
        let _ = writeln!(out, "{}", price.text);
    }
    let _ = writeln!(out, "{}", summary.verdict);
    out
}
