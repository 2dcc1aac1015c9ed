//! Writes small GGUF files.

use std::path::{Path, PathBuf};

/// A file in the making: keys, then tensors.
#[derive(Default)]
pub struct Writer {
    keys: Vec<u8>,
    num_keys: u64,
    table: Vec<u8>,
    num_tensors: u64,
    data: Vec<u8>,
}

/// A text with its length before it.
pub fn text(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat()
}

impl Writer {
    /// A value of a type, by its number in the format.
    pub fn key(mut self, key: &str, kind: u32, value: &[u8]) -> Self {
        self.keys
            .extend([&text(key)[..], &kind.to_le_bytes(), value].concat());
        self.num_keys += 1;
        self
    }

    pub fn u32(self, key: &str, value: u32) -> Self {
        self.key(key, 4, &value.to_le_bytes())
    }

    pub fn f32(self, key: &str, value: f32) -> Self {
        self.key(key, 6, &value.to_le_bytes())
    }

    pub fn string(self, key: &str, value: &str) -> Self {
        self.key(key, 8, &text(value))
    }

    /// An array of a type, of elements that are bytes already.
    pub fn array(self, key: &str, kind: u32, elements: &[Vec<u8>]) -> Self {
        let head = [
            &kind.to_le_bytes()[..],
            &(elements.len() as u64).to_le_bytes(),
        ]
        .concat();
        self.key(key, 9, &[head, elements.concat()].concat())
    }

    /// A tensor of a row-major shape in a type of ggml.
    pub fn tensor(mut self, name: &str, shape: &[u64], kind: u32, bytes: &[u8]) -> Self {
        self.data.resize(self.data.len().next_multiple_of(32), 0);
        self.table.extend(text(name));
        self.table.extend((shape.len() as u32).to_le_bytes());
        for size in shape.iter().rev() {
            self.table.extend(size.to_le_bytes());
        }
        self.table.extend(kind.to_le_bytes());
        self.table.extend((self.data.len() as u64).to_le_bytes());
        self.data.extend(bytes);
        self.num_tensors += 1;
        self
    }

    /// The whole file.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = [&b"GGUF"[..], &3u32.to_le_bytes()].concat();
        all.extend(self.num_tensors.to_le_bytes());
        all.extend(self.num_keys.to_le_bytes());
        all.extend(&self.keys);
        all.extend(&self.table);
        all.resize(all.len().next_multiple_of(32), 0);
        all.extend(&self.data);
        all
    }

    /// Writes it into a folder.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let file = folder.join("model.gguf");
        std::fs::write(&file, self.bytes()).unwrap();
        file
    }
}
