//! Every bound of the system in one place, with its reason; relations are asserted at compile time.

use std::time::Duration;

// ---- tables (sizes of the record segment: sparse, only touched pages cost memory) ----
/// Sessions of one node: "tens of thousands of viewers on one box", with room for a join storm.
pub const SESSIONS_MAX: usize = 65_536;
/// Two feeds per viewer.
pub const FEEDS_MAX: usize = 2 * SESSIONS_MAX;
/// Streams of one node; each has one reel file, made by the supervisor at start.
pub const PUBLISHERS_MAX: usize = 1_024;
/// Recordings that run at once: each is a process with seven descriptors of the supervisor's.
pub const RECORDINGS_MAX: usize = 64;
/// Recordings that are finished at once: each reads its files as fast as the disk gives them.
pub const FINISHING_MAX: usize = 2;
/// Audio, and video in three layers.
pub const TRACKS_PER_STREAM_MAX: usize = 4;
pub const TRACKS_MAX: usize = PUBLISHERS_MAX * TRACKS_PER_STREAM_MAX;
/// Feeds of one session: a WHEP viewer has two, a peer of a room many.
pub const FEEDS_PER_SESSION_MAX: usize = 32;
pub const SHARDS_MAX: usize = 64;

// ---- datagrams ----
/// The largest datagram we read: anything longer is no media and no handshake of ours.
pub const DATAGRAM_SIZE_MAX: usize = 2_048;
/// RTP payload plus header as publishers send it (an MTU of 1,500 less IP and UDP).
pub const PACKET_SIZE_MAX: usize = 1_472;
/// Largest UDP payload of one GSO send (64 KiB less headers).
pub const SEND_SIZE_MAX: usize = 65_000;
/// Segments of one GSO send that every kernel with UDP_SEGMENT takes.
pub const SEGMENTS_MAX: usize = 64;
/// RTP payload of packets we cut ourselves: with its header 1,200 bytes, which every path carries.
pub const PAYLOAD_SIZE_MAX: usize = 1_188;
/// SRTP's largest growth: GCM's tag of 16 bytes; SRTCP adds its index of 4.
pub const SEAL_OVERHEAD_MAX: usize = 20;
/// A dependency descriptor that is forwarded: what the two-byte form of header extensions can hold (RFC 8285 section
/// 4.3). Chromium's largest (three layers of each kind) has some 100 bytes, that of a plain keyframe 20, others 3.
pub const DESCRIPTOR_BYTES_MAX: usize = 255;

// ---- tick ----
/// A command that makes a session costs 20 us.
pub const COMMANDS_PER_TICK_MAX: usize = 16;
/// Datagrams a tick takes from the sockets before it turns to fan-out.
pub const DATAGRAMS_PER_TICK_MAX: usize = 512;
/// Packets of one feed per round: one round of a keyframe never delays the next session longer than this.
pub const PACKETS_PER_ROUND_MAX: usize = 16;
/// Packets get a byte of padding up to this payload: what libwebrtc fills packets with, so that no path takes less of ours
/// than of theirs.
pub const PADDED_BYTES_MAX: usize = 1_200;
/// Datagrams another shard may have in flight to us: a full mesh drops and counts. Half a second of a publisher of
/// 20 Mbit/s, so that its shard may stand still for so long; 2.2 MB for each pair of shards that has strays.
pub const MESH_DATAGRAMS_MAX: usize = 1_024;
pub const MESH_NOTES_MAX: usize = 4_096;

// ---- ICE, DTLS ----
/// RFC 7675 section 5.1: consent expires 30 seconds after the last valid check.
pub const CONSENT_EXPIRY: Duration = Duration::from_secs(30);
/// A session nobody completed, or that no control claims after a restart, goes after this.
pub const UNCLAIMED_EXPIRY: Duration = Duration::from_secs(15);
/// Address pairs remembered per session; more candidates than this is no honest client.
pub const PAIRS_PER_SESSION_MAX: usize = 8;
/// A session's media changes its path at most once per this span (threats.md row 3).
pub const PAIR_SWITCH_INTERVAL: Duration = Duration::from_secs(1);
pub const HANDSHAKE_BYTES_MAX: usize = 16 * 1_024;
pub const HANDSHAKE_FRAGMENTS_MAX: usize = 32;
/// Of keys of 4,096 bits, whose signatures cost 60 us to verify, 15 us with 2,048: a key twice as long would cost more than
/// one step of a handshake may. Nobody's program makes them.
pub const RSA_SIGNATURE_BYTES_MAX: usize = 512;
pub const HANDSHAKE_EXPIRY: Duration = Duration::from_secs(10);
/// Characters of an ICE ufrag of ours: 4 of index, 3 of generation, 9 random (54 bits).
pub const UFRAG_RANDOM_CHARS: usize = 9;
pub const UFRAG_CHARS: usize = 7 + UFRAG_RANDOM_CHARS;
pub const ICE_PWD_CHARS: usize = 24;
/// SSRCs one remote may send from before the rest is dropped.
pub const SSRCS_PER_SESSION_MAX: usize = 16;
/// What one publisher may send: 20 times a good 1080p, so that nobody honest meets it, and a tenth of what a shard
/// opens and stores. What is beyond is dropped before it costs a decryption (threats.md row 9).
pub const PUBLISHER_BPS_MAX: u64 = 50_000_000;
/// The same in packets: 50 Mbit/s in packets of 625 bytes.
pub const PUBLISHER_PACKETS_PER_SECOND_MAX: u64 = 10_000;
/// How far ahead of that it may be: a keyframe of 1.5 MB at once.
pub const PUBLISHER_BURST: Duration = Duration::from_millis(250);

// ---- reel ----
/// Slots of a reel: 13 seconds at 620 packets a second, which are 6 Mbit/s; a power of two.
pub const REEL_SLOTS: usize = 8_192;
pub const SLAB_BYTES: usize = 64 * 1_024;
/// What one reel keeps at most: 6 Mbit/s with a keyframe every 10 seconds is 7.5 MB.
pub const REEL_BYTES_MAX: usize = 8 * 1_024 * 1_024;
/// Slabs of one stream's file: two reels' worth of bytes and the slabs being written.
pub const SLABS_PER_STREAM_MAX: usize = 2 * (REEL_BYTES_MAX / SLAB_BYTES) + 64;
/// Slabs of the whole node: 1 GiB of reels.
pub const SLABS_MAX: usize = 16_384;
/// Kept behind the head whatever the keyframes say: what a NACK may still ask for.
pub const NACK_WINDOW: Duration = Duration::from_secs(1);

// ---- joining ----
/// Replay runs at this multiple of live.
pub const REPLAY_SPEED: u64 = 10;
/// Of one session: more overflows a browser's socket.
pub const REPLAY_BPS_MAX: u64 = 16_000_000;
/// Older keyframes are not replayed: a fresh one is sooner there than what came since.
pub const REPLAY_AGE_MAX: Duration = Duration::from_secs(4);
/// Of one replay: half a second at `REPLAY_BPS_MAX`.
pub const REPLAY_BYTES_MAX: u64 = 1_000_000;
/// Of one of a publisher that hears no requests, while it takes no longer than `REPLAY_WIDE_TIME_MAX`: ten seconds of 4 Mbit/s are
/// 5 MB and take 3.3 s. For who joins; and for who watches once in so long, which is no more than the others each `RESTART_INTERVAL`.
pub const REPLAY_WIDE_BYTES_MAX: u64 = 6_000_000;
pub const REPLAY_WIDE_TIME_MAX: Duration = Duration::from_secs(4);
pub const REPLAY_WIDE_INTERVAL: Duration = Duration::from_secs(6);
/// Replays of one shard together: 256 Mbit/s, so that live viewers keep the rest. Who joins beyond it sees the
/// keyframe alone and waits for the next.
pub const REPLAY_BYTES_PER_SECOND_MAX: u64 = 32_000_000;
/// Joins of one shard; more is a storm, and nobody's replay is worth what it costs the others.
pub const REPLAYS_PER_SECOND_MAX: u64 = 100;
/// Answers to the keyframe requests of one replay: Chromium does not ask for a lost first packet.
pub const RESTARTS_MAX: u8 = 3;
/// A replay is given up when this many of its packets were asked for again ...
pub const REPLAY_LOSSES_MAX: u32 = 16;
/// ... and more than this share: the path does not carry it.
pub const REPLAY_LOSS_PERCENT_MAX: u32 = 5;
/// Replays of a publisher that hears no requests, after one was given up, each at half the rate of the one before: the
/// next keyframe may be ten seconds away.
pub const REPLAYS_SLOWER_MAX: u8 = 2;
/// Before each of them: the queue that the last one filled is empty by then.
pub const REPLAY_SLOWER_PAUSE: Duration = Duration::from_secs(1);
/// How long after a replay its losses may become known: a long queue, and a round trip around the world.
pub const REPLAY_NEWS_MAX: Duration = Duration::from_secs(1);
/// After a replay that its path did not carry the next keyframe is asked for when the queue is empty: home routers' hold 300 ms.
pub const REPLAY_DRAIN_MAX: Duration = Duration::from_millis(300);
/// A live viewer's requests are answered from the reel at most once per this span (threats.md row 7).
pub const RESTART_INTERVAL: Duration = Duration::from_secs(1);

/// Parameter sets from SDP: those of H264 have some 40 bytes, of H265 some 100; a command's body holds 488.
pub const PARAMETER_SETS_BYTES_MAX: usize = 400;
/// Once nothing is lost or cut off any more, every admitted viewer has a decodable frame within this; the simulator
/// holds the engine to it. A keyframe request and its repeat (1.5 s), or a keyframe interval of a publisher that hears
/// none (2.3 s), and a join anew (0.7 s).
pub const DECODABLE_WITHIN: Duration = Duration::from_secs(3);

// ---- requests ----
/// Keyframe requests to one track: at most one per this span (threats.md row 7).
pub const KEYFRAME_REQUEST_INTERVAL: Duration = Duration::from_millis(500);
/// The same for those who join: they see a picture meanwhile.
pub const KEYFRAME_JOIN_INTERVAL: Duration = Duration::from_secs(2);
/// A keyframe later than this is no answer to a request: a round trip, and an encoder's frame or two.
pub const KEYFRAME_ANSWER_TIME: Duration = Duration::from_secs(1);
/// After so long without an answer who waits for one is shown what the reel has, as if the publisher were deaf: if it hears
/// after all, a replay was sent for nothing, and nobody saw a still picture longer.
pub const KEYFRAME_SUSPECT_TIME: Duration = Duration::from_millis(500);
/// Requests left unanswered before a publisher is taken for deaf (OBS, ffmpeg, cameras).
pub const KEYFRAME_UNANSWERED_MAX: u8 = 2;
/// A deaf publisher is asked once per this span while somebody has no picture the reel could give: it may only have
/// lost two requests, and then this is how long a picture stands still. Sixty bytes to one that never answers.
pub const KEYFRAME_PROBE_INTERVAL: Duration = Duration::from_secs(2);
/// Keyframes that were asked for take at most this share of a track's bytes, over the window below: a keyframe
/// costs what ten other pictures do, and they pay for it in quality. One per window may always be.
pub const KEYFRAME_SHARE_PERCENT_MAX: u64 = 25;
pub const KEYFRAME_SHARE_WINDOW: Duration = Duration::from_secs(10);
/// Losses read from one NACK: four seconds of video; who lost more needs a keyframe, not resends.
pub const LOSSES_PER_NACK_MAX: usize = 1_024;
/// Transport-wide feedback goes to a publisher this often: libwebrtc's own receivers take 50 to 250 ms.
pub const TRANSPORT_CC_INTERVAL: Duration = Duration::from_millis(50);
/// Packets of a publisher whose arrival is remembered for it: at 50 Mbit/s a good half second.
pub const ARRIVALS_WINDOW: usize = 4_096;
/// What a publisher that knows only REMB is told: no estimate of ours (it has its own, of losses), only a bound.
pub const REMB_BPS: u64 = 50_000_000;
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);

// ---- what we ask publishers for again, until `NACK_WINDOW` is over ----
/// A gap is asked for after this: packets that overtook each other within a frame have come by then, and it is little
/// beside a round trip.
pub const NACK_DELAY: Duration = Duration::from_millis(10);
/// Requests for one packet: at the shortest spacing they fill the window.
pub const NACK_ATTEMPTS_MAX: u8 = 10;
/// Packets of one stream that may be missing at a time: two seconds of video; a larger leap needs a keyframe.
pub const NACK_OUTSTANDING_MAX: usize = 512;
/// Sequence numbers in one request: an entry each, if none lie together, fit a small datagram.
pub const LOSSES_PER_REQUEST_MAX: usize = 200;

// ---- answers to viewers' NACKs (threats.md row 8) ----
/// Answers to one viewer, of the bytes of media sent to it: 5 % loss both ways need 5.3, 10 % need 11.
pub const RTX_PERCENT_MAX: u64 = 15;
/// What a viewer may ask for before it earned anything: 50 packets, every third of a 150 kB keyframe.
pub const RTX_BYTES_START: u64 = 64 * 1_024;
/// Credit does not grow beyond this: a burst of 400 packets, 1.4 s at 2.5 Mbit/s, is healed whole.
pub const RTX_BURST_BYTES_MAX: u64 = 512 * 1_024;
/// Of one packet: 5 % loss leave 0.013 % after two.
pub const ANSWERS_PER_PACKET_MAX: u8 = 2;
/// Of one packet, for who has more credit than it began with, so asks for little: 5 % loss leave 0.0006 %. At 260
/// packets a second that is a lost picture, often frozen to the next keyframe, in ten minutes instead of in thirty seconds.
pub const ANSWERS_WITH_CREDIT_MAX: u8 = 3;
/// Between two answers with the same packet: no round trip is so short that the first was missed already.
/// Chromium asks again after 20 ms at the earliest.
pub const ANSWER_INTERVAL: Duration = Duration::from_millis(10);
/// Packets behind the newest of a feed that may be asked for: of video one second at 1,000 a second (2 KiB per
/// viewer), of audio two seconds and a half.
pub const RESEND_WINDOW_VIDEO: usize = 1_024;
pub const RESEND_WINDOW_AUDIO: usize = 128;
/// Sequence numbers of one viewer's NACKs looked at per span: what a burst of a second needs, at some 10 ns each.
pub const NACK_LOOKS_MAX: usize = LOSSES_PER_NACK_MAX;
pub const NACK_LOOKS_SPAN: Duration = Duration::from_millis(10);

// ---- recordings ----
/// A codec's configuration as a container keeps it (avcC and the like): parameter sets have some 100 bytes.
pub const CODEC_PRIVATE_BYTES_MAX: usize = 4 * 1_024;
/// Frames of one fragment: eight keyframes as large as a reel; more become several fragments.
pub const FRAGMENT_BYTES_MAX: usize = 8 * REEL_BYTES_MAX;
/// Frames of one fragment: half a minute at 500 a second.
pub const FRAGMENT_SAMPLES_MAX: usize = 16_384;
/// Silence that fills one hole of the sound: 30,000 packets of 14 bytes. Behind a longer one players are out of step.
pub const SILENCE_NS_MAX: u64 = 3_600 * 1_000_000_000;
/// What a fragment has beside its samples: 16 bytes for each in an MP4, 24 in a WebM, and silence before it.
pub const FRAGMENT_OVERHEAD_BYTES_MAX: usize = 4 * 1_024 * 1_024;
/// Frames of one file: 24 hours of 60 pictures and 50 packets of sound a second, and a quarter. Closing keeps at most 12
/// bytes of each in tables and writes as many.
pub const FILE_SAMPLES_MAX: usize = 12_000_000;
/// At the file's end: what a run that goes on reads to find the end of what is whole.
pub const TAIL_BYTES: u64 = 2 * FRAGMENT_BYTES_MAX as u64;
/// The latest time of a sample, 18 years: behind it clocks are wrong, and sums would not fit.
pub const SAMPLE_NS_MAX: u64 = 1 << 59;
/// Places inside a file where fragments are damaged, one after the other: beyond them it ends.
pub const DAMAGES_MAX: usize = 4_096;

// ---- taps ----
/// A packet that is missing is waited for so long: until then the publisher is asked for it.
pub const TAP_WAIT: Duration = NACK_WINDOW;
/// What one track may hold back while it waits: as much as its reel.
pub const TAP_PACKETS_MAX: usize = REEL_SLOTS;
pub const TAP_BYTES_MAX: usize = REEL_BYTES_MAX;
/// One frame: what a reel can hold of it.
pub const FRAME_BYTES_MAX: usize = REEL_BYTES_MAX;
/// A fragment is cut before the first keyframe this far into it ...
pub const PIECE_NS_MIN: u64 = 800_000_000;
/// ... and without one before the first picture this far: what a crash may cost, and a write per second and stream.
pub const PIECE_NS_MAX: u64 = 1_200_000_000;
/// Frames a recorder holds before they are a fragment: ten seconds of a track that waits for the other one.
pub const HELD_FRAMES_MAX: usize = 4_096;
/// Of fragments a slow disk has not taken: 80 s at 3 Mbit/s; then the oldest are dropped.
pub const RECORDER_QUEUE_BYTES_MAX: usize = 32 * 1_024 * 1_024;
/// The same in fragments, of a stream of few bytes.
pub const RECORDER_QUEUE_PIECES_MAX: usize = 128;
/// Files of one recording: their names have four digits.
pub const RECORDING_FILES_MAX: u32 = 9_999;

// ---- link ----
pub const COMMAND_SLOTS: usize = 256;
pub const COMMAND_SLOT_BYTES: usize = 1_024;
pub const EVENT_SLOTS: usize = 4_096;
pub const EVENT_SLOT_BYTES: usize = 64;
pub const ERRORS_MAX: usize = 64;
pub const NOTE_BYTES: usize = 64;

// ---- HTTP ----
pub const BODY_BYTES_MAX: usize = 64 * 1_024;
/// Lines of one offer: Chromium's largest has some 200.
pub const SDP_LINES_MAX: usize = 2_000;
pub const SDP_MEDIA_MAX: usize = 16;
/// A room's name: it stands in URLs, logs and file names.
pub const ROOM_NAME_CHARS_MAX: usize = 64;

const _: () = assert!(REEL_SLOTS.is_power_of_two());
const _: () = assert!(ARRIVALS_WINDOW.is_power_of_two());
const _: () = assert!(COMMAND_SLOTS.is_power_of_two() && EVENT_SLOTS.is_power_of_two());
const _: () = assert!(PACKET_SIZE_MAX + SEAL_OVERHEAD_MAX < DATAGRAM_SIZE_MAX);
const _: () = assert!(SESSIONS_MAX <= 1 << 24, "a ufrag names the index in four characters of six bits");
const _: () = assert!(TRACKS_PER_STREAM_MAX * PUBLISHERS_MAX == TRACKS_MAX);
const _: () = assert!(PACKETS_PER_ROUND_MAX <= SEGMENTS_MAX);
const _: () = assert!(REPLAY_BYTES_MAX <= REPLAY_WIDE_BYTES_MAX && REPLAY_WIDE_BYTES_MAX <= REEL_BYTES_MAX as u64);
const _: () = assert!(REPLAY_WIDE_BYTES_MAX <= REPLAY_BYTES_PER_SECOND_MAX / 2);
const _: () = assert!(KEYFRAME_SUSPECT_TIME.as_millis() < KEYFRAME_ANSWER_TIME.as_millis());
const _: () = assert!(KEYFRAME_REQUEST_INTERVAL.as_millis() <= KEYFRAME_ANSWER_TIME.as_millis());
const _: () = assert!(
    KEYFRAME_PROBE_INTERVAL.as_millis() + KEYFRAME_ANSWER_TIME.as_millis() <= DECODABLE_WITHIN.as_millis(),
    "who was taken for deaf because of the faults is asked again soon enough"
);
const _: () = assert!(MESH_DATAGRAMS_MAX >= 2 * DATAGRAMS_PER_TICK_MAX, "a tick's strays find room behind the last one's");
const _: () = assert!(PACKETS_PER_ROUND_MAX * (PACKET_SIZE_MAX + SEAL_OVERHEAD_MAX) <= SEND_SIZE_MAX);
