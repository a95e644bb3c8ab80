//! What the load tester offers, and what it needs of an answer: the text every WHIP and WHEP server understands.

use crate::source::VideoCodec;
use spillway_proto::sdp::offer::{MediaFacts, OfferFacts};
use spillway_proto::sdp::Setup;
use std::fmt::Write;
use std::net::SocketAddr;

pub const AUDIO_PT: u8 = 111;
pub const VIDEO_PT: u8 = 96;
pub const RTX_PT: u8 = 97;

/// Credentials and fingerprint of one remote of ours.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub ufrag: String,
    pub pwd: String,
    /// SHA-256 of the certificate.
    pub fingerprint: [u8; 32],
}

/// What one remote asks for.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    pub codec: VideoCodec,
    /// SSRCs of audio and video to send; none: it watches.
    pub sends: Option<[u32; 2]>,
    /// Retransmissions in a stream of their own (RFC 4588).
    pub rtx: bool,
    pub audio_only: bool,
}

pub fn write(credentials: &Credentials, wish: &Wish) -> String {
    let direction = if wish.sends.is_some() { "sendonly" } else { "recvonly" };
    let print: Vec<String> = credentials.fingerprint.iter().map(|byte| format!("{byte:02X}")).collect();
    let transport = format!(
        "c=IN IP4 0.0.0.0\r\na=ice-ufrag:{}\r\na=ice-pwd:{}\r\na=ice-options:trickle\r\na=fingerprint:sha-256 {}\r\na=setup:actpass\r\n",
        credentials.ufrag,
        credentials.pwd,
        print.join(":")
    );
    let group = if wish.audio_only { "0" } else { "0 1" };
    let mut out = format!("v=0\r\no=- 4611686018427387905 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE {group}\r\na=msid-semantic: WMS *\r\n");
    let _ = write!(
        out,
        "m=audio 9 UDP/TLS/RTP/SAVPF {AUDIO_PT}\r\n{transport}a=mid:0\r\na={direction}\r\na=rtcp-mux\r\na=rtpmap:{AUDIO_PT} opus/48000/2\r\na=fmtp:{AUDIO_PT} minptime=10;useinbandfec=1\r\n"
    );
    if let Some([audio, _]) = wish.sends {
        let _ = write!(out, "a=msid:bench sound\r\na=ssrc:{audio} cname:bench\r\na=ssrc:{audio} msid:bench sound\r\n");
    }
    if wish.audio_only {
        return out;
    }
    let rtx = if wish.rtx { format!(" {RTX_PT}") } else { String::new() };
    let name = wish.codec.name();
    let _ = write!(
        out,
        "m=video 9 UDP/TLS/RTP/SAVPF {VIDEO_PT}{rtx}\r\n{transport}a=mid:1\r\na={direction}\r\na=rtcp-mux\r\na=rtcp-rsize\r\na=rtpmap:{VIDEO_PT} {name}/90000\r\na=rtcp-fb:{VIDEO_PT} nack\r\na=rtcp-fb:{VIDEO_PT} nack pli\r\na=rtcp-fb:{VIDEO_PT} ccm fir\r\n"
    );
    if wish.codec == VideoCodec::H264 {
        let _ = write!(out, "a=fmtp:{VIDEO_PT} level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f\r\n");
    }
    if wish.rtx {
        let _ = write!(out, "a=rtpmap:{RTX_PT} rtx/90000\r\na=fmtp:{RTX_PT} apt={VIDEO_PT}\r\n");
    }
    if let Some([_, video]) = wish.sends {
        let _ = write!(out, "a=msid:bench picture\r\na=ssrc:{video} cname:bench\r\na=ssrc:{video} msid:bench picture\r\n");
    }
    out
}

/// What a session needs of the server's answer.
#[derive(Clone, Debug)]
pub struct Agreed {
    pub ufrag: String,
    pub pwd: String,
    /// Ours: full agents check us, too.
    pub own_pwd: String,
    pub fingerprint: [u8; 32],
    /// The server begins the handshake: we answer it.
    pub server_is_active: bool,
    /// Where to, best first.
    pub candidates: Vec<SocketAddr>,
    pub audio_pt: u8,
    pub video_pt: u8,
    pub rtx_pt: Option<u8>,
}

/// Reads an answer; the error is one line for people.
pub fn read(answer: &str, own: &Credentials) -> Result<Agreed, String> {
    let facts = OfferFacts::parse(answer).map_err(|error| format!("the server's answer cannot be used: {error}"))?;
    let addresses = facts.candidates.iter().filter(|found| found.udp && found.component == 1);
    let mut candidates: Vec<SocketAddr> =
        addresses.filter_map(|found| Some(SocketAddr::new(found.address?, found.port))).collect();
    // Loopback only where nothing else is offered; IPv4 first, which every path has.
    candidates.sort_by_key(|found| (found.ip().is_loopback(), found.is_ipv6()));
    if candidates.is_empty() {
        return Err("the server's answer names no UDP candidate with an address (trickled or TCP ones are not taken)".into());
    }
    let section = |name: &str| facts.media.iter().find(|media| media.is_offered() && media.kind.to_string() == name);
    let first = |media: Option<&MediaFacts>| {
        let media = media?;
        media.payloads.iter().find(|payload| !payload.name.eq_ignore_ascii_case("rtx")).map(|payload| payload.payload_type)
    };
    let (audio, video) = (section("audio"), section("video"));
    if audio.is_none() && video.is_none() {
        return Err("the server refused every section of the offer".into());
    }
    // Of the payload type that is watched; an answer may name others.
    let rtx = |media: &MediaFacts| {
        let watched = media.payloads.iter().find(|payload| Some(payload.payload_type) == first(Some(media)))?;
        media.rtx_of(watched).map(|found| found.payload_type)
    };
    Ok(Agreed {
        ufrag: facts.ice_ufrag.clone(),
        pwd: facts.ice_pwd.clone(),
        own_pwd: own.pwd.clone(),
        fingerprint: facts.fingerprint,
        server_is_active: facts.setup == Setup::Active,
        candidates,
        audio_pt: first(audio).unwrap_or(AUDIO_PT),
        video_pt: first(video).unwrap_or(VIDEO_PT),
        rtx_pt: video.and_then(rtx),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials() -> Credentials {
        Credentials { ufrag: "abcdefgh".into(), pwd: "0123456789abcdef01234567".into(), fingerprint: [7; 32] }
    }

    #[test]
    fn every_offer_is_a_description_with_what_was_wished() {
        for codec in [VideoCodec::H264, VideoCodec::Vp8] {
            for (sends, rtx, audio_only) in [(Some([1, 2]), false, false), (None, true, false), (None, false, true)] {
                let text = write(&credentials(), &Wish { codec, sends, rtx, audio_only });
                let facts = OfferFacts::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
                assert_eq!(facts.media.len(), if audio_only { 1 } else { 2 });
                assert!(facts.media.iter().all(|media| media.direction.sends() == sends.is_some() && media.bundled));
                assert_eq!(facts.fingerprint, [7; 32]);
                let Some(video) = facts.media.iter().find(|media| media.kind.to_string() == "video")
                else {
                    continue;
                };
                assert_eq!(video.payloads.len(), 1 + usize::from(rtx));
                assert!(video.payloads[0].feedback.nack && video.payloads[0].feedback.nack_pli);
            }
        }
    }

    #[test]
    fn an_answer_gives_the_way_and_the_numbers() {
        let answer = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0 1\r\na=ice-lite\r\n\
            m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendonly\r\na=ice-ufrag:serv\r\na=ice-pwd:0123456789abcdef01234567\r\n\
            a=fingerprint:sha-256 00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F\r\n\
            a=setup:passive\r\na=rtcp-mux\r\na=rtpmap:111 opus/48000/2\r\na=candidate:1 1 UDP 1 127.0.0.1 7081 typ host\r\n\
            a=candidate:1 1 TCP 1 192.0.2.1 9 typ host\r\na=candidate:1 1 UDP 1 192.0.2.1 7081 typ host\r\n\
            m=video 9 UDP/TLS/RTP/SAVPF 102 103\r\nc=IN IP4 0.0.0.0\r\na=mid:1\r\na=sendonly\r\na=rtcp-mux\r\na=rtpmap:103 rtx/90000\r\na=fmtp:103 apt=102\r\na=rtpmap:102 H264/90000\r\n";
        let agreed = read(answer, &credentials()).unwrap();
        assert_eq!(agreed.candidates, ["192.0.2.1:7081".parse().unwrap(), "127.0.0.1:7081".parse::<SocketAddr>().unwrap()]);
        assert_eq!((agreed.audio_pt, agreed.video_pt, agreed.rtx_pt), (111, 102, Some(103)));
        assert!(!agreed.server_is_active);
        let without = answer.replace("UDP 1", "TCP 1");
        assert!(read(&without, &credentials()).unwrap_err().contains("no UDP candidate"));
        assert!(read("hello", &credentials()).is_err());
    }
}
