//! The OpenAPI 3.1 document, made from the table: it cannot say anything that the router does not do.

use super::table::{Access, ROWS, Row};
use crate::api::problem::CODES;
use serde_json::{Map, Value, json};

pub fn document() -> Value {
    let mut schemas = Map::new();
    schemas.insert("Problem".to_owned(), problem());
    let mut paths = Map::new();
    for row in &ROWS {
        let operation = operation(row, &mut schemas);
        let path = paths.entry(row.path).or_insert_with(|| json!({}));
        if let Some(path) = path.as_object_mut() {
            path.insert(row.method.to_lowercase(), operation);
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Spillway",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A live WebRTC broadcast server",
            "description": "Media goes in by WHIP (RFC 9725) and out by WHEP; this is what a backend needs besides. \
                Send an API key, or a token of the role node (`spillway token --role node`), as \
                `Authorization: Bearer`. A room's admin token opens its room's part. Refusals are \
                application/problem+json with a stable `code`.",
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "an API key (`spk_...`) or a JWT of this node",
            } },
        },
    })
}

fn operation(row: &Row, schemas: &mut Map<String, Value>) -> Value {
    let mut parameters: Vec<Value> = row
        .path
        .split(['{', '}'])
        .skip(1)
        .step_by(2)
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(row.query.iter().map(|field| {
        let kind = if field.name == "limit" {
            json!({ "type": "integer", "minimum": 1, "maximum": super::page::COUNT_MAX })
        } else {
            json!({ "type": "string" })
        };
        json!({ "name": field.name, "in": "query", "description": field.says, "schema": kind })
    }));
    let header = |name: &str, says: &str| json!({ "name": name, "in": "header", "description": says, "schema": { "type": "string" } });
    match row.method {
        "POST" => parameters.push(header("Idempotency-Key", "a name for this request: sent again within 24 h it is not done again, and answered the same")),
        "PATCH" => parameters.push(header("If-Match", "the ETag this change is meant for")),
        _ => {}
    }
    let mut responses = Map::new();
    let about = match row.status {
        201 => "made",
        204 => "done",
        _ => "as asked",
    };
    let done = match row.answer {
        Some(answer) => json!({ "description": about, "content": { "application/json": { "schema": answer(schemas) } } }),
        None => json!({ "description": about }),
    };
    responses.insert(row.status.to_string(), done);
    if row.id == "listEvents"
        && let Some(content) = responses.get_mut("200").and_then(|done| done["content"].as_object_mut())
    {
        content.insert("text/event-stream".to_owned(), json!({ "schema": { "type": "string" } }));
    }
    if row.id == "downloadRecording" {
        let bytes = json!({ "schema": { "type": "string", "format": "binary" } });
        let content = json!({ "video/mp4": bytes, "video/webm": bytes });
        responses.insert("200".to_owned(), json!({ "description": "the file", "content": content }));
        responses.insert("206".to_owned(), json!({ "description": "the range that was asked for", "content": content }));
        responses.insert("304".to_owned(), json!({ "description": "it is what If-None-Match names" }));
    }
    if row.path == "/health" {
        let same = responses.get("200").cloned().unwrap_or_default();
        responses.insert("503".to_owned(), same);
    }
    let problems = row.problems();
    for (status, _) in &problems {
        let codes: Vec<&str> = problems.iter().filter(|(other, _)| other == status).map(|(_, code)| *code).collect();
        let words: Vec<String> = codes.iter().map(|code| format!("`{code}`: {}", words_of(code))).collect();
        responses.insert(status.to_string(), json!({
            "description": words.join("; "),
            "content": { "application/problem+json": { "schema": {
                "allOf": [{ "$ref": "#/components/schemas/Problem" }, { "properties": { "code": { "enum": codes } } }],
            } } },
        }));
    }
    let tag = row.path.trim_start_matches("/v1").split('/').nth(1).unwrap_or_default();
    let mut operation = json!({
        "operationId": row.id,
        "summary": row.about,
        "tags": [tag],
        "parameters": parameters,
        "responses": responses,
    });
    if let (Some(body), Some(object)) = (row.body, operation.as_object_mut()) {
        let schema = body(schemas);
        let content = json!({ "application/json": { "schema": schema } });
        object.insert("requestBody".to_owned(), json!({ "required": !row.is_body_optional, "content": content }));
    }
    if let (Access::Anyone, Some(object)) = (row.access, operation.as_object_mut()) {
        object.insert("security".to_owned(), json!([]));
    }
    operation
}

fn words_of(code: &str) -> &'static str {
    CODES.iter().find(|(name, _)| *name == code).map_or("", |(_, words)| words)
}

/// RFC 9457.
fn problem() -> Value {
    let text = |says: &str| json!({ "type": "string", "description": says });
    json!({
        "type": "object",
        "description": "why a request was refused",
        "properties": {
            "type": text("names the code as a URN"),
            "title": text("short enough for a dialog"),
            "status": { "type": "integer", "description": "as the answer's" },
            "code": text("stable: compare this one"),
            "detail": text("what to do"),
            "request_id": text("stands in the node's log, where it is the node's fault"),
            "retry_after_seconds": { "type": "integer", "description": "where waiting helps; also as the header Retry-After" },
        },
        "required": ["type", "title", "status", "code", "detail", "request_id"],
        "additionalProperties": false,
    })
}
