//! Figures of alternating rounds, and their text in tables.

/// The same figure from each round.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    pub(super) fn push(&mut self, value: f64) {
        let place = self.0.partition_point(|other| *other < value);
        self.0.insert(place, value);
    }

    /// The middle figure. `None` if there are no figures.
    pub(super) fn median(&self) -> Option<f64> {
        self.0.get(self.0.len() / 2).copied()
    }

    /// The median, then the lowest and the highest in brackets. A dash if there are no figures.
    pub(super) fn text(&self) -> String {
        match (self.0.first(), self.median(), self.0.last()) {
            (Some(low), Some(median), Some(high)) if self.0.len() > 1 => {
                format!("{} ({}–{})", short(median), short(*low), short(*high))
            }
            (_, Some(median), _) => short(median),
            _ => NOTHING.to_owned(),
        }
    }
}

/// The percentile of sorted values: the smallest value that `percent` of them do not exceed.
pub(super) fn at(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// The text for a missing figure.
pub(super) const NOTHING: &str = "–";

/// The ratio of two medians, or a dash.
pub(super) fn ratio(of: &Samples, to: &Samples) -> String {
    match (of.median(), to.median()) {
        (Some(of), Some(to)) if to > 0.0 => format!("{:.2}", of / to),
        _ => NOTHING.to_owned(),
    }
}

/// Rounds to three digits or more: `1.68 M`, `83.0 k`, `815`, `0.42`.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 1e6 => format!("{:.2} M", value / 1e6),
        v if v >= 1e4 => format!("{:.1} k", value / 1e3),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        0.0 => "0".to_owned(),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[f64]) -> Samples {
        let mut samples = Samples::default();
        values.iter().for_each(|value| samples.push(*value));
        samples
    }

    #[test]
    fn the_median_stands_before_the_spread() {
        assert_eq!(of(&[500.0, 100.0, 900.0]).text(), "500 (100–900)");
        assert_eq!(of(&[2.0]).text(), "2.00");
        assert_eq!(of(&[]).text(), NOTHING);
    }

    #[test]
    fn of_a_hundred_values_the_last_but_one_is_at_99_percent() {
        let values: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([50, 99, 100].map(|percent| at(&values, percent)), [50.0, 99.0, 100.0]);
        assert_eq!(at(&[7.0], 99), 7.0);
        assert_eq!(at(&[], 99), 0.0);
    }

    #[test]
    fn a_ratio_needs_both_sides() {
        assert_eq!(ratio(&of(&[3.0]), &of(&[2.0])), "1.50");
        assert_eq!(ratio(&of(&[3.0]), &of(&[])), NOTHING);
    }

    #[test]
    fn numbers_keep_three_digits() {
        let reported = [1_680_000.0, 83_000.0, 815.4, 66.2, 0.421, 0.0].map(short);
        assert_eq!(reported, ["1.68 M", "83.0 k", "815", "66.2", "0.42", "0"]);
    }
}
