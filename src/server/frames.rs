//! Where the frames of a WebSocket begin and end in what its client sends (RFC 6455, section 5.2).
//!
//! Owns following them as the bytes go by. Must not know what is said, nor whether it may be.

use std::io::Cursor;

use tokio_tungstenite::tungstenite::protocol::frame::FrameHeader;
use tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode;

/// Bytes of the shortest head that a client sends, since it masks, and of the longest.
const LEAST_HEAD: usize = 6;
const MOST_HEAD: usize = 14;

#[derive(Default)]
pub struct Frames {
    head: [u8; MOST_HEAD],
    /// Bytes of the head that have come.
    come: usize,
    /// Bytes of the payload that are to come.
    left: u64,
    is_control: bool,
    /// A message has begun and its last frame has not.
    is_within: bool,
    /// Bytes of the largest payload.
    pub largest: u64,
}

impl Frames {
    /// Goes on by these bytes; tells how many of them are of messages.
    pub fn read(&mut self, mut bytes: &[u8]) -> usize {
        let mut of_messages = 0;
        while let Some(first) = bytes.first() {
            let taken = match self.left {
                0 => {
                    self.head[self.come] = *first;
                    self.come += 1;
                    if self.come >= LEAST_HEAD {
                        self.look_at_head();
                    }
                    1
                }
                left => {
                    let taken = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.left -= taken as u64;
                    of_messages += if self.is_control { 0 } else { taken };
                    taken
                }
            };
            bytes = &bytes[taken..];
        }
        of_messages
    }

    fn look_at_head(&mut self) {
        match FrameHeader::parse(&mut Cursor::new(&self.head[..self.come])) {
            Ok(None) => {}
            Ok(Some((head, length))) => {
                (self.come, self.left) = (0, length);
                self.is_control = matches!(head.opcode, OpCode::Control(_));
                if !self.is_control {
                    self.is_within = !head.is_final;
                    self.largest = self.largest.max(length);
                }
            }
            // Nothing behind that is a frame.
            Err(_) => (self.left, self.is_control) = (u64::MAX, true),
        }
    }

    /// Whether all that was begun has come.
    pub fn is_between(&self) -> bool {
        self.come == 0 && self.left == 0 && !self.is_within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(0x80 | length as u8),
            126..65_536 => frame.extend([&[0xfe][..], &(length as u16).to_be_bytes()].concat()),
            _ => frame.extend([&[0xff][..], &(length as u64).to_be_bytes()].concat()),
        }
        frame.extend([0xff; 4]);
        frame.extend(vec![b'x'; length]);
        frame
    }

    #[test]
    fn frames_are_told_apart_however_their_bytes_come() {
        let whole = [frame(0x81, 5), frame(0x01, 300), frame(0x89, 125), frame(0x00, 0), frame(0x80, 70_000)];
        let bytes = whole.concat();
        for step in [1, 2, 3, 7, 1000, bytes.len()] {
            let mut frames = Frames::default();
            let (mut of_messages, mut between) = (0, 0);
            for part in bytes.chunks(step) {
                of_messages += frames.read(part);
                between += usize::from(frames.is_between());
            }
            assert_eq!((of_messages, frames.largest), (5 + 300 + 70_000, 70_000), "by {step}");
            assert!(frames.is_between());
            assert!(step > 1 || between == 2, "after the first message and after the last frame");
        }
    }

    #[test]
    fn behind_nonsense_nothing_is_a_frame() {
        let mut frames = Frames::default();
        assert_eq!(frames.read(&[frame(0x81, 5), frame(0x83, 5)].concat()), 5);
        assert_eq!((frames.read(&frame(0x81, 5).repeat(9)), frames.is_between()), (0, false));
    }
}
