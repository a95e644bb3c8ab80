//! Which codec a payload type means, and which of several fits best (RFC 6184 section 8.2.2 for H264).

use super::offer::{MediaFacts, PayloadFacts};
use crate::id::Codec;

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
            // RFC 7587 section 7: always "opus/48000/2".
            (self.channels == 2).then_some(Codec::Opus)
        } else if named(Codec::Vp8) {
            Some(Codec::Vp8)
        } else if named(Codec::H264) {
            // Fragments need mode 1 (RFC 6184 section 6.2); a viewer without it cannot read a large picture.
            let fragments = self.parameter("packetization-mode") == Some("1");
            (fragments && self.h264_profile().is_some()).then_some(Codec::H264)
        } else {
            None
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

    /// What the remote sends best as `codec`: constrained baseline where H264 has a choice, because every
    /// viewer decodes it.
    pub fn payload_to_receive(&self, codec: Codec) -> Option<&PayloadFacts> {
        self.payload_to_send(codec, Some(H264Profile::ConstrainedBaseline))
    }

    /// What the remote understands `codec` by: for H264 the stream's own profile, then one that contains
    /// it, then constrained baseline, then any: real decoders take all five.
    pub fn payload_to_send(&self, codec: Codec, profile: Option<H264Profile>) -> Option<&PayloadFacts> {
        let rank = |payload: &PayloadFacts| match (payload.h264_profile(), profile) {
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
            let name = match payload.parameter("profile-level-id") {
                _ if payload.name.is_empty() => continue,
                Some(profile) if payload.name.eq_ignore_ascii_case("H264") => format!("H264 ({profile})"),
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
        assert_eq!(payload(111, "opus", 48_000, 1, "").codec(), None);
        assert_eq!(payload(96, "VP8", 90_000, 1, "").codec(), Some(Codec::Vp8));
        assert_eq!(payload(96, "AV1", 90_000, 1, "").codec(), None);
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
