//! What the API's bodies hold. The comment of a field is its description in the OpenAPI document.

use super::schema::body;

body!(request NewRoom: "a room to be declared" {
    id: String = "its name: 1 to 64 characters of A-Z a-z 0-9 _ -",
    viewers_max: Option<u32> = "how many may watch at once; null: what the node allows each room, 0: no limit",
    record: Option<String> = "auto: each publisher is recorded; manual: what is asked for; off: nothing; null: manual",
});

body!(request RoomPatch: "what is to be changed of a room (merge patch: null puts a setting back)" {
    viewers_max: Option<u32> = "how many may watch at once; null: what the node allows each room, 0: no limit",
    record: Option<String> = "auto: each publisher is recorded; manual: what is asked for; off: nothing; null: manual",
});

body!(answer Room: "a room" {
    id: String = "its name",
    declared: bool = "whether the API made it; other rooms are there as long as somebody is in them",
    created_at: Option<String> = "when it was declared, RFC 3339",
    viewers_max: Option<u32> = "its own limit; null: what the node allows each room",
    record: String = "auto: each publisher is recorded; manual: what is asked for; off: nothing",
    live: bool = "somebody publishes, and packets come",
    stream: Option<String> = "the stream's id, if there is one",
    viewers: u64 = "viewers that are connected",
});

body!(answer Track: "one audio or video of a stream" {
    kind: String = "audio or video",
    codec: String = "as SDP names it",
    live: bool = "packets come",
    bitrate_bps: u64 = "over the last second",
    frames_per_second: f64 = "over the last second",
    loss_ratio: f64 = "what the publisher's path lost of the last second's packets, 0 to 1",
    keyframe_interval_ms: u64 = "between the last two keyframes; 0: not known yet",
    jitter_ms: f64 = "of the publisher's path, RFC 3550",
    round_trip_ms: Option<f64> = "how long packets that were asked for again take to come; null: none was yet",
    packets_recovered: u64 = "that came after they were asked for again",
    layers: u64 = "always 1: there is no simulcast yet",
});

body!(answer Warning: "something about a stream that viewers will notice" {
    code: String = "no_audio, no_video, keyframe_interval_long, uplink_loss or codec_not_everywhere",
    detail: String = "what it means and what to do",
});

body!(answer Publisher: "who sends a stream" {
    sub: String = "as its token has it",
    account: String = "who pays",
    connected: bool = "the handshake is complete",
});

body!(answer Stream: "one publisher's output" {
    id: String = "sorts by age",
    room: String = "where it is seen",
    live: bool = "packets come; else its viewers wait for a publisher",
    started_at: String = "RFC 3339",
    publisher: Option<Publisher> = "null: gone, its viewers wait",
    viewers: u64 = "of this stream, those that are joining included",
    recording: Option<String> = "the recording that runs in its room; null: none",
    bitrate_bps: u64 = "all tracks together, over the last second",
    tracks: Vec<Track> = "at most one audio and one video",
    warnings: Vec<Warning> = "what to put right at the publisher",
});

body!(answer Reception: "what a viewer reports of its audio or its video (RFC 3550)" {
    loss_ratio: f64 = "of the packets since the report before, 0 to 1; those that were sent again and came are not lost",
    packets_lost: u64 = "since it joined",
    jitter_ms: f64 = "how unevenly packets come",
    reported_at: String = "RFC 3339",
});

body!(answer Join: "milliseconds from the join's command to the engine until each step; null: not yet" {
    checked_ms: Option<f64> = "its first connectivity check came",
    connected_ms: Option<f64> = "the handshake was complete",
    first_packet_ms: Option<f64> = "the first packet was sent to it",
    first_picture_ms: Option<f64> = "all of the first picture was sent to it; without video the same as first_packet_ms",
});

body!(answer Quality: "what a viewer experiences, as far as the node can tell; not older than about a second" {
    join: Join = "how its join went",
    packets_sent: u64 = "of media, each counted once",
    bytes_sent: u64 = "of their payload",
    round_trip_ms: Option<f64> = "from its last report; null: no report has told it yet",
    round_trip_min_ms: Option<f64> = "the shortest so far",
    video: Option<Reception> = "null: no report of it yet",
    audio: Option<Reception> = "null: no report of it yet",
    packets_nacked: u64 = "asked for again, each time counted",
    packets_resent: u64 = "sent again",
    keyframe_requests: u64 = "PLI and FIR",
    replays_restarted: u64 = "keyframe requests that were answered from the reel",
    freezes_estimated: u64 = "times it asked for a keyframe after its first picture: players do once they can show nothing more",
    frozen_ms_estimated: f64 = "how long it then waited for one, in all; what passed before it asked is not in it",
});

body!(answer Viewer: "who watches" {
    id: String = "sorts by age; it is not the session's URL",
    room: String = "where",
    sub: String = "as its token has it",
    account: String = "who pays",
    joined_at: String = "RFC 3339",
    connected: bool = "the handshake is complete",
    protocol: String = "whep",
    codecs: Vec<String> = "what it can show",
    quality: Option<Quality> = "null while the engine does not know it",
});

body!(answer KeyframeAnswer: "what became of a wish for a keyframe" {
    id: String = "the stream",
    result: String = "asked: the publisher is asked; pending: it was a moment ago, or a keyframe came; withheld: keyframes \
                      have taken their share of the bitrate; deaf: it answers no requests; silent: no packet of it came \
                      yet; no_video",
});

body!(answer Ban: "who may not come to a room for a while" {
    id: String = "of room and sub: the same person banned again has the same",
    room: String = "which one",
    sub: String = "whoever bears it, with whatever token",
    until: String = "RFC 3339",
});

body!(answer Ended: "what was ended" {
    id: String = "its id or name",
    ended: bool = "true",
});

body!(request NewToken: "a token to be minted" {
    room: String = "the room it opens",
    role: String = "publish, view, or admin (both, and the room's part of this API)",
    ttl_seconds: Option<u64> = "how long it is valid, up to a year; an hour if left out",
    sub: Option<String> = "who bears it: publishers of one name take over from each other; a name of its own if left out",
    account: Option<String> = "who pays; the caller's if left out",
});

body!(answer TokenUrls: "ready links; null where the role does not allow it" {
    whip: Option<String> = "where to publish (WHIP); send the token as Bearer",
    whep: Option<String> = "where to watch (WHEP); send the token as Bearer",
    publish: Option<String> = "a page to publish, with the token",
    watch: Option<String> = "a page to watch, with the token",
});

body!(answer Token: "a token" {
    token: String = "a JWT, HS256",
    room: String = "the room it opens",
    role: String = "publish, view or admin",
    sub: String = "who bears it",
    expires_at: String = "RFC 3339",
    urls: TokenUrls = "ready links",
});

body!(request NewKey: "a key to be made" {
    role: String = "admin (everything), read (everything that changes nothing), or stream (publish in its room, for OBS and cameras)",
    name: Option<String> = "for people, up to 100 characters",
    room: Option<String> = "of a stream key: its room",
    account: Option<String> = "who pays; the caller's if left out",
});

body!(request Rotation: "how a key is to be rotated" {
    grace_seconds: Option<u64> = "how long the secret before opens, up to a week; not at all if left out",
});

body!(answer Key: "a key without its secret" {
    id: String = "sorts by age",
    role: String = "admin, read or stream",
    name: String = "for people",
    room: Option<String> = "of a stream key: its room",
    account: String = "who pays",
    created_at: String = "RFC 3339",
    rotated_at: String = "RFC 3339: when its secret was made",
});

body!(answer KeyWithSecret: "a key with its secret, which is shown this once" {
    id: String = "sorts by age",
    role: String = "admin, read or stream",
    name: String = "for people",
    room: Option<String> = "of a stream key: its room",
    account: String = "who pays",
    created_at: String = "RFC 3339",
    rotated_at: String = "RFC 3339: when its secret was made",
    secret: String = "send it as Bearer; only its SHA-256 is kept",
});

body!(request LimitsPatch: "limits to be set (merge patch: null puts one back to the configuration); 0 is no limit" {
    publishers_max: Option<u32> = "publishers of this node",
    publishers_per_account_max: Option<u32> = "publishers of one account",
    viewers_max: Option<u32> = "viewers of this node",
    viewers_per_room_max: Option<u32> = "viewers of one room that has no limit of its own",
    viewers_per_account_max: Option<u32> = "viewers of one account",
    joins_per_second_max: Option<u32> = "viewers that may join per second",
    egress_mbps_max: Option<u32> = "Mbit/s that go out to viewers",
    busy_percent_max: Option<u32> = "percent of its time a shard may be busy before no more viewers come to it",
});

body!(answer Usage: "what there is now" {
    publishers: u64 = "that are there or joining",
    viewers: u64 = "that are there or joining",
    egress_bps: u64 = "what these viewers are sent, by their streams' bitrate",
});

body!(answer Limits: "the limits in force; 0 is no limit" {
    publishers_max: u32 = "publishers of this node",
    publishers_per_account_max: u32 = "publishers of one account",
    viewers_max: u32 = "viewers of this node",
    viewers_per_room_max: u32 = "viewers of one room that has no limit of its own",
    viewers_per_account_max: u32 = "viewers of one account",
    joins_per_second_max: u32 = "viewers that may join per second",
    egress_mbps_max: u32 = "Mbit/s that go out to viewers",
    busy_percent_max: u32 = "percent of its time a shard may be busy before no more viewers come to it",
    set_here: Vec<String> = "those that this API has set; the others are the configuration's",
    used: Usage = "what of it is used",
});

body!(answer Shard: "a forwarding thread" {
    sessions: u64 = "publishers and viewers it carries",
    packets_sent: u64 = "since the supervisor was started",
    busy_ratio: f64 = "of its time, smoothed over some seconds, handshakes left out; 0 to 1",
});

body!(answer Capacity: "what this node can still do" {
    limited_by: String = "what ends first: shards (their time), egress, viewers (their limit) or sessions (the tables)",
    viewers_left: Option<u64> = "an estimate of how many more viewers of a middling stream that is; null while there is no stream to judge by",
    busy_ratio_max: f64 = "how busy a shard may be before it gets no more viewers; 0: no limit",
});

body!(answer Node: "this node" {
    id: String = "its name",
    version: String = "of Spillway",
    started_at: String = "RFC 3339: when its control service was started",
    uptime_seconds: u64 = "of its control service",
    engine: Option<String> = "how it talks to the kernel, uring or socket; null: there is none just now",
    shards: Vec<Shard> = "its forwarding threads",
    candidates: Vec<String> = "addresses that clients are told to send media to",
    streams: u64 = "that are live",
    used: Usage = "publishers and viewers, all accounts together",
    capacity: Capacity = "how many more there may be",
    egress_bps: u64 = "all that went out in the last second, with headers and what was sent twice",
    memory_bytes: u64 = "of its processes",
});

body!(answer Attempt: "a join that came to nothing; the same again is counted" {
    id: String = "sorts by the time of the first",
    first_at: String = "RFC 3339",
    last_at: String = "RFC 3339",
    count: u64 = "how often it happened",
    code: String = "why, as the problem said it; never_connected, handshake_failed or fingerprint_mismatch: it was granted, and no connection came of it",
    detail: String = "of the last one",
    protocol: String = "whip (publishing) or whep (watching)",
    room: Option<String> = "where; null: nobody could tell",
    sub: Option<String> = "as the token has it; null: there was no valid one",
    offer: Option<String> = "SDP of the last one, without passwords and fingerprints",
    answer: Option<String> = "SDP, likewise; null: it was refused",
});

body!(answer Point: "ten seconds of this node" {
    at: String = "RFC 3339: their end",
    viewers: u64 = "at the end",
    streams: u64 = "that were live at the end",
    egress_bps: u64 = "all that went out, with headers and what was sent twice",
    busy_ratio: f64 = "of the busiest forwarding thread: the part of the time it was not asleep",
});

body!(answer History: "what this node carried over the last hour, of this control process" {
    interval_seconds: u64 = "between points",
    points: Vec<Point> = "oldest first, 360 at most",
});

body!(answer LobbyRoom: "a room that is live" {
    id: String = "its name",
    started_at: String = "RFC 3339",
    viewers: u64 = "that are connected",
    codecs: Vec<String> = "what a viewer must show",
});

body!(answer Lobby: "rooms that anybody may know of" {
    public: bool = "false: this node tells nobody (server.list_rooms)",
    data: Vec<LobbyRoom> = "by name, 200 at most",
});

body!(answer Event: "something that happened" {
    id: String = "sorts by age; for `after`, or Last-Event-ID",
    r#type: String = "as README.md's table has them: stream.started, viewer.left, ...",
    time: String = "RFC 3339",
    room: Option<String> = "where; null: on the node",
    data: serde_json::Value = "what it is about: `id`, and what the type says",
});

body!(request Kick: "how a viewer is sent away" {
    ban_seconds: Option<u32> = "for how long whoever bears its token's `sub` may not come to this room again, up to a year; not at all if left out",
});

body!(request NewWebhook: "a webhook to be made" {
    url: String = "http or https; private addresses only if webhooks.allow_private is true",
    types: Option<Vec<String>> = "of events; all if left out or empty",
    room: Option<String> = "events of this room alone; null: of all rooms, and of the node",
    enabled: Option<bool> = "true if left out",
});

body!(request WebhookRotation: "how a webhook's secret is to be rotated" {
    grace_seconds: Option<u64> = "how long the secret before signs as well, up to a week; a day if left out",
});

body!(request WebhookPatch: "what is to be changed of a webhook (merge patch)" {
    url: Option<String> = "another place; it begins anew",
    types: Option<Vec<String>> = "null or empty: all",
    room: Option<String> = "null: of all rooms, and of the node",
    enabled: Option<bool> = "true also takes it up again after the node has disabled it",
});

body!(answer Webhook: "who is told of events" {
    id: String = "sorts by age",
    url: String = "where events are posted to",
    types: Vec<String> = "of events; empty: all",
    room: Option<String> = "events of this room alone",
    enabled: bool = "false: nothing is queued or sent; what is queued waits",
    disabled_reason: Option<String> = "why the node has disabled it",
    failing_since: Option<String> = "RFC 3339: the first attempt of those that failed in a row; null: the last one was taken",
    created_at: String = "RFC 3339",
});

body!(answer WebhookWithSecret: "a webhook with its secret, which is shown this once" {
    id: String = "sorts by age",
    url: String = "where events are posted to",
    types: Vec<String> = "of events; empty: all",
    room: Option<String> = "events of this room alone",
    enabled: bool = "false: nothing is queued or sent; what is queued waits",
    disabled_reason: Option<String> = "why the node has disabled it",
    failing_since: Option<String> = "RFC 3339: the first attempt of those that failed in a row; null: the last one was taken",
    created_at: String = "RFC 3339",
    secret: String = "whsec_ and base64, for Standard Webhooks' libraries; kept sealed",
});

body!(answer WebhookTest: "what one attempt came to" {
    delivered: bool = "it was answered with 2xx",
    status: Option<u32> = "of the receiver's answer",
    error: Option<String> = "what went wrong",
    milliseconds: u64 = "from the name's look-up to the answer",
});

body!(answer Delivery: "an event on its way to a webhook" {
    id: String = "the header webhook-id, the same in all attempts; sorts by age",
    r#type: String = "of the event",
    status: String = "queued, delivered or dead",
    attempts: u32 = "made so far, since it was queued or retried",
    created_at: String = "RFC 3339",
    attempted_at: Option<String> = "RFC 3339: the last attempt",
    next_attempt_at: Option<String> = "RFC 3339; null: there is none",
    response_status: Option<u32> = "of the last answer",
    error: Option<String> = "what went wrong with the last attempt",
    payload: serde_json::Value = "what is sent",
});

body!(answer HealthMemory: "in MB" {
    used: u64 = "by this node's processes",
    total: u64 = "of the machine",
});

body!(answer HealthCpu: "in microseconds, of this node's processes since they were started" {
    user: u64 = "in their own code",
    system: u64 = "in the kernel",
});

#[allow(non_snake_case, reason = "a name that others gave it")]
mod health {
    use super::{HealthCpu, HealthMemory, body};

    body!(answer Health: "whether this node works; 503 with the same fields if it does not" {
        status: String = "ok, or unavailable while there is no engine",
        activeStreams: u64 = "streams that are live",
        memory: HealthMemory = "in MB",
        cpu: HealthCpu = "in microseconds",
        uptime: f64 = "seconds",
    });
}

pub use health::Health;

body!(answer Problemlet: "something that went wrong, in a word and in a sentence" {
    code: String = "stable: compare this one",
    detail: String = "what it means",
});

body!(answer RecordingFile: "a file of a recording" {
    name: String = "for `file` of the download; in the order of time",
    path: String = "below the directory of recordings (recording.dir)",
    url: String = "where it can be downloaded, with ranges",
    codecs: Vec<String> = "as SDP names them",
    r#final: bool = "it changes no more; until then it grows, and can be played as far as it goes",
    size: u64 = "bytes, now",
    sha256: Option<String> = "hexadecimal; null until it is final, as what follows",
    duration_ms: Option<u64> = "with its gaps",
    started_at: Option<String> = "RFC 3339: its first picture",
    width: Option<u32> = "of its first picture; 0: it has none",
    height: Option<u32> = "of its first picture; 0: it has none",
    frames: Option<u64> = "pictures",
});

body!(answer RecordingGap: "time without media: it is kept in the timeline, not cut out" {
    file: String = "where",
    at_ms: u64 = "from the recording's beginning",
    length_ms: u64 = "how long",
    reason: String = "publisher_away, loss, behind (the recorder was), disk_full or restart (of the recorder)",
});

body!(answer Recording: "what was recorded of a room, from one beginning to one end" {
    id: String = "sorts by age; also the name of its directory below recording.dir",
    room: Option<String> = "where; null: its directory was found, and nobody knows",
    stream: Option<String> = "the stream it is of, the last one where there were several",
    state: String = "recording; waiting: its publisher is away; finishing: its files are made final; finished",
    begun_by: String = "auto (the room's setting), manual (this API) or found (its directory)",
    created_at: String = "RFC 3339: when it was begun",
    started_at: Option<String> = "RFC 3339: when its first pictures stood on the disk; null: not yet",
    stopped_at: Option<String> = "RFC 3339: when it was finished",
    reason: Option<String> = "why it is over: stopped, stream_ended, publisher_gone, node_restarted, found or failed",
    duration_ms: u64 = "with its gaps; while it runs, since started_at",
    size: u64 = "bytes of its files, now",
    files: Vec<RecordingFile> = "another begins with another codec, or where the configuration bounds them",
    gaps: Vec<RecordingGap> = "the first 200",
    gaps_count: u64 = "how many there are",
    gaps_ms: u64 = "all gaps together",
    error: Option<Problemlet> = "what keeps it, or last kept it, from being written",
    warnings: Vec<Problemlet> = "what a player may not like, and what was left out",
    page: String = "a page that plays it",
});
