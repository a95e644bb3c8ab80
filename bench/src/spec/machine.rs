//! On what and when something was measured, in one line: what /proc says of processor and kernel, and today's date.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

/// Of today, by UTC.
pub fn date() -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The day so many days after 1970-01-01 in the Gregorian calendar. Counted from the first of March, a leap day is the
/// last of its year, and months of 30 and 31 days follow a rule: 153 days in five of them.
fn civil(days: u64) -> (u64, u64, u64) {
    // 719,468 days from 0000-03-01 to 1970-01-01; 146,097 in 400 years.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// Processor, cores, kernel, and how busy it was.
pub fn facts() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = read("/proc/cpuinfo");
    let models: Vec<&str> = processors.lines().filter(|line| line.starts_with("model name")).filter_map(|line| Some(line.split_once(':')?.1.trim())).collect();
    let virtual_machine = if processors.contains(" hypervisor") { "a virtual machine with " } else { "" };
    let load = read("/proc/loadavg").split_ascii_whitespace().next().unwrap_or("?").to_owned();
    format!(
        "{}: {virtual_machine}{} x {}, Linux {}, load {load} at the end, spillway {}.",
        date(),
        models.len(),
        models.first().unwrap_or(&"an unknown processor"),
        read("/proc/sys/kernel/osrelease").trim(),
        env!("CARGO_PKG_VERSION"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        // By `date -u -d @$((N * 86400)) +%F`.
        for (days, date) in [(0, (1970, 1, 1)), (59, (1970, 3, 1)), (11_016, (2000, 2, 29)), (11_017, (2000, 3, 1)), (20_777, (2026, 11, 20)), (20_818, (2026, 12, 31)), (47_540, (2100, 2, 28)), (47_541, (2100, 3, 1))] {
            assert_eq!(civil(days), date, "{days}");
        }
    }

    #[test]
    fn a_machine_is_told_in_one_line() {
        let facts = facts();
        assert!(facts.contains("Linux ") && !facts.contains('\n') && !facts.contains('|'), "{facts}");
    }
}
