//! The strips of one row: computing parity from data, and lost data from parity.

use crate::gf::{add_data, solve_one, solve_two};
use crate::layout::{Row, RowRole};
use std::ops::DerefMut;

/// Computes the data strips that are missing, in place. `strips` has what could be read of the members' strips, by slot, all of the
/// same length. The result takes the buffers of parities, whose places become empty. Returns `false` if too few strips are there.
pub fn recover<B>(row: Row, strips: &mut [Option<B>]) -> bool
where
    B: DerefMut,
    B::Target: AsRef<[u8]> + AsMut<[u8]>,
{
    let is_missing =
        |number: &u8| strips.get(usize::from(row.data(*number))).is_none_or(Option::is_none);
    let mut missing = (0..row.data_strips()).filter(is_missing);
    let (first, second, third) = (missing.next(), missing.next(), missing.next());
    let Some(first) = first else { return true };
    let mut take = |slot: u8| strips.get_mut(usize::from(slot)).and_then(Option::take);
    let mut p = take(row.p());
    // Take Q only if it is needed.
    let mut q = match row.q() {
        Some(q) if p.is_none() || second.is_some() => take(q),
        _ => None,
    };
    let is_known = |number: &u8| *number != first && Some(*number) != second;
    for number in (0..row.data_strips()).filter(is_known) {
        if let Some(Some(strip)) = strips.get(usize::from(row.data(number))) {
            let (p, q) = (p.as_mut().map(|p| (**p).as_mut()), q.as_mut().map(|q| (**q).as_mut()));
            add_data(p, q, number, (**strip).as_ref());
        }
    }
    let mut put = |number: u8, strip: B| {
        if let Some(place) = strips.get_mut(usize::from(row.data(number))) {
            *place = Some(strip);
        }
    };
    match (second, p, q) {
        _ if third.is_some() => return false,
        (None, Some(p), _) => put(first, p),
        (None, None, Some(mut q)) => {
            solve_one(first, (*q).as_mut());
            put(first, q);
        }
        (Some(second), Some(mut p), Some(mut q)) => {
            solve_two(first, second, (*p).as_mut(), (*q).as_mut());
            put(first, q);
            put(second, p);
        }
        _ => return false,
    }
    true
}

/// Computes a parity strip from all data strips of its row. Returns `false` if a data strip is missing or `role` is not a parity.
pub fn fill_parity<B>(row: Row, role: RowRole, strips: &[Option<B>], parity: &mut [u8]) -> bool
where
    B: DerefMut,
    B::Target: AsRef<[u8]>,
{
    parity.fill(0);
    (0..row.data_strips()).all(|number| {
        let Some(Some(data)) = strips.get(usize::from(row.data(number))) else { return false };
        match role {
            RowRole::P => add_data(Some(parity), None, number, (**data).as_ref()),
            RowRole::Q => add_data(None, Some(parity), number, (**data).as_ref()),
            RowRole::Data(_) => return false,
        }
        true
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Layout, Level};
    use proptest::prelude::*;

    proptest! {
        /// As many members as the level has parities may be lost, whichever they are.
        #[test]
        fn lost_strips_are_computed_from_the_others(
            level in prop::sample::select(vec![Level::Raid5, Level::Raid6]),
            members in 4_usize..12,
            number in 0_u64..40,
            seed in any::<u8>(),
            lost in any::<(prop::sample::Index, prop::sample::Index)>(),
        ) {
            let layout = Layout::new(level, 1, &vec![64; members]).unwrap();
            let row = layout.row(number);
            let mut whole: Vec<Option<Vec<u8>>> = vec![None; members];
            for number in 0..row.data_strips() {
                let byte = |at: u8| at.wrapping_mul(31) ^ seed.wrapping_mul(number + 3);
                whole[usize::from(row.data(number))] = Some((0..16).map(byte).collect());
            }
            for slot in row.parities() {
                let mut parity = vec![0xee; 16];
                prop_assert!(fill_parity(row, row.role(slot), &whole, &mut parity));
                whole[usize::from(slot)] = Some(parity);
            }
            let mut gone = vec![lost.0.index(members)];
            gone.extend((level == Level::Raid6).then(|| lost.1.index(members)));
            let mut left = whole.clone();
            gone.iter().for_each(|slot| left[*slot] = None);
            prop_assert!(recover(row, &mut left));
            for number in 0..row.data_strips() {
                let slot = usize::from(row.data(number));
                prop_assert_eq!(&left[slot], &whole[slot], "{} without {:?}", slot, gone);
            }
            // One data strip more is too much.
            let mut left = whole.clone();
            let data: Vec<usize> = (0..row.data_strips()).map(|data| row.data(data).into()).collect();
            let parities = usize::from(level.parities());
            prop_assume!(data.len() > parities);
            data.iter().take(parities + 1).for_each(|slot| left[*slot] = None);
            prop_assert!(!recover(row, &mut left));
        }
    }
}
