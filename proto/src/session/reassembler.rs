//! Puts the handshake messages of one remote together before the DTLS library sees them.
//!
//! Every handshake record of epoch 0 passes here, in either role: fragments may come in any order, overlap,
//! be lost and come again split elsewhere. The library (dimpl 0.9) wants fragments that meet exactly and
//! refuses others for ever; it gets each message whole, as one record of its own, and in the order of
//! message_seq, so that its queue never has a gap. It builds its transcript from whole messages, so nothing
//! it signs or hashes changes. A complete message seen again is passed again whole: only that makes the
//! library send its flight again.
//!
//! Nothing here is authenticated yet. What does not fit is refused and counted; what blocks a later honest
//! message (a wrong length, too many pieces) is thrown away, so that the remote's next flight finds room.
//! It never looks into messages, keeps no time, and holds at most `HANDSHAKE_BYTES_MAX` bytes.

use crate::limits::{HANDSHAKE_BYTES_MAX, HANDSHAKE_FRAGMENTS_MAX};

/// content type, version (2), epoch (2), sequence (6), length (2): RFC 6347 section 4.1.
pub(super) const RECORD_HEADER: usize = 13;
/// type, length (3), message_seq (2), fragment_offset (3), fragment_length (3): RFC 6347 section 4.2.2.
pub(super) const MESSAGE_HEADER: usize = 12;
pub(super) const CONTENT_ALERT: u8 = 21;
pub(super) const CONTENT_HANDSHAKE: u8 = 22;

/// Why a piece of a datagram was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub enum Refusal {
    /// A record or a fragment ends after the bytes that hold it.
    Truncated,
    /// An empty fragment of a message that is not empty, or one that ends after its message.
    Malformed,
    /// Type or length differ from those of an earlier fragment; the earlier ones were thrown away.
    Disagrees,
    /// The message, or all unfinished ones together, exceed `HANDSHAKE_BYTES_MAX`.
    TooLarge,
    /// More than `HANDSHAKE_FRAGMENTS_MAX` pieces without a message; they were thrown away.
    TooManyFragments,
    /// message_seq is further ahead than any handshake goes.
    TooFarAhead,
}

impl Refusal {
    pub const COUNT: usize = Refusal::TooFarAhead as usize + 1;
}

/// One remote's unfinished messages.
#[derive(Debug, Default)]
pub struct Reassembler {
    /// message_seq of the first message not passed yet.
    next: u16,
    messages: Vec<Message>,
    refused: [u32; Refusal::COUNT],
}

#[derive(Debug)]
struct Message {
    sequence: u16,
    /// The record it will be passed as: both headers, then the body.
    record: Vec<u8>,
    /// Which bytes of the body are here: sorted by nothing, but apart from each other.
    parts: Vec<(usize, usize)>,
    fragments: usize,
}

/// One fragment, borrowed of a datagram.
#[derive(Clone, Copy)]
struct Fragment<'a> {
    kind: u8,
    sequence: u16,
    length: usize,
    offset: usize,
    bytes: &'a [u8],
}

impl Reassembler {
    pub fn new() -> Reassembler {
        Reassembler::default()
    }

    pub fn refused(&self, reason: Refusal) -> u32 {
        self.refused[reason as usize]
    }

    /// Takes a datagram and hands `pass` what the library may see, each call one record: first the
    /// messages that are whole now, in order, then the datagram's other records as they are. Ends with the
    /// first error of `pass`.
    pub fn handle_datagram<E>(
        &mut self,
        datagram: &[u8],
        mut pass: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        for record in Records(datagram) {
            match record {
                Ok(record) if is_plain_handshake(record) => {
                    if let Err(reason) = self.take_record(record) {
                        self.refuse(reason);
                    }
                }
                Ok(_) => {}
                Err(reason) => self.refuse(reason),
            }
        }
        while let Some(message) = self.take_whole() {
            pass(&message.record)?;
        }
        for record in Records(datagram).flatten().filter(|record| !is_plain_handshake(record)) {
            pass(record)?;
        }
        Ok(())
    }

    /// A record holds one or more fragments, each whole (RFC 6347 section 4.2.3).
    fn take_record(&mut self, record: &[u8]) -> Result<(), Refusal> {
        let mut rest = record.get(RECORD_HEADER..).unwrap_or_default();
        if rest.is_empty() {
            return Err(Refusal::Malformed);
        }
        while !rest.is_empty() {
            let fragment;
            (fragment, rest) = Fragment::parse(rest)?;
            self.take_fragment(record, fragment)?;
        }
        Ok(())
    }

    fn take_fragment(&mut self, record: &[u8], fragment: Fragment) -> Result<(), Refusal> {
        if MESSAGE_HEADER + fragment.length > HANDSHAKE_BYTES_MAX {
            return Err(Refusal::TooLarge);
        }
        if usize::from(fragment.sequence) > usize::from(self.next) + HANDSHAKE_FRAGMENTS_MAX {
            return Err(Refusal::TooFarAhead);
        }
        if let Some(at) = self.messages.iter().position(|message| message.sequence == fragment.sequence) {
            let message = &self.messages[at];
            if message.has(&fragment) {
                return Ok(());
            }
            if !message.agrees(&fragment) {
                self.messages.remove(at);
                self.refuse(Refusal::Disagrees);
            }
        }
        let fragments: usize = self.messages.iter().map(|message| message.fragments).sum();
        if fragments >= HANDSHAKE_FRAGMENTS_MAX {
            self.messages.clear();
            self.refuse(Refusal::TooManyFragments);
        }
        let known = self.messages.iter().position(|message| message.sequence == fragment.sequence);
        let at = match known {
            Some(at) => at,
            None => {
                let held: usize = self.messages.iter().map(Message::size).sum();
                if held + MESSAGE_HEADER + fragment.length > HANDSHAKE_BYTES_MAX {
                    self.messages.clear();
                    self.refuse(Refusal::TooLarge);
                }
                self.messages.push(Message::new(record, &fragment));
                self.messages.len() - 1
            }
        };
        self.messages[at].add(&fragment);
        Ok(())
    }

    /// The first whole message whose turn it is: the next one, or one that was passed before.
    fn take_whole(&mut self) -> Option<Message> {
        let (at, _) = self
            .messages
            .iter()
            .enumerate()
            .filter(|(_, message)| message.sequence <= self.next && message.is_whole())
            .min_by_key(|(_, message)| message.sequence)?;
        let message = self.messages.swap_remove(at);
        if message.sequence == self.next {
            self.next = self.next.saturating_add(1);
        }
        Some(message)
    }

    fn refuse(&mut self, reason: Refusal) {
        let count = &mut self.refused[reason as usize];
        *count = count.saturating_add(1);
    }
}

impl Message {
    fn new(first: &[u8], fragment: &Fragment) -> Message {
        let mut record = vec![0; RECORD_HEADER + MESSAGE_HEADER + fragment.length];
        let (header, message) = record.split_at_mut(RECORD_HEADER);
        // Version, epoch and sequence are those of the record that came first.
        header.copy_from_slice(&first[..RECORD_HEADER]);
        header[11..].copy_from_slice(&((MESSAGE_HEADER + fragment.length) as u16).to_be_bytes());
        let [_, length @ ..] = (fragment.length as u32).to_be_bytes();
        message[0] = fragment.kind;
        message[1..4].copy_from_slice(&length);
        message[4..6].copy_from_slice(&fragment.sequence.to_be_bytes());
        message[9..12].copy_from_slice(&length);
        Message { sequence: fragment.sequence, record, parts: Vec::new(), fragments: 0 }
    }

    fn size(&self) -> usize {
        self.record.len() - RECORD_HEADER
    }

    fn length(&self) -> usize {
        self.size() - MESSAGE_HEADER
    }

    fn agrees(&self, fragment: &Fragment) -> bool {
        self.length() == fragment.length && self.record[RECORD_HEADER] == fragment.kind
    }

    /// Whether the fragment would bring nothing new.
    fn has(&self, fragment: &Fragment) -> bool {
        let (from, to) = fragment.range();
        self.agrees(fragment) && self.parts.iter().any(|(start, end)| *start <= from && to <= *end)
    }

    fn add(&mut self, fragment: &Fragment) {
        let (mut from, mut to) = fragment.range();
        let body = RECORD_HEADER + MESSAGE_HEADER;
        self.record[body + from..body + to].copy_from_slice(fragment.bytes);
        self.parts.retain(|(start, end)| {
            let apart = *end < from || to < *start;
            if !apart {
                (from, to) = (from.min(*start), to.max(*end));
            }
            apart
        });
        self.parts.push((from, to));
        self.fragments += 1;
    }

    fn is_whole(&self) -> bool {
        self.parts == [(0, self.length())]
    }
}

impl<'a> Fragment<'a> {
    fn parse(bytes: &'a [u8]) -> Result<(Fragment<'a>, &'a [u8]), Refusal> {
        let (header, rest) = bytes.split_first_chunk::<MESSAGE_HEADER>().ok_or(Refusal::Truncated)?;
        let &[kind, l0, l1, l2, s0, s1, o0, o1, o2, f0, f1, f2] = header;
        let three = |a, b, c| u32::from_be_bytes([0, a, b, c]) as usize;
        let (bytes, rest) = rest.split_at_checked(three(f0, f1, f2)).ok_or(Refusal::Truncated)?;
        let fragment = Fragment {
            kind,
            sequence: u16::from_be_bytes([s0, s1]),
            length: three(l0, l1, l2),
            offset: three(o0, o1, o2),
            bytes,
        };
        let empty = bytes.is_empty() && fragment.length != 0;
        if empty || fragment.offset + bytes.len() > fragment.length {
            return Err(Refusal::Malformed);
        }
        Ok((fragment, rest))
    }

    fn range(&self) -> (usize, usize) {
        (self.offset, self.offset + self.bytes.len())
    }
}

/// The records of a datagram, headers included. Ends after the first that is cut.
pub(super) struct Records<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Records<'a> {
    type Item = Result<&'a [u8], Refusal>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let length = self.0.get(11..RECORD_HEADER).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]));
        match length.and_then(|length| self.0.split_at_checked(RECORD_HEADER + length)) {
            Some((record, rest)) => {
                self.0 = rest;
                Some(Ok(record))
            }
            None => {
                self.0 = &[];
                Some(Err(Refusal::Truncated))
            }
        }
    }
}

/// Content type of a whole record.
pub(super) fn content_type(record: &[u8]) -> u8 {
    record.first().copied().unwrap_or_default()
}

/// Epoch of a whole record.
pub(super) fn epoch(record: &[u8]) -> u16 {
    record.get(3..5).map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn is_plain_handshake(record: &[u8]) -> bool {
    content_type(record) == CONTENT_HANDSHAKE && epoch(record) == 0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn record(content: u8, epoch: u16, sequence: u8, body: &[u8]) -> Vec<u8> {
        let mut record = vec![content, 0xFE, 0xFD];
        record.extend(epoch.to_be_bytes());
        record.extend([0, 0, 0, 0, 0, sequence]);
        record.extend((body.len() as u16).to_be_bytes());
        record.extend(body);
        record
    }

    fn message(kind: u8, sequence: u16, length: usize, offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut message = vec![kind];
        message.extend(&(length as u32).to_be_bytes()[1..]);
        message.extend(sequence.to_be_bytes());
        message.extend(&(offset as u32).to_be_bytes()[1..]);
        message.extend(&(bytes.len() as u32).to_be_bytes()[1..]);
        message.extend(bytes);
        message
    }

    /// A fragment of `body` in a datagram of its own.
    pub(in crate::session) fn fragment(sequence: u8, body: &[u8], from: usize, to: usize) -> Vec<u8> {
        record(CONTENT_HANDSHAKE, 0, sequence, &message(1, 0, body.len(), from, &body[from..to]))
    }

    fn feed(reassembler: &mut Reassembler, datagram: &[u8]) -> Vec<Vec<u8>> {
        let mut passed = Vec::new();
        reassembler
            .handle_datagram::<()>(datagram, |record| {
                passed.push(record.to_vec());
                Ok(())
            })
            .unwrap();
        passed
    }

    /// As long as Chromium's ClientHello.
    fn hello() -> Vec<u8> {
        (0..1413u32).map(|i| (i * 7 + i / 251) as u8).collect()
    }

    #[test]
    fn two_fragments_in_any_order_and_doubled_make_one_record() {
        let body = hello();
        let (first, second) = (fragment(3, &body, 0, 1175), fragment(4, &body, 1175, 1413));
        for (order, sequence) in [
            (vec![&first, &second], 3),
            (vec![&second, &first], 4),
            (vec![&first, &first, &second], 3),
            (vec![&second, &second, &first], 4),
        ] {
            let mut reassembler = Reassembler::new();
            let mut passed = Vec::new();
            for datagram in &order {
                assert!(passed.is_empty(), "not before it is whole");
                passed = feed(&mut reassembler, datagram);
            }
            assert_eq!(passed, [fragment(sequence, &body, 0, 1413)]);
            assert!(reassembler.messages.is_empty());
        }
    }

    #[test]
    fn a_flight_split_elsewhere_fills_what_was_lost() {
        let body = hello();
        for kept in [(0, 1175), (1175, 1413)] {
            let mut reassembler = Reassembler::new();
            let mut passed = feed(&mut reassembler, &fragment(0, &body, kept.0, kept.1));
            for (from, to) in [(0, 700), (700, 1413)] {
                passed.extend(feed(&mut reassembler, &fragment(1, &body, from, to)));
            }
            let expected = fragment(0, &body, 0, 1413);
            assert_eq!(passed, [expected]);
        }
    }

    #[test]
    fn any_split_and_any_order_gives_the_same_message() {
        let mut rng = crate::rng::Rng::new(11);
        let body = hello();
        for _ in 0..200 {
            let mut pieces: Vec<(usize, usize)> = Vec::new();
            let mut at = 0;
            while at < body.len() {
                let to = (at + 60 + rng.below(600) as usize).min(body.len());
                pieces.push((at.saturating_sub(rng.below(40) as usize), to));
                at = to;
            }
            for i in (1..pieces.len()).rev() {
                pieces.swap(i, rng.below(i as u64 + 1) as usize);
            }
            let mut reassembler = Reassembler::new();
            let passed: Vec<_> = pieces
                .iter()
                .flat_map(|(from, to)| feed(&mut reassembler, &fragment(0, &body, *from, *to)))
                .collect();
            assert_eq!(passed, [fragment(0, &body, 0, body.len())]);
        }
    }

    #[test]
    fn a_message_seen_again_is_passed_again_whole() {
        let body = hello();
        let mut reassembler = Reassembler::new();
        for round in 0..3 {
            assert!(feed(&mut reassembler, &fragment(round, &body, 0, 1175)).is_empty());
            assert_eq!(feed(&mut reassembler, &fragment(9, &body, 1175, 1413)).len(), 1);
        }
    }

    #[test]
    fn messages_go_in_order_and_other_records_after_them() {
        let mut reassembler = Reassembler::new();
        let whole = |sequence, body: &[u8]| message(11, sequence, body.len(), 0, body);
        let ccs = record(20, 0, 3, &[1]);
        let finished = record(CONTENT_HANDSHAKE, 1, 0, &[0xEE; 40]);
        // Three messages in two records around a ChangeCipherSpec; the first of them is missing yet.
        let datagram = [
            record(CONTENT_HANDSHAKE, 0, 2, &[whole(2, b"two"), whole(1, b"")].concat()),
            ccs.clone(),
            record(CONTENT_HANDSHAKE, 0, 4, &whole(3, b"three")),
            finished.clone(),
        ]
        .concat();
        assert_eq!(feed(&mut reassembler, &datagram), [ccs, finished]);
        let passed = feed(&mut reassembler, &record(CONTENT_HANDSHAKE, 0, 1, &whole(0, b"zero")));
        let order: Vec<u8> = passed.iter().map(|record| record[RECORD_HEADER + 5]).collect();
        assert_eq!(order, [0, 1, 2, 3]);
        assert_eq!(passed[1], record(CONTENT_HANDSHAKE, 0, 2, &whole(1, b"")), "an empty message is one");
    }

    #[test]
    fn an_error_ends_the_datagram() {
        let mut reassembler = Reassembler::new();
        let datagram = [fragment(0, b"hello", 0, 5), record(20, 0, 1, &[1])].concat();
        let mut calls = 0;
        let result = reassembler.handle_datagram(&datagram, |_| {
            calls += 1;
            Err("no")
        });
        assert_eq!((result, calls), (Err("no"), 1));
    }

    #[test]
    fn pieces_beyond_the_limit_are_refused_and_do_not_block_the_next_flight() {
        let body = vec![7; HANDSHAKE_FRAGMENTS_MAX + 1];
        let mut reassembler = Reassembler::new();
        for at in 0..body.len() {
            assert!(feed(&mut reassembler, &fragment(0, &body, at, at + 1)).is_empty());
        }
        assert_eq!(reassembler.refused(Refusal::TooManyFragments), 1);
        let body = &body[..HANDSHAKE_FRAGMENTS_MAX];
        let mut reassembler = Reassembler::new();
        let passed: Vec<_> =
            (0..body.len()).flat_map(|at| feed(&mut reassembler, &fragment(0, body, at, at + 1))).collect();
        assert_eq!(passed.len(), 1, "as many as the limit are taken");
        // After a flood an honest flight passes.
        let flood = vec![7; 900];
        for at in 0..flood.len() {
            feed(&mut reassembler, &fragment(0, &flood, at, at + 1));
        }
        let honest = hello();
        feed(&mut reassembler, &fragment(0, &honest, 0, 1175));
        assert_eq!(feed(&mut reassembler, &fragment(0, &honest, 1175, 1413)).len(), 1);
    }

    #[test]
    fn lengths_that_disagree_are_refused_and_the_newer_message_stands() {
        let (body, mut reassembler) = (hello(), Reassembler::new());
        feed(&mut reassembler, &fragment(0, &body[..1400], 0, 700));
        assert!(feed(&mut reassembler, &fragment(1, &body, 0, 1175)).is_empty());
        assert_eq!(reassembler.refused(Refusal::Disagrees), 1);
        let passed = feed(&mut reassembler, &fragment(2, &body, 1175, 1413));
        assert_eq!(passed, [fragment(1, &body, 0, 1413)]);
    }

    #[test]
    fn large_messages_are_refused_and_memory_is_bounded() {
        let mut reassembler = Reassembler::new();
        let piece = |sequence, length| {
            record(CONTENT_HANDSHAKE, 0, 0, &message(11, sequence, length, 0, &[1; 10]))
        };
        feed(&mut reassembler, &piece(0, 65_535));
        feed(&mut reassembler, &piece(0, HANDSHAKE_BYTES_MAX));
        feed(&mut reassembler, &piece(0, 0xFF_FFFF));
        assert_eq!(reassembler.refused(Refusal::TooLarge), 3);
        assert!(reassembler.messages.is_empty());
        for sequence in 0..30 {
            feed(&mut reassembler, &piece(sequence, 6_000));
            let held: usize = reassembler.messages.iter().map(Message::size).sum();
            assert!(held <= HANDSHAKE_BYTES_MAX);
        }
        assert_eq!(reassembler.refused(Refusal::TooLarge), 17, "room for two at a time");
        feed(&mut reassembler, &piece(40, 100));
        assert_eq!(reassembler.refused(Refusal::TooFarAhead), 1);
        let largest = vec![5; HANDSHAKE_BYTES_MAX - MESSAGE_HEADER];
        let mut reassembler = Reassembler::new();
        let passed: Vec<_> = (0..largest.len())
            .step_by(1000)
            .flat_map(|at| feed(&mut reassembler, &fragment(0, &largest, at, (at + 1000).min(largest.len()))))
            .collect();
        assert_eq!(passed, [fragment(0, &largest, 0, largest.len())]);
    }

    #[test]
    fn empty_cut_and_overlong_fragments_are_refused() {
        let mut reassembler = Reassembler::new();
        let mut handshake = |body: &[u8]| {
            assert!(feed(&mut reassembler, &record(CONTENT_HANDSHAKE, 0, 0, body)).is_empty());
        };
        handshake(&message(1, 0, 50, 0, &[]));
        handshake(&message(1, 0, 50, 45, &[1; 6]));
        handshake(&[]);
        handshake(&message(1, 0, 50, 0, &[1; 20])[..30]);
        handshake(&[1, 2, 3]);
        assert_eq!(reassembler.refused(Refusal::Malformed), 3);
        assert_eq!(reassembler.refused(Refusal::Truncated), 2);
        let cut = &fragment(0, b"hello", 0, 5)[..20];
        let alert = record(CONTENT_ALERT, 0, 0, &[1, 0]);
        let datagram = [&alert, cut].concat();
        assert_eq!(feed(&mut reassembler, &datagram), [alert], "what stood before the cut one is passed");
        assert_eq!(reassembler.refused(Refusal::Truncated), 3);
        assert!(reassembler.messages.is_empty());
    }

    #[test]
    fn no_bytes_panic() {
        let mut rng = crate::rng::Rng::new(5);
        let mut reassembler = Reassembler::new();
        for _ in 0..20_000 {
            let mut datagram = vec![0; rng.below(120) as usize];
            rng.fill(&mut datagram);
            // Mostly a plain handshake record, short lengths, few message numbers.
            for (at, byte) in [(0, 22), (3, 0), (4, 0), (11, 0), (14, 0), (15, 0), (17, 0), (19, 0), (20, 0)] {
                if let Some(place) = datagram.get_mut(at).filter(|_| rng.below(8) > 0) {
                    *place = byte;
                }
            }
            feed(&mut reassembler, &datagram);
        }
    }
}
