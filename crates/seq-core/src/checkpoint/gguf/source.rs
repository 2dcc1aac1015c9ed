use std::fs::File;
use std::io::{self, BufReader, Read};

/// The longest header that is read, so that a damaged length in a large file fills no memory. The
/// vocabularies of the largest models need a fifth of it.
const LONGEST_HEADER: u64 = 50_000_000;

/// The header of a file, read from front to back. Nothing is allocated for what the file cannot hold.
pub(super) struct Source<'a> {
    file: BufReader<&'a File>,
    position: u64,
    end: u64,
}

impl<'a> Source<'a> {
    pub fn new(file: &'a File) -> io::Result<Self> {
        Ok(Self {
            position: 0,
            end: file.metadata()?.len().min(LONGEST_HEADER),
            file: BufReader::new(file),
        })
    }

    /// How many bytes have been read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next bytes.
    pub fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    pub fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// A number of things, of which each takes at least `smallest` bytes.
    pub fn count(&mut self, smallest: u64, things: &str) -> io::Result<usize> {
        let count = self.u64()?;
        let left = self.end - self.position;
        match usize::try_from(count) {
            Ok(fits) if count <= left / smallest => Ok(fits),
            _ => Err(invalid(format!(
                "it claims {count} {things}, {left} bytes are left"
            ))),
        }
    }

    pub fn string(&mut self) -> io::Result<String> {
        let length = self.count(1, "letters")?;
        let mut bytes = vec![0; length];
        self.fill(&mut bytes)?;
        String::from_utf8(bytes).map_err(|_| invalid("its text is not UTF-8"))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        let (needed, left) = (bytes.len() as u64, self.end - self.position);
        if needed > left {
            let reason = format!("it needs {needed} bytes, {left} are left");
            return Err(invalid(reason));
        }
        self.position += needed;
        self.file.read_exact(bytes)
    }
}

/// The error for content that makes no sense.
pub(super) fn invalid(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}
