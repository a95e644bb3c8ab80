//! When a webhook is tried again, and when it is given up. Pure.

/// A delivery that nobody took in that time is dead.
pub const LIFE_MS: u64 = 24 * 3_600 * 1_000;
/// Between one attempt and the next; the last one again and again.
const STEPS_MS: [u64; 9] =
    [1_000, 5_000, 30_000, 2 * 60_000, 10 * 60_000, 30 * 60_000, 3_600_000, 2 * 3_600_000, 4 * 3_600_000];
/// A receiver may ask for time (Retry-After), within reason.
const ASKED_MS_MAX: u64 = 3_600_000;

/// What an attempt came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attempt {
    /// Those before it.
    pub before: u32,
    pub now_ms: u64,
    /// No attempt after it.
    pub until_ms: u64,
    pub retry_after_seconds: Option<u64>,
    /// Any number: two receivers that fail at once are not tried again at once.
    pub chance: u64,
}

/// When the next attempt is due; None: there is none, it is dead.
pub fn next_ms(attempt: &Attempt) -> Option<u64> {
    let step = STEPS_MS.get(attempt.before as usize).or(STEPS_MS.last()).copied().unwrap_or(LIFE_MS);
    let asked = attempt.retry_after_seconds.map_or(0, |seconds| seconds.saturating_mul(1_000).min(ASKED_MS_MAX));
    // Four fifths to six fifths.
    let jitter = step / 5 * 4 + attempt.chance % (step / 5 * 2).max(1);
    let due = attempt.now_ms.saturating_add(jitter.max(asked));
    (due <= attempt.until_ms).then_some(due)
}

/// Why a receiver is told nothing more, if so. `failing_since_ms` is the first of the attempts that failed in a row.
pub fn disabled(http_status: Option<u16>, is_dead: bool, failing_since_ms: Option<u64>, now_ms: u64) -> Option<String> {
    // As Standard Webhooks has it: "gone" is meant for good.
    if http_status == Some(410) {
        return Some("the receiver answered 410 Gone".to_owned());
    }
    let since = failing_since_ms?;
    // The schedule's last attempt comes hours before a day is full.
    (is_dead && now_ms.saturating_sub(since) >= LIFE_MS / 4 * 3).then(|| "nothing was taken for a day".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(before: u32, now_ms: u64, chance: u64) -> Attempt {
        Attempt { before, now_ms, until_ms: LIFE_MS, retry_after_seconds: None, chance }
    }

    #[test]
    fn attempts_come_seldom_and_seldomer_for_a_day() {
        for chance in [0, 1, u64::MAX, 77_777_777] {
            let (mut now, mut times) = (0, Vec::new());
            while let Some(next) = next_ms(&attempt(times.len() as u32, now, chance)) {
                assert!(next > now);
                times.push(next);
                now = next;
            }
            assert!((10..=16).contains(&times.len()), "{times:?}");
            assert!(times[0] <= 1_200 && now <= LIFE_MS && now >= LIFE_MS / 4 * 3, "{times:?}");
        }
    }

    #[test]
    fn two_that_fail_together_do_not_come_back_together() {
        let times: std::collections::BTreeSet<_> = (0..1_000).map(|chance| next_ms(&attempt(2, 0, chance * 7_919))).collect();
        assert!(times.len() > 500);
    }

    #[test]
    fn a_receiver_may_ask_for_time_but_not_for_ever() {
        let asked = |seconds| next_ms(&Attempt { retry_after_seconds: Some(seconds), ..attempt(0, 0, 0) });
        assert_eq!(asked(120), Some(120_000));
        assert_eq!(asked(u64::MAX), Some(ASKED_MS_MAX));
        assert_eq!(asked(0), next_ms(&attempt(0, 0, 0)));
    }

    #[test]
    fn who_is_gone_or_took_nothing_for_a_day_is_disabled() {
        assert!(disabled(Some(410), true, Some(5), 6).is_some());
        assert!(disabled(Some(500), true, Some(0), LIFE_MS).is_some());
        assert_eq!(disabled(Some(500), true, Some(LIFE_MS / 2), LIFE_MS), None, "one delivery died, others were taken");
        assert_eq!(disabled(Some(500), false, Some(0), LIFE_MS), None, "there are attempts left");
        assert_eq!(disabled(None, true, None, LIFE_MS), None);
    }
}
