//! SRTP: published vectors, round trips, replay windows, forgeries.

use super::*;

const PROFILES: [Profile; 3] = [Profile::Aes128CmSha1_80, Profile::AeadAes128Gcm, Profile::AeadAes256Gcm];

fn hex<const LENGTH: usize>(text: &str) -> [u8; LENGTH] {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    bytes.try_into().expect("the length asked for")
}

fn master(seed: u8) -> MasterKey {
    MasterKey {
        key: std::array::from_fn(|i| seed.wrapping_mul(31).wrapping_add(i as u8 * 7)),
        salt: std::array::from_fn(|i| seed ^ (i as u8 * 13)),
        reserved: [0; 2],
    }
}

/// A window in which only `index` came.
fn only(index: u64) -> Window {
    let mut window = Window::default();
    window.mark(index);
    window
}

fn header(ssrc: u32, index: u64) -> Vec<u8> {
    let mut header = vec![0x80, 96];
    header.extend((index as u16).to_be_bytes());
    header.extend([1, 2, 3, 4]);
    header.extend(ssrc.to_be_bytes());
    header
}

fn sealed(sealer: &Sealer, ssrc: u32, index: u64) -> Vec<u8> {
    let mut out = [0; 200];
    let length = sealer.seal_into(&header(ssrc, index), &[], b"payload", index, &mut out).unwrap();
    out[..length].to_vec()
}

#[test]
fn keys_are_derived_as_in_rfc_3711_appendix_b_3() {
    let mut master = MasterKey { key: [0; 32], salt: [0; 14], reserved: [0; 2] };
    master.key[..16].copy_from_slice(&hex::<16>("E1F97A0D3E018BE0D64FA32C06DE4139"));
    master.salt = hex("0EC675AD498AFEEBB6960B3AABE6");
    let derivation = Derivation::new(Profile::Aes128CmSha1_80, &master);
    assert_eq!(derivation.bytes::<16>(0), hex("C61E7A93744F39EE10734AFE3FF7A087"));
    assert_eq!(derivation.bytes::<14>(2), hex("30CBBC08863D8C85D49DB34A9AE1"));
    assert_eq!(derivation.bytes::<20>(1), hex("CEBE321F6FF7716B6FD4AB49AF256A156D38BAA4"));
}

#[test]
fn gcm_seals_the_packets_of_rfc_7714_sections_16_1_1_and_16_2_1() {
    let (key, salt) = (hex::<32>("000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"), hex("517569642070726f2071756f"));
    let of_128 = hex::<66>(
        "8040f17b8041f8d35501a0b2f24de3a3fb34de6cacba861c9d7e4bcabe633bd50d294e6f42a5f47a51c7d19b36de3adf8833
         899d7f27beb16a9152cf765ee4390cce",
    );
    let of_256 = hex::<66>(
        "8040f17b8041f8d35501a0b232b1de78a822fe12ef9f78fa332e33aab18012389a58e2f3b50b2a0276ffae0f1ba63799b87b
         7aa3db36dfffd6b0f9bb7878d7a76c13",
    );
    let both = [(Profile::AeadAes128Gcm, of_128), (Profile::AeadAes256Gcm, of_256)];
    for ((profile, expected), media) in both.into_iter().flat_map(|case| [MediaKey::aws_lc, MediaKey::new].map(|media| (case, media))) {
        let key = &key[..profile.key_len()];
        let keys = Keys::Gcm(GcmKeys { rtp: Gcm::new(media(profile, key), salt), rtcp: Gcm::new(aead_key(profile, key), salt) });
        let sealer = Sealer { profile, keys };
        let mut out = [0; 100];
        let header = hex::<12>("8040f17b8041f8d35501a0b2");
        let length = sealer.seal_into(&header, &[], b"Gallia est omnis divisa in partes tres", 0xf17b, &mut out).unwrap();
        assert_eq!(out[..length], expected);
    }
}

#[test]
fn what_is_sealed_opens_with_csrcs_extension_and_prefix() {
    for profile in PROFILES {
        let sealer = Sealer::new(profile, &master(1));
        let mut opener = Opener::new(profile, &master(1));
        let mut header = header(0xCAFE, 7);
        header[0] |= 0x10 | 2;
        header.extend([0; 8]);
        header.extend([0xBE, 0xDE, 0, 2, 1, 2, 3, 4, 5, 6, 7, 8]);
        for (prefix, payload) in
            [(0, 0), (0, 33), (2, 33), (16, 0), (1, 1), (15, 1100), (16, 1100), (0, 1100)]
        {
            let (prefix, payload) = (vec![9; prefix], vec![5; payload]);
            let plain = [&header[..], &prefix, &payload].concat();
            let mut out = vec![0; plain.len() + profile.rtp_overhead()];
            let short = out.len() - 1;
            assert_eq!(sealer.seal_into(&header, &prefix, &payload, 7, &mut out[..short]), None);
            assert_eq!(sealer.seal_into(&header, &prefix, &payload, 7, &mut out), Some(out.len()));
            assert_eq!(out[..header.len()], header);
            if !payload.is_empty() {
                assert_ne!(out[header.len()..plain.len()], plain[header.len()..]);
            }
            opener.rtp = Windows::default();
            let opened = opener.open_rtp(&mut out).unwrap();
            assert_eq!(
                opened,
                Opened { ssrc: 0xCAFE, index: 7, header_len: header.len(), length: plain.len() }
            );
            assert_eq!(out[..opened.length], plain);
        }
    }
}

#[test]
fn rtcp_opens_once_per_ssrc_and_index() {
    for profile in PROFILES {
        let sealer = Sealer::new(profile, &master(1));
        let mut opener = Opener::new(profile, &master(1));
        let packet = [0x80, 201, 0, 1, 0, 0, 0, 9, 1, 2, 3, 4];
        let mut out = [0; 12 + 20];
        let length = sealer.seal_rtcp_into(&packet, 5, &mut out).unwrap();
        assert_eq!(length, packet.len() + profile.rtcp_overhead());
        assert_eq!(sealer.seal_rtcp_into(&packet, 5, &mut [0; 12]), None);
        assert_eq!(sealer.seal_rtcp_into(&packet[..7], 5, &mut [0; 99]), None);
        let first = out[..length].to_vec();
        assert_eq!(opener.open_rtcp(&mut out[..length]), Ok(packet.len()));
        assert_eq!(out[..packet.len()], packet);
        assert_eq!(opener.open_rtcp(&mut first.clone()), Err(OpenError::Replayed));
        // The same index from another SSRC, as libsrtp counts.
        let mut other = packet;
        other[7] = 10;
        let length = sealer.seal_rtcp_into(&other, 5, &mut out).unwrap();
        assert_eq!(opener.open_rtcp(&mut out[..length]), Ok(packet.len()));
        // Bits of header, ciphertext, tag and index word are all covered by the tag.
        for at in 1..first.len() {
            let mut forged = first.clone();
            forged[at] ^= 1;
            let mut opener = Opener::new(profile, &master(1));
            assert!(opener.open_rtcp(&mut forged).is_err(), "{profile:?} byte {at}");
            assert!(opener.rtcp.0.is_empty());
        }
    }
}

#[test]
fn rtcp_in_clear_is_refused() {
    let mut opener = Opener::new(Profile::AeadAes128Gcm, &master(1));
    let mut packet = [0; 40];
    packet[0] = 0x80;
    assert_eq!(opener.open_rtcp(&mut packet), Err(OpenError::Malformed));
}

#[test]
fn a_forged_packet_leaves_no_trace() {
    for profile in PROFILES {
        let sealer = Sealer::new(profile, &master(1));
        let mut opener = Opener::new(profile, &master(1));
        assert!(opener.open_rtp(&mut sealed(&sealer, 1, 100)).is_ok());
        let before = *opener.window(1).unwrap();
        for at in 0..sealed(&sealer, 1, 101).len() {
            let mut forged = sealed(&sealer, 1, 101);
            forged[at] ^= 0x40;
            assert!(opener.open_rtp(&mut forged).is_err(), "{profile:?} byte {at}");
        }
        assert_eq!(opener.window(1), Some(&before));
        assert_eq!(opener.rtp.0.len(), 1, "no state for SSRCs that did not authenticate");
        assert!(opener.open_rtp(&mut sealed(&sealer, 1, 101)).is_ok());
        let mut foreign = sealed(&Sealer::new(profile, &master(2)), 1, 102);
        assert_eq!(opener.open_rtp(&mut foreign), Err(OpenError::Unauthentic));
    }
}

#[test]
fn no_bytes_panic() {
    let mut rng = crate::rng::Rng::new(4);
    for profile in PROFILES {
        let mut opener = Opener::new(profile, &master(1));
        for length in 0..120 {
            for first in [0x00, 0x80, 0x8F, 0x90, 0x9F, 0xBF] {
                let mut bytes = vec![0; length];
                rng.fill(&mut bytes);
                if let Some(byte) = bytes.first_mut() {
                    *byte = first;
                }
                assert!(opener.open_rtp(&mut bytes.clone()).is_err());
                assert!(opener.open_rtcp(&mut bytes).is_err());
            }
        }
    }
}

#[test]
fn the_window_takes_each_index_once_and_nothing_older_than_8192() {
    let sealer = Sealer::new(Profile::AeadAes256Gcm, &master(1));
    let mut opener = Opener::new(Profile::AeadAes256Gcm, &master(1));
    let mut open = |index| opener.open_rtp(&mut sealed(&sealer, 1, index)).map(|opened| opened.index);
    assert_eq!(open(21_000), Ok(21_000));
    assert_eq!(open(21_000), Err(OpenError::Replayed));
    assert_eq!(open(21_003), Ok(21_003));
    assert_eq!(open(21_001), Ok(21_001));
    assert_eq!(open(21_001), Err(OpenError::Replayed));
    // Sent again as they were, 1,000 packets later and as late as a reel takes them.
    for late in [1_000, 1_024, 8_191] {
        assert_eq!(open(21_003 - late), Ok(21_003 - late));
        assert_eq!(open(21_003 - late), Err(OpenError::Replayed));
    }
    assert_eq!(open(21_003 - 8_192), Err(OpenError::TooOld));
    assert_eq!(open(21_003 + 64), Ok(21_003 + 64));
    assert_eq!(open(21_000), Err(OpenError::Replayed));
    assert_eq!(open(21_002), Ok(21_002));
    assert_eq!(open(21_003 + 9_000), Ok(21_003 + 9_000));
    assert_eq!(open(21_003 + 64), Err(OpenError::TooOld));
    assert_eq!(open(21_003 + 8_999), Ok(21_003 + 8_999));
}

/// Random indices around the newest, against a set.
#[test]
fn a_window_agrees_with_a_set() {
    let mut rng = crate::rng::Rng::new(8);
    for _ in 0..200 {
        let mut window = Window::<MEDIA_WORDS>::default();
        let mut opened = std::collections::BTreeSet::new();
        let mut newest = rng.below(100_000);
        for _ in 0..600 {
            let index = match rng.below(8) {
                0 => newest + rng.below(6_000),
                1 => newest.saturating_sub(rng.below(6_000)),
                2 => newest.saturating_sub(4_092 + rng.below(8)),
                _ => newest + rng.below(3),
            };
            let expected = match opened.last() {
                Some(last) if index + WINDOW_PACKETS <= *last => Err(OpenError::TooOld),
                _ if opened.contains(&index) => Err(OpenError::Replayed),
                _ => Ok(()),
            };
            assert_eq!(window.check(index), expected, "{index}, newest {:?}", opened.last());
            if expected.is_ok() {
                window.mark(index);
                opened.insert(index);
            }
            newest = newest.max(index);
            assert_eq!(window.sequence_max, *opened.last().unwrap());
        }
    }
}

#[test]
fn the_rollover_counter_is_followed_across_wraps() {
    for profile in PROFILES {
        let sealer = Sealer::new(profile, &master(1));
        let mut opener = Opener::new(profile, &master(1));
        let mut open = |index| opener.open_rtp(&mut sealed(&sealer, 1, index)).map(|opened| opened.index);
        for index in [65_530, 65_540, 65_535, 65_536, 98_000, 130_000, 131_080, 131_071, 131_072] {
            assert_eq!(open(index), Ok(index));
        }
        assert_eq!(open(65_540), Err(OpenError::Unauthentic), "taken for the third period");
    }
    let first = only(5);
    assert_eq!(first.estimate(65_530), None, "there is nothing before period 0");
    let last = only(INDEX_END - 1);
    assert_eq!(last.estimate(0), None, "a key ends with its 48 bits");
}

#[test]
fn the_estimate_is_the_nearest_index_with_that_sequence() {
    for newest in [0x1_0000u64, 0x1_7FFF, 0x1_8000, 0x1_8001, 0x1_FFFF, 0x5_0001] {
        let window = only(newest);
        for away in [-32_767i64, -32_000, -129, -1, 0, 1, 300, 32_000, 32_767] {
            let index = newest.checked_add_signed(away).unwrap();
            assert_eq!(window.estimate(index as u16), Some(index), "{newest:x} {away}");
        }
    }
}

#[test]
fn a_window_goes_on_in_another_opener() {
    let profile = Profile::AeadAes256Gcm;
    let sealer = Sealer::new(profile, &master(1));
    let mut first = Opener::new(profile, &master(1));
    let index = 3 << 16 | 40_000;
    assert!(first.restore_window(9, only(index - 1)));
    assert!(first.open_rtp(&mut sealed(&sealer, 9, index)).is_ok());
    let mut second = Opener::new(profile, &master(1));
    assert!(second.restore_window(9, first.window(9).unwrap().kept()));
    assert_eq!(second.open_rtp(&mut sealed(&sealer, 9, index)), Err(OpenError::Replayed));
    assert_eq!(second.open_rtp(&mut sealed(&sealer, 9, index + 1)).unwrap().index, index + 1);
}

/// A record keeps the newest part; what is older counts as opened, and nothing is opened twice.
#[test]
fn what_a_record_keeps_of_a_window_refuses_everything_that_was_opened() {
    let mut rng = crate::rng::Rng::new(9);
    assert_eq!(Window::restored(&Window::<MEDIA_WORDS>::default().kept()), Window::default());
    for _ in 0..200 {
        let mut window = Window::<MEDIA_WORDS>::default();
        let mut newest = rng.below(10_000);
        for _ in 0..3_000 {
            newest += rng.below(3);
            window.mark(newest - rng.below(newest.min(30) + 1));
        }
        let again = Window::restored(&window.kept());
        assert_eq!(again.sequence_max, window.sequence_max);
        let newest = window.sequence_max;
        for index in newest.saturating_sub(4_200)..newest + 100 {
            let (before, after) = (window.check(index), again.check(index));
            if newest.saturating_sub(index) < 64 * 15 {
                assert_eq!(before, after, "{index}, newest {newest}");
            }
            assert!(before.is_ok() || after.is_err(), "{index} could be opened twice, newest {newest}");
        }
    }
}

#[test]
fn ssrcs_are_bounded() {
    let profile = Profile::AeadAes128Gcm;
    let sealer = Sealer::new(profile, &master(1));
    let mut opener = Opener::new(profile, &master(1));
    for ssrc in 0..SSRCS_PER_SESSION_MAX as u32 {
        assert!(opener.open_rtp(&mut sealed(&sealer, ssrc, 1)).is_ok());
    }
    assert_eq!(opener.open_rtp(&mut sealed(&sealer, 99, 1)), Err(OpenError::TooManySsrcs));
    assert!(!opener.restore_window(99, Window::default()));
    assert!(opener.open_rtp(&mut sealed(&sealer, 3, 2)).is_ok());
}
