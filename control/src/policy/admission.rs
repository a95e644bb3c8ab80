//! What an offer may become: which section sends or receives which codec, or why not. Pure.

use super::{CodecSet, Refusal};
use spillway_proto::id::{Codec, Kind, TrackId};
use spillway_proto::link::command::{Extensions, FeedFacts, TrackFacts, TrackFeedback};
use spillway_proto::sdp::answer::{MediaText, SourceText};
use spillway_proto::sdp::codec::H264Profile;
use spillway_proto::sdp::offer::{ExtensionFacts, MediaFacts, OfferFacts, PayloadFacts};
use spillway_proto::sdp::{DEPENDENCY_DESCRIPTOR_URI, Direction, Feedback, SdpError, TRANSPORT_CC_URI};

/// What Spillway forwards, as a refusal names it.
const AUDIO_CODECS: [Codec; 1] = [Codec::Opus];
const VIDEO_CODECS: [Codec; 5] = [Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::H265];

/// Feedback that viewers may send us: no word on bandwidth, because nothing here encodes for one viewer. A
/// publisher hears this too, and one way of estimating.
const FEEDBACK_HEARD: Feedback =
    Feedback { nack: true, nack_pli: true, ccm_fir: true, transport_cc: false, remb: false };

/// A track a publisher will send.
#[derive(Clone, PartialEq, Debug)]
pub struct SentTrack {
    /// Index of its section in the offer.
    pub section: usize,
    pub codec: Codec,
    pub profile: Option<H264Profile>,
    /// As it stands in the answer: with the feedback we send.
    pub payload: PayloadFacts,
    /// Its retransmissions, as they stand in the answer.
    pub rtx: Option<PayloadFacts>,
    /// As they stand in the answer.
    pub extensions: Vec<ExtensionFacts>,
    /// The SSRC the offer named, or 0.
    pub ssrc: u32,
    /// As `Command::SetParameterSets` takes them; empty: they come in band.
    pub parameter_sets: Vec<u8>,
    /// Likewise of its retransmissions.
    pub rtx_ssrc: u32,
}

impl SentTrack {
    /// What the engine is told of it.
    pub fn facts(&self) -> TrackFacts {
        let Feedback { nack, nack_pli: pli, ccm_fir: fir, transport_cc, remb } = self.payload.feedback;
        TrackFacts {
            codec: self.codec,
            payload_type: self.payload.payload_type,
            rtx_payload_type: self.rtx.as_ref().map_or(0, |rtx| rtx.payload_type),
            ssrc: self.ssrc,
            rtx_ssrc: self.rtx_ssrc,
            feedback: TrackFeedback { nack, pli, fir, transport_cc, remb },
            extensions: Extensions {
                transport_cc: id_of(&self.extensions, TRANSPORT_CC_URI),
                dependency_descriptor: id_of(&self.extensions, DEPENDENCY_DESCRIPTOR_URI),
            },
        }
    }
}

/// A track a viewer will receive.
#[derive(Clone, PartialEq, Debug)]
pub struct ReceivedTrack {
    pub section: usize,
    pub track: TrackId,
    /// By codec, 0 for none: a later publisher may send another of them.
    pub payload_types: [u8; Codec::COUNT],
    /// Likewise of their retransmissions.
    pub rtx_payload_types: [u8; Codec::COUNT],
    /// As they stand in the answer: the stream's codec first, each before its retransmissions.
    pub payloads: Vec<PayloadFacts>,
    /// As they stand in the answer.
    pub extensions: Vec<ExtensionFacts>,
}

impl ReceivedTrack {
    /// What the engine is told of it.
    pub fn facts(&self) -> FeedFacts {
        FeedFacts {
            payload_types: self.payload_types,
            rtx_payload_types: self.rtx_payload_types,
            // Towards viewers nothing that varies per send: a NACK's answer is the packet as it was.
            extensions: Extensions {
                transport_cc: 0,
                dependency_descriptor: id_of(&self.extensions, DEPENDENCY_DESCRIPTOR_URI),
            },
        }
    }
}

/// A track of the stream as an offer is compared with it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LiveTrack {
    pub track: TrackId,
    pub codec: Codec,
    pub profile: Option<H264Profile>,
}

/// The id an extension was negotiated under, 0: it was not.
fn id_of(extensions: &[ExtensionFacts], uri: &str) -> u8 {
    extensions.iter().find(|extension| extension.uri == uri).map_or(0, |found| found.id)
}

/// What a publisher's offer becomes.
pub fn choose_sent(offer: &OfferFacts) -> Result<Vec<SentTrack>, Refusal> {
    let mut chosen = Vec::new();
    for (kind, name) in [(Kind::Audio, "audio"), (Kind::Video, "video")] {
        let mut sections = offer.sections(kind).filter(|section| section.direction != Direction::Inactive);
        let Some(section) = sections.next() else { continue };
        if sections.next().is_some() {
            return Err(Refusal::TooManyTracks(name));
        }
        if !section.direction.sends() {
            return Err(wrong_direction(section, "a publisher must offer sendonly or sendrecv"));
        }
        // The publisher's first codec that we know: it put them into its order.
        let codec = section.codecs().into_iter().next();
        let Some(offered) = codec.and_then(|codec| section.payload_to_receive(codec)) else {
            return Err(no_common_codec(section, possible(kind)));
        };
        let Some(codec) = offered.codec() else { return Err(no_common_codec(section, possible(kind))) };
        let (payload, extensions) = feedback_to_send(section, offered);
        let rtx = section.rtx_of(&payload).map(|rtx| rtx_answered(rtx, &payload));
        let repairs: Vec<u32> = section.fid_groups.iter().map(|(_, repair)| *repair).collect();
        let ssrc = section.ssrcs.iter().map(|facts| facts.ssrc).find(|ssrc| !repairs.contains(ssrc)).unwrap_or(0);
        chosen.push(SentTrack {
            section: offer.media.iter().position(|other| other.line == section.line).unwrap_or_default(),
            codec,
            profile: (codec == Codec::H264).then(|| payload.h264_profile()).flatten(),
            rtx_ssrc: if rtx.is_some() { section.rtx_ssrc_of(ssrc) } else { 0 },
            // The answer repeats none of them.
            parameter_sets: offered.parameter_sets(),
            payload,
            rtx,
            extensions,
            ssrc,
        });
    }
    if chosen.is_empty() {
        return Err(nothing_active(offer, "a publisher must send audio or video"));
    }
    Ok(chosen)
}

/// What a viewer's offer becomes, for a stream with these tracks.
pub fn choose_received(offer: &OfferFacts, tracks: &[LiveTrack]) -> Result<Vec<ReceivedTrack>, Refusal> {
    let mut chosen = Vec::new();
    let mut asked = false;
    for kind in [Kind::Audio, Kind::Video] {
        let mut sections = offer.sections(kind).filter(|section| section.direction != Direction::Inactive);
        let Some(section) = sections.next() else { continue };
        asked = true;
        if !section.direction.receives() {
            return Err(wrong_direction(section, "a viewer must offer recvonly or sendrecv"));
        }
        let Some(live) = tracks.iter().find(|track| track.codec.kind() == kind) else { continue };
        let mut codecs = section.codecs_to_send(live.profile);
        if !codecs.contains(&live.codec) {
            return Err(no_common_codec(section, vec![live.codec.sdp_name().to_owned()]));
        }
        codecs.sort_by_key(|codec| *codec != live.codec);
        let mut payloads = Vec::new();
        let mut payload_types = [0; Codec::COUNT];
        let mut rtx_payload_types = [0; Codec::COUNT];
        for codec in codecs {
            let Some(payload) = section.payload_to_send(codec, live.profile) else { continue };
            let places = (payload_types.get_mut(codec as usize), rtx_payload_types.get_mut(codec as usize));
            let (Some(place), Some(rtx_place)) = places else { continue };
            let payload = payload.answered(FEEDBACK_HEARD);
            let rtx = section.rtx_of(&payload).map(|rtx| rtx_answered(rtx, &payload));
            *place = payload.payload_type;
            *rtx_place = rtx.as_ref().map_or(0, |rtx| rtx.payload_type);
            payloads.push(payload);
            payloads.extend(rtx);
        }
        chosen.push(ReceivedTrack {
            section: offer.media.iter().position(|other| other.line == section.line).unwrap_or_default(),
            track: live.track,
            payload_types,
            rtx_payload_types,
            payloads,
            extensions: forwarded(section, payload_types.get(Codec::Av1 as usize)),
        });
    }
    match (chosen.is_empty(), asked) {
        (false, _) => Ok(chosen),
        // It wants only what the stream has not: audio of a stream without audio, for example.
        (true, true) => Err(Refusal::NoCommonCodec {
            offered: offer.media.iter().flat_map(MediaFacts::codec_names).collect(),
            possible: tracks.iter().map(|track| track.codec.sdp_name().to_owned()).collect(),
        }),
        (true, false) => Err(nothing_active(offer, "a viewer must receive audio or video")),
    }
}

/// What a viewer of AV1 gets of the publisher's extensions. A keyframe's descriptor needs the two-byte form, others the
/// one-byte form: who does not allow both gets none (RFC 8285 section 4.1.2).
fn forwarded(section: &MediaFacts, av1: Option<&u8>) -> Vec<ExtensionFacts> {
    let allowed = section.extmap_allow_mixed && av1.is_some_and(|payload_type| *payload_type != 0);
    let descriptor = section.extension_received(DEPENDENCY_DESCRIPTOR_URI).filter(|_| allowed);
    descriptor.into_iter().map(ExtensionFacts::answered).collect()
}

/// The publisher's payload type with the feedback we send it, and the extensions we read.
fn feedback_to_send(section: &MediaFacts, payload: &PayloadFacts) -> (PayloadFacts, Vec<ExtensionFacts>) {
    // Feedback by transport-wide numbers needs the extension that carries them.
    let numbers = section.extension_sent(TRANSPORT_CC_URI).filter(|_| payload.feedback.transport_cc);
    let wanted = Feedback {
        transport_cc: numbers.is_some(),
        // One estimate: a sender that has both heeds the finer one only.
        remb: numbers.is_none(),
        ..FEEDBACK_HEARD
    };
    let is_av1 = payload.codec() == Some(Codec::Av1);
    let descriptor = section.extension_sent(DEPENDENCY_DESCRIPTOR_URI).filter(|_| is_av1);
    let extensions = numbers.into_iter().chain(descriptor).map(ExtensionFacts::answered).collect();
    (payload.answered(wanted), extensions)
}

fn rtx_answered(rtx: &PayloadFacts, payload: &PayloadFacts) -> PayloadFacts {
    PayloadFacts::rtx(rtx.payload_type, payload.payload_type, payload.clock_rate)
}

/// The codecs a viewer negotiated, all tracks together.
pub fn codecs_of(chosen: &[ReceivedTrack]) -> CodecSet {
    // By number: a payload type may carry a codec that it alone would not be taken for (H264 in mode 0).
    let numbered = chosen.iter().flat_map(|track| track.payload_types.into_iter().zip(0u8..));
    CodecSet::of(numbered.filter(|(payload_type, _)| *payload_type != 0).filter_map(|(_, codec)| Codec::from_u8(codec)))
}

/// The sections of the answer to a publisher.
pub fn answer_sent(offer: &OfferFacts, chosen: &[SentTrack]) -> Vec<MediaText> {
    sections(offer, |index, section| {
        let track = chosen.iter().find(|track| track.section == index)?;
        let payloads: Vec<PayloadFacts> = std::iter::once(&track.payload).chain(&track.rtx).cloned().collect();
        Some(MediaText::accepted(section, Direction::RecvOnly, &payloads, &track.extensions, None))
    })
}

/// The sections of the answer to a viewer; `ssrcs`, of media and retransmissions, in the order of `chosen`.
pub fn answer_received(
    offer: &OfferFacts,
    chosen: &[ReceivedTrack],
    ssrcs: &[(u32, u32)],
    stream: &str,
) -> Vec<MediaText> {
    sections(offer, |index, section| {
        let (track, (ssrc, rtx_ssrc)) = chosen.iter().zip(ssrcs).find(|(track, _)| track.section == index)?;
        let source = SourceText {
            ssrc: *ssrc,
            rtx_ssrc: *rtx_ssrc,
            cname: stream.to_owned(),
            msid: (stream.to_owned(), format!("{stream}-{}", section.kind)),
        };
        Some(MediaText::accepted(section, Direction::SendOnly, &track.payloads, &track.extensions, Some(source)))
    })
}

fn sections(offer: &OfferFacts, accept: impl Fn(usize, &MediaFacts) -> Option<MediaText>) -> Vec<MediaText> {
    let section = |(index, section)| accept(index, section).unwrap_or_else(|| MediaText::rejected(section));
    offer.media.iter().enumerate().map(section).collect()
}

fn possible(kind: Kind) -> Vec<String> {
    let names = |codecs: &[Codec]| codecs.iter().map(|codec| codec.sdp_name().to_owned()).collect();
    match kind {
        Kind::Audio => names(&AUDIO_CODECS),
        Kind::Video => names(&VIDEO_CODECS),
    }
}

fn no_common_codec(section: &MediaFacts, possible: Vec<String>) -> Refusal {
    Refusal::NoCommonCodec { offered: section.codec_names(), possible }
}

fn wrong_direction(section: &MediaFacts, reason: &str) -> Refusal {
    let text = format!("m={} ... a={}", section.kind, section.direction.name());
    Refusal::Sdp(SdpError { line: section.line, text, reason: reason.to_owned() })
}

fn nothing_active(offer: &OfferFacts, reason: &str) -> Refusal {
    match offer.media.first() {
        Some(section) => wrong_direction(section, reason),
        None => Refusal::Sdp(SdpError { line: 1, text: String::new(), reason: reason.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spillway_proto::sdp::Setup;
    use spillway_proto::sdp::answer::AnswerFacts;

    const PUBLISH: &str = include_str!("../../../proto/src/sdp/fixtures/chromium_publish.sdp");
    const VIEW: &str = include_str!("../../../proto/src/sdp/fixtures/chromium_view.sdp");
    const FFMPEG: &str = include_str!("../../../proto/src/sdp/fixtures/ffmpeg_publish.sdp");
    const OBS: &str = include_str!("../../../proto/src/sdp/fixtures/obs_publish.sdp");
    const GSTREAMER: &str = include_str!("../../../proto/src/sdp/fixtures/gstreamer_publish.sdp");
    const GSTREAMER_VIEW: &str = include_str!("../../../proto/src/sdp/fixtures/gstreamer_view.sdp");
    const FIREFOX: &str = include_str!("../../../proto/src/sdp/fixtures/firefox_view.sdp");

    fn offer(text: &str) -> OfferFacts {
        OfferFacts::parse(text).unwrap()
    }

    fn tracks(video: Codec) -> Vec<LiveTrack> {
        [(1, Codec::Opus), (2, video)]
            .map(|(index, codec)| LiveTrack { track: TrackId::new(index, 1), codec, profile: None })
            .into()
    }

    #[test]
    fn the_publishers_first_known_codec_is_taken() {
        let chosen = choose_sent(&offer(PUBLISH)).unwrap();
        let facts: Vec<_> = chosen.iter().map(|t| (t.section, t.codec, t.payload.payload_type, t.ssrc)).collect();
        assert_eq!(facts, [(0, Codec::Opus, 111, 2231627014), (1, Codec::Vp8, 96, 1301920455)]);
        let h264 = PUBLISH.replace(" 96 97 103", " 103 96 97");
        let chosen = choose_sent(&offer(&h264)).unwrap();
        assert_eq!((chosen[1].codec, chosen[1].payload.payload_type), (Codec::H264, 109), "constrained baseline");
        assert_eq!(chosen[1].profile, Some(H264Profile::ConstrainedBaseline));
    }

    #[test]
    fn a_viewer_keeps_every_codec_and_the_streams_comes_first() {
        let chosen = choose_received(&offer(VIEW), &tracks(Codec::H264)).unwrap();
        let video = &chosen[1];
        assert_eq!(video.payloads.iter().map(|p| p.payload_type).collect::<Vec<_>>(), [109, 114, 96, 97, 45, 46, 98, 99]);
        assert_eq!(video.payload_types[Codec::Vp9 as usize], 98);
        assert_eq!(video.payload_types[Codec::Av1 as usize], 45);
        assert_eq!(video.payload_types[Codec::H265 as usize], 0, "it has none");
        assert_eq!(video.payload_types[Codec::H264 as usize], 109);
        assert_eq!(video.payload_types[Codec::Vp8 as usize], 96);
        assert_eq!(video.payload_types[Codec::Opus as usize], 0);
        assert!(codecs_of(&chosen).contains(Codec::Opus) && codecs_of(&chosen).contains(Codec::Vp8));
    }

    /// The order of the `a=ssrc` lines says nothing.
    #[test]
    fn what_repairs_another_source_is_not_taken_for_the_track() {
        let swapped = PUBLISH.replace("a=ssrc:1301920455 ", "a=ssrc:other ");
        let swapped = swapped.replace("a=ssrc:3382911042 ", "a=ssrc:1301920455 ").replace("a=ssrc:other ", "a=ssrc:3382911042 ");
        let video = &choose_sent(&offer(&swapped)).unwrap()[1];
        assert_eq!((video.ssrc, video.rtx_ssrc), (1301920455, 3382911042));
    }

    #[test]
    fn each_codec_may_be_the_first_of_an_offer() {
        for (numbers, codec, number) in [
            (" 98 96 97", Codec::Vp9, 98),
            (" 45 96 97", Codec::Av1, 45),
            (" 96 97", Codec::Vp8, 96),
        ] {
            let text = PUBLISH.replace(" 96 97", numbers);
            let chosen = choose_sent(&offer(&text)).unwrap();
            assert_eq!((chosen[1].codec, chosen[1].payload.payload_type), (codec, number));
            assert!(chosen[1].parameter_sets.is_empty());
        }
    }

    #[test]
    fn parameter_sets_of_the_offer_go_to_the_engine_and_not_back() {
        let sprop = OBS.replace("packetization-mode=1", "packetization-mode=1;sprop-parameter-sets=Z0LAHtk=,aMuMsg==");
        let offer = offer(&sprop);
        let chosen = choose_sent(&offer).unwrap();
        assert_eq!(chosen[1].parameter_sets, [0, 5, 0x67, 0x42, 0xC0, 0x1E, 0xD9, 0, 4, 0x68, 0xCB, 0x8C, 0xB2]);
        let answer = answer_sent(&offer, &chosen);
        let fmtp = &answer[1].accepted.as_ref().unwrap().payloads[0].fmtp;
        assert!(fmtp.contains("packetization-mode=1") && !fmtp.contains("sprop"), "{fmtp}");
    }

    #[test]
    fn no_common_codec_names_both_lists() {
        let only_vp8 = offer(VIEW);
        let only_vp8 = OfferFacts {
            media: only_vp8
                .media
                .into_iter()
                .map(|mut m| {
                    m.payloads.retain(|p| p.name != "H264");
                    m
                })
                .collect(),
            ..only_vp8
        };
        match choose_received(&only_vp8, &tracks(Codec::H264)).unwrap_err() {
            Refusal::NoCommonCodec { offered, possible } => {
                assert_eq!((offered, possible), (vec!["VP8".into(), "AV1 (0)".into(), "VP9 (0)".into()], vec!["H264".into()]));
            }
            other => panic!("{other}"),
        }
        let unknown = OBS.replace("H264/90000", "H266/90000");
        let error = choose_sent(&offer(&unknown)).unwrap_err();
        assert_eq!(error.to_string(), "no common codec: offered H266; possible H264, VP8, VP9, AV1, H265");
    }

    #[test]
    fn directions_roles_and_numbers_of_tracks_are_checked() {
        let ffmpeg = choose_sent(&offer(FFMPEG)).unwrap();
        let facts: Vec<_> = ffmpeg.iter().map(|t| (t.codec, t.payload.payload_type, t.ssrc)).collect();
        assert_eq!(facts, [(Codec::Opus, 111, 100), (Codec::H264, 106, 101)], "its role is no reason to refuse");
        assert!(matches!(choose_sent(&offer(VIEW)), Err(Refusal::Sdp(error)) if error.reason.contains("sendonly")));
        assert!(matches!(choose_received(&offer(PUBLISH), &tracks(Codec::Vp8)), Err(Refusal::Sdp(_))));
        let inactive = VIEW.replace("a=recvonly", "a=inactive");
        assert!(matches!(choose_received(&offer(&inactive), &tracks(Codec::Vp8)), Err(Refusal::Sdp(_))));
        let second = OBS.replace("a=group:BUNDLE 0 1", "a=group:BUNDLE 0 1 2")
            + &OBS[OBS.find("m=video").unwrap()..].replace("a=mid:1", "a=mid:2");
        assert_eq!(choose_sent(&offer(&second)).unwrap_err(), Refusal::TooManyTracks("video"));
    }

    #[test]
    fn an_answer_has_a_section_for_each_of_the_offer() {
        let with_data = format!("{VIEW}m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=mid:2\r\n");
        let offer = offer(&with_data);
        let chosen = choose_received(&offer, &tracks(Codec::Vp8)[1..]).unwrap();
        let answer = answer_received(&offer, &chosen, &[(77, 78)], "demo");
        assert_eq!(answer.iter().map(|m| m.accepted.is_some()).collect::<Vec<_>>(), [false, true, false]);
        let source = answer[1].accepted.as_ref().unwrap().source.as_ref().unwrap();
        assert_eq!((source.ssrc, source.rtx_ssrc, source.msid.1.as_str()), (77, 78, "demo-video"));
    }

    /// The lines of an answer's section that say how it heals: payload types, feedback, extensions, sources.
    fn healing(media: Vec<MediaText>, kind: &str) -> Vec<String> {
        let facts = AnswerFacts {
            origin: 1,
            ice_ufrag: "AAAABBBccccccccc".into(),
            ice_pwd: "0123456789abcdefghijklmn".into(),
            fingerprint: [7; 32],
            setup: Setup::Passive,
            candidates: Vec::new(),
            media,
        };
        let text = facts.write();
        assert!(text.len() < 8_192, "ffmpeg reads no more: {}", text.len());
        let from = text.find(&format!("m={kind}")).unwrap();
        let section = text[from..].split("m=").nth(1).unwrap();
        let words = ["audio ", "video ", "a=rtcp-fb", "a=extmap", "a=rtpmap", "a=fmtp", "a=ssrc"];
        section.lines().filter(|line| words.iter().any(|word| line.starts_with(word))).map(str::to_owned).collect()
    }

    fn to_publisher(text: &str, kind: &str) -> (Vec<String>, TrackFacts) {
        let offer = offer(text);
        let chosen = choose_sent(&offer).unwrap();
        let track = chosen.iter().find(|track| offer.media[track.section].kind.to_string() == kind).unwrap();
        (healing(answer_sent(&offer, &chosen), kind), track.facts())
    }

    /// Goal: a publisher is granted what it offered and we use, and the engine is told the same. Method: offers of
    /// real clients; the answer's lines, written out, beside the facts for the engine.
    #[test]
    fn publishers_are_told_how_losses_are_repaired_and_bandwidth_is_told() {
        let (lines, facts) = to_publisher(PUBLISH, "video");
        let transport_cc = format!("a=extmap:3 {TRANSPORT_CC_URI}");
        let expected = [
            "video 9 UDP/TLS/RTP/SAVPF 96 97",
            "a=extmap-allow-mixed",
            transport_cc.as_str(),
            "a=rtpmap:96 VP8/90000",
            "a=rtcp-fb:96 nack",
            "a=rtcp-fb:96 nack pli",
            "a=rtcp-fb:96 ccm fir",
            "a=rtcp-fb:96 transport-cc",
            "a=rtpmap:97 rtx/90000",
            "a=fmtp:97 apt=96",
        ];
        assert_eq!(lines, expected, "no goog-remb beside transport-cc");
        let feedback = TrackFeedback { nack: true, pli: true, fir: true, transport_cc: true, remb: false };
        let extensions = Extensions { transport_cc: 3, dependency_descriptor: 0 };
        let expected = TrackFacts {
            codec: Codec::Vp8,
            payload_type: 96,
            rtx_payload_type: 97,
            ssrc: 1301920455,
            rtx_ssrc: 3382911042,
            feedback,
            extensions,
        };
        assert_eq!(facts, expected);

        // Sound counts in the estimate, but its offer knows no nack.
        let (lines, facts) = to_publisher(PUBLISH, "audio");
        assert_eq!(lines[1..3], ["a=extmap-allow-mixed", transport_cc.as_str()]);
        assert_eq!(lines[4..], ["a=fmtp:111 minptime=10;useinbandfec=1", "a=rtcp-fb:111 transport-cc"]);
        assert_eq!(facts.feedback, TrackFeedback { transport_cc: true, ..TrackFeedback::default() });
        assert_eq!((facts.extensions.transport_cc, facts.rtx_payload_type, facts.rtx_ssrc), (3, 0, 0));

        let (lines, facts) = to_publisher(OBS, "video");
        assert_eq!(lines[3..], ["a=rtcp-fb:96 nack", "a=rtcp-fb:96 nack pli", "a=rtcp-fb:96 goog-remb"]);
        assert_eq!(facts.feedback, TrackFeedback { nack: true, pli: true, remb: true, ..TrackFeedback::default() });
        assert_eq!((facts.rtx_payload_type, facts.rtx_ssrc, facts.extensions), (0, 0, Extensions::default()));

        // It offers the feedback without the extension that carries the numbers.
        let (lines, facts) = to_publisher(GSTREAMER, "video");
        assert!(!lines.iter().any(|line| line.contains("transport-cc")), "{lines:?}");
        assert_eq!((facts.rtx_payload_type, facts.rtx_ssrc), (100, 2988012233));
        assert_eq!(facts.feedback, TrackFeedback { nack: true, pli: true, fir: true, ..TrackFeedback::default() });

        // ffmpeg offers none: it gets none.
        let (lines, facts) = to_publisher(&FFMPEG.replace("setup:passive", "setup:active"), "video");
        assert!(!lines.iter().any(|line| line.starts_with("a=rtcp-fb") || line.starts_with("a=ext")), "{lines:?}");
        assert_eq!(facts.feedback, TrackFeedback::default());
    }

    #[test]
    fn a_named_source_without_its_group_or_payload_type_has_no_retransmissions_of_that_name() {
        let (_, facts) = to_publisher(&PUBLISH.replace("a=ssrc-group:FID 1301920455 3382911042\r\n", ""), "video");
        assert_eq!((facts.rtx_payload_type, facts.rtx_ssrc), (97, 0), "the first SSRC that comes with it");
        let (lines, facts) = to_publisher(&PUBLISH.replace("a=fmtp:97 apt=96\r\n", ""), "video");
        assert_eq!((facts.ssrc, facts.rtx_payload_type, facts.rtx_ssrc), (1301920455, 0, 0));
        assert!(lines[0].ends_with("SAVPF 96") && !lines.iter().any(|line| line.contains("rtx")), "{lines:?}");
    }

    fn to_viewer(text: &str, codec: Codec) -> (Vec<String>, Vec<ReceivedTrack>) {
        let offer = offer(text);
        let chosen = choose_received(&offer, &tracks(codec)).unwrap();
        (healing(answer_received(&offer, &chosen, &[(5, 0), (7, 8)], "demo"), "video"), chosen)
    }

    /// Goal: AV1's descriptor goes to who can read it, under its own id. Method: Chromium's offer, and what it may lack.
    #[test]
    fn viewers_of_av1_get_its_descriptor_where_both_forms_of_extensions_are_allowed() {
        let line = format!("a=extmap:8 {DEPENDENCY_DESCRIPTOR_URI}");
        let video = VIEW.rfind("a=extmap:14 ").unwrap();
        let offered = format!("{}{line}\r\n{}", &VIEW[..video], &VIEW[video..]);
        let of = |text: &str| {
            let (lines, chosen) = to_viewer(text, Codec::Vp8);
            let granted = lines.into_iter().filter(|line| line.starts_with("a=extmap")).collect::<Vec<_>>();
            (granted, chosen.last().unwrap().facts().extensions)
        };
        let granted = vec!["a=extmap-allow-mixed".to_owned(), line.clone()];
        let extensions = Extensions { transport_cc: 0, dependency_descriptor: 8 };
        assert_eq!(of(&offered), (granted, extensions), "a publisher of AV1 may come");
        let nothing = (Vec::new(), Extensions::default());
        assert_eq!(of(VIEW), nothing);
        assert_eq!(of(&offered.replace("a=extmap-allow-mixed\r\n", "")), nothing);
        assert_eq!(of(&offered.replace(" AV1/90000", " XV1/90000")), nothing);
        assert_eq!(of(&offered.replace("a=extmap:8 ", "a=extmap:8/sendonly ")), nothing, "it only sends them");
    }

    #[test]
    fn viewers_may_ask_again_and_are_asked_nothing_about_their_bandwidth() {
        let (lines, chosen) = to_viewer(VIEW, Codec::Vp8);
        let expected = [
            "video 9 UDP/TLS/RTP/SAVPF 96 97 109 114 45 46 98 99",
            "a=rtpmap:96 VP8/90000",
            "a=rtcp-fb:96 nack",
            "a=rtcp-fb:96 nack pli",
            "a=rtcp-fb:96 ccm fir",
            "a=rtpmap:97 rtx/90000",
            "a=fmtp:97 apt=96",
            "a=rtpmap:109 H264/90000",
            "a=fmtp:109 level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
            "a=rtcp-fb:109 nack",
            "a=rtcp-fb:109 nack pli",
            "a=rtcp-fb:109 ccm fir",
            "a=rtpmap:114 rtx/90000",
            "a=fmtp:114 apt=109",
            "a=rtpmap:45 AV1/90000",
            "a=fmtp:45 level-idx=5;profile=0;tier=0",
            "a=rtcp-fb:45 nack",
            "a=rtcp-fb:45 nack pli",
            "a=rtcp-fb:45 ccm fir",
            "a=rtpmap:46 rtx/90000",
            "a=fmtp:46 apt=45",
            "a=rtpmap:98 VP9/90000",
            "a=fmtp:98 profile-id=0",
            "a=rtcp-fb:98 nack",
            "a=rtcp-fb:98 nack pli",
            "a=rtcp-fb:98 ccm fir",
            "a=rtpmap:99 rtx/90000",
            "a=fmtp:99 apt=98",
            "a=ssrc-group:FID 7 8",
            "a=ssrc:7 cname:demo",
            "a=ssrc:7 msid:demo demo-video",
            "a=ssrc:8 cname:demo",
            "a=ssrc:8 msid:demo demo-video",
        ];
        assert_eq!(lines, expected);
        let (sound, video) = (chosen[0].facts(), chosen[1].facts());
        assert_eq!((video.payload_types[Codec::Vp8 as usize], video.rtx_payload_types[Codec::Vp8 as usize]), (96, 97));
        assert_eq!((video.payload_types[Codec::H264 as usize], video.rtx_payload_types[Codec::H264 as usize]), (109, 114));
        assert_eq!((sound.payload_types[Codec::Opus as usize], sound.rtx_payload_types), (111, [0; Codec::COUNT]));
        assert_eq!(video.extensions, Extensions::default());

        let (lines, chosen) = to_viewer(FIREFOX, Codec::H264);
        assert_eq!(lines[0], "video 9 UDP/TLS/RTP/SAVPF 126 127 120 124 121", "nothing says what 125 repeats");
        assert_eq!(chosen[1].facts().rtx_payload_types[Codec::H264 as usize], 127);
    }

    /// Goal: GStreamer's plain `H264/90000`, which says nothing of modes or profiles, is served, and counts as H264 for
    /// the streams that come later. Method: its offer as it is recorded, without the parameter.
    #[test]
    fn a_viewer_that_forgot_the_packetization_mode_is_served_h264() {
        let plain = GSTREAMER_VIEW.replace("a=fmtp:102 packetization-mode=1\r\n", "");
        assert_ne!(plain, GSTREAMER_VIEW);
        for profile in [None, Some(H264Profile::ConstrainedBaseline), Some(H264Profile::High)] {
            let tracks = tracks(Codec::H264).into_iter().map(|track| LiveTrack { profile, ..track }).collect::<Vec<_>>();
            let offer = offer(&plain);
            let chosen = choose_received(&offer, &tracks).unwrap();
            let video = &chosen[1];
            assert_eq!(video.payload_types[Codec::H264 as usize], 102);
            assert_eq!(video.payloads.iter().map(|payload| payload.payload_type).collect::<Vec<_>>(), [102, 103]);
            assert!([Codec::H264, Codec::Vp8, Codec::Opus].iter().all(|codec| codecs_of(&chosen).contains(*codec)));
            assert!(!codecs_of(&chosen).contains(Codec::H265));
            let answer = healing(answer_received(&offer, &chosen, &[(5, 0), (7, 0)], "demo"), "video");
            assert_eq!(answer[..2], ["video 9 UDP/TLS/RTP/SAVPF 102 103", "a=rtpmap:102 H264/90000"]);
            assert!(!answer.iter().any(|line| line.starts_with("a=fmtp:102")), "it is repeated what it said: {answer:?}");
        }
        let publishes = plain.replace("a=recvonly", "a=sendonly");
        assert_eq!(choose_sent(&offer(&publishes)).unwrap()[1].codec, Codec::Vp8, "a publisher's has to fit");
    }
}
