//! `spillway token`: prints one token, nothing else. Works with no node running; makes the key if need be.

use super::{DataArgs, Exit};
use crate::auth::{self, Grant, Role, SigningKey};
use crate::data_dir::DataDir;
use crate::supervisor::terminal::complain;
use aws_lc_rs::rand;
use clap::Args;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway token --room demo --role publish --ttl 12h
  curl -H \"Authorization: Bearer $(spillway token --role node)\" http://127.0.0.1:7080/v1/streams
  curl -H \"Authorization: Bearer $(spillway token --room demo --role view)\" http://127.0.0.1:7080/v1/rooms/demo/live")]
pub struct TokenArgs {
    /// The room it opens; a room exists as soon as a valid token names it
    #[arg(long, value_name = "ROOM", value_parser = parse_room)]
    pub room: Option<String>,
    /// What its bearer may do: publish, view, admin (both, and the room's part of the API), or node (the whole API;
    /// such a token names no room)
    #[arg(long, value_name = "ROLE")]
    pub role: Role,
    /// How long it is valid: 90s, 15m, 1h, 7d, 1h30m
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_ttl)]
    pub ttl: Duration,
    /// Who bears it: publishers of one name take over from each other, another is refused while the room is
    /// live [default: a name of this token's own]
    #[arg(long, value_name = "SUB")]
    pub sub: Option<String>,
    #[command(flatten)]
    pub data: DataArgs,
}

pub fn run(args: TokenArgs) -> ExitCode {
    let room = match (args.role, args.room) {
        (Role::Node, None) => String::new(),
        (Role::Node, Some(_)) => {
            complain("a token of the role node names no room: leave --room out, or take --role admin".to_owned());
            return Exit::Usage.into();
        }
        (_, Some(room)) => room,
        (_, None) => {
            complain("name the room with --room ROOM".to_owned());
            return Exit::Usage.into();
        }
    };
    let data = match DataDir::open(&args.data.data) {
        Ok(data) => data,
        Err(error) => {
            complain(error.to_string());
            return Exit::Config.into();
        }
    };
    let key = match SigningKey::load_or_create(data.path()) {
        Ok(key) => key,
        Err(error) => {
            complain(error.to_string());
            return Exit::Auth.into();
        }
    };
    let sub = args.sub.unwrap_or_else(|| new_sub(args.role));
    println!("{}", auth::mint(&key, Grant { room, role: args.role, sub, acct: None, ttl: args.ttl }));
    ExitCode::SUCCESS
}

/// A name of its own: by default a token takes over from itself only.
fn new_sub(role: Role) -> String {
    let mut random = [0; 4];
    // Without randomness there would have been no key either.
    let _ = rand::fill(&mut random);
    format!("{}-{}", role.name(), auth::hex(&random))
}

pub fn parse_room(text: &str) -> Result<String, String> {
    if auth::is_room_name(text) {
        Ok(text.to_owned())
    } else {
        Err("a room's name is 1 to 64 characters of A-Z a-z 0-9 _ -".to_owned())
    }
}

const YEAR_SECONDS: u64 = 366 * 86_400;

/// `90s`, `15m`, `1h`, `7d`, or several of them: `1h30m`.
pub fn parse_ttl(text: &str) -> Result<Duration, String> {
    let teach = || format!("\"{text}\" is no time: write 90s, 15m, 1h, 7d or 1h30m");
    let mut seconds: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|character: char| !character.is_ascii_digit()).ok_or_else(teach)?;
        let (number, tail) = rest.split_at(digits);
        let mut units = tail.chars();
        let unit = match units.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3_600,
            Some('d') => 86_400,
            _ => return Err(teach()),
        };
        let number: u64 = number.parse().map_err(|_| teach())?;
        seconds = number.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or_else(teach)?;
        rest = units.as_str();
    }
    match seconds {
        0 => Err(format!("\"{text}\" is no time at all: write 1h or so")),
        1..=YEAR_SECONDS => Ok(Duration::from_secs(seconds)),
        _ => Err(format!("\"{text}\" is longer than a year")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ttl_of_one_unit_and_of_several() {
        for (text, seconds) in [("90s", 90), ("15m", 900), ("1h", 3_600), ("7d", 604_800), ("1h30m", 5_400)] {
            assert_eq!(parse_ttl(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
    }

    #[test]
    fn ttl_that_is_none_is_refused_with_an_example() {
        for text in ["", "h", "1", "1x", "-1h", "1.5h", "1h30", "0s", "2y", "367d", "99999999999999999999h", "1µ"] {
            assert!(parse_ttl(text).is_err(), "{text}");
        }
        assert!(parse_ttl("1").unwrap_err().contains("1h30m"));
        assert!(parse_ttl("366d").is_ok());
    }
}
