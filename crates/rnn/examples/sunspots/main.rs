//! Forecasts the yearly sunspot numbers and draws the forecast:
//!
//! ```sh
//! cargo run --release -p seq-rnn --example sunspots
//! ```

mod errors;
mod forecaster;
mod plot;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use errors::{Errors, naive, seasonal_naive};
use forecaster::{Forecaster, Training};
use indicatif::ProgressBar;
use plot::{Line, Picture};
use seq_data::series::sunspots;

/// The sun's cycle takes about 11 years.
const PERIOD: usize = 11;

/// Forecasts the yearly sunspot numbers with vanilla RNNs, trained on the years before the held-out ones.
#[derive(Parser)]
struct Args {
    /// How many years at the end of the record are forecast; nothing is learnt or chosen from them.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u16).range(1..))]
    held_out: u16,
    /// How many years ahead the longer forecast looks.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    horizon: u16,
    /// Leaves out all later years. The defaults below were chosen with 1888 and 1948, so that the last
    /// 60 years had no part in it.
    #[arg(long, default_value_t = 2008)]
    until: u16,
    /// How many networks forecast together.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..))]
    networks: u16,
    /// The width of the hidden state.
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=512))]
    d_hidden: u16,
    /// How often each network reads the years before the held-out ones.
    #[arg(long, default_value_t = 100)]
    epochs: u32,
    /// AdamW's rate.
    #[arg(long, default_value = "0.005", value_parser = rate)]
    learning_rate: f64,
    /// Of the first weights.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The picture.
    #[arg(long, value_name = "FILE", default_value = "target/sunspots.svg")]
    svg: PathBuf,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && f64::is_finite(rate) => Ok(rate),
        _ => Err("must be a number above 0".to_string()),
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let record = sunspots().into_iter();
    let record: Vec<(u16, f32)> = record.filter(|&(year, _)| year <= args.until).collect();
    let numbers: Vec<f32> = record.iter().map(|&(_, number)| number).collect();
    let (held_out, horizon) = (usize::from(args.held_out), usize::from(args.horizon));
    let known = numbers.len().saturating_sub(held_out);
    if known < PERIOD {
        let years = numbers.len();
        return Err(format!(
            "--held-out {held_out} of {years} years leaves {known} to learn from; one period of \
             {PERIOD} is needed"
        )
        .into());
    }
    if horizon > held_out {
        return Err(format!("--horizon {horizon} is beyond the {held_out} held-out years").into());
    }
    let (train, test) = numbers.split_at(known);
    let (last_known, first_held_out) = (record[known - 1].0, record[known].0);
    println!(
        "{} years from {}: {known} until {last_known} to learn from, {held_out} from {first_held_out} to forecast\n",
        record.len(),
        record[0].0
    );

    let forecaster = fit(train, args)?;
    // What is forecast before each held-out year: before the first for all of them, then for `horizon`.
    let len = |year| if year == 0 { held_out } else { horizon };
    let mut forecasts = Vec::new();
    let (mut next, mut memory) = forecaster.read(train);
    for (year, &number) in test.iter().enumerate() {
        forecasts.push(forecaster.run_on(next, memory.clone(), len(year)));
        (next, memory) = forecaster.step(number, memory);
    }
    if forecasts.iter().flatten().any(|number| !number.is_finite()) {
        return Err("the weights grew without bound; take a smaller --learning-rate".into());
    }

    let histories = || (0..held_out).map(|year| (&numbers[..known + year], len(year)));
    let last = histories().map(|(history, len)| naive(history, len));
    let cycle = histories().map(|(history, len)| seasonal_naive(history, PERIOD, len));
    let rivals = [
        ("RNN".to_string(), forecasts.clone()),
        ("naive: the last known year".to_string(), last.collect()),
        (
            format!("seasonal naive: the last known {PERIOD} years again"),
            cycle.collect(),
        ),
    ];
    println!(
        "{:46}{:>8}{:>8}",
        "errors in sunspot numbers", "MAE", "RMSE"
    );
    let mut distances = vec![1, horizon];
    distances.dedup();
    for ahead in distances {
        let (years, count) = (
            if ahead == 1 { "year" } else { "years" },
            held_out + 1 - ahead,
        );
        println!("{ahead} {years} ahead, {count} times");
        for (name, forecasts) in &rivals {
            print(name, Errors::ahead(ahead, forecasts, test));
        }
    }
    println!("all {held_out} years at once in {last_known}");
    for (name, forecasts) in &rivals {
        let pairs = forecasts[0].iter().copied().zip(test.iter().copied());
        print(name, Errors::of(pairs));
    }

    let one_ahead: Vec<f32> = forecasts.iter().map(|path| path[0]).collect();
    let at_once = format!("RNN, all at once in {last_known}");
    let picture = Picture {
        title: "Yearly sunspot numbers",
        held_out_from: first_held_out,
        lines: &[
            Line {
                name: "sunspots",
                color: "#333",
                dashed: false,
                first_year: record[0].0,
                numbers: &numbers,
            },
            Line {
                name: &at_once,
                color: "#3178c6",
                dashed: true,
                first_year: first_held_out,
                numbers: &forecasts[0],
            },
            Line {
                name: "RNN, one year ahead",
                color: "#d1495b",
                dashed: false,
                first_year: first_held_out,
                numbers: &one_ahead,
            },
        ],
    };
    let failed = |error| format!("{}: {error}", args.svg.display());
    picture.save(&args.svg).map_err(failed)?;
    println!("\npicture: {}", args.svg.display());
    Ok(())
}

fn fit(train: &[f32], args: &Args) -> Result<Forecaster, seq_data::DataError> {
    let training = Training {
        networks: args.networks.into(),
        d_hidden: args.d_hidden.into(),
        epochs: args.epochs as usize,
        learning_rate: args.learning_rate,
    };
    let device = seq_rnn::device();
    device.seed(args.seed);
    let bar = ProgressBar::new(u64::from(args.networks) * u64::from(args.epochs));
    let forecaster = Forecaster::fit(train, &training, &device, &bar);
    bar.finish_and_clear();
    forecaster
}

fn print(name: &str, Errors { mae, rmse }: Errors) {
    println!("  {name:44}{mae:8.2}{rmse:8.2}");
}
