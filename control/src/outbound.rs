//! HTTP to others: webhooks, and the backend that knows foreign tokens. One request per connection, bounded in time and
//! bytes; never a redirect, never a proxy, and never an address that was not looked at just before.
//!
//! ```text
//!    name -> addresses (resolver) -> those that may be reached -> connect to exactly these -> TLS by the name -> one POST
//! ```
//!
//! A name that leads to another address a moment later (DNS rebinding) gains nothing by it.

use axum::body::Bytes;
use axum::http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

pub const URL_CHARS_MAX: usize = 2_048;
/// The head of an answer: more is no answer to us.
const HEAD_BYTES_MAX: usize = 16 * 1_024;
const HEADERS_MAX: usize = 64;
/// Of one name; one that leads to more is looked at no further.
const ADDRESSES_MAX: usize = 16;
/// One address that does not answer leaves time for the next.
const CONNECT_WAIT: Duration = Duration::from_secs(3);

/// Where a request goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    is_tls: bool,
    /// Without brackets.
    host: String,
    port: u16,
    /// As the header Host has it.
    authority: String,
    path: String,
}

/// Which addresses may be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    pub loopback: bool,
    pub private: bool,
    /// Link-local as well: what the operator himself has written down.
    pub anywhere: bool,
}

#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub retry_after_seconds: Option<u64>,
    pub body: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    #[error("the name {0} leads nowhere: {1}")]
    Name(String, io::Error),
    #[error("{name} leads to {address}, which is {what}; such addresses are not called{advice}", advice = advice(.what))]
    Forbidden { name: String, address: IpAddr, what: &'static str },
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("TLS failed: {0}")]
    Tls(io::Error),
    #[error("no HTTP came back: {0}")]
    Protocol(String),
    #[error("the answer's body is longer than {0} bytes")]
    TooLong(usize),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

fn advice(what: &str) -> &'static str {
    match what {
        "private" | "loopback" => " unless webhooks.allow_private is true",
        _ => "",
    }
}

impl Target {
    /// The text says what a URL must be like.
    pub fn parse(url: &str) -> Result<Target, String> {
        let wrong = |what: &str| Err(format!("must be http://HOST/PATH or https://HOST/PATH: {what}"));
        if url.len() > URL_CHARS_MAX {
            return wrong(&format!("longer than {URL_CHARS_MAX} characters"));
        }
        if url.contains('#') {
            return wrong("no #fragment");
        }
        let Ok(uri) = url.parse::<Uri>() else { return wrong("this is no URL") };
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return wrong("another scheme, or none"),
        };
        let Some(authority) = uri.authority().filter(|authority| !authority.as_str().contains('@')) else {
            return wrong("no user name or password");
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || authority.as_str().ends_with(':') {
            return wrong("no host");
        }
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None => if is_tls { 443 } else { 80 },
        };
        if port == 0 {
            return wrong("port 0");
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        // Of `http://x?y` it is the query alone, which is no request's target (RFC 9112 section 3.2.1).
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Target { is_tls, host, port, authority: authority.as_str().to_owned(), path })
    }

    /// An address instead of a name can be judged at once.
    pub fn forbidden(&self, reach: Reach) -> Option<OutboundError> {
        let address: IpAddr = self.host.parse().ok()?;
        forbidden(&self.host, address, reach)
    }
}

fn forbidden(name: &str, address: IpAddr, reach: Reach) -> Option<OutboundError> {
    let what = kind_of(address);
    let may = match what {
        "public" => true,
        "loopback" => reach.loopback || reach.private || reach.anywhere,
        "private" => reach.private || reach.anywhere,
        _ => reach.anywhere,
    };
    (!may).then(|| OutboundError::Forbidden { name: name.to_owned(), address, what })
}

/// By the registries of special-purpose addresses (RFC 6890 and its successors).
fn kind_of(address: IpAddr) -> &'static str {
    match address {
        IpAddr::V4(address) => kind_of_v4(address),
        IpAddr::V6(address) => kind_of_v6(address),
    }
}

fn kind_of_v4(address: Ipv4Addr) -> &'static str {
    let [a, b, c, _] = address.octets();
    match (a, b, c) {
        (127, _, _) => "loopback",
        // 100.64.0.0/10 is between a provider and its customers (RFC 6598), 198.18.0.0/15 for measurements (RFC 2544).
        (10, _, _) | (172, 16..=31, _) | (192, 168, _) | (100, 64..=127, _) | (198, 18..=19, _) => "private",
        // Clouds answer with credentials there.
        (169, 254, _) => "link-local",
        (0, _, _) => "unspecified",
        (224..=255, _, _) => "multicast or reserved",
        (192, 0, 0 | 2) | (198, 51, 100) | (203, 0, 113) => "reserved",
        _ => "public",
    }
}

fn kind_of_v6(address: Ipv6Addr) -> &'static str {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| {
        let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
        kind_of_v4(Ipv4Addr::new(a, b, c, d))
    };
    match (a, b, c, d, e, f) {
        _ if address.is_loopback() => "loopback",
        _ if address.is_unspecified() => "unspecified",
        // An IPv4 address in other clothes: mapped, compatible, translated (RFC 6052), 6to4.
        (0, 0, 0, 0, 0, 0xffff) | (0, 0, 0, 0, 0, 0) | (0x64, 0xff9b, 0, 0, 0, 0) => v4(g, h),
        (0x2002, ..) => v4(b, c),
        (0xfc00..=0xfdff, ..) | (0x64, 0xff9b, ..) => "private",
        (0xfe80..=0xfebf, ..) | (0xfec0..=0xfeff, ..) => "link-local",
        (0xff00..=0xffff, ..) => "multicast or reserved",
        // 2001::/23: Teredo and others with a purpose of their own; documentation.
        (0x2001, 0..=0x1ff, ..) | (0x2001, 0xdb8, ..) | (0x3fff, 0..=0xfff, ..) | (0x100, 0, 0, 0, ..) => "reserved",
        // All that is given out (2000::/3).
        (0x2000..=0x3fff, ..) => "public",
        _ => "reserved",
    }
}

/// The client. Cheap to have: certificates are read with the first https request.
#[derive(Default)]
pub struct Outbound {
    tls: OnceLock<Arc<ClientConfig>>,
}

impl Outbound {
    /// Whatever happens, it is over after `wait`. `body_max` 0: the answer's body is not read.
    pub async fn post(
        &self,
        target: &Target,
        reach: Reach,
        headers: &[(&str, String)],
        body: Bytes,
        wait: Duration,
        body_max: usize,
    ) -> Result<Answer, OutboundError> {
        let whole = async {
            let stream = connect(target, reach).await?;
            if !target.is_tls {
                return exchange(stream, target, headers, body, body_max).await;
            }
            let name = ServerName::try_from(target.host.clone());
            let name = name.map_err(|error| OutboundError::Tls(io::Error::other(error)))?;
            let tls = TlsConnector::from(self.tls()?).connect(name, stream).await.map_err(OutboundError::Tls)?;
            exchange(tls, target, headers, body, body_max).await
        };
        tokio::time::timeout(wait, whole).await.unwrap_or(Err(OutboundError::Timeout(wait)))
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, OutboundError> {
        if let Some(config) = self.tls.get() {
            return Ok(config.clone());
        }
        let mut roots = RootCertStore::empty();
        // One that cannot be read is one fewer to trust; without any every connection fails, and says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| OutboundError::Tls(io::Error::other(error)))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(self.tls.get_or_init(|| Arc::new(config)).clone())
    }
}

async fn connect(target: &Target, reach: Reach) -> Result<TcpStream, OutboundError> {
    let name = |error| OutboundError::Name(target.host.clone(), error);
    let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await.map_err(name)?;
    let mut failed = name(io::Error::other("it has no address"));
    for address in found.take(ADDRESSES_MAX) {
        if let Some(error) = forbidden(&target.host, address.ip(), reach) {
            failed = error;
            continue;
        }
        match tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // One request, written whole.
                let _ = stream.set_nodelay(true);
                return Ok(stream);
            }
            Ok(Err(error)) => failed = OutboundError::Connect(address, error),
            Err(_) => failed = OutboundError::Connect(address, io::ErrorKind::TimedOut.into()),
        }
    }
    Err(failed)
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    target: &Target,
    headers: &[(&str, String)],
    body: Bytes,
    body_max: usize,
) -> Result<Answer, OutboundError> {
    let protocol = |error: hyper::Error| OutboundError::Protocol(error.to_string());
    let mut request = Request::post(&target.path)
        .header(header::HOST, &target.authority)
        .header(header::USER_AGENT, concat!("spillway/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(body)).map_err(|error| OutboundError::Protocol(error.to_string()))?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(protocol)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(protocol)?;
        let (status, retry_after) = (response.status(), response.headers().get(header::RETRY_AFTER));
        let retry_after_seconds = retry_after.and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let body = match body_max {
            0 => Bytes::new(),
            _ => match Limited::new(response.into_body(), body_max).collect().await {
                Ok(body) => body.to_bytes(),
                Err(_) => return Err(OutboundError::TooLong(body_max)),
            },
        };
        Ok(Answer { status, retry_after_seconds, body })
    };
    // Both go on here: when this future is dropped, so is the connection.
    tokio::pin!(answer, connection);
    let mut is_over = false;
    loop {
        tokio::select! {
            biased;
            answer = &mut answer => return answer,
            // What came before the end is still given to `answer`.
            _ = &mut connection, if !is_over => is_over = true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_addresses_are_told_apart_in_every_disguise() {
        let kind = |text: &str| kind_of(text.parse().unwrap());
        for public in ["1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.0", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert_eq!(kind(public), "public", "{public}");
        }
        for loopback in ["127.0.0.1", "127.255.0.3", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "::127.0.0.1"] {
            assert_eq!(kind(loopback), "loopback", "{loopback}");
        }
        for private in ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "100.64.0.1", "fd00::1", "::ffff:10.1.1.1", "2002:c0a8:101::1"] {
            assert_eq!(kind(private), "private", "{private}");
        }
        for local in ["169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"] {
            assert_eq!(kind(local), "link-local", "{local}");
        }
        for other in ["0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "240.0.0.1", "ff02::1", "2001:db8::1", "2001::1", "203.0.113.1", "4000::1"] {
            assert!(!["public", "private", "loopback", "link-local"].contains(&kind(other)), "{other}");
        }
        let all = Reach { loopback: true, private: true, anywhere: false };
        assert!(forbidden("x", "169.254.169.254".parse().unwrap(), all).is_some(), "metadata is never called");
        assert!(forbidden("x", "127.0.0.1".parse().unwrap(), Reach::default()).is_some());
        assert!(forbidden("x", "127.0.0.1".parse().unwrap(), Reach { loopback: true, ..Reach::default() }).is_none());
    }

    #[test]
    fn only_plain_urls_are_targets() {
        let target = Target::parse("https://hooks.example.org/in?x=1").unwrap();
        assert_eq!((target.is_tls, &*target.host, target.port, &*target.path), (true, "hooks.example.org", 443, "/in?x=1"));
        let target = Target::parse("http://[::1]:8080").unwrap();
        assert_eq!((&*target.host, target.port, &*target.path, &*target.authority), ("::1", 8080, "/", "[::1]:8080"));
        for wrong in ["", "example.org", "ftp://x/", "http://", "http:///x", "http://a:b@c/", "https://x/#y", "http://x:0/", "/x", "http://x:/"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
        assert!(Target::parse(&format!("http://x/{}", "y".repeat(URL_CHARS_MAX))).is_err());
    }

    #[test]
    fn torture_urls_of_any_text_are_refused_or_whole() {
        let mut number = 7u64;
        let parts = ["http://", "https://", "[", "]", ":", "/", "@", "#", "?", "%", "::1", "0", "99999", "x", "é", "\0", ".", "\\", " "];
        for _ in 0..50_000 {
            let mut text = String::new();
            for _ in 0..number >> 32 & 7 {
                number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                text += parts[(number >> 40) as usize % parts.len()];
            }
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if let Ok(target) = Target::parse(&text) {
                assert!(!target.host.is_empty() && target.port > 0 && target.path.starts_with('/'), "{text}: {target:?}");
            }
        }
    }

    #[tokio::test]
    async fn an_address_in_disguise_is_refused_where_it_is_connected() {
        // Old spellings of 127.0.0.1 that the resolver understands, and a name that leads there.
        for url in ["http://127.1:9/", "http://0x7f.1:9/", "http://2130706433:9/", "http://localhost:9/", "http://[::ffff:127.0.0.1]:9/"] {
            let target = Target::parse(url).unwrap();
            let wait = Duration::from_secs(5);
            let error = Outbound::default().post(&target, Reach::default(), &[], Bytes::new(), wait, 0).await.unwrap_err();
            assert!(matches!(error, OutboundError::Forbidden { what: "loopback", .. }), "{url}: {error}");
        }
    }
}
