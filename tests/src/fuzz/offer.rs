//! Offers: within the bounds or refused by line; what control's admission accepts becomes an answer of at most 8 KB (ffmpeg reads
//! no more) that is itself a description, with the same sections.

use spillway::policy::admission::{self, LiveTrack};
use spillway::policy::Refusal;
use spillway_proto::id::{Codec, TrackId};
use spillway_proto::limits::{BODY_BYTES_MAX, PARAMETER_SETS_BYTES_MAX, SDP_LINES_MAX, SDP_MEDIA_MAX};
use spillway_proto::sdp::answer::{AnswerFacts, CANDIDATES_MAX, MediaText};
use spillway_proto::sdp::codec::H264Profile;
use spillway_proto::sdp::offer::{FragmentFacts, OfferFacts};
use spillway_proto::sdp::{SdpError, Setup};
use std::net::SocketAddr;

/// What ffmpeg's WHIP client reads of an answer.
const ANSWER_BYTES_MAX: usize = 8 * 1_024;

pub fn sdp_offer(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    match FragmentFacts::parse(&text) {
        Ok(_) => assert!(text.len() <= BODY_BYTES_MAX),
        Err(error) => refused(&error),
    }
    let offer = match OfferFacts::parse(&text) {
        Ok(offer) => offer,
        Err(error) => return refused(&error),
    };
    assert!(text.len() <= BODY_BYTES_MAX && text.lines().count() <= SDP_LINES_MAX + 1);
    assert!((1..=SDP_MEDIA_MAX).contains(&offer.media.len()));
    assert!((4..=256).contains(&offer.ice_ufrag.len()) && (22..=256).contains(&offer.ice_pwd.len()));
    admitted(&offer);
}

fn refused(error: &SdpError) {
    assert!(error.line >= 1 && error.line <= SDP_LINES_MAX + 1, "{error}");
    // It is logged and sent as JSON: short, and one line.
    let text = error.to_string();
    assert!(text.len() <= 1_024 && !text.contains(['\r', '\n', '\0']), "{text:?}");
}

/// What control's admission makes of it: a publisher's choice, and a viewer's for a stream of every video codec.
fn admitted(offer: &OfferFacts) {
    match admission::choose_sent(offer) {
        Ok(chosen) => {
            for track in &chosen {
                let facts = track.facts();
                assert!(facts.codec == track.codec && facts.payload_type == track.payload.payload_type);
                assert!(track.parameter_sets.len() <= PARAMETER_SETS_BYTES_MAX);
            }
            answered(offer, admission::answer_sent(offer, &chosen));
        }
        Err(refusal) => refused_admission(&refusal),
    }
    for video in [Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::H265] {
        for profile in [None, Some(H264Profile::ConstrainedBaseline), Some(H264Profile::High)] {
            let live = |index, codec, profile| LiveTrack { track: TrackId::new(index, 1), codec, profile };
            let stream = [live(1, Codec::Opus, None), live(2, video, profile)];
            let chosen = match admission::choose_received(offer, &stream) {
                Ok(chosen) => chosen,
                Err(refusal) => {
                    refused_admission(&refusal);
                    continue;
                }
            };
            for track in &chosen {
                let numbers = track.payload_types.iter().chain(&track.rtx_payload_types).filter(|number| **number != 0);
                assert_eq!(numbers.count(), track.payloads.len(), "each payload type of the answer is known to the engine");
            }
            let ssrcs: Vec<(u32, u32)> = (0..chosen.len() as u32).map(|n| (77 + 2 * n, 78 + 2 * n)).collect();
            // A room's name has at most 64 characters.
            answered(offer, admission::answer_received(offer, &chosen, &ssrcs, &"r".repeat(64)));
        }
    }
}

fn refused_admission(refusal: &Refusal) {
    match refusal {
        Refusal::Sdp(error) => refused(error),
        Refusal::NoCommonCodec { .. } | Refusal::TooManyTracks(_) => {
            let text = refusal.to_string();
            assert!(text.len() <= 4_096 && !text.contains(['\r', '\n', '\0']), "{text:?}");
        }
        other => panic!("an offer alone was refused with {other}"),
    }
}

fn answered(offer: &OfferFacts, media: Vec<MediaText>) {
    let candidates = (0..CANDIDATES_MAX as u16).map(|n| SocketAddr::from(([0x2001, 0xDB8, 1, 2, 3, 4, 5, n], 7_081)));
    let answer = AnswerFacts {
        origin: 1,
        ice_ufrag: "AAAAAAA123456789".into(),
        ice_pwd: "0123456789abcdefghijklmn".into(),
        fingerprint: [0xAB; 32],
        setup: Setup::Passive,
        candidates: candidates.collect(),
        media,
    };
    let text = answer.write();
    assert!(text.len() <= ANSWER_BYTES_MAX, "an answer of {} bytes", text.len());
    assert!(text.lines().all(|line| line.len() >= 2 && line.as_bytes()[1] == b'='), "{text}");
    let accepted = answer.media.iter().filter(|media| media.accepted.is_some()).count();
    let second = match OfferFacts::parse(&text) {
        Ok(second) => second,
        Err(error) => {
            assert!(accepted == 0, "{error}\n{text}");
            return;
        }
    };
    assert_eq!((&second.ice_ufrag, &second.ice_pwd), (&answer.ice_ufrag, &answer.ice_pwd));
    assert_eq!((second.fingerprint, second.setup), (answer.fingerprint, answer.setup));
    // RFC 3264 section 6: a section for each of the offer, in its order.
    assert_eq!(second.media.len(), offer.media.len());
    for ((ours, theirs), written) in second.media.iter().zip(&offer.media).zip(&answer.media) {
        assert_eq!((&ours.kind, &ours.mid, &ours.protocol), (&theirs.kind, &theirs.mid, &theirs.protocol));
        assert_eq!(ours.is_offered(), written.accepted.is_some());
        let Some(accepted) = &written.accepted else { continue };
        for (payload, written) in ours.payloads.iter().zip(&accepted.payloads) {
            assert!(theirs.payloads.iter().any(|offered| offered.payload_type == payload.payload_type));
            assert_eq!(payload.codec(), written.codec(), "{text}");
        }
        assert_eq!(ours.payloads.len(), accepted.payloads.len());
    }
    assert!(second.candidates.len() == if accepted > 0 { CANDIDATES_MAX } else { 0 });
}
