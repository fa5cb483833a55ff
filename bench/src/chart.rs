//! The picture: one bar a row of established connections.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::report::Report;

/// Where Debian's fonts-dejavu-core has it, and others.
const FONTS: [&str; 3] = [
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/TTF/DejaVuSans.ttf",
];

const SIZE: (u32, u32) = (1000, 640);
const SMALL: RGBColor = RGBColor(0x8f, 0xbc, 0xd4);
const MIDDLE: RGBColor = RGBColor(0x3f, 0x87, 0xb0);
const LARGE: RGBColor = RGBColor(0x1d, 0x4e, 0x6f);
const OTHER: RGBColor = RGBColor(0x9a, 0x8c, 0x6b);

/// Draws the report into a PNG file.
///
/// # Errors
/// No font, or the file cannot be written.
pub fn draw(report: &Report, path: &Path) -> Result<()> {
    use_font()?;
    paint(report, path).map_err(|e| anyhow!("{}: {e}", path.display()))
}

/// Finds a font for all pictures of this process.
///
/// # Errors
/// There is none.
pub fn use_font() -> Result<()> {
    let font = FONTS
        .iter()
        .find_map(|path| fs::read(path).ok())
        .context("no font was found; Debian has one in the package fonts-dejavu-core")?;
    // For the rest of the process, which does this once.
    register_font(
        "sans-serif",
        FontStyle::Normal,
        Box::leak(font.into_boxed_slice()),
    )
    .map_err(|_| anyhow!("the font cannot be read"))
}

fn paint(report: &Report, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    // New connections cost ten times as much; on one scale with them nothing else could be read.
    let (new, rows): (Vec<_>, Vec<_>) = report
        .rows
        .iter()
        .filter(|row| !row.name.starts_with("ports") && row.destinations == 0)
        .partition(|row| row.name.starts_with("new-"));
    let testpmd = rows.iter().map(|r| r.testpmd_ns_per_packet).sum::<f64>() / rows.len() as f64;
    let most = rows.iter().map(|r| r.ns_per_packet).fold(testpmd, f64::max) * 1.15;

    let root = BitMapBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (title, body) = root.split_vertically(64);
    let text = |size: f64| ("sans-serif", size).into_font();
    title.draw_text(
        "CPU nanoseconds per 64-byte packet, one worker",
        &text(22.0).into(),
        (16, 10),
    )?;
    let below = format!(
        "{}; DPDK {}; {}",
        report.machine, report.dpdk, report.commit
    );
    title.draw_text(&below, &text(13.0).color(&BLACK.mix(0.6)), (16, 40))?;

    let mut chart = ChartBuilder::on(&body)
        .margin(12)
        .x_label_area_size(24)
        .y_label_area_size(200)
        .build_cartesian_2d(0.0..most, 0.0..rows.len() as f64)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .light_line_style(TRANSPARENT)
        .label_style(text(13.0))
        .draw()?;
    let bars = rows.iter().enumerate().map(|(i, row)| {
        let top = (rows.len() - i) as f64;
        let color = match row.flows {
            1_000 => SMALL,
            100_000 => MIDDLE,
            1_000_000 => LARGE,
            _ => OTHER,
        };
        Rectangle::new(
            [(0.0, top - 0.15), (row.ns_per_packet, top - 0.85)],
            color.filled(),
        )
    });
    chart.draw_series(bars)?;
    let values = rows.iter().enumerate().map(|(i, row)| {
        let label = format!("{:.1} ns, {:.2}x", row.ns_per_packet, row.ratio);
        let at = (
            row.ns_per_packet + most * 0.006,
            (rows.len() - i) as f64 - 0.22,
        );
        Text::new(label, at, text(13.0))
    });
    chart.draw_series(values)?;
    chart.draw_series([PathElement::new(
        vec![(testpmd, 0.0), (testpmd, rows.len() as f64)],
        RED.mix(0.7).stroke_width(1),
    )])?;
    let y = |i: usize| {
        chart
            .backend_coord(&(0.0, (rows.len() - i) as f64 - 0.22))
            .1
    };
    for (i, row) in rows.iter().enumerate() {
        let flows = match row.flows {
            0 => String::new(),
            n if n >= 1_000_000 => format!(" {}M", n / 1_000_000),
            n => format!(" {}k", n / 1_000),
        };
        root.draw_text(
            &format!("{}{flows}", row.name),
            &text(13.0).into(),
            (16, y(i)),
        )?;
    }
    let note = format!("red: dpdk-testpmd macswap, {testpmd:.1} ns");
    root.draw_text(&note, &text(13.0).color(&RED.mix(0.8)), (720, 40))?;
    if let Some(row) = new.first() {
        let note = format!(
            "a new connection: {:.0} ns, {:.1}x",
            row.ns_per_packet, row.ratio
        );
        root.draw_text(&note, &text(13.0).into(), (720, 16))?;
    }
    root.present()?;
    Ok(())
}
