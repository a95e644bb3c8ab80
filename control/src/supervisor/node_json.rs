//! `DATA/node.json`: what runs here, for scripts and for `stop` and `restart`.
//!
//! A pid in it is always a ready process: a child that died, or is not ready yet, stands as `null`.
//! Replaced as a whole (temporary file, rename), so that nobody reads half of it.

use crate::data_dir::DataDir;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeJson {
    pub version: String,
    /// host:port
    pub http: String,
    /// host:port of the first media address
    pub media: String,
    pub supervisor_pid: u32,
    pub control_pid: Option<u32>,
    pub engine_pid: Option<u32>,
    /// `uring` or `socket`
    pub io: String,
    /// Segments per send, 0 = off
    pub gso: u32,
    pub shards: usize,
}

impl NodeJson {
    pub fn write(&self, data: &DataDir) -> io::Result<()> {
        let path = data.node_json();
        let aside = path.with_extension("json.new");
        let mut text = serde_json::to_string_pretty(self)?;
        text.push('\n');
        fs::write(&aside, text)?;
        fs::rename(&aside, &path)
    }

    /// `None`: no node is ready here.
    pub fn read(data: &DataDir) -> Option<NodeJson> {
        serde_json::from_slice(&fs::read(data.node_json()).ok()?).ok()
    }

    pub fn remove(data: &DataDir) {
        let _ = fs::remove_file(data.node_json());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::Scratch;

    #[test]
    fn has_exactly_the_promised_keys_and_comes_back_whole() {
        let scratch = Scratch::new();
        let data = DataDir::open(&scratch.0).unwrap();
        assert_eq!(NodeJson::read(&data), None);
        let node = NodeJson {
            version: "0.1.0".into(),
            http: "127.0.0.1:7080".into(),
            media: "127.0.0.1:7081".into(),
            supervisor_pid: 1,
            control_pid: Some(2),
            engine_pid: None,
            io: "uring".into(),
            gso: 64,
            shards: 2,
        };
        node.write(&data).unwrap();
        assert_eq!(NodeJson::read(&data), Some(node));
        let json: serde_json::Value = serde_json::from_slice(&fs::read(data.node_json()).unwrap()).unwrap();
        let mut keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        assert_eq!(
            keys,
            ["control_pid", "engine_pid", "gso", "http", "io", "media", "shards", "supervisor_pid", "version"]
        );
        assert!(json["engine_pid"].is_null(), "a process that is not ready has no pid here");
        NodeJson::remove(&data);
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 0, "nothing stays behind");
    }
}
