//! A node behind a door: joins of viewers are let through one at a time, and each takes as long as is said. Everything else
//! passes as it comes. Media does not come by here.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

const REQUEST_BYTES_MAX: usize = 64 * 1_024;

/// Ends with the test's process: its thread waits for the next request.
pub struct SlowServer {
    pub base: String,
}

impl SlowServer {
    /// `base`: the node's, as http://127.0.0.1:7080.
    pub fn before(base: &str, each: Duration) -> SlowServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let own = format!("http://{}", listener.local_addr().expect("a port"));
        let node = base.trim_start_matches("http://").to_owned();
        let door = Arc::new(Mutex::new(()));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (node, door) = (node.clone(), Arc::clone(&door));
                // A client that goes away is nobody's failure.
                thread::spawn(move || drop(pass(client, &node, &door, each)));
            }
        });
        SlowServer { base: own }
    }
}

/// One request and its answer; then the connection is closed.
fn pass(mut client: TcpStream, node: &str, door: &Mutex<()>, each: Duration) -> std::io::Result<()> {
    let request = read_request(&mut client)?;
    let is_join = request.starts_with(b"POST /whep/");
    let _alone = is_join.then(|| door.lock().unwrap_or_else(PoisonError::into_inner));
    let answer = ask(node, &request)?;
    if is_join {
        // Its turn takes so long, whatever it waited for before: this server is slow, not this test.
        thread::sleep(each);
    }
    client.write_all(&closing(&answer))
}

fn ask(node: &str, request: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut upstream = TcpStream::connect(node)?;
    upstream.write_all(&closing(request))?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// The same message, after which the connection ends (RFC 9112 section 9.6).
fn closing(message: &[u8]) -> Vec<u8> {
    let line = message.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    [&message[..line], b"connection: close\r\n", &message[line..]].concat()
}

fn read_request(client: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let (mut request, mut bytes) = (Vec::new(), [0; 4_096]);
    loop {
        let count = client.read(&mut bytes)?;
        request.extend_from_slice(&bytes[..count]);
        if count == 0 || request.len() > REQUEST_BYTES_MAX {
            return Err(std::io::Error::other("half a request"));
        }
        let text = String::from_utf8_lossy(&request).to_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0_usize) {
            return Ok(request);
        }
    }
}
