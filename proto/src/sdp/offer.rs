//! A description's text to facts: offers of browsers, OBS, GStreamer and ffmpeg, answers of our own server,
//! trickle fragments. Bounded before it is read; refuses by line; ignores what it does not know.

use super::{Direction, Feedback, MediaKind, SdpError, Setup};
use crate::id::Kind;
use crate::limits::{BODY_BYTES_MAX, SDP_LINES_MAX, SDP_MEDIA_MAX};
use std::net::IpAddr;

/// Payload types are seven bits (RFC 3550 section 5.1).
const PAYLOADS_MAX: usize = 128;
/// Identifiers that an answer repeats: longer ones are no honest client's, and the answer stays small.
const TOKEN_CHARS_MAX: usize = 64;
/// The same for kind, protocol and formats of a section, which a refused one repeats: with 16 sections an answer
/// stays near the 8 KB that ffmpeg reads. "webrtc-datachannel" has 18.
const WORD_CHARS_MAX: usize = 32;
/// Codec parameters that an answer repeats. Chromium's longest have 80 characters.
const PARAMETERS_CHARS_MAX: usize = 256;
/// With the parameter sets (`sprop-...`), which an answer does not repeat: those of H265 have some 300.
const PARAMETERS_CHARS_ALL_MAX: usize = 2_048;

/// What a remote's description says, as far as a server needs it.
#[derive(Clone, PartialEq, Debug)]
pub struct OfferFacts {
    pub ice_ufrag: String,
    pub ice_pwd: String,
    pub ice_lite: bool,
    /// SHA-256 of the remote's certificate.
    pub fingerprint: [u8; 32],
    pub setup: Setup,
    /// In the order of the m-lines, refused ones too: an answer has one section for each.
    pub media: Vec<MediaFacts>,
    pub candidates: Vec<CandidateFacts>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct MediaFacts {
    pub kind: MediaKind,
    /// Line of its `m=`.
    pub line: usize,
    pub mid: String,
    pub port: u16,
    pub bundle_only: bool,
    /// Member of the first BUNDLE group.
    pub bundled: bool,
    pub protocol: String,
    /// The format list as it was written: a refused section repeats its first.
    pub formats: String,
    pub direction: Direction,
    pub rtcp_mux: bool,
    pub rtcp_rsize: bool,
    pub payloads: Vec<PayloadFacts>,
    pub extensions: Vec<ExtensionFacts>,
    /// One-byte and two-byte forms may stand in one stream (RFC 8285 section 6).
    pub extmap_allow_mixed: bool,
    pub ssrcs: Vec<SsrcFacts>,
    /// `ssrc-group:FID`: media and its retransmissions (RFC 5576 section 4.2, RFC 4588).
    pub fid_groups: Vec<(u32, u32)>,
    pub msid: String,
    pub rids: Vec<String>,
    pub simulcast: bool,
}

#[derive(Clone, PartialEq, Debug)]
pub struct PayloadFacts {
    pub payload_type: u8,
    /// Empty where no `a=rtpmap` named it.
    pub name: String,
    pub clock_rate: u32,
    pub channels: u8,
    /// Parameters as written, empty if there were none.
    pub fmtp: String,
    pub feedback: Feedback,
}

/// An RTP header extension (RFC 8285 section 5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExtensionFacts {
    pub id: u8,
    pub uri: String,
    /// Without a word: that of the section.
    pub direction: Option<Direction>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct SsrcFacts {
    pub ssrc: u32,
    pub cname: String,
    pub msid: String,
}

#[derive(Clone, PartialEq, Debug)]
pub struct CandidateFacts {
    pub component: u16,
    pub udp: bool,
    /// `None` for a name (mDNS): nobody looks names up here.
    pub address: Option<IpAddr>,
    pub port: u16,
    pub host: bool,
}

/// A trickle fragment (RFC 8840 section 9).
#[derive(Clone, PartialEq, Debug, Default)]
pub struct FragmentFacts {
    pub ice_ufrag: String,
    pub ice_pwd: String,
    pub candidates: Vec<CandidateFacts>,
    pub end_of_candidates: bool,
}

impl OfferFacts {
    /// Reads a description. Text before `v=0` is ignored, as OBS ignores it in answers.
    pub fn parse(text: &str) -> Result<OfferFacts, SdpError> {
        let mut reader = Reader::default();
        let mut lines = Lines::of(text)?.skip_while(|line| !line.text.starts_with("v="));
        let Some(first) = lines.next() else {
            return Err(SdpError::new(1, text.lines().next().unwrap_or_default(), "no SDP: there is no line \"v=0\""));
        };
        if first.text != "v=0" {
            return Err(first.refuse("the version must be 0"));
        }
        let mut last = first;
        for line in lines {
            reader.take(line)?;
            last = line;
        }
        reader.finish(last)
    }

    /// The first usable section of a kind.
    pub fn section(&self, kind: Kind) -> Option<&MediaFacts> {
        self.sections(kind).next()
    }

    /// The usable sections of a kind.
    pub fn sections(&self, kind: Kind) -> impl Iterator<Item = &MediaFacts> {
        self.media.iter().filter(move |media| media.kind == MediaKind::Rtp(kind) && media.is_offered())
    }
}

impl MediaFacts {
    /// Port 0 refuses a section, unless it only waits for its bundle (RFC 8843 section 6).
    pub fn is_offered(&self) -> bool {
        self.port != 0 || self.bundle_only
    }

    /// The retransmissions of this payload type (RFC 4588 section 8.1), if it has some.
    pub fn rtx_of(&self, payload: &PayloadFacts) -> Option<&PayloadFacts> {
        self.payloads.iter().find(|rtx| {
            rtx.name.eq_ignore_ascii_case("rtx")
                && rtx.clock_rate == payload.clock_rate
                && rtx.parameter("apt").and_then(|apt| apt.parse::<u8>().ok()) == Some(payload.payload_type)
        })
    }

    /// The SSRC that carries the retransmissions of `ssrc`, or 0: the offer does not say.
    pub fn rtx_ssrc_of(&self, ssrc: u32) -> u32 {
        self.fid_groups.iter().find(|(media, _)| *media == ssrc && ssrc != 0).map_or(0, |(_, repair)| *repair)
    }

    /// The extension of this URI, if the remote puts it on what it sends.
    pub fn extension_sent(&self, uri: &str) -> Option<&ExtensionFacts> {
        let sends = |extension: &ExtensionFacts| extension.direction.unwrap_or(Direction::SendRecv).sends();
        self.extensions.iter().find(|extension| extension.id != 0 && extension.uri == uri && sends(extension))
    }

    /// The extension of this URI, if the remote takes it on what it receives.
    pub fn extension_received(&self, uri: &str) -> Option<&ExtensionFacts> {
        let receives = |extension: &ExtensionFacts| extension.direction.unwrap_or(Direction::SendRecv).receives();
        self.extensions.iter().find(|extension| extension.id != 0 && extension.uri == uri && receives(extension))
    }

    fn new(line: Line<'_>) -> Result<MediaFacts, SdpError> {
        let mut words = line.value().split(' ').filter(|word| !word.is_empty());
        let (Some(kind), Some(port), Some(protocol)) = (words.next(), words.next(), words.next()) else {
            return Err(line.refuse("a media line is \"m=<kind> <port> <protocol> <formats>\""));
        };
        let is_word = |text: &str| is_token(text) && text.len() <= WORD_CHARS_MAX;
        if !is_word(kind) || !protocol.split('/').all(is_token) || protocol.len() > WORD_CHARS_MAX {
            return Err(line.refuse("kind and protocol must be plain words"));
        }
        let port = port.split('/').next().and_then(|port| port.parse::<u16>().ok());
        let Some(port) = port else {
            return Err(line.refuse("the port must be a number up to 65535"));
        };
        let formats: Vec<&str> = words.collect();
        if formats.is_empty() || formats.len() > PAYLOADS_MAX || !formats.iter().all(|format| is_word(format)) {
            return Err(line.refuse("the format list must have 1 to 128 plain words"));
        }
        let kind = match kind {
            "audio" => MediaKind::Rtp(Kind::Audio),
            "video" => MediaKind::Rtp(Kind::Video),
            other => MediaKind::Other(other.to_owned()),
        };
        let mut media = MediaFacts {
            kind,
            line: line.number,
            mid: String::new(),
            port,
            bundle_only: false,
            bundled: false,
            protocol: protocol.to_owned(),
            formats: formats.join(" "),
            direction: Direction::SendRecv,
            rtcp_mux: false,
            rtcp_rsize: false,
            payloads: Vec::new(),
            extensions: Vec::new(),
            extmap_allow_mixed: false,
            ssrcs: Vec::new(),
            fid_groups: Vec::new(),
            msid: String::new(),
            rids: Vec::new(),
            simulcast: false,
        };
        if let MediaKind::Rtp(_) = media.kind {
            if !protocol.ends_with("/SAVPF") && !protocol.ends_with("/SAVP") {
                return Err(line.refuse("media must be encrypted: the protocol must be UDP/TLS/RTP/SAVPF"));
            }
            for format in formats {
                let payload_type = format.parse::<u8>().ok().filter(|number| *number < 128);
                let Some(payload_type) = payload_type else {
                    return Err(line.refuse("a payload type must be a number up to 127"));
                };
                if media.payload(payload_type).is_none() {
                    media.payloads.push(PayloadFacts {
                        payload_type,
                        name: String::new(),
                        clock_rate: 0,
                        channels: 1,
                        fmtp: String::new(),
                        feedback: Feedback::default(),
                    });
                }
            }
        }
        Ok(media)
    }

    fn payload(&mut self, payload_type: u8) -> Option<&mut PayloadFacts> {
        self.payloads.iter_mut().find(|payload| payload.payload_type == payload_type)
    }

    #[allow(clippy::indexing_slicing, reason = "a place that was just found or made")]
    fn ssrc(&mut self, ssrc: u32) -> &mut SsrcFacts {
        let place = self.ssrcs.iter().position(|facts| facts.ssrc == ssrc).unwrap_or_else(|| {
            self.ssrcs.push(SsrcFacts { ssrc, cname: String::new(), msid: String::new() });
            self.ssrcs.len() - 1
        });
        &mut self.ssrcs[place]
    }

    #[cfg(test)]
    pub(crate) fn for_tests() -> MediaFacts {
        let line = Line { number: 1, text: "m=video 9 UDP/TLS/RTP/SAVPF 96" };
        MediaFacts { rtcp_mux: true, mid: "0".into(), bundled: true, ..MediaFacts::new(line).unwrap() }
    }
}

impl FragmentFacts {
    /// Reads the body of a trickle PATCH. Its candidates are facts for a full agent; we, an ICE-lite one,
    /// learn addresses from checks, but still refuse what is no fragment.
    pub fn parse(text: &str) -> Result<FragmentFacts, SdpError> {
        let mut facts = FragmentFacts::default();
        let mut lines = 0;
        for line in Lines::of(text)? {
            lines += 1;
            line.check_form()?;
            if line.text.starts_with("m=") {
                MediaFacts::new(line)?;
                continue;
            }
            let Some(attribute) = line.text.strip_prefix("a=") else {
                return Err(line.refuse("a trickle fragment has only a= and m= lines"));
            };
            let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
            match name {
                "ice-ufrag" => facts.ice_ufrag = ice_text(line, value, 4)?,
                "ice-pwd" => facts.ice_pwd = ice_text(line, value, 22)?,
                "candidate" => facts.candidates.push(candidate(line, value)?),
                "end-of-candidates" => facts.end_of_candidates = true,
                _ => {}
            }
        }
        if lines == 0 {
            return Err(SdpError::new(1, text, "the trickle fragment is empty"));
        }
        Ok(facts)
    }
}

/// A line and where it stands.
#[derive(Clone, Copy)]
struct Line<'a> {
    number: usize,
    text: &'a str,
}

impl<'a> Line<'a> {
    fn refuse(self, reason: impl Into<String>) -> SdpError {
        SdpError::new(self.number, self.text, reason)
    }
    fn value(self) -> &'a str {
        self.text.get(2..).unwrap_or_default()
    }
    fn check_form(self) -> Result<u8, SdpError> {
        if self.text.contains(['\0', '\r']) {
            return Err(self.refuse("NUL and CR may not stand in a line"));
        }
        match self.text.as_bytes() {
            // RFC 8866 section 5: a type letter that is not understood refuses the description.
            [letter, b'=', ..] if b"vosiuepcbtrzkam".contains(letter) => Ok(*letter),
            _ => Err(self.refuse("a line must be \"<letter>=<value>\" with a letter of RFC 8866")),
        }
    }
}

/// The lines of a text, without empty ones; LF and CRLF.
struct Lines<'a> {
    inner: std::iter::Enumerate<std::str::Split<'a, char>>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Result<Lines<'a>, SdpError> {
        let first = text.split('\n').next().unwrap_or_default();
        if text.len() > BODY_BYTES_MAX {
            return Err(SdpError::new(1, first, format!("more than {BODY_BYTES_MAX} bytes")));
        }
        let newlines = text.bytes().filter(|byte| *byte == b'\n').count();
        if newlines > SDP_LINES_MAX {
            let line = text.split('\n').nth(SDP_LINES_MAX).unwrap_or_default();
            return Err(SdpError::new(SDP_LINES_MAX + 1, line, format!("more than {SDP_LINES_MAX} lines")));
        }
        Ok(Lines { inner: text.split('\n').enumerate() })
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = Line<'a>;
    fn next(&mut self) -> Option<Line<'a>> {
        self.inner.by_ref().find_map(|(index, text)| {
            let text = text.strip_suffix('\r').unwrap_or(text);
            (!text.is_empty()).then_some(Line { number: index + 1, text })
        })
    }
}

/// ICE and DTLS attributes of the session or of one section.
#[derive(Default)]
struct Transport {
    ufrag: Option<String>,
    pwd: Option<String>,
    fingerprint: Option<[u8; 32]>,
    setup: Option<Setup>,
}

#[derive(Default)]
struct Reader {
    session: Transport,
    media: Vec<(MediaFacts, Transport, Option<Direction>)>,
    direction: Option<Direction>,
    bundle: Option<Vec<String>>,
    ice_lite: bool,
    extmap_allow_mixed: bool,
    candidates: Vec<CandidateFacts>,
    /// A fingerprint of another hash: its error, unless a SHA-256 stands beside it.
    foreign_fingerprint: Option<SdpError>,
}

impl Reader {
    fn take(&mut self, line: Line<'_>) -> Result<(), SdpError> {
        match line.check_form()? {
            b'm' => {
                if self.media.len() >= SDP_MEDIA_MAX {
                    return Err(line.refuse(format!("more than {SDP_MEDIA_MAX} media sections")));
                }
                self.media.push((MediaFacts::new(line)?, Transport::default(), None));
                Ok(())
            }
            b'a' => self.take_attribute(line),
            b'v' => Err(line.refuse("a second version line")),
            _ => Ok(()),
        }
    }

    fn take_attribute(&mut self, line: Line<'_>) -> Result<(), SdpError> {
        let (name, value) = line.value().split_once(':').unwrap_or((line.value(), ""));
        let transport = match self.media.last_mut() {
            Some((_, transport, _)) => transport,
            None => &mut self.session,
        };
        match name {
            "ice-ufrag" => transport.ufrag = Some(ice_text(line, value, 4)?),
            "ice-pwd" => transport.pwd = Some(ice_text(line, value, 22)?),
            "ice-lite" => self.ice_lite = true,
            "fingerprint" => match fingerprint(line, value)? {
                Some(bytes) => transport.fingerprint = Some(bytes),
                None => {
                    let hash = value.split(' ').next().unwrap_or_default();
                    self.foreign_fingerprint =
                        Some(line.refuse(format!("the fingerprint's hash is {hash}; it must be sha-256")));
                }
            },
            "setup" => {
                transport.setup = Some(match value.trim() {
                    "actpass" => Setup::ActPass,
                    "active" => Setup::Active,
                    "passive" => Setup::Passive,
                    _ => return Err(line.refuse("setup must be actpass, active or passive")),
                });
            }
            "candidate" => self.candidates.push(candidate(line, value)?),
            "group" => {
                let mut words = value.split(' ').filter(|word| !word.is_empty());
                if words.next() == Some("BUNDLE") && self.bundle.is_none() {
                    self.bundle = Some(words.take(SDP_MEDIA_MAX + 1).map(str::to_owned).collect());
                }
            }
            _ => {
                if let Some(direction) = Direction::of(name) {
                    match self.media.last_mut() {
                        Some((_, _, own)) => *own = Some(direction),
                        None => self.direction = Some(direction),
                    }
                } else if let Some((media, _, _)) = self.media.last_mut() {
                    take_media_attribute(media, line, name, value)?;
                } else {
                    // For every section (RFC 8285 section 6).
                    self.extmap_allow_mixed |= name == "extmap-allow-mixed";
                }
            }
        }
        Ok(())
    }

    fn finish(self, last: Line<'_>) -> Result<OfferFacts, SdpError> {
        let Reader { session, media: sections, direction, bundle, .. } = self;
        let Reader { ice_lite, extmap_allow_mixed, candidates, foreign_fingerprint, .. } = self;
        let mut media = Vec::with_capacity(sections.len());
        let mut transport: Option<Transport> = None;
        for (mut facts, own, own_direction) in sections {
            facts.direction = own_direction.or(direction).unwrap_or(Direction::SendRecv);
            facts.extmap_allow_mixed |= extmap_allow_mixed;
            facts.bundled = bundle.as_ref().is_some_and(|mids| !facts.mid.is_empty() && mids.contains(&facts.mid));
            // RFC 8843 section 7.2: the first section that is used carries the transport of the bundle.
            if transport.is_none() && matches!(facts.kind, MediaKind::Rtp(_)) && facts.is_offered() {
                transport = Some(own);
            }
            media.push(facts);
        }
        let Some(transport) = transport else {
            return Err(last.refuse("no audio or video section is offered"));
        };
        let used: Vec<&MediaFacts> =
            media.iter().filter(|m| matches!(m.kind, MediaKind::Rtp(_)) && m.is_offered()).collect();
        let at = |line: usize, kind: &MediaKind, reason: &str| SdpError::new(line, &format!("m={kind} ..."), reason);
        for section in &used {
            if !section.rtcp_mux {
                return Err(at(section.line, &section.kind, "the section has no a=rtcp-mux; RTCP has no port of its own"));
            }
            if used.len() > 1 && !section.bundled {
                return Err(at(section.line, &section.kind, "the section is not in a=group:BUNDLE; there is one port for all"));
            }
        }
        let Some(first) = used.first() else {
            return Err(last.refuse("no audio or video section is offered"));
        };
        let missing = |reason: &str| at(first.line, &first.kind, reason);
        let Some(ice_ufrag) = transport.ufrag.or(session.ufrag) else {
            return Err(missing("a=ice-ufrag is missing"));
        };
        let Some(ice_pwd) = transport.pwd.or(session.pwd) else {
            return Err(missing("a=ice-pwd is missing"));
        };
        let Some(fingerprint) = transport.fingerprint.or(session.fingerprint) else {
            return Err(foreign_fingerprint.unwrap_or_else(|| missing("a=fingerprint:sha-256 is missing")));
        };
        // RFC 8842 section 5.2 wants actpass; without a word, RFC 4145 section 4 makes the offerer active.
        let setup = transport.setup.or(session.setup).unwrap_or(Setup::Active);
        Ok(OfferFacts { ice_ufrag, ice_pwd, ice_lite, fingerprint, setup, media, candidates })
    }
}

fn take_media_attribute(media: &mut MediaFacts, line: Line<'_>, name: &str, value: &str) -> Result<(), SdpError> {
    match name {
        "mid" => {
            if !is_token(value) {
                return Err(line.refuse("a mid must be a plain word of at most 64 characters"));
            }
            media.mid = value.to_owned();
        }
        "bundle-only" => media.bundle_only = true,
        "rtcp-mux" => media.rtcp_mux = true,
        "rtcp-rsize" => media.rtcp_rsize = true,
        "extmap-allow-mixed" => media.extmap_allow_mixed = true,
        "msid" => media.msid = value.to_owned(),
        "simulcast" => media.simulcast = true,
        "rid" => {
            if let Some(rid) = value.split(' ').next().filter(|rid| is_token(rid)) {
                media.rids.push(rid.to_owned());
            }
        }
        "rtpmap" => {
            let (payload_type, mapping) = payload_and_rest(line, value)?;
            let mut parts = mapping.split('/');
            let (Some(codec), Some(clock)) = (parts.next(), parts.next()) else {
                return Err(line.refuse("a=rtpmap is \"<payload type> <name>/<clock>[/<channels>]\""));
            };
            let clock_rate = clock.trim().parse::<u32>();
            let channels = parts.next().map_or(Ok(1), |channels| channels.trim().parse::<u8>());
            let (Ok(clock_rate), Ok(channels), true) = (clock_rate, channels, is_token(codec)) else {
                return Err(line.refuse("name, clock or channels are malformed"));
            };
            if let Some(payload) = media.payload(payload_type) {
                (payload.name, payload.clock_rate, payload.channels) = (codec.to_owned(), clock_rate, channels);
            }
        }
        "fmtp" => {
            let (payload_type, parameters) = payload_and_rest(line, value)?;
            if parameters.len() > PARAMETERS_CHARS_ALL_MAX || repeated_parameters(parameters).len() > PARAMETERS_CHARS_MAX {
                return Err(line.refuse(format!("more than {PARAMETERS_CHARS_MAX} characters of parameters")));
            }
            if let Some(payload) = media.payload(payload_type) {
                payload.fmtp = parameters.to_owned();
            }
        }
        "rtcp-fb" => take_feedback(media, line, value)?,
        "extmap" => {
            let mut words = value.split(' ').filter(|word| !word.is_empty());
            let (id, direction) = words.next().map_or(("", None), |word| match word.split_once('/') {
                Some((id, direction)) => (id, Some(direction)),
                None => (word, None),
            });
            let (Ok(id), Some(uri)) = (id.parse::<u16>(), words.next()) else {
                return Err(line.refuse("a=extmap is \"<id> <uri>\""));
            };
            let direction = direction.map(|name| Direction::of(name).unwrap_or(Direction::Inactive));
            // Ids above 255 are only placeholders for a negotiation (RFC 8285 section 6).
            if let Ok(id) = u8::try_from(id) {
                media.extensions.push(ExtensionFacts { id, uri: uri.to_owned(), direction });
            }
        }
        "ssrc" => {
            let (ssrc, attribute) = value.split_once(' ').unwrap_or((value, ""));
            let Ok(ssrc) = ssrc.parse::<u32>() else {
                return Err(line.refuse("an SSRC must be a number of 32 bits"));
            };
            let facts = media.ssrc(ssrc);
            match attribute.split_once(':') {
                Some(("cname", cname)) => facts.cname = cname.to_owned(),
                Some(("msid", msid)) => facts.msid = msid.to_owned(),
                _ => {}
            }
        }
        "ssrc-group" => {
            let mut words = value.split(' ').filter(|word| !word.is_empty());
            if words.next() == Some("FID") {
                let mut numbers = words.map(|word| word.parse::<u32>());
                let (Some(Ok(first)), Some(Ok(repair))) = (numbers.next(), numbers.next()) else {
                    return Err(line.refuse("a FID group has two SSRCs"));
                };
                media.fid_groups.push((first, repair));
            }
        }
        _ => {}
    }
    Ok(())
}

fn take_feedback(media: &mut MediaFacts, line: Line<'_>, value: &str) -> Result<(), SdpError> {
    let (target, kind) = value.split_once(' ').unwrap_or((value, ""));
    let only = match target {
        "*" => None,
        number => match number.parse::<u8>() {
            Ok(number) => Some(number),
            Err(_) => return Err(line.refuse("a=rtcp-fb is \"<payload type or *> <kind>\"")),
        },
    };
    for payload in media.payloads.iter_mut().filter(|payload| only.is_none_or(|only| only == payload.payload_type)) {
        match kind.trim() {
            "nack" => payload.feedback.nack = true,
            "nack pli" => payload.feedback.nack_pli = true,
            "ccm fir" => payload.feedback.ccm_fir = true,
            "transport-cc" => payload.feedback.transport_cc = true,
            "goog-remb" => payload.feedback.remb = true,
            _ => {}
        }
    }
    Ok(())
}

fn payload_and_rest<'a>(line: Line<'_>, value: &'a str) -> Result<(u8, &'a str), SdpError> {
    let (number, rest) = value.split_once(' ').unwrap_or((value, ""));
    match number.parse::<u8>() {
        Ok(number) if number < 128 => Ok((number, rest.trim())),
        _ => Err(line.refuse("the payload type must be a number up to 127")),
    }
}

/// RFC 8839 section 5.4: 4 to 256 characters for a ufrag, 22 to 256 for a password.
fn ice_text(line: Line<'_>, value: &str, chars_min: usize) -> Result<String, SdpError> {
    let value = value.trim();
    if !(chars_min..=256).contains(&value.len()) || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(line.refuse(format!("must have {chars_min} to 256 visible characters")));
    }
    Ok(value.to_owned())
}

/// `None` for another hash than SHA-256.
fn fingerprint(line: Line<'_>, value: &str) -> Result<Option<[u8; 32]>, SdpError> {
    let Some((hash, digits)) = value.trim().split_once(' ') else {
        return Err(line.refuse("a=fingerprint is \"<hash> <bytes in hexadecimal with colons>\""));
    };
    if !hash.eq_ignore_ascii_case("sha-256") {
        return Ok(None);
    }
    let mut bytes = [0u8; 32];
    let mut pairs = digits.trim().split(':');
    for byte in &mut bytes {
        let pair = pairs.next().filter(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()));
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(value) => *byte = value,
            None => return Err(line.refuse("a SHA-256 fingerprint has 32 bytes")),
        }
    }
    match pairs.next() {
        None => Ok(Some(bytes)),
        Some(_) => Err(line.refuse("a SHA-256 fingerprint has 32 bytes")),
    }
}

/// RFC 8839 section 5.1: foundation, component, transport, priority, address, port, "typ", type.
fn candidate(line: Line<'_>, value: &str) -> Result<CandidateFacts, SdpError> {
    let mut words = value.split(' ').filter(|word| !word.is_empty());
    let malformed =
        || line.refuse("a candidate is \"<foundation> <component> <transport> <priority> <address> <port> typ <type>\"");
    let mut next = || words.next().ok_or_else(malformed);
    let (_, component, transport, priority) = (next()?, next()?, next()?, next()?);
    let (address, port, typ, kind) = (next()?, next()?, next()?, next()?);
    let (Ok(component), Ok(_), Ok(port)) = (component.parse::<u16>(), priority.parse::<u32>(), port.parse::<u16>())
    else {
        return Err(malformed());
    };
    if typ != "typ" || !is_token(kind) {
        return Err(malformed());
    }
    Ok(CandidateFacts {
        component,
        udp: transport.eq_ignore_ascii_case("udp"),
        address: address.parse::<IpAddr>().ok(),
        port,
        host: kind == "host",
    })
}

/// What an answer repeats of an `a=fmtp`: `sprop-...` describes the offerer's own stream (RFC 6184 section 8.2.2:
/// in an answer it would be the answerer's).
pub(super) fn repeated_parameters(parameters: &str) -> String {
    if !parameters.contains("sprop-") {
        return parameters.to_owned();
    }
    let kept = parameters.split(';').map(str::trim).filter(|part| !part.starts_with("sprop-"));
    kept.collect::<Vec<_>>().join(";")
}

/// A token of RFC 8866 section 9, bounded: it may be repeated in an answer.
fn is_token(text: &str) -> bool {
    (1..=TOKEN_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`{|}~".contains(&byte))
}

#[cfg(test)]
mod tests;
