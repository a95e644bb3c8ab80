//! `spillway node`, and `spillway health` for scripts and containers.

use crate::cli::Exit;
use crate::cli::client::{self, Api, ApiArgs};
use crate::cli::show::{self, Painted, bitrate, bytes, card, percent, span, string};
use clap::Args;
use serde_json::Value;
use std::process::ExitCode;

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway node
  spillway node --server http://10.0.0.5:7080 --token $KEY --json | jq .used.viewers")]
pub struct NodeArgs {
    #[command(flatten)]
    api: ApiArgs,
}

#[derive(Args, Clone, Debug)]
#[command(after_help = "Examples:
  spillway health && echo it works                   exit code 0: it works; 1: it does not; 5: no node runs
  HEALTHCHECK CMD spillway health --server http://127.0.0.1:7080        in a Dockerfile")]
pub struct HealthArgs {
    #[command(flatten)]
    api: ApiArgs,
}

pub fn card_of(node: &Value) -> Painted {
    let shards = node["shards"].as_array().map_or(0, Vec::len);
    let engine = match node["engine"].as_str() {
        Some("uring") => "io_uring".to_owned(),
        Some("socket") => "plain sockets".to_owned(),
        Some("frames") => "frames".to_owned(),
        Some(other) => other.to_owned(),
        None => "none just now: it is being started again".to_owned(),
    };
    let candidates = node["candidates"].as_array().into_iter().flatten().map(string).collect::<Vec<_>>().join(", ");
    let mut facts = vec![
        ("node", string(&node["id"])),
        ("version", string(&node["version"])),
        ("up for", span(node["uptime_seconds"].as_u64().unwrap_or(0))),
        ("engine", format!("{engine}, {shards} shard{}", if shards == 1 { "" } else { "s" })),
        ("candidates", candidates),
        ("streams", string(&node["streams"])),
        ("publishers", string(&node["used"]["publishers"])),
        ("viewers", string(&node["used"]["viewers"])),
        ("egress", bitrate(&node["egress_bps"])),
        ("memory", bytes(&node["memory_bytes"])),
    ];
    if let Some(left) = node["capacity"]["viewers_left"].as_u64() {
        let end = match node["capacity"]["limited_by"].as_str().unwrap_or("-") {
            "shards" => "its shards have no more time",
            "egress" => "its egress is used up",
            "viewers" => "its limit of viewers is reached",
            "sessions" => "its tables are full",
            // Of a later version.
            other => other,
        };
        facts.push(("capacity", format!("about {left} more viewers, then {end}")));
    }
    for (number, shard) in node["shards"].as_array().into_iter().flatten().enumerate() {
        let busy = if shard["busy_ratio"].is_number() { format!(", {} busy", percent(&shard["busy_ratio"])) } else { String::new() };
        facts.push(("shard", format!("{number}: {} sessions, {} packets sent{busy}", shard["sessions"], shard["packets_sent"])));
    }
    card(&facts)
}

pub fn run(args: NodeArgs) -> ExitCode {
    client::run(&args.api, |server| server.get("/v1/node"), card_of)
}

fn health_line(health: &Value) -> Painted {
    show::line(format!(
        "{}, {} streams, {} of {} MB, up for {}",
        string(&health["status"]),
        health["activeStreams"],
        health["memory"]["used"],
        health["memory"]["total"],
        span(health["uptime"].as_f64().unwrap_or(0.0) as u64)
    ))
}

pub fn health(args: HealthArgs) -> ExitCode {
    let asked = Api::find_anonymous(&args.api).and_then(|server| server.ask_whole("GET", "/health", None));
    match asked {
        Ok((status, health)) if health["status"].is_string() => {
            show::print(args.api.json, &health, health_line);
            if status == 200 { ExitCode::SUCCESS } else { Exit::Failed.into() }
        }
        Ok((status, _)) => {
            let error = client::ApiError::Answer("the server".to_owned(), format!("GET /health was answered with {status}"));
            client::failed(&args.api, &error)
        }
        Err(error) => client::failed(&args.api, &error),
    }
}
