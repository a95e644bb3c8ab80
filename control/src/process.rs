//! What this node's processes use, from /proc: of the supervisor, and of its children.

use std::fs;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Used {
    pub memory_bytes: u64,
    pub user_micros: u64,
    pub system_micros: u64,
}

/// Of the supervisor that started this process and of all its children, threads together.
pub fn node() -> Used {
    let supervisor = std::os::unix::process::parent_id();
    let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
    let children: Vec<u32> = children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    // Without a supervisor (in a test) there is us.
    let all = match children.contains(&std::process::id()) && supervisor != 1 {
        true => [vec![supervisor], children].concat(),
        false => vec![std::process::id()],
    };
    let each = all.into_iter().filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok());
    each.filter_map(|text| parse(&text)).fold(Used::default(), |sum, used| Used {
        memory_bytes: sum.memory_bytes + used.memory_bytes,
        user_micros: sum.user_micros + used.user_micros,
        system_micros: sum.system_micros + used.system_micros,
    })
}

/// proc(5): the name in brackets may hold anything; utime and stime are the 14th and 15th field, rss the 24th.
fn parse(stat: &str) -> Option<Used> {
    let rest = stat.rsplit_once(") ")?.1;
    let field = |number: usize| rest.split(' ').nth(number - 3)?.parse::<u64>().ok();
    // USER_HZ is 100 and a page has 4 KiB on every Linux we run on.
    Some(Used {
        memory_bytes: field(24)?.saturating_mul(4_096),
        user_micros: field(14)?.saturating_mul(10_000),
        system_micros: field(15)?.saturating_mul(10_000),
    })
}

/// All memory of the machine.
pub fn machine_memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1_024)
}

/// How many files and connections this process may have open.
pub fn descriptors_max() -> u64 {
    let text = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"));
    // The soft limit comes first. Without an answer: what systems commonly give.
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(1_024)
}

/// Its name, as the system has it.
pub fn machine_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_and_spaces_moves_no_field() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194560 1 0 0 0 250 30 0 0 20 0 9 0 100 5000000 1000 18446744073709551615 1";
        let used = Used { memory_bytes: 4_096_000, user_micros: 2_500_000, system_micros: 300_000 };
        assert_eq!(parse(stat), Some(used));
        assert_eq!(parse("7 (a"), None);
    }

    #[test]
    fn this_process_uses_something() {
        assert!(node().memory_bytes > 100_000);
        assert!(descriptors_max() > 0);
        assert!(machine_memory_bytes() > node().memory_bytes && !machine_name().is_empty());
    }
}
