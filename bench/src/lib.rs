//! What the benches share: the clock they measure with, and how they summarize rounds.

use std::time::Duration;

/// CPU time this thread has used. On a shared machine the wall clock also counts the neighbours; this
/// does not.
pub fn thread_cpu_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // JUSTIFICATION: std has no clock for CPU time, and /proc lags by a scheduler tick.
    // SAFETY: `time` is a valid timespec that outlives the call, and the call keeps no pointer to it.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0, "Linux has had CLOCK_THREAD_CPUTIME_ID since 2.6.12");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The middle of the rounds' results; 0 of none.
pub fn median(mut rounds: Vec<f64>) -> f64 {
    rounds.sort_by(f64::total_cmp);
    rounds.get(rounds.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_counts_work_and_the_median_is_in_the_middle() {
        let begin = thread_cpu_time();
        let mut x = 1u64;
        while thread_cpu_time() == begin {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(thread_cpu_time() > begin);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![]), 0.0);
    }
}
