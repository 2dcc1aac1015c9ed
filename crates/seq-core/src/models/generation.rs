use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::{LanguageModel, Sampler};
use crate::SequenceLayer;

mod stream;

use stream::TextStream;

/// What programs have in common that let a language model go on with a text: their options and what they do.
/// A program brings the model and its tokenizer.
///
/// ```no_run
/// use clap::Parser;
/// use seq_core::models::{GenerationFailure, GenerationProgram, LanguageModel};
/// # use seq_core::SequenceLayer;
///
/// #[derive(Parser)]
/// struct Args {
///     #[command(flatten)]
///     text: GenerationProgram,
/// }
///
/// /// Its symbols are the first characters of Unicode, of which 10 ends a text.
/// fn run<L: SequenceLayer>(model: &LanguageModel<L>) -> Result<(), GenerationFailure> {
///     let text = Args::parse().text;
///     let prompt: Vec<u32> = text.prompt.chars().map(u32::from).collect();
///     let decode = |ids: &[u32]| Ok(ids.iter().copied().filter_map(char::from_u32).collect());
///     text.run("characters".as_ref(), model, &prompt, &[10], decode, std::io::stdout().lock())
/// }
/// ```
#[derive(clap::Args, Debug, Clone)]
pub struct GenerationProgram {
    /// What the text begins with.
    #[arg(long, default_value = "The sea is")]
    pub prompt: String,
    /// How many symbols to write at most.
    #[arg(long, visible_alias = "tokens", default_value_t = 100)]
    pub length: usize,
    /// 0 takes the likeliest symbol each time, 1 draws by probability.
    #[arg(long, default_value = "0", value_parser = temperature)]
    pub temperature: f64,
    /// Draws from so many of the likeliest symbols only.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub top_k: Option<u32>,
    /// Draws from the fewest symbols that have this probability together.
    #[arg(long, value_parser = probability)]
    pub top_p: Option<f64>,
    /// The same seed writes the same text.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Why a text could not be written.
///
/// ```
/// use seq_core::models::GenerationFailure;
///
/// let failure = GenerationFailure::UnknownSymbol { path: "gpt2".into(), id: 9, vocab_size: 8 };
/// assert_eq!(failure.to_string(), "gpt2: the tokenizer has a symbol 9, the model only 8 symbols");
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum GenerationFailure {
    /// There is nothing to go on with.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// The tokenizer belongs to another model.
    #[error("{}: the tokenizer has a symbol {id}, the model only {vocab_size} symbols", path.display())]
    UnknownSymbol {
        /// Where the model is.
        path: PathBuf,
        /// The symbol of the prompt.
        id: u32,
        /// How many symbols the model has.
        vocab_size: usize,
    },
    /// The tokenizer has no text for the symbols.
    #[error("{0}")]
    Decoding(Box<dyn Error + Send + Sync>),
    /// The text cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl GenerationProgram {
    /// Writes the prompt and how the model goes on with it to `out`, each character as soon as it is whole,
    /// up to a symbol of `ends` or the length asked for; then a line with the speed to the standard error.
    ///
    /// `path` is where the model is, for errors; `ids` are those of the prompt; `decode` gives the text of
    /// symbols, with U+FFFD for a part of a character.
    ///
    /// # Errors
    ///
    /// When `ids` is empty or has a symbol that the model has not, `decode` fails, or `out` cannot be written.
    pub fn run<L: SequenceLayer>(
        &self,
        path: &Path,
        model: &LanguageModel<L>,
        ids: &[u32],
        ends: &[u32],
        decode: impl FnMut(&[u32]) -> Result<String, Box<dyn Error + Send + Sync>>,
        mut out: impl Write,
    ) -> Result<(), GenerationFailure> {
        if ids.is_empty() {
            return Err(GenerationFailure::EmptyPrompt);
        }
        let vocab_size = model.vocab_size();
        if let Some(&id) = ids.iter().find(|&&id| id as usize >= vocab_size) {
            let path = path.to_path_buf();
            return Err(GenerationFailure::UnknownSymbol {
                path,
                id,
                vocab_size,
            });
        }
        write!(out, "{}", self.prompt)?;
        out.flush()?;
        let symbols = || model.generate(ids, self.sampler());
        let speed = self.write(ids, symbols, ends, decode, out)?;
        // Without a symbol nothing has waited until the prompt was read.
        if self.length > 0 {
            eprintln!("{speed}");
        }
        Ok(())
    }

    fn sampler(&self) -> Sampler {
        let mut sampler = Sampler::new(self.seed).with_temperature(self.temperature);
        if let Some(k) = self.top_k {
            sampler = sampler.with_top_k(k as usize);
        }
        if let Some(p) = self.top_p {
            sampler = sampler.with_top_p(p);
        }
        sampler
    }

    /// Writes what follows the prompt, and the end of the line.
    fn write<I: Iterator<Item = u32>>(
        &self,
        prompt: &[u32],
        symbols: impl FnOnce() -> I,
        ends: &[u32],
        decode: impl FnMut(&[u32]) -> Result<String, Box<dyn Error + Send + Sync>>,
        mut out: impl Write,
    ) -> Result<Speed, GenerationFailure> {
        let mut text = TextStream::new(prompt, decode).map_err(GenerationFailure::Decoding)?;
        let begin = Instant::now();
        let symbols = symbols().take(self.length);
        let mut symbols = symbols.take_while(|id| !ends.contains(id)).peekable();
        // The first symbol comes of the prompt alone.
        symbols.peek();
        let reading = begin.elapsed();

        let begin = Instant::now();
        let mut written = 0;
        for id in symbols {
            written += 1;
            let new = text.push(id).map_err(GenerationFailure::Decoding)?;
            write!(out, "{new}")?;
            out.flush()?;
        }
        writeln!(out)?;
        Ok(Speed {
            read: prompt.len(),
            reading,
            written,
            writing: begin.elapsed(),
        })
    }
}

/// How many symbols of the prompt were read and how many written, and how long that took.
#[derive(Debug)]
struct Speed {
    read: usize,
    reading: Duration,
    written: usize,
    /// From the first symbol on.
    writing: Duration,
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_second = |count: usize, time: Duration| count as f64 / time.as_secs_f64().max(1e-9);
        write!(
            f,
            "prompt: {} symbols, {:.1} a second; written: {} symbols, {:.1} a second",
            self.read,
            per_second(self.read, self.reading),
            self.written,
            per_second(self.written.saturating_sub(1), self.writing)
        )
    }
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value >= 0.0 && f64::is_finite(value) => Ok(value),
        _ => Err("must be a number of at least 0".to_string()),
    }
}

fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("must be a number above 0, at most 1".to_string()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Args {
        #[command(flatten)]
        text: GenerationProgram,
    }

    fn parse(options: &[&str]) -> Result<GenerationProgram, clap::Error> {
        let args = Args::try_parse_from(std::iter::once("generate").chain(options.iter().copied()));
        args.map(|args| args.text)
    }

    /// The text and the line with the speed, where symbols are bytes and `symbols` follow the prompt.
    fn write(length: &str, symbols: &[u8], ends: &[u8]) -> (String, String) {
        let program = parse(&["--length", length]).expect("options");
        let ends: Vec<u32> = ends.iter().copied().map(u32::from).collect();
        let symbols = || symbols.iter().copied().map(u32::from);
        let mut out = Vec::new();
        let speed = program.write(&[104, 105], symbols, &ends, stream::lossy, &mut out);
        let speed = speed.expect("a text").to_string();
        (String::from_utf8(out).expect("whole characters"), speed)
    }

    #[test]
    fn a_text_is_as_long_as_asked_for() {
        let (text, speed) = write("4", b"gher, higher", b"");
        assert_eq!(text, "gher\n");
        assert!(speed.starts_with("prompt: 2 symbols, "), "{speed}");
        assert!(speed.contains("; written: 4 symbols, "), "{speed}");
    }

    #[test]
    fn a_text_ends_at_any_of_the_end_symbols_which_is_not_written() {
        let (text, speed) = write("100", b"gh. And", b"!.");
        assert_eq!(text, "gh\n");
        assert!(speed.contains("; written: 2 symbols, "), "{speed}");
        let (text, speed) = write("100", b".", b".");
        assert_eq!(text, "\n");
        assert!(
            speed.ends_with("; written: 0 symbols, 0.0 a second"),
            "{speed}"
        );
    }

    #[test]
    fn without_a_length_no_symbol_is_sampled() {
        let program = parse(&["--length", "0"]).expect("options");
        let symbols = || std::iter::from_fn(|| -> Option<u32> { panic!("sampled") });
        let mut out = Vec::new();
        let speed = program.write(&[104], symbols, &[], stream::lossy, &mut out);
        assert_eq!(speed.expect("a text").written, 0);
        assert_eq!(out, b"\n");
    }

    #[test]
    fn speeds_are_those_of_what_was_waited_for() {
        let speed = Speed {
            read: 30,
            reading: Duration::from_millis(500),
            written: 11,
            writing: Duration::from_secs(4),
        };
        let expected = "prompt: 30 symbols, 60.0 a second; written: 11 symbols, 2.5 a second";
        assert_eq!(speed.to_string(), expected);
    }

    #[test]
    fn a_tokenizer_that_fails_is_an_error() {
        let program = parse(&[]).expect("options");
        let decode = |_: &[u32]| Err("no such symbol".into());
        let result = program.write(&[1], || std::iter::once(2), &[], decode, Vec::new());
        let error = result.expect_err("an error");
        assert!(matches!(&error, GenerationFailure::Decoding(_)));
        assert_eq!(error.to_string(), "no such symbol");
    }

    #[test]
    fn options_that_no_sampler_has_are_refused() {
        for (option, values) in [
            ("--temperature", ["-0.1", "NaN", "inf", "warm"]),
            ("--top-p", ["0", "1.1", "NaN", "-1"]),
            ("--top-k", ["0", "-1", "1.5", "all"]),
        ] {
            for value in values {
                assert!(
                    parse(&[&format!("{option}={value}")]).is_err(),
                    "{option} {value}"
                );
            }
        }
        let program = parse(&["--temperature=0.7", "--top-k=5", "--top-p=1"]).expect("options");
        assert!([0, 1].contains(&program.sampler().sample(&[1.0, 1.0])));
    }
}
