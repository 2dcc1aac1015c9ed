//! The parts of the example that forecasts sunspots.

#[path = "../examples/sunspots/errors.rs"]
mod errors;
#[path = "../examples/sunspots/forecaster.rs"]
mod forecaster;
#[path = "../examples/sunspots/plot.rs"]
mod plot;

use seq_core::testing::backends;
use std::fs;

use errors::{Errors, naive, seasonal_naive};
use forecaster::{Forecaster, Training};
use indicatif::ProgressBar;
use plot::{Line, Picture};
use seq_data::series::sunspots;

fn numbers() -> Vec<f32> {
    sunspots().into_iter().map(|(_, number)| number).collect()
}

#[test]
fn errors_are_those_by_hand() {
    let errors = Errors::of([(1.0, 4.0), (6.0, 2.0), (0.0, 5.0)]);
    assert_eq!(errors.mae, 4.0);
    assert!((errors.rmse - (50.0_f64 / 3.0).sqrt()).abs() < 1e-12);
    assert!(Errors::of([]).mae.is_nan());
}

#[test]
fn a_forecast_is_compared_with_the_year_it_was_made_for() {
    let truth = [1.0, 2.0, 3.0];
    let forecasts = [vec![1.0, 2.0, 13.0], vec![2.0, 4.0], vec![7.0, 0.0]];
    let mae = |ahead| Errors::ahead(ahead, &forecasts, &truth).mae;
    assert_eq!([mae(1), mae(2), mae(3)], [4.0 / 3.0, 0.5, 10.0]);
}

#[test]
fn naive_forecasts_repeat_what_was_known() {
    let history = [1.0, 2.0, 3.0, 4.0];
    assert_eq!(naive(&history, 2), [4.0, 4.0]);
    let expected = [2.0, 3.0, 4.0, 2.0, 3.0];
    assert_eq!(seasonal_naive(&history, 3, 5), expected);
}

#[test]
fn a_stream_forecasts_what_the_whole_series_does() {
    // Measured: no difference. Sums in another order may differ by some 1e-5 of numbers up to 154.
    const TOLERANCE: f32 = 1e-4;
    let numbers = &numbers()[..100];
    let mut largest = 0_f32;
    let backends = backends().into_iter();
    for backend in backends.filter(|backend| ["ndarray", "flex"].contains(&backend.name())) {
        let device = backend.device();
        device.seed(1);
        let training = Training {
            networks: 2,
            d_hidden: 12,
            epochs: 40,
            learning_rate: 0.02,
        };
        let forecaster =
            Forecaster::fit(numbers, &training, &device, &ProgressBar::hidden()).unwrap();

        let (mut next, mut memory) = forecaster.read(&numbers[..1]);
        let mut forecasts = Vec::new();
        for (known, &number) in numbers.iter().enumerate().skip(1) {
            let (whole, _) = forecaster.read(&numbers[..known]);
            let error = (next - whole).abs();
            largest = largest.max(error);
            assert!(error < TOLERANCE, "{backend}: {error:e} after {known}");
            forecasts.push(vec![next]);
            (next, memory) = forecaster.step(number, memory);
        }
        let learnt = Errors::ahead(1, &forecasts, &numbers[1..]);
        let last = Errors::of(numbers.iter().copied().zip(numbers[1..].iter().copied()));
        assert!(
            learnt.rmse < 0.8 * last.rmse,
            "{backend}: {learnt:?} after training, {last:?} without"
        );

        let path = forecaster.run_on(next, memory, 30);
        let mut longer = numbers.to_vec();
        longer.extend(&path[..29]);
        let error = (forecaster.read(&longer).0 - path[29]).abs();
        largest = largest.max(error);
        assert!(error < TOLERANCE, "{backend}: {error:e} in the long run");
    }
    println!("largest error: {largest:e}");
}

/// The tags in `svg`, after making sure that each is closed in its turn.
fn tags(svg: &str) -> Vec<&str> {
    let mut open = Vec::new();
    let mut tags = Vec::new();
    for piece in svg.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').expect("a tag ends");
        assert!(!text.contains('&') || text.contains("&amp;") || text.contains("&lt;"));
        let name = tag.split(' ').next().unwrap();
        assert_eq!(tag.matches('"').count() % 2, 0, "<{tag}>");
        match name.strip_prefix('/') {
            Some(name) => assert_eq!(open.pop(), Some(name)),
            None if tag.ends_with('/') => tags.push(tag),
            None => {
                open.push(name);
                tags.push(tag);
            }
        }
    }
    assert_eq!(open, [""; 0]);
    tags
}

/// The coordinates of each polyline.
fn polylines(tags: &[&str]) -> Vec<Vec<(f64, f64)>> {
    let lines = tags.iter().filter(|tag| tag.starts_with("polyline"));
    let points = lines.map(|tag| tag.split("points=\"").nth(1).unwrap());
    let point = |point: &str| {
        let (x, y) = point.split_once(',').unwrap();
        (x.parse().unwrap(), y.parse().unwrap())
    };
    points
        .map(|points| {
            let points = points.trim_end_matches(['"', '/']);
            points.split_whitespace().map(point).collect()
        })
        .collect()
}

#[test]
fn the_picture_has_all_years_inside() {
    let numbers = numbers();
    for held_out in [1_u16, 60, 298] {
        let held_out_from = 2009 - held_out;
        let forecast = vec![250.0; usize::from(held_out)];
        let line = |name, first_year, numbers| Line {
            name,
            color: "#333",
            dashed: first_year > 1700,
            first_year,
            numbers,
        };
        let lines = [
            line("truth & <more>", 1700, &numbers),
            line("forecast", held_out_from, &forecast),
        ];
        let picture = Picture {
            title: "Sunspots",
            lines: &lines,
            held_out_from,
        };
        let svg = picture.svg();
        assert!(svg.contains("truth &amp; &lt;more>") && svg.contains(">forecast<"));
        let held = format!(">held out from {held_out_from}<");
        assert_eq!(svg.matches(&held).count(), 2);
        assert!(svg.contains(">2000<") || held_out == 1, "a year is written");
        assert!(svg.contains(">1750<") && svg.contains(">100<"));

        let tags = tags(&svg);
        let lines = polylines(&tags);
        let zoomed = usize::from(2 * held_out).min(309);
        let expected = [309, held_out.into(), zoomed, held_out.into()];
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), expected);
        for (x, y) in lines.concat() {
            assert!((64.0..=1176.0).contains(&x) && (100.0..=768.0).contains(&y));
        }
        for line in &lines {
            assert!(line.windows(2).all(|pair| pair[0].0 < pair[1].0));
        }
        // 1957 had the most sunspots.
        let highest = lines[0].iter().map(|&(_, y)| y).fold(f64::MAX, f64::min);
        assert_eq!(lines[0][257].1, highest);
    }
}

#[test]
fn a_picture_is_saved_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let picture = Picture {
        title: "Sunspots",
        lines: &[],
        held_out_from: 1949,
    };
    let file = folder.path().join("new/sunspots.svg");
    for _ in 0..2 {
        picture.save(&file).unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), picture.svg());
    }
    // Onto a folder a file cannot be renamed.
    assert!(picture.save(&folder.path().join("new")).is_err());
    let left = |folder| fs::read_dir(folder).unwrap().count();
    assert_eq!(
        (left(folder.path()), left(&folder.path().join("new"))),
        (1, 1)
    );
}
