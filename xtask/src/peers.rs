//! Libraries of other languages, timed in turns with ours.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use indicatif::{ProgressBar, ProgressStyle};
use serde::Deserialize;

use crate::command::{Result, root, run, target_dir};

/// What peers.py knows.
const PEERS: [&str; 8] = [
    "torch",
    "onnxruntime",
    "openvino",
    "jax",
    "transformers",
    "mambapy",
    "scipy",
    "torch_attention",
];

/// A program of its own, which this variable names.
const GGML: &str = "ggml";
const GGML_BENCH: &str = "SEQ_GGML_BENCH";

/// What is compared, and how often.
pub struct Comparison<'a> {
    /// Measures ours beside Burn's, checks and prints it, and appends its lines to the file.
    pub first: &'a dyn Fn(&PathBuf) -> Result,
    /// Measures ours once more.
    pub again: &'a dyn Fn(&PathBuf) -> Result,
    /// How often ours and theirs take turns.
    pub rounds: usize,
    /// CPU threads for each.
    pub threads: usize,
    /// Where all lines go, if anywhere.
    pub json: Option<&'a Path>,
}

#[derive(Deserialize)]
struct Line {
    workload: String,
    peer: String,
    ms_median: f64,
}

/// Runs ours and each of the others in turns and prints their times side by side.
///
/// # Errors
///
/// When ours fails; a peer that is missing or fails is named and left out.
pub fn compare(comparison: &Comparison<'_>) -> Result {
    let folder = target_dir().join("peers");
    fs::create_dir_all(&folder)?;
    let file = folder.join("measured.jsonl");
    fs::write(&file, "")?;
    let python = python(&folder);
    (comparison.first)(&file)?;
    let mut text = fs::read_to_string(&file)?;
    let workloads = workloads(&text)?;

    let mut peers = if python.is_some() {
        PEERS.to_vec()
    } else {
        Vec::new()
    };
    peers.extend(std::env::var_os(GGML_BENCH).map(|_| GGML));
    let python = python.unwrap_or_default();
    let rounds = if peers.is_empty() {
        1
    } else {
        comparison.rounds
    };
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {elapsed} {msg}")?;
    let bar = ProgressBar::new((rounds * peers.len()) as u64).with_style(style);
    for round in 0..rounds {
        if round > 0 {
            fs::write(&file, "")?;
            bar.suspend(|| (comparison.again)(&file))?;
            text += &fs::read_to_string(&file)?;
        }
        let mut missing = Vec::new();
        for peer in &peers {
            bar.set_message(*peer);
            match measure(&python, peer, comparison.threads, &workloads) {
                Ok(lines) => text += &lines,
                Err(error) => {
                    bar.suspend(|| eprintln!("{peer} is left out: {error}"));
                    missing.push(*peer);
                }
            }
            bar.inc(1);
        }
        peers.retain(|peer| !missing.contains(peer));
        if !peers.is_empty() {
            peers.rotate_left(1);
        }
    }
    bar.finish_and_clear();
    print(&text, &workloads)?;
    if let Some(json) = comparison.json {
        let old = if json.exists() {
            fs::read_to_string(json)?
        } else {
            String::new()
        };
        fs::write(json, old + &text)?;
    }
    Ok(())
}

/// A Python with the peers: the one of `SEQ_PEERS_PYTHON`, or one made in `folder` on first use.
fn python(folder: &Path) -> Option<PathBuf> {
    if let Some(python) = std::env::var_os("SEQ_PEERS_PYTHON") {
        return Some(python.into());
    }
    let venv = folder.join("venv");
    let python = venv.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    });
    let complete = folder.join("complete");
    if !complete.exists() {
        eprintln!("installing the peers in {}, about 2.5 GB", venv.display());
        let setup = root().join("xtask/peers/setup.py");
        if let Err(error) = run(Command::new("python3").arg(setup).arg(&venv)) {
            eprintln!("the peers are left out, they need Python 3 with venv: {error}");
            return None;
        }
        fs::write(&complete, "").ok()?;
    }
    Some(python)
}

fn measure(python: &Path, peer: &str, threads: usize, workloads: &[String]) -> Result<String> {
    let count = threads.to_string();
    let mut command;
    if peer == GGML {
        command = Command::new(std::env::var_os(GGML_BENCH).unwrap_or_default());
        command.args([&count, &workloads.join(",")]);
    } else {
        command = Command::new(python);
        command
            .arg(root().join("xtask/peers/peers.py"))
            .args(["--peer", peer, "--threads", &count])
            .args(workloads);
    }
    let output = command
        .env("OMP_NUM_THREADS", &count)
        // It slows numpy where it is set.
        .env_remove("OPENBLAS_CORETYPE")
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(String::from_utf8(output.stdout)?);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(errors
        .lines()
        .last()
        .unwrap_or("no message")
        .to_owned()
        .into())
}

fn lines(text: &str) -> Result<Vec<Line>> {
    Ok(text
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()?)
}

/// In the order measured.
fn workloads(text: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for line in lines(text)? {
        if !names.contains(&line.workload) {
            names.push(line.workload);
        }
    }
    Ok(names)
}

/// For each backend, ours beside every other: milliseconds, and how many times longer it takes.
fn print(text: &str, workloads: &[String]) -> Result {
    let mut times: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    let mut names = Vec::new();
    for line in lines(text)? {
        if !names.contains(&line.peer) {
            names.push(line.peer.clone());
        }
        times
            .entry((line.workload, line.peer))
            .or_default()
            .push(line.ms_median);
    }
    let time = |workload: &String, peer: &String| {
        times
            .get(&(workload.clone(), peer.clone()))
            .map(|ms| median(ms))
    };
    for ours in names.iter().filter(|name| name.starts_with("seq_")) {
        let others: Vec<&String> = names
            .iter()
            .filter(|name| !name.starts_with("seq_"))
            .collect();
        println!("\nMedian milliseconds, and how many times as long as {ours}:");
        print!("{:40} {ours:>16}", "workload");
        others.iter().for_each(|other| print!(" {other:>20}"));
        println!();
        for workload in workloads {
            let Some(base) = time(workload, ours) else {
                continue;
            };
            print!("{workload:40} {:>16}", milliseconds(base));
            for other in &others {
                let cell = time(workload, other)
                    .map(|ms| format!("{} ({:.2}x)", milliseconds(ms), ms / base));
                print!(" {:>20}", cell.as_deref().unwrap_or("-"));
            }
            println!();
        }
    }
    Ok(())
}

fn median(ms: &[f64]) -> f64 {
    let mut ms = ms.to_vec();
    ms.sort_by(f64::total_cmp);
    (ms[(ms.len() - 1) / 2] + ms[ms.len() / 2]) / 2.0
}

fn milliseconds(ms: f64) -> String {
    if ms < 1.0 {
        format!("{ms:.4}")
    } else {
        format!("{ms:.2}")
    }
}
