//! Curves as SVG: cycles against number of sessions, the latter on a logarithmic axis.

use std::fmt::Write as _;

use serde::Serialize;

/// Numbers of one subject over sizes.
#[derive(Clone, Debug, Serialize)]
pub struct Curve {
    /// The plot it belongs to.
    pub plot: &'static str,
    /// The subject.
    pub subject: String,
    /// Unit of the values.
    pub unit: &'static str,
    /// Number of sessions and value.
    pub points: Vec<(u32, f64)>,
}

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 70.0;
const RIGHT: f64 = 200.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 50.0;
/// Distinct also for readers who do not see colours alike (Okabe and Ito 2008).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// The curves of one plot as an SVG document.
#[must_use]
pub fn svg(title: &str, curves: &[&Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let log = |sessions: u32| f64::from(sessions.max(1)).log10();
    let low = points().map(|&(x, _)| log(x)).fold(f64::INFINITY, f64::min);
    let high = points().map(|&(x, _)| log(x)).fold(low + 1e-9, f64::max);
    let top = round_up(points().map(|&(_, y)| y).fold(1e-9, f64::max));
    let x = |sessions: u32| LEFT + (log(sessions) - low) / (high - low) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM);

    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"22\" font-size=\"15\">{title}</text>\n"
    );
    for step in 0..=5 {
        let value = top * f64::from(step) / 5.0;
        line(&mut out, (LEFT, y(value)), (WIDTH - RIGHT, y(value)), "#dddddd");
        text(&mut out, LEFT - 8.0, y(value) + 4.0, "end", &format!("{value:.0}"));
    }
    let mut sizes: Vec<_> = points().map(|&(x, _)| x).collect();
    sizes.sort_unstable();
    sizes.dedup();
    for &size in &sizes {
        line(&mut out, (x(size), y(0.0)), (x(size), y(0.0) + 5.0), "#555555");
        text(&mut out, x(size), y(0.0) + 18.0, "middle", &short(size));
    }
    let unit = curves.first().map_or("", |curve| curve.unit);
    text(&mut out, LEFT, HEIGHT - 12.0, "start", &format!("sessions → ({unit})"));
    for (curve, (colour, row)) in curves.iter().zip(COLOURS.iter().cycle().zip(0u32..)) {
        let path: Vec<_> =
            curve.points.iter().map(|&(a, b)| format!("{:.1},{:.1}", x(a), y(b))).collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            path.join(" ")
        );
        for &(a, b) in &curve.points {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(a),
                y(b)
            );
        }
        let at = TOP + 18.0 * f64::from(row);
        line(&mut out, (WIDTH - RIGHT + 12.0, at), (WIDTH - RIGHT + 34.0, at), colour);
        text(&mut out, WIDTH - RIGHT + 40.0, at + 4.0, "start", &curve.subject);
    }
    out + "</svg>\n"
}

fn line(out: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        out,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(out: &mut String, x: f64, y: f64, anchor: &str, text: &str) {
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>");
}

/// The next of 1, 2, 5, 10 … times five steps.
fn round_up(value: f64) -> f64 {
    let magnitude = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 2.5, 5.0, 10.0]
        .iter()
        .map(|step| step * magnitude)
        .find(|&candidate| candidate >= value)
        .unwrap_or(value)
}

fn short(sessions: u32) -> String {
    match sessions {
        millions if millions >= 1_000_000 => format!("{:.0} M", f64::from(millions) / 1e6),
        thousands if thousands >= 1_000 => format!("{:.0} k", f64::from(thousands) / 1e3),
        few => few.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_inside() {
        let points = vec![(1_000, 50.0), (64_000, 90.0), (1_000_000, 240.0)];
        let curve = Curve { plot: "p", subject: "box".into(), unit: "cycles", points };
        let drawn = svg("cycles per packet", &[&curve]);
        assert_eq!(drawn.matches("<circle").count(), 3);
        for part in drawn.split("cx=\"").skip(1) {
            let x: f64 = part.split('"').next().expect("a value").parse().expect("a number");
            assert!((LEFT..=WIDTH - RIGHT).contains(&x));
        }
    }
}
