//! Figures against one another, as a table and as a picture.

use std::fmt::Write as _;

/// Several lines over the same points.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve {
    /// What it is called, as a file may be.
    pub name: &'static str,
    /// What it shows.
    pub about: &'static str,
    /// What goes from left to right.
    pub across: &'static str,
    /// Whether that is drawn by its logarithm; then all of it must be positive.
    pub is_logarithmic: bool,
    /// The points, in order.
    pub at: Vec<f64>,
    /// Each line's name with its unit, and a value for each point.
    pub lines: Vec<(&'static str, Vec<f64>)>,
}

/// One line's drawing: its own scale, because the lines' units differ.
const PANEL_WIDTH: f64 = 560.0;
const PANEL_HEIGHT: f64 = 130.0;
const MARGIN: f64 = 50.0;

impl Curve {
    /// As comma-separated values with a heading.
    pub fn to_csv(&self) -> String {
        let mut csv = String::from(self.across);
        for (name, _) in &self.lines {
            let _ = write!(csv, ",\"{name}\"");
        }
        csv.push('\n');
        for (place, at) in self.at.iter().enumerate() {
            let _ = write!(csv, "{at}");
            for (_, values) in &self.lines {
                let _ = write!(csv, ",{:.3}", values[place]);
            }
            csv.push('\n');
        }
        csv
    }

    /// As an SVG picture, one panel a line.
    pub fn to_svg(&self) -> String {
        let (width, height) =
            (PANEL_WIDTH + 2.0 * MARGIN, (PANEL_HEIGHT + MARGIN) * self.lines.len() as f64 + MARGIN);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
             <text x=\"{MARGIN}\" y=\"20\" font-size=\"15\">{} ({})</text>\n",
            self.about, self.across
        );
        for (number, (name, values)) in self.lines.iter().enumerate() {
            let top = MARGIN + (PANEL_HEIGHT + MARGIN) * number as f64;
            self.draw(&mut svg, top, name, values);
        }
        svg.push_str("</svg>\n");
        svg
    }

    fn draw(&self, svg: &mut String, top: f64, name: &str, values: &[f64]) {
        let highest = values.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
        let bottom = top + PANEL_HEIGHT;
        let _ = writeln!(svg, "<text x=\"{MARGIN}\" y=\"{}\">{name}</text>", top - 6.0);
        let _ = writeln!(
            svg,
            "<rect x=\"{MARGIN}\" y=\"{top}\" width=\"{PANEL_WIDTH}\" height=\"{PANEL_HEIGHT}\" fill=\"none\" \
             stroke=\"silver\"/>"
        );
        let _ = writeln!(svg, "<text x=\"4\" y=\"{}\">{highest:.1}</text>", top + 10.0);
        let _ = writeln!(svg, "<text x=\"4\" y=\"{bottom}\">0</text>");
        let mut path = String::new();
        for (place, value) in values.iter().enumerate() {
            let (x, y) = (self.x(place), bottom - PANEL_HEIGHT * value / highest);
            let _ = write!(path, "{x:.1},{y:.1} ");
            let _ = writeln!(svg, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\"/>");
            let at = self.at[place];
            let below = bottom + 14.0;
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{below}\" text-anchor=\"middle\">{at}</text>");
        }
        let _ = writeln!(svg, "<polyline points=\"{path}\" fill=\"none\" stroke=\"black\"/>");
    }

    fn x(&self, place: usize) -> f64 {
        let scaled = |at: f64| if self.is_logarithmic { at.log10() } else { at };
        let first = self.at.first().copied().map_or(0.0, scaled);
        let width = scaled(self.at[self.at.len() - 1]) - first;
        let part = if width > 0.0 { (scaled(self.at[place]) - first) / width } else { 0.5 };
        MARGIN + PANEL_WIDTH * part
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_is_a_table_and_a_picture() {
        let curve = Curve {
            name: "test",
            about: "About",
            across: "nodes",
            is_logarithmic: true,
            at: vec![100.0, 1_000.0, 10_000.0],
            lines: vec![("hops", vec![1.0, 2.0, 4.0]), ("found, %", vec![100.0, 99.5, 99.0])],
        };
        let csv = "nodes,\"hops\",\"found, %\"\n100,1.000,100.000\n1000,2.000,99.500\n10000,4.000,99.000\n";
        assert_eq!(curve.to_csv(), csv);
        assert_eq!(
            [0, 1, 2].map(|place| curve.x(place)),
            [50.0, 330.0, 610.0],
            "even steps of the logarithm"
        );
        let svg = curve.to_svg();
        assert_eq!((svg.matches("<polyline").count(), svg.matches("<circle").count()), (2, 6));
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"), "{svg}");
    }

    #[test]
    fn one_point_is_in_the_middle() {
        let curve = Curve {
            name: "test",
            about: "About",
            across: "nodes",
            is_logarithmic: false,
            at: vec![0.0],
            lines: vec![("hops", vec![0.0])],
        };
        assert!(curve.to_svg().contains("cx=\"330.0\""));
    }
}
