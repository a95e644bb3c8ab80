//! Offers: within the bounds or refused by line; what is accepted becomes an answer of at most 8 KB (ffmpeg reads
//! no more) that is itself a description, with the same sections.

use spillway_proto::id::Codec;
use spillway_proto::limits::{BODY_BYTES_MAX, SDP_LINES_MAX, SDP_MEDIA_MAX};
use spillway_proto::sdp::answer::{AnswerFacts, CANDIDATES_MAX, MediaText, SourceText};
use spillway_proto::sdp::offer::{FragmentFacts, MediaFacts, OfferFacts, PayloadFacts};
use spillway_proto::sdp::{DEPENDENCY_DESCRIPTOR_URI, Direction, MediaKind, SdpError, Setup, TRANSPORT_CC_URI};
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
    answered(&offer, true);
    answered(&offer, false);
}

fn refused(error: &SdpError) {
    assert!(error.line >= 1 && error.line <= SDP_LINES_MAX + 1, "{error}");
    // It is logged and sent as JSON: short, and one line.
    let text = error.to_string();
    assert!(text.len() <= 1_024 && !text.contains(['\r', '\n', '\0']), "{text:?}");
}

/// Every section that can be is accepted with one payload type per codec, as control does for the first of a kind.
fn answered(offer: &OfferFacts, publishes: bool) {
    let chosen = |media: &MediaFacts| -> Vec<PayloadFacts> {
        let find = |codec: Codec| {
            if publishes { media.payload_to_receive(codec) } else { media.payload_to_send(codec, None) }.cloned()
        };
        // Each before its retransmissions.
        let with_rtx = |payload: PayloadFacts| {
            let rtx = media.rtx_of(&payload).map(|rtx| PayloadFacts::rtx(rtx.payload_type, payload.payload_type, rtx.clock_rate));
            std::iter::once(payload).chain(rtx)
        };
        let found = media.codecs().into_iter().filter_map(find);
        if publishes { found.take(1).flat_map(with_rtx).collect() } else { found.flat_map(with_rtx).collect() }
    };
    let mut taken: Vec<&MediaKind> = Vec::new();
    let media: Vec<MediaText> = offer
        .media
        .iter()
        .map(|section| {
            let payloads = if section.is_offered() && !taken.contains(&&section.kind) { chosen(section) } else { Vec::new() };
            if payloads.is_empty() {
                return MediaText::rejected(section);
            }
            taken.push(&section.kind);
            if publishes {
                let extensions = [TRANSPORT_CC_URI, DEPENDENCY_DESCRIPTOR_URI].map(|uri| section.extension_sent(uri));
                let extensions: Vec<_> = extensions.into_iter().flatten().map(|extension| extension.answered()).collect();
                return MediaText::accepted(section, Direction::RecvOnly, &payloads, &extensions, None);
            }
            // A room's name has at most 64 characters.
            let name = "r".repeat(64);
            let msid = (name.clone(), format!("{name}-{}", section.kind));
            let source = SourceText { ssrc: 77, rtx_ssrc: 78, cname: name, msid };
            MediaText::accepted(section, Direction::SendOnly, &payloads, &[], Some(source))
        })
        .collect();
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
