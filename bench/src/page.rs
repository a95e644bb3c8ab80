//! A result as one page: the verdict, the numbers that matter, plots, the whole text, with nothing to load. The whole value
//! stands in the page as JSON, too, for whoever wants the numbers. How a plot is drawn is `plot`'s.

use crate::find_max::{Found, Step};
use crate::plot::{Line, Plot, Scale, escaped};
use crate::summary::{Second, Summary};
use crate::text;
use serde::Serialize;
use std::fmt::Write;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #16202e; --dim: #5b6778; --paper: #f5f6f8; --card: #fff; --edge: #d9dee6; --one: #2563eb; --two: #d97706; --three: #dc2626; --good: #15803d; --bad: #b91c1c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaf0; --dim: #98a3b3; --paper: #0f141b; --card: #18202a; --edge: #2c3744; --one: #6ea8fe; --two: #fbbf24; --three: #f87171; --good: #4ade80; --bad: #f87171; } }
* { box-sizing: border-box; } body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; max-width: 1120px; padding: 1.5rem 1rem 3rem; }
h1 { font-size: 1.35rem; margin: 0 0 .6rem; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem; } h3 { font-size: .95rem; margin: 0; }
.verdict { font-weight: 600; padding: .7rem .9rem; border-left: 5px solid var(--good); background: var(--card); border-radius: 4px; margin: 0 0 1rem; } .verdict.bad { border-color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .7rem; margin-bottom: 1rem; }
.tile, figure, details { background: var(--card); border: 1px solid var(--edge); border-radius: 6px; } .tile { padding: .6rem .8rem; }
.tile b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; line-height: 1.3; } .tile span, .key, .none { color: var(--dim); font-size: .82rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr)); gap: .8rem; } figure { margin: 0; padding: .8rem; min-width: 0; }
svg { width: 100%; height: auto; display: block; } text { font: 12px system-ui, sans-serif; fill: var(--dim); } .grid { stroke: var(--edge); }
path { fill: none; stroke-width: 2; stroke-linejoin: round; } .a { stroke: var(--one); color: var(--one); } .b { stroke: var(--two); color: var(--two); } .c { stroke: var(--three); color: var(--three); }
circle { fill: currentColor; stroke: var(--card); } .key i { font-style: normal; margin-right: .7rem; }
table { border-collapse: collapse; background: var(--card); width: 100%; font-variant-numeric: tabular-nums; } td, th { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid var(--edge); } td:last-child, th:last-child { text-align: left; min-width: 15rem; }
.wide { overflow-x: auto; border: 1px solid var(--edge); border-radius: 6px; } .broke td { color: var(--bad); }
details { margin-top: 1rem; padding: .6rem .8rem; } summary { cursor: pointer; } pre { overflow-x: auto; font-size: 12.5px; margin: .5rem 0 0; }";

fn tile(out: &mut String, name: &str, value: &str, more: &str) {
    let _ = write!(out, "<div class=\"tile\"><span>{}</span><b>{}</b><span>{}</span></div>", escaped(name), escaped(value), escaped(more));
}

fn ms(value: Option<f64>) -> String {
    text::time(value)
}

fn tiles(summary: &Summary) -> String {
    let mut out = String::from("<div class=\"tiles\">");
    tile(&mut out, "viewers", &summary.viewers_joined.to_string(), &format!("of {}, in {} room(s)", summary.viewers_offered, summary.rooms));
    tile(&mut out, "delivered", &format!("{:.0} Mbit/s", summary.delivered_mbps), &format!("{:.1} packets/s each, {:.1} offered", summary.pps_per_viewer, summary.offered_pps_per_viewer));
    tile(&mut out, "lost", &format!("{:.3} %", summary.loss_ratio * 1e2), &format!("{:.3} % before recovery", summary.loss_raw_ratio * 1e2));
    tile(&mut out, "first frame", &ms(summary.ttff_ms.p50), &format!("p50; p99 {}", ms(summary.ttff_ms.p99)));
    tile(&mut out, "latency", &ms(summary.latency_us.p50.map(|us| us / 1e3)), &format!("p50; p99 {}", ms(summary.latency_us.p99.map(|us| us / 1e3))));
    if let Some(server) = &summary.server {
        tile(&mut out, "server's CPU", &format!("{:.0} ns", server.cpu_ns_per_packet), &format!("per packet; {:.0} % of a core", server.cpu_ratio * 1e2));
        tile(&mut out, "memory", &format!("{:.0} MB", server.memory_bytes as f64 / 1e6), &format!("{:.1} KB grown per viewer", server.rss_bytes_per_viewer / 1e3));
    }
    if let Some(price) = &summary.price {
        let (_, parts) = price.text.split_once(": ").unwrap_or_default();
        tile(&mut out, "1,000 viewer-hours", &format!("{:.2}", price.cost), parts);
    }
    out + "</div>"
}

/// The plots of one run.
fn plots(summary: &Summary) -> String {
    let count = summary.ttff_curve_ms.len().max(1) as f64;
    let curve: Vec<(f64, f64)> = summary.ttff_curve_ms.iter().enumerate().map(|(place, ms)| (*ms, (place + 1) as f64 * 100.0 / count)).collect();
    // From the bottom: nobody had a picture before the first one.
    let from_zero = curve.first().map(|(ms, _)| (*ms, 0.0)).into_iter();
    let curve = from_zero.chain(curve.iter().copied()).collect();
    let over_time = |value: fn(&Second) -> Option<f64>| -> Vec<(f64, f64)> {
        summary.timeline.iter().filter_map(|second| Some((second.at_s, value(second)?))).collect()
    };
    let all = |name, points| vec![Line { name, points }];
    [
        Plot::new("Time to the first frame", "ms since the join was due", "% of viewers", all("viewers", curve)),
        Plot::new("Latency, publisher's socket to viewer's", "seconds", "ms", vec![
            Line { name: "p50", points: over_time(|second| Some(second.latency_p50_us? / 1e3)) },
            Line { name: "p99", points: over_time(|second| Some(second.latency_p99_us? / 1e3)) },
            Line { name: "p99.9", points: over_time(|second| Some(second.latency_p999_us? / 1e3)) },
        ]).scale(Scale::Powers),
        Plot::new("The server's CPU per packet", "viewers", "ns", all("a second each, while they came and after", cost_by_viewers(summary))),
        Plot::new("Loss, before recovery", "seconds", "% of packets", all("all viewers", over_time(|second| {
            let lost = second.lost_packets as f64;
            Some(lost * 100.0 / (second.packets_per_s + lost).max(1.0))
        }))),
        Plot::new("Delivered", "seconds", "Mbit/s", all("all viewers", over_time(|second| Some(second.mbps)))),
        Plot::new("The server's CPU", "seconds", "% of a core", all("all its processes", over_time(|second| Some(second.server_cpu? * 100.0)))),
    ].iter().map(Plot::draw).collect()
}

/// Seconds in which so many viewers got packets at that price: those of the ramp, in which joins are part of it, and of the hold
/// the middle one, for there they are as many as ever.
fn cost_by_viewers(summary: &Summary) -> Vec<(f64, f64)> {
    let point = |second: &Second| (second.viewers > 0 && second.packets_per_s > 0.0).then_some((second.viewers as f64, second.server_cpu? * 1e9 / second.packets_per_s));
    let mut points: Vec<(f64, f64)> = summary.ramp.iter().filter_map(point).collect();
    let held: Vec<(f64, f64)> = summary.timeline.iter().filter_map(point).collect();
    if let Some((viewers, _)) = held.last() {
        points.retain(|(before, _)| before < viewers);
        points.push((*viewers, crate::median(held.iter().map(|point| point.1).collect())));
    }
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    points
}

fn page(title: &str, verdict: (&str, bool), body: &str, text: &str, value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default().replace("</", "<\\/");
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>spillway-bench: {title}</title><style>{STYLE}</style></head><body><h1>{title}</h1><p class=\"verdict{bad}\">{words}</p>{body}<details><summary>As on the terminal</summary><pre>{text}</pre></details><script type=\"application/json\" id=\"summary\">{json}</script></body></html>\n",
        title = escaped(title),
        bad = if verdict.1 { "" } else { " bad" },
        words = escaped(verdict.0),
        text = escaped(text),
    )
}

pub fn write(summary: &Summary) -> String {
    let scenario = summary.scenario.as_ref().map_or(String::new(), |name| format!(" ({name})"));
    let title = format!("{} viewers{scenario} on {}", summary.viewers_offered, summary.target);
    let good = !summary.generator.saturated && summary.join_failures == 0 && summary.thresholds.iter().all(|verdict| verdict.met);
    let body = format!("{}<div class=\"plots\">{}</div>", tiles(summary), plots(summary));
    page(&title, (&summary.verdict, good), &body, &text::write(summary), summary)
}

/// A search: the cost curve over its steps, then the largest run that held.
pub fn write_found(found: &Found) -> String {
    let curve = found.curve();
    let line = |name, value: fn(&Step) -> Option<f64>| {
        vec![Line { name, points: curve.iter().filter_map(|step| Some((step.viewers as f64, value(step)?))).collect() }]
    };
    let plots: String = [
        Plot::new("The server's CPU per packet", "viewers", "ns", line("a run each", |step| step.cpu_ns_per_packet)),
        Plot::new("The server's CPU", "viewers", "% of a core", line("a run each", |step| Some(step.server_cpu? * 100.0))),
        Plot::new("Latency", "viewers", "ms", line("p99", |step| Some(step.latency_p99_us? / 1e3))).scale(Scale::Powers),
        Plot::new("Loss", "viewers", "% of packets", line("after recovery", |step| Some(step.loss_ratio * 100.0))),
    ].iter().map(Plot::draw).collect();
    let mut rows = String::new();
    for step in &curve {
        let of = |value: Option<f64>, digits: usize| value.map_or("-".to_owned(), |value| format!("{value:.digits$}"));
        let _ = write!(
            rows,
            "<tr{}><td>{}<td>{:.0}<td>{}<td>{}<td>{}<td>{:.4}<td>{}</tr>",
            if step.held { "" } else { " class=\"broke\"" },
            step.viewers,
            step.delivered_mbps,
            of(step.cpu_ns_per_packet, 0),
            of(step.server_cpu.map(|cpu| cpu * 1e2), 0),
            ms(step.latency_p99_us.map(|us| us / 1e3)),
            step.loss_ratio * 1e2,
            escaped(&if step.held { "held".to_owned() } else { step.broke.iter().chain(&step.generator_reasons).cloned().collect::<Vec<_>>().join("; ") }),
        );
    }
    let mut body = format!(
        "<div class=\"wide\"><table><tr><th>viewers<th>Mbit/s<th>CPU, ns per packet<th>% of a core<th>latency p99<th>% lost<th></tr>{rows}</table></div><h2>The curve</h2><div class=\"plots\">{plots}</div>"
    );
    if let Some(largest) = &found.largest {
        let _ = write!(body, "<h2>The largest that held: {} viewers</h2>{}<div class=\"plots\">{}</div>", largest.viewers_offered, tiles(largest), self::plots(largest));
    }
    page(&format!("How many viewers {} carries", found.target), (&found.verdict, !found.generator_was_limit && found.viewers > 0), &body, &text::write_found(found), found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn second(at_s: f64, viewers: u64, packets_per_s: f64, cpu: f64) -> Second {
        Second { at_s, viewers, packets_per_s, server_cpu: Some(cpu), latency_p50_us: Some(300.0), latency_p99_us: Some(3_000.0), latency_p999_us: Some(9_000.0), lost_packets: 5, ..Second::default() }
    }

    fn run() -> Summary {
        Summary {
            target: "http://<here>".to_owned(),
            viewers_offered: 20,
            ramp: vec![second(1.0, 10, 3_000.0, 0.03), second(2.0, 20, 6_000.0, 0.9)],
            timeline: vec![second(1.0, 20, 6_000.0, 0.03), second(2.0, 20, 6_000.0, 0.042), second(3.0, 20, 6_000.0, 0.036)],
            ttff_curve_ms: vec![10.0, 20.0],
            verdict: "a </script> in words".to_owned(),
            ..Summary::default()
        }
    }

    #[test]
    fn a_run_has_its_four_plots_and_its_numbers_and_loads_nothing() {
        let page = write(&run());
        for title in ["Time to the first frame", "Latency, publisher", "CPU per packet", "Loss, before recovery"] {
            assert!(page.contains(title), "{title}");
        }
        assert_eq!(page.matches("<svg").count(), 6);
        assert_eq!(page.matches("</script>").count(), 1, "what is told never ends the JSON");
        let (seen, _) = page.split_once("<script").unwrap();
        assert!(seen.contains("&lt;here&gt;") && !seen.contains("<here>") && !page.contains("src=") && !page.contains("href="));
        let (_, json) = page.split_once("id=\"summary\">").unwrap();
        let (json, _) = json.split_once("</script>").unwrap();
        assert_eq!(serde_json::from_str::<serde_json::Value>(json).unwrap()["viewers_offered"], 20);
    }

    #[test]
    fn the_cost_is_by_viewers_and_the_hold_is_one_point() {
        let points: Vec<(f64, f64)> = cost_by_viewers(&run()).into_iter().map(|(viewers, ns)| (viewers, ns.round())).collect();
        assert_eq!(points, [(10.0, 10_000.0), (20.0, 6_000.0)]);
    }

    #[test]
    fn a_search_has_a_row_for_each_step_in_the_order_of_viewers_and_the_largest_run() {
        let step = |viewers: u64, held: bool| Step { viewers, held, broke: vec!["it broke".to_owned()], cpu_ns_per_packet: Some(3_000.0), ..Step::default() };
        let found = Found { steps: vec![step(100, true), step(300, false), step(200, true)], largest: Some(run()), ..Found::default() };
        let page = write_found(&found);
        let at = |text: &str| page.find(text).unwrap_or_else(|| panic!("{text}"));
        assert!(at("<td>100<") < at("<td>200<") && at("<td>200<") < at("<tr class=\"broke\"><td>300<") && page.contains("The largest that held: 20 viewers"));
        assert_eq!(page.matches("<svg").count(), 4 - 2 + 6, "of latency and the CPU's share nothing is known here");
    }
}
