//! What was measured: the table on the terminal and `results.json`.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    machine::Machine,
    plot::Curve,
    samples::Samples,
    target::{self, Of},
};

/// One comparison.
#[derive(Clone, Debug)]
pub struct Metric {
    /// Its name, stable.
    pub name: &'static str,
    /// Unit of ours and theirs.
    pub unit: &'static str,
    /// Our runs; empty when it was not measured.
    pub ours: Samples,
    /// The peer and its runs.
    pub theirs: Option<(&'static str, Samples)>,
    /// The ratio is theirs ÷ ours: the metric's name has the peer first.
    pub is_peer_first: bool,
    /// What a reader must know.
    pub note: String,
}

impl Metric {
    /// Ours alone.
    #[must_use]
    pub fn alone(name: &'static str, unit: &'static str, ours: Samples) -> Self {
        Self { name, unit, ours, theirs: None, is_peer_first: false, note: String::new() }
    }

    /// Ours beside a peer's.
    #[must_use]
    pub fn beside(
        name: &'static str,
        unit: &'static str,
        ours: Samples,
        versus: &'static str,
        theirs: Samples,
    ) -> Self {
        Self { theirs: Some((versus, theirs)), ..Self::alone(name, unit, ours) }
    }

    /// As a metric whose name has the peer first.
    #[must_use]
    pub fn peer_first(self) -> Self {
        Self { is_peer_first: true, ..self }
    }

    /// With a note.
    #[must_use]
    pub fn note(self, note: impl Into<String>) -> Self {
        Self { note: note.into(), ..self }
    }

    /// Ours ÷ theirs, or the other way round if the peer is first; by medians.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let (_, theirs) = self.theirs.as_ref()?;
        let (ours, theirs) = (self.ours.median(), theirs.median());
        Some(if self.is_peer_first { theirs / ours } else { ours / theirs })
    }

    /// Whether the target is met; `None` without one.
    #[must_use]
    pub fn met(&self) -> Option<bool> {
        let target = target::of(self.name)?;
        let value = match target.of {
            Of::Ours => self.ours.median(),
            Of::Ratio => self.ratio().unwrap_or(f64::NAN),
        };
        Some(target.bound.holds(value))
    }
}

/// One line of `results.json`. What was not measured is null.
#[derive(Serialize)]
struct Line<'a> {
    name: &'a str,
    unit: &'a str,
    ours: Option<f64>,
    theirs: Option<f64>,
    versus: Option<&'a str>,
    ratio: Option<f64>,
    ours_min: Option<f64>,
    ours_max: Option<f64>,
    theirs_min: Option<f64>,
    theirs_max: Option<f64>,
    target: Option<String>,
    met: Option<bool>,
    note: &'a str,
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

impl<'a> From<&'a Metric> for Line<'a> {
    fn from(metric: &'a Metric) -> Self {
        let theirs = |number: fn(&Samples) -> f64| {
            metric.theirs.as_ref().and_then(|(_, samples)| finite(number(samples)))
        };
        Self {
            name: metric.name,
            unit: metric.unit,
            ours: finite(metric.ours.median()),
            theirs: theirs(Samples::median),
            versus: metric.theirs.as_ref().map(|(versus, _)| *versus),
            ratio: metric.ratio().and_then(finite),
            ours_min: finite(metric.ours.min()),
            ours_max: finite(metric.ours.max()),
            theirs_min: theirs(Samples::min),
            theirs_max: theirs(Samples::max),
            target: target::of(metric.name).map(|target| target.bound.to_string()),
            met: metric.met(),
            note: &metric.note,
        }
    }
}

#[derive(Serialize)]
struct File<'a> {
    machine: &'a Machine,
    revision: &'a str,
    runs: usize,
    results: Vec<Line<'a>>,
    curves: &'a [Curve],
}

/// Write `results.json` into `dir`.
///
/// # Errors
/// When it cannot be written.
pub fn write(
    dir: &Path,
    machine: &Machine,
    revision: &str,
    runs: usize,
    metrics: &[Metric],
    curves: &[Curve],
) -> anyhow::Result<()> {
    let results = metrics.iter().map(Line::from).collect();
    let file = File { machine, revision, runs, results, curves };
    let path = dir.join("results.json");
    fs::write(&path, serde_json::to_vec_pretty(&file)?)
        .with_context(|| format!("write {}", path.display()))
}

/// The table for readers.
#[must_use]
pub fn table(metrics: &[Metric]) -> String {
    let mut text = format!(
        "{:<29} {:>20} {:>20} {:>7}  {:<8} {:<6} {}\n",
        "metric", "ours (min–max)", "theirs (min–max)", "ratio", "target", "", "unit; versus; note"
    );
    for metric in metrics {
        let (versus, theirs) = match &metric.theirs {
            Some((versus, samples)) => (*versus, shown(samples)),
            None => ("", "–".to_owned()),
        };
        let ratio =
            metric.ratio().and_then(finite).map_or("–".to_owned(), |it| format!("{it:.2}"));
        let target = target::of(metric.name).map_or_else(String::new, |it| it.bound.to_string());
        let met = match metric.met() {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        let about = [metric.unit, versus, &metric.note];
        let about: Vec<_> = about.into_iter().filter(|text| !text.is_empty()).collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:<29} {:>20} {:>20} {ratio:>7}  {target:<8} {met:<6} {}",
            metric.name,
            shown(&metric.ours),
            theirs,
            about.join("; ")
        );
    }
    text
}

fn shown(samples: &Samples) -> String {
    if samples.median().is_nan() {
        return "not measured".to_owned();
    }
    let [median, min, max] = [samples.median(), samples.min(), samples.max()].map(short);
    if min == max { median } else { format!("{median} ({min}–{max})") }
}

fn short(value: f64) -> String {
    match value.abs() {
        large if large >= 1e6 => format!("{:.1}M", value / 1e6),
        large if large >= 1e4 => format!("{:.1}k", value / 1e3),
        large if large >= 100.0 => format!("{value:.0}"),
        large if large >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_that_was_not_measured_is_missed() {
        let metric = Metric::alone("latency_p99_vs_testpmd", "µs", Samples::default());
        assert_eq!(metric.met(), Some(false));
        assert!(table(std::slice::from_ref(&metric)).contains("not measured"));
        let line = serde_json::to_value(Line::from(&metric)).expect("json");
        assert!(line["ours"].is_null() && line["ratio"].is_null());
    }

    #[test]
    fn ratios_are_of_medians() {
        let samples = |values: &[f64]| values.iter().copied().collect();
        let metric = Metric::beside(
            "packet_cycles_vs_5tswap",
            "cycles",
            samples(&[100.0, 120.0, 900.0]),
            "testpmd",
            samples(&[80.0]),
        );
        assert_eq!(metric.ratio(), Some(1.5));
        assert_eq!(metric.met(), Some(true));
        let metric = Metric { name: "precopy_time_vs_ours", ..metric }.peer_first();
        assert_eq!(metric.ratio(), Some(80.0 / 120.0));
        assert_eq!(metric.met(), Some(false));
    }
}
