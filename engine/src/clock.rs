//! The engine's clocks: the only place where it asks what time it is.
//!
//! Shards are handed the result; nothing below the loop calls these.

use std::time::Duration;

use spillway_proto::time::{NtpTime, Time};

/// Seconds from NTP's epoch (1900) to Unix's (1970), RFC 5905 section 6.
const NTP_TO_UNIX_SECONDS: u64 = 2_208_988_800;

/// CLOCK_MONOTONIC, comparable between the processes of this node.
pub fn now() -> Time {
    let now = read(libc::CLOCK_MONOTONIC);
    Time(now.as_secs() * 1_000_000_000 + u64::from(now.subsec_nanos()))
}

/// CLOCK_REALTIME as sender reports carry it. It wraps in 2036 as RFC 3550 section 4 allows.
pub fn wall() -> NtpTime {
    ntp_from_unix(read(libc::CLOCK_REALTIME))
}

/// CPU time that the calling thread has used, in user and system mode.
pub fn thread_cpu() -> Duration {
    read(libc::CLOCK_THREAD_CPUTIME_ID)
}

fn ntp_from_unix(unix: Duration) -> NtpTime {
    NtpTime(0) + (unix + Duration::from_secs(NTP_TO_UNIX_SECONDS))
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut value = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // JUSTIFICATION: std::time::Instant hides its nanoseconds, and they must be comparable between processes.
    // SAFETY: `value` is a live timespec. The call fails only for a clock the kernel does not know; these
    // three are in every kernel with futexes, and zero would stay in `value`.
    unsafe { libc::clock_gettime(clock, &mut value) };
    Duration::new(value.tv_sec as u64, value.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_goes_on_and_is_the_kernels() {
        let first = now();
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let second = now();
        assert!(second >= first);
        // /proc/uptime counts suspended time too, so the monotonic clock is never ahead of it.
        assert!(first.as_nanos() as f64 / 1e9 <= uptime + 0.02);
        assert!(first > Time::ZERO);
    }

    #[test]
    fn the_unix_epoch_is_ntps_second_2208988800() {
        assert_eq!(ntp_from_unix(Duration::ZERO).0, 2_208_988_800 << 32);
        assert_eq!(ntp_from_unix(Duration::from_millis(500)).0, (2_208_988_800 << 32) | 0x8000_0000);
    }

    #[test]
    fn work_costs_this_thread_cpu_time() {
        let before = thread_cpu();
        let mut x = 1_u64;
        for i in 0..200_000 {
            x = std::hint::black_box(x.wrapping_mul(3).wrapping_add(i));
        }
        assert!(thread_cpu() > before);
    }
}
