//! Times the workloads beside Burn's own modules or the reference bodies and prints a table; `cargo xtask bench` builds and
//! runs it.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use benches::{
    ARCHITECTURES, Case, Machine, Memory, Profile, Row, Timer, gemm_peak, peak_memory, print_table,
};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use seq_core::BackendName;

/// Times the workloads beside Burn's own modules or the reference bodies and prints a table.
#[derive(Parser)]
struct Args {
    /// Architectures, all of them by default.
    #[arg(long, value_delimiter = ',')]
    arch: Vec<String>,
    /// Backends, of those compiled in.
    #[arg(long, value_delimiter = ',', default_value = "ndarray")]
    backend: Vec<BackendName>,
    /// Which sizes, and how long.
    #[arg(long, default_value = "quick")]
    profile: Profile,
    /// Append one JSON line a measurement to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Only workloads whose name contains one of these.
    #[arg(long, value_delimiter = ',')]
    filter: Vec<String>,
    /// CPU threads, all cores by default.
    #[arg(long)]
    threads: Option<usize>,
    /// Rounds instead of the profile's own.
    #[arg(long)]
    rounds: Option<usize>,
    /// Neither time anything else nor compare with it.
    #[arg(long)]
    ours_only: bool,
    /// Run this workload once and print the most memory in bytes that the process had.
    #[arg(long, hide = true)]
    peak_of: Option<String>,
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args = Args::parse();
    let threads = args
        .threads
        .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    if threads == 0 {
        return Err("--threads must be at least 1".into());
    }
    if let Some(child) = with_thread_pools(threads)? {
        return Ok(child);
    }
    seq_core::cpu::set_threads(threads);
    if let Some(name) = &args.peak_of {
        return run_alone(name, &args);
    }
    seq_core::cpu::keep_memory();

    let cases = select(&args)?;
    let (rounds, budget) = match args.profile {
        Profile::Quick => (3, Duration::from_millis(300)),
        Profile::Full => (7, Duration::from_secs(1)),
    };
    let rounds = args.rounds.unwrap_or(rounds).max(1);
    eprintln!("measuring the peak of matrix products on {threads} threads");
    let machine = Machine {
        threads,
        peak: gemm_peak(),
    };

    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?;
    let bar = ProgressBar::new((cases.len() * (rounds + 1)) as u64).with_style(style);
    let mut rows = Vec::new();
    for case in &cases {
        rows.extend(measure(case, &args, rounds, budget, &bar));
    }
    bar.finish_and_clear();

    print_table(&rows, machine);
    if let Some(path) = &args.json {
        write_lines(path, &rows, threads)
            .map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let wrong = rows.iter().any(|row| matches!(row.agreement, Some(Err(_))));
    Ok(if wrong {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// The thread pools of the backends read their size from the environment, once. Where it is not
/// `threads`, runs this program again with it set, and tells how that ended.
fn with_thread_pools(threads: usize) -> Result<Option<ExitCode>, Box<dyn Error>> {
    const POOLS: [&str; 2] = ["RAYON_NUM_THREADS", "MATMUL_NUM_THREADS"];
    let count = threads.to_string();
    if POOLS
        .iter()
        .all(|pool| std::env::var(pool).is_ok_and(|set| set == count))
    {
        return Ok(None);
    }
    let status = Command::new(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .envs(POOLS.map(|pool| (pool, &count)))
        .status()?;
    Ok(Some(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }))
}

fn select(args: &Args) -> Result<Vec<Case>, String> {
    let known = ARCHITECTURES.map(|(name, _)| name);
    if let Some(unknown) = args
        .arch
        .iter()
        .find(|arch| !known.contains(&arch.as_str()))
    {
        return Err(format!(
            "no architecture `{unknown}`; there are: {}",
            known.join(", ")
        ));
    }
    let wanted = |name: &str| args.arch.is_empty() || args.arch.iter().any(|arch| arch == name);
    let contains_any = |name: &str| {
        args.filter.is_empty() || args.filter.iter().any(|part| name.contains(part.as_str()))
    };
    let cases: Vec<Case> = ARCHITECTURES
        .into_iter()
        .filter(|(name, _)| wanted(name))
        .flat_map(|(_, cases)| cases(args.profile))
        .filter(|case| contains_any(&case.name))
        .collect();
    if cases.is_empty() {
        return Err(format!(
            "no workload's name contains `{}`",
            args.filter.join("` or `")
        ));
    }
    Ok(cases)
}

/// One row for each backend; ours and the baseline on all of them take turns.
fn measure(
    case: &Case,
    args: &Args,
    rounds: usize,
    budget: Duration,
    bar: &ProgressBar,
) -> Vec<Row> {
    bar.set_message(case.name.clone());
    let checked = case.checked && !args.ours_only;
    let baseline = case.baseline.filter(|_| !args.ours_only);
    let mut sides: Vec<_> = args
        .backend
        .iter()
        .map(|&backend| {
            let workload = (case.build)(&backend.device());
            let agreement = checked.then(|| workload.check().map_err(|error| error.to_string()));
            let ours = Timer::new(budget, || workload.ours());
            let beside = baseline.map(|_| Timer::new(budget, || workload.baseline()));
            (backend, workload, agreement, ours, beside)
        })
        .collect();
    let mut reading = (case.reads > 0.0 && !args.ours_only).then(|| {
        let memory = Memory::default();
        let timer = Timer::new(budget, || memory.read());
        (memory, timer)
    });
    bar.inc(1);
    for _ in 0..rounds {
        if let Some((memory, timer)) = &mut reading {
            timer.round(|| memory.read());
        }
        for (_, workload, _, ours, beside) in &mut sides {
            ours.round(|| workload.ours());
            if let Some(beside) = beside {
                beside.round(|| workload.baseline());
            }
        }
        bar.inc(1);
    }
    let bandwidth = reading.map(|(memory, timer)| memory.rate(timer.sample(1).median));
    sides
        .into_iter()
        .map(|(backend, workload, agreement, ours, beside)| Row {
            workload: case.name.clone(),
            backend: backend.name(),
            num_params: workload.num_params(),
            flops: case.flops,
            steps: case.steps,
            scaling: case.scaling,
            reads: case.reads,
            bandwidth,
            peak: peak(case, backend, args),
            ours: ours.sample(case.steps),
            baseline: baseline.zip(beside.map(|timer| timer.sample(case.steps))),
            agreement,
        })
        .collect()
}

/// The bytes of the inputs, where the case names them, and the peak of a process that runs it alone; what
/// runs before it in this one would count too.
fn peak(case: &Case, backend: BackendName, args: &Args) -> Option<(usize, usize)> {
    let inputs = case.inputs.filter(|_| !args.ours_only)?;
    let output = Command::new(std::env::current_exe().ok()?)
        .args(["--peak-of", &case.name, "--backend", backend.name()])
        .args(["--profile", "full"])
        .args(args.threads.map(|threads| format!("--threads={threads}")))
        .output()
        .ok()?;
    let peak = String::from_utf8(output.stdout).ok()?;
    Some((inputs, peak.trim().parse().ok()?))
}

fn run_alone(name: &str, args: &Args) -> Result<ExitCode, Box<dyn Error>> {
    let cases = select(args)?;
    let case = cases.iter().find(|case| case.name == name);
    let case = case.ok_or_else(|| format!("no workload `{name}`"))?;
    (case.build)(&args.backend[0].device()).ours();
    println!("{}", peak_memory().ok_or("the system does not tell it")?);
    Ok(ExitCode::SUCCESS)
}

fn write_lines(path: &PathBuf, rows: &[Row], threads: usize) -> Result<(), Box<dyn Error>> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    for line in rows.iter().flat_map(|row| row.lines(threads)) {
        writeln!(file, "{}", serde_json::to_string(&line)?)?;
    }
    Ok(())
}
