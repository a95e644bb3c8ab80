//! Answers as text, read back by our own parser; Chromium is the referee, in the end-to-end tests.

use super::*;
use crate::id::{Codec, Kind};
use crate::sdp::offer::OfferFacts;
use crate::sdp::{Feedback, TRANSPORT_CC_URI, codec::H264Profile};

const CHROMIUM_PUBLISH: &str = include_str!("../fixtures/chromium_publish.sdp");
const CHROMIUM_VIEW: &str = include_str!("../fixtures/chromium_view.sdp");

fn answer(media: Vec<MediaText>) -> AnswerFacts {
    AnswerFacts {
        origin: 7,
        ice_ufrag: "AAAABBBccccccccc".into(),
        ice_pwd: "0123456789abcdefghijklmn".into(),
        fingerprint: [0xab; 32],
        setup: Setup::Passive,
        candidates: vec!["192.0.2.7:7081".parse().unwrap(), "[2001:db8::7]:7081".parse().unwrap()],
        media,
    }
}

fn source(ssrc: u32) -> Option<SourceText> {
    Some(SourceText { ssrc, rtx_ssrc: 0, cname: "spillway".into(), msid: ("demo".into(), format!("t{ssrc}")) })
}

/// Everything an offer may be granted.
const ALL: Feedback = Feedback { nack: true, nack_pli: true, ccm_fir: true, transport_cc: true, remb: true };

/// The codec's best payload type and its retransmissions, as they stand in an answer.
fn with_rtx(section: &MediaFacts, codec: Codec) -> Vec<PayloadFacts> {
    let media = section.payload_to_send(codec, None).unwrap().answered(ALL);
    let rtx = section.rtx_of(&media).map(|rtx| PayloadFacts::rtx(rtx.payload_type, media.payload_type, 90_000));
    std::iter::once(media).chain(rtx).collect()
}

#[test]
fn a_publisher_is_told_to_send_what_was_chosen() {
    let offer = OfferFacts::parse(CHROMIUM_PUBLISH).unwrap();
    let media = offer
        .media
        .iter()
        .map(|section| {
            let codec = if section.kind == MediaKind::Rtp(Kind::Audio) { Codec::Opus } else { Codec::H264 };
            let wanted = Feedback { nack_pli: true, ccm_fir: true, ..Feedback::default() };
            let payload = section.payload_to_receive(codec).unwrap().answered(wanted);
            MediaText::accepted(section, Direction::RecvOnly, &[payload], &[], None)
        })
        .collect();
    let text = answer(media).write();
    assert!(text.starts_with("v=0\r\n") && text.len() < 8_192);
    assert!(text.lines().any(|line| line == "a=ice-lite"));
    assert!(text.contains("a=group:BUNDLE 0 1\r\n"));
    assert!(text.contains("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n") && text.contains("m=video 9 UDP/TLS/RTP/SAVPF 109\r\n"));
    assert!(text.contains("a=rtcp-fb:109 nack pli\r\n") && text.contains("a=rtcp-fb:109 ccm fir\r\n"));
    for absent in ["transport-cc", "a=rtcp-fb:109 nack\r\n", "rtx", "extmap", "rtcp-mux-only", "a=ssrc", "goog-remb"] {
        assert!(!text.contains(absent), "not wanted, not granted: {absent}");
    }
    let candidates: Vec<&str> = text.lines().filter(|line| line.starts_with("a=candidate")).collect();
    assert_eq!(candidates[0], "a=candidate:1 1 udp 2130706431 192.0.2.7 7081 typ host");
    assert_eq!(candidates[1], "a=candidate:2 1 udp 2130706175 2001:db8::7 7081 typ host");
    assert_eq!(text.matches("a=end-of-candidates").count(), 1);
    let read = OfferFacts::parse(&text).unwrap();
    assert!(read.ice_lite);
    assert_eq!((read.setup, read.fingerprint), (Setup::Passive, [0xab; 32]));
    assert_eq!(read.candidates[1].address, Some("2001:db8::7".parse().unwrap()));
    assert_eq!(read.media[1].direction, Direction::RecvOnly);
    assert_eq!(read.media[1].payloads[0].h264_profile(), Some(H264Profile::ConstrainedBaseline));
}

#[test]
fn a_viewer_hears_the_ssrcs_it_will_get() {
    let offer = OfferFacts::parse(CHROMIUM_VIEW).unwrap();
    let video = offer.section(Kind::Video).unwrap();
    let payloads: Vec<PayloadFacts> =
        [Codec::H264, Codec::Vp8].map(|codec| video.payload_to_send(codec, None).unwrap().answered(ALL)).into();
    let accepted = MediaText::accepted(video, Direction::SendOnly, &payloads, &[], source(42));
    let media = vec![MediaText::rejected(&offer.media[0]), accepted];
    let text = answer(media).write();
    assert!(text.contains("m=audio 0 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=inactive\r\n"));
    assert!(text.contains("a=group:BUNDLE 1\r\n"), "a refused section leaves the bundle");
    assert!(text.contains("m=video 9 UDP/TLS/RTP/SAVPF 109 96\r\n"), "the stream's codec first");
    assert!(text.contains("a=ssrc:42 cname:spillway\r\na=ssrc:42 msid:demo t42\r\n"));
    let read = OfferFacts::parse(&text).unwrap();
    assert!(read.section(Kind::Audio).is_none());
    let video = read.section(Kind::Video).unwrap();
    assert_eq!((video.ssrcs[0].ssrc, video.msid.as_str()), (42, "demo t42"));
    assert_eq!(video.codecs(), [Codec::H264, Codec::Vp8]);
    assert!(video.rtcp_rsize);
    assert!(!text.contains("ssrc-group") && text.matches("a=ssrc:").count() == 2, "{text}");
}

#[test]
fn repairs_and_extensions_are_written_and_read_back() {
    let offer = CHROMIUM_PUBLISH.replace("a=extmap:3 ", "a=extmap:3/sendonly ").replace("apt=96", "apt=96;rtx-time=3000");
    let offer = OfferFacts::parse(&offer).unwrap();
    let video = offer.section(Kind::Video).unwrap();
    let extension = video.extension_sent(TRANSPORT_CC_URI).unwrap().answered();
    let from = Some(SourceText { rtx_ssrc: 43, ..source(42).unwrap() });
    let accepted = MediaText::accepted(video, Direction::SendOnly, &with_rtx(video, Codec::Vp8), &[extension], from);
    let text = answer(vec![MediaText::rejected(&offer.media[0]), accepted]).write();
    assert!(text.contains("m=video 9 UDP/TLS/RTP/SAVPF 96 97\r\n"), "{text}");
    assert!(text.contains("a=rtpmap:97 rtx/90000\r\na=fmtp:97 apt=96\r\n"), "{text}");
    assert!(text.contains(&format!("a=extmap-allow-mixed\r\na=extmap:3/recvonly {TRANSPORT_CC_URI}\r\n")), "{text}");
    for kind in ["nack", "nack pli", "ccm fir", "transport-cc", "goog-remb"] {
        assert_eq!(text.matches(&format!("a=rtcp-fb:96 {kind}\r\n")).count(), 1, "{kind}: {text}");
    }
    let group = "a=ssrc-group:FID 42 43\r\na=ssrc:42 cname:spillway\r\na=ssrc:42 msid:demo t42\r\n\
                 a=ssrc:43 cname:spillway\r\na=ssrc:43 msid:demo t42\r\n";
    assert!(text.contains(group), "{text}");
    let read = OfferFacts::parse(&text).unwrap();
    let video = read.section(Kind::Video).unwrap();
    assert_eq!((video.rtx_ssrc_of(42), video.payloads[0].feedback), (43, ALL));
    assert_eq!(video.rtx_of(&video.payloads[0]).map(|rtx| rtx.payload_type), Some(97));
    assert!(video.extension_sent(TRANSPORT_CC_URI).is_none(), "we only receive it");
}

#[test]
fn our_clients_offer_is_read_by_our_server() {
    let payload = |payload_type, codec: Codec, channels, fmtp: &str| PayloadFacts {
        payload_type,
        name: codec.sdp_name().into(),
        clock_rate: codec.clock_rate(),
        channels,
        fmtp: fmtp.into(),
        feedback: Feedback { nack_pli: codec.kind() == Kind::Video, ..Feedback::default() },
    };
    let section = |kind: Kind, mid: &str, payload: PayloadFacts| MediaText {
        kind: MediaKind::Rtp(kind),
        mid: mid.into(),
        protocol: "UDP/TLS/RTP/SAVPF".into(),
        format_first: String::new(),
        accepted: Some(AcceptedText {
            direction: Direction::SendOnly,
            payloads: vec![payload],
            extensions: Vec::new(),
            extmap_allow_mixed: false,
            rtcp_rsize: true,
            source: source(9),
        }),
    };
    let text = OfferText {
        origin: 1,
        ice_ufrag: "abcd".into(),
        ice_pwd: "0123456789abcdefghijkl".into(),
        fingerprint: [1; 32],
        setup: Setup::Active,
        media: vec![
            section(Kind::Audio, "0", payload(111, Codec::Opus, 2, "")),
            section(Kind::Video, "1", payload(96, Codec::H264, 1, "packetization-mode=1;profile-level-id=42e01f")),
        ],
    }
    .write();
    let read = OfferFacts::parse(&text).unwrap();
    assert_eq!(read.setup, Setup::Active);
    assert_eq!(read.section(Kind::Audio).unwrap().codecs(), [Codec::Opus]);
    assert_eq!(read.section(Kind::Video).unwrap().codecs(), [Codec::H264]);
    assert_eq!(read.section(Kind::Video).unwrap().ssrcs[0].ssrc, 9);
    assert!(text.contains("a=rtcp-mux-only\r\n"));
}

/// What the clients without a browser's parser need of an answer.
#[test]
fn obs_ffmpeg_and_gstreamer_read_their_answers() {
    let publishers = [
        ("OBS", include_str!("../fixtures/obs_publish.sdp")),
        ("OBS with layers", include_str!("../fixtures/obs_simulcast.sdp")),
        ("ffmpeg 8", include_str!("../fixtures/ffmpeg_publish.sdp")),
        ("ffmpeg 9", include_str!("../fixtures/ffmpeg9_publish.sdp")),
        ("GStreamer", include_str!("../fixtures/gstreamer_publish.sdp")),
        ("GStreamer, watching", include_str!("../fixtures/gstreamer_view.sdp")),
    ];
    for (client, offer) in publishers {
        let offer = OfferFacts::parse(offer).unwrap();
        let media = offer
            .media
            .iter()
            .map(|section| {
                let (codec, direction) = (section.codecs()[0], section.direction);
                let payload = section.payload_to_receive(codec).unwrap().clone();
                match direction {
                    Direction::RecvOnly => MediaText::accepted(section, Direction::SendOnly, &[payload], &[], source(7)),
                    _ => MediaText::accepted(section, Direction::RecvOnly, &[payload], &[], None),
                }
            })
            .collect();
        let mut facts = answer(media);
        facts.setup = if offer.setup == Setup::Passive { Setup::Active } else { Setup::Passive };
        facts.candidates.resize(CANDIDATES_MAX, "[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap());
        let text = facts.write();
        // OBS trims what stands before; ffmpeg takes nothing before it, and no more than 8 KB.
        assert!(text.starts_with("v=0\r\n") && text.len() <= 8_192, "{client}: {} bytes", text.len());
        // ffmpeg knows the first candidate of UDP and type host, and that one only; it parses IPv4.
        let first = text.lines().find(|line| line.contains("udp") && line.contains("host")).unwrap();
        assert_eq!(first, "a=candidate:1 1 udp 2130706431 192.0.2.7 7081 typ host", "{client}");
        // OBS and libnice end with a warning where a name stands instead of an address; all need one bundle.
        let mids: Vec<&str> = offer.media.iter().map(|section| section.mid.as_str()).collect();
        assert!(text.contains(&format!("a=group:BUNDLE {}\r\n", mids.join(" "))), "{client}");
        // A section that waited for its bundle with port 0 is accepted with port 9 (RFC 8843 section 7.3.3).
        assert_eq!(text.matches("\r\nm=").count(), text.matches(" 9 UDP/TLS/RTP/SAVPF ").count(), "{client}");
        let ice_chars = |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/".contains(&byte));
        let read = OfferFacts::parse(&text).unwrap();
        assert!(ice_chars(&read.ice_ufrag) && ice_chars(&read.ice_pwd) && read.ice_lite, "{client}");
        assert_eq!(read.media.len(), offer.media.len(), "{client}");
        // RFC 8853 section 5.3.2: what the answer leaves out is not sent. OBS then ends by itself and says that not all
        // of its layers were accepted; with one layer it sends no rid.
        assert!(!text.contains("a=simulcast") && !text.contains("a=rid"), "{client}");
    }
}

#[test]
fn the_largest_answer_is_one_that_ffmpeg_reads() {
    let offer = OfferFacts::parse(CHROMIUM_VIEW).unwrap();
    let mut media: Vec<MediaText> = offer
        .media
        .iter()
        .map(|section| {
            let all: Vec<PayloadFacts> =
                section.codecs().iter().flat_map(|codec| with_rtx(section, *codec)).collect();
            let source = SourceText { rtx_ssrc: u32::MAX - 1, ..source(u32::MAX).unwrap() };
            MediaText::accepted(section, Direction::SendOnly, &all, &[], Some(source))
        })
        .collect();
    while media.len() < crate::limits::SDP_MEDIA_MAX {
        media.push(MediaText::rejected(&offer.media[1]));
    }
    let mut facts = answer(media);
    facts.candidates = vec!["[2001:db8:1111:2222:3333:4444:5555:6666]:65535".parse().unwrap(); 100];
    let text = facts.write();
    assert_eq!(text.matches("a=candidate").count(), CANDIDATES_MAX);
    assert!(text.len() < 8_192, "{}", text.len());
}
