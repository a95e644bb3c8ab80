//! Counters: what a shard has done, and what its tracks receive, as words in the link.
//!
//! Each word has one writer, the shard it belongs to, which adds once per tick; anybody with the link
//! reads. Pages, metrics and dashboards take names, units and labels from the table below. Numbers of
//! counters are part of the layout: new ones go to the end, none is ever given another meaning.

use std::sync::atomic::{AtomicU64, Ordering};

/// Room in the layout for the counters of one shard.
pub const COUNTERS_MAX: usize = 128;

/// Whether a value only grows, or says how many there are now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CounterKind {
    /// Only grows, over the engine's restarts too.
    Counter,
    /// What is now; starts at 0 with each engine.
    Gauge,
}

macro_rules! counter_table {
    ($($id:ident = $number:literal, $name:literal, $kind:ident, $unit:literal, $label:literal;)*) => {
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum CounterId {
            $(#[doc = $label] $id = $number,)*
        }

        impl CounterId {
            pub const ALL: &'static [CounterId] = &[$(CounterId::$id),*];

            /// snake_case, as metrics show it.
            pub const fn name(self) -> &'static str {
                match self { $(CounterId::$id => $name),* }
            }
            pub const fn kind(self) -> CounterKind {
                match self { $(CounterId::$id => CounterKind::$kind),* }
            }
            pub const fn unit(self) -> &'static str {
                match self { $(CounterId::$id => $unit),* }
            }
            /// What people read.
            pub const fn label(self) -> &'static str {
                match self { $(CounterId::$id => $label),* }
            }
        }
    };
}

counter_table! {
    DatagramsReceived = 0, "datagrams_received", Counter, "datagrams", "Datagrams read from the sockets";
    BytesReceived = 1, "bytes_received", Counter, "bytes", "Bytes read from the sockets";
    DatagramsMalformed = 2, "datagrams_malformed", Counter, "datagrams", "Datagrams longer than any of ours, or without an address, dropped";
    ReceiveErrors = 3, "receive_errors", Counter, "errors", "Errors of the kernel while receiving";
    DatagramsUnknown = 4, "datagrams_unknown", Counter, "datagrams", "Datagrams of nobody we know, dropped";
    StrayDatagrams = 5, "stray_datagrams", Counter, "datagrams", "Datagrams that reached another shard than their owner";
    MeshDropped = 6, "mesh_dropped", Counter, "datagrams", "Datagrams dropped between two shards because the mesh was full";
    StunAnswered = 7, "stun_answered", Counter, "messages", "STUN checks answered";
    StunRefused = 8, "stun_refused", Counter, "messages", "STUN checks with a wrong name, password or form, or that found no place in the queue";
    DtlsHandshakes = 9, "dtls_handshakes", Counter, "handshakes", "DTLS handshakes completed";
    DtlsFailed = 10, "dtls_failed", Counter, "handshakes", "DTLS handshakes that failed";
    DtlsRefused = 11, "dtls_refused", Counter, "datagrams", "DTLS datagrams from a pair no STUN check has verified";
    PacketsReceived = 12, "packets_received", Counter, "packets", "Media packets opened and stored";
    PacketsRefusedReplay = 13, "packets_refused_replay", Counter, "packets", "Packets refused: seen before, or too old to tell";
    PacketsRefusedAuth = 14, "packets_refused_auth", Counter, "packets", "Packets refused: wrong authentication tag";
    PacketsRefusedMalformed = 15, "packets_refused_malformed", Counter, "packets", "Packets refused: not well formed";
    PacketsRefusedUnknownSsrc = 16, "packets_refused_unknown_ssrc", Counter, "packets", "Packets refused: a source nobody announced";
    PacketsLate = 17, "packets_late", Counter, "packets", "Packets that filled a hole behind the newest";
    PacketsDuplicate = 18, "packets_duplicate", Counter, "packets", "Packets that were stored already";
    PacketsSent = 19, "packets_sent", Counter, "packets", "Media packets sealed and sent";
    BytesSent = 20, "bytes_sent", Counter, "bytes", "Bytes sent";
    Sends = 21, "sends", Counter, "sends", "Sends, one or many datagrams each";
    SendsBlocked = 22, "sends_blocked", Counter, "sends", "Sends put off because the socket or the transmit memory was full";
    SendsFailed = 23, "sends_failed", Counter, "sends", "Sends the kernel refused";
    SendsOneByOne = 24, "sends_one_by_one", Counter, "sends", "Sends of several datagrams that a path's MTU made go one by one";
    FeedsJumped = 25, "feeds_jumped", Counter, "feeds", "Feeds that were too far behind and jumped to the newest keyframe";
    KeyframeRequestsReceived = 26, "keyframe_requests_received", Counter, "requests", "Keyframe requests from viewers";
    KeyframeRequestsSent = 27, "keyframe_requests_sent", Counter, "requests", "Keyframe requests sent to publishers";
    RtcpReceived = 28, "rtcp_received", Counter, "packets", "RTCP packets opened";
    RtcpSent = 29, "rtcp_sent", Counter, "packets", "RTCP packets sealed and sent";
    RtcpRefused = 30, "rtcp_refused", Counter, "packets", "RTCP packets refused: replay, tag or form";
    NacksReceived = 31, "nacks_received", Counter, "packets", "Packets viewers asked for again";
    Ticks = 32, "ticks", Counter, "ticks", "Passes of the shard's loop";
    Parks = 33, "parks", Counter, "parks", "Times the shard had nothing to do and slept";
    Commands = 34, "commands", Counter, "commands", "Commands executed";
    CommandsRefused = 35, "commands_refused", Counter, "commands", "Commands refused: stale, malformed or impossible";
    EventsDropped = 36, "events_dropped", Counter, "events", "Events dropped because control did not read";
    SessionsPublisher = 37, "sessions_publisher", Gauge, "sessions", "Publishers now";
    SessionsViewer = 38, "sessions_viewer", Gauge, "sessions", "Viewers now";
    SessionsConnected = 39, "sessions_connected", Gauge, "sessions", "Sessions whose handshake is complete now";
    Feeds = 40, "feeds", Gauge, "feeds", "Feeds now";
    Tracks = 41, "tracks", Gauge, "tracks", "Tracks now";
    SlabsUsed = 42, "slabs_used", Gauge, "slabs", "Slabs of reel memory in use now";
    SlabsRefused = 43, "slabs_refused", Counter, "slabs", "Slabs wanted while the pool was dry";
    ConsentExpired = 44, "consent_expired", Counter, "sessions", "Sessions removed because their checks stopped";
    SessionsRemoved = 45, "sessions_removed", Counter, "sessions", "Sessions removed, whatever the reason";
    TickNsMax = 46, "tick_ns_max", Gauge, "ns", "Longest pass of the shard's loop in the last second";
    BusyNs = 47, "busy_ns", Counter, "ns", "Time the shard's loop was not asleep";
    RtxFromReel = 48, "rtx_from_reel", Counter, "packets", "Packets viewers lost that were sent again from the reel";
    RtxRefusedBudget = 49, "rtx_refused_budget", Counter, "packets", "Packets not sent again: beyond the viewer's share, or asked for too often";
    RtxNotInReel = 50, "rtx_not_in_reel", Counter, "packets", "Packets asked for again that the reel has not, or that were never sent";
    NacksSent = 51, "nacks_sent", Counter, "packets", "Packets publishers were asked to send again, each request counted";
    PacketsRecovered = 52, "packets_recovered", Counter, "packets", "Packets of publishers that came after they were asked for again";
    PacketsTooLate = 53, "packets_too_late", Counter, "packets", "Packets dropped: older than what the reel keeps, or from before a takeover";
    LateSkipped = 54, "late_skipped", Counter, "packets", "Late packets a viewer's shard heard of too late to forward them";
    StartsByReplay = 56, "starts_by_replay", Counter, "feeds", "Video feeds that began with a replay from the newest keyframe";
    StartsByKeyframe = 57, "starts_by_keyframe", Counter, "feeds", "Video feeds that began with the newest keyframe alone";
    ReplaysRestarted = 58, "replays_restarted", Counter, "feeds", "Keyframe requests of viewers answered from the reel";
    ReplaysAborted = 59, "replays_aborted", Counter, "feeds", "Replays given up because the path did not carry them";
    KeyframeRequestsWithheld = 60, "keyframe_requests_withheld", Counter, "requests", "Keyframe requests not sent because keyframes took their share of the bitrate";
    TracksDeaf = 61, "tracks_deaf", Gauge, "tracks", "Video tracks whose publisher answers no keyframe requests";
    TransportFeedbacksSent = 62, "transport_feedbacks_sent", Counter, "packets", "Packets that told a publisher when its packets arrived";
    PacketsRefusedFlood = 63, "packets_refused_flood", Counter, "packets", "Packets refused: their publisher sends more than a publisher may";
    HandshakeNs = 64, "handshake_ns", Counter, "ns", "Time spent in steps of handshakes, beside the busy time";
    PacketsFramed = 65, "packets_framed", Counter, "packets", "Packets sent as frames, past the kernel's UDP";
}

/// The counters of one shard.
#[repr(C, align(128))]
pub struct Counters {
    words: [AtomicU64; COUNTERS_MAX],
}

impl Counters {
    /// Only by the counter's own shard: a load and a store, no locked instruction.
    pub fn add(&self, id: CounterId, count: u64) {
        self.set(id, self.get(id).wrapping_add(count));
    }
    pub fn set(&self, id: CounterId, value: u64) {
        self.words[id as usize].store(value, Ordering::Relaxed);
    }
    pub fn get(&self, id: CounterId) -> u64 {
        self.words[id as usize].load(Ordering::Relaxed)
    }
    /// What an engine does first: gauges are of the engine that is gone.
    pub fn clear_gauges(&self) {
        for id in CounterId::ALL {
            if id.kind() == CounterKind::Gauge {
                self.set(*id, 0);
            }
        }
    }
}

/// What one track receives, written by the shard that feeds it. Values belong to the track whose generation
/// stands beside them.
#[repr(C, align(128))]
pub struct TrackStats {
    /// The generation of the track's id.
    pub generation: AtomicU64,
    /// `Codec` as a number, 0 while there is none.
    pub codec: AtomicU64,
    pub packets: AtomicU64,
    pub bytes: AtomicU64,
    /// Packets expected and not arrived, cumulative (RFC 3550 section 6.4.1).
    pub lost: AtomicU64,
    pub expected: AtomicU64,
    pub frames: AtomicU64,
    pub keyframes: AtomicU64,
    /// Between the last two keyframes.
    pub keyframe_interval_ms: AtomicU64,
    /// Monotonic nanoseconds.
    pub last_packet_at: AtomicU64,
    /// Grows with each takeover.
    pub publisher_epoch: AtomicU64,
    /// The publisher's path (RFC 3550 section 6.4.1): what it jitters, brought up to date with each report to it.
    pub jitter_us: AtomicU64,
    /// How long the last packets that were asked for again took to come; 0: none did.
    pub round_trip_us: AtomicU64,
    /// Packets that came after they were asked for again.
    pub recovered: AtomicU64,
    reserved: [AtomicU64; 2],
}

impl TrackStats {
    /// Begins anew for the track of `generation`.
    pub fn reset(&self, generation: u32) {
        let words = [
            &self.codec,
            &self.packets,
            &self.bytes,
            &self.lost,
            &self.expected,
            &self.frames,
            &self.keyframes,
            &self.keyframe_interval_ms,
            &self.last_packet_at,
            &self.publisher_epoch,
            &self.jitter_us,
            &self.round_trip_us,
            &self.recovered,
        ];
        for word in words.into_iter().chain(&self.reserved) {
            word.store(0, Ordering::Relaxed);
        }
        self.generation.store(u64::from(generation), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn counters() -> Counters {
        Counters { words: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    #[test]
    fn the_table_has_distinct_names_and_places_inside_the_layout() {
        let names: HashSet<_> = CounterId::ALL.iter().map(|id| id.name()).collect();
        let places: HashSet<_> = CounterId::ALL.iter().map(|id| *id as usize).collect();
        assert_eq!(names.len(), CounterId::ALL.len());
        assert_eq!(places.len(), CounterId::ALL.len());
        for id in CounterId::ALL {
            assert!((*id as usize) < COUNTERS_MAX);
            assert!(id.name().bytes().all(|c| c.is_ascii_lowercase() || c == b'_'), "{}", id.name());
            assert!(!id.label().is_empty() && !id.unit().is_empty());
        }
    }

    #[test]
    fn a_new_engine_keeps_counters_and_clears_gauges() {
        let counters = counters();
        counters.add(CounterId::PacketsSent, 5);
        counters.add(CounterId::PacketsSent, 7);
        counters.set(CounterId::SessionsViewer, 3);
        counters.clear_gauges();
        assert_eq!(counters.get(CounterId::PacketsSent), 12);
        assert_eq!(counters.get(CounterId::SessionsViewer), 0);
    }

    #[test]
    fn counters_of_two_shards_share_no_pair_of_cache_lines() {
        assert_eq!(align_of::<Counters>(), 128);
        assert_eq!(size_of::<Counters>() % 128, 0);
        assert_eq!(size_of::<TrackStats>(), 128);
    }
}
