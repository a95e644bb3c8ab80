//! What an offer may become: which section sends or receives which codec, or why not. Pure.

use super::{CodecSet, Refusal};
use spillway_proto::id::{Codec, Kind, TrackId};
use spillway_proto::link::command::{FeedFacts, TrackFacts};
use spillway_proto::sdp::answer::{MediaText, SourceText};
use spillway_proto::sdp::codec::H264Profile;
use spillway_proto::sdp::offer::{MediaFacts, OfferFacts, PayloadFacts};
use spillway_proto::sdp::{Direction, SdpError, Setup};

/// What Spillway forwards, as a refusal names it.
const AUDIO_CODECS: [Codec; 1] = [Codec::Opus];
const VIDEO_CODECS: [Codec; 5] = [Codec::H264, Codec::Vp8, Codec::Vp9, Codec::Av1, Codec::H265];

/// A track a publisher will send.
#[derive(Clone, PartialEq, Debug)]
pub struct SentTrack {
    /// Index of its section in the offer.
    pub section: usize,
    pub codec: Codec,
    pub profile: Option<H264Profile>,
    /// As it stands in the answer.
    pub payload: PayloadFacts,
    /// The SSRC the offer named, or 0.
    pub ssrc: u32,
    /// As `Command::SetParameterSets` takes them; empty: they come in band.
    pub parameter_sets: Vec<u8>,
}

impl SentTrack {
    /// What the engine is told of it.
    pub fn facts(&self) -> TrackFacts {
        TrackFacts::new(self.codec, self.payload.payload_type, self.ssrc)
    }
}

/// A track a viewer will receive.
#[derive(Clone, PartialEq, Debug)]
pub struct ReceivedTrack {
    pub section: usize,
    pub track: TrackId,
    /// By codec, 0 for none: a later publisher may send another of them.
    pub payload_types: [u8; Codec::COUNT],
    /// The stream's codec first.
    pub payloads: Vec<PayloadFacts>,
}

impl ReceivedTrack {
    /// What the engine is told of it.
    pub fn facts(&self) -> FeedFacts {
        FeedFacts { payload_types: self.payload_types, ..FeedFacts::default() }
    }
}

/// A track of the stream as an offer is compared with it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct LiveTrack {
    pub track: TrackId,
    pub codec: Codec,
    pub profile: Option<H264Profile>,
}

/// What a publisher's offer becomes.
pub fn choose_sent(offer: &OfferFacts) -> Result<Vec<SentTrack>, Refusal> {
    refuse_passive(offer)?;
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
        let Some(payload) = codec.and_then(|codec| section.payload_to_receive(codec)) else {
            return Err(no_common_codec(section, possible(kind)));
        };
        let Some(codec) = payload.codec() else { return Err(no_common_codec(section, possible(kind))) };
        let repairs: Vec<u32> = section.fid_groups.iter().map(|(_, repair)| *repair).collect();
        chosen.push(SentTrack {
            section: offer.media.iter().position(|other| other.line == section.line).unwrap_or_default(),
            codec,
            profile: (codec == Codec::H264).then(|| payload.h264_profile()).flatten(),
            payload: PayloadFacts { fmtp: payload.fmtp_answered(), ..payload.clone() },
            parameter_sets: payload.parameter_sets(),
            ssrc: section.ssrcs.iter().map(|facts| facts.ssrc).find(|ssrc| !repairs.contains(ssrc)).unwrap_or(0),
        });
    }
    if chosen.is_empty() {
        return Err(nothing_active(offer, "a publisher must send audio or video"));
    }
    Ok(chosen)
}

/// What a viewer's offer becomes, for a stream with these tracks.
pub fn choose_received(offer: &OfferFacts, tracks: &[LiveTrack]) -> Result<Vec<ReceivedTrack>, Refusal> {
    refuse_passive(offer)?;
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
        let mut codecs = section.codecs();
        if !codecs.contains(&live.codec) {
            return Err(no_common_codec(section, vec![live.codec.sdp_name().to_owned()]));
        }
        codecs.sort_by_key(|codec| *codec != live.codec);
        let payloads: Vec<PayloadFacts> =
            codecs.iter().filter_map(|codec| section.payload_to_send(*codec, live.profile)).cloned().collect();
        let mut payload_types = [0; Codec::COUNT];
        for payload in &payloads {
            if let Some(place) = payload.codec().and_then(|codec| payload_types.get_mut(codec as usize)) {
                *place = payload.payload_type;
            }
        }
        chosen.push(ReceivedTrack {
            section: offer.media.iter().position(|other| other.line == section.line).unwrap_or_default(),
            track: live.track,
            payload_types,
            payloads,
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

/// The codecs a viewer negotiated, all tracks together.
pub fn codecs_of(chosen: &[ReceivedTrack]) -> CodecSet {
    CodecSet::of(chosen.iter().flat_map(|track| &track.payloads).filter_map(PayloadFacts::codec))
}

/// The sections of the answer to a publisher.
pub fn answer_sent(offer: &OfferFacts, chosen: &[SentTrack]) -> Vec<MediaText> {
    sections(offer, |index, section| {
        let track = chosen.iter().find(|track| track.section == index)?;
        Some(MediaText::accepted(section, Direction::RecvOnly, std::slice::from_ref(&track.payload), None))
    })
}

/// The sections of the answer to a viewer; `ssrcs` in the order of `chosen`.
pub fn answer_received(offer: &OfferFacts, chosen: &[ReceivedTrack], ssrcs: &[u32], stream: &str) -> Vec<MediaText> {
    sections(offer, |index, section| {
        let (track, ssrc) = chosen.iter().zip(ssrcs).find(|(track, _)| track.section == index)?;
        let source = SourceText {
            ssrc: *ssrc,
            cname: stream.to_owned(),
            msid: (stream.to_owned(), format!("{stream}-{}", section.kind)),
        };
        Some(MediaText::accepted(section, Direction::SendOnly, &track.payloads, Some(source)))
    })
}

fn sections(offer: &OfferFacts, accept: impl Fn(usize, &MediaFacts) -> Option<MediaText>) -> Vec<MediaText> {
    let section = |(index, section)| accept(index, section).unwrap_or_else(|| MediaText::rejected(section));
    offer.media.iter().enumerate().map(section).collect()
}

/// RFC 8842 section 5.3: who offers passive wants the answerer to begin.
fn refuse_passive(offer: &OfferFacts) -> Result<(), Refusal> {
    if offer.setup == Setup::Passive { Err(Refusal::DtlsRoleUnsupported) } else { Ok(()) }
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

    const PUBLISH: &str = include_str!("../../../proto/src/sdp/fixtures/chromium_publish.sdp");
    const VIEW: &str = include_str!("../../../proto/src/sdp/fixtures/chromium_view.sdp");
    const FFMPEG: &str = include_str!("../../../proto/src/sdp/fixtures/ffmpeg_publish.sdp");
    const OBS: &str = include_str!("../../../proto/src/sdp/fixtures/obs_publish.sdp");

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
        assert_eq!(video.payloads.iter().map(|p| p.payload_type).collect::<Vec<_>>(), [109, 96, 45, 98]);
        assert_eq!(video.payload_types[Codec::Vp9 as usize], 98);
        assert_eq!(video.payload_types[Codec::Av1 as usize], 45);
        assert_eq!(video.payload_types[Codec::H265 as usize], 0, "it has none");
        assert_eq!(video.payload_types[Codec::H264 as usize], 109);
        assert_eq!(video.payload_types[Codec::Vp8 as usize], 96);
        assert_eq!(video.payload_types[Codec::Opus as usize], 0);
        assert!(codecs_of(&chosen).contains(Codec::Opus) && codecs_of(&chosen).contains(Codec::Vp8));
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
        assert_eq!(choose_sent(&offer(FFMPEG)).unwrap_err(), Refusal::DtlsRoleUnsupported);
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
        let answer = answer_received(&offer, &chosen, &[77], "demo");
        assert_eq!(answer.iter().map(|m| m.accepted.is_some()).collect::<Vec<_>>(), [false, true, false]);
        let source = answer[1].accepted.as_ref().unwrap().source.as_ref().unwrap();
        assert_eq!((source.ssrc, source.msid.1.as_str()), (77, "demo-video"));
    }
}
