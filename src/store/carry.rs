//! Leases as lines of JSON, out of a store and into another one.
//!
//! Owns what a line says, and that it comes back as it was. A first line has the version, a last one the count, so that a file
//! which was cut is refused. Must not know where lines come from or go.

use std::collections::HashSet;
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sled::Db;

use super::changes::Indexed;
use super::fold::Together;
use super::key::{BOOT, LIVE_SINCE, LeaseKey, META, SCHEMA as SCHEMA_KEY};
use super::read::{Raw, Row};
use super::record::{
    Amendment, ChunkRecord, ClaimRecord, PeerRecord, Record, RegistrationRecord, RelayRecord, Seen,
    ServerRecord, TurnSessionRecord,
};
use super::side::{self, Replace, SideError};
use super::{Changes, Faults, OfflineError, SCHEMA, Store, StoreError, batches, guarded};
use crate::clock::Millis;
use crate::id::Kind;

/// The version of the lines. Another one where a field changes.
const VERSION: u32 = 1;
/// Bytes of a line at most: several times the largest lease.
const MOST_LINE: u64 = 64 << 20;
/// Rows that are written in one batch, and flushed.
const BATCH: usize = 300;

/// Fields that are bytes, and those that are text or lists of it: in a line they are base64.
const BYTES: [&str; 3] = ["resume", "token", "digest"];
const TEXTS: [&str; 2] = ["payloads", "data"];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    waypost_export: u32,
    exported_at: Millis,
    boot: u64,
    live_since: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    leases: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    kind: String,
    key: String,
    indexed: Millis,
    record: Value,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amendment: Option<Value>,
}

/// Why leases were not carried. What was there before is whole.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    #[error(transparent)]
    Offline(#[from] OfflineError),
    #[error(transparent)]
    Side(#[from] SideError),
    #[error("line {number}: {reason}: nothing was imported")]
    Line { number: u64, reason: String },
    #[error("the lines cannot be read: {0}")]
    Read(io::Error),
    #[error("the lines cannot be written: {0}")]
    Write(io::Error),
}

impl CarryError {
    /// Whether nothing was begun, and something is to be mended before another try makes sense.
    pub fn is_refusal(&self) -> bool {
        match self {
            CarryError::Offline(error) => error.is_refusal(),
            CarryError::Side(error) => error.is_refusal(),
            CarryError::Line { .. } => true,
            CarryError::Read(_) | CarryError::Write(_) => false,
        }
    }
}

/// What an export came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exported {
    pub leases: u64,
    /// Those that do not decode, and were left out.
    pub undecodable: Vec<String>,
}

/// What an import came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub leases: u64,
    /// Where the store is that was there before.
    pub moved: Option<PathBuf>,
}

/// Writes every lease of a store that nobody has open as a line.
pub fn export(path: &Path, now: Millis, to: &mut dyn Write) -> Result<Exported, CarryError> {
    let store = Store::open_as_it_is(path)?;
    let failed = OfflineError::failed(path);
    let numbers = guarded(|| Ok((store.number(BOOT)?, store.live_since()?)));
    let (boot, live_since) = numbers.map_err(&failed)?;
    let mut exported = Exported::default();
    let mut written = put_line(to, &First { waypost_export: VERSION, exported_at: now, boot, live_since });
    for kind in Kind::ALL {
        let read = guarded(|| {
            store.each_raw(kind, &mut |raw| match raw.decode() {
                Ok(row) => {
                    exported.leases += 1;
                    if written.is_ok() {
                        written = put_line(to, &line(&raw.key, &row));
                    }
                }
                Err(_) => exported.undecodable.push(format!("{}/{}", kind.name(), raw.key.text())),
            })
        });
        read.map_err(&failed)?;
    }
    written.and_then(|()| put_line(to, &Last { leases: exported.leases })).map_err(CarryError::Write)?;
    to.flush().map_err(CarryError::Write)?;
    Ok(exported)
}

fn put_line(to: &mut dyn Write, line: &impl Serialize) -> io::Result<()> {
    serde_json::to_writer(&mut *to, line)?;
    to.write_all(b"\n")
}

fn line(key: &LeaseKey, row: &Row<'_>) -> Line {
    fn value(record: &impl Serialize) -> Value {
        let mut value = serde_json::to_value(record).expect("records are plain data");
        pack(&mut value);
        value
    }
    let (record, amendment) = match row {
        Row::Relay { record, .. } => (value(record), None),
        Row::Registration { record, amendment, .. } => (value(record), amendment.as_ref().map(value)),
        Row::Peer { record, seen, .. } => (value(record), seen.as_ref().map(value)),
        Row::TurnSession { record, .. } => (value(record), None),
        Row::Server { record, .. } => (value(record), None),
        Row::Claim { record, .. } => (value(record), None),
        Row::Chunk { record, .. } => (value(record), None),
    };
    Line { kind: key.kind().name().to_owned(), key: key.text(), indexed: row.indexed(), record, amendment }
}

/// Bytes and payloads as base64.
fn pack(record: &mut Value) {
    for name in BYTES {
        if let Some(bytes @ Value::Array(_)) = record.get_mut(name) {
            let text = <Vec<u8>>::deserialize(&*bytes).map(|bytes| STANDARD.encode(bytes));
            *bytes = text.expect("these are bytes").into();
        }
    }
    for text in texts(record) {
        *text = STANDARD.encode(text.as_bytes());
    }
}

/// The reverse of [`pack`].
fn unpack(record: &mut Value) -> Result<(), String> {
    for name in BYTES {
        if let Some(text @ Value::String(_)) = record.get_mut(name) {
            let bytes = STANDARD.decode(text.as_str().unwrap_or_default());
            *text = bytes.map_err(|error| format!("{name}: {error}"))?.into();
        }
    }
    for text in texts(record) {
        let bytes = STANDARD.decode(&*text).map_err(|error| format!("a payload: {error}"))?;
        *text = String::from_utf8(bytes).map_err(|error| format!("a payload: {error}"))?;
    }
    Ok(())
}

fn texts(record: &mut Value) -> Vec<&mut String> {
    let fields = record.as_object_mut().into_iter().flatten();
    let found = fields.filter(|(name, _)| TEXTS.contains(&name.as_str())).map(|(_, value)| value);
    let all = found.flat_map(|value| match value {
        Value::Array(values) => values.iter_mut().collect(),
        value => vec![value],
    });
    all.filter_map(|value| if let Value::String(text) = value { Some(text) } else { None }).collect()
}

/// Makes a store of lines, and puts it in its place.
///
/// # Errors
/// A line that is not as an export writes it is refused with its number, and nothing is imported.
pub fn import(
    mut from: impl BufRead,
    replace: &Replace<'_>,
    faults: &Faults,
) -> Result<Imported, CarryError> {
    let failed = SideError::failed(replace.path);
    let mut leases = 0;
    let fill = |db: &Db| {
        let fail = |error: StoreError| CarryError::Side(failed(error));
        let mut lines = Lines { from: &mut from, number: 0 };
        let first: First = lines.next()?;
        if first.waypost_export != VERSION {
            return Err(lines.bad(format!("version {} is not known", first.waypost_export)));
        }
        let (mut changes, mut seen) = (Changes::default(), HashSet::new());
        loop {
            let value: Value = lines.next()?;
            if let Ok(Last { leases }) = Last::deserialize(&value) {
                if leases != seen.len() as u64 {
                    return Err(lines.bad(format!("{leases} leases are told, and {} are here", seen.len())));
                }
                break;
            }
            let line = serde_json::from_value(value).map_err(|error| lines.bad(error.to_string()))?;
            let key = put(line, &mut changes).map_err(|reason| lines.bad(reason))?;
            if !seen.insert(key) {
                return Err(lines.bad("this lease was here before".to_owned()));
            }
            if changes.rows() >= BATCH {
                write(db, &std::mem::take(&mut changes)).map_err(fail)?;
            }
        }
        if lines.read()?.is_some() {
            return Err(lines.bad("the line before is the last one".to_owned()));
        }
        leases = seen.len() as u64;
        write(db, &changes).and_then(|()| write_meta(db, &first)).map_err(fail)
    };
    let moved = side::build(replace, faults, fill, || Ok(()))?;
    Ok(Imported { leases, moved })
}

fn write(db: &Db, changes: &Changes) -> Result<(), StoreError> {
    for (tree, batch) in batches(changes, |tree| Ok(db.open_tree(tree)?))? {
        tree.apply_batch(batch)?;
    }
    db.flush()?;
    Ok(())
}

fn write_meta(db: &Db, first: &First) -> Result<(), StoreError> {
    let meta = db.open_tree(META)?;
    meta.insert(BOOT, &first.boot.to_be_bytes())?;
    meta.insert(LIVE_SINCE, &first.live_since.to_be_bytes())?;
    meta.insert(SCHEMA_KEY, &SCHEMA.to_be_bytes())?;
    Ok(())
}

/// The rows of a lease, or what is wrong with its line.
fn put(mut line: Line, changes: &mut Changes) -> Result<LeaseKey, String> {
    let kind = Kind::from_name(&line.kind).ok_or_else(|| format!("no kind {:?}", line.kind))?;
    let key = LeaseKey::parse(kind, &line.key).ok_or_else(|| format!("no key of a {}", kind.name()))?;
    let given = line.record.clone();
    unpack(&mut line.record)?;
    let mut of_lease = Changes::default();
    let Line { record, amendment, indexed, .. } = &line;
    let at = Indexed::at(*indexed);
    match kind {
        Kind::Relay => put_as::<RelayRecord>(&mut of_lease, &key, record, at),
        Kind::Registration => put_as::<RegistrationRecord<'_>>(&mut of_lease, &key, record, at),
        Kind::Peer => put_as::<PeerRecord>(&mut of_lease, &key, record, at),
        Kind::TurnSession => put_as::<TurnSessionRecord>(&mut of_lease, &key, record, at),
        Kind::Server => put_as::<ServerRecord>(&mut of_lease, &key, record, at),
        Kind::Claim => put_as::<ClaimRecord>(&mut of_lease, &key, record, at),
        Kind::Chunk => put_as::<ChunkRecord<'_>>(&mut of_lease, &key, record, at),
    }?;
    if let Some(amendment) = amendment {
        match kind {
            Kind::Registration => amend_as::<Amendment>(&mut of_lease, &key, amendment, at),
            Kind::Peer => amend_as::<Seen>(&mut of_lease, &key, amendment, at),
            _ => Err(format!("a {} has no amendment", kind.name())),
        }?;
    }
    // As it will be read.
    let raw = together(kind, &of_lease).ok_or("no row")?;
    let row = raw.decode().map_err(|error| error.to_string())?;
    if row.indexed() != *indexed || row.end().is_some_and(|end| *indexed > end) {
        return Err(format!("it cannot be indexed at {indexed}"));
    }
    let read = self::line(&raw.key, &row);
    if names(&read.record) != names(&given)
        || read.amendment.as_ref().map(names) != amendment.as_ref().map(names)
    {
        return Err("it has an unknown field".to_owned());
    }
    changes.append(of_lease);
    Ok(key)
}

fn put_as<'a, R: Record + Deserialize<'a>>(
    changes: &mut Changes,
    key: &LeaseKey,
    record: &'a Value,
    at: Indexed,
) -> Result<(), String> {
    changes.put_new(key, &R::deserialize(record).map_err(|error| error.to_string())?, at);
    Ok(())
}

fn amend_as<'a, R: Record + Deserialize<'a>>(
    changes: &mut Changes,
    key: &LeaseKey,
    amendment: &'a Value,
    at: Indexed,
) -> Result<(), String> {
    changes.amend(key, &R::deserialize(amendment).map_err(|error| error.to_string())?, at, at);
    Ok(())
}

fn names(record: &Value) -> HashSet<&String> {
    record.as_object().into_iter().flat_map(|fields| fields.keys()).collect()
}

/// A lease as its rows will be read.
fn together(kind: Kind, changes: &Changes) -> Option<Raw> {
    let mut rows: Vec<_> =
        changes.rows.iter().filter(|row| row.tree == super::key::tree_name(kind)).collect();
    rows.sort_by_key(|row| &row.key);
    let mut together = Together { kind, last: None };
    for row in rows {
        together.take(row.key.clone(), row.value.clone()?);
    }
    together.last
}

struct Lines<'a, R> {
    from: &'a mut R,
    number: u64,
}

impl<R: BufRead> Lines<'_, R> {
    fn next<T: for<'a> Deserialize<'a>>(&mut self) -> Result<T, CarryError> {
        let line = self.read()?.ok_or_else(|| self.bad("the last line is not here".to_owned()))?;
        serde_json::from_slice(&line).map_err(|error| self.bad(error.to_string()))
    }

    fn read(&mut self) -> Result<Option<Vec<u8>>, CarryError> {
        let mut line = Vec::new();
        self.number += 1;
        let read = self.from.by_ref().take(MOST_LINE).read_until(b'\n', &mut line);
        read.map_err(CarryError::Read)?;
        Ok(Some(line).filter(|line| !line.is_empty()))
    }

    fn bad(&self, reason: String) -> CarryError {
        CarryError::Line { number: self.number, reason }
    }
}
