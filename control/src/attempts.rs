//! Joins that came to nothing, for who has to find out why: the last ones in memory, with offer and answer. What is a
//! secret in them is not kept.
//!
//! Owns the ring. Knows no HTTP, and decides nothing.

use crate::ids;
use crate::policy::ResourceId;
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Different ones; the same again is counted.
pub const ATTEMPTS_MAX: usize = 200;
/// Joins that may still come to nothing: a storm's worth of 15 s is more, and then the oldest are told without offers.
const PENDING_MAX: usize = 200;
/// Of an offer or an answer. Chromium's have 8 KiB: with both rings full there are 13 MB.
const SDP_BYTES_MAX: usize = 16 * 1_024;

/// What a POST has told so far.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Draft {
    /// whip or whep.
    pub protocol: &'static str,
    pub room: String,
    pub sub: String,
    pub offer: Option<String>,
    pub answer: Option<String>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Attempt {
    pub id: String,
    pub first_ms: u64,
    pub last_ms: u64,
    pub count: u64,
    pub code: String,
    pub detail: String,
    pub draft: Draft,
}

#[derive(Debug, Default)]
pub struct Attempts(Mutex<Rings>);

#[derive(Debug, Default)]
struct Rings {
    /// Different ones so far: two of one millisecond have an order, too.
    made: u64,
    failed: VecDeque<Attempt>,
    pending: VecDeque<(ResourceId, Draft)>,
}

impl Attempts {
    fn rings(&self) -> MutexGuard<'_, Rings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A join was refused. Who has no right to come is counted by the reason alone: whoever knocks with a thousand
    /// names hides nobody else.
    pub fn failed(&self, draft: Draft, code: &str, detail: &str, now_ms: u64) {
        let is_stranger = draft.sub.is_empty();
        let mut rings = self.rings();
        let same = rings.failed.iter().position(|other| {
            let is_same_who = other.draft.room == draft.room && other.draft.sub == draft.sub;
            other.code == code && other.draft.protocol == draft.protocol && other.draft.sub.is_empty() == is_stranger
                && (is_stranger || is_same_who)
        });
        let before = same.and_then(|index| rings.failed.remove(index));
        let id = before.as_ref().map(|before| before.id.clone()).or_else(|| ids::in_order("at", now_ms, rings.made));
        rings.made += 1;
        if rings.failed.len() >= ATTEMPTS_MAX {
            rings.failed.pop_front();
        }
        rings.failed.push_back(Attempt {
            id: id.unwrap_or_default(),
            first_ms: before.as_ref().map_or(now_ms, |before| before.first_ms),
            last_ms: now_ms,
            count: before.map_or(0, |before| before.count) + 1,
            code: code.to_owned(),
            detail: detail.to_owned(),
            draft,
        });
    }

    /// A join was granted: whether media finds its way is not known yet.
    pub fn granted(&self, resource: ResourceId, draft: Draft) {
        let mut rings = self.rings();
        if rings.pending.len() >= PENDING_MAX {
            rings.pending.pop_front();
        }
        rings.pending.push_back((resource, draft));
    }

    /// It did not.
    pub fn never_connected(&self, resource: ResourceId, fallback: Draft, code: &str, detail: &str, now_ms: u64) {
        let mut rings = self.rings();
        let found = rings.pending.iter().position(|(other, _)| *other == resource);
        let draft = found.and_then(|index| rings.pending.remove(index)).map_or(fallback, |(_, draft)| draft);
        drop(rings);
        self.failed(draft, code, detail, now_ms);
    }

    /// Sorted by id.
    pub fn all(&self) -> Vec<Attempt> {
        let mut all: Vec<Attempt> = self.rings().failed.iter().cloned().collect();
        all.sort_by(|left, right| left.id.cmp(&right.id));
        all
    }
}

/// A description without what would let its reader take part: passwords, keys; and without certificates' fingerprints,
/// by which a browser is known again.
pub fn masked(sdp: &str) -> String {
    const SECRETS: [&str; 5] = ["a=ice-pwd:", "a=fingerprint:", "a=crypto:", "a=identity:", "k="];
    let mut out = String::with_capacity(sdp.len().min(SDP_BYTES_MAX));
    for line in sdp.lines() {
        // SDP is case-sensitive; what is not written as it should be is no less secret.
        let trimmed = line.trim_start();
        let found = SECRETS.iter().find(|name| trimmed.get(..name.len()).is_some_and(|head| head.eq_ignore_ascii_case(name)));
        let (line, end) = found.map_or((line.trim_end(), "\n"), |name| (*name, "(masked)\n"));
        if out.len() + line.len() + end.len() > SDP_BYTES_MAX {
            out.push_str("(cut)\n");
            break;
        }
        out.push_str(line);
        out.push_str(end);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(room: &str, sub: &str) -> Draft {
        Draft { protocol: "whep", room: room.into(), sub: sub.into(), offer: Some("v=0\n".into()), answer: None }
    }

    #[test]
    fn the_same_again_is_counted_and_the_last_offer_is_kept() {
        let attempts = Attempts::default();
        attempts.failed(draft("demo", "anna"), "room_full", "two watch", 1_000);
        attempts.failed(Draft { offer: Some("newer".into()), ..draft("demo", "anna") }, "room_full", "two watch", 2_000);
        attempts.failed(draft("demo", "bob"), "room_full", "two watch", 3_000);
        attempts.failed(draft("demo", "anna"), "engine_busy", "", 3_000);
        let all = attempts.all();
        assert_eq!(all.len(), 3);
        assert_eq!((all[0].count, all[0].first_ms, all[0].last_ms), (2, 1_000, 2_000));
        assert_eq!(all[0].draft.offer.as_deref(), Some("newer"));
    }

    #[test]
    fn strangers_take_one_place_whatever_they_are_called() {
        let attempts = Attempts::default();
        attempts.failed(draft("demo", "anna"), "room_full", "", 1);
        for number in 0..1_000 {
            attempts.failed(draft(&format!("room{number}"), ""), "token_missing", "", 2);
        }
        let all = attempts.all();
        assert_eq!(all.len(), 2);
        assert_eq!(all.iter().map(|attempt| attempt.count).max(), Some(1_000));
    }

    #[test]
    fn the_ring_is_bounded_and_forgets_the_oldest() {
        let attempts = Attempts::default();
        for number in 0..ATTEMPTS_MAX + 10 {
            attempts.failed(draft("demo", &number.to_string()), "room_full", "", number as u64);
            attempts.granted(ResourceId((number as u128).to_be_bytes()), draft("demo", "x"));
        }
        assert_eq!((attempts.all().len(), attempts.rings().pending.len()), (ATTEMPTS_MAX, PENDING_MAX));
        assert!(attempts.all().iter().all(|attempt| attempt.first_ms >= 10));
    }

    #[test]
    fn a_join_that_never_connected_has_its_offer() {
        let attempts = Attempts::default();
        let resource = ResourceId([7; 16]);
        attempts.granted(resource, draft("demo", "anna"));
        attempts.never_connected(resource, Draft::default(), "never_connected", "no check came", 9);
        // Of a join of the control before nobody here has the offer.
        attempts.never_connected(ResourceId([8; 16]), Draft { sub: "bob".into(), ..Draft::default() }, "never_connected", "", 9);
        let all = attempts.all();
        assert_eq!(all.iter().filter(|attempt| attempt.draft.offer.is_some()).count(), 1);
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn no_password_and_no_fingerprint_is_kept() {
        let sdp = "v=0\r\na=ice-ufrag:abcd\r\na=ice-pwd:SECRET1\r\n a=ICE-PWD:SECRET2\r\na=fingerprint:sha-256 SECRET3\r\n\
                   a=crypto:1 AES SECRET4\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n";
        let text = masked(sdp);
        assert!(!text.contains("SECRET"), "{text}");
        assert!(text.contains("a=ice-ufrag:abcd\na=ice-pwd:(masked)\n") && text.ends_with("SAVPF 111\n"), "{text}");
        let long = masked(&"a=x:1234567890\r\n".repeat(10_000));
        assert!(long.len() <= SDP_BYTES_MAX + 6 && long.ends_with("(cut)\n"));
    }
}
