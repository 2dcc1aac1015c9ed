//! The tokenizer in a GGUF file.

use seq_core::checkpoint::{CheckpointError, GgufMetadata};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer};

/// How Llama 3 splits text, and Qwen 2 but for the number of digits.
const WORDS: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Kinds of tokens in `tokenizer.ggml.token_type`: steering ones, and those of the user.
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Builds the tokenizer of a file whose `tokenizer.ggml.model` is `gpt2`: pairs of bytes, merged.
///
/// # Errors
///
/// When a key is missing, damaged, or has a value that is not known.
pub fn tokenizer(metadata: &GgufMetadata) -> Result<Tokenizer, CheckpointError> {
    const MODEL: &str = "tokenizer.ggml.model";
    const TOKENS: &str = "tokenizer.ggml.tokens";
    const TYPES: &str = "tokenizer.ggml.token_type";
    const MERGES: &str = "tokenizer.ggml.merges";
    const PRE: &str = "tokenizer.ggml.pre";

    match metadata.str(MODEL)? {
        Some("gpt2") => {}
        Some(other) => {
            return Err(metadata.wrong(MODEL, format!("it is `{other}`, known is `gpt2`")));
        }
        None => return Err(metadata.missing(MODEL)),
    }
    let tokens = metadata.strings(TOKENS)?;
    let tokens = tokens.ok_or_else(|| metadata.missing(TOKENS))?;
    let types = metadata.integers(TYPES)?.unwrap_or_default();
    let merges = metadata.strings(MERGES)?;
    let merges = merges.ok_or_else(|| metadata.missing(MERGES))?;
    let merges = merges.into_iter().map(|merge| {
        let pair = merge.split_once(' ');
        let pair = pair.ok_or_else(|| metadata.wrong(MERGES, format!("`{merge}` is no pair")))?;
        Ok((pair.0.to_string(), pair.1.to_string()))
    });
    let merges = merges.collect::<Result<Vec<_>, CheckpointError>>()?;
    let pre = metadata.str(PRE)?.unwrap_or("default");

    let ids = tokens.iter().zip(0u32..);
    let vocabulary: Vocab = ids.map(|(token, id)| (token.to_string(), id)).collect();
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .ignore_merges(pre == "llama-bpe")
        .build()
        .map_err(|error| metadata.wrong(MERGES, error))?;

    let mut tokenizer = Tokenizer::new(model);
    let bytes = |use_regex| PreTokenizerWrapper::from(ByteLevel::new(false, true, use_regex));
    let words = |digits: &str| {
        let pattern = SplitPattern::Regex(WORDS.replace("1,DIGITS", digits));
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false);
        split.map(PreTokenizerWrapper::from)
    };
    let steps = match pre {
        "smollm" => Ok(vec![Digits::new(true).into(), bytes(true)]),
        "gpt-2" | "default" => Ok(vec![bytes(true)]),
        "llama-bpe" => words("1,3").map(|words| vec![words, bytes(false)]),
        "qwen2" => {
            tokenizer.with_normalizer(Some(NFC));
            words("1").map(|words| vec![words, bytes(false)])
        }
        other => {
            let known = "known are `smollm`, `llama-bpe`, `qwen2`, `gpt-2` and `default`";
            return Err(metadata.wrong(PRE, format!("it is `{other}`, {known}")));
        }
    };
    let steps = steps.map_err(|error| metadata.wrong(PRE, error))?;
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
    tokenizer.with_decoder(Some(ByteLevel::default()));

    let of_type = |wanted: i64, special: bool| -> Vec<AddedToken> {
        let chosen = tokens
            .iter()
            .zip(&types)
            .filter(|(_, kind)| **kind == wanted);
        chosen
            .map(|(token, _)| AddedToken::from(token.to_string(), special).normalized(false))
            .collect()
    };
    tokenizer.add_special_tokens(&of_type(CONTROL, true));
    tokenizer.add_tokens(&of_type(USER_DEFINED, false));
    Ok(tokenizer)
}
