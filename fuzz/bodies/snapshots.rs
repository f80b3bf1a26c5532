//! Owns what must hold of a backup file whatever bytes it is: it is refused, or it is whole and comes back as it was; and one
//! that is whole is not once a byte is another, or missing.

use sha2::{Digest, Sha256};
use waypost::store::{Decoder, Encoder, Head, SnapshotError, SnapshotRow};

/// Tree and row.
type Rows = Vec<(Vec<u8>, SnapshotRow)>;

/// A file as it is; and a file of the frames that these bytes are, with what checks them made right: each as its kind (a byte),
/// its length (two bytes, the higher first) and what is in it; what is missing at the end is cut short.
pub fn snapshots(data: &[u8]) {
    whole(data);
    if data.is_empty() {
        return;
    }
    let mut file = b"waypost backup\n\x01".to_vec();
    let mut rest = data;
    let mut frames = 0_u64;
    while let Some((kind, behind)) = rest.split_first() {
        let (length, behind) = behind.split_at(behind.len().min(2));
        let length = length.iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
        let (payload, behind) = behind.split_at(length.min(behind.len()));
        frame(&mut file, *kind, payload);
        frames += 1;
        rest = behind;
    }
    let rows = match read(&file) {
        Err((SnapshotError::Cut { .. }, rows)) => rows,
        // Its frames are a whole file's already.
        Ok(_) => return assert!(whole(&file), "nothing is wrong with it"),
        Err(_) => return,
    };
    let counts = [frames.to_be_bytes(), (rows.len() as u64).to_be_bytes()].concat();
    let digest = Sha256::digest(&file);
    frame(&mut file, 3, &[&counts[..], &digest].concat());
    assert!(whole(&file), "nothing is wrong with it");

    let at =
        data.iter().fold(0_usize, |at, byte| at.wrapping_mul(31).wrapping_add((*byte).into())) % file.len();
    assert!(read(&file[..at]).is_err(), "cut at {at}");
    file[at] ^= 1 << (at % 8);
    assert!(read(&file).is_err(), "altered at {at}");
}

fn frame(file: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    let start = file.len();
    file.push(kind);
    file.extend((payload.len() as u32).to_be_bytes());
    file.extend(payload);
    file.extend(crc32fast::hash(&file[start..]).to_be_bytes());
}

/// What it says, or why it is refused and what it said until then.
fn read(file: &[u8]) -> Result<(Head, Rows), (SnapshotError, Rows)> {
    let (mut decoder, head) = Decoder::new(file).map_err(|error| (error, Rows::new()))?;
    let mut all = Rows::new();
    loop {
        match decoder.read() {
            Ok(Some(rows)) => all.extend(rows.rows.into_iter().map(|row| (rows.tree.clone(), row))),
            Ok(None) => break,
            Err(error) => return Err((error, all)),
        }
        assert!(decoder.position() <= file.len() as u64);
    }
    assert_eq!(decoder.position(), file.len() as u64);
    Ok((head, all))
}

/// Whether it is; then it is written as what reads the same.
fn whole(file: &[u8]) -> bool {
    let Ok((head, rows)) = read(file) else { return false };
    let mut encoder = Encoder::new(&head);
    for (tree, (key, value)) in &rows {
        encoder.row(tree, key, value.as_deref());
    }
    encoder.close();
    let (counted, bytes) = encoder.counts();
    let again = encoder.take();
    assert_eq!((counted, bytes), (rows.len() as u64, again.len() as u64));
    assert_eq!(read(&again).ok(), Some((head, rows)));
    true
}
