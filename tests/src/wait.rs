//! Waiting for something to become true: a condition, a deadline, and words for what did not happen.

use std::thread::sleep;
use std::time::{Duration, Instant};

const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What `look` finds within `patience`; panics with `what` and its last word if it finds nothing.
pub fn until<T>(what: &str, patience: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if Instant::now() >= deadline => {
                panic!("not within {} s: {what}; last seen: {last}", patience.as_secs_f32())
            }
            Err(_) => sleep(LOOK_INTERVAL),
        }
    }
}

/// Seconds, as tests write them.
pub const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}
