//! Whether media finds its way: every candidate that remotes are told is sent a real check, with the credentials of a
//! real session where a node runs, and a datagram to a socket of our own where none does.

use super::{Finding, Running, machine, split_fix};
use crate::auth::Role;
use crate::cli::remote::{Offered, RemoteError, Server, ServerArgs};
use crate::config::Settings;
use crate::policy::candidates::candidates;
use crate::shm;
use crate::supervisor::media::{MediaGroup, bind_http};
use spillway_proto::wire::stun;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

/// The room the doctor publishes nothing in.
const ROOM: &str = "spillway-doctor";
const TRIES: u32 = 5;
const TRY_WAIT: Duration = Duration::from_millis(200);
/// As a host's only interface has it (RFC 8445 section 5.1.2); nobody compares it here.
const PRIORITY: u32 = 2_130_706_431;

fn own_addresses() -> Vec<IpAddr> {
    let found = shm::interface_addresses().unwrap_or_default();
    found.iter().map(|interface| interface.ip).collect()
}

pub fn of_node(running: &Running) -> Vec<Finding> {
    let args = ServerArgs { data: running.data.path().to_owned(), server: None, token: None };
    let offered = Server::find(&args, ROOM, Role::Publish).and_then(|server| {
        let offered = Offered::publisher(&server, &format!("/whip/{ROOM}"))?;
        let findings = check_all(&offered);
        server.delete(&offered.location);
        Ok(findings)
    });
    offered.unwrap_or_else(|error| vec![not_asked(&error)])
}

fn not_asked(error: &RemoteError) -> Finding {
    match error {
        RemoteError::Refused { status: 503 | 429 | 403, title, .. } => Finding::warning(
            "ice",
            format!("no candidate could be checked: the node takes no publisher just now ({title})"),
            "run this again when it has room",
        ),
        error => {
            let (says, fix) = split_fix(&error.to_string());
            Finding::fault("ice", format!("no session can be made: {says}"), fix)
        }
    }
}

fn check_all(offered: &Offered) -> Vec<Finding> {
    let own = own_addresses();
    let targets: Vec<SocketAddr> = offered
        .answer
        .candidates
        .iter()
        .filter(|candidate| candidate.udp)
        .filter_map(|candidate| Some(SocketAddr::new(candidate.address?, candidate.port)))
        .collect();
    if targets.is_empty() {
        let fix = "spillway serve --announce IP, with the address that others reach";
        return vec![Finding::fault("ice", "remotes are told no address to send media to", fix)];
    }
    let mut findings: Vec<Finding> = targets.iter().map(|target| verdict(*target, &own, check(*target, offered))).collect();
    if targets.iter().all(|target| target.ip().is_loopback()) {
        findings.push(Finding::ok("ice", "loopback only: browsers on other machines cannot watch (see serve --media)"));
    }
    findings
}

/// One that is ours must answer. One that is not stands on a router in front, and many do not lead back inside.
fn verdict(target: SocketAddr, own: &[IpAddr], answered: Result<Duration, String>) -> Finding {
    match answered {
        Ok(after) => Finding::ok("ice", format!("{target}/udp answers checks ({:.1} ms)", after.as_secs_f64() * 1_000.0)),
        Err(why) if own.contains(&target.ip()) || target.ip().is_loopback() => Finding::fault(
            "ice",
            format!("{target}/udp is told to remotes and does not answer here: {why}"),
            format!("let it in: nft add rule inet filter input udp dport {} accept", target.port()),
        ),
        Err(why) => Finding::warning(
            "ice",
            format!("{target}/udp does not answer from here ({why}); routers often do not lead their own address back inside"),
            format!("from another network: spillway play ROOM --server URL --token TOKEN; else forward {}/udp to this machine", target.port()),
        ),
    }
}

fn any_for(target: SocketAddr) -> SocketAddr {
    if target.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() }
}

/// A check as a browser sends it: signed, and so must be its answer (RFC 8445 section 7.2).
fn check(target: SocketAddr, offered: &Offered) -> Result<Duration, String> {
    let failed = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind(any_for(target)).map_err(failed)?;
    socket.connect(target).map_err(failed)?;
    socket.set_read_timeout(Some(TRY_WAIT)).map_err(failed)?;
    let name = format!("{}:{}", offered.answer.ice_ufrag, offered.ufrag);
    let pwd = offered.answer.ice_pwd.as_bytes();
    let mut refused = "nothing came back".to_owned();
    let mut buffer = [0; 1_500];
    for number in 0..TRIES {
        let mut transaction = [0; 12];
        let _ = aws_lc_rs::rand::fill(&mut transaction);
        let length = stun::write_request(&mut buffer, &transaction, &name, pwd, PRIORITY, u64::from(number) + 1, false);
        let request = length.and_then(|length| buffer.get(..length)).ok_or("a check does not fit")?;
        let began = Instant::now();
        if let Err(error) = socket.send(request) {
            // ECONNREFUSED is what an earlier one brought: the port is closed.
            refused = error.to_string();
            std::thread::sleep(TRY_WAIT);
            continue;
        }
        match socket.recv(&mut buffer).map(|length| buffer.get(..length).unwrap_or_default()) {
            Ok(datagram) => match stun::parse(datagram) {
                Ok(stun::Message::Success(success)) if success.transaction == transaction && success.verify(pwd) => {
                    return Ok(began.elapsed());
                }
                _ => refused = "something else than a Spillway answers".to_owned(),
            },
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(error) => refused = error.to_string(),
        }
    }
    Err(refused)
}

/// Nobody serves: whether the ports are free, and whether a datagram to each address that would be told arrives.
pub fn without_node(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let taken = |text: &str| {
        let (says, fix) = split_fix(text);
        Finding::fault("ports", says, fix)
    };
    match bind_http(settings.http) {
        Ok(_) => findings.push(Finding::ok("ports", format!("{}/tcp is free for HTTP", settings.http))),
        Err(error) => findings.push(taken(&error.to_string())),
    }
    let mut groups = Vec::new();
    for address in &settings.media {
        match MediaGroup::bind(*address, 1) {
            Ok(group) => {
                findings.push(Finding::ok("ports", format!("{address}/udp is free for media")));
                groups.push(group);
            }
            Err(error) => findings.push(taken(&error.to_string())),
        }
    }
    findings.extend(groups.iter().map(|group| group.buffer_bytes).min().map(machine::buffers));
    let bound: Vec<SocketAddr> = groups.iter().map(|group| group.address).collect();
    let interfaces = shm::interface_addresses().unwrap_or_default();
    let targets = candidates(&bound, &settings.announce, &interfaces);
    if targets.is_empty() && !bound.is_empty() {
        let fix = "spillway serve --announce IP, with the address that others reach";
        findings.push(Finding::fault("ice", "no address that others can reach was found", fix));
    }
    let sockets: Vec<UdpSocket> = groups.into_iter().flat_map(|group| group.sockets).map(UdpSocket::from).collect();
    let own = own_addresses();
    findings.extend(targets.iter().map(|target| {
        let arrived = arrives(*target, &sockets);
        let Finding { level, says, fix, .. } = verdict(*target, &own, arrived);
        // No engine answered: a socket of ours stood in for it, and this is no more than it is.
        let says = says.replace("answers checks", "is reached from here; no node runs, a socket of the doctor's stood in for it");
        Finding { check: "ice", level, says, fix }
    }));
    findings
}

fn arrives(target: SocketAddr, sockets: &[UdpSocket]) -> Result<Duration, String> {
    let failed = |error: std::io::Error| error.to_string();
    let socket = UdpSocket::bind(any_for(target)).map_err(failed)?;
    let mut mark = [0; 16];
    let _ = aws_lc_rs::rand::fill(&mut mark);
    let mut buffer = [0; 64];
    for _ in 0..TRIES {
        let began = Instant::now();
        socket.send_to(&mark, target).map_err(failed)?;
        while began.elapsed() < TRY_WAIT {
            for listening in sockets {
                if listening.recv(&mut buffer).is_ok_and(|length| buffer.get(..length) == Some(&mark[..])) {
                    return Ok(began.elapsed());
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Err("nothing arrived".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Level;

    #[test]
    fn silence_is_a_fault_on_our_own_address_and_a_warning_on_a_routers() {
        let own: [IpAddr; 1] = ["10.0.0.5".parse().unwrap()];
        let silent = || Err("nothing came back".to_owned());
        let ours = verdict("10.0.0.5:7081".parse().unwrap(), &own, silent());
        assert_eq!(ours.level, Level::Fault);
        assert!(ours.fix.unwrap().contains("udp dport 7081 accept"));
        assert_eq!(verdict("203.0.113.5:7081".parse().unwrap(), &own, silent()).level, Level::Warning);
        assert_eq!(verdict("203.0.113.5:7081".parse().unwrap(), &own, Ok(Duration::ZERO)).level, Level::Ok);
    }

    #[test]
    fn a_datagram_to_a_bound_socket_arrives_and_one_to_a_closed_port_does_not() {
        let bound = UdpSocket::bind("127.0.0.1:0").unwrap();
        bound.set_nonblocking(true).unwrap();
        let target = bound.local_addr().unwrap();
        let sockets = [bound];
        assert!(arrives(target, &sockets).is_ok());
        assert!(arrives(target, &[]).is_err());
    }
}
