use serde::Serialize;

use crate::{Agreement, Sample, TOLERANCE};

/// One workload on one backend.
pub struct Row {
    /// The workload's name.
    pub workload: String,
    /// The backend's name.
    pub backend: &'static str,
    /// How many parameters the layer has; none if it is no layer.
    pub num_params: usize,
    /// Operations in one run.
    pub flops: f64,
    /// Into how many steps the times below divide a run.
    pub steps: usize,
    /// Whether the row belongs to a series over the sequence length.
    pub scaling: bool,
    /// Bytes that a step reads at least; 0 where memory does not bound it.
    pub reads: f64,
    /// At how many bytes a second [`Memory`](crate::Memory) was read between the rounds, where a step reads any.
    pub bandwidth: Option<f64>,
    /// Bytes of the inputs, and the most that a process had which ran the workload once, its inputs included.
    pub peak: Option<(usize, usize)>,
    /// This workspace's layer.
    pub ours: Sample,
    /// What it was timed beside, by name.
    pub baseline: Option<(&'static str, Sample)>,
    /// How well the two agree, where they were compared.
    pub agreement: Option<Result<Agreement, String>>,
}

/// A measurement as it stands in the `--json` file: one a line.
#[derive(Serialize)]
pub struct Line<'a> {
    workload: &'a str,
    peer: String,
    threads: usize,
    ms_median: f64,
    ms_min: f64,
    ms_max: f64,
    n: usize,
}

impl Row {
    /// The measurements of this row. The baseline's is left out where its result is another one.
    pub fn lines(&self, threads: usize) -> Vec<Line<'_>> {
        let line = |peer: &str, sample: &Sample| Line {
            workload: &self.workload,
            peer: format!("{peer}_{}", self.backend),
            threads,
            ms_median: sample.median,
            ms_min: sample.min,
            ms_max: sample.max,
            n: sample.n,
        };
        let ours = std::iter::once(line("seq", &self.ours));
        ours.chain(self.comparable().map(|(name, sample)| line(name, sample)))
            .collect()
    }

    /// What it was timed beside, if that computes the same.
    fn comparable(&self) -> Option<&(&'static str, Sample)> {
        self.baseline
            .as_ref()
            .filter(|_| matches!(self.agreement, Some(Ok(_))))
    }

    /// Whether another computation of the same gives something else.
    fn is_wrong(&self) -> bool {
        matches!(self.agreement, Some(Err(_)))
    }

    fn gflops(&self) -> f64 {
        self.flops / (self.ours.median * self.steps as f64) / 1e6
    }

    fn cells(&self, peak: f64) -> [String; 11] {
        let on_cpu = ["ndarray", "flex"].contains(&self.backend);
        let none = || "-".to_owned();
        let wrong = self.is_wrong();
        [
            self.workload.clone(),
            self.backend.to_owned(),
            match self.num_params {
                0 => none(),
                count => count.to_string(),
            },
            milliseconds(self.ours.median),
            format!(
                "{} .. {}",
                milliseconds(self.ours.min),
                milliseconds(self.ours.max)
            ),
            self.baseline
                .map_or_else(none, |(name, _)| name.replace('_', "-")),
            self.baseline
                .map_or_else(none, |(_, sample)| milliseconds(sample.median)),
            match self.comparable() {
                Some((_, sample)) => format!("{:.2}x", sample.median / self.ours.median),
                None if wrong => "WRONG".to_owned(),
                None => none(),
            },
            if wrong {
                none()
            } else {
                format!("{:.1}", self.gflops())
            },
            if wrong || !on_cpu {
                none()
            } else {
                format!("{:.0} %", 100.0 * self.gflops() / peak)
            },
            match &self.agreement {
                Some(Ok(agreement)) => format!("{:.0e}", agreement.error),
                _ => none(),
            },
        ]
    }
}

fn milliseconds(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{ms:.4}"),
        ms if ms < 100.0 => format!("{ms:.2}"),
        _ => format!("{ms:.0}"),
    }
}

/// What the rows are measured against.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// CPU threads.
    pub threads: usize,
    /// That of [`gemm_peak`](crate::gemm_peak).
    pub peak: f64,
}

/// Prints the rows as a table.
pub fn print_table(rows: &[Row], machine: Machine) {
    let Machine { threads, peak } = machine;
    const HEAD: [&str; 11] = [
        "workload",
        "backend",
        "weights",
        "ours ms",
        "min .. max",
        "beside",
        "its ms",
        "faster",
        "GFLOP/s",
        "of peak",
        "error",
    ];
    let mut table = vec![HEAD.map(str::to_owned)];
    table.extend(rows.iter().map(|row| row.cells(peak)));
    let widths: Vec<usize> = (0..HEAD.len())
        .map(|column| {
            table
                .iter()
                .map(|cells| cells[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for cells in &table {
        let cells = cells
            .iter()
            .zip(&widths)
            .enumerate()
            .map(|(column, (cell, &width))| match column {
                0 | 1 => format!("{cell:<width$}"),
                _ => format!("{cell:>width$}"),
            });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    println!(
        "\n{threads} threads, f32. Matrix products of the gemm crate reach {peak:.0} GFLOP/s: the peak.\n\
         `weights` counts the parameters of the layer, biases included.\n\
         Times are medians; those of a step workload are for one step. `beside` stands Burn's own module, or the\n\
         reference body in tensor operations. `error` is the largest difference from what computes the same, in\n\
         outputs, states and, in training, gradients, relative to the largest value; at most {TOLERANCE:.0e}."
    );
    for row in rows {
        if let Some(Err(reason)) = &row.agreement {
            println!(
                "WRONG {} on {}: {reason}; no ratio is given.",
                row.workload, row.backend
            );
        }
    }
    let lines = linearity(rows).into_iter().chain(gru_beside_lstm(rows));
    for line in lines.chain(reading(rows)).chain(peaks(rows)) {
        println!("{line}");
    }
}

/// For each row that memory bounds: how its time stands beside that of reading what it has to read.
fn reading(rows: &[Row]) -> Vec<String> {
    let line = |row: &Row| {
        let bandwidth = row.bandwidth?;
        let ms = row.reads / bandwidth * 1e3;
        Some(format!(
            "Memory: {} on {} reads weights and cache, {:.1} MB, which takes {} ms at the {:.1} GB/s measured; its step takes {:.2} times as long.",
            row.workload,
            row.backend,
            row.reads / 1e6,
            milliseconds(ms),
            bandwidth / 1e9,
            row.ours.median / ms
        ))
    };
    rows.iter().filter_map(line).collect()
}

/// For each row whose peak of memory was measured: how it stands beside the inputs.
fn peaks(rows: &[Row]) -> Vec<String> {
    let line = |row: &Row| {
        let (inputs, peak) = row.peak?;
        Some(format!(
            "Peak of memory: {} on {}: {:.0} MB, the whole process with its inputs, which are {:.0} MB: {:.2} times.",
            row.workload,
            row.backend,
            peak as f64 / 1e6,
            inputs as f64 / 1e6,
            peak as f64 / inputs as f64
        ))
    };
    rows.iter().filter_map(line).collect()
}

/// For each series over the sequence length: how the time grew beside the work, from its first row
/// to its last.
pub fn linearity(rows: &[Row]) -> Vec<String> {
    let operation = |row: &Row| {
        (
            row.workload.split('/').next().map(str::to_owned),
            row.backend,
        )
    };
    let series: Vec<&Row> = rows.iter().filter(|row| row.scaling).collect();
    let chunks = series.chunk_by(|a, b| operation(a) == operation(b) && a.flops < b.flops);
    let growth = |rows: &[&Row]| {
        let (first, last) = (rows.first()?, rows.last()?);
        let (work, time) = (
            last.flops / first.flops,
            last.ours.median / first.ours.median,
        );
        let names = format!(
            "{} to {} on {}",
            first.workload, last.workload, last.backend
        );
        (rows.len() > 1).then(|| {
            format!(
                "Linear in time: {names}: {work:.0} times the work in {time:.1} times the time."
            )
        })
    };
    chunks.filter_map(growth).collect()
}

/// For each training workload of the GRU that was run for the LSTM too: its weights and its time, as
/// parts of the LSTM's.
fn gru_beside_lstm(rows: &[Row]) -> Vec<String> {
    let training = |row: &Row, prefix: &str| {
        let name = row.workload.strip_prefix(prefix)?;
        (name.starts_with("train/") && !row.is_wrong()).then(|| (name.to_owned(), row.backend))
    };
    let line = |gru: &Row| {
        let workload = training(gru, "gru_")?;
        let is_same = |row: &&Row| training(row, "lstm_").as_ref() == Some(&workload);
        let lstm = rows.iter().find(is_same)?;
        let (name, backend) = &workload;
        Some(format!(
            "GRU beside LSTM, {name} on {backend}: {:.2} of the weights, {:.2} of the time.",
            gru.num_params as f64 / lstm.num_params as f64,
            gru.ours.median / lstm.ours.median
        ))
    };
    rows.iter().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(agreement: Result<Agreement, String>) -> Row {
        let sample = |median| Sample {
            median,
            min: 1.0,
            max: 9.0,
            n: 3,
        };
        Row {
            workload: "lstm_infer/B1".to_owned(),
            backend: "ndarray",
            num_params: 400,
            flops: 4e6,
            steps: 1,
            scaling: false,
            reads: 0.0,
            bandwidth: None,
            peak: None,
            ours: sample(2.0),
            baseline: Some(("burn_nn", sample(5.0))),
            agreement: Some(agreement),
        }
    }

    #[test]
    fn a_ratio_is_given_only_where_both_compute_the_same() {
        let right = row(Ok(Agreement { error: 1e-6 }));
        assert_eq!(right.cells(4.0)[7..10], ["2.50x", "2.0", "50 %"]);
        assert_eq!(right.lines(2).len(), 2);
        let wrong = row(Err("another output".to_owned()));
        assert_eq!(wrong.cells(4.0)[7..10], ["WRONG", "-", "-"]);
        assert_eq!(wrong.lines(2).len(), 1);
    }

    #[test]
    fn memory_is_told_where_it_counts() {
        let mut row = row(Ok(Agreement::default()));
        let rows = |row: &Row| {
            [
                reading(std::slice::from_ref(row)),
                peaks(std::slice::from_ref(row)),
            ]
            .concat()
        };
        assert!(rows(&row).is_empty());
        (row.reads, row.bandwidth) = (1e7, Some(1e10));
        row.peak = Some((2_000_000, 5_000_000));
        let lines = rows(&row);
        assert!(lines[0].contains("10.0 MB, which takes 1.00 ms at the 10.0 GB/s"));
        assert!(
            lines[0].ends_with("takes 2.00 times as long."),
            "{}",
            lines[0]
        );
        assert!(lines[1].ends_with("2.50 times."), "{}", lines[1]);
    }

    #[test]
    fn growth_is_told_for_a_series() {
        let at = |flops: f64, median: f64| {
            let mut row = row(Ok(Agreement::default()));
            (row.scaling, row.flops, row.ours.median) = (true, flops, median);
            row
        };
        let lines = linearity(&[at(1e6, 1.0), at(64e6, 65.0)]);
        assert_eq!(lines.len(), 1);
        assert!(
            lines[0].ends_with("64 times the work in 65.0 times the time."),
            "{}",
            lines[0]
        );
        assert!(linearity(&[row(Ok(Agreement::default()))]).is_empty());
    }

    #[test]
    fn the_gru_is_told_beside_the_lstm_of_its_size_and_backend() {
        let at = |workload: &str, backend, num_params, median| {
            let mut row = row(Ok(Agreement::default()));
            (row.workload, row.backend) = (workload.to_owned(), backend);
            (row.num_params, row.ours.median) = (num_params, median);
            row
        };
        let mut rows = vec![
            at("lstm_train/B1_T8", "ndarray", 400, 10.0),
            at("lstm_train/B1_T9", "ndarray", 400, 1.0),
            at("lstm_train/B1_T8", "flex", 400, 4.0),
            at("lstm_infer/B1_T8", "ndarray", 400, 8.0),
            at("gru_infer/B1_T8", "ndarray", 300, 1.0),
            at("gru_train/B1_T8", "ndarray", 300, 7.8),
            at("gru_train/B1_T8", "flex", 300, 5.0),
            at("gru_train/B2_T8", "flex", 300, 5.0),
        ];
        let ndarray =
            "GRU beside LSTM, train/B1_T8 on ndarray: 0.75 of the weights, 0.78 of the time.";
        let flex = "GRU beside LSTM, train/B1_T8 on flex: 0.75 of the weights, 1.25 of the time.";
        assert_eq!(gru_beside_lstm(&rows), [ndarray, flex]);
        rows[0].agreement = Some(Err("another output".to_owned()));
        assert_eq!(gru_beside_lstm(&rows), [flex]);
    }
}
