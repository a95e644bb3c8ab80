//! The ICE-lite agent (RFC 8445 section 2.5): answers checks, remembers the pairs they came on, follows the
//! remote's nomination. Pure functions over the session's record; sends no check of its own.
//!
//! A pair enters the record only after MESSAGE-INTEGRITY held, so that nobody without the password can move
//! media or fill the table. Whose record a ufrag names is looked up by the caller (`decode_ufrag`); the
//! session's `state` is the caller's to advance.
//!
//! Which pair media goes to:
//!
//! ```text
//!   no pair --first valid check--> provisional (the oldest pair) --first nomination--> nominated
//!   nominated --nomination of another pair, at least PAIR_SWITCH_INTERVAL after the last--> nominated
//! ```

use crate::id::SessionId;
use crate::limits::{CONSENT_EXPIRY, PAIR_SWITCH_INTERVAL, PAIRS_PER_SESSION_MAX, UFRAG_CHARS, UFRAG_RANDOM_CHARS};
use crate::session::record::{Pair, RawAddr, SessionRecord};
use crate::time::Time;
use crate::wire::stun::{self, BindingRequest};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// The ICE characters (RFC 8839 section 5.4), six bits each.
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const INDEX_CHARS: usize = 4;
const GENERATION_CHARS: usize = 3;
const GENERATION_MASK: u32 = (1 << (6 * GENERATION_CHARS)) - 1;
const _: () = assert!(INDEX_CHARS + GENERATION_CHARS + UFRAG_RANDOM_CHARS == UFRAG_CHARS);

/// What a ufrag of ours says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UfragName {
    pub index: u32,
    /// The lower 18 bits of the generation.
    pub generation_low: u32,
    pub random: [u8; UFRAG_RANDOM_CHARS],
}

/// Index, generation and the random characters, which must be of the ICE alphabet.
pub fn encode_ufrag(session: SessionId, random: &[u8; UFRAG_RANDOM_CHARS]) -> [u8; UFRAG_CHARS] {
    let mut ufrag = [0; UFRAG_CHARS];
    let (index, rest) = ufrag.split_at_mut(INDEX_CHARS);
    let (generation, tail) = rest.split_at_mut(GENERATION_CHARS);
    write_digits(index, session.index);
    write_digits(generation, session.generation);
    tail.copy_from_slice(random);
    ufrag
}

/// None: no ufrag of ours.
pub fn decode_ufrag(ufrag: &str) -> Option<UfragName> {
    let ufrag: &[u8; UFRAG_CHARS] = ufrag.as_bytes().try_into().ok()?;
    let (index, rest) = ufrag.split_at(INDEX_CHARS);
    let (generation, tail) = rest.split_at(GENERATION_CHARS);
    let random: [u8; UFRAG_RANDOM_CHARS] = tail.try_into().ok()?;
    random.iter().try_for_each(|character| digit(*character).map(|_| ()))?;
    Some(UfragName { index: read_digits(index)?, generation_low: read_digits(generation)?, random })
}

/// Highest digit first; what does not fit is cut off at the top.
fn write_digits(out: &mut [u8], mut number: u32) {
    for character in out.iter_mut().rev() {
        *character = ALPHABET[(number & 0x3F) as usize];
        number >>= 6;
    }
}

fn read_digits(characters: &[u8]) -> Option<u32> {
    characters.iter().try_fold(0, |number, character| Some(number << 6 | digit(*character)?))
}

fn digit(character: u8) -> Option<u32> {
    Some(u32::from(match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

/// Why a check got no answer. None of these moves anything in the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the check names another session, or one that is gone; count and drop it")]
    WrongUfrag,
    #[error("the check was not made with this session's password; count and drop it")]
    WrongIntegrity,
    #[error("the buffer is too small for a STUN response; give it 76 bytes or more")]
    NoRoom,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IceOutcome {
    Refused(Refusal),
    Answered {
        /// Bytes of the response in `out`.
        length: usize,
        /// The pair was not known before: the caller's address table learns it.
        new_pair: bool,
        /// The pair that went to make room: the caller's address table forgets it.
        replaced: Option<Pair>,
        /// `selected` gives another pair than before, or one for the first time.
        selected_changed: bool,
    },
}

/// Whether a check names this session; whether it may, says its MESSAGE-INTEGRITY.
pub fn is_named(record: &SessionRecord, request: &BindingRequest) -> bool {
    decode_ufrag(request.local_ufrag()).is_some_and(|name| {
        record.generation != 0
            && name.generation_low == record.generation & GENERATION_MASK
            && name.random == record.ufrag_random
    })
}

/// One check that arrived on `pair`. `remote` is the pair's remote as the socket saw it.
pub fn handle_request(
    record: &mut SessionRecord,
    request: &BindingRequest,
    pair: Pair,
    remote: SocketAddr,
    now: Time,
    out: &mut [u8],
) -> IceOutcome {
    if !is_named(record, request) {
        return IceOutcome::Refused(Refusal::WrongUfrag);
    }
    if !request.verify(&record.pwd) {
        return IceOutcome::Refused(Refusal::WrongIntegrity);
    }
    let Some(length) = stun::write_success(out, &request.transaction, remote, &record.pwd) else {
        return IceOutcome::Refused(Refusal::NoRoom);
    };

    let before = selected(record);
    let (place, new_pair, replaced) = match place_of(record, pair) {
        Some(place) => (place, false, None),
        None => {
            let (place, replaced) = remember(record, pair);
            (place, true, replaced)
        }
    };
    // RFC 7675 section 5.1: a valid check is the remote's consent to be sent to.
    record.consent_at = now.as_nanos();
    if request.use_candidate {
        nominate(record, place, now);
    }
    IceOutcome::Answered { length, new_pair, replaced, selected_changed: selected(record) != before }
}

/// Where media goes: the nominated pair, before that the first valid one.
pub fn selected(record: &SessionRecord) -> Option<Pair> {
    known(record).get(selected_place(record)).copied()
}

/// Whether this pair passed a check.
pub fn knows(record: &SessionRecord, pair: Pair) -> bool {
    place_of(record, pair).is_some()
}

/// Whether a remote that once gave consent has been silent for too long. A publisher also lives by its
/// authenticated media: the caller sets `consent_at` for it then.
pub fn consent_expired(record: &SessionRecord, now: Time) -> bool {
    record.pairs > 0 && now.since(Time(record.consent_at)) >= CONSENT_EXPIRY
}

/// The pairs, oldest first.
fn known(record: &SessionRecord) -> &[Pair] {
    &record.pair[..usize::from(record.pairs).min(PAIRS_PER_SESSION_MAX)]
}

fn place_of(record: &SessionRecord, pair: Pair) -> Option<usize> {
    known(record).iter().position(|known| *known == pair)
}

fn selected_place(record: &SessionRecord) -> usize {
    usize::from(record.pair_selected).saturating_sub(1)
}

/// Appends a pair; in a full table the oldest that media does not go to makes room.
fn remember(record: &mut SessionRecord, pair: Pair) -> (usize, Option<Pair>) {
    let pairs = known(record).len();
    if pairs < PAIRS_PER_SESSION_MAX {
        record.pair[pairs] = pair;
        record.pairs = pairs as u8 + 1;
        return (pairs, None);
    }
    const LAST: usize = PAIRS_PER_SESSION_MAX - 1;
    let selected = selected_place(record);
    let oldest = usize::from(selected == 0);
    let replaced = record.pair[oldest];
    record.pair.copy_within(oldest + 1.., oldest);
    record.pair[LAST] = pair;
    if selected > oldest {
        record.pair_selected -= 1;
    }
    (LAST, Some(replaced))
}

/// USE-CANDIDATE came on this pair (RFC 8445 section 7.3.1.5). A remote that flaps is followed once per
/// interval; it repeats the nomination with its next check, so nothing is lost by waiting.
fn nominate(record: &mut SessionRecord, place: usize, now: Time) {
    let first = record.pair_selected == 0;
    if !first && (place == selected_place(record) || now.since(Time(record.pair_switched_at)) < PAIR_SWITCH_INTERVAL) {
        return;
    }
    record.pair_selected = place as u8 + 1;
    record.pair_switched_at = now.as_nanos();
}

impl From<SocketAddr> for RawAddr {
    fn from(address: SocketAddr) -> RawAddr {
        let (ip, scope) = match address {
            SocketAddr::V4(v4) => (v4.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(v6) => (*v6.ip(), v6.scope_id()),
        };
        RawAddr { ip: ip.octets(), port: address.port(), reserved: 0, scope }
    }
}

impl RawAddr {
    /// IPv4-mapped comes back as IPv4.
    pub fn to_socket_addr(self) -> SocketAddr {
        let ip = Ipv6Addr::from(self.ip);
        match ip.to_canonical() {
            IpAddr::V4(ip) => SocketAddr::new(IpAddr::V4(ip), self.port),
            IpAddr::V6(ip) => SocketAddr::V6(SocketAddrV6::new(ip, self.port, 0, self.scope)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::record::{KeptDatagram, MasterKey};
    use crate::wire::stun::{Message, parse, write_request};
    use std::sync::atomic::AtomicU64;
    use std::time::Duration;

    const RANDOM: [u8; UFRAG_RANDOM_CHARS] = *b"r4nd0m+/Z";
    const PWD: [u8; 24] = *b"abcdefghijklmnopqrstuvwx";
    const SESSION: SessionId = SessionId::new(70_000, 0x0123_4567);
    const TRANSACTION: [u8; 12] = [7; 12];

    fn record() -> SessionRecord {
        let key = MasterKey { key: [0; 32], salt: [0; 14], reserved: [0; 2] };
        let kept = KeptDatagram { length: 0, bytes: [0; 508] };
        SessionRecord {
            generation: SESSION.generation,
            generation_last: 0,
            side: 2,
            state: 1,
            dtls_role: 2,
            pairs: 0,
            profile: 0,
            pair_selected: 0,
            reserved: 0,
            ufrag_random: RANDOM,
            reserved_2: [0; 7],
            pwd: PWD,
            fingerprint: [0; 32],
            note: [0; 64],
            pair: [Pair::default(); PAIRS_PER_SESSION_MAX],
            receive_key: key,
            send_key: key,
            consent_at: 0,
            added_at: 0,
            pair_switched_at: 0,
            srtcp_index: AtomicU64::new(0),
            srtcp_received: 0,
            srtcp_window: 0,
            ssrc_next: 0,
            feed_first: 0,
            track_first: 0,
            reserved_3: 0,
            last_flight: kept,
            close_notify: kept,
        }
    }

    fn pair(port: u16) -> (Pair, SocketAddr) {
        let remote: SocketAddr = format!("192.0.2.9:{port}").parse().unwrap();
        let local: SocketAddr = "198.51.100.1:7000".parse().unwrap();
        (Pair { local: local.into(), remote: remote.into() }, remote)
    }

    fn check_of(record: &mut SessionRecord, username: &str, pwd: &[u8], port: u16, nominate: bool, at: u64) -> IceOutcome {
        let mut datagram = [0; 256];
        let length = write_request(&mut datagram, &TRANSACTION, username, pwd, 1, 2, nominate).unwrap();
        let Ok(Message::Request(request)) = parse(&datagram[..length]) else { panic!() };
        let (pair, remote) = pair(port);
        let mut out = [0; 128];
        let outcome = handle_request(record, &request, pair, remote, Time::from_millis(at), &mut out);
        if let IceOutcome::Answered { length, .. } = outcome {
            let Ok(Message::Success(success)) = parse(&out[..length]) else { panic!() };
            assert!(success.verify(&record.pwd));
            assert_eq!((success.transaction, success.mapped), (TRANSACTION, remote));
        }
        outcome
    }

    /// A sound check: (new pair, selected changed).
    fn check(record: &mut SessionRecord, port: u16, nominate: bool, at: u64) -> (bool, bool) {
        let ufrag = encode_ufrag(SESSION, &RANDOM);
        let username = format!("{}:them", std::str::from_utf8(&ufrag).unwrap());
        match check_of(record, &username, &PWD, port, nominate, at) {
            IceOutcome::Answered { new_pair, selected_changed, .. } => (new_pair, selected_changed),
            refused => panic!("{refused:?}"),
        }
    }

    fn selected_port(record: &SessionRecord) -> u16 {
        selected(record).unwrap().remote.port
    }

    #[test]
    fn a_ufrag_carries_slot_and_generation() {
        for session in [SESSION, SessionId::new(0, 1), SessionId::new(65_535, u32::MAX)] {
            let ufrag = encode_ufrag(session, &RANDOM);
            let name = decode_ufrag(std::str::from_utf8(&ufrag).unwrap()).unwrap();
            assert_eq!((name.index, name.random), (session.index, RANDOM));
            assert_eq!(name.generation_low, session.generation & 0x3_FFFF);
        }
        assert_eq!(&encode_ufrag(SessionId::new(1, 2), &RANDOM), b"AAABAACr4nd0m+/Z");
        for wrong in ["", "AAABAACr4nd0m+/", "AAABAACr4nd0m+/ZZ", "AAA:AACr4nd0m+/Z", "AAABAACr4nd0m+-Z", "ÄABAACr4nd0m+/Z"] {
            assert_eq!(decode_ufrag(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn the_first_valid_check_gives_a_path_and_consent() {
        let mut record = record();
        assert_eq!(selected(&record), None);
        assert!(!consent_expired(&record, Time::from_millis(1_000_000)), "nothing to expire yet");
        assert_eq!(check(&mut record, 1, false, 1_000), (true, true));
        assert!(knows(&record, pair(1).0) && !knows(&record, pair(2).0));
        assert_eq!(selected_port(&record), 1);
        assert_eq!(check(&mut record, 1, false, 2_000), (false, false));
        assert!(!consent_expired(&record, Time::from_millis(2_000) + CONSENT_EXPIRY - Duration::from_nanos(1)));
        assert!(consent_expired(&record, Time::from_millis(2_000) + CONSENT_EXPIRY));
    }

    #[test]
    fn a_check_of_somebody_else_changes_nothing() {
        let mut record = record();
        check(&mut record, 1, true, 1_000);
        let ours = encode_ufrag(SESSION, &RANDOM);
        let ours = format!("{}:them", std::str::from_utf8(&ours).unwrap());
        let old = encode_ufrag(SessionId::new(SESSION.index, SESSION.generation - 1), &RANDOM);
        let old = format!("{}:them", std::str::from_utf8(&old).unwrap());
        let guessed = encode_ufrag(SESSION, b"AAAAAAAAA");
        let guessed = format!("{}:them", std::str::from_utf8(&guessed).unwrap());
        for (username, pwd, refusal) in [
            (&ours, &b"another password, or none"[..], Refusal::WrongIntegrity),
            (&ours, b"", Refusal::WrongIntegrity),
            (&old, &PWD, Refusal::WrongUfrag),
            (&guessed, &PWD, Refusal::WrongUfrag),
        ] {
            let outcome = check_of(&mut record, username, pwd, 2, true, 20_000);
            assert_eq!(outcome, IceOutcome::Refused(refusal));
        }
        assert_eq!((record.pairs, record.consent_at, selected_port(&record)), (1, 1_000_000_000, 1));
        // What a free slot keeps of its last session lets nobody in.
        record.generation = 0;
        let free = encode_ufrag(SessionId::new(SESSION.index, 0), &RANDOM);
        let free = format!("{}:them", std::str::from_utf8(&free).unwrap());
        assert_eq!(check_of(&mut record, &free, &PWD, 2, true, 1), IceOutcome::Refused(Refusal::WrongUfrag));
    }

    #[test]
    fn the_first_nomination_counts_at_once_and_later_ones_once_a_second() {
        let mut record = record();
        check(&mut record, 1, false, 1_000);
        check(&mut record, 2, false, 1_001);
        assert_eq!(check(&mut record, 2, true, 1_002), (false, true), "from the provisional pair at once");
        assert_eq!(check(&mut record, 1, true, 2_001), (false, false), "too soon");
        assert_eq!(selected_port(&record), 2);
        assert_eq!(check(&mut record, 1, true, 2_002), (false, true), "a second after the last switch");
        assert_eq!(check(&mut record, 1, true, 2_900), (false, false), "the same pair again");
        assert_eq!(check(&mut record, 2, true, 3_002), (false, true), "which does not put the next switch off");
        assert_eq!(check(&mut record, 3, false, 9_000), (true, false), "without USE-CANDIDATE nothing moves");
        assert_eq!(selected_port(&record), 2);
    }

    #[test]
    fn the_first_nomination_of_the_provisional_pair_is_no_change() {
        let mut record = record();
        check(&mut record, 1, false, 1_000);
        assert_eq!(check(&mut record, 1, true, 1_001), (false, false));
        check(&mut record, 2, false, 1_002);
        assert_eq!(check(&mut record, 2, true, 1_003), (false, false), "but it starts the second");
    }

    #[test]
    fn a_full_table_loses_its_oldest_pair_but_never_the_selected_one() {
        for (nominated, first_out) in [(None, 2), (Some(1), 2), (Some(2), 1), (Some(5), 1)] {
            let mut record = record();
            for port in 1..=PAIRS_PER_SESSION_MAX as u16 {
                check(&mut record, port, false, 1_000);
            }
            if let Some(port) = nominated {
                check(&mut record, port, true, 1_000);
            }
            let stays = nominated.unwrap_or(1);
            let ufrag = encode_ufrag(SESSION, &RANDOM);
            let username = format!("{}:them", std::str::from_utf8(&ufrag).unwrap());
            let outcome = check_of(&mut record, &username, &PWD, 100, false, 1_001);
            assert!(
                matches!(outcome, IceOutcome::Answered { replaced: Some(replaced), new_pair: true, selected_changed: false, .. }
                    if replaced == pair(first_out).0),
                "{outcome:?}"
            );
            for port in 101..150 {
                assert_eq!(check(&mut record, port, false, 1_001), (true, false));
                assert_eq!(selected_port(&record), stays);
                assert!(knows(&record, pair(port).0) && usize::from(record.pairs) == PAIRS_PER_SESSION_MAX);
            }
            assert!(!knows(&record, pair(100).0));
            assert_eq!(check(&mut record, 200, true, 9_000), (true, true), "a new pair nominated in a full table");
            assert_eq!(selected_port(&record), 200);
        }
    }

    #[test]
    fn no_room_for_the_answer_changes_nothing() {
        let mut record = record();
        let ufrag = encode_ufrag(SESSION, &RANDOM);
        let mut datagram = [0; 256];
        let username = format!("{}:them", std::str::from_utf8(&ufrag).unwrap());
        let length = write_request(&mut datagram, &TRANSACTION, &username, &PWD, 1, 2, true).unwrap();
        let Ok(Message::Request(request)) = parse(&datagram[..length]) else { panic!() };
        let (pair, remote) = pair(1);
        let outcome = handle_request(&mut record, &request, pair, remote, Time(1), &mut [0; 40]);
        assert_eq!(outcome, IceOutcome::Refused(Refusal::NoRoom));
        assert_eq!((record.pairs, record.consent_at), (0, 0));
    }

    #[test]
    fn addresses_come_back_as_they_went() {
        for (given, back) in [
            ("192.0.2.1:5", "192.0.2.1:5"),
            ("[::ffff:192.0.2.1]:5", "192.0.2.1:5"),
            ("[2001:db8::1]:65535", "[2001:db8::1]:65535"),
        ] {
            let raw = RawAddr::from(given.parse::<SocketAddr>().unwrap());
            assert_eq!(raw.to_socket_addr(), back.parse().unwrap());
            assert_eq!(raw, RawAddr::from(back.parse::<SocketAddr>().unwrap()), "one spelling per address");
        }
        let link_local = SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 9, 0, 3));
        assert_eq!(RawAddr::from(link_local).to_socket_addr(), link_local);
    }
}
