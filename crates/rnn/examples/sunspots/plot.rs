//! Draws yearly numbers as an SVG picture.

use std::fmt::Write as _;
use std::path::Path;
use std::{fs, io};

/// A line of the picture.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    pub name: &'a str,
    /// Any colour that SVG knows.
    pub color: &'a str,
    pub dashed: bool,
    /// The year of the first number.
    pub first_year: u16,
    pub numbers: &'a [f32],
}

impl Line<'_> {
    /// Year and number of each point.
    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        let years = (u32::from(self.first_year)..).map(f64::from);
        years.zip(self.numbers.iter().map(|&number| f64::from(number)))
    }
}

/// What is drawn: all years on top, the held-out ones and as many before them larger below.
#[derive(Clone, Debug)]
pub struct Picture<'a> {
    pub title: &'a str,
    /// The first line has all years, and the later ones are drawn over it.
    pub lines: &'a [Line<'a>],
    /// Where the held-out years begin.
    pub held_out_from: u16,
}

const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 800.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = WIDTH - 24.0;

impl Picture<'_> {
    /// The picture as an SVG document.
    pub fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#444\">\n\
             <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
             <text x=\"{LEFT}\" y=\"32\" font-size=\"20\" fill=\"black\">{}</text>\n",
            escape(self.title)
        );
        self.legend(&mut svg);
        let years = self
            .lines
            .iter()
            .flat_map(Line::points)
            .map(|(year, _)| year);
        let (first, last) = years.fold((f64::MAX, f64::MIN), |(first, last), year| {
            (first.min(year), last.max(year))
        });
        let cut = f64::from(self.held_out_from);
        let zoomed = (2.0 * cut - last - 1.0).max(first);
        Panel::new(self.lines, (first, last), (100.0, 332.0)).draw(&mut svg, self, "all");
        Panel::new(self.lines, (zoomed, last), (392.0, 768.0)).draw(&mut svg, self, "zoomed");
        svg.push_str("</svg>\n");
        svg
    }

    /// Writes the picture: the new file takes the place of an old one whole or not at all.
    pub fn save(&self, file: &Path) -> io::Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut temporary = file.as_os_str().to_owned();
        temporary.push(".tmp");
        let saved = fs::write(&temporary, self.svg()).and_then(|()| fs::rename(&temporary, file));
        if saved.is_err() {
            // What failed is told, not that its remains could not be removed either.
            let _ = fs::remove_file(&temporary);
        }
        saved
    }

    fn legend(&self, svg: &mut String) {
        let mut x = LEFT;
        for line in self.lines {
            let name = escape(line.name);
            writeln!(
                svg,
                "<line x1=\"{x}\" y1=\"57\" x2=\"{}\" y2=\"57\" {}/>\n\
                 <text x=\"{}\" y=\"62\">{name}</text>",
                x + 28.0,
                stroke(line),
                x + 36.0
            )
            .expect("a string takes all text");
            x += 72.0 + 7.0 * line.name.chars().count() as f64;
        }
    }
}

/// One pair of axes, and how years and numbers become positions.
struct Panel {
    years: (f64, f64),
    top: f64,
    bottom: f64,
    /// The number at the upper end, which is above all points.
    largest: f64,
    step: f64,
}

impl Panel {
    fn new(lines: &[Line], years: (f64, f64), (top, bottom): (f64, f64)) -> Self {
        let points = lines.iter().flat_map(Line::points);
        let largest = points
            .filter(|&(year, number)| year >= years.0 && number.is_finite())
            .fold(1.0, |largest, (_, number)| number.max(largest));
        let step = round_step(largest / 5.0);
        Self {
            years,
            top,
            bottom,
            largest: (largest / step).ceil() * step,
            step,
        }
    }

    fn x(&self, year: f64) -> f64 {
        let (first, last) = self.years;
        LEFT + (RIGHT - LEFT) * (year - first) / (last - first).max(1.0)
    }

    fn y(&self, number: f64) -> f64 {
        self.bottom - (self.bottom - self.top) * number / self.largest
    }

    fn draw(&self, svg: &mut String, picture: &Picture, name: &str) {
        self.write(svg, picture, name)
            .expect("a string takes all text");
    }

    fn write(&self, svg: &mut String, picture: &Picture, name: &str) -> std::fmt::Result {
        let Self { top, bottom, .. } = *self;
        writeln!(svg, "<g id=\"{name}\">")?;
        let cut = self.x(f64::from(picture.held_out_from) - 0.5).max(LEFT);
        writeln!(
            svg,
            "<rect x=\"{cut:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{}\" fill=\"#f3f5f9\"/>",
            RIGHT - cut,
            bottom - top
        )?;

        let mut number = 0.0;
        while number <= self.largest {
            let y = self.y(number);
            writeln!(
                svg,
                "<line x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{RIGHT}\" y2=\"{y:.1}\" stroke=\"#ddd\"/>\n\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{number}</text>",
                LEFT - 8.0,
                y + 4.5
            )?;
            number += self.step;
        }
        let (first, last) = self.years;
        let step = round_step((last - first) / 12.0);
        let mut year = (first / step).ceil() * step;
        while year <= last {
            let x = self.x(year);
            writeln!(
                svg,
                "<line x1=\"{x:.1}\" y1=\"{bottom}\" x2=\"{x:.1}\" y2=\"{}\" stroke=\"#888\"/>\n\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{year}</text>",
                bottom + 5.0,
                bottom + 20.0
            )?;
            year += step;
        }
        writeln!(
            svg,
            "<line x1=\"{LEFT}\" y1=\"{bottom}\" x2=\"{RIGHT}\" y2=\"{bottom}\" stroke=\"#888\"/>"
        )?;

        for line in picture.lines {
            self.polyline(svg, line)?;
        }
        // Near the right edge the words go to the left.
        let anchor = if cut > RIGHT - 150.0 { "end" } else { "start" };
        writeln!(
            svg,
            "<line x1=\"{cut:.1}\" y1=\"{top}\" x2=\"{cut:.1}\" y2=\"{bottom}\" stroke=\"#444\" \
             stroke-dasharray=\"2 3\"/>\n\
             <text x=\"{:.1}\" y=\"{}\" text-anchor=\"{anchor}\">held out from {}</text>\n</g>",
            cut,
            top - 6.0,
            picture.held_out_from
        )
    }

    fn polyline(&self, svg: &mut String, line: &Line) -> std::fmt::Result {
        write!(svg, "<polyline {} points=\"", stroke(line))?;
        for (year, number) in line.points().filter(|(year, _)| *year >= self.years.0) {
            write!(svg, "{:.1},{:.1} ", self.x(year), self.y(number))?;
        }
        writeln!(svg, "\"/>")
    }
}

fn stroke(line: &Line) -> String {
    let dashes = if line.dashed {
        " stroke-dasharray=\"6 4\""
    } else {
        ""
    };
    let color = line.color;
    format!(
        "fill=\"none\" stroke=\"{color}\" stroke-width=\"1.6\" stroke-linejoin=\"round\"{dashes}"
    )
}

/// The next of 1, 2, 5, 10, 20, 50 and so on that is not below.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1.0).log10().floor());
    let round = [1.0, 2.0, 5.0].map(|digit| digit * power);
    round
        .into_iter()
        .find(|&step| step >= least)
        .unwrap_or(10.0 * power)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
