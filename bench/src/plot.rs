//! `bench --plot FILE --picture FILE.png`: lines or bars from a small JSON description, for every
//! picture of the kit, whatever program measured.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use serde::{Deserialize, Serialize};

use crate::chart;

const SIZE: (u32, u32) = (900, 520);
const COLORS: [RGBColor; 6] = [
    RGBColor(0x1d, 0x4e, 0x6f),
    RGBColor(0xc2, 0x5b, 0x2c),
    RGBColor(0x3d, 0x8b, 0x52),
    RGBColor(0x8a, 0x4f, 0x9e),
    RGBColor(0x9a, 0x8c, 0x6b),
    RGBColor(0x3f, 0x87, 0xb0),
];

/// A picture: either `series` of points or `bars`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Drawing {
    /// Above it.
    pub title: String,
    /// Below the title, smaller: machine, date, what is measured and what is not.
    #[serde(default)]
    pub note: String,
    /// Name of the horizontal axis.
    #[serde(default)]
    pub x: String,
    /// Name of the vertical axis, with its unit.
    pub y: String,
    /// The horizontal axis is logarithmic.
    #[serde(default)]
    pub log_x: bool,
    /// Lines.
    #[serde(default)]
    pub series: Vec<Series>,
    /// Bars: label and value.
    #[serde(default)]
    pub bars: Vec<(String, f64)>,
}

/// One line of a picture.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Series {
    /// In the legend.
    pub name: String,
    /// From left to right.
    pub points: Vec<(f64, f64)>,
    /// Computed, not measured: drawn without marks, thinner.
    #[serde(default)]
    pub model: bool,
}

/// Reads a description ("-" is standard input) and draws it.
///
/// # Errors
/// It cannot be read or holds nothing to draw; no font; the picture cannot be written.
pub fn draw_file(from: &str, picture: &Path) -> Result<()> {
    let mut text = String::new();
    if from == "-" {
        std::io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(from).with_context(|| from.to_owned())?;
    }
    let drawing: Drawing = serde_json::from_str(&text).with_context(|| from.to_owned())?;
    chart::use_font()?;
    draw(&drawing, picture)
}

/// Draws into a PNG file. The font is in use already.
///
/// # Errors
/// Nothing to draw, or the picture cannot be written.
pub fn draw(drawing: &Drawing, picture: &Path) -> Result<()> {
    let points = drawing.series.iter().map(|s| s.points.len()).sum::<usize>();
    ensure!(
        points + drawing.bars.len() > 0,
        "nothing to draw: give `series` with points, or `bars`"
    );
    paint(drawing, picture).map_err(|e| anyhow!("{}: {e}", picture.display()))
}

fn text(size: f64) -> FontDesc<'static> {
    ("sans-serif", size).into_font()
}

type Painted = Result<(), Box<dyn std::error::Error>>;

fn paint(drawing: &Drawing, picture: &Path) -> Painted {
    let root = BitMapBackend::new(picture, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(56);
    head.draw_text(&drawing.title, &text(20.0).into(), (16, 10))?;
    let small = text(12.0).color(&BLACK.mix(0.6));
    head.draw_text(&drawing.note, &small, (16, 36))?;
    if drawing.bars.is_empty() {
        let all = || drawing.series.iter().flat_map(|s| s.points.iter());
        let (low, high) = range(all().map(|p| p.0));
        let top = range(all().map(|p| p.1)).1 * 1.08;
        if drawing.log_x {
            lines(drawing, &body, (low.max(1.0)..high).log_scale(), top)?;
        } else {
            lines(drawing, &body, low.min(0.0)..high, top)?;
        }
    } else {
        bars(drawing, &body)?;
    }
    root.present()?;
    Ok(())
}

fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (low, high) = values.fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    // A single point still needs an axis.
    (low, if high > low { high } else { low + 1.0 })
}

/// `2500000` as `2.5M`.
fn short(value: f64) -> String {
    let (scaled, unit) = match value.abs() {
        v if v >= 1e9 => (value / 1e9, "G"),
        v if v >= 1e6 => (value / 1e6, "M"),
        v if v >= 1e4 => (value / 1e3, "k"),
        _ => (value, ""),
    };
    let digits = format!("{scaled:.2}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{digits}{unit}")
}

fn lines<X>(
    drawing: &Drawing,
    body: &DrawingArea<BitMapBackend<'_>, Shift>,
    x: X,
    top: f64,
) -> Painted
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let mut chart = ChartBuilder::on(body)
        .margin(14)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d(x, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc(&drawing.x)
        .y_desc(&drawing.y)
        .x_label_formatter(&|v| short(*v))
        .y_label_formatter(&|v| short(*v))
        .light_line_style(TRANSPARENT)
        .label_style(text(13.0))
        .draw()?;
    for (series, color) in drawing.series.iter().zip(COLORS.into_iter().cycle()) {
        let width = if series.model { 1 } else { 2 };
        let style = color.stroke_width(width);
        chart
            .draw_series(LineSeries::new(series.points.iter().copied(), style))?
            .label(&series.name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], style));
        if !series.model {
            let mark = |&point: &(f64, f64)| Circle::new(point, 3, color.filled());
            chart.draw_series(series.points.iter().map(mark))?;
        }
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(text(13.0))
        .draw()?;
    Ok(())
}

fn bars(drawing: &Drawing, body: &DrawingArea<BitMapBackend<'_>, Shift>) -> Painted {
    let top = drawing
        .bars
        .iter()
        .map(|b| b.1)
        .fold(0.0, f64::max)
        .max(1e-9)
        * 1.15;
    let mut chart = ChartBuilder::on(body)
        .margin(14)
        .x_label_area_size(30)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..drawing.bars.len() as f64, 0.0..top)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc(&drawing.y)
        .y_label_formatter(&|v| short(*v))
        .label_style(text(13.0))
        .draw()?;
    for (i, (label, value)) in drawing.bars.iter().enumerate() {
        let left = i as f64;
        let bar = [(left + 0.15, 0.0), (left + 0.85, *value)];
        chart.draw_series([Rectangle::new(bar, COLORS[0].filled())])?;
        let above = (left + 0.15, value + top * 0.04);
        chart.draw_series([Text::new(short(*value), above, text(13.0))])?;
        let (x, y) = chart.backend_coord(&(left + 0.15, 0.0));
        // Coordinates of the whole picture, but drawn in the body.
        let offset = body.get_base_pixel().1;
        body.draw_text(label, &text(13.0).into(), (x, y - offset + 6))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_are_readable() {
        for (value, text) in [
            (0.0, "0"),
            (999.5, "999.5"),
            (20_000.0, "20k"),
            (2_500_000.0, "2.5M"),
            (1e9, "1G"),
        ] {
            assert_eq!(short(value), text);
        }
    }

    #[test]
    fn nothing_to_draw_is_refused() {
        let empty = Drawing::default();
        let error = draw(&empty, Path::new("unused.png")).unwrap_err();
        assert!(error.to_string().contains("nothing to draw"), "{error}");
    }
}
