//! What a terminal shows of the API's documents: tables, cards, numbers with units. Asks nobody, decides nothing.

use crate::supervisor::terminal::{Colour, coloured, say};
use serde_json::Value;

/// What is printed for people.
#[derive(Clone, PartialEq, Debug)]
pub struct Painted(pub String);

/// A column: its title, which side it leans to, what it shows of a row.
pub struct Column {
    pub title: &'static str,
    pub is_number: bool,
    pub cell: fn(&Value) -> String,
}

pub const fn text(title: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { title, is_number: false, cell }
}

pub const fn number(title: &'static str, cell: fn(&Value) -> String) -> Column {
    Column { title, is_number: true, cell }
}

/// Longer text is cut: a table stays a table. `--json` has it whole.
const CELL_CHARS_MAX: usize = 48;

pub fn print(as_json: bool, value: &Value, painted: impl FnOnce(&Value) -> Painted) {
    if as_json {
        // What has no document is no line.
        if !value.is_null() {
            say(value.to_string());
        }
        return;
    }
    say(painted(value).0);
}

pub fn line(text: impl Into<String>) -> Painted {
    Painted(text.into())
}

/// A list as a table; `nothing` where it is empty, and how to see more.
pub fn table(columns: &[Column], page: &Value, nothing: &str) -> Painted {
    let rows: Vec<&Value> = page["data"].as_array().into_iter().flatten().collect();
    if rows.is_empty() {
        return Painted(nothing.to_owned());
    }
    let mut out = aligned(columns, &rows);
    if page["has_more"] == true {
        out.push(format!("(the first {} only; --limit N shows more)", rows.len()));
    }
    Painted(out.join("\n"))
}

fn aligned(columns: &[Column], rows: &[&Value]) -> Vec<String> {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|column| cut(&(column.cell)(row))).collect()).collect();
    let width = |index: usize| {
        let title = columns.get(index).map_or(0, |column| column.title.chars().count());
        cells.iter().filter_map(|row| Some(row.get(index)?.chars().count())).fold(title, usize::max)
    };
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let written = |row: Vec<&str>| {
        let padded = columns.iter().zip(&widths).zip(row).map(|((column, width), cell)| match column.is_number {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let title = coloured(Colour::Bold, &written(columns.iter().map(|column| column.title).collect()));
    let rows = cells.iter().map(|row| written(row.iter().map(String::as_str).collect()));
    std::iter::once(title).chain(rows).collect()
}

fn cut(text: &str) -> String {
    // A name that somebody chose must not move the cursor.
    let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    match plain.chars().count() > CELL_CHARS_MAX {
        true => plain.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect(),
        false => plain,
    }
}

/// One thing: its facts below each other.
pub fn card(facts: &[(&str, String)]) -> Painted {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines = facts.iter().filter(|(_, value)| !value.is_empty());
    let lines: Vec<String> = lines
        .map(|(name, value)| {
            let value: String = value.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect();
            let value = value.replace('\n', &format!("\n{}", " ".repeat(width + 2)));
            format!("{}  {value}", coloured(Colour::Dim, &format!("{name:<width$}")))
        })
        .collect();
    Painted(lines.join("\n"))
}

// ---- values ----

pub fn string(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Or a dash: an empty cell looks like a fault.
pub fn or_dash(value: &Value) -> String {
    match string(value) {
        text if text.is_empty() => "-".to_owned(),
        text => text,
    }
}

pub fn yes_no(value: &Value) -> String {
    if value == true { "yes" } else { "no" }.to_owned()
}

pub fn bitrate(value: &Value) -> String {
    let Some(bps) = value.as_f64() else { return "-".to_owned() };
    match bps {
        0.0 => "0".to_owned(),
        bps if bps < 1e6 => format!("{:.0} kbit/s", bps / 1e3),
        bps if bps < 1e9 => format!("{:.1} Mbit/s", bps / 1e6),
        bps => format!("{:.2} Gbit/s", bps / 1e9),
    }
}

pub fn percent(value: &Value) -> String {
    let Some(ratio) = value.as_f64() else { return "-".to_owned() };
    match ratio * 100.0 {
        0.0 => "0 %".to_owned(),
        percent if percent < 9.95 => format!("{percent:.1} %"),
        percent => format!("{percent:.0} %"),
    }
}

pub fn bytes(value: &Value) -> String {
    let Some(bytes) = value.as_f64() else { return "-".to_owned() };
    match bytes {
        bytes if bytes < 1_048_576.0 => format!("{:.0} KiB", bytes / 1_024.0),
        bytes if bytes < 1_073_741_824.0 => format!("{:.0} MiB", bytes / 1_048_576.0),
        bytes => format!("{:.1} GiB", bytes / 1_073_741_824.0),
    }
}

/// `2d 3h`, `1h 2m`, `3m 12s`, `9s`.
pub fn span(seconds: u64) -> String {
    match (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m {s}s"),
        (0, h, m, _) => format!("{h}h {m}m"),
        (d, h, _, _) => format!("{d}d {h}h"),
    }
}

/// How long ago an RFC 3339 time was.
pub fn since(value: &Value) -> String {
    let then = value.as_str().and_then(unix_ms);
    then.map_or_else(|| "-".to_owned(), |then| span(crate::service::now_ms().saturating_sub(then) / 1_000))
}

/// As the API writes times: `2026-11-21T18:02:11.041Z`.
pub fn unix_ms(text: &str) -> Option<u64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, by: char| text.split(by).map(|part| part.parse::<u64>().ok()).collect::<Option<Vec<u64>>>();
    let [year, month, day] = <[u64; 3]>::try_from(numbers(date, '-')?).ok()?;
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let [hour, minute, second] = <[u64; 3]>::try_from(numbers(time, ':')?).ok()?;
    let ms: u64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    // Days since 1970 of the proleptic Gregorian calendar, years counted from March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let days = (365 * year + year / 4 + year / 400 + (153 * month + 2) / 5 + day).checked_sub(year / 100 + 719_469)?;
    Some((days * 86_400 + hour * 3_600 + minute * 60 + second) * 1_000 + ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const COLUMNS: &[Column] = &[text("NAME", |row| string(&row["name"])), number("SIZE", |row| string(&row["size"]))];

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_numbers_lean_right() {
        let page = json!({ "data": [{ "name": "a", "size": 12_345 }, { "name": "longer", "size": 1 }], "has_more": false });
        let Painted(text) = table(COLUMNS, &page, "none");
        assert_eq!(text, "NAME     SIZE\na       12345\nlonger      1");
    }

    #[test]
    fn an_empty_list_says_so_and_a_cut_one_too() {
        assert_eq!(table(COLUMNS, &json!({ "data": [] }), "no sizes").0, "no sizes");
        let page = json!({ "data": [{ "name": "a", "size": 1 }], "has_more": true });
        assert!(table(COLUMNS, &page, "none").0.ends_with("(the first 1 only; --limit N shows more)"));
    }

    #[test]
    fn what_others_named_moves_no_cursor_and_breaks_no_table() {
        assert_eq!(cut("a\x1b[2Jb\nc"), "a [2Jb c");
        let long = cut(&"x".repeat(100));
        assert_eq!((long.chars().count(), long.ends_with('…')), (48, true));
        assert!(!card(&[("sub", "a\x1b[2J".to_owned())]).0.contains('\x1b'));
    }

    #[test]
    fn numbers_have_units_that_people_read() {
        let all = [0, 1_500, 999_000, 2_460_000, 12_400_000_000u64].map(|bps| bitrate(&json!(bps)));
        assert_eq!(all, ["0", "2 kbit/s", "999 kbit/s", "2.5 Mbit/s", "12.40 Gbit/s"]);
        assert_eq!([0.0, 0.004, 0.25].map(|ratio| percent(&json!(ratio))), ["0 %", "0.4 %", "25 %"]);
        assert_eq!([2_048u64, 5 << 20, 3 << 30].map(|size| bytes(&json!(size))), ["2 KiB", "5 MiB", "3.0 GiB"]);
        assert_eq!([9, 192, 3_720, 183_600].map(span), ["9s", "3m 12s", "1h 2m", "2d 3h"]);
    }

    #[test]
    fn times_are_read_as_they_are_written() {
        for ms in [0, 951_782_400_000, 1_795_284_131_041, 4_102_444_799_999] {
            assert_eq!(unix_ms(&crate::ids::rfc3339(ms)), Some(ms));
        }
        for bad in ["", "2026-11-21", "2026-11-21T18:02Z", "x-1-1T0:0:0Z", "0000-01-01T00:00:00Z"] {
            assert_eq!(unix_ms(bad), None, "{bad}");
        }
    }
}
