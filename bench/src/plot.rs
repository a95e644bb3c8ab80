//! Line plots as SVG, for pages without anything to load. Pure.

use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 240.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 18.0;
const BOTTOM: f64 = 40.0;
const TOP: f64 = 10.0;
/// Beyond it points are a line.
const DOTS_MAX: usize = 40;
const CLASSES: [&str; 3] = ["a", "b", "c"];

/// One line of a plot, and its name. The first three have colours of their own.
pub struct Line {
    pub name: &'static str,
    pub points: Vec<(f64, f64)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// From zero.
    Even,
    /// Powers of ten: where the smallest and the largest lie far apart.
    Powers,
}

pub struct Plot {
    title: &'static str,
    x: &'static str,
    y: &'static str,
    lines: Vec<Line>,
    scale: Scale,
}

pub fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// The step of a scale to `most` with at most six of them: 1, 2, 2.5 or 5 times a power of ten.
fn step(most: f64) -> f64 {
    if most <= 0.0 || !most.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf((most / 6.0).log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| most / step <= 6.0 + 1e-9).unwrap_or(most)
}

/// A label without more digits than it needs.
fn label(value: f64) -> String {
    if value >= 1e6 {
        return format!("{}M", label(value / 1e6));
    }
    if value >= 1e4 {
        return format!("{}k", label(value / 1e3));
    }
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl Plot {
    pub fn new(title: &'static str, x: &'static str, y: &'static str, lines: Vec<Line>) -> Plot {
        Plot { title, x, y, lines, scale: Scale::Even }
    }

    pub fn scale(self, scale: Scale) -> Plot {
        Plot { scale, ..self }
    }

    fn all(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.lines.iter().flat_map(|line| line.points.iter().copied())
    }

    pub fn draw(&self) -> String {
        let title = escaped(self.title);
        if self.all().next().is_none() {
            return format!("<figure><h3>{title}</h3><p class=\"none\">Nothing was measured.</p></figure>");
        }
        let x_step = step(self.all().map(|point| point.0).fold(0.0, f64::max));
        let x_most = x_step * (self.all().map(|point| point.0).fold(0.0, f64::max) / x_step).ceil().max(1.0);
        let x_at = |value: f64| LEFT + value / x_most * (WIDTH - LEFT - RIGHT);
        let y_ticks = self.y_ticks();
        let (least, most) = (y_ticks.first().copied().unwrap_or_default(), y_ticks.last().copied().unwrap_or(1.0));
        let y_at = |value: f64| {
            let share = match self.scale {
                Scale::Even => value / most,
                Scale::Powers => (value.max(least) / least).log10() / (most / least).log10(),
            };
            HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
        };
        let mut out = format!("<figure><h3>{title}</h3><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}\">");
        for tick in &y_ticks {
            let at = y_at(*tick);
            let _ = write!(out, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.0}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", WIDTH - RIGHT, LEFT - 7.0, at + 4.0, label(*tick));
        }
        for number in 0..=(x_most / x_step).round() as u32 {
            let tick = x_step * f64::from(number);
            let _ = write!(out, "<text x=\"{:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>", x_at(tick), HEIGHT - BOTTOM + 17.0, label(tick));
        }
        let _ = write!(out, "<text x=\"{:.0}\" y=\"{:.0}\" text-anchor=\"middle\">{}</text>", (LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 5.0, escaped(self.x));
        let mut key = String::new();
        for (line, class) in self.lines.iter().zip(CLASSES) {
            let places: Vec<(f64, f64)> = line.points.iter().map(|(x, y)| (x_at(*x), y_at(*y))).collect();
            let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
            let _ = write!(out, "<path class=\"{class}\" d=\"M{}\"/>", path.join("L"));
            if places.len() <= DOTS_MAX {
                for ((x, y), value) in places.iter().zip(&line.points) {
                    let _ = write!(out, "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\"><title>{} at {}</title></circle>", label(value.1), label(value.0));
                }
            }
            let _ = write!(key, "<i class=\"{class}\">&#9632; {}</i>", escaped(line.name));
        }
        let _ = write!(out, "</svg><div class=\"key\">{key}{}</div></figure>", escaped(self.y));
        out
    }

    fn y_ticks(&self) -> Vec<f64> {
        let most = self.all().map(|point| point.1).fold(0.0, f64::max);
        if self.scale == Scale::Powers && most > 0.0 {
            let least = self.all().map(|point| point.1).filter(|value| *value > 0.0).fold(most, f64::min);
            let (from, to) = (least.log10().floor() as i32, most.log10().ceil() as i32);
            return (from..=to.max(from + 1)).map(|power| 10_f64.powi(power)).collect();
        }
        let step = step(most);
        let count = (most / step - 1e-9).ceil().max(1.0) as u32;
        (0..=count).map(|number| step * f64::from(number)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_have_round_steps_and_end_at_or_above_the_most() {
        assert_eq!([0.0, 0.7, 6.0, 37.0, 512.0, 26_000.0].map(step), [1.0, 0.2, 1.0, 10.0, 100.0, 5_000.0]);
        assert_eq!([0.0, 0.25, 1.5, 300.0, 12_500.0, 2e6].map(label), ["0", "0.25", "1.5", "300", "12.5k", "2M"]);
        let ticks = |most: f64, scale| Plot::new("t", "x", "y", vec![Line { name: "l", points: vec![(0.0, 0.4), (1.0, most)] }]).scale(scale).y_ticks();
        assert_eq!(ticks(600.0, Scale::Powers), [0.1, 1.0, 10.0, 100.0, 1_000.0]);
        assert_eq!(ticks(20.0, Scale::Even), [0.0, 5.0, 10.0, 15.0, 20.0]);
    }

    #[test]
    fn a_line_stays_within_its_frame_and_text_is_text() {
        let plot = |scale| Plot::new("<b>", "s", "ns", vec![Line { name: "a", points: vec![(0.0, 0.0), (10.0, 30.0)] }]).scale(scale).draw();
        let (left, right, top, bottom) = (LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM);
        let svg = plot(Scale::Even);
        assert!(svg.contains(&format!("M{left:.1} {bottom:.1}L{right:.1} {top:.1}")) && svg.contains("&lt;b&gt;") && !svg.contains("<b>"), "{svg}");
        // Nothing has no logarithm: it stands at the bottom.
        assert!(plot(Scale::Powers).contains(&format!("M{left:.1} {bottom:.1}L")));
        assert!(Plot::new("t", "x", "y", Vec::new()).draw().contains("Nothing was measured"));
    }
}
