//! Somebody who gets webhooks: writes down what comes, and answers as each path says, well or badly. What is written down
//! outlives the receiver: a node that tries again finds it where it was.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// One POST, as it came.
#[derive(Clone, Debug)]
pub struct Came {
    pub path: String,
    /// Names in small letters.
    pub headers: HashMap<String, String>,
    pub body: String,
    pub at: Instant,
}

impl Came {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Ends with the test's process, or when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    came: Arc<Mutex<Vec<Came>>>,
    is_over: Arc<AtomicBool>,
}

impl Receiver {
    pub fn start() -> Receiver {
        Receiver::start_on(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    pub fn start_on(address: SocketAddr) -> Receiver {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("a port");
        let (came, is_over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let receiver = Receiver { address, came: Arc::clone(&came), is_over: Arc::clone(&is_over) };
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if is_over.load(Ordering::Relaxed) {
                    return;
                }
                let (came, is_over) = (Arc::clone(&came), Arc::clone(&is_over));
                // A client that goes away is nobody's failure.
                thread::spawn(move || drop(answer(client, &came, &is_over)));
            }
        });
        receiver
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What came to a path so far.
    pub fn came(&self, path: &str) -> Vec<Came> {
        let came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        came.iter().filter(|one| one.path == path).cloned().collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        // The one that lets it see so.
        let _ = TcpStream::connect(self.address);
    }
}

fn answer(client: TcpStream, came: &Mutex<Vec<Came>>, is_over: &AtomicBool) -> std::io::Result<()> {
    let mut reader = BufReader::new(client);
    let (mut first, mut line, mut headers) = (String::new(), String::new(), HashMap::new());
    reader.read_line(&mut first)?;
    while reader.read_line(&mut line)? > 2 {
        if let Some((name, value)) = line.trim_end().split_once(": ") {
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        line.clear();
    }
    let length = headers.get("content-length").and_then(|text: &String| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let body = String::from_utf8_lossy(&body).into_owned();
    let before = {
        let mut all = came.lock().unwrap_or_else(PoisonError::into_inner);
        let before = all.iter().filter(|one| one.path == path).count();
        all.push(Came { path: path.clone(), headers, body, at: Instant::now() });
        before
    };
    let client = reader.get_mut();
    let mut say = |text: &str| client.write_all(text.as_bytes());
    match path.as_str() {
        "/flaky" if before == 0 => say("HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n"),
        "/gone" => say("HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n"),
        "/redirect" => say("HTTP/1.1 307 Elsewhere\r\nLocation: /secret\r\nContent-Length: 0\r\n\r\n"),
        "/nonsense" => say("220 mail.example.org ESMTP\r\n"),
        "/long" => say(&format!("HTTP/1.1 200 OK\r\n{}", "x-padding: 0123456789\r\n".repeat(50_000))),
        "/huge" => {
            say("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            let chunk = format!("10000\r\n{}\r\n", "x".repeat(65_536));
            while !is_over.load(Ordering::Relaxed) {
                say(&chunk)?;
            }
            Ok(())
        }
        "/crawl" => {
            // A byte of the head now and then, for ever.
            while !is_over.load(Ordering::Relaxed) {
                say("H")?;
                thread::sleep(Duration::from_millis(200));
            }
            Ok(())
        }
        "/hang" => {
            while !is_over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        }
        _ => say("HTTP/1.1 204 Taken\r\n\r\n"),
    }
}
