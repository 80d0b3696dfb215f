//! Numbers that look random and are the same for the same seed.

/// Xorshift.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed.max(1)))
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}
