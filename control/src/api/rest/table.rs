//! The table of the API: method, path, who may, what goes in and out, which errors, who answers. The router and the
//! OpenAPI document are made from it, and a test walks through it.

use super::bodies::{
    Attempt, Ban, Delivery, Ended, Event, Health, History, Key, KeyWithSecret, KeyframeAnswer, Kick, Limits, LimitsPatch, Lobby, NewKey,
    NewRoom, NewToken, NewWebhook, Node, Recording, Room, RoomPatch, Rotation, Stream, Token, Usage, Viewer, Webhook, WebhookPatch,
    WebhookRotation, WebhookTest, WebhookWithSecret,
};
use super::page::Page;
use super::schema::Described;
use super::{Answering, Call, bans, events, handlers, insight, recordings, webhooks};
use serde_json::{Map, Value};

pub type Schema = fn(&mut Map<String, Value>) -> Value;

/// Who may have a row answered. Keys of the role `read` may have all that writes nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Anyone,
    /// API keys, tokens of the role node.
    Node,
    /// Also the admin token of the room in the path.
    Room,
    /// Also a room's admin token, which sees its room alone.
    Either,
}

#[derive(Debug)]
pub struct Field {
    pub name: &'static str,
    pub says: &'static str,
}

pub struct Row {
    pub method: &'static str,
    pub path: &'static str,
    /// As generated clients name it.
    pub id: &'static str,
    pub about: &'static str,
    pub access: Access,
    pub query: &'static [Field],
    pub body: Option<Schema>,
    /// A body may be left out.
    pub is_body_optional: bool,
    pub status: u16,
    pub answer: Option<Schema>,
    /// Besides those that all rows have.
    pub errors: &'static [(u16, &'static str)],
    pub handler: fn(Call) -> Answering,
}

impl Row {
    pub fn takes_body(&self) -> bool {
        self.body.is_some()
    }

    pub fn writes(&self) -> bool {
        self.method != "GET"
    }

    /// All problems it may be answered with, `(status, code)`.
    pub fn problems(&self) -> Vec<(u16, &'static str)> {
        let mut problems = self.errors.to_vec();
        if self.access != Access::Anyone {
            problems.extend([(401, "token_missing"), (401, "token_invalid"), (401, "token_expired"), (401, "key_invalid")]);
            // By the word of the operator's backend, where one is configured.
            problems.extend([(401, "token_denied"), (503, "backend_unavailable")]);
            problems.push((403, "wrong_role"));
        }
        if self.access == Access::Room {
            problems.push((403, "wrong_room"));
        }
        if self.path.contains("{room}") {
            problems.push((404, "not_found"));
        }
        problems.push((429, "rate_limited"));
        // A query's field that nobody knows.
        problems.push((400, "bad_request"));
        if self.takes_body() {
            problems.extend([(400, "bad_body"), (413, "body_too_large"), (415, "unsupported_media_type")]);
        }
        if self.method == "POST" {
            problems.push((409, "idempotency_mismatch"));
        }
        problems.sort_unstable();
        problems.dedup();
        problems
    }
}

const LIMIT: Field = Field { name: "limit", says: "how many at most, 1 to 200; 50 if left out" };
const AFTER: Field = Field { name: "after", says: "next_cursor of the page before" };
const ROOM: Field = Field { name: "room", says: "of this room alone" };
const PAGE: &[Field] = &[LIMIT, AFTER];
const PAGE_OF_ROOM: &[Field] = &[LIMIT, AFTER, ROOM];

const EVENTS: &[Field] =
    &[LIMIT, AFTER, ROOM, Field { name: "types", says: "of these types alone, with commas between them" }];

const DELIVERIES: &[Field] = &[LIMIT, AFTER, Field { name: "status", says: "queued, delivered or dead alone" }];
const RECORDINGS: &[Field] =
    &[LIMIT, AFTER, ROOM, Field { name: "state", says: "recording, waiting, finishing or finished alone" }];
const FILE: &[Field] = &[Field { name: "file", says: "one of its `files`, by name; may be left out where there is one" }];
const NO_RECORDING: &[(u16, &str)] = &[(404, "recording_not_found")];
const NO_WEBHOOK: &[(u16, &str)] = &[(404, "webhook_not_found")];
const NO_DELIVERY: &[(u16, &str)] = &[(404, "delivery_not_found"), (404, "webhook_not_found")];

const fn schema<T: Described>() -> Option<Schema> {
    Some(T::schema)
}

const BASE: Row = Row {
    method: "GET",
    path: "",
    id: "",
    about: "",
    access: Access::Node,
    query: &[],
    body: None,
    is_body_optional: false,
    status: 200,
    answer: None,
    errors: &[],
    // Of `GET /v1/node`; every other row names its own.
    handler: |call| Box::pin(handlers::node(call)),
};

const STREAMS: Row = Row {
    path: "/v1/streams",
    id: "listStreams",
    about: "Streams, oldest first",
    access: Access::Either,
    query: PAGE_OF_ROOM,
    answer: schema::<Page<Stream>>(),
    handler: |call| Box::pin(handlers::streams(call)),
    ..BASE
};

const STREAM: Row = Row {
    path: "/v1/streams/{stream}",
    id: "getStream",
    about: "One stream: bitrate, frames, loss, warnings",
    access: Access::Either,
    answer: schema::<Stream>(),
    errors: &[(404, "stream_not_found")],
    handler: |call| Box::pin(handlers::stream(call)),
    ..BASE
};

const END_STREAM: Row = Row {
    method: "POST",
    path: "/v1/streams/{stream}/end",
    id: "endStream",
    about: "End a stream: its publisher and its viewers are sent away. Whoever still has a valid token may come again",
    access: Access::Either,
    answer: schema::<Ended>(),
    errors: &[(404, "stream_not_found")],
    handler: |call| Box::pin(handlers::end_stream(call)),
    ..BASE
};

pub static ROWS: [Row; 50] = [
    Row {
        path: "/v1/rooms",
        id: "listRooms",
        about: "Rooms that were declared or hold somebody, by name",
        access: Access::Either,
        query: PAGE,
        answer: schema::<Page<Room>>(),
        handler: |call| Box::pin(handlers::rooms(call)),
        ..BASE
    },
    Row {
        method: "POST",
        path: "/v1/rooms",
        id: "createRoom",
        about: "Declare a room. Rooms need not be declared to be used: one with settings does",
        body: schema::<NewRoom>(),
        status: 201,
        answer: schema::<Room>(),
        errors: &[(409, "room_exists")],
        handler: |call| Box::pin(handlers::create_room(call)),
        ..BASE
    },
    Row {
        path: "/v1/rooms/{room}",
        id: "getRoom",
        about: "One room. Its ETag is for If-Match of a PATCH",
        access: Access::Room,
        answer: schema::<Room>(),
        errors: &[(404, "room_not_found")],
        handler: |call| Box::pin(handlers::room(call)),
        ..BASE
    },
    Row {
        method: "PATCH",
        path: "/v1/rooms/{room}",
        id: "updateRoom",
        about: "Change a declared room's settings; they count from the next join on",
        body: schema::<RoomPatch>(),
        answer: schema::<Room>(),
        errors: &[(404, "room_not_found"), (412, "version_mismatch")],
        handler: |call| Box::pin(handlers::update_room(call)),
        ..BASE
    },
    Row {
        method: "DELETE",
        path: "/v1/rooms/{room}",
        id: "deleteRoom",
        about: "Take a room's declaration and settings back; who is in it stays",
        status: 204,
        errors: &[(404, "room_not_found")],
        handler: |call| Box::pin(handlers::delete_room(call)),
        ..BASE
    },
    Row {
        method: "POST",
        path: "/v1/rooms/{room}/end",
        id: "endRoom",
        about: "Send everybody in a room away. Whoever still has a valid token may come again",
        access: Access::Room,
        answer: schema::<Ended>(),
        errors: &[(404, "room_not_found")],
        handler: |call| Box::pin(handlers::end_room(call)),
        ..BASE
    },
    Row {
        path: "/v1/rooms/{room}/viewers",
        id: "listRoomViewers",
        about: "Viewers of a room, by the time they came",
        access: Access::Room,
        query: PAGE,
        answer: schema::<Page<Viewer>>(),
        handler: |call| Box::pin(handlers::viewers(call)),
        ..BASE
    },
    Row {
        path: "/v1/rooms/{room}/bans",
        id: "listBans",
        about: "Who was kicked out of a room with `ban_seconds` and may not come yet",
        access: Access::Room,
        query: PAGE,
        answer: schema::<Page<Ban>>(),
        handler: |call| Box::pin(bans::list(call)),
        ..BASE
    },
    Row {
        method: "DELETE",
        path: "/v1/rooms/{room}/bans/{ban}",
        id: "liftBan",
        about: "Let somebody come again before his ban ends",
        access: Access::Room,
        status: 204,
        errors: &[(404, "ban_not_found")],
        handler: |call| Box::pin(bans::lift(call)),
        ..BASE
    },
    STREAMS,
    STREAM,
    END_STREAM,
    Row {
        method: "POST",
        path: "/v1/streams/{stream}/keyframe",
        id: "requestKeyframe",
        about: "Have the publisher asked for a keyframe, within what keyframes may take of its bitrate. The answer says what became of it",
        access: Access::Either,
        status: 202,
        answer: schema::<KeyframeAnswer>(),
        errors: &[(404, "stream_not_found"), (503, "engine_restarting")],
        handler: |call| Box::pin(handlers::request_keyframe(call)),
        ..BASE
    },
    Row { path: "/streams", id: "listStreamsUnversioned", about: "The same as GET /v1/streams", ..STREAMS },
    Row { path: "/streams/{stream}", id: "getStreamUnversioned", about: "The same as GET /v1/streams/{stream}", ..STREAM },
    Row {
        path: "/streams/{stream}/end",
        id: "endStreamUnversioned",
        about: "The same as POST /v1/streams/{stream}/end",
        ..END_STREAM
    },
    Row {
        method: "POST",
        path: "/v1/rooms/{room}/recordings",
        id: "startRecording",
        about: "Record a room's stream, from the newest keyframe on. A room has one recording at a time; it goes on while its \
                publisher reconnects or another one takes over",
        access: Access::Room,
        status: 201,
        answer: schema::<Recording>(),
        errors: &[(409, "recording_off"), (409, "recording_runs"), (409, "stream_not_live"), (503, "engine_restarting")],
        handler: |call| Box::pin(recordings::start(call)),
        ..BASE
    },
    Row {
        path: "/v1/recordings",
        id: "listRecordings",
        about: "Recordings, newest first",
        access: Access::Either,
        query: RECORDINGS,
        answer: schema::<Page<Recording>>(),
        handler: |call| Box::pin(recordings::list(call)),
        ..BASE
    },
    Row {
        path: "/v1/recordings/{recording}",
        id: "getRecording",
        about: "One recording: its files and its gaps",
        access: Access::Either,
        answer: schema::<Recording>(),
        errors: NO_RECORDING,
        handler: |call| Box::pin(recordings::read(call)),
        ..BASE
    },
    Row {
        method: "POST",
        path: "/v1/recordings/{recording}/stop",
        id: "stopRecording",
        about: "Stop a recording; its files are final a moment later (recording.segment, then recording.stopped). One that is \
                over stays as it is",
        access: Access::Either,
        answer: schema::<Recording>(),
        errors: NO_RECORDING,
        handler: |call| Box::pin(recordings::stop(call)),
        ..BASE
    },
    Row {
        path: "/v1/recordings/{recording}/download",
        id: "downloadRecording",
        about: "A file of a recording, with ranges (RFC 9110) and an ETag; also one that grows, as far as it goes",
        access: Access::Either,
        query: FILE,
        errors: &[(404, "file_not_found"), (404, "recording_not_found"), (416, "range_not_satisfiable")],
        handler: |call| Box::pin(recordings::download(call)),
        ..BASE
    },
    Row {
        method: "DELETE",
        path: "/v1/recordings/{recording}",
        id: "deleteRecording",
        about: "Delete a finished recording with its files",
        access: Access::Either,
        status: 204,
        errors: &[(404, "recording_not_found"), (409, "recording_open")],
        handler: |call| Box::pin(recordings::delete(call)),
        ..BASE
    },
    Row {
        path: "/v1/viewers",
        id: "listViewers",
        about: "Viewers of all rooms, by the time they came",
        access: Access::Either,
        query: PAGE_OF_ROOM,
        answer: schema::<Page<Viewer>>(),
        handler: |call| Box::pin(handlers::viewers(call)),
        ..BASE
    },
    Row {
        path: "/v1/viewers/{viewer}",
        id: "getViewer",
        about: "One viewer",
        access: Access::Either,
        answer: schema::<Viewer>(),
        errors: &[(404, "viewer_not_found")],
        handler: |call| Box::pin(handlers::viewer(call)),
        ..BASE
    },
    Row {
        method: "POST",
        path: "/v1/viewers/{viewer}/kick",
        id: "kickViewer",
        about: "Send a viewer away. With a valid token it may come again, unless it is banned for a while: then nobody with \
                the same `sub` may come to this room",
        access: Access::Either,
        body: schema::<Kick>(),
        is_body_optional: true,
        answer: schema::<Ended>(),
        errors: &[(404, "viewer_not_found")],
        handler: |call| Box::pin(handlers::kick(call)),
        ..BASE
    },
    Row {
        method: "POST",
        path: "/v1/tokens",
        id: "createToken",
        about: "Mint a token, with ready links. A room's admin token mints for its room, and no longer than itself",
        access: Access::Either,
        body: schema::<NewToken>(),
        status: 201,
        answer: schema::<Token>(),
        errors: &[(403, "wrong_room")],
        handler: |call| Box::pin(handlers::create_token(call)),
        ..BASE
    },
    Row {
        path: "/v1/keys",
        id: "listKeys",
        about: "Keys, oldest first, without their secrets",
        query: PAGE,
        answer: schema::<Page<Key>>(),
        handler: |call| Box::pin(handlers::keys(call)),
        ..BASE
    },
    Row {
        method: "POST",
        path: "/v1/keys",
        id: "createKey",
        about: "Make a key. Its secret is in this answer and nowhere else",
        body: schema::<NewKey>(),
        status: 201,
        answer: schema::<KeyWithSecret>(),
        handler: |call| Box::pin(handlers::create_key(call)),
        ..BASE
    },
    Row {
        path: "/v1/keys/{key}",
        id: "getKey",
        about: "One key, without its secret",
        answer: schema::<Key>(),
        errors: &[(404, "key_not_found")],
        handler: |call| Box::pin(handlers::key(call)),
        ..BASE
    },
    Row {
        method: "DELETE",
        path: "/v1/keys/{key}",
        id: "revokeKey",
        about: "Revoke a key: it opens nothing from the next request on",
        status: 204,
        errors: &[(404, "key_not_found")],
        handler: |call| Box::pin(handlers::revoke_key(call)),
        ..BASE
    },
    Row {
        method: "POST",
        path: "/v1/keys/{key}/rotate",
        id: "rotateKey",
        about: "Give a key another secret; the one before may go on for a while",
        body: schema::<Rotation>(),
        is_body_optional: true,
        answer: schema::<KeyWithSecret>(),
        errors: &[(404, "key_not_found")],
        handler: |call| Box::pin(handlers::rotate_key(call)),
        ..BASE
    },
    Row {
        path: "/v1/limits",
        id: "getLimits",
        about: "The limits in force and what of them is used. Its ETag is for If-Match of a PATCH",
        answer: schema::<Limits>(),
        handler: |call| Box::pin(handlers::limits(call)),
        ..BASE
    },
    Row {
        method: "PATCH",
        path: "/v1/limits",
        id: "updateLimits",
        about: "Set limits, at once; they stay over restarts, until they are put back with null. Nobody is sent away",
        body: schema::<LimitsPatch>(),
        answer: schema::<Limits>(),
        errors: &[(412, "version_mismatch")],
        handler: |call| Box::pin(handlers::update_limits(call)),
        ..BASE
    },
    Row {
        path: "/v1/accounts/{account}/usage",
        id: "getAccountUsage",
        about: "What an account uses now; one that nobody knows uses nothing",
        answer: schema::<Usage>(),
        handler: |call| Box::pin(handlers::usage(call)),
        ..BASE
    },
    Row {
        path: "/v1/events",
        id: "listEvents",
        about: "What happens, as server-sent events from now on or from Last-Event-ID on; with Accept: application/json \
                a page of what is kept (10,000 events, of this control process)",
        access: Access::Either,
        query: EVENTS,
        answer: schema::<Page<Event>>(),
        errors: &[(403, "wrong_room")],
        handler: |call| Box::pin(events::events(call)),
        ..BASE
    },
    Row {
        path: "/v1/webhooks",
        id: "listWebhooks",
        about: "Webhooks, oldest first, without their secrets",
        query: PAGE,
        answer: schema::<Page<Webhook>>(),
        handler: |call| Box::pin(webhooks::list(call)),
        ..BASE
    },
    Row {
        method: "POST",
        path: "/v1/webhooks",
        id: "createWebhook",
        about: "Have events posted to a URL, signed as Standard Webhooks has it. The secret is in this answer and nowhere else",
        body: schema::<NewWebhook>(),
        status: 201,
        answer: schema::<WebhookWithSecret>(),
        errors: &[(409, "webhooks_full")],
        handler: |call| Box::pin(webhooks::create(call)),
        ..BASE
    },
    Row {
        path: "/v1/webhooks/{webhook}",
        id: "getWebhook",
        about: "One webhook, without its secret. Its ETag is for If-Match of a PATCH",
        answer: schema::<Webhook>(),
        errors: NO_WEBHOOK,
        handler: |call| Box::pin(webhooks::read(call)),
        ..BASE
    },
    Row {
        method: "PATCH",
        path: "/v1/webhooks/{webhook}",
        id: "updateWebhook",
        about: "Change a webhook, or take it up again",
        body: schema::<WebhookPatch>(),
        answer: schema::<Webhook>(),
        errors: &[(404, "webhook_not_found"), (412, "version_mismatch")],
        handler: |call| Box::pin(webhooks::update(call)),
        ..BASE
    },
    Row {
        method: "DELETE",
        path: "/v1/webhooks/{webhook}",
        id: "deleteWebhook",
        about: "Delete a webhook and its deliveries",
        status: 204,
        errors: NO_WEBHOOK,
        handler: |call| Box::pin(webhooks::delete(call)),
        ..BASE
    },
    Row {
        method: "POST",
        path: "/v1/webhooks/{webhook}/rotate",
        id: "rotateWebhook",
        about: "Give a webhook another secret; the one before signs as well for a day, or as long as is said",
        body: schema::<WebhookRotation>(),
        is_body_optional: true,
        answer: schema::<WebhookWithSecret>(),
        errors: NO_WEBHOOK,
        handler: |call| Box::pin(webhooks::rotate(call)),
        ..BASE
    },
    Row {
        method: "POST",
        path: "/v1/webhooks/{webhook}/test",
        id: "testWebhook",
        about: "Post a webhook.test event at once, once, and say what came of it (within 10 s)",
        answer: schema::<WebhookTest>(),
        errors: NO_WEBHOOK,
        handler: |call| Box::pin(webhooks::test(call)),
        ..BASE
    },
    Row {
        path: "/v1/webhooks/{webhook}/deliveries",
        id: "listDeliveries",
        about: "What became of a webhook's events, newest first; the last 5,000 are kept",
        query: DELIVERIES,
        answer: schema::<Page<Delivery>>(),
        errors: NO_WEBHOOK,
        handler: |call| Box::pin(webhooks::deliveries(call)),
        ..BASE
    },
    Row {
        path: "/v1/webhooks/{webhook}/deliveries/{delivery}",
        id: "getDelivery",
        about: "One delivery",
        answer: schema::<Delivery>(),
        errors: NO_DELIVERY,
        handler: |call| Box::pin(webhooks::delivery(call)),
        ..BASE
    },
    Row {
        method: "POST",
        path: "/v1/webhooks/{webhook}/deliveries/{delivery}/retry",
        id: "retryDelivery",
        about: "Send an event again, whatever became of it: at once, then for a day",
        answer: schema::<Delivery>(),
        errors: NO_DELIVERY,
        handler: |call| Box::pin(webhooks::retry(call)),
        ..BASE
    },
    Row {
        path: "/v1/attempts",
        id: "listAttempts",
        about: "Joins that came to nothing, with offer and answer: the last 200 different ones, of this control process",
        query: PAGE,
        answer: schema::<Page<Attempt>>(),
        handler: |call| Box::pin(insight::attempts(call)),
        ..BASE
    },
    Row {
        path: "/v1/node/history",
        id: "getNodeHistory",
        about: "Viewers, streams, egress and load of the last hour, for charts",
        answer: schema::<History>(),
        handler: |call| Box::pin(insight::history(call)),
        ..BASE
    },
    Row {
        path: "/v1/lobby",
        id: "getLobby",
        about: "Live rooms, for anybody, where the operator has said so (server.list_rooms)",
        access: Access::Anyone,
        answer: schema::<Lobby>(),
        handler: |call| Box::pin(insight::lobby(call)),
        ..BASE
    },
    Row { path: "/v1/node", id: "getNode", about: "This node", answer: schema::<Node>(), ..BASE },
    Row {
        path: "/health",
        id: "getHealth",
        about: "For load balancers of other systems; /livez and /readyz are for ours",
        access: Access::Anyone,
        answer: schema::<Health>(),
        handler: |call| Box::pin(handlers::health(call)),
        ..BASE
    },
];
