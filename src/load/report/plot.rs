//! A plot as SVG: lines over two axes, with a grid, names and the colours of the page.

use std::fmt::Write;

/// The plot's size, and the room around it for names, in the units of the picture.
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 12.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// Lines that divide the height.
const DIVISIONS: u32 = 4;

/// A line of a plot.
pub(super) struct Curve {
    /// Its name, and the number of its colour.
    pub(super) name: String,
    pub(super) colour: usize,
    /// Whether it is dashed, so that two lines of one colour are told apart.
    pub(super) is_dashed: bool,
    /// Points, from left to right.
    pub(super) points: Vec<(f64, f64)>,
}

/// What lies along the horizontal axis.
pub(super) enum Along {
    /// Seconds, evenly.
    Seconds,
    /// Shares in percent, so that the way from 90 to 99 is as long as that from 99 to 99.9.
    Percentiles,
}

/// A plot of these curves.
pub(super) fn plot(title: &str, unit: &str, along: &Along, curves: &[Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let across = |x: f64| match along {
        Along::Seconds => x,
        // The last point, 100 %, would lie infinitely far to the right.
        Along::Percentiles => -(1.0 - (x / 100.0).min(0.99999)).log10(),
    };
    let right = points().map(|(x, _)| across(*x)).fold(1.0, f64::max);
    let high = nice(points().map(|(_, y)| *y).fold(0.0, f64::max));
    let place = |x: f64, y: f64| {
        (
            LEFT + (WIDTH - LEFT - RIGHT) * across(x) / right,
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * y / high,
        )
    };
    let mut picture = format!(
        "<figure><figcaption>{title}, {unit}</figcaption>\
         <svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{title}, {unit}\">"
    );
    for division in 0..=DIVISIONS {
        let value = high * f64::from(division) / f64::from(DIVISIONS);
        let (x, y) = place(0.0, value);
        let end = WIDTH - RIGHT;
        let number = number(value);
        // Writing to a string does not fail.
        let _written = write!(
            picture,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{y:.1}\" x2=\"{end:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"height\" x=\"{:.1}\" y=\"{:.1}\">{number}</text>",
            x - 8.0,
            y + 4.0
        );
    }
    for (x, name) in marks(along, right) {
        let (x, y) = place(x, 0.0);
        let _written = write!(
            picture,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP:.1}\" x2=\"{x:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"across\" x=\"{x:.1}\" y=\"{:.1}\">{name}</text>",
            y + 18.0
        );
    }
    for curve in curves {
        let class = if curve.is_dashed { "curve dashed" } else { "curve" };
        let _written = write!(
            picture,
            "<polyline class=\"{class} colour-{}\" points=\"",
            curve.colour
        );
        for (x, y) in &curve.points {
            let (x, y) = place(*x, *y);
            let _written = write!(picture, "{x:.1},{y:.1} ");
        }
        let _written = write!(
            picture,
            "\"><title>{}</title></polyline>",
            super::page::escaped(&curve.name)
        );
    }
    picture.push_str("</svg><ul class=\"names\">");
    for curve in curves {
        let class = if curve.is_dashed { "dashed " } else { "" };
        let name = super::page::escaped(&curve.name);
        let _written = write!(
            picture,
            "<li class=\"{class}colour-{}\">{name}</li>",
            curve.colour
        );
    }
    picture.push_str("</ul></figure>");
    picture
}

/// Where the horizontal axis has a name.
fn marks(along: &Along, right: f64) -> Vec<(f64, String)> {
    match along {
        Along::Seconds => {
            let step = nice(right / 6.0);
            std::iter::successors(Some(0.0), |x| Some(x + step))
                .take_while(|x| *x <= right)
                .map(|x| (x, format!("{} s", number(x))))
                .collect()
        }
        Along::Percentiles => [0.0, 50.0, 90.0, 99.0, 99.9, 99.99]
            .into_iter()
            .map(|share| (share, format!("{share} %")))
            .collect(),
    }
}

/// The least of 1, 2 and 5 and their tenfolds that is not below this.
fn nice(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let tenfold = 10_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let step = steps.into_iter().find(|step| step * tenfold >= value * 0.999_999);
    step.unwrap_or(10.0) * tenfold
}

/// A number with as many digits as are of use.
fn number(value: f64) -> String {
    if value >= 10.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}").trim_end_matches('0').to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        for (value, expected) in [
            (0.0, 1.0),
            (0.03, 0.05),
            (1.0, 1.0),
            (1.1, 2.0),
            (4.9, 5.0),
            (730.0, 1000.0),
        ] {
            assert!((nice(value) - expected).abs() < 1e-9, "{value}: {}", nice(value));
        }
        assert_eq!(
            [number(0.25), number(0.5), number(20.0), number(0.0)],
            ["0.25", "0.5", "20", "0"]
        );
    }

    #[test]
    fn every_point_lies_within_the_picture() {
        for along in [Along::Seconds, Along::Percentiles] {
            let curve = Curve {
                name: "<one>".to_owned(),
                colour: 0,
                is_dashed: false,
                points: vec![(0.0, 0.0), (50.0, 3.0), (100.0, 7.3)],
            };
            let picture = plot("Times", "ms", &along, &[curve]);
            assert!(
                picture.contains("&lt;one&gt;") && !picture.contains("<one>"),
                "{picture}"
            );
            let points = picture
                .split("points=\"")
                .nth(1)
                .unwrap()
                .split('"')
                .next()
                .unwrap();
            let points: Vec<(f64, f64)> = points
                .split_whitespace()
                .map(|point| point.split_once(',').unwrap())
                .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
                .collect();
            assert_eq!(points.len(), 3);
            for (x, y) in points {
                assert!(
                    (LEFT..=WIDTH).contains(&x) && (TOP..=HEIGHT - BOTTOM).contains(&y),
                    "{x} {y}"
                );
            }
        }
    }
}
