//! How the engine's threads stand on their cores, against each other and against everything else that runs there.
//!
//! A shard with time to spare is real-time where it may be: nothing ordinary takes its core in the middle of a packet's round. One that
//! has none is an ordinary thread ahead of the others, so that control, handshakes and whoever logs in to see what is wrong get a tenth of the core.

use spillway_proto::time::Time;
use std::time::Duration;

/// How long a shard may run before others of its core get their turn where it is an ordinary thread: short, so that it gets its own at once when a packet
/// wakes it (Linux 6.12 and later; older kernels ignore it): control, which a thousand joins keep busy, would otherwise go on for its 3 ms.
const SLICE_NS: u64 = 100_000;

/// How far a shard is ahead of others on its core then, in steps of nice: where that may be asked for (CAP_SYS_NICE, or RLIMIT_NICE). Beside a shard that is
/// never idle the others have a tenth of the core, and admission ends before that; without it a shard that handshakes keep busy
/// has used up its share, and packets wait for control's turn to end.
const AHEAD: i32 = 10;
const NICE_LEAST: i32 = -20;

/// How far the thread beside a shard is behind it where shards may not go ahead: a quarter of a core that is never idle is its own then.
const BEHIND: i32 = 5;

/// The least there is: whoever else is real-time on this machine has a reason.
const REAL_TIME_PRIORITY: u32 = 1;

/// A shard that used more of its core's time than the one since the last look is an ordinary thread, and real-time again below the other.
const BUSY_TOO_LONG: f64 = 0.80;
const BUSY_ENOUGH: f64 = 0.60;
/// For so long it may keep the others waiting before.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A shard's.
pub struct Precedence {
    /// As an ordinary thread. None: it is none, by somebody's decision (`chrt`), or the kernel may not be asked.
    ordinary: Option<SchedulerAttributes>,
    may_be_real_time: bool,
    is_real_time: bool,
    looked_at: Time,
    worked: Duration,
}

impl Precedence {
    /// The calling thread's. Two real-time shards on one core would leave nothing to the others, however little each of them does.
    pub fn of_a_shard(has_its_own_core: bool, now: Time) -> Precedence {
        let ordinary = scheduling().map(|found| {
            let ahead = SchedulerAttributes { runtime: SLICE_NS, nice: (found.nice - AHEAD).max(NICE_LEAST), ..found };
            let in_its_place = SchedulerAttributes { runtime: SLICE_NS, ..found };
            if reschedule(ahead) {
                return ahead;
            }
            reschedule(in_its_place);
            in_its_place
        });
        let may_be_real_time = has_its_own_core && may_stay_real_time();
        let mut precedence = Precedence { ordinary, may_be_real_time, is_real_time: false, looked_at: now, worked: Duration::ZERO };
        precedence.go(true);
        precedence
    }

    /// From time to time: whether it has time to spare. `worked` is what the thread has used of its core since it began.
    pub fn look(&mut self, now: Time, worked: impl FnOnce() -> Duration) {
        let span = now.since(self.looked_at);
        if !self.may_be_real_time || span < LOOK_EVERY {
            return;
        }
        let worked = worked();
        let share = worked.saturating_sub(self.worked).as_secs_f64() / span.as_secs_f64();
        (self.looked_at, self.worked) = (now, worked);
        let goes = share < if self.is_real_time { BUSY_TOO_LONG } else { BUSY_ENOUGH };
        if goes != self.is_real_time {
            self.go(goes);
        }
    }

    fn go(&mut self, real_time: bool) {
        let Some(ordinary) = self.ordinary.filter(|_| self.may_be_real_time) else { return };
        let first = SchedulerAttributes { policy: libc::SCHED_RR as u32, priority: REAL_TIME_PRIORITY, nice: 0, runtime: 0, ..ordinary };
        // Refused once, refused always.
        self.may_be_real_time = reschedule(if real_time { first } else { ordinary });
        self.is_real_time = real_time && self.may_be_real_time;
    }
}

/// A limit on real-time threads that do not sleep ends the process (RLIMIT_RTTIME, which desktops set).
fn may_stay_real_time() -> bool {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // JUSTIFICATION: std has no limits.
    // SAFETY: the kernel writes the live rlimit.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_RTTIME, &mut limit) };
    result == 0 && limit.rlim_cur == libc::RLIM_INFINITY
}

/// Shards are ahead of the calling thread one way or the other.
pub fn stay_behind() {
    let Some(found) = scheduling() else { return };
    // Asked for, and given back.
    let shards_are_ahead = reschedule(SchedulerAttributes { nice: (found.nice - AHEAD).max(NICE_LEAST), ..found });
    let behind = if shards_are_ahead { 0 } else { BEHIND };
    reschedule(SchedulerAttributes { nice: found.nice + behind, ..found });
}

/// A shard stays on its core; where that is not allowed (a container) it runs where it may.
pub fn pin(core: Option<usize>) {
    let Some(core) = core.filter(|&core| core < libc::CPU_SETSIZE as usize) else { return };
    // JUSTIFICATION: std has no affinity.
    // SAFETY: a zeroed set is valid, the core is within it, and 0 names the calling thread.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

/// sched_setattr(2), as of Linux 3.14 (`SCHED_ATTR_SIZE_VER0`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SchedulerAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

const SCHEDULER_ATTRIBUTES_BYTES: u32 = size_of::<SchedulerAttributes>() as u32;

/// How the calling thread is scheduled; None where that may not be asked, or is not among the ordinary ones.
fn scheduling() -> Option<SchedulerAttributes> {
    asked().filter(|found| found.policy == libc::SCHED_OTHER as u32)
}

fn asked() -> Option<SchedulerAttributes> {
    let mut found = SchedulerAttributes::default();
    // JUSTIFICATION: neither std nor libc has this call.
    // SAFETY: the kernel writes at most as many bytes as it is told; 0 names the calling thread.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut found, SCHEDULER_ATTRIBUTES_BYTES, 0) };
    (result == 0).then_some(found)
}

/// Refused, the calling thread runs as before.
fn reschedule(wanted: SchedulerAttributes) -> bool {
    let wanted = SchedulerAttributes { size: SCHEDULER_ATTRIBUTES_BYTES, ..wanted };
    // JUSTIFICATION: as above.
    // SAFETY: the kernel reads `size` bytes.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const wanted, 0) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a thread of its own sees.
    fn aside<T: Send + 'static>(confined: bool, see: impl FnOnce() -> T + Send + 'static) -> T {
        let body = move || {
            if confined {
                // JUSTIFICATION: std has neither limits nor users of a thread.
                // SAFETY: calls by values and of a live rlimit; by the system call the user is this thread's alone. The limits of the process end
                // with it: nothing else here asks for precedence by them, as root needs none.
                unsafe {
                    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
                    assert_eq!(libc::setrlimit(libc::RLIMIT_NICE, &none), 0);
                    assert_eq!(libc::setrlimit(libc::RLIMIT_RTPRIO, &none), 0);
                    assert_eq!(libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534), 0);
                }
            }
            see()
        };
        std::thread::spawn(body).join().unwrap()
    }

    fn now() -> SchedulerAttributes {
        asked().expect("sched_getattr")
    }

    fn at(ms: u64) -> Time {
        Time::from_millis(1_000 + ms)
    }

    /// Goal: an ordinary shard is woken at once, and is ahead of the others on its core where it may be; where it may not, it keeps its place and the
    /// short slice, and the thread of its handshakes goes back. Method: the kernel is asked, as root and as a thread that gave its privileges away.
    #[test]
    fn a_shards_slice_is_short_and_it_is_ahead_where_it_may_be() {
        for (confined, ahead) in [(false, AHEAD), (true, 0)] {
            let (before, after) = aside(confined, || {
                let before = now();
                Precedence::of_a_shard(false, at(0));
                (before, now())
            });
            assert_eq!((after.policy, after.flags), (before.policy, before.flags));
            assert_eq!(after.nice, (before.nice - ahead).max(NICE_LEAST), "confined: {confined}");
            // Kernels before 6.12 have one slice for everybody, and say 0.
            assert!(after.runtime == SLICE_NS || before.runtime == 0, "{} ns, before {} ns", after.runtime, before.runtime);
            let (before, after) = aside(confined, || {
                let before = now();
                stay_behind();
                (before, now())
            });
            assert_eq!((after.nice, after.runtime), (before.nice + if confined { BEHIND } else { 0 }, before.runtime), "confined: {confined}");
        }
    }

    /// Goal: a shard with a core of its own and time to spare is real-time where the kernel lets it, and leaves that within a tenth of a second when it
    /// has none, for a place ahead of the others. Method: as above, with invented times.
    #[test]
    fn a_shard_is_real_time_while_it_has_time_to_spare() {
        let may = |confined| aside(confined, || reschedule(SchedulerAttributes { policy: libc::SCHED_RR as u32, priority: REAL_TIME_PRIORITY, ..now() }));
        for confined in [false, true] {
            let may = may(confined);
            assert!(!(confined && may));
            let seen = aside(confined, || {
                let began = now();
                let mut precedence = Precedence::of_a_shard(true, at(0));
                let mut worked = 0;
                let mut seen = vec![(began.nice, now())];
                // By hundred milliseconds: so many of them worked.
                for (tenth, busy) in [50, 79, 81, 61, 100, 59, 79].into_iter().enumerate() {
                    worked += busy;
                    // Between two looks nothing is asked.
                    precedence.look(at(100 * tenth as u64 + 99), || panic!("too early"));
                    precedence.look(at(100 * (tenth as u64 + 1)), || Duration::from_millis(worked));
                    seen.push((began.nice, now()));
                }
                seen
            });
            let expected = [true, true, true, false, false, false, true, true];
            for ((began, found), real_time) in seen.into_iter().zip(expected) {
                let nice = if confined { began } else { (began - AHEAD).max(NICE_LEAST) };
                match real_time && may {
                    true => assert_eq!((found.policy, found.priority), (libc::SCHED_RR as u32, REAL_TIME_PRIORITY)),
                    false => assert_eq!((found.policy, found.priority, found.nice), (libc::SCHED_OTHER as u32, 0, nice)),
                }
            }
        }
        // Whom the kernel would end for it does not try. An hour: nothing else here is meant.
        let policy = || aside(false, || (Precedence::of_a_shard(true, at(0)), now().policy).1);
        let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // JUSTIFICATION: std has no limits.
        // SAFETY: calls on live rlimits.
        let limited = unsafe {
            assert_eq!(libc::getrlimit(libc::RLIMIT_RTTIME, &mut before), 0);
            let an_hour = libc::rlimit { rlim_cur: 3_600_000_000, ..before };
            assert_eq!(libc::setrlimit(libc::RLIMIT_RTTIME, &an_hour), 0);
            let limited = policy();
            assert_eq!(libc::setrlimit(libc::RLIMIT_RTTIME, &before), 0);
            limited
        };
        assert_eq!(limited, libc::SCHED_OTHER as u32);
    }
}
