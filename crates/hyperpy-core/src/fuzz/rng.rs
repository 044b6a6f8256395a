//! The generator of a campaign's numbers: xoshiro256++ (Blackman and Vigna), seeded by splitmix64.
//!
//! It is kept here, and not taken from a library, so that a seed gives the same campaign in every version.

/// A generator of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rng([u64; 4]);

/// Spreads the bits of a number over all of another; also what features are hashed by.
#[must_use]
#[inline]
pub fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    number ^ (number >> 31)
}

impl Rng {
    /// The one of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let at = |step: u64| mixed(seed.wrapping_add(step.wrapping_mul(0x9E37_79B9_7F4A_7C15)));
        Self([at(1), at(2), at(3), at(4)])
    }

    /// Any number.
    #[inline]
    pub fn number(&mut self) -> u64 {
        let [a, b, c, d] = self.0;
        let number = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        self.0 = [a ^ d, b ^ c, c ^ (b << 17), d.rotate_left(45)];
        number
    }

    /// A number below another one; 0 if that is 0.
    #[inline]
    pub fn below(&mut self, end: u64) -> u64 {
        // The high half of a product: a bias of at most `end` in 2^64.
        u64::try_from((u128::from(self.number()) * u128::from(end)) >> 64).unwrap_or_default()
    }

    /// The same for an index.
    #[inline]
    pub fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).unwrap_or_default()
    }

    /// True once in so many times.
    #[inline]
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of several; `None` of none.
    #[inline]
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        let index = self.index(from.len());
        from.get(index)
    }

    /// 1 half of the time, 2 half of the rest, and so on, up to `most`.
    pub fn few(&mut self, most: usize) -> usize {
        let ones = self.number().trailing_ones() as usize;
        (1 + ones).min(most.max(1))
    }

    /// A number of which small ones come as often as those with more digits: uniform in its length in bits.
    pub fn by_length(&mut self, end: u64) -> u64 {
        let bits = 64 - end.leading_zeros();
        let length = self.below(u64::from(bits) + 1);
        if length == 0 { 0 } else { (self.number() >> (64 - length)).min(end) }
    }
}

#[cfg(test)]
#[path = "rng_test.rs"]
mod tests;
