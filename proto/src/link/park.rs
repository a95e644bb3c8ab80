//! Parking: how one side of the link goes to sleep without missing what the other side pushes.
//!
//! ```text
//!    who sleeps                                who pushes
//!    park_begins(flag)    store 1, fence       push to the ring         store head
//!    ring still empty?    load head            must_wake(flag)          fence, load flag
//!      no:  park_ends(flag), go on               true:  write the eventfd
//!      yes: sleep on the eventfd                 false: nothing, the other side will look
//!    park_ends(flag)      store 0
//! ```
//!
//! Both fences are sequentially consistent: of the two sides at least one sees what the other stored
//! before its fence. Only the sleeper clears the flag: a pusher that cleared it and was killed before it
//! wrote the eventfd would leave the sleeper asleep. A sleeper that was killed leaves the flag raised,
//! which costs its successor one needless wake.

use std::sync::atomic::{AtomicU32, Ordering, fence};

/// A flag both sides can see.
pub trait Flag {
    fn load(&self) -> u32;
    fn store(&self, value: u32);
    fn fence_seq_cst();
}

impl Flag for AtomicU32 {
    fn load(&self) -> u32 {
        AtomicU32::load(self, Ordering::Relaxed)
    }
    fn store(&self, value: u32) {
        AtomicU32::store(self, value, Ordering::Relaxed);
    }
    fn fence_seq_cst() {
        fence(Ordering::SeqCst);
    }
}

/// Announces sleep. Look into the rings once more after this, then sleep.
pub fn park_begins<F: Flag>(flag: &F) {
    flag.store(1);
    F::fence_seq_cst();
}

/// Awake again, or not asleep after all.
pub fn park_ends<F: Flag>(flag: &F) {
    flag.store(0);
}

/// After a push: whether the other side sleeps and its eventfd has to be written.
pub fn must_wake<F: Flag>(flag: &F) -> bool {
    F::fence_seq_cst();
    flag.load() != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, AtomicU32, fence};

    impl Flag for AtomicU32 {
        fn load(&self) -> u32 {
            AtomicU32::load(self, Ordering::Relaxed)
        }
        fn store(&self, value: u32) {
            AtomicU32::store(self, value, Ordering::Relaxed);
        }
        fn fence_seq_cst() {
            fence(Ordering::SeqCst);
        }
    }

    #[test]
    fn a_push_is_seen_by_the_sleeper_or_wakes_it() {
        loom::model(|| {
            let (flag, pushed) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
            let pusher = {
                let (flag, pushed) = (flag.clone(), pushed.clone());
                loom::thread::spawn(move || {
                    pushed.store(true, Ordering::Release);
                    must_wake(&*flag)
                })
            };
            park_begins(&*flag);
            let sleeps = !pushed.load(Ordering::Acquire);
            if !sleeps {
                park_ends(&*flag);
            }
            let woken = pusher.join().unwrap();
            assert!(!sleeps || woken, "asleep with a command in the ring");
        });
    }
}
