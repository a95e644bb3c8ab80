//! Offers in the shapes of real clients, refusals by line, and torture.

use super::*;
use crate::id::Codec;
use crate::rng::Rng;
use crate::sdp::TRANSPORT_CC_URI;
use std::time::{Duration, Instant};

pub(crate) const CHROMIUM_PUBLISH: &str = include_str!("../fixtures/chromium_publish.sdp");
pub(crate) const CHROMIUM_VIEW: &str = include_str!("../fixtures/chromium_view.sdp");
const FIREFOX_VIEW: &str = include_str!("../fixtures/firefox_view.sdp");
const OBS_PUBLISH: &str = include_str!("../fixtures/obs_publish.sdp");
const GSTREAMER_PUBLISH: &str = include_str!("../fixtures/gstreamer_publish.sdp");
const FFMPEG_PUBLISH: &str = include_str!("../fixtures/ffmpeg_publish.sdp");
const FFMPEG9_PUBLISH: &str = include_str!("../fixtures/ffmpeg9_publish.sdp");
const OBS_SIMULCAST: &str = include_str!("../fixtures/obs_simulcast.sdp");
const GSTREAMER_VIEW: &str = include_str!("../fixtures/gstreamer_view.sdp");
const ALL: [&str; 9] = [
    CHROMIUM_PUBLISH,
    CHROMIUM_VIEW,
    FIREFOX_VIEW,
    OBS_PUBLISH,
    OBS_SIMULCAST,
    GSTREAMER_PUBLISH,
    GSTREAMER_VIEW,
    FFMPEG_PUBLISH,
    FFMPEG9_PUBLISH,
];

fn parse(text: &str) -> OfferFacts {
    OfferFacts::parse(text).unwrap()
}

/// The error after `from` became `to`, once.
fn broken(offer: &str, from: &str, to: &str) -> SdpError {
    assert!(offer.contains(from), "{from}");
    OfferFacts::parse(&offer.replacen(from, to, 1)).unwrap_err()
}

#[test]
fn chromium_publishes() {
    let facts = parse(CHROMIUM_PUBLISH);
    assert_eq!((facts.ice_ufrag.as_str(), facts.setup, facts.ice_lite), ("Xb3k", Setup::ActPass, false));
    assert_eq!((facts.fingerprint[0], facts.fingerprint[31]), (0x5b, 0x04));
    assert_eq!(facts.media.len(), 2);
    let video = facts.section(Kind::Video).unwrap();
    assert_eq!((video.mid.as_str(), video.direction, video.bundled), ("1", Direction::SendOnly, true));
    assert!(video.rtcp_mux && video.rtcp_rsize);
    assert_eq!(video.codecs(), [Codec::Vp8, Codec::H264, Codec::Av1, Codec::Vp9]);
    assert_eq!(video.payload_to_receive(Codec::H264).unwrap().payload_type, 109);
    assert_eq!(video.payloads.len(), 18);
    let rtx = video.payloads.iter().find(|p| p.payload_type == 97).unwrap();
    assert_eq!((rtx.name.as_str(), rtx.parameter("apt")), ("rtx", Some("96")));
    assert!(video.payloads[0].feedback.nack_pli && video.payloads[0].feedback.transport_cc);
    assert_eq!(video.fid_groups, [(1301920455, 3382911042)]);
    assert_eq!((video.ssrcs[0].ssrc, video.ssrcs[0].cname.as_str()), (1301920455, "u3Gq1kP0vZx"));
    assert_eq!(video.ssrcs[0].msid, "stream1 video1");
    let mid = ExtensionFacts { id: 4, uri: "urn:ietf:params:rtp-hdrext:sdes:mid".into(), direction: None };
    assert_eq!((&video.extensions[3], video.extmap_allow_mixed), (&mid, true));
    assert_eq!(video.rtx_of(&video.payloads[0]).map(|rtx| rtx.payload_type), Some(97));
    assert_eq!(video.rtx_of(&video.payloads[1]), None, "nothing repairs the repairs");
    assert_eq!((video.rtx_ssrc_of(1301920455), video.rtx_ssrc_of(3382911042), video.rtx_ssrc_of(0)), (3382911042, 0, 0));
    assert_eq!(video.extension_sent(TRANSPORT_CC_URI).map(|extension| extension.id), Some(3));
    for (direction, sent) in [("/sendonly", true), ("/sendrecv", true), ("/recvonly", false), ("/inactive", false), ("/x", false)] {
        let text = CHROMIUM_PUBLISH.replace("a=extmap:3 ", &format!("a=extmap:3{direction} "));
        assert_eq!(parse(&text).media[1].extension_sent(TRANSPORT_CC_URI).is_some(), sent, "{direction}");
    }
    let audio = facts.section(Kind::Audio).unwrap();
    assert_eq!(audio.payload_to_receive(Codec::Opus).unwrap().payload_type, 111);
    assert_eq!(audio.codec_names(), ["opus", "G722", "PCMU", "PCMA"]);
}

#[test]
fn viewers_of_chromium_and_firefox_receive() {
    assert_eq!(parse(CHROMIUM_VIEW).section(Kind::Audio).unwrap().direction, Direction::RecvOnly);
    let facts = parse(FIREFOX_VIEW);
    let video = facts.section(Kind::Video).unwrap();
    assert_eq!((video.port, video.bundle_only, video.direction), (0, true, Direction::RecvOnly));
    assert_eq!(video.codecs(), [Codec::Vp8, Codec::Vp9, Codec::H264]);
    // 97 is packetization-mode 0.
    assert_eq!(video.payload_to_send(Codec::H264, None).unwrap().payload_type, 126);
    assert_eq!(facts.ice_ufrag, "6e1d0a9c");
    assert_eq!((facts.candidates.len(), facts.candidates[0].address), (2, None));
    assert!(facts.candidates[0].udp && !facts.candidates[1].udp);
}

#[test]
fn obs_gstreamer_and_ffmpeg_publish() {
    let facts = parse(OBS_PUBLISH);
    assert!(facts.candidates.is_empty());
    assert_eq!(facts.ice_ufrag, "Lw1F", "from the session level");
    assert_eq!(facts.section(Kind::Audio).unwrap().payloads[0].payload_type, 111);
    assert_eq!(facts.section(Kind::Video).unwrap().ssrcs[0].ssrc, 4176021214);
    let facts = parse(GSTREAMER_PUBLISH);
    assert_eq!(facts.media[0].kind, MediaKind::Rtp(Kind::Video), "video comes first");
    assert_eq!(facts.media[1].codecs(), [Codec::Opus], "codec names have no case");
    let facts = parse(FFMPEG_PUBLISH);
    assert_eq!(facts.setup, Setup::Passive);
    assert_eq!(facts.section(Kind::Video).unwrap().payload_to_receive(Codec::H264).unwrap().payload_type, 106);
}

#[test]
fn ffmpeg_9_offers_to_repeat_its_packets() {
    let facts = parse(FFMPEG9_PUBLISH);
    assert_eq!((facts.setup, facts.candidates.len()), (Setup::Passive, 0));
    let video = facts.section(Kind::Video).unwrap();
    // Baseline without constraints, which every decoder of constrained baseline takes.
    assert_eq!(video.codecs(), [Codec::H264]);
    assert!(video.payload_to_receive(Codec::H264).unwrap().feedback.nack);
    assert_eq!(video.payloads.iter().find(|p| p.payload_type == 105).unwrap().parameter("apt"), Some("106"));
    assert_eq!(video.fid_groups, [(101, 102)]);
}

#[test]
fn obs_offers_layers_by_rid_and_one_codec_of_three() {
    let facts = parse(OBS_SIMULCAST);
    let video = facts.section(Kind::Video).unwrap();
    assert!(video.simulcast && facts.candidates.is_empty() && video.ssrcs.is_empty());
    assert_eq!(video.rids, ["0", "1", "2"]);
    assert_eq!((video.extensions[1].id, &*video.extensions[1].uri), (2, "urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id"));
    assert_eq!(video.codecs(), [Codec::H264]);
    let h264 = "profile-level-id=42e01f;packetization-mode=1;level-asymmetry-allowed=1";
    for (name, fmtp) in [("H265", "profile-id=1;tier-flag=0;level-id=93;tx-mode=SRST"), ("AV1", "profile=0;level-idx=5;tier=0")] {
        for offer in [OBS_PUBLISH, OBS_SIMULCAST] {
            let offer = offer.replace("H264/90000", &format!("{name}/90000")).replace(h264, fmtp);
            let facts = parse(&offer);
            let video = facts.section(Kind::Video).unwrap();
            assert_eq!((video.payloads.len(), video.payloads[0].name.as_str()), (1, name));
            assert_eq!(video.payloads[0].fmtp, fmtp);
            assert_eq!(facts.section(Kind::Audio).unwrap().codecs(), [Codec::Opus]);
        }
    }
}

#[test]
fn gstreamer_watches() {
    let facts = parse(GSTREAMER_VIEW);
    let video = facts.section(Kind::Video).unwrap();
    assert_eq!((video.mid.as_str(), video.direction), ("video0", Direction::RecvOnly));
    assert_eq!(video.codecs(), [Codec::H264, Codec::Vp8]);
    // A profile that stands nowhere is Baseline (RFC 6184 section 8.1), and it decodes what we have anyway.
    assert_eq!(video.payload_to_send(Codec::H264, Some(crate::sdp::codec::H264Profile::High)).unwrap().payload_type, 102);
    let audio = facts.section(Kind::Audio).unwrap();
    assert_eq!((audio.port, audio.bundle_only, audio.codecs()), (0, true, vec![Codec::Opus]));
}

/// One word for all payload types, one for all sections, and none at all.
#[test]
fn a_word_for_all_holds_for_each_and_no_word_has_a_meaning() {
    let with = |from: &str, to: &str| {
        assert!(CHROMIUM_PUBLISH.contains(from), "{from}");
        parse(&CHROMIUM_PUBLISH.replace(from, to))
    };
    // RFC 4585 section 4.2: "*" stands for every payload type of its section, and of no other.
    let all = with("a=rtcp-fb:96 nack\r\n", "a=rtcp-fb:* nack\r\n");
    assert!(all.media[1].payloads.iter().all(|payload| payload.feedback.nack));
    assert!(!all.media[0].payloads[0].feedback.nack);
    // RFC 8866 section 6.7: the session's direction is that of sections without their own; without any it is sendrecv.
    let head = CHROMIUM_PUBLISH.split("m=audio").next().unwrap();
    let silent = CHROMIUM_PUBLISH.replace("a=sendonly\r\n", "");
    assert_eq!(parse(&silent).media[1].direction, Direction::SendRecv);
    let session = silent.replacen(head, &format!("{head}a=sendonly\r\n"), 1);
    assert_eq!(parse(&session).media[1].direction, Direction::SendOnly);
    // RFC 4145 section 4: who says nothing begins.
    assert_eq!(with("a=setup:actpass\r\n", "").setup, Setup::Active);
    assert_eq!(with("a=setup:actpass\r\n", "a=setup:active\r\n").setup, Setup::Active);
}

#[test]
fn line_ends_and_a_preface_do_not_matter_but_count() {
    let unix = CHROMIUM_PUBLISH.replace("\r\n", "\n");
    assert_eq!(parse(&unix), parse(CHROMIUM_PUBLISH));
    let prefaced = format!("Some log line\n\n{unix}");
    assert_eq!(parse(&prefaced).media[0].line, parse(&unix).media[0].line + 2);
}

#[test]
fn a_refusal_names_its_line_and_text() {
    let error = broken(OBS_PUBLISH, "a=rtpmap:96 H264/90000", "a=rtpmap:96 H264");
    let line = OBS_PUBLISH.lines().position(|line| line.starts_with("a=rtpmap:96")).unwrap() + 1;
    assert_eq!((error.line, error.text.as_str()), (line, "a=rtpmap:96 H264"));
    let error = broken(OBS_PUBLISH, "m=video 9 ", "m=video nine ");
    assert!(error.text.starts_with("m=video nine"), "{error}");
    let error = broken(OBS_PUBLISH, "a=fingerprint:sha-256 5B", "a=fingerprint:sha-1 5B");
    assert!(error.reason.contains("sha-1") && error.text.starts_with("a=fingerprint"), "{error}");
    assert!(broken(OBS_PUBLISH, "sha-256 5B:", "sha-256 ").reason.contains("32 bytes"));
    assert!(broken(OBS_PUBLISH, "sha-256 5B:", "sha-256 5B:5B:").reason.contains("32 bytes"));
    assert!(broken(OBS_PUBLISH, "a=ice-ufrag:Lw1F\r\n", "").reason.contains("ice-ufrag"));
    assert!(broken(OBS_PUBLISH, "a=ice-ufrag:Lw1F", "a=ice-ufrag:Lw1").reason.contains("4 to 256"));
    assert!(broken(OBS_PUBLISH, "a=group:BUNDLE 0 1", "a=group:BUNDLE 0").reason.contains("BUNDLE"));
    assert!(broken(OBS_PUBLISH, "a=rtcp-mux\r\n", "").reason.contains("rtcp-mux"));
    assert!(broken(OBS_PUBLISH, "UDP/TLS/RTP/SAVPF", "RTP/AVP").reason.contains("encrypted"));
    assert!(broken(OBS_PUBLISH, "s=-", "garbage").reason.contains("letter"));
    assert!(broken(OBS_PUBLISH, "a=mid:1", "a=mid:1 <x>").reason.contains("mid"));
    assert!(broken(OBS_PUBLISH, "a=ssrc:4176021213 cname", "a=ssrc:x cname").reason.contains("32 bits"));
    assert!(broken(OBS_PUBLISH, "v=0", "v=1").reason.contains("version"));
    let error = OfferFacts::parse("hello").unwrap_err();
    assert_eq!((error.line, error.text.as_str()), (1, "hello"));
    assert_eq!(OfferFacts::parse("").unwrap_err().line, 1);
    assert!(OfferFacts::parse("v=0\r\n").unwrap_err().reason.contains("no audio or video"));
}

#[test]
fn one_section_needs_no_bundle() {
    let only = CHROMIUM_VIEW.split("m=audio").next().unwrap().replace("a=group:BUNDLE 0 1\r\n", "")
        + "m=video"
        + CHROMIUM_VIEW.split("m=video").nth(1).unwrap();
    assert!(!parse(&only).media[0].bundled);
}

#[test]
fn sections_and_formats_of_other_kinds_are_kept_for_their_refusal() {
    let with_data = format!("{CHROMIUM_VIEW}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:2\r\n");
    let facts = parse(&with_data);
    assert_eq!(facts.media[2].kind, MediaKind::Other("application".into()));
    assert_eq!(facts.media[2].formats, "webrtc-datachannel");
    let closed = CHROMIUM_VIEW.replacen("m=video 9", "m=video 0", 1);
    assert!(parse(&closed).section(Kind::Video).is_none());
}

/// What a stranger wrote long comes back short: in a refusal's reason, and in an answer.
#[test]
fn what_is_repeated_is_bounded() {
    let hash = format!("a=fingerprint:{}\u{7} ", "x".repeat(50_000));
    let error = broken(FIREFOX_VIEW, "a=fingerprint:sha-256 ", &hash);
    assert!(error.reason.contains("hash is xxxx"), "{error}");
    assert!(error.to_string().len() < 1_000 && !error.to_string().contains('\u{7}'), "{error}");

    let parameters = "a=fmtp:126 profile-level-id=42e01f;";
    let error = broken(FIREFOX_VIEW, parameters, &format!("{parameters}x={};", "y".repeat(256)));
    assert!(error.reason.contains("more than 256 characters"), "{error}");
    // Parameter sets are long, and not for an answer.
    let with_sets = FIREFOX_VIEW.replacen(parameters, &format!("{parameters}sprop-parameter-sets={};", "Z".repeat(1_000)), 1);
    let facts = parse(&with_sets);
    let payload = facts.section(Kind::Video).unwrap().payload_to_send(Codec::H264, None).unwrap();
    assert_eq!(payload.parameter("sprop-parameter-sets").map(str::len), Some(1_000));
    let answered = repeated_parameters(&payload.fmtp);
    assert!(answered.contains("profile-level-id=42e01f") && !answered.contains("sprop"), "{answered}");
    let kind = format!("m={} ", "v".repeat(33));
    let protocol = format!("{}/SAVPF", "X".repeat(27));
    for (from, to) in [("m=video ", kind), ("UDP/TLS/RTP/SAVPF", protocol)] {
        let error = broken(CHROMIUM_VIEW, from, &to);
        assert_eq!(error.reason, "kind and protocol must be plain words");
    }
}

#[test]
fn bombs_are_refused_quickly() {
    let started = Instant::now();
    let head = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n";
    let sections = format!("{head}{}", "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n".repeat(1_000));
    let error = OfferFacts::parse(&sections).unwrap_err();
    assert_eq!((error.line, error.reason.as_str()), (5 + SDP_MEDIA_MAX, "more than 16 media sections"));
    let sections = format!("{head}{}", "m=video 9 UDP/TLS/RTP/SAVPF 96\r\n".repeat(10_000));
    assert!(OfferFacts::parse(&sections).unwrap_err().reason.contains("bytes"));
    assert!(OfferFacts::parse(&format!("{head}{}", "a=x\n".repeat(5_000))).unwrap_err().reason.contains("lines"));
    assert!(OfferFacts::parse(&"\n".repeat(5_000)).unwrap_err().reason.contains("lines"));
    assert!(OfferFacts::parse(&"v=0 ".repeat(250_000)).unwrap_err().reason.contains("bytes"));
    let error = broken(OBS_PUBLISH, "a=sendonly", "a=send\0only");
    assert!(error.reason.contains("NUL") && !error.text.contains('\0'));
    let wide = format!("{head}m=video 9 UDP/TLS/RTP/SAVPF{}\r\n", " 96".repeat(10_000));
    assert!(OfferFacts::parse(&wide).unwrap_err().text.len() <= 80);
    // A second for what takes a millisecond: this is about squares, not about speed.
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn sections_may_be_as_many_as_the_limit() {
    let section = "m=video 0 UDP/TLS/RTP/SAVPF 96\r\n".repeat(SDP_MEDIA_MAX - 2);
    assert_eq!(parse(&format!("{OBS_PUBLISH}{section}")).media.len(), SDP_MEDIA_MAX);
    let section = "m=video 0 UDP/TLS/RTP/SAVPF 96\r\n".repeat(SDP_MEDIA_MAX - 1);
    assert!(OfferFacts::parse(&format!("{OBS_PUBLISH}{section}")).is_err());
}

#[test]
fn mutations_never_panic() {
    let mut rng = Rng::new(1);
    for round in 0..6_000u32 {
        let mut bytes = ALL[round as usize % ALL.len()].as_bytes().to_vec();
        for _ in 0..=rng.below(8) {
            let at = rng.below(bytes.len() as u64) as usize;
            match rng.below(5) {
                0 => bytes[at] = rng.next_u32() as u8,
                1 => drop(bytes.drain(at..bytes.len().min(at + rng.below(40) as usize))),
                2 => bytes.insert(at, b" :=/;\r\n\0-9"[rng.below(10) as usize]),
                3 => bytes.truncate(at.max(1)),
                _ => {
                    let piece: Vec<u8> = bytes[at..bytes.len().min(at + 30)].to_vec();
                    let to = rng.below(bytes.len() as u64) as usize;
                    bytes.splice(to..to, piece);
                }
            }
            if bytes.is_empty() {
                bytes.push(b'v');
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(error) = OfferFacts::parse(&text) {
            assert!(error.line >= 1 && error.text.chars().count() <= 80);
        }
        let _ = FragmentFacts::parse(&text);
    }
}

#[test]
fn fragments_are_read_and_checked() {
    let fragment = "a=ice-ufrag:Xb3k\r\na=ice-pwd:q7Jx/9Zk2mVw+L0pRtYc5sDa\r\nm=audio 9 UDP/TLS/RTP/SAVPF 0\r\n\
                    a=mid:0\r\na=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host\r\na=end-of-candidates\r\n";
    let facts = FragmentFacts::parse(fragment).unwrap();
    assert_eq!((facts.ice_ufrag.as_str(), facts.end_of_candidates), ("Xb3k", true));
    assert_eq!((facts.candidates[0].port, facts.candidates[0].host), (61764, true));
    for bad in [
        "",
        "\r\n",
        "{\"candidate\":\"\"}",
        "a=candidate:1 1 udp 2122260223 192.0.2.1\r\n",
        "a=candidate:1 1 udp x 192.0.2.1 5 typ host\r\n",
        "a=candidate:1 1 udp 1 192.0.2.1 70000 typ host\r\n",
        "a=ice-ufrag:x\r\n",
        "s=-\r\n",
        "m=audio\r\n",
    ] {
        assert!(FragmentFacts::parse(bad).is_err(), "{bad:?}");
    }
}
