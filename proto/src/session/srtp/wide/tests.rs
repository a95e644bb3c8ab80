//! Media sealed by our own instructions, held against aws-lc, and where it reads and writes.

use super::*;
use crate::session::srtp::{MediaKey, Profile};

const WIDTHS: [Width; 2] = [Width::Bits256, Width::Bits512];

/// A key of so many bytes by each width this processor has (others have none), and by aws-lc.
fn keys(length: usize) -> (Vec<Box<WideKey>>, MediaKey) {
    let bytes: Vec<u8> = (0..length as u8).map(|byte| byte.wrapping_mul(37) ^ 0x5C).collect();
    let profile = if length == 32 { Profile::AeadAes256Gcm } else { Profile::AeadAes128Gcm };
    let wide = WIDTHS.iter().filter_map(|width| {
        let key = WideKey::new(*width, &bytes);
        assert_eq!(key.is_some(), width.is_here());
        key
    });
    (wide.collect(), MediaKey::aws_lc(profile, &bytes))
}

/// Goal: not a bit differs from aws-lc. Method: both widths, all lengths of prefixes, all of payloads up to three groups and some of
/// great ones, headers of up to four blocks; bytes and nonces that differ each time.
#[test]
fn each_width_writes_what_aws_lc_writes() {
    let bytes: Vec<u8> = (0..4_000_u32).map(|at| (at.wrapping_mul(at) >> 3) as u8).collect();
    for key_length in [16, 32] {
        let (wide, aws_lc) = keys(key_length);
        for payload in (0..800).chain([1_023, 1_024, 1_025, 1_188, 1_200, 1_455, 1_500]) {
            for prefix in 0..=BLOCK {
                let header = &bytes[payload..][..[0, 12, 16, 20, 32, 33, 64][(payload + prefix) % 7]];
                let (prefix, payload) = (&bytes[900 + payload..][..prefix], &bytes[77..][..payload]);
                let nonce = (0..12).fold(0, |nonce, at| nonce << 8 | u128::from(bytes[payload.len() + prefix.len() + 3 * at]));
                let mut expected = vec![0; prefix.len() + payload.len() + BLOCK];
                aws_lc.seal(nonce, header, prefix, payload, &mut expected).unwrap();
                for key in &wide {
                    // Around what it may write stands something else.
                    let mut out = vec![0xEE; expected.len() + 2 * 64];
                    key.seal(nonce, header, prefix, payload, &mut out[64..][..expected.len()]).unwrap();
                    let case = format!("{key:?}: {key_length}, {} and {} bytes behind {}", prefix.len(), payload.len(), header.len());
                    assert_eq!(out[64..][..expected.len()], expected, "{case}");
                    assert!(out[..64].iter().chain(&out[64 + expected.len()..]).all(|byte| *byte == 0xEE), "{case}");
                }
            }
        }
    }
}

/// Goal: what is sealed may begin and end where memory does. Method: pages with nothing before and behind them.
#[test]
fn nothing_is_read_or_written_outside() {
    const PAGE: usize = 4_096;
    let islands: Vec<&mut [u8]> = (0..4)
        .map(|_| {
            let (all, none) = (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_NONE);
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            // SAFETY: new memory, of which the page in the middle is given to nobody else.
            unsafe {
                let start = libc::mmap(std::ptr::null_mut(), 3 * PAGE, none, flags, -1, 0).cast::<u8>().add(PAGE);
                assert_eq!(libc::mprotect(start.cast(), PAGE, all), 0);
                std::slice::from_raw_parts_mut(start, PAGE)
            }
        })
        .collect();
    let Ok([header, prefix, payload, out]) = <[&mut [u8]; 4]>::try_from(islands) else { unreachable!("four of them") };
    payload.fill(0x5A);
    let (wide, aws_lc) = keys(32);
    for key in wide {
        for length in [0, 1, 15, 16, 33, 63, 64, 200, 256, 1_188] {
            for (prefixed, headed) in [(0, 0), (0, 12), (2, 20), (16, 16)] {
                for at_end in [false, true] {
                    let of = |island: usize, length| if at_end { island - length..island } else { 0..length };
                    let header = &header[of(PAGE, headed)];
                    let (prefix, payload) = (&prefix[of(PAGE, prefixed)], &payload[of(PAGE, length)]);
                    let sealed = &mut out[of(PAGE, prefixed + length + BLOCK)];
                    key.seal(7 << 90 | 7, header, prefix, payload, sealed).unwrap();
                    let mut expected = vec![0; sealed.len()];
                    aws_lc.seal(7 << 90 | 7, header, prefix, payload, &mut expected).unwrap();
                    assert_eq!(sealed, expected);
                }
            }
        }
    }
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    assert!(WIDTHS.iter().all(|width| WideKey::new(*width, &[1; 24]).is_none()));
    for key in keys(16).0 {
        assert_eq!(key.seal(0, &[], &[1; 17], &[2; 10], &mut [0; 43]), None);
        assert_eq!(key.seal(0, &[], &[1; 16], &[2; 10], &mut [0; 43]), None);
        assert_eq!(key.seal(0, &[], &[1; 16], &[2; 10], &mut [0; 42]), Some(()));
        assert!(!format!("{key:?}").contains("rounds"), "a key does not show itself");
    }
}

/// Goal: no key stays in memory that is given back. Method: one is dropped where it lies, and its place looked at.
#[test]
fn a_dropped_key_leaves_nothing() {
    for key in keys(32).0 {
        let mut place = std::mem::MaybeUninit::new(*key);
        // SAFETY: a key is in it, and dropped once; its bytes stay where they are.
        let left = unsafe {
            place.assume_init_drop();
            std::slice::from_raw_parts(place.as_ptr().cast::<u8>(), std::mem::offset_of!(WideKey, width))
        };
        assert!(left.iter().all(|byte| *byte == 0));
    }
}
