//! Facts to a description's text: the server's answers, and the offers of our own client.
//!
//! The same few shapes for both; what a remote wrote is repeated only after it was checked.

use super::offer::{ExtensionFacts, MediaFacts, PayloadFacts};
use super::{Direction, Feedback, MediaKind, Setup};
use std::fmt::Write;
use std::net::SocketAddr;

/// Candidates one description names: more would only slow a client down, and ffmpeg reads 8 KB.
pub const CANDIDATES_MAX: usize = 16;

/// The server's answer: ICE-lite, one bundle, only what was chosen.
#[derive(Clone, PartialEq, Debug)]
pub struct AnswerFacts {
    /// Names the description (RFC 8866 section 5.2); anything but 0.
    pub origin: u64,
    pub ice_ufrag: String,
    pub ice_pwd: String,
    pub fingerprint: [u8; 32],
    pub setup: Setup,
    /// In the order a client shall try them: an IPv4 host first, because ffmpeg takes only that one.
    pub candidates: Vec<SocketAddr>,
    /// One for each section of the offer, in its order.
    pub media: Vec<MediaText>,
}

/// Our own client's offer: a full agent that gathers nothing, since the server learns its address.
#[derive(Clone, PartialEq, Debug)]
pub struct OfferText {
    pub origin: u64,
    pub ice_ufrag: String,
    pub ice_pwd: String,
    pub fingerprint: [u8; 32],
    pub setup: Setup,
    pub media: Vec<MediaText>,
}

/// One section as it is written.
#[derive(Clone, PartialEq, Debug)]
pub struct MediaText {
    pub kind: MediaKind,
    pub mid: String,
    pub protocol: String,
    /// `None` refuses the section: port 0 and the first offered format.
    pub accepted: Option<AcceptedText>,
    pub format_first: String,
}

#[derive(Clone, PartialEq, Debug)]
pub struct AcceptedText {
    pub direction: Direction,
    pub payloads: Vec<PayloadFacts>,
    pub extensions: Vec<ExtensionFacts>,
    pub extmap_allow_mixed: bool,
    pub rtcp_rsize: bool,
    /// What this side sends, if it sends.
    pub source: Option<SourceText>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct SourceText {
    /// 0: the sender does not say it beforehand.
    pub ssrc: u32,
    /// Of its retransmissions; 0: there are none, or none with an SSRC of their own.
    pub rtx_ssrc: u32,
    pub cname: String,
    /// MediaStream and track (RFC 8830).
    pub msid: (String, String),
}

impl MediaText {
    pub fn rejected(offered: &MediaFacts) -> MediaText {
        MediaText {
            kind: offered.kind.clone(),
            mid: offered.mid.clone(),
            protocol: offered.protocol.clone(),
            accepted: None,
            format_first: offered.formats.split(' ').next().unwrap_or("0").to_owned(),
        }
    }

    /// Accepts the offered section with these payload types and extensions of it, as `answered` made them.
    pub fn accepted(
        offered: &MediaFacts,
        direction: Direction,
        payloads: &[PayloadFacts],
        extensions: &[ExtensionFacts],
        source: Option<SourceText>,
    ) -> MediaText {
        let accepted = AcceptedText {
            direction,
            payloads: payloads.to_vec(),
            extensions: extensions.to_vec(),
            // AV1's descriptor is at times too long for the one-byte form; libwebrtc drops it then without this word.
            extmap_allow_mixed: offered.extmap_allow_mixed && !extensions.is_empty(),
            rtcp_rsize: offered.rtcp_rsize,
            source,
        };
        MediaText { accepted: Some(accepted), ..MediaText::rejected(offered) }
    }
}

impl PayloadFacts {
    /// As an answer repeats it: of its feedback only what the answerer wants too.
    pub fn answered(&self, wanted: Feedback) -> PayloadFacts {
        let fmtp = super::offer::repeated_parameters(&self.fmtp);
        PayloadFacts { feedback: self.feedback.and(wanted), fmtp, ..self.clone() }
    }

    /// Retransmissions of `payload_type` (RFC 4588 section 8.6). The answer leaves out an `rtx-time`: it is a
    /// sender's word on its own buffer.
    pub fn rtx(number: u8, payload_type: u8, clock_rate: u32) -> PayloadFacts {
        PayloadFacts {
            payload_type: number,
            name: "rtx".to_owned(),
            clock_rate,
            channels: 1,
            fmtp: format!("apt={payload_type}"),
            feedback: Feedback::default(),
        }
    }
}

impl ExtensionFacts {
    /// As an answer repeats it: same id (RFC 8285 section 6), the direction seen from the other side.
    pub fn answered(&self) -> ExtensionFacts {
        let direction = self.direction.map(|direction| match direction {
            Direction::SendOnly => Direction::RecvOnly,
            Direction::RecvOnly => Direction::SendOnly,
            same => same,
        });
        ExtensionFacts { direction, ..self.clone() }
    }
}

impl AnswerFacts {
    pub fn write(&self) -> String {
        let mut out = String::with_capacity(2_048);
        write_head(&mut out, self.origin, &self.media);
        // RFC 8839 section 5.3: a session-level flag.
        out.push_str("a=ice-lite\r\n");
        let mut candidates = Some(self.candidates.as_slice());
        for media in &self.media {
            write_media(&mut out, media, |out| {
                write_transport(out, &self.ice_ufrag, &self.ice_pwd, &self.fingerprint, self.setup);
                // RFC 8843 section 10: candidates stand in the section that carries the bundle's transport.
                let Some(candidates) = candidates.take() else { return };
                for (index, address) in candidates.iter().take(CANDIDATES_MAX).enumerate() {
                    write_candidate(out, index, *address);
                }
                // The list is whole at once (RFC 9725 section 4.3.2): a server does not trickle.
                out.push_str("a=end-of-candidates\r\n");
            });
        }
        out
    }
}

impl OfferText {
    pub fn write(&self) -> String {
        let mut out = String::with_capacity(2_048);
        write_head(&mut out, self.origin, &self.media);
        for media in &self.media {
            write_media(&mut out, media, |out| {
                // RFC 8858 section 4.2: forbidden in answers, a promise in offers.
                out.push_str("a=rtcp-mux-only\r\n");
                write_transport(out, &self.ice_ufrag, &self.ice_pwd, &self.fingerprint, self.setup);
            });
        }
        out
    }
}

fn write_head(out: &mut String, origin: u64, media: &[MediaText]) {
    // RFC 9429 section 5.2.1: the origin is a number below 2^63; the address says nothing about us.
    let _ = write!(out, "v=0\r\no=- {} 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n", origin & (i64::MAX as u64));
    let bundled: Vec<&str> = media
        .iter()
        .filter(|media| media.accepted.is_some() && !media.mid.is_empty())
        .map(|media| media.mid.as_str())
        .collect();
    if !bundled.is_empty() {
        let _ = write!(out, "a=group:BUNDLE {}\r\n", bundled.join(" "));
    }
}

fn write_media(out: &mut String, media: &MediaText, transport: impl FnOnce(&mut String)) {
    let Some(accepted) = &media.accepted else {
        let _ = write!(out, "m={} 0 {} {}\r\nc=IN IP4 0.0.0.0\r\n", media.kind, media.protocol, media.format_first);
        if !media.mid.is_empty() {
            let _ = write!(out, "a=mid:{}\r\n", media.mid);
        }
        out.push_str("a=inactive\r\n");
        return;
    };
    let _ = write!(out, "m={} 9 {}", media.kind, media.protocol);
    for payload in &accepted.payloads {
        let _ = write!(out, " {}", payload.payload_type);
    }
    out.push_str("\r\nc=IN IP4 0.0.0.0\r\n");
    if !media.mid.is_empty() {
        let _ = write!(out, "a=mid:{}\r\n", media.mid);
    }
    let _ = write!(out, "a={}\r\na=rtcp-mux\r\n", accepted.direction.name());
    if accepted.rtcp_rsize {
        out.push_str("a=rtcp-rsize\r\n");
    }
    if accepted.extmap_allow_mixed {
        out.push_str("a=extmap-allow-mixed\r\n");
    }
    for ExtensionFacts { id, uri, direction } in &accepted.extensions {
        let (slash, direction) = direction.map_or(("", ""), |direction| ("/", direction.name()));
        let _ = write!(out, "a=extmap:{id}{slash}{direction} {uri}\r\n");
    }
    transport(out);
    for payload in &accepted.payloads {
        write_payload(out, payload);
    }
    if let Some(source) = &accepted.source {
        let (stream, track) = &source.msid;
        let _ = write!(out, "a=msid:{stream} {track}\r\n");
        // RFC 5576 section 4.2: the source, then what repairs it.
        if source.ssrc != 0 && source.rtx_ssrc != 0 {
            let _ = write!(out, "a=ssrc-group:FID {} {}\r\n", source.ssrc, source.rtx_ssrc);
        }
        for ssrc in [source.ssrc, source.rtx_ssrc].iter().take_while(|ssrc| **ssrc != 0) {
            let _ = write!(out, "a=ssrc:{ssrc} cname:{}\r\n", source.cname);
            let _ = write!(out, "a=ssrc:{ssrc} msid:{stream} {track}\r\n");
        }
    }
}

fn write_transport(out: &mut String, ufrag: &str, pwd: &str, fingerprint: &[u8; 32], setup: Setup) {
    let _ = write!(out, "a=ice-ufrag:{ufrag}\r\na=ice-pwd:{pwd}\r\na=fingerprint:sha-256 ");
    for (index, byte) in fingerprint.iter().enumerate() {
        let _ = write!(out, "{}{byte:02X}", if index == 0 { "" } else { ":" });
    }
    let _ = write!(out, "\r\na=setup:{}\r\n", setup.name());
}

/// RFC 8839 section 5.1, priorities by RFC 8445 section 5.1.2.1: host candidates, falling in our order.
fn write_candidate(out: &mut String, index: usize, address: SocketAddr) {
    let local_preference = 65_535 - index as u32;
    let priority = (126 << 24) | (local_preference << 8) | 255;
    let (ip, port) = (address.ip(), address.port());
    let _ = write!(out, "a=candidate:{} 1 udp {priority} {ip} {port} typ host\r\n", index + 1);
}

fn write_payload(out: &mut String, payload: &PayloadFacts) {
    let number = payload.payload_type;
    let _ = write!(out, "a=rtpmap:{number} {}/{}", payload.name, payload.clock_rate);
    if payload.channels > 1 {
        let _ = write!(out, "/{}", payload.channels);
    }
    out.push_str("\r\n");
    if !payload.fmtp.is_empty() {
        let _ = write!(out, "a=fmtp:{number} {}\r\n", payload.fmtp);
    }
    let Feedback { nack, nack_pli, ccm_fir, transport_cc, remb } = payload.feedback;
    let kinds = [
        (nack, "nack"),
        (nack_pli, "nack pli"),
        (ccm_fir, "ccm fir"),
        (transport_cc, "transport-cc"),
        (remb, "goog-remb"),
    ];
    for (known, kind) in kinds {
        if known {
            let _ = write!(out, "a=rtcp-fb:{number} {kind}\r\n");
        }
    }
}

#[cfg(test)]
mod tests;
