//! What each promise is read from: the JSON of its section's runs. A run in which the generator was the limit measures
//! nothing, and a run that was not carried measures only what is about that.

use serde_json::Value;

/// The runs of a section, in the order of its commands.
pub type Runs<'r> = &'r [Value];

/// A run that loses more, or delivers less of what was offered, was not carried.
const LOSS_MAX: f64 = 0.0001;
const DELIVERED_MIN: f64 = 0.97;
/// Of a null NIC packets are counted from outside: a keyframe more or less in the hold is no loss.
const NULL_LOSS_MAX: f64 = 0.03;

pub struct Measure {
    pub id: &'static str,
    pub unit: &'static str,
    /// It means nothing unless everything offered was delivered (joins, packets; loss below 0.01 %).
    pub needs_all: bool,
    pub value: fn(Runs<'_>) -> Result<f64, String>,
}

const fn row(id: &'static str, unit: &'static str, value: fn(Runs<'_>) -> Result<f64, String>) -> Measure {
    Measure { id, unit, needs_all: true, value }
}

/// One that is about what was not delivered.
const fn failures(id: &'static str, unit: &'static str, value: fn(Runs<'_>) -> Result<f64, String>) -> Measure {
    Measure { id, unit, needs_all: false, value }
}

pub const MEASURES: &[Measure] = &[
    row("cost-veth", "ns", |runs| at_busy(runs, LOSS_MAX, "/cpu_ns_per_packet")),
    row("cost-veth-bare", "%", |runs| Ok(beyond(at_busy(runs, LOSS_MAX, "/cpu_ns_per_packet")?, at_busy(runs, LOSS_MAX, "/bare_ns_per_packet")?))),
    row("viewers-core", "viewers", viewers),
    row("cost-null", "ns", |runs| at_busy(runs, NULL_LOSS_MAX, "/cpu_ns_per_packet")),
    row("cost-null-bare", "%", |runs| Ok(beyond(at_busy(runs, NULL_LOSS_MAX, "/cpu_ns_per_packet")?, at_busy(runs, NULL_LOSS_MAX, "/bare_ns_per_packet")?))),
    row("viewers-null", "viewers", viewers),
    row("user-beyond-seal", "ns", |runs| Ok(number(runs, 0, "/server/engine_user_ns_per_packet")? - number(runs, 0, "/server/seal_ns_per_packet")?)),
    row("sends-500", "sends/packet", |runs| number(runs, 0, "/server/sends_per_packet")),
    row("latency-busy-frames", "ms", |runs| Ok(at_busy(runs, LOSS_MAX, "/latency_frame_us/p99")? / 1e3)),
    row("latency-busy-keyframes", "ms", |runs| Ok(at_busy(runs, LOSS_MAX, "/latency_keyframe_us/p99")? / 1e3)),
    row("latency-busy-spread", "%", |runs| Ok(at_busy(runs, LOSS_MAX, "/latency_spread_ratio")? * 1e2)),
    row("latency-100-p50", "us", |runs| number(runs, 0, "/latency_us/p50")),
    row("latency-100-p99", "us", |runs| number(runs, 0, "/latency_us/p99")),
    row("latency-100-p999", "us", |runs| number(runs, 0, "/latency_us/p999")),
    row("latency-burst-p50", "us", |runs| number(runs, 0, "/latency_us/p50")),
    row("latency-burst-bare", "%", |runs| Ok(beyond(number(runs, 0, "/latency_video_us/p50")?, number(runs, 0, "/server/bare_latency_us")?))),
    row("first-frame-p50", "ms", |runs| number(runs, 0, "/ttff_ms/p50")),
    row("first-frame-p99", "ms", |runs| number(runs, 0, "/ttff_ms/p99")),
    row("first-frame-connected", "ms", |runs| number(runs, 0, "/join_ms/first_frame/p99")),
    row("live-deaf-p50", "ms", |runs| number(runs, 0, "/join_ms/live/p50")),
    row("live-deaf-p99", "ms", |runs| number(runs, 0, "/join_ms/live/p99")),
    failures("live-deaf-wide-p50", "ms", |runs| number(runs, 0, "/join_ms/live/p50")),
    failures("live-deaf-wide-p99", "ms", |runs| number(runs, 0, "/join_ms/live/p99")),
    row("live-obedient", "ms", |runs| number(runs, 0, "/join_ms/live/p99")),
    failures("live-narrow", "ms", |runs| number(runs, 0, "/join_ms/live/p99")),
    row("rooms-100x30", "%", |runs| share(runs, "/server/cpu_ns_per_packet")),
    row("rooms-1000x3", "%", |runs| share(runs, "/server/cpu_ns_per_packet")),
    row("audio-core", "packets/s", |runs| Ok(1e9 / number(runs, 0, "/server/cpu_ns_per_packet")?)),
    row("audio-core-bare", "%", |runs| Ok(beyond(number(runs, 0, "/server/cpu_ns_per_packet")?, number(runs, 0, "/server/bare_ns_per_packet")?))),
    row("audio-null", "packets/s", |runs| Ok(1e9 / number(runs, 0, "/server/cpu_ns_per_packet")?)),
    row("audio-null-bare", "%", |runs| Ok(beyond(number(runs, 0, "/server/cpu_ns_per_packet")?, number(runs, 0, "/server/bare_ns_per_packet")?))),
    failures("joins-2000", "failures", |runs| number(runs, 0, "/join_failures")),
    failures("burst-p99", "%", |runs| burst_p99(runs)),
    failures("burst-took", "s", |runs| number(runs, 0, "/burst/took_s")),
    failures("burst-failures", "failures", |runs| Ok(number(runs, 0, "/burst/viewers")? - number(runs, 0, "/burst/joined")?)),
    row("shards-room", "%", |runs| share(runs, "/server/cpu_ns_per_packet")),
    row("shards-rooms", "%", |runs| share(runs, "/server/cpu_ns_per_packet")),
    row("cost-50000", "x", |runs| number(runs, 0, "/cost_ratio")),
    row("join-cpu", "us", join_cpu),
    row("memory-viewer", "KB", |runs| Ok(slope(runs, "/viewers_joined", "/server/memory_bytes")? / 1e3)),
    row("tap-engine", "%", |runs| Ok((engine_ns(runs, 0)? / engine_ns(runs, 1)? - 1.0) * 1e2)),
    row("tap-p99", "%", |runs| Ok((number(runs, 0, "/latency_us/p99")? / number(runs, 1, "/latency_us/p99")? - 1.0) * 1e2)),
    failures("control-killed", "packets", |runs| Ok((number(runs, 0, "/loss_raw_ratio")? * number(runs, 0, "/delivered_packets")?).ceil())),
];

pub fn find(id: &str) -> Option<&'static Measure> {
    MEASURES.iter().find(|measure| measure.id == id)
}

fn number(runs: Runs<'_>, run: usize, pointer: &str) -> Result<f64, String> {
    let value = runs.get(run).and_then(|run| run.pointer(pointer)).and_then(Value::as_f64);
    value.ok_or_else(|| format!("the run measured no {}", pointer.trim_start_matches('/')))
}

/// What a search found, unless the generator gave up first.
fn viewers(runs: Runs<'_>) -> Result<f64, String> {
    if runs[0]["generator_was_limit"] == true { Err(limit(runs)) } else { number(runs, 0, "/viewers") }
}

fn limit(runs: Runs<'_>) -> String {
    let last = runs[0]["steps"].as_array().and_then(|steps| steps.iter().rev().find(|step| step["generator_saturated"] == true));
    let reasons: Vec<&str> = last.and_then(|step| step["generator_reasons"].as_array()).into_iter().flatten().filter_map(Value::as_str).collect();
    format!("the generator was the limit: {}", reasons.join("; "))
}

/// The step of a search that kept the server 70 % busy, if it did.
fn at_busy(runs: Runs<'_>, loss_max: f64, pointer: &str) -> Result<f64, String> {
    let busy = number(runs, 0, "/at_busy/server_cpu").map_err(|_| "no step held, so that there was none at 70 % of a core".to_owned())?;
    let step = &runs[0]["at_busy"];
    if step["generator_saturated"] == true {
        return Err(format!("the generator was the limit at {:.0} % of the server's core: {}", busy * 1e2, step["generator_reasons"]));
    }
    // A join that failed makes the packets of the others neither cheaper nor dearer: it counts in `viewers-core`.
    let (loss, delivered) = (number(runs, 0, "/at_busy/loss_ratio")?, number(runs, 0, "/at_busy/delivered_ratio")?);
    if loss > loss_max || delivered < DELIVERED_MIN {
        return Err(format!("the step at {:.0} % of a core was not carried: {}", busy * 1e2, step["broke"]));
    }
    if !(0.6..=0.8).contains(&busy) {
        return Err(format!("the step meant for 70 % of a core used {:.0} %", busy * 1e2));
    }
    number(runs, 0, &format!("/at_busy{pointer}"))
}

/// What the first run reaches of the second's figure, for a cost that shall be low.
fn share(runs: Runs<'_>, pointer: &str) -> Result<f64, String> {
    Ok(number(runs, 1, pointer)? / number(runs, 0, pointer)?.max(f64::MIN_POSITIVE) * 1e2)
}

/// By how many percent one is more than the other.
fn beyond(this: f64, that: f64) -> f64 {
    (this / that.max(f64::MIN_POSITIVE) - 1.0) * 1e2
}

/// By how much the p99 of those who were there was longer while many came.
fn burst_p99(runs: Runs<'_>) -> Result<f64, String> {
    let of = |when: &str| number(runs, 0, &format!("/burst/latency_{when}_us/p99"));
    Ok(beyond(of("during")?, of("before")?))
}

/// CPU of a crowd that comes and goes, less what its packets cost one that stays, by joins.
fn join_cpu(runs: Runs<'_>) -> Result<f64, String> {
    let cpu = |run: usize| Ok::<f64, String>(number(runs, run, "/server/cpu_ratio")? * number(runs, run, "/duration_s")?);
    let joins = number(runs, 0, "/viewers_offered")? - number(runs, 1, "/viewers_offered")?;
    if joins < 1.0 {
        return Err("nobody came while it was measured".to_owned());
    }
    let per_packet = cpu(1)? / number(runs, 1, "/delivered_packets")?.max(1.0);
    Ok((cpu(0)? - per_packet * number(runs, 0, "/delivered_packets")?) * 1e6 / joins)
}

/// What the engine alone used for a packet.
fn engine_ns(runs: Runs<'_>, run: usize) -> Result<f64, String> {
    let processes = runs.get(run).and_then(|run| run.pointer("/server/processes")).and_then(Value::as_array);
    let is_engine = |process: &&Value| process["name"].as_str().is_some_and(|name| name.ends_with(" engine"));
    let engine = processes.into_iter().flatten().find(is_engine).and_then(|process| process["cpu_s"].as_f64());
    Ok(engine.ok_or("the run measured no engine")? * 1e9 / number(runs, run, "/delivered_packets")?.max(1.0))
}

fn slope(runs: Runs<'_>, x: &str, y: &str) -> Result<f64, String> {
    let points: Vec<(f64, f64)> = (0..runs.len()).map(|run| Ok((number(runs, run, x)?, number(runs, run, y)?))).collect::<Result<_, String>>()?;
    let (slope, _) = crate::summary::slope(points.into_iter()).ok_or("a slope needs three runs")?;
    Ok(slope)
}

/// Why a run does not count for a promise; nothing: it does.
pub fn objection(run: &Value, needs_all: bool) -> Option<String> {
    // A search's steps have been judged one by one.
    // Arithmetic cannot fail to be carried.
    if run.get("steps").is_some() || run.get("assumed").is_some() {
        return None;
    }
    let reasons = |pointer: &str| -> Vec<&str> { run.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect() };
    if run["generator"]["saturated"] == true {
        return Some(format!("the generator was the limit: {}", reasons("/generator/reasons").join("; ")));
    }
    if !needs_all {
        return None;
    }
    let of = |pointer: &str| run.pointer(pointer).and_then(Value::as_f64).unwrap_or_default();
    if of("/join_failures") > 0.0 {
        let reason = run["failures"].as_object().and_then(|failures| failures.keys().next()).map_or("", String::as_str);
        return Some(format!("{} joins failed ({reason})", of("/join_failures")));
    }
    if of("/loss_ratio") > LOSS_MAX {
        return Some(format!("{:.3} % were lost", of("/loss_ratio") * 1e2));
    }
    if of("/publisher/lost_sessions") > 0.0 {
        return Some(format!("{} publishers were lost", of("/publisher/lost_sessions")));
    }
    let (got, offered) = (of("/pps_per_viewer"), of("/offered_pps_per_viewer"));
    (got < offered * DELIVERED_MIN).then(|| format!("{got:.1} of {offered:.1} packets/s were delivered"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(id: &str, runs: &[Value]) -> Result<f64, String> {
        (find(id).unwrap().value)(runs)
    }

    #[test]
    fn values_are_read_in_the_units_of_their_rows() {
        let at_busy = json!({"held": true, "server_cpu": 0.71, "cpu_ns_per_packet": 4_000.0, "bare_ns_per_packet": 5_000.0, "latency_frame_us": {"p99": 40_000.0}, "latency_spread_ratio": 0.2,
            "generator_saturated": false, "loss_ratio": 0.0, "delivered_ratio": 1.0});
        let search = [json!({"steps": [], "viewers": 684, "generator_was_limit": false, "at_busy": at_busy})];
        assert_eq!((value("cost-veth", &search), value("cost-veth-bare", &search).map(f64::round)), (Ok(4_000.0), Ok(-20.0)));
        assert_eq!((value("latency-busy-frames", &search), value("latency-busy-spread", &search)), (Ok(40.0), Ok(20.0)));
        assert_eq!(value("viewers-core", &search), Ok(684.0));
        let rooms = [4_000.0, 3_000.0].map(|ns| json!({"server": {"cpu_ns_per_packet": ns}}));
        assert_eq!(value("rooms-100x30", &rooms), Ok(75.0), "a packet costs 4,000 ns in rooms and 3,000 in one");
        assert_eq!(value("audio-core", &rooms), Ok(250_000.0));
        assert_eq!(value("audio-null", &rooms[1..]).map(f64::floor), Ok(333_333.0));
        let beside = [json!({"server": {"cpu_ns_per_packet": 3_000.0, "bare_ns_per_packet": 4_000.0}})];
        assert_eq!(value("audio-null-bare", &beside), Ok(-25.0));
        let burst = [json!({"latency_us": {"p50": 700.0}, "latency_video_us": {"p50": 800.0}, "server": {"cpu_ns_per_packet": 3_000.0, "bare_ns_per_packet": 2_000.0, "bare_latency_us": 640.0}})];
        assert_eq!((value("audio-core-bare", &burst), value("latency-burst-bare", &burst)), (Ok(50.0), Ok(25.0)));
        let memory = [100, 500, 1_000].map(|viewers| json!({"viewers_joined": viewers, "server": {"memory_bytes": 50_000_000 + viewers * 24_000}}));
        assert!((value("memory-viewer", &memory).unwrap() - 24.0).abs() < 1e-6);
        let crowd = |offered: u64, packets: u64, cpu_ratio: f64| json!({"viewers_offered": offered, "delivered_packets": packets, "duration_s": 10.0, "server": {"cpu_ratio": cpu_ratio}});
        // 200 joins; 90,000 of the packets at the 10 us they cost those who stay are 0.9 s of 1.0.
        assert!((value("join-cpu", &[crowd(300, 90_000, 0.1), crowd(100, 100_000, 0.1)]).unwrap() - 500.0).abs() < 1e-6);
        assert!(value("join-cpu", &[crowd(100, 1, 0.1), crowd(100, 1, 0.1)]).is_err());
        let taps = [3.09, 3.0].map(|cpu| json!({"delivered_packets": 1_000, "latency_us": {"p99": cpu}, "server": {"processes": [
            {"name": "spillway control", "cpu_s": 9.0}, {"name": "spillway engine", "cpu_s": cpu}]}}));
        assert!((value("tap-engine", &taps).unwrap() - 3.0).abs() < 1e-6 && (value("tap-p99", &taps).unwrap() - 3.0).abs() < 1e-6);
        assert!(value("tap-engine", &rooms).is_err());
        let killed = [json!({"loss_raw_ratio": 1e-6, "delivered_packets": 300_000})];
        assert_eq!(value("control-killed", &killed), Ok(1.0), "a part of a packet is a packet");
        let burst = [json!({"burst": {"viewers": 2_000, "joined": 1_990, "took_s": 4.5, "latency_before_us": {"p99": 2_000.0}, "latency_during_us": {"p99": 2_500.0}}})];
        assert!((value("burst-p99", &burst).unwrap() - 25.0).abs() < 1e-6);
        assert_eq!((value("burst-took", &burst), value("burst-failures", &burst)), (Ok(4.5), Ok(10.0)));
        assert!(value("burst-p99", &[json!({"burst": null})]).is_err(), "a run without a burst");
        assert_eq!(value("shards-room", &rooms), Ok(75.0), "two shards at 4,000 ns a packet where one has 3,000");
        assert_eq!(value("cost-50000", &[json!({"cost_ratio": 1.04})]), Ok(1.04));
        assert!(value("first-frame-p50", &[json!({"ttff_ms": {"p50": null}})]).unwrap_err().contains("ttff_ms/p50"));
    }

    #[test]
    fn a_step_that_was_not_busy_enough_or_not_carried_is_no_figure() {
        for (saturated, busy, loss, delivered, words) in [
            (false, 0.5, 0.0, 1.0, "used 50 %"),
            (false, 0.7, 0.001, 1.0, "was not carried"),
            (false, 0.7, 0.0, 0.9, "was not carried"),
            (true, 0.7, 0.0, 1.0, "generator was the limit"),
        ] {
            let step = json!({"server_cpu": busy, "cpu_ns_per_packet": 1.0, "loss_ratio": loss, "delivered_ratio": delivered, "generator_saturated": saturated});
            assert!(value("cost-veth", &[json!({"steps": [], "at_busy": step})]).unwrap_err().contains(words));
        }
        assert!(value("cost-veth", &[json!({"steps": [], "at_busy": null})]).unwrap_err().contains("no step held"));
        let ours = json!({"steps": [{"generator_saturated": true, "generator_reasons": ["busy"]}], "viewers": 9, "generator_was_limit": true});
        assert!(value("viewers-core", &[ours]).unwrap_err().contains("generator was the limit: busy"));
    }

    #[test]
    fn a_run_that_was_not_carried_counts_only_where_that_is_the_point() {
        let run = |saturated: bool, failed: u64, loss: f64, pps: f64| {
            json!({"generator": {"saturated": saturated, "reasons": ["late"]}, "join_failures": failed, "failures": {"no way": failed},
                "loss_ratio": loss, "pps_per_viewer": pps, "offered_pps_per_viewer": 310.0, "publisher": {"lost_sessions": 0}})
        };
        assert_eq!(objection(&run(false, 0, 0.0001, 310.0), true), None);
        for (bad, words) in [(run(false, 2, 0.0, 310.0), "2 joins failed (no way)"), (run(false, 0, 0.002, 310.0), "0.200 %"), (run(false, 0, 0.0, 290.0), "290.0 of 310.0")] {
            assert!(objection(&bad, true).unwrap().contains(words));
            assert_eq!(objection(&bad, false), None);
        }
        assert!(objection(&run(true, 0, 0.0, 310.0), false).unwrap().contains("generator was the limit: late"));
    }
}
