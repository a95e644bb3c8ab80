//! Which codec a payload type means, and which of several fits best (RFC 6184 section 8.2.2 for H264).

use super::offer::{MediaFacts, PayloadFacts};
use crate::id::Codec;
use crate::limits::PARAMETER_SETS_BYTES_MAX;

/// H264 profiles browsers and encoders name; levels do not matter here, because everybody allows
/// asymmetry and we only forward.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum H264Profile {
    ConstrainedBaseline = 1,
    Baseline = 2,
    Main = 3,
    ConstrainedHigh = 4,
    High = 5,
}

impl H264Profile {
    pub const fn from_u8(value: u8) -> Option<H264Profile> {
        Some(match value {
            1 => H264Profile::ConstrainedBaseline,
            2 => H264Profile::Baseline,
            3 => H264Profile::Main,
            4 => H264Profile::ConstrainedHigh,
            5 => H264Profile::High,
            _ => return None,
        })
    }

    /// The profile of a `profile-level-id`: profile_idc and the constraint flags together name it
    /// (RFC 6184 section 8.1, table 5).
    pub fn of(profile_level_id: &str) -> Option<H264Profile> {
        if profile_level_id.len() != 6 {
            return None;
        }
        let bits = u32::from_str_radix(profile_level_id, 16).ok()?;
        let (idc, flags) = ((bits >> 16) as u8, (bits >> 8) as u8);
        match idc {
            0x42 if flags & 0x4f == 0x40 => Some(H264Profile::ConstrainedBaseline),
            0x42 if flags & 0x4f == 0x00 => Some(H264Profile::Baseline),
            0x4d if flags & 0x8f == 0x80 => Some(H264Profile::ConstrainedBaseline),
            0x4d if flags & 0xaf == 0x00 => Some(H264Profile::Main),
            0x58 if flags & 0xcf == 0xc0 => Some(H264Profile::ConstrainedBaseline),
            0x58 if flags & 0xcf == 0x80 => Some(H264Profile::Baseline),
            0x64 if flags == 0x00 => Some(H264Profile::High),
            0x64 if flags == 0x0c => Some(H264Profile::ConstrainedHigh),
            _ => None,
        }
    }

    /// Whether a decoder of this profile decodes everything of `stream`.
    pub fn decodes(self, stream: H264Profile) -> bool {
        use H264Profile::{Baseline, ConstrainedBaseline, ConstrainedHigh, High, Main};
        match self {
            ConstrainedBaseline => matches!(stream, ConstrainedBaseline),
            Baseline => matches!(stream, ConstrainedBaseline | Baseline),
            Main => matches!(stream, ConstrainedBaseline | Main),
            ConstrainedHigh => matches!(stream, ConstrainedBaseline | ConstrainedHigh),
            High => matches!(stream, ConstrainedBaseline | Main | ConstrainedHigh | High),
        }
    }
}

impl PayloadFacts {
    /// The codec, where it is one that Spillway forwards.
    pub fn codec(&self) -> Option<Codec> {
        let named = |codec: Codec| {
            self.name.eq_ignore_ascii_case(codec.sdp_name()) && self.clock_rate == codec.clock_rate()
        };
        if named(Codec::Opus) {
            // RFC 7587 section 7: always "opus/48000/2". GStreamer's whepsrc forgets the channels, which say nothing of
            // the sound: every packet names its own.
            matches!(self.channels, 1 | 2).then_some(Codec::Opus)
        } else if named(Codec::Vp8) {
            Some(Codec::Vp8)
        } else if named(Codec::H264) {
            // Fragments need mode 1 (RFC 6184 section 6.2); a viewer without it cannot read a large picture.
            let fragments = self.parameter("packetization-mode") == Some("1");
            (fragments && self.h264_profile().is_some()).then_some(Codec::H264)
        } else if named(Codec::Vp9) {
            // RFC 9628 section 6.1: without the parameter, profile 0; the others are more than 8 bits or 4:2:0.
            self.is("profile-id", "0").then_some(Codec::Vp9)
        } else if named(Codec::Av1) {
            // The AOMedia RTP payload format, section 7.2.1: without it, profile 0 (main).
            self.is("profile", "0").then_some(Codec::Av1)
        } else if named(Codec::H265) {
            // RFC 7798 section 7.1: without them, the Main profile in one stream, nothing interleaved. Tier and level
            // do not matter, as for H264.
            let main = self.is("profile-space", "0") && self.is("profile-id", "1");
            let plain = self.is("sprop-max-don-diff", "0")
                && self.parameter("tx-mode").is_none_or(|mode| mode.eq_ignore_ascii_case("SRST"));
            (main && plain).then_some(Codec::H265)
        } else {
            None
        }
    }

    /// Whether a parameter whose default is `wanted` has that value.
    fn is(&self, name: &str, wanted: &str) -> bool {
        self.parameter(name).is_none_or(|value| value == wanted)
    }

    /// The parameter sets that stand in the description (RFC 6184 section 8.1, RFC 7798 section 7.1): NAL units, each
    /// behind its length in two bytes. Empty if there are none, or if they are no such thing: then they come in band.
    pub fn parameter_sets(&self) -> Vec<u8> {
        let names: &[&str] = match self.codec() {
            Some(Codec::H264) => &["sprop-parameter-sets"],
            Some(Codec::H265) => &["sprop-vps", "sprop-sps", "sprop-pps"],
            _ => &[],
        };
        let units = names.iter().filter_map(|name| self.parameter(name)).flat_map(|list| list.split(','));
        let mut sets = Vec::new();
        for unit in units.filter(|unit| !unit.is_empty()) {
            // A partial list is worse than none: a picture without its PPS cannot be decoded.
            let Some(unit) = from_base64(unit) else { return Vec::new() };
            let Ok(length) = u16::try_from(unit.len()) else { return Vec::new() };
            sets.extend(length.to_be_bytes());
            sets.extend(unit);
            if sets.len() > PARAMETER_SETS_BYTES_MAX {
                return Vec::new();
            }
        }
        sets
    }

    /// How well H264 without fragments, as it was offered, suits a stream of this profile: its own, one that contains
    /// it, none given. None: it is something else, or of another profile.
    fn mode_0_rank(&self, stream: Option<H264Profile>) -> Option<u8> {
        let is_h264 = self.name.eq_ignore_ascii_case(Codec::H264.sdp_name()) && self.clock_rate == Codec::H264.clock_rate();
        if !is_h264 || !self.is("packetization-mode", "0") {
            return None;
        }
        if self.parameter("profile-level-id").is_none() {
            return Some(2);
        }
        match (self.h264_profile()?, stream) {
            (theirs, Some(stream)) if theirs == stream => Some(0),
            (theirs, Some(stream)) => theirs.decodes(stream).then_some(1),
            (_, None) => Some(1),
        }
    }

    pub fn h264_profile(&self) -> Option<H264Profile> {
        // RFC 6184 section 8.1: without the parameter, Baseline at level 1.
        H264Profile::of(self.parameter("profile-level-id").unwrap_or("420010"))
    }

    /// A parameter of its `a=fmtp`.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.fmtp.split(';').find_map(|part| {
            let (key, value) = part.split_once('=')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Base64 (RFC 4648 section 4), with or without its padding; no larger than a parameter set may be. None: it is no
/// base64, or nothing.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if digits.is_empty() || digits.len() % 4 == 1 || digits.len() > PARAMETER_SETS_BYTES_MAX * 4 / 3 + 1 {
        return None;
    }
    let (mut bytes, mut bits, mut count) = (Vec::with_capacity(digits.len() * 3 / 4), 0u32, 0);
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

impl MediaFacts {
    /// The codecs of this section that Spillway forwards, in the remote's order, each once.
    pub fn codecs(&self) -> Vec<Codec> {
        let mut found = Vec::new();
        for codec in self.payloads.iter().filter_map(PayloadFacts::codec) {
            if !found.contains(&codec) {
                found.push(codec);
            }
        }
        found
    }

    /// What may be sent to the remote: `codecs`, and behind them H264 where only mode 0 of it was offered.
    pub fn codecs_to_send(&self, profile: Option<H264Profile>) -> Vec<Codec> {
        let mut found = self.codecs();
        if !found.contains(&Codec::H264) && self.payload_to_send(Codec::H264, profile).is_some() {
            found.push(Codec::H264);
        }
        found
    }

    /// What the remote sends best as `codec`: constrained baseline where H264 has a choice, because every
    /// viewer decodes it.
    pub fn payload_to_receive(&self, codec: Codec) -> Option<&PayloadFacts> {
        self.fitting(codec, Some(H264Profile::ConstrainedBaseline))
    }

    /// What the remote understands `codec` by: what fits; else, for H264, a payload type without packetization-mode 1.
    /// RFC 6184 section 6.2 lets nobody send fragments by that, but who writes it has forgotten the parameter
    /// (GStreamer's caps have none unless somebody asks) or offers mode 1 beside it (Firefox, which so never comes
    /// here), and depacketizers of the field put fragments together whatever was said. The other choice is no picture.
    pub fn payload_to_send(&self, codec: Codec, profile: Option<H264Profile>) -> Option<&PayloadFacts> {
        let in_mode_0 = || {
            let rank = |payload: &PayloadFacts| payload.mode_0_rank(profile);
            self.payloads.iter().filter(|payload| rank(payload).is_some()).min_by_key(|payload| rank(payload))
        };
        self.fitting(codec, profile).or_else(|| if codec == Codec::H264 { in_mode_0() } else { None })
    }

    /// What fits `codec`: for H264 the stream's own profile, then one that contains it, then constrained baseline, then
    /// any: real decoders take all five.
    fn fitting(&self, codec: Codec, profile: Option<H264Profile>) -> Option<&PayloadFacts> {
        let rank = |payload: &PayloadFacts| match (payload.h264_profile(), profile) {
            _ if codec == Codec::Opus => u8::from(payload.channels != 2),
            _ if codec != Codec::H264 => 0,
            (Some(theirs), Some(stream)) if theirs == stream => 0,
            (Some(theirs), Some(stream)) if theirs.decodes(stream) => 1,
            (Some(H264Profile::ConstrainedBaseline), _) => 2,
            _ => 3,
        };
        // `min_by_key` keeps the first of equals: the remote's order decides.
        self.payloads.iter().filter(|payload| payload.codec() == Some(codec)).min_by_key(|payload| rank(payload))
    }

    /// The names of everything offered, for a refusal that names both lists.
    pub fn codec_names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for payload in &self.payloads {
            let name = match payload.name.to_ascii_uppercase().as_str() {
                "" => continue,
                "H264" => with_profile(payload, "profile-level-id"),
                "VP9" | "H265" => with_profile(payload, "profile-id"),
                "AV1" => with_profile(payload, "profile"),
                _ => payload.name.clone(),
            };
            let repair = ["rtx", "red", "ulpfec", "flexfec-03", "telephone-event", "CN"];
            if !names.contains(&name) && !repair.iter().any(|other| other.eq_ignore_ascii_case(&name)) {
                names.push(name);
            }
        }
        names
    }
}

/// A codec's name and the profile it was offered in.
fn with_profile(payload: &PayloadFacts, parameter: &str) -> String {
    match payload.parameter(parameter) {
        Some(profile) => format!("{} ({profile})", payload.name),
        None => payload.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sdp::Feedback;

    fn payload(payload_type: u8, name: &str, clock_rate: u32, channels: u8, fmtp: &str) -> PayloadFacts {
        PayloadFacts {
            payload_type,
            name: name.into(),
            clock_rate,
            channels,
            fmtp: fmtp.into(),
            feedback: Feedback::default(),
        }
    }

    #[test]
    fn profiles_are_read_from_idc_and_flags() {
        assert_eq!(H264Profile::of("42e01f"), Some(H264Profile::ConstrainedBaseline));
        assert_eq!(H264Profile::of("42001f"), Some(H264Profile::Baseline));
        assert_eq!(H264Profile::of("4D001F"), Some(H264Profile::Main));
        assert_eq!(H264Profile::of("4d8032"), Some(H264Profile::ConstrainedBaseline));
        assert_eq!(H264Profile::of("640c1f"), Some(H264Profile::ConstrainedHigh));
        assert_eq!(H264Profile::of("640032"), Some(H264Profile::High));
        assert_eq!(H264Profile::of("f4001f"), None, "4:4:4 plays nowhere");
        assert_eq!(H264Profile::of("6e001f"), None);
        assert_eq!(H264Profile::of("zz001f"), None);
        assert_eq!(H264Profile::of("+4001f"), None);
        assert!(H264Profile::High.decodes(H264Profile::Main));
        assert!(!H264Profile::Main.decodes(H264Profile::High));
    }

    #[test]
    fn h264_needs_packetization_mode_1() {
        assert_eq!(payload(96, "H264", 90_000, 1, "packetization-mode=1;profile-level-id=42e01f").codec(), Some(Codec::H264));
        assert_eq!(payload(96, "h264", 90_000, 1, "Packetization-Mode=1").codec(), Some(Codec::H264));
        assert_eq!(payload(96, "H264", 90_000, 1, "packetization-mode=0;profile-level-id=42e01f").codec(), None);
        assert_eq!(payload(96, "H264", 90_000, 1, "").codec(), None);
        assert_eq!(payload(111, "opus", 48_000, 2, "").codec(), Some(Codec::Opus));
        assert_eq!(payload(111, "OPUS", 48_000, 1, "").codec(), Some(Codec::Opus), "as GStreamer's whepsrc says it");
        assert_eq!(payload(111, "opus", 48_000, 6, "").codec(), None);
        assert_eq!(payload(111, "opus", 16_000, 2, "").codec(), None);
        assert_eq!(payload(96, "VP8", 90_000, 1, "").codec(), Some(Codec::Vp8));
        assert_eq!(payload(96, "AV2", 90_000, 1, "").codec(), None);
    }

    #[test]
    fn the_newer_codecs_are_taken_in_the_profile_everybody_has() {
        let codec = |name: &str, fmtp: &str| payload(96, name, 90_000, 1, fmtp).codec();
        for fmtp in ["", "profile-id=0"] {
            assert_eq!(codec("VP9", fmtp), Some(Codec::Vp9));
        }
        for fmtp in ["profile-id=1", "profile-id=2", "profile-id=zero"] {
            assert_eq!(codec("VP9", fmtp), None, "{fmtp}");
        }
        for fmtp in ["", "level-idx=5;profile=0;tier=0"] {
            assert_eq!(codec("AV1", fmtp), Some(Codec::Av1));
        }
        assert_eq!(codec("AV1", "level-idx=5;profile=1;tier=0"), None);
        for fmtp in ["", "level-id=180;profile-id=1;tier-flag=0;tx-mode=SRST", "profile-space=0; profile-id=1; tx-mode=srst"] {
            assert_eq!(codec("H265", fmtp), Some(Codec::H265), "{fmtp}");
        }
        for fmtp in ["profile-id=2", "profile-space=1", "tx-mode=MRST", "sprop-max-don-diff=2"] {
            assert_eq!(codec("H265", fmtp), None, "{fmtp}");
        }
        assert_eq!(payload(96, "VP9", 48_000, 1, "").codec(), None);
    }

    /// Of several payload types of one name the one whose profile we forward is taken, whatever stands first.
    #[test]
    fn the_profile_decides_which_payload_type_it_is() {
        let media = MediaFacts {
            payloads: vec![
                payload(100, "VP9", 90_000, 1, "profile-id=2"),
                payload(98, "VP9", 90_000, 1, "profile-id=0"),
                payload(47, "AV1", 90_000, 1, "profile=1"),
                payload(45, "AV1", 90_000, 1, "level-idx=5;profile=0;tier=0"),
                payload(50, "H265", 90_000, 1, "level-id=180;profile-id=2;tier-flag=0;tx-mode=SRST"),
                payload(49, "H265", 90_000, 1, "level-id=180;profile-id=1;tier-flag=0;tx-mode=SRST"),
            ],
            ..MediaFacts::for_tests()
        };
        for (codec, number) in [(Codec::Vp9, 98), (Codec::Av1, 45), (Codec::H265, 49)] {
            assert_eq!(media.payload_to_send(codec, None).unwrap().payload_type, number);
            assert_eq!(media.payload_to_receive(codec).unwrap().payload_type, number);
        }
        assert_eq!(media.codecs(), [Codec::Vp9, Codec::Av1, Codec::H265]);
        assert_eq!(media.codec_names()[..2], ["VP9 (2)".to_owned(), "VP9 (0)".into()]);
    }

    #[test]
    fn parameter_sets_are_read_from_the_description_or_not_at_all() {
        let h264 = |sprop: &str| {
            let fmtp = format!("packetization-mode=1;sprop-parameter-sets={sprop};profile-level-id=42e01f");
            payload(96, "H264", 90_000, 1, &fmtp)
        };
        let sets = h264("Z0LAHtkDxWhAAAADAEAAAAwDxYuS,aMuMsg==").parameter_sets();
        assert_eq!(sets[..5], [0, 21, 0x67, 0x42, 0xC0]);
        assert_eq!(sets[23..], [0, 4, 0x68, 0xCB, 0x8C, 0xB2]);
        assert_eq!(h264("aMuMsg").parameter_sets(), [0, 4, 0x68, 0xCB, 0x8C, 0xB2], "without padding");
        for broken in ["", "aMuMsg==,Z0LA!", "aMuMs", "====", "aM uM"] {
            assert_eq!(h264(broken).parameter_sets(), [0; 0], "{broken:?}");
        }
        // 400 bytes with their lengths: 266 of base64's fours are 199 and a bit.
        let unit = |bytes: usize| "QUFB".repeat(bytes / 3) + ["", "QQ==", "QUE="][bytes % 3];
        let pair = |second| h264(&format!("{},{}", unit(198), unit(second))).parameter_sets().len();
        assert_eq!((pair(198), pair(199), h264(&unit(20_000)).parameter_sets().len()), (400, 0, 0));

        let h265 = payload(49, "H265", 90_000, 1, "sprop-pps=RAHA;sprop-vps=QAEM;sprop-sps=QgEB");
        assert_eq!(h265.parameter_sets(), [0, 3, 0x40, 1, 0x0C, 0, 3, 0x42, 1, 1, 0, 3, 0x44, 1, 0xC0], "in the order of decoding");
        assert_eq!(payload(96, "VP8", 90_000, 1, "sprop-parameter-sets=aMuMsg==").parameter_sets(), [0; 0]);
    }

    /// Goal: a viewer that forgot packetization-mode 1 gets its picture, and nobody who has it gets another answer.
    /// Method: sections with payload types in both modes.
    #[test]
    fn h264_in_mode_0_is_for_viewers_that_offer_nothing_better() {
        let media = |fmtps: &[&str]| MediaFacts {
            payloads: fmtps.iter().zip(96..).map(|(fmtp, pt)| payload(pt, "H264", 90_000, 1, fmtp)).collect(),
            ..MediaFacts::for_tests()
        };
        let sent = |fmtps: &[&str], profile| {
            media(fmtps).payload_to_send(Codec::H264, profile).map(|payload| payload.payload_type)
        };
        let high = Some(H264Profile::High);
        for plain in ["", "packetization-mode=0", "packetization-mode=0;profile-level-id=64001f", "profile-level-id=640032"] {
            assert_eq!(sent(&[plain], high), Some(96), "{plain}");
            assert_eq!(media(&[plain]).codecs_to_send(high), [Codec::H264], "{plain}");
            assert!(media(&[plain]).payload_to_receive(Codec::H264).is_none(), "a publisher says what it sends");
            assert!(media(&[plain]).codecs().is_empty());
        }
        for other in ["packetization-mode=0;profile-level-id=42e01f", "packetization-mode=2", "profile-level-id=f4001f"] {
            assert_eq!(sent(&[other], high), None, "{other}");
            assert!(media(&[other]).codecs_to_send(high).is_empty(), "{other}");
        }
        let (cb, one, zero) = ("profile-level-id=42e01f", "packetization-mode=1", "packetization-mode=0");
        let in_mode = |mode: &str| format!("{cb};{mode}");
        let stream = Some(H264Profile::ConstrainedBaseline);
        assert_eq!(sent(&[&in_mode(zero), &in_mode(one)], stream), Some(97), "mode 1 first");
        assert_eq!(sent(&[&in_mode(zero), one], high), Some(97), "even of another profile, as before");
        assert_eq!(sent(&["", "profile-level-id=4d001f", cb], stream), Some(98), "its own profile");
        assert_eq!(sent(&["", "profile-level-id=4d001f"], stream), Some(97), "one that contains it");
        assert_eq!(sent(&[cb, ""], None), Some(96), "a stream without H264 so far: any, in its order");
        let mut vp8 = media(&[""]);
        vp8.payloads.push(payload(100, "VP8", 90_000, 1, ""));
        assert_eq!(vp8.codecs_to_send(None), [Codec::Vp8, Codec::H264]);
        assert_eq!(vp8.payload_to_send(Codec::H265, None), None);
    }

    #[test]
    fn the_streams_profile_is_preferred_then_one_that_contains_it() {
        let media = |profiles: &[&str]| MediaFacts {
            payloads: profiles
                .iter()
                .zip(96..)
                .map(|(p, pt)| payload(pt, "H264", 90_000, 1, &format!("packetization-mode=1;profile-level-id={p}")))
                .collect(),
            ..MediaFacts::for_tests()
        };
        let chosen = |media: &MediaFacts, profile| media.payload_to_send(Codec::H264, Some(profile)).unwrap().payload_type;
        let all = media(&["42001f", "42e01f", "4d001f", "64001f"]);
        assert_eq!(chosen(&all, H264Profile::ConstrainedBaseline), 97);
        assert_eq!(chosen(&all, H264Profile::High), 99);
        assert_eq!(chosen(&all, H264Profile::ConstrainedHigh), 99);
        assert_eq!(all.payload_to_receive(Codec::H264).unwrap().payload_type, 97);
        assert_eq!(chosen(&media(&["4d001f", "42e01f"]), H264Profile::High), 97);
        assert_eq!(chosen(&media(&["4d001f"]), H264Profile::High), 96);
        assert_eq!(all.codecs(), [Codec::H264]);
    }
}
