//! How tensors are stored: plain floats, or blocks of small integers with a scale.
//!
//! Source: `ggml-common.h` and `ggml-quants.c` of <https://github.com/ggml-org/ggml>.

use burn::tensor::{DType, f16};

/// The most elements in a block.
const LARGEST_BLOCK: usize = 256;

/// How the elements of a tensor are stored.
pub(super) struct Format {
    /// The name that ggml gives it.
    pub name: &'static str,
    /// How many elements are stored together. Rows consist of whole blocks.
    pub block: usize,
    /// How many bytes a block has.
    block_bytes: usize,
    pub elements: Elements,
}

/// What the elements are.
pub(super) enum Elements {
    /// Floats, as they are in memory.
    Plain(DType),
    /// Blocks, which a function makes floats.
    Quantized(fn(&[u8], &mut [f32])),
    /// Integers, or blocks that nothing here makes floats.
    Unreadable,
}

impl Format {
    /// The format with a number of ggml, if it is known.
    pub fn of(number: u32) -> Option<Self> {
        use Elements::{Plain, Quantized, Unreadable};
        let (name, block, block_bytes, elements) = match number {
            0 => ("F32", 1, 4, Plain(DType::F32)),
            1 => ("F16", 1, 2, Plain(DType::F16)),
            2 => ("Q4_0", 32, 18, Quantized(q4_0)),
            3 => ("Q4_1", 32, 20, Quantized(q4_1)),
            6 => ("Q5_0", 32, 22, Quantized(q5_0)),
            7 => ("Q5_1", 32, 24, Quantized(q5_1)),
            8 => ("Q8_0", 32, 34, Quantized(q8_0)),
            10 => ("Q2_K", 256, 84, Unreadable),
            11 => ("Q3_K", 256, 110, Unreadable),
            12 => ("Q4_K", 256, 144, Quantized(q4_k)),
            13 => ("Q5_K", 256, 176, Quantized(q5_k)),
            14 => ("Q6_K", 256, 210, Quantized(q6_k)),
            24 => ("I8", 1, 1, Unreadable),
            25 => ("I16", 1, 2, Unreadable),
            26 => ("I32", 1, 4, Unreadable),
            27 => ("I64", 1, 8, Unreadable),
            28 => ("F64", 1, 8, Plain(DType::F64)),
            30 => ("BF16", 1, 2, Plain(DType::BF16)),
            _ => return None,
        };
        Some(Self {
            name,
            block,
            block_bytes,
            elements,
        })
    }

    /// How many bytes a tensor takes, or `None` if no number can tell.
    pub fn num_bytes(&self, shape: &[usize]) -> Option<u64> {
        let count = |product: u64, &size: &usize| product.checked_mul(size as u64);
        let elements = shape.iter().try_fold(1, count)?;
        (elements / self.block as u64).checked_mul(self.block_bytes as u64)
    }

    /// The elements as they are in memory, out of whole blocks: floats of 32 bits, where they were quantised.
    pub fn dequantize(&self, stored: Vec<u8>) -> Vec<u8> {
        let Elements::Quantized(dequantize) = self.elements else {
            return stored;
        };
        let blocks = stored.chunks_exact(self.block_bytes);
        let mut bytes = vec![0; blocks.len() * self.block * size_of::<f32>()];
        let mut values = [0.0; LARGEST_BLOCK];
        let values = &mut values[..self.block];
        for (block, bytes) in blocks.zip(bytes.chunks_exact_mut(self.block * size_of::<f32>())) {
            dequantize(block, values);
            for (value, bytes) in values.iter().zip(bytes.chunks_exact_mut(size_of::<f32>())) {
                bytes.copy_from_slice(&value.to_ne_bytes());
            }
        }
        bytes
    }
}

/// The half-precision number at a place in a block.
fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Element `i` of 32: the low halves of 16 bytes, then their high halves.
fn nibble(packed: &[u8], i: usize) -> u8 {
    match i < 16 {
        true => packed[i] & 0xf,
        false => packed[i - 16] >> 4,
    }
}

/// Bit `i` of packed bits, as the fifth bit of a number.
fn fifth_bit(packed: &[u8], i: usize) -> u8 {
    (packed[i / 8] >> (i % 8) & 1) << 4
}

/// `[scale f16, 16 bytes]`: `scale * (q - 8)`.
fn q4_0(block: &[u8], values: &mut [f32]) {
    let (scale, packed) = (half(block, 0), &block[2..]);
    for (i, value) in values.iter_mut().enumerate() {
        *value = scale * (f32::from(nibble(packed, i)) - 8.0);
    }
}

/// `[scale f16, least f16, 16 bytes]`: `scale * q + least`.
fn q4_1(block: &[u8], values: &mut [f32]) {
    let (scale, least, packed) = (half(block, 0), half(block, 2), &block[4..]);
    for (i, value) in values.iter_mut().enumerate() {
        *value = scale * f32::from(nibble(packed, i)) + least;
    }
}

/// `[scale f16, 4 bytes of fifth bits, 16 bytes]`: `scale * (q - 16)`.
fn q5_0(block: &[u8], values: &mut [f32]) {
    let (scale, high, packed) = (half(block, 0), &block[2..6], &block[6..]);
    for (i, value) in values.iter_mut().enumerate() {
        let q = nibble(packed, i) | fifth_bit(high, i);
        *value = scale * (f32::from(q) - 16.0);
    }
}

/// `[scale f16, least f16, 4 bytes of fifth bits, 16 bytes]`: `scale * q + least`.
fn q5_1(block: &[u8], values: &mut [f32]) {
    let (scale, least) = (half(block, 0), half(block, 2));
    let (high, packed) = (&block[4..8], &block[8..]);
    for (i, value) in values.iter_mut().enumerate() {
        let q = nibble(packed, i) | fifth_bit(high, i);
        *value = scale * f32::from(q) + least;
    }
}

/// `[scale f16, 32 signed bytes]`: `scale * q`.
fn q8_0(block: &[u8], values: &mut [f32]) {
    let scale = half(block, 0);
    for (value, &q) in values.iter_mut().zip(&block[2..]) {
        *value = scale * f32::from(q.cast_signed());
    }
}

/// The scale and the offset of part `j` of 8, six bits each in 12 bytes: the first four of both have bytes of
/// their own, in whose upper two bits are those of the last four.
fn six_bits(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, offset) = match j < 4 {
        true => (packed[j] & 63, packed[j + 4] & 63),
        false => (
            packed[j + 4] & 0xf | packed[j - 4] >> 6 << 4,
            packed[j + 4] >> 4 | packed[j] >> 6 << 4,
        ),
    };
    (scale.into(), offset.into())
}

/// `[scale f16, offset f16, 12 bytes of scales and offsets, 128 bytes]`: `scale * q - offset`, each of 8
/// parts of 32 with factors of its own. Two parts share 32 bytes.
fn q4_k(block: &[u8], values: &mut [f32]) {
    let (scale, offset, packed) = (half(block, 0), half(block, 2), &block[16..]);
    for (j, values) in values.chunks_exact_mut(32).enumerate() {
        let (part_scale, part_offset) = six_bits(&block[4..16], j);
        let (scale, offset) = (scale * part_scale, offset * part_offset);
        let packed = &packed[j / 2 * 32..];
        for (value, byte) in values.iter_mut().zip(packed) {
            let q = byte >> (j % 2 * 4) & 0xf;
            *value = scale * f32::from(q) - offset;
        }
    }
}

/// As [`q4_k`], with 32 bytes of fifth bits before the 128 bytes: bit `j` is that of part `j`.
fn q5_k(block: &[u8], values: &mut [f32]) {
    let (scale, offset) = (half(block, 0), half(block, 2));
    let (high, packed) = (&block[16..48], &block[48..]);
    for (j, values) in values.chunks_exact_mut(32).enumerate() {
        let (part_scale, part_offset) = six_bits(&block[4..16], j);
        let (scale, offset) = (scale * part_scale, offset * part_offset);
        let packed = packed[j / 2 * 32..].iter().zip(high);
        for (value, (byte, high)) in values.iter_mut().zip(packed) {
            let q = byte >> (j % 2 * 4) & 0xf | (high >> j & 1) << 4;
            *value = scale * f32::from(q) - offset;
        }
    }
}

/// `[128 bytes of low halves, 64 bytes of upper two bits, 16 signed scales, scale f16]`:
/// `scale * part_scale * (q - 32)`, with 16 elements in a part. Of each half of the block, two runs of 32 lie
/// in the low halves of 64 bytes and two in the high ones; their upper bits share 32 bytes.
fn q6_k(block: &[u8], values: &mut [f32]) {
    let (low, high) = (&block[..128], &block[128..192]);
    let (scales, scale) = (&block[192..208], half(block, 208));
    for (run, values) in values.chunks_exact_mut(32).enumerate() {
        let (part, run_in_part) = (run / 4, run % 4);
        let low = &low[part * 64 + run_in_part % 2 * 32..];
        let high = &high[part * 32..];
        for (i, value) in values.iter_mut().enumerate() {
            let q = low[i] >> (run_in_part / 2 * 4) & 0xf | (high[i] >> (run_in_part * 2) & 3) << 4;
            let part_scale = scales[run * 2 + i / 16].cast_signed();
            *value = scale * f32::from(part_scale) * (f32::from(q) - 32.0);
        }
    }
}
