//! The second parity of raid6: arithmetic in GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1, as in Linux md.
//!
//! P is the sum of the data strips. Q is the sum of the data strips, each times 2 to the power of its number. All loops are plain,
//! so the compiler vectorizes them.

use crate::xor_into;

/// The polynomial without x^8.
const POLYNOMIAL: u8 = 0x1d;

/// 2 to the power of `number`.
fn power(number: u8) -> u8 {
    (0..number % 255).fold(1, |product, _| double(product))
}

#[inline]
fn double(byte: u8) -> u8 {
    (byte << 1) ^ (POLYNOMIAL & 0_u8.wrapping_sub(byte >> 7))
}

fn product(one: u8, other: u8) -> u8 {
    let mut shifted = one;
    let mut sum = 0;
    for bit in 0..8 {
        sum ^= shifted & 0_u8.wrapping_sub(other >> bit & 1);
        shifted = double(shifted);
    }
    sum
}

/// The factor that undoes `by`, which is not 0: `by` to the power of 254.
fn inverse(by: u8) -> u8 {
    (0..254).fold(1, |power, _| product(power, by))
}

/// Adds `from` times `by` to `to`, up to the length of the shorter one.
fn multiply_into(to: &mut [u8], from: &[u8], by: u8) {
    let bits: [u8; 8] = std::array::from_fn(|bit| 0_u8.wrapping_sub(by >> bit & 1));
    for (to, from) in to.iter_mut().zip(from) {
        let (mut shifted, mut sum) = (*from, 0);
        for bit in bits {
            sum ^= shifted & bit;
            shifted = double(shifted);
        }
        *to ^= sum;
    }
}

fn multiply(bytes: &mut [u8], by: u8) {
    bytes.iter_mut().for_each(|byte| *byte = product(*byte, by));
}

/// Adds a data strip to the parities of its row. A second call with the same data removes it.
pub fn add_data(p: Option<&mut [u8]>, q: Option<&mut [u8]>, number: u8, data: &[u8]) {
    if let Some(p) = p {
        xor_into(p, data);
    }
    if let Some(q) = q {
        multiply_into(q, data, power(number));
    }
}

/// Computes a data strip from Q. `q` is Q without all other data strips, and becomes the strip.
pub(crate) fn solve_one(number: u8, q: &mut [u8]) {
    multiply(q, inverse(power(number)));
}

/// Computes two data strips from both parities. `p` and `q` are the parities without all other data strips. `q` becomes the first
/// strip, and `p` becomes the second one.
pub(crate) fn solve_two(first: u8, second: u8, p: &mut [u8], q: &mut [u8]) {
    let (of_first, of_second) = (power(first), power(second));
    // q = of_first * D1 + of_second * D2, and p = D1 + D2.
    multiply_into(q, p, of_second);
    multiply(q, inverse(of_first ^ of_second));
    xor_into(p, q);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_byte_has_an_inverse_and_255_powers_of_two_differ() {
        for byte in 1..=255 {
            assert_eq!(product(byte, inverse(byte)), 1);
        }
        let powers: std::collections::HashSet<u8> = (0..255).map(power).collect();
        assert_eq!(powers.len(), 255);
        // Known values: H. P. Anvin, "The mathematics of RAID-6", section 4.
        assert_eq!((power(8), product(0x80, 2)), (0x1d, 0x1d));
    }

    proptest! {
        #[test]
        fn multiplication_of_many_bytes_is_the_product_of_each(
            from in prop::collection::vec(any::<u8>(), 1..70),
            by in any::<u8>(),
        ) {
            let mut to = vec![0; from.len()];
            multiply_into(&mut to, &from, by);
            let expected: Vec<u8> = from.iter().map(|byte| product(*byte, by)).collect();
            prop_assert_eq!(to, expected);
        }

        /// Any two strips of a row that are lost can be computed.
        #[test]
        fn any_two_lost_strips_are_computed(
            strips in prop::collection::vec(prop::array::uniform16(any::<u8>()), 2..12),
            lost in any::<(prop::sample::Index, prop::sample::Index)>(),
        ) {
            let (mut p, mut q) = ([0; 16], [0; 16]);
            for (number, strip) in (0..).zip(&strips) {
                add_data(Some(&mut p), Some(&mut q), number, strip);
            }
            let (one, two) = (lost.0.index(strips.len()), lost.1.index(strips.len()));
            let (first, second) = (one.min(two), one.max(two));
            for (number, strip) in (0..).zip(&strips) {
                if usize::from(number) != first && usize::from(number) != second {
                    add_data(Some(&mut p), Some(&mut q), number, strip);
                }
            }
            let strip = |place: usize| u8::try_from(place).unwrap();
            if first == second {
                solve_one(strip(first), &mut q);
                prop_assert_eq!((p, q), (strips[first], strips[first]));
            } else {
                solve_two(strip(first), strip(second), &mut p, &mut q);
                prop_assert_eq!((q, p), (strips[first], strips[second]));
            }
        }
    }
}
