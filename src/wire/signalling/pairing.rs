//! Pairing two devices, and linking a second device to one (protocol: signalling, section 5).
//!
//! Owns these messages, the order of their checks and their literal texts. Must not know who holds which code.

use serde_json::Value;

use super::{Fields, INVALID_PUBLIC_KEY, MAX_PUBLIC_KEY_BYTES, OfRegistered, pairing_code, required};
use crate::id::{PeerId, is_pairing_code};
use crate::limits::{MAX_DEVICE_ID_CHARACTERS, MAX_DEVICE_NAME_CHARACTERS};
use crate::wire::Refusal;

/// `register` with a pairing code: holds the id, enters no registry.
#[derive(Clone, Debug, PartialEq)]
pub struct RegisterCode {
    pub code: PeerId,
    /// Standard base64 of 32 bytes, as it came.
    pub public_key: String,
    pub resume_token: Option<String>,
}

/// `pair_request`.
#[derive(Clone, Debug, PartialEq)]
pub struct PairRequest {
    pub target: PeerId,
    pub proposed_name: Option<String>,
}

/// `pair_response`.
#[derive(Clone, Debug, PartialEq)]
pub struct PairResponse {
    pub requester: PeerId,
    pub accepted: bool,
}

/// `link_request`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkRequest {
    /// The pairing code of the device to link to.
    pub link_code: PeerId,
    pub public_key: String,
    pub device_name: String,
}

/// `link_response`.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkResponse {
    pub link_code: PeerId,
    pub accepted: bool,
    pub device_id: Option<String>,
}

const INVALID_TARGET: Refusal = Refusal::of("invalid_target_code", "Invalid target code format");
const INVALID_LINK_CODE: Refusal = Refusal::of("invalid_link_code", "Invalid link code format");

pub(super) fn register(mut fields: Fields) -> Result<RegisterCode, Refusal> {
    use base64::Engine as _;
    use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
    const LENIENT: GeneralPurpose = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
    );
    let invalid_code = Refusal::of("invalid_pairing_code", "Invalid pairing code format");
    let code = pairing_code(fields.take("pairingCode"), "pairingCode", invalid_code)?;
    let public_key = required(fields.take("publicKey"), "publicKey", INVALID_PUBLIC_KEY)?;
    let key = LENIENT.decode(&public_key).map_err(|_| INVALID_PUBLIC_KEY)?;
    if key.len() != 32 {
        return Err(Refusal::of("invalid_public_key_length", "Invalid public key length"));
    }
    Ok(RegisterCode { code, public_key, resume_token: fields.string("resumeToken")? })
}

pub(super) fn pair_request(mut fields: Fields) -> OfRegistered<PairRequest> {
    let target = pairing_code(fields.take("targetCode"), "targetCode", INVALID_TARGET)?;
    let proposed_name = fields.string("proposedName")?.map(cut);
    Ok(PairRequest { target, proposed_name })
}

pub(super) fn pair_response(mut fields: Fields) -> OfRegistered<PairResponse> {
    let requester = match fields.take("targetCode") {
        Some(Value::String(text)) if is_pairing_code(&text) => PeerId::parse(&text).ok_or(INVALID_TARGET)?,
        _ => return Err(INVALID_TARGET),
    };
    Ok(PairResponse { requester, accepted: accepted(&mut fields)? })
}

pub(super) fn link_request(mut fields: Fields) -> OfRegistered<LinkRequest> {
    let link_code = pairing_code(fields.take("linkCode"), "linkCode", INVALID_LINK_CODE)?;
    let public_key = required(fields.take("publicKey"), "publicKey", INVALID_PUBLIC_KEY)?;
    if public_key.len() > MAX_PUBLIC_KEY_BYTES {
        return Err(INVALID_PUBLIC_KEY);
    }
    let device_name = fields.string("deviceName")?.map_or_else(|| "Unknown Browser".to_owned(), cut);
    Ok(LinkRequest { link_code, public_key, device_name })
}

pub(super) fn link_response(mut fields: Fields) -> OfRegistered<LinkResponse> {
    let link_code = pairing_code(fields.take("linkCode"), "linkCode", INVALID_LINK_CODE)?;
    let accepted = accepted(&mut fields)?;
    let device_id = fields.string("deviceId")?;
    if device_id.as_ref().is_some_and(|id| id.chars().count() > MAX_DEVICE_ID_CHARACTERS) {
        return Err(fields.wrong_kind("deviceId", "a string of at most 128 characters"));
    }
    Ok(LinkResponse { link_code, accepted, device_id })
}

/// Names go to somebody who did not ask for them.
fn cut(name: String) -> String {
    name.chars().take(MAX_DEVICE_NAME_CHARACTERS).collect()
}

fn accepted(fields: &mut Fields) -> Result<bool, Refusal> {
    match fields.take("accepted") {
        Some(Value::Bool(accepted)) => Ok(accepted),
        _ => Err(fields.wrong_kind("accepted", "a boolean")),
    }
}
