//! Names that the API gives: a prefix that says of what, then 128 bits in Crockford's base 32, time first, so that
//! names sort by age. And times, as the API writes them.

use crate::policy::PublicId;
use aws_lc_rs::{digest, rand};
use spillway_proto::id::StreamId;

const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
/// 26 times 5 bits, the first two of them always zero.
pub const CHARS: usize = 26;

pub fn encode(bytes: [u8; 16]) -> String {
    let number = u128::from_be_bytes(bytes);
    let digit = |place: usize| DIGITS.get((number >> (5 * place) & 31) as usize).map_or('0', |digit| char::from(*digit));
    (0..CHARS).rev().map(digit).collect()
}

/// None unless it is exactly what `encode` writes.
pub fn decode(text: &str) -> Option<[u8; 16]> {
    if text.len() != CHARS || text.as_bytes().first()? > &b'7' {
        return None;
    }
    let digit = |byte| DIGITS.iter().position(|digit| *digit == byte);
    let number = text.bytes().try_fold(0u128, |number, byte| Some(number << 5 | digit(byte)? as u128))?;
    Some(number.to_be_bytes())
}

/// A new name; None: the system gives no random bytes.
pub fn fresh(prefix: &str, now_ms: u64) -> Option<String> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).ok()?;
    for (byte, time) in bytes.iter_mut().zip(now_ms.to_be_bytes().into_iter().skip(2)) {
        *byte = time;
    }
    Some(format!("{prefix}_{}", encode(bytes)))
}

/// A new name that sorts behind those of smaller numbers made in the same millisecond.
pub fn in_order(prefix: &str, now_ms: u64, number: u64) -> Option<String> {
    let mut bytes = [0; 16];
    rand::fill(&mut bytes).ok()?;
    let front = now_ms.to_be_bytes().into_iter().skip(2).chain(number.to_be_bytes().into_iter().skip(4));
    bytes.iter_mut().zip(front).for_each(|(byte, other)| *byte = other);
    Some(format!("{prefix}_{}", encode(bytes)))
}

pub fn viewer(id: PublicId) -> String {
    format!("vw_{}", encode(id.0))
}

pub fn parse_viewer(text: &str) -> Option<PublicId> {
    text.strip_prefix("vw_").and_then(decode).map(PublicId)
}

/// A stream's name is made from what its tracks' notes hold, so that a new control gives it the same.
pub fn stream(id: StreamId, began_ms: u64) -> String {
    let number = u128::from(began_ms & 0xffff_ffff_ffff) << 80 | u128::from(id.generation) << 48 | u128::from(id.index) << 16;
    format!("st_{}", encode(number.to_be_bytes()))
}

/// Of who may not come to a room: made from both, so that nothing needs to remember it.
pub fn ban(room: &str, sub: &str) -> String {
    let hash = digest::digest(&digest::SHA256, format!("{room}/{sub}").as_bytes());
    format!("ban_{}", encode(hash.as_ref().first_chunk().copied().unwrap_or_default()))
}

/// `2026-11-21T17:29:41.123Z` of Unix milliseconds.
pub fn rfc3339(ms: u64) -> String {
    let (days, of_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days since 0000-03-01, so that the leap day is a year's last (a calendar of 400 years has 146,097 days).
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let (seconds, millis) = (of_day / 1_000, of_day % 1_000);
    format!(
        "{:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{millis:03}Z",
        era * 400 + year + carry,
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_sort_by_age_and_nothing_else_is_one() {
        for bytes in [[0; 16], [255; 16], *b"0123456789abcdef"] {
            assert_eq!(decode(&encode(bytes)), Some(bytes));
        }
        let (older, newer) = (fresh("key", 1_700_000_000_000).unwrap(), fresh("key", 1_700_000_000_001).unwrap());
        assert!(older < newer && older.starts_with("key_") && older.len() == 4 + CHARS);
        let early = stream(StreamId::new(900, 1), 1_700_000_000_000);
        assert!(early < stream(StreamId::new(1, 2), 1_700_000_000_000) && early < stream(StreamId::new(0, 1), 1_700_000_000_001));
        let public = PublicId([7; 16]);
        assert_eq!(parse_viewer(&viewer(public)), Some(public));
        for wrong in ["", "vw_", "st_00000000000000000000000000", "vw_8zzzzzzzzzzzzzzzzzzzzzzzzz", "vw_0000000000000000000000000l"] {
            assert_eq!(parse_viewer(wrong), None, "{wrong}");
        }
    }
}
