//! Goal: what our SRTP puts on the wire is what the RFCs say, also where both of our halves could be wrong
//! together. Method: the same packets through webrtc-srtp (RustCrypto) and through ours; bytes must be
//! equal, and each must open what the other sealed, in every profile, across a wrap of the sequence number.

use spillway_proto::session::record::MasterKey;
use spillway_proto::session::srtp::{OpenError, Opener, Profile, Sealer};
use webrtc_srtp::context::Context;
use webrtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use webrtc_srtp::protection_profile::ProtectionProfile;

const PROFILES: [(Profile, ProtectionProfile); 3] = [
    (Profile::Aes128CmSha1_80, ProtectionProfile::Aes128CmHmacSha1_80),
    (Profile::AeadAes128Gcm, ProtectionProfile::AeadAes128Gcm),
    (Profile::AeadAes256Gcm, ProtectionProfile::AeadAes256Gcm),
];

fn master() -> MasterKey {
    MasterKey {
        key: std::array::from_fn(|i| i as u8 * 37 + 5),
        salt: std::array::from_fn(|i| 0xC0 ^ (i as u8 * 11)),
        reserved: [0; 2],
    }
}

fn referee(profile: Profile, theirs: ProtectionProfile) -> Context {
    let master = master();
    Context::new(
        &master.key[..profile.key_len()],
        &master.salt[..profile.salt_len()],
        theirs,
        Some(srtp_replay_protection(128)),
        Some(srtcp_replay_protection(128)),
    )
    .expect("the referee takes the profile")
}

/// Header and payload of a packet; every third has CSRCs and an extension.
fn packet(index: u64) -> (Vec<u8>, Vec<u8>) {
    let mut header = vec![0x80, 0x80 | 96];
    header.extend((index as u16).to_be_bytes());
    header.extend((index as u32 * 3000).to_be_bytes());
    header.extend(0xDEAD_BEEFu32.to_be_bytes());
    if index.is_multiple_of(3) {
        header[0] |= 0x10 | 1;
        header.extend([1, 2, 3, 4]);
        header.extend([0xBE, 0xDE, 0, 1, 0x10, 0xAA, 0, 0]);
    }
    let payload = (0..200 + index % 1000).map(|i| (i * 7 + index) as u8).collect();
    (header, payload)
}

/// A run of indices across two wraps, as a sender that starts at 65,000 would number them, thinned out.
fn indices() -> impl Iterator<Item = u64> {
    (65_000..200_000).step_by(331).chain([200_001, 200_002])
}

#[test]
fn rtp_is_equal_byte_for_byte_in_both_directions_and_across_the_wrap() {
    for (profile, theirs) in PROFILES {
        let (mut their_seal, mut their_open) = (referee(profile, theirs), referee(profile, theirs));
        let (sealer, mut opener) = (Sealer::new(profile, &master()), Opener::new(profile, &master()));
        for index in indices() {
            let (header, payload) = packet(index);
            let plain = [&header[..], &payload].concat();
            let expected = their_seal.encrypt_rtp(&plain).unwrap();
            for split in [0, 2, 16] {
                let (prefix, payload) = payload.split_at(split);
                let mut out = vec![0; plain.len() + profile.rtp_overhead()];
                assert_eq!(sealer.seal_into(&header, prefix, payload, index, &mut out), Some(out.len()));
                assert_eq!(out[..], expected[..], "{profile:?} index {index} prefix {split}");
            }
            assert_eq!(their_open.decrypt_rtp(&expected).unwrap()[..], plain[..]);
            let mut received = expected.to_vec();
            let opened = opener.open_rtp(&mut received).unwrap();
            assert_eq!((opened.index, opened.header_len), (index, header.len()));
            assert_eq!(received[..opened.length], plain[..]);
        }
    }
}

#[test]
fn rtcp_is_equal_byte_for_byte_in_both_directions() {
    for (profile, theirs) in PROFILES {
        let (mut their_seal, mut their_open) = (referee(profile, theirs), referee(profile, theirs));
        let (sealer, mut opener) = (Sealer::new(profile, &master()), Opener::new(profile, &master()));
        for round in 0u32..50 {
            let mut plain = vec![0x80, 201, 0, 1];
            plain.extend(0xDEAD_BEEFu32.to_be_bytes());
            plain.extend((0..round * 4).map(|i| (i + round) as u8));
            let expected = their_seal.encrypt_rtcp(&plain).unwrap();
            // The referee numbers its packets from 1.
            let mut out = vec![0; plain.len() + profile.rtcp_overhead()];
            assert_eq!(sealer.seal_rtcp_into(&plain, round + 1, &mut out), Some(out.len()));
            assert_eq!(out[..], expected[..], "{profile:?} packet {round}");
            assert_eq!(their_open.decrypt_rtcp(&out).unwrap()[..], plain[..]);
            let length = opener.open_rtcp(&mut out).unwrap();
            assert_eq!(out[..length], plain[..]);
        }
    }
}

#[test]
fn both_refuse_a_replay_and_a_changed_bit() {
    for (profile, theirs) in PROFILES {
        let mut their_open = referee(profile, theirs);
        let (sealer, mut opener) = (Sealer::new(profile, &master()), Opener::new(profile, &master()));
        let (header, payload) = packet(1_000);
        let mut sealed = vec![0; header.len() + payload.len() + profile.rtp_overhead()];
        sealer.seal_into(&header, &[], &payload, 1_000, &mut sealed).unwrap();
        let mut changed = sealed.clone();
        changed[header.len() + 3] ^= 4;
        assert!(their_open.decrypt_rtp(&changed).is_err());
        assert_eq!(opener.open_rtp(&mut changed), Err(OpenError::Unauthentic));
        assert!(their_open.decrypt_rtp(&sealed).is_ok());
        assert!(opener.open_rtp(&mut sealed.clone()).is_ok());
        assert!(their_open.decrypt_rtp(&sealed).is_err());
        assert_eq!(opener.open_rtp(&mut sealed), Err(OpenError::Replayed));

        let report = [0x80, 201, 0, 1, 0, 0, 0, 9];
        let mut sealed = vec![0; report.len() + profile.rtcp_overhead()];
        sealer.seal_rtcp_into(&report, 1, &mut sealed).unwrap();
        assert!(their_open.decrypt_rtcp(&sealed).is_ok());
        assert!(opener.open_rtcp(&mut sealed.clone()).is_ok());
        assert!(their_open.decrypt_rtcp(&sealed).is_err());
        assert_eq!(opener.open_rtcp(&mut sealed), Err(OpenError::Replayed));
    }
}
