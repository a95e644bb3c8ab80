//! Lists in pages: a cursor is the last name that was shown, so that what comes and goes meanwhile moves nothing.

use super::Call;
use super::schema::Described;
use crate::api::problem::Problem;
use serde::Serialize;
use serde_json::{Map, Value, json};

const COUNT_DEFAULT: usize = 50;
pub const COUNT_MAX: usize = 200;
const CURSOR_CHARS_MAX: usize = 200;

/// Which part of a list is asked for.
pub struct Wanted {
    /// Empty: from the beginning.
    pub after: String,
    pub count: usize,
}

#[derive(Debug, Serialize)]
pub struct Page<T> {
    pub data: Vec<T>,
    pub has_more: bool,
    pub next_cursor: Option<String>,
}

impl Wanted {
    pub fn of(call: &Call) -> Result<Wanted, Problem> {
        let count = match call.query.get("limit") {
            None => COUNT_DEFAULT,
            Some(text) => match text.parse() {
                Ok(count @ 1..=COUNT_MAX) => count,
                _ => return Err(Problem::bad_request(format!("limit must be a number from 1 to {COUNT_MAX}"))),
            },
        };
        let after = call.query.get("after").cloned().unwrap_or_default();
        let is_name = after.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
        if !is_name || after.len() > CURSOR_CHARS_MAX {
            return Err(Problem::bad_request("after must be the next_cursor of the page before"));
        }
        Ok(Wanted { after, count })
    }
}

impl<T> Page<T> {
    /// From one more than is shown, if there is one.
    pub fn new(mut found: Vec<T>, count: usize, name: impl Fn(&T) -> String) -> Page<T> {
        let has_more = found.len() > count;
        found.truncate(count);
        let next_cursor = found.last().filter(|_| has_more).map(name);
        Page { data: found, has_more, next_cursor }
    }
}

impl<T: Described> Described for Page<T> {
    fn schema(all: &mut Map<String, Value>) -> Value {
        json!({
            "type": "object",
            "properties": {
                "data": { "type": "array", "items": T::schema(all) },
                "has_more": { "type": "boolean", "description": "there is another page" },
                "next_cursor": {
                    "anyOf": [{ "type": "string" }, { "type": "null" }],
                    "description": "for `after` of the next page",
                },
            },
            "required": ["data", "has_more", "next_cursor"],
            "additionalProperties": false,
        })
    }
}
