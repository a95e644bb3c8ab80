//! Reads a whole Matroska or WebM file (RFC 9559) from memory: its first video and first audio track and their
//! frames in the order of time. For clips to publish: H264, H265, VP8, VP9, AV1 and Opus, no B-frames, no lacing.
//!
//! The file is input like any other: nothing in it makes this panic, recurse or allocate more than the file's
//! size. Errors say what is wrong with the file and how to make one that works.

use crate::id::{Codec, Kind};
use crate::wire::payload::h265;

// RFC 8794 section 11 and RFC 9559 section 5: element ids with their length marker.
const EBML: u32 = 0x1A45_DFA3;
const DOC_TYPE: u32 = 0x4282;
const SEGMENT: u32 = 0x1853_8067;
const INFO: u32 = 0x1549_A966;
const TIMESTAMP_SCALE: u32 = 0x2A_D7B1;
const TRACKS: u32 = 0x1654_AE6B;
const TRACK_ENTRY: u32 = 0xAE;
const TRACK_NUMBER: u32 = 0xD7;
const TRACK_TYPE: u32 = 0x83;
const CODEC_ID: u32 = 0x86;
const CODEC_PRIVATE: u32 = 0x63A2;
const CONTENT_ENCODINGS: u32 = 0x6D80;
const VIDEO: u32 = 0xE0;
const PIXEL_WIDTH: u32 = 0xB0;
const PIXEL_HEIGHT: u32 = 0xBA;
const CLUSTER: u32 = 0x1F43_B675;
const CLUSTER_TIMESTAMP: u32 = 0xE7;
const SIMPLE_BLOCK: u32 = 0xA3;
const BLOCK_GROUP: u32 = 0xA0;
const BLOCK: u32 = 0xA1;
const REFERENCE_BLOCK: u32 = 0xFB;
const CUES: u32 = 0x1C53_BB6B;
const CHAPTERS: u32 = 0x1043_A770;
const TAGS: u32 = 0x1254_C367;
const ATTACHMENTS: u32 = 0x1941_A469;
const SEEK_HEAD: u32 = 0x114D_9B74;

const TYPE_VIDEO: u64 = 1;
const TYPE_AUDIO: u64 = 2;
/// In nanoseconds.
const MILLISECOND: u64 = 1_000_000;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MatroskaError {
    #[error("this is no Matroska or WebM file; convert it: ffmpeg -i INPUT -c:v libx264 -bf 0 -c:a libopus clip.mkv")]
    NotMatroska,
    #[error("the file is broken or cut off at byte {at}; copy it again, or repair it: ffmpeg -i INPUT -c copy clip.mkv")]
    Broken { at: usize },
    #[error("the {kind} track's codec {codec} cannot be published; re-encode it: ffmpeg -i INPUT {option} clip.mkv")]
    UnknownCodec { kind: &'static str, codec: String, option: &'static str },
    #[error("the video track's decoder configuration is missing or broken; rewrite the file: ffmpeg -i INPUT -c copy clip.mkv")]
    CodecPrivate,
    #[error("the video is {codec} in a profile that viewers do not have (10 bits, or more colour); re-encode it: ffmpeg -i INPUT -pix_fmt yuv420p {option} clip.mkv")]
    Profile { codec: &'static str, option: &'static str },
    #[error("track {track} is compressed or encrypted inside the file; rewrite it: ffmpeg -i INPUT -c copy clip.mkv")]
    ContentEncoding { track: u64 },
    #[error("the block at byte {at} uses lacing; rewrite the file without it: ffmpeg -i INPUT -c copy clip.mkv")]
    Lacing { at: usize },
    #[error("the video has B-frames (time goes back at {at_ms} ms), which WebRTC cannot show; re-encode it: ffmpeg -i INPUT -c:v libx264 -bf 0 -c:a libopus clip.mkv")]
    BFrames { at_ms: u64 },
    #[error("the file has no video and no audio frames; record it again")]
    Empty,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Track {
    pub codec: Codec,
    /// 0 for audio.
    pub width: u32,
    pub height: u32,
    /// H264: SPS, then PPS; H265: VPS, SPS, PPS, as NAL units. AV1: the OBUs of the sequence header.
    pub parameter_sets: Vec<Vec<u8>>,
    /// H264 and H265: bytes of the length before each NAL unit of a frame, 1 to 4.
    nal_length_bytes: usize,
}

impl Track {
    /// The NAL units of an H264 or H265 frame; ends at the first length that does not fit.
    pub fn nals<'a>(&self, frame: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let prefix = self.nal_length_bytes;
        let mut rest = frame;
        std::iter::from_fn(move || {
            let (length, units) = rest.split_at_checked(prefix)?;
            if length.is_empty() {
                return None;
            }
            let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            let (unit, after) = units.split_at_checked(length)?;
            rest = after;
            Some(unit)
        })
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub track: Kind,
    /// From the file's beginning.
    pub time_ns: u64,
    /// Always true for audio.
    pub keyframe: bool,
    pub data: Vec<u8>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Clip {
    pub video: Option<Track>,
    pub audio: Option<Track>,
    /// In the order of time; never empty.
    pub frames: Vec<Frame>,
}

impl Clip {
    pub fn parse(file: &[u8]) -> Result<Clip, MatroskaError> {
        let mut reader = Reader { file, at: 0, end: file.len() };
        let header = reader.next().ok().flatten().filter(|element| element.id == EBML);
        check_doc_type(&header.ok_or(MatroskaError::NotMatroska)?.children(file))?;

        let mut parser = Parser { file, timestamp_scale: 1_000_000, tracks: Vec::new(), frames: Vec::new() };
        while let Some(element) = reader.next()? {
            if element.id == SEGMENT {
                parser.segment(element)?;
                break;
            }
        }
        parser.finish()
    }

    /// After this much the clip can begin again: the end of the last frame, which is taken to be as long as
    /// its track's frames are on average; in whole milliseconds, as precise as the file's own times are.
    pub fn duration_ns(&self) -> u64 {
        [Kind::Audio, Kind::Video]
            .into_iter()
            .filter_map(|kind| {
                let mut times = self.frames.iter().filter(|frame| frame.track == kind).map(|frame| frame.time_ns);
                let first = times.next()?;
                let (last, intervals) = times.fold((first, 0), |(_, count), time| (time, count + 1));
                Some(last + (last - first).checked_div(intervals).unwrap_or(0))
            })
            .max()
            .map_or(0, |end| (end + MILLISECOND / 2) / MILLISECOND * MILLISECOND)
    }
}

fn check_doc_type(header: &Reader) -> Result<(), MatroskaError> {
    let mut header = *header;
    while let Some(element) = header.next()? {
        if element.id == DOC_TYPE {
            let name = element.bytes(header.file);
            return if matches!(name, b"matroska" | b"webm") { Ok(()) } else { Err(MatroskaError::NotMatroska) };
        }
    }
    // RFC 8794 wants one; a file without can still only be Matroska for us.
    Ok(())
}

/// One element: its id, and where its data stands.
#[derive(Clone, Copy)]
struct Element {
    id: u32,
    start: usize,
    end: usize,
    /// Its size is not known: it ends with its parent, or where an element of a higher level begins.
    open: bool,
}

impl Element {
    fn bytes(self, file: &[u8]) -> &[u8] {
        file.get(self.start..self.end).unwrap_or_default()
    }
    fn children(self, file: &[u8]) -> Reader<'_> {
        Reader { file, at: self.start, end: self.end }
    }
    /// An unsigned integer of up to eight bytes (RFC 8794 section 7.2).
    fn number(self, file: &[u8]) -> Result<u64, MatroskaError> {
        let bytes = self.bytes(file);
        if bytes.len() > 8 {
            return Err(MatroskaError::Broken { at: self.start });
        }
        Ok(bytes.iter().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

/// The elements of one parent. Every step takes at least two bytes.
#[derive(Clone, Copy)]
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Result<Option<Element>, MatroskaError> {
        if self.at >= self.end {
            return Ok(None);
        }
        let broken = MatroskaError::Broken { at: self.at };
        let element = self.element().ok_or(broken)?;
        self.at = element.end;
        Ok(Some(element))
    }

    fn element(&self) -> Option<Element> {
        let bytes = self.file.get(self.at..self.end)?;
        let (id, id_bytes) = variable_integer(bytes)?;
        // An id keeps its length marker and has at most four bytes (RFC 8794 section 5).
        let id = u32::try_from(id | 1 << (7 * id_bytes)).ok().filter(|_| id_bytes <= 4)?;
        let (size, size_bytes) = variable_integer(bytes.get(id_bytes..)?)?;
        let start = self.at + id_bytes + size_bytes;
        // All ones: unknown (RFC 8794 section 6.2), which only segments and clusters may have.
        let open = size == (1 << (7 * size_bytes)) - 1;
        if open && !matches!(id, SEGMENT | CLUSTER) {
            return None;
        }
        let end = if open { self.end } else { start.checked_add(usize::try_from(size).ok()?)? };
        (end <= self.end).then_some(Element { id, start, end, open })
    }
}

/// A variable-size integer without its marker, and its length (RFC 8794 section 4).
fn variable_integer(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let length = first.leading_zeros() as usize + 1;
    if length > 8 {
        return None;
    }
    let (_, tail) = bytes.get(..length)?.split_first()?;
    let value = u64::from(first & 0x7F >> (length - 1));
    Some((tail.iter().fold(value, |value, byte| value << 8 | u64::from(*byte)), length))
}

struct Parser<'a> {
    file: &'a [u8],
    timestamp_scale: u64,
    /// At most one of each kind.
    tracks: Vec<(u64, Track)>,
    frames: Vec<Frame>,
}

impl Parser<'_> {
    fn segment(&mut self, segment: Element) -> Result<(), MatroskaError> {
        let mut reader = segment.children(self.file);
        while let Some(element) = reader.next()? {
            match element.id {
                INFO => self.info(element)?,
                TRACKS => self.track_entries(element)?,
                CLUSTER => reader.at = self.cluster(element)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn info(&mut self, info: Element) -> Result<(), MatroskaError> {
        let mut reader = info.children(self.file);
        while let Some(element) = reader.next()? {
            if element.id == TIMESTAMP_SCALE {
                self.timestamp_scale = element.number(self.file)?;
            }
        }
        Ok(())
    }

    fn track_entries(&mut self, tracks: Element) -> Result<(), MatroskaError> {
        let mut reader = tracks.children(self.file);
        while let Some(element) = reader.next()? {
            if element.id == TRACK_ENTRY {
                self.track_entry(element)?;
            }
        }
        Ok(())
    }

    fn track_entry(&mut self, entry: Element) -> Result<(), MatroskaError> {
        let (mut number, mut kind, mut codec, mut private) = (0, 0, &[][..], &[][..]);
        let (mut width, mut height, mut encoded) = (0, 0, false);
        let mut reader = entry.children(self.file);
        while let Some(element) = reader.next()? {
            match element.id {
                TRACK_NUMBER => number = element.number(self.file)?,
                TRACK_TYPE => kind = element.number(self.file)?,
                CODEC_ID => codec = element.bytes(self.file),
                CODEC_PRIVATE => private = element.bytes(self.file),
                CONTENT_ENCODINGS => encoded = true,
                VIDEO => {
                    let mut reader = element.children(self.file);
                    while let Some(element) = reader.next()? {
                        match element.id {
                            PIXEL_WIDTH => width = element.number(self.file)?,
                            PIXEL_HEIGHT => height = element.number(self.file)?,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        let (kind, name, option) = match kind {
            TYPE_VIDEO => (Kind::Video, "video", "-c:v libx264 -bf 0 -c:a copy"),
            TYPE_AUDIO => (Kind::Audio, "audio", "-c:v copy -c:a libopus"),
            // Subtitles and the like are left where they are.
            _ => return Ok(()),
        };
        if self.tracks.iter().any(|(_, track)| track.codec.kind() == kind) {
            return Ok(());
        }
        let codec = match codec {
            b"V_MPEG4/ISO/AVC" => Codec::H264,
            b"V_MPEGH/ISO/HEVC" => Codec::H265,
            b"V_VP8" => Codec::Vp8,
            b"V_VP9" => Codec::Vp9,
            b"V_AV1" => Codec::Av1,
            b"A_OPUS" => Codec::Opus,
            other => {
                let codec = String::from_utf8_lossy(other.get(..64).unwrap_or(other)).into_owned();
                return Err(MatroskaError::UnknownCodec { kind: name, codec, option });
            }
        };
        if encoded {
            return Err(MatroskaError::ContentEncoding { track: number });
        }
        let (nal_length_bytes, parameter_sets) = match codec {
            Codec::H264 => decoder_configuration(private).ok_or(MatroskaError::CodecPrivate)?,
            Codec::H265 => {
                let (is_main, length, sets) = hevc_configuration(private).ok_or(MatroskaError::CodecPrivate)?;
                check_profile(is_main, codec)?;
                (length, sets)
            }
            Codec::Av1 => {
                // av1C (the AV1 codec mapping of ISO/IEC 14496-12, section 2.3.3): marker and version, profile, two
                // bytes more, then the sequence header.
                let [0x81, profile, _, _, sequence @ ..] = private else { return Err(MatroskaError::CodecPrivate) };
                check_profile(profile >> 5 == 0, codec)?;
                (0, vec![sequence.to_vec()])
            }
            _ => (0, Vec::new()),
        };
        let size = |pixels| u32::try_from(pixels).unwrap_or(u32::MAX);
        let track = Track { codec, width: size(width), height: size(height), parameter_sets, nal_length_bytes };
        self.tracks.push((number, track));
        Ok(())
    }

    /// Where the cluster ended.
    fn cluster(&mut self, cluster: Element) -> Result<usize, MatroskaError> {
        let mut reader = cluster.children(self.file);
        let mut timestamp = 0;
        loop {
            let at = reader.at;
            let Some(element) = reader.next()? else {
                return Ok(at);
            };
            match element.id {
                CLUSTER_TIMESTAMP => timestamp = element.number(self.file)?,
                SIMPLE_BLOCK => self.block(element, timestamp, None)?,
                BLOCK_GROUP => self.block_group(element, timestamp)?,
                // A cluster of unknown size ends where one of its parent's children begins.
                CLUSTER | CUES | TAGS | CHAPTERS | ATTACHMENTS | SEEK_HEAD | INFO | TRACKS if cluster.open => {
                    return Ok(at);
                }
                _ => {}
            }
        }
    }

    /// A block that refers to no other is a keyframe (RFC 9559 section 5.1.3.5.5).
    fn block_group(&mut self, group: Element, timestamp: u64) -> Result<(), MatroskaError> {
        let (mut block, mut keyframe) = (None, true);
        let mut reader = group.children(self.file);
        while let Some(element) = reader.next()? {
            match element.id {
                BLOCK => block = Some(element),
                REFERENCE_BLOCK => keyframe = false,
                _ => {}
            }
        }
        block.map_or(Ok(()), |block| self.block(block, timestamp, Some(keyframe)))
    }

    /// Track number, 16 bits of time relative to the cluster, flags, the frame (RFC 9559 section 10).
    fn block(&mut self, block: Element, timestamp: u64, keyframe: Option<bool>) -> Result<(), MatroskaError> {
        const FLAG_KEYFRAME: u8 = 0x80;
        const FLAGS_LACING: u8 = 0x06;
        let broken = MatroskaError::Broken { at: block.start };
        let bytes = block.bytes(self.file);
        let (number, length) = variable_integer(bytes).ok_or(broken.clone())?;
        let Some([t0, t1, flags, data @ ..]) = bytes.get(length..) else {
            return Err(broken);
        };
        let Some(track) = self.tracks.iter().find(|track| track.0 == number).map(|track| track.1.codec.kind()) else {
            return Ok(());
        };
        if flags & FLAGS_LACING != 0 {
            return Err(MatroskaError::Lacing { at: block.start });
        }
        if data.is_empty() {
            return Ok(());
        }
        let relative = i64::from(i16::from_be_bytes([*t0, *t1]));
        // Opus begins before zero with its pre-skip; it is played from zero on.
        let time_ns = timestamp.saturating_add_signed(relative).checked_mul(self.timestamp_scale).ok_or(broken)?;
        if let Some(before) = self.frames.iter().rev().find(|frame| frame.track == track)
            && time_ns < before.time_ns
        {
            return Err(match track {
                Kind::Video => MatroskaError::BFrames { at_ms: time_ns / 1_000_000 },
                Kind::Audio => MatroskaError::Broken { at: block.start },
            });
        }
        let keyframe = track == Kind::Audio || keyframe.unwrap_or(flags & FLAG_KEYFRAME != 0);
        self.frames.push(Frame { track, time_ns, keyframe, data: data.to_vec() });
        Ok(())
    }

    fn finish(mut self) -> Result<Clip, MatroskaError> {
        if self.frames.is_empty() {
            return Err(MatroskaError::Empty);
        }
        let vp9 = self.tracks.iter().any(|(_, track)| track.codec == Codec::Vp9);
        if let Some(first) = self.frames.iter().find(|frame| vp9 && frame.track == Kind::Video) {
            // A frame begins with its marker of two bits and its profile, low bit first (VP9 section 6.2).
            check_profile(first.data.first().is_some_and(|byte| byte & 0x30 == 0), Codec::Vp9)?;
        }
        // Stable: frames of one track are in order already.
        self.frames.sort_by_key(|frame| frame.time_ns);
        let mut clip = Clip { video: None, audio: None, frames: self.frames };
        for (_, track) in self.tracks {
            match track.codec.kind() {
                Kind::Video => clip.video = Some(track),
                Kind::Audio => clip.audio = Some(track),
            }
        }
        Ok(clip)
    }
}

fn check_profile(is_main: bool, codec: Codec) -> Result<(), MatroskaError> {
    let option = match codec {
        Codec::H265 => "-c:v libx265 -x265-params bframes=0",
        Codec::Av1 => "-c:v libaom-av1 -usage realtime",
        _ => "-c:v libvpx-vp9 -deadline realtime",
    };
    if is_main { Ok(()) } else { Err(MatroskaError::Profile { codec: codec.sdp_name(), option }) }
}

/// hvcC (ISO/IEC 14496-15 section 8.3.3.1): whether the profile is Main, the length of lengths, then VPS, SPS and PPS.
fn hevc_configuration(private: &[u8]) -> Option<(bool, usize, Vec<Vec<u8>>)> {
    let (fixed, rest) = private.split_first_chunk::<23>()?;
    let (version, profile, length_minus_one, arrays) = (fixed[0], fixed[1], fixed[21] & 3, fixed[22]);
    let mut sets: Vec<(u8, Vec<u8>)> = Vec::new();
    let mut rest = rest;
    for _ in 0..arrays {
        let ([kind, count @ ..], mut units) = rest.split_first_chunk::<3>()?;
        for _ in 0..u16::from_be_bytes(*count) {
            let (length, after) = units.split_first_chunk()?;
            let (unit, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            // SEI of the encoder may stand there too.
            if matches!(kind & 0x3F, h265::VPS | h265::SPS | h265::PPS) {
                sets.push((kind & 0x3F, unit.to_vec()));
            }
            units = after;
        }
        rest = units;
    }
    sets.sort_by_key(|(kind, _)| *kind);
    // Two bits of profile space, one of tier.
    let is_main = profile & 0xDF == 1;
    (version == 1).then(|| (is_main, usize::from(length_minus_one) + 1, sets.into_iter().map(|(_, set)| set).collect()))
}

/// avcC (ISO/IEC 14496-15 section 5.3.3.1): the length of lengths, then SPS and PPS.
fn decoder_configuration(private: &[u8]) -> Option<(usize, Vec<Vec<u8>>)> {
    let [1, _, _, _, length_minus_one, rest @ ..] = private else {
        return None;
    };
    let mut sets = Vec::new();
    let mut rest = rest;
    // Five bits count the SPS, eight the PPS.
    for mask in [0x1F, 0xFF] {
        let (count, mut units) = rest.split_first()?;
        for _ in 0..count & mask {
            let (length, after) = units.split_first_chunk()?;
            let (unit, after) = after.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
            sets.push(unit.to_vec());
            units = after;
        }
        rest = units;
    }
    Some((usize::from(length_minus_one & 3) + 1, sets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::torture::torture;

    const UNKNOWN: [u8; 8] = [0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF];
    const AVCC: &[u8] = &[1, 0x42, 0xC0, 0x1F, 0xFF, 0xE1, 0, 3, 0x67, 0x42, 0xC0, 1, 0, 2, 0x68, 0xCE];

    fn id_bytes(id: u32) -> Vec<u8> {
        id.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
    }
    fn element(id: u32, data: &[u8]) -> Vec<u8> {
        let size = 0x4000 | data.len() as u16;
        assert!(data.len() < 0x3FFF);
        [&id_bytes(id)[..], &size.to_be_bytes(), data].concat()
    }
    fn open(id: u32, data: &[u8]) -> Vec<u8> {
        [&id_bytes(id)[..], &UNKNOWN, data].concat()
    }
    fn header() -> Vec<u8> {
        element(EBML, &element(DOC_TYPE, b"matroska"))
    }
    fn entry(number: u8, kind: u8, codec: &[u8], more: &[u8]) -> Vec<u8> {
        let parts = [element(TRACK_NUMBER, &[number]), element(TRACK_TYPE, &[kind]), element(CODEC_ID, codec), more.to_vec()];
        element(TRACK_ENTRY, &parts.concat())
    }
    fn avc() -> Vec<u8> {
        let size = [element(PIXEL_WIDTH, &[0x05, 0x00]), element(PIXEL_HEIGHT, &[0x02, 0xD0])].concat();
        entry(1, 1, b"V_MPEG4/ISO/AVC", &[element(CODEC_PRIVATE, AVCC), element(VIDEO, &size)].concat())
    }
    fn block(track: u8, relative: i16, flags: u8, data: &[u8]) -> Vec<u8> {
        [&[0x80 | track][..], &relative.to_be_bytes(), &[flags], data].concat()
    }
    fn simple(track: u8, relative: i16, flags: u8, data: &[u8]) -> Vec<u8> {
        element(SIMPLE_BLOCK, &block(track, relative, flags, data))
    }
    fn cluster(timestamp: u8, blocks: &[Vec<u8>]) -> Vec<u8> {
        [element(CLUSTER_TIMESTAMP, &[timestamp]), blocks.concat()].concat()
    }
    fn file_of(tracks: &[Vec<u8>], clusters: &[Vec<u8>]) -> Vec<u8> {
        let void = element(0xEC, &[0; 5]);
        let crc = element(0xBF, &[1, 2, 3, 4]);
        let segment = [crc, void, element(TRACKS, &tracks.concat()), clusters.concat()].concat();
        [header(), open(SEGMENT, &segment)].concat()
    }
    fn opus() -> Vec<u8> {
        entry(2, 2, b"A_OPUS", &element(CODEC_PRIVATE, b"OpusHead"))
    }

    fn usual() -> Vec<u8> {
        let idr = [&[0, 0, 0, 3][..], &[0x65, 0x88, 1], &[0, 0, 0, 2], &[0x65, 0x48]].concat();
        let group = element(BLOCK_GROUP, &[element(BLOCK, &block(1, 40, 0, b"inter")), element(REFERENCE_BLOCK, &[0xD8])].concat());
        let first = cluster(100, &[simple(1, 0, 0x80, &idr), simple(2, -5, 0x80, b"opus 95"), group, simple(2, 15, 0x80, b"opus 115")]);
        let second = cluster(200, &[element(BLOCK_GROUP, &element(BLOCK, &block(1, 0, 0, b"key"))), simple(3, 0, 0, b"subtitle")]);
        file_of(
            &[avc(), opus(), entry(3, 17, b"S_TEXT/UTF8", &[]), entry(4, 1, b"V_VP9", &[])],
            &[element(CLUSTER, &first), element(CLUSTER, &second), element(CUES, b"")],
        )
    }

    #[test]
    fn tracks_and_frames_in_the_order_of_time() {
        let clip = Clip::parse(&usual()).unwrap();
        let video = clip.video.as_ref().unwrap();
        assert_eq!((video.codec, video.width, video.height), (Codec::H264, 1280, 720));
        assert_eq!(video.parameter_sets, [vec![0x67, 0x42, 0xC0], vec![0x68, 0xCE]]);
        assert_eq!(clip.audio.as_ref().unwrap().codec, Codec::Opus);
        let frames: Vec<_> = clip.frames.iter().map(|f| (f.track, f.time_ns / 1_000_000, f.keyframe, f.data.len())).collect();
        assert_eq!(
            frames,
            [
                (Kind::Audio, 95, true, 7),
                (Kind::Video, 100, true, 13),
                (Kind::Audio, 115, true, 8),
                (Kind::Video, 140, false, 5),
                (Kind::Video, 200, true, 3),
            ]
        );
        let nals: Vec<_> = video.nals(&clip.frames[1].data).collect();
        assert_eq!(nals, [&[0x65, 0x88, 1][..], &[0x65, 0x48]]);
        assert_eq!(video.nals(b"\0\0\0\x09short").count(), 0);
        assert_eq!(clip.duration_ns(), 250_000_000, "three pictures in 100 ms: the last one stays for 50");
    }

    /// hvcC with an SEI and the sets in another order than they are decoded in, lengths of two bytes.
    fn hvcc(profile: u8) -> Vec<u8> {
        let mut bytes = vec![1, profile];
        bytes.resize(21, 0);
        bytes.extend([0xFD, 4]);
        for (kind, unit) in [(39, &[0x4E, 1, 5][..]), (0x80 | 34, &[0x44, 1, 0xC0]), (32, &[0x40, 1, 0x0C]), (33, &[0x42, 1, 1])] {
            bytes.extend([kind, 0, 1, 0, unit.len() as u8]);
            bytes.extend(unit);
        }
        bytes
    }

    #[test]
    fn the_newer_codecs_come_with_their_configuration() {
        let clip = |codec: &[u8], private: &[u8], data: &[u8]| {
            let tracks = [entry(1, 1, codec, &element(CODEC_PRIVATE, private))];
            Clip::parse(&file_of(&tracks, &[element(CLUSTER, &cluster(1, &[simple(1, 0, 0x80, data)]))]))
        };
        let h265 = clip(b"V_MPEGH/ISO/HEVC", &hvcc(1), &[0, 3, 0x26, 1, 0xAF]).unwrap();
        let track = h265.video.unwrap();
        assert_eq!(track.codec, Codec::H265);
        assert_eq!(track.parameter_sets, [[0x40, 1, 0x0C], [0x42, 1, 1], [0x44, 1, 0xC0]]);
        assert_eq!(track.nals(&h265.frames[0].data).collect::<Vec<_>>(), [&[0x26, 1, 0xAF]]);
        let main10 = clip(b"V_MPEGH/ISO/HEVC", &hvcc(2), b"a").unwrap_err();
        assert!(main10.to_string().contains("libx265"), "{main10}");
        for length in 0..hvcc(1).len() {
            assert_eq!(clip(b"V_MPEGH/ISO/HEVC", &hvcc(1)[..length], b"a"), Err(MatroskaError::CodecPrivate), "{length}");
        }
        let av1 = clip(b"V_AV1", &[0x81, 0x05, 0x0C, 0, 0x0A, 1, 0], b"a").unwrap().video.unwrap();
        assert_eq!((av1.codec, &av1.parameter_sets[0][..]), (Codec::Av1, &[0x0A, 1, 0][..]));
        assert_eq!(clip(b"V_VP9", &[], &[0x82, 0x49]).unwrap().video.unwrap().codec, Codec::Vp9);
    }

    #[test]
    fn clusters_of_unknown_size_end_at_the_next_one_and_at_the_end() {
        let clusters = [
            open(CLUSTER, &cluster(1, &[simple(1, 0, 0x80, b"a")])),
            open(CLUSTER, &cluster(2, &[simple(1, 0, 0, b"b")])),
            element(TAGS, b""),
            open(CLUSTER, &cluster(3, &[simple(1, 0, 0, b"c")])),
        ];
        let clip = Clip::parse(&file_of(&[entry(1, 1, b"V_VP8", &[])], &clusters)).unwrap();
        let times: Vec<_> = clip.frames.iter().map(|frame| frame.time_ns).collect();
        assert_eq!(times, [1_000_000, 2_000_000, 3_000_000]);
        assert_eq!(clip.video.unwrap().nals(b"frame").count(), 0, "VP8 has no NAL units");
    }

    #[test]
    fn the_timestamp_scale_counts() {
        let info = element(INFO, &element(TIMESTAMP_SCALE, &[100]));
        let blocks = element(CLUSTER, &cluster(5, &[simple(1, 2, 0x80, b"a")]));
        let file = file_of(&[info, entry(1, 1, b"V_VP8", &[])], std::slice::from_ref(&blocks));
        assert_eq!(Clip::parse(&file).unwrap().frames[0].time_ns, 7_000_000, "an Info inside Tracks is nobody's");
        let segment = [element(INFO, &element(TIMESTAMP_SCALE, &[100])), element(TRACKS, &entry(1, 1, b"V_VP8", &[])), blocks];
        let file = [header(), element(SEGMENT, &segment.concat())].concat();
        assert_eq!(Clip::parse(&file).unwrap().frames[0].time_ns, 700);
    }

    #[test]
    fn every_error_says_what_to_do() {
        let vp8 = || entry(1, 1, b"V_VP8", &[]);
        let of = |tracks: &[Vec<u8>], blocks: &[Vec<u8>]| {
            Clip::parse(&file_of(tracks, &[element(CLUSTER, &cluster(9, blocks))])).unwrap_err()
        };
        let key = || simple(1, 0, 0x80, b"a");
        let errors = [
            Clip::parse(b"\0\0\0\x18ftypmp42").unwrap_err(),
            Clip::parse(&element(EBML, &element(DOC_TYPE, b"other"))).unwrap_err(),
            of(&[entry(1, 1, b"V_THEORA", &[])], &[key()]),
            of(&[entry(1, 1, b"V_MPEG4/ISO/AVC", &[])], &[key()]),
            of(&[entry(1, 1, b"V_VP8", &element(CONTENT_ENCODINGS, b""))], &[key()]),
            of(&[vp8()], &[simple(1, 0, 0x82, b"a")]),
            of(&[vp8()], &[simple(1, 80, 0x80, b"a"), simple(1, 40, 0, b"b")]),
            of(&[vp8()], &[]),
            of(&[entry(1, 1, b"V_MPEGH/ISO/HEVC", &element(CODEC_PRIVATE, AVCC))], &[key()]),
            of(&[entry(1, 1, b"V_AV1", &element(CODEC_PRIVATE, &[0x81, 0x20, 0, 0]))], &[key()]),
            of(&[entry(1, 1, b"V_VP9", &[])], &[simple(1, 0, 0x80, &[0x92])]),
        ];
        use MatroskaError as E;
        assert!(
            matches!(
                &errors,
                [
                    E::NotMatroska,
                    E::NotMatroska,
                    E::UnknownCodec { kind: "video", .. },
                    E::CodecPrivate,
                    E::ContentEncoding { track: 1 },
                    E::Lacing { .. },
                    E::BFrames { at_ms: 49 },
                    E::Empty,
                    E::CodecPrivate,
                    E::Profile { codec: "AV1", .. },
                    E::Profile { codec: "VP9", .. },
                ]
            ),
            "{errors:?}"
        );
        assert!(errors.iter().all(|error| error.to_string().contains("ffmpeg -i") || *error == E::Empty));
        let whole = usual();
        // A segment of unknown size may end anywhere between two elements: cut inside the last block instead.
        let cut = whole.len() - element(CUES, b"").len() - 3;
        assert!(matches!(Clip::parse(&whole[..cut]), Err(E::Broken { .. })));
    }

    #[test]
    fn damaged_files_never_panic() {
        let open_clusters = file_of(
            &[entry(1, 1, b"V_VP8", &[])],
            &[open(CLUSTER, &cluster(1, &[simple(1, 0, 0x80, b"a")])), open(CLUSTER, &cluster(2, &[simple(1, 0, 0, b"b")]))],
        );
        torture(&[&usual(), &open_clusters], |file| {
            if let Ok(clip) = Clip::parse(file) {
                assert!(clip.frames.iter().map(|frame| frame.data.len()).sum::<usize>() <= file.len());
                if let Some(video) = &clip.video {
                    for frame in &clip.frames {
                        assert!(video.nals(&frame.data).count() <= frame.data.len());
                    }
                }
                clip.duration_ns();
            }
        });
    }
}
