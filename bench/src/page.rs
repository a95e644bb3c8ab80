//! A summary as one page: text, numbers and plots, with nothing to load. Plots are SVG, written here; the whole summary
//! stands in the page as JSON, too, for whoever wants the numbers.

use crate::find_max::{Found, Step};
use crate::summary::Summary;
use crate::text;
use serde::Serialize;
use std::fmt::Write;

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 220.0;
const LEFT: f64 = 64.0;
const BOTTOM: f64 = 28.0;
const TOP: f64 = 12.0;

const STYLE: &str = "
:root { color-scheme: light dark; --line: #2563eb; --second: #d97706; --third: #dc2626; --grid: #8884; }
@media (prefers-color-scheme: dark) { :root { --line: #60a5fa; --second: #fbbf24; --third: #f87171; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 700px; padding: 0 1rem; }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin: 1.8rem 0 .3rem; }
pre { overflow-x: auto; font-size: 12.5px; } svg { width: 100%; height: auto; }
text { font: 11px system-ui, sans-serif; fill: currentColor; } .grid { stroke: var(--grid); }
path { fill: none; stroke-width: 1.8; stroke: var(--line); } path.b { stroke: var(--second); } path.c { stroke: var(--third); }
.key { font-size: 12.5px; } .key i { font-style: normal; color: var(--line); } .key i.b { color: var(--second); } .key i.c { color: var(--third); }
.verdict { font-weight: 600; }";

/// One line of a plot, and its name.
struct Line<'a> {
    name: &'a str,
    points: Vec<(f64, f64)>,
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A round number at or above `value`.
fn ceiling(value: f64) -> f64 {
    if value <= 0.0 || !value.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|round| *round >= value).unwrap_or(value)
}

fn number(value: f64) -> String {
    if value == 0.0 || value.abs() >= 10.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

fn plot(title: &str, x: &str, y: &str, lines: &[Line<'_>]) -> String {
    let all = || lines.iter().flat_map(|line| line.points.iter());
    if all().next().is_none() {
        return format!("<h2>{}</h2><p>Nothing was measured.</p>", escaped(title));
    }
    let x_max = all().map(|point| point.0).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let y_max = ceiling(all().map(|point| point.1).fold(0.0, f64::max));
    let place = |point: &(f64, f64)| {
        (LEFT + point.0 / x_max * (WIDTH - LEFT - 8.0), HEIGHT - BOTTOM - point.1 / y_max * (HEIGHT - BOTTOM - TOP))
    };
    let mut out = format!("<h2>{}</h2><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">", escaped(title), escaped(title));
    for step in 0..=4 {
        let value = y_max * f64::from(step) / 4.0;
        let (_, at) = place(&(0.0, value));
        let _ = write!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", LEFT - 6.0, at + 4.0, number(value));
        let value = x_max * f64::from(step) / 4.0;
        let (at, _) = place(&(value, 0.0));
        let _ = write!(out, "<text x=\"{at:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>", HEIGHT - BOTTOM + 15.0, number(value));
    }
    let mut key = String::new();
    for (line, class) in lines.iter().zip(["", "b", "c"]) {
        let mut steps = String::new();
        for (number, point) in line.points.iter().enumerate() {
            let (x, y) = place(point);
            let _ = write!(steps, "{}{x:.1} {y:.1}", if number == 0 { "M" } else { "L" });
        }
        let _ = write!(out, "<path class=\"{class}\" d=\"{steps}\"/>");
        let _ = write!(key, "<i class=\"{class}\">&#9632; {}</i> ", escaped(line.name));
    }
    let _ = write!(out, "</svg><div class=\"key\">{key}&nbsp; {} over {}</div>", escaped(y), escaped(x));
    out
}

/// The plots of one run.
fn plots(summary: &Summary) -> String {
    let count = summary.ttff_curve_ms.len().max(1) as f64;
    let curve = summary.ttff_curve_ms.iter().enumerate().map(|(place, ms)| (*ms, (place + 1) as f64 * 100.0 / count)).collect();
    let over_time = |value: fn(&crate::summary::Second) -> Option<f64>| -> Vec<(f64, f64)> {
        summary.timeline.iter().filter_map(|second| Some((second.at_s, value(second)?))).collect()
    };
    let plots = [
        plot("Time to the first frame", "ms since the join was due", "% of viewers", &[Line { name: "viewers", points: curve }]),
        plot("Latency, publisher's socket to viewer's", "seconds", "us", &[
            Line { name: "p50", points: over_time(|second| second.latency_p50_us) },
            Line { name: "p99", points: over_time(|second| second.latency_p99_us) },
            Line { name: "p99.9", points: over_time(|second| second.latency_p999_us) },
        ]),
        plot("The server's CPU per packet, by viewers", "viewers", "ns", &[Line { name: "a second each, while they came and after", points: cost_by_viewers(summary) }]),
        plot("Loss, before recovery", "seconds", "% of packets", &[Line {
            name: "all viewers",
            points: over_time(|second| Some(second.lost_packets as f64 * 100.0 / (second.packets_per_s + second.lost_packets as f64).max(1.0))),
        }]),
        plot("Delivered", "seconds", "Mbit/s", &[Line { name: "all viewers", points: over_time(|second| Some(second.mbps)) }]),
        plot("The server's CPU", "seconds", "% of a core", &[Line { name: "all its processes", points: over_time(|second| Some(second.server_cpu? * 100.0)) }]),
    ];
    plots.concat()
}

/// Seconds in which so many viewers got packets at that price: those of the ramp, in which joins are part of it, and those after.
fn cost_by_viewers(summary: &Summary) -> Vec<(f64, f64)> {
    let seconds = summary.ramp.iter().chain(&summary.timeline).filter(|second| second.viewers > 0 && second.packets_per_s > 0.0);
    let mut points: Vec<(f64, f64)> = seconds.filter_map(|second| Some((second.viewers as f64, second.server_cpu? * 1e9 / second.packets_per_s))).collect();
    points.sort_by(|one, other| one.0.total_cmp(&other.0));
    points
}

fn page(title: &str, verdict: &str, text: &str, plots: &str, value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).unwrap_or_default().replace("</", "<\\/");
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>spillway-bench: {title}</title><style>{STYLE}</style></head><body><h1>{title}</h1><p class=\"verdict\">{verdict}</p><pre>{text}</pre><div class=\"plots\">{plots}</div><script type=\"application/json\" id=\"summary\">{json}</script></body></html>\n",
        title = escaped(title),
        verdict = escaped(verdict),
        text = escaped(text),
    )
}

pub fn write(summary: &Summary) -> String {
    let scenario = summary.scenario.as_ref().map_or(String::new(), |name| format!(" ({name})"));
    let title = format!("{} viewers{scenario} on {}", summary.viewers_offered, summary.target);
    page(&title, &summary.verdict, &text::write(summary), &plots(summary), summary)
}

/// A search: the cost curve over its steps, then the plots of the largest run that held.
pub fn write_found(found: &Found) -> String {
    let curve = found.curve();
    let over_viewers = |value: fn(&Step) -> Option<f64>| -> Vec<(f64, f64)> { curve.iter().filter_map(|step| Some((step.viewers as f64, value(step)?))).collect() };
    let mut plots = [
        plot("The server's CPU per packet, by viewers", "viewers", "ns", &[Line { name: "a run each", points: over_viewers(|step| step.cpu_ns_per_packet) }]),
        plot("The server's CPU, by viewers", "viewers", "% of a core", &[Line { name: "a run each", points: over_viewers(|step| Some(step.server_cpu? * 100.0)) }]),
        plot("Latency, by viewers", "viewers", "ms", &[Line { name: "p99", points: over_viewers(|step| Some(step.latency_p99_us? / 1e3)) }]),
        plot("Loss, by viewers", "viewers", "% of packets", &[Line { name: "after recovery", points: over_viewers(|step| Some(step.loss_ratio * 100.0)) }]),
    ].concat();
    if let Some(largest) = &found.largest {
        let _ = write!(plots, "<h2 class=\"part\">The run with {} viewers</h2>{}", largest.viewers_offered, self::plots(largest));
    }
    page(&format!("How many viewers {} carries", found.target), &found.verdict, &text::write_found(found), &plots, found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_end_at_round_numbers_and_nothing_is_no_plot() {
        assert_eq!([0.0, 0.7, 1.0, 1.1, 37.0, 512.0].map(ceiling), [1.0, 1.0, 1.0, 2.0, 50.0, 1_000.0]);
        assert!(plot("a", "x", "y", &[]).contains("Nothing was measured"));
    }

    #[test]
    fn a_line_stays_within_its_frame_and_text_is_text() {
        let svg = plot("<b>", "s", "ns", &[Line { name: "a", points: vec![(0.0, 0.0), (10.0, 3.0)] }]);
        assert!(svg.contains("M64.0 192.0L632.0") && svg.contains("&lt;b&gt;") && !svg.contains("<b>"), "{svg}");
    }
}
