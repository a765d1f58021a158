//! Content-defined boundaries: FastCDC with normalised chunking, its gear table drawn from a secret.
//! Signatures only so far.

/// The chunker a repository was made with; stands in its descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkerSpec {
    /// Smallest chunk in bytes (only the last of a file may be smaller).
    pub min: u32,
    /// The size aimed at, in bytes; a power of two.
    pub average: u32,
    /// Largest chunk in bytes.
    pub max: u32,
}

impl Default for ChunkerSpec {
    fn default() -> ChunkerSpec {
        ChunkerSpec { min: 128 << 10, average: 512 << 10, max: 2 << 20 }
    }
}

/// Finds chunk boundaries.
pub struct Splitter {
    spec: ChunkerSpec,
}

/// A chunker that cannot be: sizes out of order or out of bounds.
#[derive(Debug, thiserror::Error)]
#[error("chunker sizes {min}/{average}/{max} are out of bounds")]
pub struct SpecError {
    min: u32,
    average: u32,
    max: u32,
}

impl Splitter {
    /// A splitter whose table derives from `seed`, so that boundaries tell a provider nothing.
    pub fn new(spec: ChunkerSpec, _seed: &[u8; 32]) -> Result<Splitter, SpecError> {
        Ok(Splitter { spec })
    }
    /// The sizes in use.
    pub fn spec(&self) -> ChunkerSpec {
        self.spec
    }
    /// Length of the first chunk of `data`: `1..=max`. `data` must be at least `max` long or reach the end of the content;
    /// what is shorter than `min` is one chunk. Empty data gives 0.
    pub fn cut(&self, data: &[u8]) -> usize {
        data.len().min(self.spec.max as usize)
    }
}
