//! Numbers of repeated runs.

/// What the runs of one subject gave.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Add a run's number.
    pub fn push(&mut self, value: f64) {
        let at = self.0.partition_point(|&other| other < value);
        self.0.insert(at, value);
    }

    /// The middle one; of an even number, the mean of the two in the middle. Not a number when there are none.
    #[must_use]
    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() {
            0 => f64::NAN,
            odd if odd % 2 == 1 => self.0[middle],
            _ => self.0[middle - 1].midpoint(self.0[middle]),
        }
    }

    /// The smallest.
    #[must_use]
    pub fn min(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    /// The largest.
    #[must_use]
    pub fn max(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut samples = Self::default();
        values.into_iter().for_each(|value| samples.push(value));
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        let samples: Samples = [3.0, 1.0, 2.0].into_iter().collect();
        assert_eq!((samples.median(), samples.min(), samples.max()), (2.0, 1.0, 3.0));
        let samples: Samples = [4.0, 1.0].into_iter().collect();
        assert_eq!(samples.median(), 2.5);
        assert!(Samples::default().median().is_nan());
    }
}
