//! Parity of levels with one parity strip: the XOR of the data strips.

/// Adds `from` to `to` by XOR, up to the length of the shorter one. A second call with the same bytes removes them.
///
/// The loop has no branch, so the compiler makes it use the widest registers that the target has.
#[inline]
pub fn xor_into(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to ^= from;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A strip that is lost is the sum of all others.
        #[test]
        fn any_lost_strip_is_the_sum_of_the_rest(
            strips in prop::collection::vec(prop::array::uniform32(any::<u8>()), 2..9),
            lost in any::<prop::sample::Index>(),
        ) {
            let mut row = strips.clone();
            let mut parity = [0; 32];
            strips.iter().for_each(|strip| xor_into(&mut parity, strip));
            row.push(parity);
            let lost = lost.index(row.len());
            let mut sum = [0; 32];
            for (_, strip) in row.iter().enumerate().filter(|(number, _)| *number != lost) {
                xor_into(&mut sum, strip);
            }
            prop_assert_eq!(sum, row[lost]);
        }
    }
}
