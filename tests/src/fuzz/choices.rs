//! Operations out of a fuzzer's bytes. What is missing reads as zero, so that every prefix of an input means
//! something and shorter inputs stay close to longer ones.

#[derive(Clone)]
pub struct Choices<'a>(&'a [u8]);

impl<'a> Choices<'a> {
    pub fn new(bytes: &'a [u8]) -> Choices<'a> {
        Choices(bytes)
    }
    /// Nothing is left to choose: the input is over.
    pub fn is_over(&self) -> bool {
        self.0.is_empty()
    }
    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let given = self.bytes(N);
        out[..given.len()].copy_from_slice(given);
        out
    }
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }
    /// Less than `bound`, which is not 0. Small bounds take one byte, so that the input stays short.
    pub fn below(&mut self, bound: u64) -> u64 {
        let value = match bound {
            0..=256 => u64::from(self.u8()),
            257..=65_536 => u64::from(self.u16()),
            _ => self.u64(),
        };
        value % bound
    }
    /// The next `length` bytes, or as many as are left.
    pub fn bytes(&mut self, length: usize) -> &'a [u8] {
        let (first, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        first
    }
}
