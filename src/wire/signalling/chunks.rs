//! Chunks and channels (protocol: signalling, section 5).
//!
//! Owns these messages, the order of their checks and their literal texts. Must not know which chunks there are.

use serde_json::Value;

use super::{Fields, missing, peer_id};
use crate::id::{ChunkName, PeerId, is_chunk_id};
use crate::limits::{MAX_CHUNK_BYTES, MAX_CHUNKS_PER_ANNOUNCE};
use crate::wire::Refusal;

/// `chunk_announce`.
#[derive(Clone, Debug, PartialEq)]
pub struct ChunkAnnounce {
    pub peer_id: PeerId,
    pub resume_token: Option<String>,
    /// Empty where none is given.
    pub channel: String,
    /// Each once, in order of first mention.
    pub chunks: Vec<String>,
}

/// `chunk_push`.
#[derive(Clone, Debug, PartialEq)]
pub struct ChunkPush {
    pub name: ChunkName,
    /// JSON.
    pub data: String,
}

const ID: &str = "a string of 1 to 256 characters";

pub(super) fn announce(mut fields: Fields) -> Result<ChunkAnnounce, Refusal> {
    let peer_id = peer_id(&mut fields)?;
    let channel = channel_or_none(&mut fields)?;
    let malformed = |fields: &Fields| fields.wrong_kind("chunks", "a list of 1 to 100 { chunkId }");
    let Some(Value::Array(list)) = fields.take("chunks") else { return Err(malformed(&fields)) };
    if !(1..=MAX_CHUNKS_PER_ANNOUNCE).contains(&list.len()) {
        return Err(malformed(&fields));
    }
    let mut chunks: Vec<String> = Vec::with_capacity(list.len());
    for chunk in list {
        let Value::Object(mut chunk) = chunk else { return Err(malformed(&fields)) };
        match chunk.remove("chunkId") {
            Some(Value::String(id)) if is_chunk_id(&id) => {
                if !chunks.contains(&id) {
                    chunks.push(id);
                }
            }
            _ => return Err(fields.wrong_kind("chunkId", ID)),
        }
    }
    let resume_token = fields.string("resumeToken")?;
    Ok(ChunkAnnounce { peer_id, resume_token, channel, chunks })
}

/// The chunk that `chunk_request` and `chunk_push` are about.
pub(super) fn name(fields: &mut Fields) -> Result<ChunkName, Refusal> {
    let chunk = id(fields, "chunkId")?;
    let channel = channel_or_none(fields)?;
    ChunkName::parse(&channel, &chunk).ok_or_else(|| fields.wrong_kind("chunkId", ID))
}

pub(super) fn push(mut fields: Fields) -> Result<ChunkPush, Refusal> {
    let name = name(&mut fields)?;
    let data = match fields.take("data") {
        Some(data @ (Value::Object(_) | Value::String(_))) => data.to_string(),
        _ => return Err(fields.wrong_kind("data", "an object or a string")),
    };
    if data.len() > MAX_CHUNK_BYTES {
        let bytes = data.len();
        let message = format!("Chunk payload too large: {bytes} bytes exceeds {MAX_CHUNK_BYTES} byte limit");
        return Err(Refusal::new("chunk_too_large", message));
    }
    Ok(ChunkPush { name, data })
}

/// The channel that `channel-subscribe` and `channel-unsubscribe` are about.
pub(super) fn channel(mut fields: Fields) -> Result<String, Refusal> {
    id(&mut fields, "channelId")
}

fn id(fields: &mut Fields, name: &str) -> Result<String, Refusal> {
    match fields.take(name) {
        None => Err(missing(name)),
        Some(Value::String(text)) if text.is_empty() => Err(missing(name)),
        Some(Value::String(text)) if is_chunk_id(&text) => Ok(text),
        Some(_) => Err(fields.wrong_kind(name, ID)),
    }
}

fn channel_or_none(fields: &mut Fields) -> Result<String, Refusal> {
    let channel = fields.string("channelId")?.unwrap_or_default();
    if channel.is_empty() || is_chunk_id(&channel) {
        Ok(channel)
    } else {
        Err(fields.wrong_kind("channelId", "a string of at most 256 characters"))
    }
}
