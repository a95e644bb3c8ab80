//! One file per resource of the API: what can be asked of it on the command line, and how its answers look.

pub mod events;
pub mod keys;
pub mod limits;
pub mod node;
pub mod record;
pub mod room;
pub mod stream;
pub mod viewer;
pub mod webhook;

use super::show::{Painted, line};
use serde_json::{Map, Value};

/// A body of those fields that were given.
fn body<'a>(fields: impl IntoIterator<Item = (&'a str, Option<Value>)>) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect::<Map<String, Value>>())
}

fn text_field(text: &Option<String>) -> Option<Value> {
    text.clone().map(Value::String)
}

/// What `end` and `kick` say of what is gone now.
fn gone(what: &str, id: &str) -> Painted {
    line(format!("{what} {id}"))
}

/// A number, or none for what the configuration says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limit(pub Option<u32>);

pub fn parse_limit(text: &str) -> Result<Limit, String> {
    match text {
        "default" | "null" => Ok(Limit(None)),
        text => text.parse().map(|number| Limit(Some(number))).map_err(|_| format!("\"{text}\" is no limit: write a number (0: no limit), or default")),
    }
}

#[cfg(test)]
mod tests;
