//! Medians and spreads.

/// The value that `share` of the values are below; NaN when there is none.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * share) as usize;
    sorted
        .get(at.min(sorted.len().saturating_sub(1)))
        .copied()
        .unwrap_or(f64::NAN)
}

/// The middle of what was measured, and its ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) low: f64,
    pub(crate) high: f64,
}

impl Spread {
    /// Of at least one finite value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|v| v.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (low, high) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, low, high })
    }

    /// What comes one after the other in these milliseconds, per second.
    pub(crate) fn inverse_of_milliseconds(self) -> Self {
        Self {
            median: 1e3 / self.median,
            low: 1e3 / self.high,
            high: 1e3 / self.low,
        }
    }

    /// As `median (low–high)`.
    pub(crate) fn shown(&self) -> String {
        if (self.low - self.high).abs() < f64::EPSILON {
            return number(self.median);
        }
        format!(
            "{} ({}–{})",
            number(self.median),
            number(self.low),
            number(self.high)
        )
    }
}

/// Three digits that count, thousands apart.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 0.1 || v == 0.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, rest) = text.split_once('.').unwrap_or((&text, ""));
    let mut grouped = String::new();
    let (sign, figures) = whole.strip_prefix('-').map_or(("", whole), |w| ("-", w));
    for (at, digit) in figures.chars().enumerate() {
        if at > 0 && (figures.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match rest {
        "" => format!("{sign}{grouped}"),
        rest => format!("{sign}{grouped}.{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let shown = |values: &[f64]| Spread::of(values.iter().copied()).map(|spread| spread.shown());
        assert_eq!(shown(&[9.0, 1.0, 2.0]).as_deref(), Some("2.00 (1.00–9.00)"));
        assert_eq!(shown(&[1.0, 2.0]).as_deref(), Some("1.50 (1.00–2.00)"));
        assert_eq!(Spread::of([f64::NAN]), None);
        let four = [3.0, 1.0, 2.0, 4.0];
        assert_eq!(number(percentile(&four, 0.5)), "3.00");
        assert_eq!(number(percentile(&four, 0.99)), "4.00");
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(number(1_234_567.8), "1,234,568");
        assert_eq!(number(12.34), "12.3");
        assert_eq!(number(0.0123), "0.012");
        assert_eq!(Spread::of([2.0, 4.0, 3.0]).unwrap().shown(), "3.00 (2.00–4.00)");
    }
}
