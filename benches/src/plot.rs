//! A picture of parts of a hundred: a line for each cell, a dot for each contender.

use std::fmt::Write;

const COLORS: [&str; 4] = ["#d62728", "#1f77b4", "#2ca02c", "#9467bd"];

/// Where the axis begins, and how long it is.
const LEFT: usize = 150;
const WIDTH: usize = 600;

const HEAD: usize = 56;
const LINE: usize = 18;

/// A picture that is written when it is complete.
#[derive(Debug)]
pub struct Plot {
    title: String,
    contenders: Vec<String>,
    cells: Vec<(String, Vec<f64>)>,
}

impl Plot {
    /// A picture with up to four contenders, the first of which is drawn larger and on top.
    pub fn new<T: Into<String>>(title: &str, contenders: impl IntoIterator<Item = T>) -> Plot {
        Plot {
            title: title.to_owned(),
            contenders: contenders.into_iter().map(Into::into).collect(),
            cells: Vec::new(),
        }
    }

    /// Adds a cell, with a value from 0 to 100 for each contender.
    pub fn cell(&mut self, name: &str, values: Vec<f64>) {
        self.cells.push((name.to_owned(), values));
    }

    /// The picture as the text of an SVG file.
    #[must_use]
    pub fn svg(&self) -> String {
        let bottom = HEAD + self.cells.len() * LINE;
        let mut body = String::new();
        self.axis(&mut body, bottom);
        self.legend(&mut body);
        for (number, (name, values)) in self.cells.iter().enumerate() {
            row(&mut body, HEAD + number * LINE + LINE / 2, name, values);
        }
        let (width, height) = (LEFT + WIDTH + 30, bottom + 24);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n\
             <rect width=\"{width}\" height=\"{height}\" fill=\"#ffffff\"/>\n{body}</svg>\n"
        )
    }

    fn axis(&self, out: &mut String, bottom: usize) {
        text(out, 10, 20, "start", &self.title);
        for percent in (0..=100).step_by(10) {
            let x = LEFT + WIDTH * percent / 100;
            line(out, &format!("M{x} {HEAD}V{bottom}"), "#dddddd");
            text(out, x, bottom + 16, "middle", &percent.to_string());
        }
    }

    fn legend(&self, out: &mut String) {
        for (at, name) in self.contenders.iter().enumerate() {
            let x = LEFT + at * 150;
            dot(out, x as f64, 38, at);
            text(out, x + 10, 42, "start", name);
        }
    }
}

/// The name of a cell and its dots, on a line from the least to the most.
fn row(out: &mut String, y: usize, name: &str, values: &[f64]) {
    let x = |value: f64| LEFT as f64 + value * WIDTH as f64 / 100.0;
    text(out, LEFT - 10, y + 4, "end", name);
    let least = values.iter().copied().fold(100.0, f64::min);
    let most = values.iter().copied().fold(0.0, f64::max);
    let path = format!("M{:.1} {y}H{:.1}", x(least), x(most));
    line(out, &path, "#aaaaaa");
    for (at, &value) in values.iter().enumerate().rev() {
        dot(out, x(value), y, at);
    }
}

// Writing to a string never fails.
fn dot(out: &mut String, x: f64, y: usize, contender: usize) {
    let radius = if contender == 0 { 5 } else { 4 };
    let color = COLORS[contender % COLORS.len()];
    let _ = writeln!(
        out,
        "<circle cx=\"{x:.1}\" cy=\"{y}\" r=\"{radius}\" fill=\"{color}\"/>"
    );
}

fn line(out: &mut String, path: &str, color: &str) {
    let _ = writeln!(out, "<path d=\"{path}\" stroke=\"{color}\"/>");
}

fn text(out: &mut String, x: usize, y: usize, anchor: &str, text: &str) {
    let _ = writeln!(
        out,
        "<text x=\"{x}\" y=\"{y}\" text-anchor=\"{anchor}\">{text}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_contender_has_a_dot_in_each_cell_and_in_the_legend() {
        let mut plot = Plot::new("hits", ["a", "b"]);
        plot.cell("one", vec![0.0, 100.0]);
        let svg = plot.svg();
        assert_eq!(svg.matches("<circle").count(), 4);
        assert!(svg.contains("cx=\"150.0\"") && svg.contains("cx=\"750.0\""));
    }
}
