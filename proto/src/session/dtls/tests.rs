//! Goal: two of ours connect whatever the wire does, and only with the certificate that was promised. Method: both ends in
//! one process, in virtual time, over a wire that does what a test says with each datagram.

use super::*;
use crate::session::reassembler::tests::fragment;
use crate::session::srtp::{Opener, Sealer};

/// Two of ours over a wire that does what a test says with each datagram.
struct Wire {
    ends: [Dtls; 2],
    keys: [Option<SrtpKeys>; 2],
    closed: [bool; 2],
    now: Time,
    sent: usize,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

fn ends_expecting(expected: [Option<Fingerprint>; 2]) -> Wire {
    let (client, server) = (Identity::new().unwrap(), Identity::new().unwrap());
    let (now, anchor) = (Time::from_millis(77), Instant::now());
    let end = |identity: &Identity, role, expected| Dtls::new(identity, role, expected, now, anchor).unwrap();
    Wire {
        ends: [
            end(&client, DtlsRole::Client, expected[CLIENT].unwrap_or(server.fingerprint())),
            end(&server, DtlsRole::Server, expected[SERVER].unwrap_or(client.fingerprint())),
        ],
        keys: [None; 2],
        closed: [false; 2],
        now,
        sent: 0,
    }
}

fn wire() -> Wire {
    ends_expecting([None, None])
}

impl Wire {
    /// Everything `end` has to say now, and when it wants to be asked again.
    fn poll(&mut self, end: usize) -> Result<(Vec<Vec<u8>>, Time), DtlsError> {
        let mut datagrams = Vec::new();
        let mut out = [0; DTLS_DATAGRAM_MAX];
        loop {
            match self.ends[end].poll(self.now, &mut out)? {
                DtlsOutput::Datagram(length) => datagrams.push(out[..length].to_vec()),
                DtlsOutput::Connected(keys) => {
                    assert!(self.keys[end].replace(keys).is_none(), "once");
                }
                DtlsOutput::Closed => self.closed[end] = true,
                DtlsOutput::Wait(time) => return Ok((datagrams, time)),
            }
        }
    }

    /// Runs until both are connected and silent. `change` makes of each datagram what arrives.
    fn run(&mut self, mut change: impl FnMut(usize, Vec<u8>) -> Vec<Vec<u8>>) -> Result<(), DtlsError> {
        for _ in 0..1_000 {
            let mut next = Time::NEVER;
            let mut moved = false;
            for end in [CLIENT, SERVER] {
                let (datagrams, wait) = self.poll(end)?;
                next = next.min(wait);
                for datagram in datagrams {
                    moved = true;
                    let number = self.sent;
                    self.sent += 1;
                    for arriving in change(number, datagram) {
                        self.ends[1 - end].handle_datagram(self.now, &arriving)?;
                    }
                }
            }
            if !moved {
                if self.keys.iter().all(Option::is_some) {
                    return Ok(());
                }
                assert_ne!(next, Time::NEVER, "both wait for ever");
                assert!(next > self.now);
                self.now = next;
            }
        }
        panic!("the handshake does not end");
    }

    fn assert_keys_match(&self) {
        let [client, server] = self.keys.map(|keys| keys.unwrap());
        assert_eq!(client.profile, server.profile);
        for (sender, receiver) in [(client, server), (server, client)] {
            let sealer = Sealer::new(sender.profile, &sender.send);
            let mut opener = Opener::new(receiver.profile, &receiver.receive);
            let mut out = [0; 64];
            let header = [0x80, 96, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9];
            let length = sealer.seal_into(&header, &[], b"hello", 1, &mut out).unwrap();
            assert!(opener.open_rtp(&mut out[..length]).is_ok());
        }
    }
}

#[test]
fn two_of_ours_agree_on_aes_256_gcm() {
    let mut wire = wire();
    wire.run(|_, datagram| vec![datagram]).unwrap();
    wire.assert_keys_match();
    assert_eq!(wire.keys[SERVER].unwrap().profile, Profile::AeadAes256Gcm);
    assert_eq!(wire.now, Time::from_millis(77), "no timer was needed");
}

#[test]
fn any_lost_datagram_costs_a_timer_and_no_more() {
    let mut whole = wire();
    whole.run(|_, datagram| vec![datagram]).unwrap();
    assert_eq!(whole.sent, 4, "four flights of one datagram each");
    for lost in 0..whole.sent {
        let mut wire = wire();
        wire.run(|number, datagram| if number == lost { vec![] } else { vec![datagram] }).unwrap();
        wire.assert_keys_match();
        let took = wire.now.since(Time::from_millis(77));
        assert!(took < Duration::from_millis(400), "datagram {lost} cost {took:?}");
    }
}

#[test]
fn it_connects_through_heavy_loss_doubling_and_fragments_of_any_size() {
    let mut rng = crate::rng::Rng::new(3);
    for _ in 0..20 {
        let mut wire = wire();
        wire.run(|_, datagram| match rng.below(6) {
            0 => vec![],
            1 => vec![datagram.clone(), datagram],
            _ => split_handshake(&datagram, 60 + rng.below(500) as usize, &mut rng),
        })
        .unwrap();
        wire.assert_keys_match();
    }
}

/// Each datagram takes its own time, so that flights mix; some are lost, copied or cut in pieces. What both ends
/// have to take here is the same, whoever is the client.
#[test]
fn it_connects_through_a_network_that_reorders_everything() {
    let mut rng = crate::rng::Rng::new(11);
    for round in 0..60 {
        let mut wire = wire();
        let begin = wire.now;
        let mut under_way: Vec<(Time, usize, Vec<u8>)> = Vec::new();
        while wire.keys.iter().any(Option::is_none) {
            assert!(wire.now.since(begin) < HANDSHAKE_EXPIRY, "round {round}");
            let mut next = Time::NEVER;
            for end in [CLIENT, SERVER] {
                let (datagrams, wait) = wire.poll(end).unwrap();
                next = next.min(wait);
                for datagram in datagrams {
                    let arriving = match rng.below(8) {
                        0 => vec![],
                        1 | 2 => vec![datagram.clone(), datagram],
                        _ => split_handshake(&datagram, 100 + rng.below(400) as usize, &mut rng),
                    };
                    for datagram in arriving {
                        let delay = Duration::from_millis(rng.below(250));
                        under_way.push((wire.now + delay, 1 - end, datagram));
                    }
                }
            }
            let first = under_way.iter().map(|(at, ..)| *at).min().unwrap_or(Time::NEVER);
            wire.now = first.min(next).max(wire.now);
            let now = wire.now;
            for (_, to, datagram) in under_way.extract_if(.., |(at, ..)| *at <= now) {
                wire.ends[to].handle_datagram(now, &datagram).unwrap();
            }
        }
        wire.assert_keys_match();
    }
}

/// Which end still owes something when copies arrive late: RFC 6347 section 4.2.4 lets only the side that sent
/// the last flight answer, and in a full handshake of 1.2 that is the server.
#[test]
fn late_copies_make_only_the_server_repeat_itself() {
    let mut wire = wire();
    let mut said: [Vec<Vec<u8>>; 2] = [Vec::new(), Vec::new()];
    let mut number = 0;
    wire.run(|_, datagram| {
        // Four flights, by turns; the client's are the even ones.
        said[number % 2].push(datagram.clone());
        number += 1;
        vec![datagram]
    })
    .unwrap();
    assert_eq!((said[CLIENT].len(), said[SERVER].len()), (2, 2));
    let keys = wire.keys;
    for _ in 0..3 {
        wire.now = wire.now + Duration::from_millis(700);
        for datagram in &said[SERVER] {
            wire.ends[CLIENT].handle_datagram(wire.now, datagram).unwrap();
            assert!(wire.poll(CLIENT).unwrap().0.is_empty(), "the client's flight was answered, nothing is owed");
        }
        for datagram in &said[CLIENT] {
            wire.ends[SERVER].handle_datagram(wire.now, datagram).unwrap();
        }
        let (again, _) = wire.poll(SERVER).unwrap();
        assert!(again.len() == 1, "{} datagrams", again.len());
        assert_eq!(content_type(&again[0]), 20, "ChangeCipherSpec and Finished");
        wire.ends[CLIENT].handle_datagram(wire.now, &again[0]).unwrap();
        assert!(wire.poll(CLIENT).unwrap().0.is_empty());
    }
    assert!(wire.closed == [false, false]);
    assert!(keys.iter().all(Option::is_some) && wire.ends[CLIENT].last_flight().is_empty());
}

/// Each plain handshake message of a datagram in pieces, in datagrams of their own, shuffled.
fn split_handshake(datagram: &[u8], size: usize, rng: &mut crate::rng::Rng) -> Vec<Vec<u8>> {
    let mut datagrams = Vec::new();
    let mut rest = Vec::new();
    for record in Records(datagram).flatten() {
        if content_type(record) != CONTENT_HANDSHAKE || epoch(record) != 0 || record.len() < 25 + 2 * size {
            rest.extend_from_slice(record);
            continue;
        }
        let (header, body) = record.split_at(25);
        let base = u32::from_be_bytes([0, header[19], header[20], header[21]]) as usize;
        for from in (0..body.len()).step_by(size) {
            let piece = &body[from..(from + size).min(body.len())];
            let mut datagram = header.to_vec();
            datagram[11..13].copy_from_slice(&(12 + piece.len() as u16).to_be_bytes());
            datagram[19..22].copy_from_slice(&((base + from) as u32).to_be_bytes()[1..]);
            datagram[22..25].copy_from_slice(&(piece.len() as u32).to_be_bytes()[1..]);
            datagram.extend_from_slice(piece);
            datagrams.push(datagram);
        }
    }
    for i in (1..datagrams.len()).rev() {
        datagrams.swap(i, rng.below(i as u64 + 1) as usize);
    }
    if !rest.is_empty() {
        datagrams.push(rest);
    }
    datagrams
}

#[test]
fn a_client_hello_resplit_after_loss_is_answered() {
    let mut wire = wire();
    let (datagrams, _) = wire.poll(CLIENT).unwrap();
    let body = &datagrams[0][25..];
    let half = body.len() / 2;
    for (from, to) in [(0, half + 20), (0, half - 30), (half - 30, body.len())] {
        wire.ends[SERVER].handle_datagram(wire.now, &fragment(0, body, from, to)).unwrap();
    }
    let (answer, _) = wire.poll(SERVER).unwrap();
    assert!(!answer.is_empty());
}

#[test]
fn the_server_takes_gcm_whatever_the_client_prefers() {
    for (offered, chosen) in [
        ([1u8, 8, 7], 8),
        ([1, 7, 8], 8),
        ([1, 7, 7], 7),
        ([1, 1, 1], 1),
    ] {
        let mut wire = wire();
        let (mut datagrams, _) = wire.poll(CLIENT).unwrap();
        // use_srtp (14), its length, the list's length, three profiles, no MKI.
        let start = [0, 14, 0, 9, 0, 6];
        let at = datagrams[0].windows(6).position(|bytes| bytes == start).expect("use_srtp") + 6;
        for (place, profile) in offered.iter().enumerate() {
            datagrams[0][at + 2 * place + 1] = *profile;
        }
        wire.ends[SERVER].handle_datagram(wire.now, &datagrams[0]).unwrap();
        let answer = wire.poll(SERVER).unwrap().0.concat();
        let expected = [0, 14, 0, 5, 0, 2, 0, chosen, 0];
        assert!(answer.windows(9).any(|bytes| bytes == expected), "{offered:?}");
    }
}

/// Goal: every client is asked for ECDSA or RSA, in one datagram. Method: the flight itself, said again after loss.
#[test]
fn our_first_flight_asks_for_both_kinds_of_certificates_in_one_datagram() {
    // Types ecdsa_sign and rsa_sign, four algorithms, no authorities.
    let request = [2, 64, 1, 0, 8, 4, 3, 5, 3, 4, 1, 5, 1, 0, 0];
    let mut wire = wire();
    let (hello, _) = wire.poll(CLIENT).unwrap();
    wire.ends[SERVER].handle_datagram(wire.now, &hello[0]).unwrap();
    for _ in 0..4 {
        let (flight, next) = wire.poll(SERVER).unwrap();
        let [datagram] = &flight[..] else { panic!("{} datagrams", flight.len()) };
        assert!(datagram.len() <= DTLS_DATAGRAM_MAX - 200, "{} bytes: a longer one would be cut", datagram.len());
        let kinds: Vec<u8> = Records(datagram).flatten().map(|record| record[13]).collect();
        assert_eq!(kinds, [2, 11, 12, 13, 14], "each message whole");
        let asked = Records(datagram).flatten().nth(3).unwrap();
        assert_eq!((&asked[14..17], &asked[22..25], &asked[25..]), (&[0, 0, 15][..], &[0, 0, 15][..], &request[..]));
        wire.now = next;
    }
}

/// Goal: nobody between the two changes what a client may sign with. Method: each byte of our request's body is
/// changed under way, and our addition taken out of it, as an attacker would who cannot sign.
#[test]
fn a_request_changed_under_way_ends_the_handshake() {
    let narrow = |datagram: &[u8]| {
        let mut out = Vec::new();
        for record in Records(datagram).flatten() {
            let mut record = record.to_vec();
            if record[13] == 13 {
                record.splice(25.., [1, 64, 0, 4, 4, 3, 5, 3, 0, 0]);
                (record[12], record[16], record[24]) = (22, 10, 10);
            }
            out.extend(record);
        }
        out
    };
    for place in 0..15 {
        let mut wire = wire();
        let changed = wire.run(|_, mut datagram| {
            let request = datagram.windows(4).position(|bytes| bytes == [2, 64, 1, 0]);
            match request.filter(|_| datagram[0] == CONTENT_HANDSHAKE && datagram[13] == 2) {
                Some(_) if place == 0 => datagram = narrow(&datagram),
                // Of the lengths the library sees that they are wrong; the types and algorithms may be any.
                Some(at) => datagram[at + place] ^= 0x10,
                None => {}
            }
            vec![datagram]
        });
        assert!(matches!(changed, Err(DtlsError::Handshake(_))), "byte {place}");
        assert!(wire.keys.iter().all(Option::is_none), "byte {place}");
    }
}

/// Goal: as the client we hash a server's request as it came. Method: a server of the library's own, whose request is
/// the one we would widen.
#[test]
fn as_the_client_we_leave_a_servers_request_alone() {
    let (ours, theirs) = (Identity::new().unwrap(), Identity::new().unwrap());
    let (now, anchor) = (Time::from_millis(5), Instant::now());
    let mut client = Dtls::new(&ours, DtlsRole::Client, theirs.fingerprint(), now, anchor).unwrap();
    let mut server = dimpl::Dtls::new_12(Arc::clone(&theirs.as_client), theirs.certificate.clone(), anchor);
    server.set_active(false);
    server.handle_timeout(anchor).unwrap();
    let (mut out, mut scratch) = ([0; DTLS_DATAGRAM_MAX], [0; HANDSHAKE_BYTES_MAX]);
    let (mut asked, mut connected) = (false, false);
    for _ in 0..50 {
        match client.poll(now, &mut out).unwrap() {
            DtlsOutput::Datagram(length) => server.handle_packet(&out[..length]).unwrap(),
            DtlsOutput::Connected(_) => connected = true,
            _ => {}
        }
        if let Output::Packet(packet) = server.poll_output(&mut scratch) {
            asked |= packet.windows(10).any(|bytes| bytes == [1, 64, 0, 4, 4, 3, 5, 3, 0, 0]);
            client.handle_datagram(now, packet).unwrap();
        }
    }
    assert!(asked && connected, "asked: {asked}, connected: {connected}");
}

#[test]
fn another_certificate_gets_no_keys() {
    for wrong in [CLIENT, SERVER] {
        let mut expected = [None, None];
        expected[wrong] = Some(Fingerprint([7; 32]));
        let mut wire = ends_expecting(expected);
        let error = wire.run(|_, datagram| vec![datagram]).unwrap_err();
        assert!(matches!(error, DtlsError::FingerprintMismatch), "{error}");
        assert!(wire.keys[wrong].is_none());
        let dead = wire.ends[wrong].poll(wire.now, &mut [0; DTLS_DATAGRAM_MAX]);
        assert!(matches!(dead, Err(DtlsError::Ended)));
    }
}

#[test]
fn nobody_answering_ends_with_an_error_in_time() {
    let mut wire = wire();
    let begin = wire.now;
    let error = loop {
        match wire.poll(CLIENT) {
            Ok((_, next)) => wire.now = next,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, DtlsError::Handshake(_)), "{error}");
    assert!(wire.now.since(begin) <= HANDSHAKE_EXPIRY);
    assert!(wire.now.since(begin) > HANDSHAKE_EXPIRY / 2);
}

#[test]
fn the_kept_last_flight_connects_a_remote_that_missed_it() {
    let mut wire = wire();
    // The server's last flight is the one datagram that comes after its keys.
    loop {
        let (datagrams, _) = wire.poll(CLIENT).unwrap();
        for datagram in datagrams {
            wire.ends[SERVER].handle_datagram(wire.now, &datagram).unwrap();
        }
        let (datagrams, _) = wire.poll(SERVER).unwrap();
        if wire.keys[SERVER].is_some() {
            break;
        }
        for datagram in datagrams {
            wire.ends[CLIENT].handle_datagram(wire.now, &datagram).unwrap();
        }
    }
    let kept = wire.ends[SERVER].last_flight().to_vec();
    assert!(!kept.is_empty() && kept.len() <= 508, "a record keeps 508 bytes: {}", kept.len());
    // The server's object is gone; the client repeats its flight.
    let (_, next) = wire.poll(CLIENT).unwrap();
    wire.now = next;
    let (again, _) = wire.poll(CLIENT).unwrap();
    assert!(again.iter().any(|datagram| classify_late(datagram) == AfterHandshake::Resend));
    wire.ends[CLIENT].handle_datagram(wire.now, &kept).unwrap();
    wire.poll(CLIENT).unwrap();
    wire.assert_keys_match();
    assert!(wire.ends[CLIENT].last_flight().is_empty());
    // Once more changes nothing.
    wire.ends[CLIENT].handle_datagram(wire.now, &kept).unwrap();
    assert!(wire.poll(CLIENT).unwrap().0.is_empty());
}

#[test]
fn a_flight_that_waited_past_our_repeat_is_answered_by_the_last_flight_alone() {
    let mut wire = wire();
    // A busy shard: each datagram to the server is handled when the server's timer is long due.
    let mut due = Time::NEVER;
    while wire.keys[SERVER].is_none() {
        let (datagrams, _) = wire.poll(CLIENT).unwrap();
        if due != Time::NEVER {
            wire.now = due + Duration::from_millis(1);
        }
        for datagram in datagrams {
            wire.ends[SERVER].handle_datagram(wire.now, &datagram).unwrap();
        }
        let (datagrams, next) = wire.poll(SERVER).unwrap();
        due = next;
        if wire.keys[SERVER].is_none() {
            for datagram in datagrams {
                wire.ends[CLIENT].handle_datagram(wire.now, &datagram).unwrap();
            }
        } else {
            assert_eq!(datagrams.len(), 1);
            assert_eq!(datagrams[0], wire.ends[SERVER].last_flight());
        }
    }
    let kept = wire.ends[SERVER].last_flight().to_vec();
    assert!(!kept.is_empty() && kept.len() <= 508, "a record keeps 508 bytes: {}", kept.len());
    wire.ends[CLIENT].handle_datagram(wire.now, &kept).unwrap();
    wire.poll(CLIENT).unwrap();
    wire.assert_keys_match();
}

#[test]
fn a_kept_close_notify_closes_the_other_end_and_ours_still_listens() {
    let mut wire = wire();
    let mut out = [0; DTLS_DATAGRAM_MAX];
    assert_eq!(wire.ends[SERVER].sealed_close_notify(&mut out), 0, "no keys yet");
    wire.run(|_, datagram| vec![datagram]).unwrap();
    let flight = wire.ends[SERVER].last_flight().to_vec();
    let length = wire.ends[SERVER].sealed_close_notify(&mut out);
    let kept = out[..length].to_vec();
    assert!(length > 0 && length <= 508);
    assert_eq!(classify_late(&kept), AfterHandshake::Alert);
    assert_eq!(wire.ends[SERVER].sealed_close_notify(&mut out), 0, "once");
    assert_eq!(wire.ends[SERVER].last_flight(), flight);

    // A forged one closes nothing.
    let mut forged = kept.clone();
    forged[length - 1] ^= 1;
    wire.ends[CLIENT].handle_datagram(wire.now, &forged).unwrap();
    wire.poll(CLIENT).unwrap();
    assert!(!wire.closed[CLIENT]);

    // The other end goes first: ours verifies it though its own goodbye is sealed already.
    wire.ends[CLIENT].close();
    let (goodbye, _) = wire.poll(CLIENT).unwrap();
    assert_eq!(goodbye.len(), 1);
    wire.ends[SERVER].handle_datagram(wire.now, &goodbye[0]).unwrap();
    wire.poll(SERVER).unwrap();
    assert!(wire.closed[SERVER]);

    wire.ends[CLIENT].handle_datagram(wire.now, &kept).unwrap();
    wire.poll(CLIENT).unwrap();
    assert!(wire.closed[CLIENT]);
}

/// In either role, and without the object: it is gone when the goodbye comes.
#[test]
fn a_farewell_knows_the_remotes_goodbye_and_nothing_else() {
    for end in [CLIENT, SERVER] {
        let (mut wire, mut other) = (wire(), wire());
        assert!(wire.ends[end].farewell().is_none(), "not before there are keys");
        for wire in [&mut wire, &mut other] {
            wire.run(|_, datagram| vec![datagram]).unwrap();
        }
        let [farewell, others] = [&wire, &other].map(|wire| wire.ends[end].farewell().expect("AES-GCM"));
        let remote = 1 - end;
        let kept = wire.ends[end].last_flight().to_vec();
        assert!(!farewell.is_said_by(&kept), "a flight is no goodbye, and not the remote's");
        wire.ends[remote].close();
        let (goodbye, _) = wire.poll(remote).unwrap();
        assert!(farewell.is_said_by(&goodbye[0]));
        assert!(!others.is_said_by(&goodbye[0]), "of another session");
        // Our own goodbye sent back to us.
        wire.ends[end].close();
        let (ours, _) = wire.poll(end).unwrap();
        assert!(!farewell.is_said_by(&ours[0]));
        for at in 0..goodbye[0].len() {
            let mut forged = goodbye[0].clone();
            forged[at] ^= 1;
            assert!(!farewell.is_said_by(&forged), "byte {at}");
            assert!(!farewell.is_said_by(&goodbye[0][..at]), "cut at {at}");
        }
    }
}

#[test]
fn late_datagrams_are_told_apart() {
    let record = |content, epoch| vec![content, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 0, 0, 1, 0];
    assert_eq!(classify_late(&record(22, 1)), AfterHandshake::Resend);
    assert_eq!(classify_late(&[record(22, 0), record(20, 0), record(22, 1)].concat()), AfterHandshake::Resend);
    assert_eq!(classify_late(&record(22, 0)), AfterHandshake::Ignore);
    assert_eq!(classify_late(&record(21, 1)), AfterHandshake::Alert);
    assert_eq!(classify_late(&record(21, 0)), AfterHandshake::Ignore);
    assert_eq!(classify_late(&record(23, 1)), AfterHandshake::Ignore);
    assert_eq!(classify_late(&record(22, 1)[..13]), AfterHandshake::Ignore);
    assert_eq!(classify_late(&[]), AfterHandshake::Ignore);
}

#[test]
fn noise_between_the_flights_changes_nothing() {
    let mut rng = crate::rng::Rng::new(8);
    for _ in 0..20 {
        let mut wire = wire();
        wire.run(|_, datagram| {
            // Random bytes, the same records under unknown content types, the datagram cut: none of
            // them can be taken for an honest message. (Changed bodies are an attack, and fail it.)
            let mut random = vec![0; 300];
            rng.fill(&mut random);
            random[0] = CONTENT_HANDSHAKE + 2 + rng.below(200) as u8;
            let mut noise = Vec::new();
            for record in Records(&datagram).flatten() {
                noise.extend_from_slice(record);
                let at = noise.len() - record.len();
                noise[at] = random[0];
            }
            vec![random, noise, datagram[..datagram.len() / 2].to_vec(), datagram]
        })
        .unwrap();
        wire.assert_keys_match();
    }
}

#[test]
fn no_bytes_panic_or_loop() {
    let mut rng = crate::rng::Rng::new(9);
    for _ in 0..300 {
        let mut wire = wire();
        let result = wire.run(|number, mut datagram| {
            if number > 60 {
                return vec![datagram];
            }
            for _ in 0..rng.below(4) {
                let at = rng.below(datagram.len() as u64) as usize;
                datagram[at] = rng.next_u32() as u8;
            }
            vec![datagram]
        });
        assert!(!matches!(result, Err(DtlsError::Panicked)));
    }
}
