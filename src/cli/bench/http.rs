//! Owns finding one whole HTTP/1.1 answer at the start of what has come. Must not know what it answers.

use std::ops::Range;

use crate::client::ClientError;

const HEAD_END: &[u8] = b"\r\n\r\n";
const LINE_END: &[u8] = b"\r\n";

/// One answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    pub status: u16,
    pub headers: Vec<(&'a str, &'a str)>,
    /// Where its body is; of a body in chunks, the first chunk.
    pub body: Range<usize>,
    /// Its bytes, head included.
    pub length: usize,
}

impl<'a> Answer<'a> {
    /// The answer that `bytes` begin with; none as long as a part of it is missing.
    pub fn at_start(bytes: &'a [u8]) -> Result<Option<Answer<'a>>, ClientError> {
        let Some(mut answer) = Answer::head_at_start(bytes)? else { return Ok(None) };
        let at = answer.length;
        if answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            let Some((first, end)) = chunks(bytes, at)? else { return Ok(None) };
            (answer.body, answer.length) = (first, end);
        } else {
            let length = answer.header("content-length").unwrap_or("0");
            let length: usize = length.parse().map_err(|_| nonsense("Content-Length"))?;
            (answer.body, answer.length) = (at..at + length, at + length);
        }
        Ok((answer.length <= bytes.len()).then_some(answer))
    }

    /// As [`Answer::at_start`], of an answer that has no body, such as an upgrade.
    pub fn head_at_start(bytes: &'a [u8]) -> Result<Option<Answer<'a>>, ClientError> {
        let Some(end) = find(bytes, HEAD_END, 0) else { return Ok(None) };
        let head = std::str::from_utf8(&bytes[..end]).map_err(|_| nonsense("head"))?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.trim(), value.trim())).collect();
        let length = end + HEAD_END.len();
        let status = status.ok_or_else(|| nonsense("status"))?;
        Ok(Some(Answer { status, headers, body: length..length, length }))
    }

    pub fn header(&self, name: &str) -> Option<&'a str> {
        self.headers.iter().find(|(is, _)| is.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

/// Where the first of the chunks that begin at `at` is, and where all of them end.
fn chunks(bytes: &[u8], mut at: usize) -> Result<Option<(Range<usize>, usize)>, ClientError> {
    let mut first = None;
    loop {
        let Some(line) = find(bytes, LINE_END, at) else { return Ok(None) };
        let size = std::str::from_utf8(&bytes[at..line]).ok().and_then(|size| size.split(';').next());
        let size = size.and_then(|size| usize::from_str_radix(size.trim(), 16).ok());
        let size = size.filter(|size| *size < 1 << 30).ok_or_else(|| nonsense("chunk"))?;
        let data = line + LINE_END.len();
        let end = data + size + LINE_END.len();
        if end > bytes.len() {
            return Ok(None);
        }
        let first = first.get_or_insert(data..data + size);
        if size == 0 {
            return Ok(Some((first.clone(), end)));
        }
        at = end;
    }
}

fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    let found = bytes.get(from..)?.windows(what.len()).position(|window| window == what);
    found.map(|at| from + at)
}

fn nonsense(what: &str) -> ClientError {
    ClientError::Protocol(format!("an HTTP answer without a proper {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Option<(u16, &str, usize)> {
        let answer = Answer::at_start(text.as_bytes()).unwrap()?;
        Some((answer.status, &text[answer.body], answer.length))
    }

    #[test]
    fn an_answer_is_found_once_it_is_whole() {
        let plain = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let chunked =
            "HTTP/1.1 404 No\r\nTransfer-Encoding: Chunked\r\n\r\n3;x=y\r\n{ }\r\n1\r\n \r\n0\r\n\r\n";
        for (text, status, body) in [(plain, 200, "{}"), (chunked, 404, "{ }")] {
            for end in 0..text.len() {
                assert_eq!(whole(&text[..end]), None, "{end}");
            }
            let with_next = format!("{text}HTTP/1.1");
            assert_eq!(whole(&with_next), Some((status, body, text.len())));
        }
        let bare = "HTTP/1.1 204 No Content\r\n\r\n";
        assert_eq!(whole(bare), Some((204, "", bare.len())));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n"] {
            assert!(Answer::at_start(text.as_bytes()).is_err(), "{text:?}");
        }
        let text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nx\r\n";
        assert!(Answer::at_start(text.as_bytes()).is_err());
    }
}
