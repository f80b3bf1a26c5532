//! The backup file: how rows travel out of a store and into another one (docs/storage.md has the format).
//!
//! Owns its bytes, and that a file which was cut or altered anywhere is refused. Must not know where the rows come from,
//! nor what they say.

use std::io::{self, Read};

use sha2::{Digest, Sha256};

use crate::clock::Millis;

/// What a file begins with; the format's version follows.
const MAGIC: &[u8; 15] = b"waypost backup\n";
const FORMAT: u8 = 1;

const HEAD: u8 = 1;
const ROWS: u8 = 2;
const CLOSE: u8 = 3;

/// Bytes of a frame from which on the next row begins another one, and bytes that a frame has at most.
pub(super) const FRAME: usize = 64 * 1024;
const MOST_FRAME: u32 = 16 << 20;
/// In place of the length of a value: the row is removed.
const REMOVED: u32 = u32::MAX;

/// Why a file is no backup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is not a backup of waypost")]
    NotABackup,
    #[error("its format {found} is of a newer waypost; this one knows {FORMAT}")]
    NewerFormat { found: u8 },
    #[error("it is cut short at byte {at}")]
    Cut { at: u64 },
    #[error("it is altered: {what} at byte {at}")]
    Altered { what: &'static str, at: u64 },
}

/// What a file says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The schema of its rows.
    pub schema: u32,
    /// When it was begun.
    pub made_at: Millis,
    /// The server's secret key, as its file has it; empty where the file has none.
    pub server_key: Vec<u8>,
}

/// A row's key, and its value; without one the row is removed.
pub type SnapshotRow = (Vec<u8>, Option<Vec<u8>>);

/// Rows of one tree, to be written or removed in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    pub tree: Vec<u8>,
    pub rows: Vec<SnapshotRow>,
}

/// Makes a file, piece by piece.
pub struct Encoder {
    out: Vec<u8>,
    payload: Vec<u8>,
    tree: Vec<u8>,
    digest: Sha256,
    frames: u64,
    rows: u64,
    bytes: u64,
}

impl Encoder {
    pub fn new(head: &Head) -> Encoder {
        let mut encoder = Encoder {
            out: Vec::new(),
            payload: Vec::new(),
            tree: Vec::new(),
            digest: Sha256::new(),
            frames: 0,
            rows: 0,
            bytes: 0,
        };
        encoder.put(&[&MAGIC[..], &[FORMAT]].concat());
        let payload =
            [&head.schema.to_be_bytes()[..], &head.made_at.to_be_bytes(), &head.server_key].concat();
        encoder.frame(HEAD, &payload);
        encoder
    }

    /// One more row of a tree, which has a name of up to 255 bytes. Without a value it is removed.
    pub fn row(&mut self, tree: &[u8], key: &[u8], value: Option<&[u8]>) {
        if self.tree != tree || self.payload.len() >= FRAME {
            self.end_rows();
        }
        if self.payload.is_empty() {
            self.tree = tree.to_vec();
            self.payload.push(tree.len() as u8);
            self.payload.extend_from_slice(tree);
        }
        self.payload.extend_from_slice(&(key.len() as u32).to_be_bytes());
        self.payload.extend_from_slice(key);
        let length = value.map_or(REMOVED, |value| value.len() as u32);
        self.payload.extend_from_slice(&length.to_be_bytes());
        self.payload.extend_from_slice(value.unwrap_or_default());
        self.rows += 1;
    }

    /// The rows so far are a frame; the next one begins another.
    pub fn end_rows(&mut self) {
        if !self.payload.is_empty() {
            let payload = std::mem::take(&mut self.payload);
            self.frame(ROWS, &payload);
        }
    }

    /// What is ready to be written out.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.out)
    }

    /// Rows so far, and bytes of all that is ready or was.
    pub fn counts(&self) -> (u64, u64) {
        (self.rows, self.bytes)
    }

    /// Ends the file: what is still to be written out is ready then.
    pub fn close(&mut self) {
        self.end_rows();
        let digest = self.digest.clone().finalize();
        let counts = [self.frames.to_be_bytes(), self.rows.to_be_bytes()].concat();
        self.frame(CLOSE, &[&counts[..], &digest].concat());
    }

    fn frame(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = Vec::with_capacity(payload.len() + 9);
        frame.push(kind);
        frame.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        frame.extend_from_slice(payload);
        frame.extend_from_slice(&crc32fast::hash(&frame).to_be_bytes());
        self.put(&frame);
        self.frames += 1;
    }

    fn put(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.out.extend_from_slice(bytes);
        self.bytes += bytes.len() as u64;
    }
}

/// Reads a file, frame by frame. Nothing of it counts before [`Decoder::read`] has told its end.
pub struct Decoder<R> {
    from: R,
    digest: Sha256,
    at: u64,
    frames: u64,
    rows: u64,
}

impl<R: Read> Decoder<R> {
    pub fn new(from: R) -> Result<(Decoder<R>, Head), SnapshotError> {
        let mut decoder = Decoder { from, digest: Sha256::new(), at: 0, frames: 0, rows: 0 };
        let mut magic = [0; MAGIC.len() + 1];
        decoder.fill(&mut magic).map_err(|error| match error {
            SnapshotError::Cut { .. } => SnapshotError::NotABackup,
            error => error,
        })?;
        match magic.strip_prefix(MAGIC) {
            Some([FORMAT]) => {}
            Some([found]) if *found > FORMAT => return Err(SnapshotError::NewerFormat { found: *found }),
            _ => return Err(SnapshotError::NotABackup),
        }
        decoder.digest.update(magic);
        let (kind, payload) = decoder.frame()?;
        let altered = SnapshotError::Altered { what: "no head", at: magic.len() as u64 };
        if kind != HEAD {
            return Err(altered);
        }
        let mut rest = Bytes(&payload);
        let (Some(schema), Some(made_at)) = (rest.number(), rest.take(8)) else { return Err(altered) };
        let made_at = made_at.try_into().map(u64::from_be_bytes).unwrap_or_default();
        Ok((decoder, Head { schema, made_at, server_key: rest.0.to_vec() }))
    }

    /// The next rows; `None` at the end of a file that is whole.
    pub fn read(&mut self) -> Result<Option<Rows>, SnapshotError> {
        let (at, digest) = (self.at, self.digest.clone());
        let (kind, payload) = self.frame()?;
        match kind {
            ROWS => {
                let rows = rows(&payload).ok_or(SnapshotError::Altered { what: "malformed rows", at })?;
                self.rows += rows.rows.len() as u64;
                Ok(Some(rows))
            }
            CLOSE => {
                let counts = [(self.frames - 1).to_be_bytes(), self.rows.to_be_bytes()].concat();
                if payload != [&counts[..], &digest.finalize()].concat() {
                    return Err(SnapshotError::Altered { what: "an end that does not fit", at });
                }
                if self.from.read(&mut [0])? != 0 {
                    return Err(SnapshotError::Altered { what: "more than the end", at: self.at });
                }
                Ok(None)
            }
            _ => Err(SnapshotError::Altered { what: "an unknown frame", at }),
        }
    }

    /// How many bytes were read.
    pub fn position(&self) -> u64 {
        self.at
    }

    fn frame(&mut self) -> Result<(u8, Vec<u8>), SnapshotError> {
        let start = self.at;
        let altered = |what| SnapshotError::Altered { what, at: start };
        let mut begin = [0; 5];
        self.fill(&mut begin)?;
        let [kind, length @ ..] = begin;
        let length = u32::from_be_bytes(length);
        if length > MOST_FRAME {
            return Err(altered("a frame that is too long"));
        }
        // Not made room for before it is there: the length may be wrong.
        let mut payload = Vec::new();
        let read = (&mut self.from).take(length.into()).read_to_end(&mut payload)?;
        self.at += read as u64;
        if read < length as usize {
            return Err(SnapshotError::Cut { at: self.at });
        }
        let mut sum = [0; 4];
        self.fill(&mut sum)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&begin);
        crc.update(&payload);
        if crc.finalize().to_be_bytes() != sum {
            return Err(altered("a wrong checksum"));
        }
        self.digest.update(begin);
        self.digest.update(&payload);
        self.digest.update(sum);
        self.frames += 1;
        Ok((kind, payload))
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        let mut filled = 0;
        while filled < bytes.len() {
            match self.from.read(&mut bytes[filled..]) {
                Ok(0) => return Err(SnapshotError::Cut { at: self.at }),
                Ok(read) => {
                    filled += read;
                    self.at += read as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The rows of a frame.
fn rows(payload: &[u8]) -> Option<Rows> {
    let mut rest = Bytes(payload);
    let length = usize::from(*rest.take(1)?.first()?);
    let mut rows = Rows { tree: rest.take(length)?.to_vec(), rows: Vec::new() };
    while !rest.0.is_empty() {
        let length = rest.number()? as usize;
        let key = rest.take(length)?.to_vec();
        let value = match rest.number()? {
            REMOVED => None,
            length => Some(rest.take(length as usize)?.to_vec()),
        };
        rows.rows.push((key, value));
    }
    Some(rows)
}

struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }
}
