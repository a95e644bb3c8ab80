//! What sealing one packet costs: thread CPU time in ns per 1,200-byte RTP packet, each SRTP profile.
//!
//! Frame order, as the fan-out does it: 9 packets to one session, then the next of 1,000 sessions, each
//! with keys of its own; output goes round a ring of 64 slots. Rows take turns within each round, and the
//! median of the rounds is printed, so that a busy machine spoils all rows alike.
//!
//! `cargo bench -p spillway-bench --bench seal`; with `-- --test` one small round, to see that it runs.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use spillway_bench::{median, thread_cpu_time};
use spillway_proto::session::record::MasterKey;
use spillway_proto::session::srtp::{MediaKey, Profile, Sealer};
#[cfg(target_arch = "x86_64")]
use spillway_proto::session::srtp::{WideKey, Width};
use std::hint::black_box;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

const PACKET: usize = 1_200;
const HEADER: usize = 12;
const FRAME: u64 = 9;
const SLOTS: usize = 64;
const SLOT: usize = 2_048;

/// One row: seals a frame for each session, beginning at this index.
struct Row {
    name: &'static str,
    frame: Box<dyn FnMut(u64)>,
    rounds: Vec<f64>,
}

fn master(session: usize) -> MasterKey {
    let [low, high, ..] = session.to_le_bytes();
    MasterKey {
        key: std::array::from_fn(|i| if i % 2 == 0 { low } else { high } ^ i as u8),
        salt: std::array::from_fn(|i| low ^ high ^ i as u8),
        reserved: [0; 2],
    }
}

fn header(session: usize, index: u64) -> [u8; HEADER] {
    let mut header = [0x80, 96, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&(index as u16).to_be_bytes());
    header[8..12].copy_from_slice(&(session as u32).to_be_bytes());
    header
}

fn ours(name: &'static str, profile: Profile, prefix: usize, sessions: usize) -> Row {
    by(name, profile, prefix, sessions, MediaKey::new)
}

fn by(name: &'static str, profile: Profile, prefix: usize, sessions: usize, library: fn(Profile, &[u8]) -> MediaKey) -> Row {
    let sealers: Vec<Sealer> = (0..sessions).map(|session| Sealer::with(profile, &master(session), library)).collect();
    let plain = vec![0x5A; PACKET - HEADER];
    let mut out = vec![0; SLOTS * SLOT];
    let mut slot = 0;
    let frame = move |first: u64| {
        for (session, sealer) in sealers.iter().enumerate() {
            for index in first..first + FRAME {
                let header = header(session, index);
                let (prefix, payload) = plain.split_at(prefix);
                let place = &mut out[slot * SLOT..(slot + 1) * SLOT];
                black_box(sealer.seal_into(&header, prefix, payload, index, place)).expect("room");
                slot = (slot + 1) % SLOTS;
            }
        }
    };
    Row { name, frame: Box::new(frame), rounds: Vec::new() }
}

/// Ours without AVX-512, as where there is none.
fn by_256_bits(profile: Profile, key: &[u8]) -> MediaKey {
    #[cfg(target_arch = "x86_64")]
    if let Some(key) = WideKey::new(Width::Bits256, key) {
        return MediaKey::Wide(key);
    }
    MediaKey::aws_lc(profile, key)
}

/// In place, behind a copy.
fn ring(name: &'static str, sessions: usize) -> Row {
    let keys: Vec<LessSafeKey> = (0..sessions)
        .map(|session| LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &master(session).key).expect("32 bytes")))
        .collect();
    let plain = vec![0x5A; PACKET - HEADER];
    let mut out = vec![0; SLOTS * SLOT];
    let mut slot = 0;
    let frame = move |first: u64| {
        for (session, key) in keys.iter().enumerate() {
            for index in first..first + FRAME {
                let header = header(session, index);
                let (place, rest) = out[slot * SLOT..(slot + 1) * SLOT].split_at_mut(HEADER);
                place.copy_from_slice(&header);
                let (body, rest) = rest.split_at_mut(plain.len());
                body.copy_from_slice(&plain);
                let tag = key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(header), Aad::from(header), body).expect("sealed");
                rest[..tag.as_ref().len()].copy_from_slice(tag.as_ref());
                black_box(rest);
                slot = (slot + 1) % SLOTS;
            }
        }
    };
    Row { name, frame: Box::new(frame), rounds: Vec::new() }
}

fn webrtc_srtp(name: &'static str, sessions: usize) -> Row {
    let mut contexts: Vec<Context> = (0..sessions)
        .map(|session| {
            let master = master(session);
            let profile = ProtectionProfile::AeadAes128Gcm;
            Context::new(&master.key[..16], &master.salt[..12], profile, None, None).expect("a context")
        })
        .collect();
    let mut packet = vec![0x5A; PACKET];
    let frame = move |first: u64| {
        for (session, context) in contexts.iter_mut().enumerate() {
            for index in first..first + FRAME {
                packet[..HEADER].copy_from_slice(&header(session, index));
                black_box(context.encrypt_rtp(&packet).expect("sealed"));
            }
        }
    };
    Row { name, frame: Box::new(frame), rounds: Vec::new() }
}

fn main() {
    // `cargo test` and `cargo bench -- --test` only want to know whether it runs.
    let test = std::env::args().any(|argument| argument == "--test") || !std::env::args().any(|a| a == "--bench");
    let (sessions, rounds) = if test { (2, 1) } else { (1_000, 25) };
    let mut rows = [
        ours("AEAD_AES_256_GCM", Profile::AeadAes256Gcm, 0, sessions),
        by("AEAD_AES_256_GCM by aws-lc", Profile::AeadAes256Gcm, 0, sessions, MediaKey::aws_lc),
        by("AEAD_AES_256_GCM, at most 256 bits at once", Profile::AeadAes256Gcm, 0, sessions, by_256_bits),
        ring("AEAD_AES_256_GCM by ring", sessions),
        ours("AEAD_AES_256_GCM, prefix of 2 bytes (RTX)", Profile::AeadAes256Gcm, 2, sessions),
        ours("AEAD_AES_128_GCM", Profile::AeadAes128Gcm, 0, sessions),
        ours("AES128_CM_HMAC_SHA1_80", Profile::Aes128CmSha1_80, 0, sessions),
        webrtc_srtp("AEAD_AES_128_GCM in webrtc-srtp 0.17", sessions),
    ];
    let packets = sessions as f64 * FRAME as f64;
    // The first round warms up and is not counted.
    for round in 0..rounds + 1 {
        for row in &mut rows {
            let begin = thread_cpu_time();
            (row.frame)(round * FRAME);
            let took = (thread_cpu_time() - begin).as_nanos() as f64 / packets;
            if round > 0 {
                row.rounds.push(took);
            }
        }
    }
    println!("sealing a packet of {PACKET} bytes, {sessions} sessions, median of {rounds} rounds");
    println!("{:<44} {:>9} {:>7}", "profile", "ns/packet", "Mpps");
    for row in rows {
        let ns = median(row.rounds);
        println!("{:<44} {ns:>9.0} {:>7.2}", row.name, 1e3 / ns);
    }
}
