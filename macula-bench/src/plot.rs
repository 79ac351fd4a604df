//! How rates scale, as SVG.

use std::path::Path;

use plotters::prelude::*;

use crate::case::Curve;
use crate::report::Line;

const SIZE: (u32, u32) = (900, 500);

/// Draws each curve that has points, as `NAME.svg` in `into`.
pub(crate) fn curves(lines: &[Line], into: &Path) -> Result<(), String> {
    for curve in Curve::ALL {
        let points: Vec<&Line> = lines.iter().filter(|line| line.case.curve == Some(curve)).collect();
        if points.len() > 1 {
            let file = into.join(format!("{}.svg", curve.name()));
            draw(curve, &points, &file).map_err(|error| format!("{}: {error}", file.display()))?;
        }
    }
    Ok(())
}

fn draw(curve: Curve, lines: &[&Line], file: &Path) -> Result<(), String> {
    let points = |rate: &dyn Fn(&Line) -> Option<f64>| -> Vec<(f64, f64)> {
        lines.iter().filter_map(|line| Some((line.case.at() as f64, rate(line)? / 1e3))).collect()
    };
    let series = [
        ("Macula", BLUE, points(&|line| Some(line.ours.rate))),
        ("raw QUIC", RED, points(&|line| Some(line.raw?.rate))),
    ];
    let all = || series.iter().flat_map(|(_, _, points)| points.iter().copied());
    let (left, right) =
        (all().map(|at| at.0).fold(f64::MAX, f64::min), all().map(|at| at.0).fold(1.0, f64::max));
    let top = all().map(|at| at.1).fold(1.0, f64::max) * 1.1;
    let area = SVGBackend::new(file, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(text)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(format!("Deliveries over {}", curve.name()), ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(40)
        .y_label_area_size(70)
        .build_cartesian_2d((left..right).log_scale(), 0.0..top)
        .map_err(text)?;
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(curve.name()).y_desc("thousands a second").draw().map_err(text)?;
    for (name, color, points) in series {
        let drawn =
            chart.draw_series(LineSeries::new(points, color.stroke_width(2)).point_size(3)).map_err(text)?;
        drawn.label(name).legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color));
    }
    chart.configure_series_labels().border_style(BLACK).draw().map_err(text)?;
    area.present().map_err(text)
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
