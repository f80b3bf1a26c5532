//! Pairing codes, the requests that wait between two of them, and device links (protocol: signalling, section 5).
//!
//! Owns who asks whom until when, and whom it concerns when that ends. Each request has a number that is never given
//! again, so that what ends late ends nothing else. Must not know which socket holds a code.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use crate::id::PeerId;
use crate::limits::{MAX_LINKS_PER_CODE, MAX_PAIR_REQUESTS_PER_CODE, PairingRules, RUNG_PER_TURN};
use crate::wire::signalling::{LinkRequest, LinkResponse, PairRequest, PairResponse, ServerMessage};

/// What somebody is to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    pub to: PeerId,
    pub message: ServerMessage,
}

/// Why a request or a response comes to nothing. The asker is told no more than the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The other side is oneself, is not there, or has enough requests.
    CannotBeProcessed,
    NothingPending,
}

/// How much of everything there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub codes: usize,
    pub pair_requests: usize,
    pub link_requests: usize,
    pub links: usize,
}

pub struct Pairing {
    rules: PairingRules,
    codes: HashMap<PeerId, Code>,
    requests: HashMap<u64, Request>,
    last_request: u64,
    /// When each request is to be looked at next, in running time.
    deadlines: BTreeSet<(Duration, u64)>,
    link_requests: usize,
    /// Each link counts at either end.
    link_ends: usize,
}

struct Code {
    public_key: String,
    /// Requests that wait for its answer, and those that it waits for itself.
    incoming: BTreeSet<u64>,
    outgoing: BTreeSet<u64>,
    /// The other ends of its links, the newest last.
    links: Vec<PeerId>,
}

struct Request {
    from: PeerId,
    to: PeerId,
    about: About,
    end: Duration,
    look_at: Duration,
}

enum About {
    Pairing,
    Link { public_key: String, device_name: String },
}

impl Request {
    fn is_for_a_link(&self) -> bool {
        matches!(self.about, About::Link { .. })
    }
}

impl Pairing {
    pub fn new(rules: PairingRules) -> Pairing {
        Pairing {
            rules,
            codes: HashMap::new(),
            requests: HashMap::new(),
            last_request: 0,
            deadlines: BTreeSet::new(),
            link_requests: 0,
            link_ends: 0,
        }
    }

    /// Somebody holds the code now, or goes on holding it.
    pub fn enter(&mut self, code: &PeerId, public_key: String) {
        if let Some(own) = self.codes.get_mut(code) {
            own.public_key = public_key;
            return;
        }
        let entry =
            Code { public_key, incoming: BTreeSet::new(), outgoing: BTreeSet::new(), links: Vec::new() };
        self.codes.insert(code.clone(), entry);
    }

    /// Whether the code was registered with this key, in either spelling of base64.
    pub fn has_key(&self, code: &PeerId, public_key: &str) -> bool {
        let bare = |key: &str| key.trim_end_matches('=').to_owned();
        self.codes.get(code).is_some_and(|own| bare(&own.public_key) == bare(public_key))
    }

    pub fn is_registered(&self, code: &PeerId) -> bool {
        self.codes.contains_key(code)
    }

    /// Nobody holds the code any more.
    pub fn leave(&mut self, code: &PeerId) -> Vec<Notice> {
        let notices = self.end_requests(code);
        let Some(left) = self.codes.remove(code) else { return notices };
        self.link_ends -= left.links.len();
        left.links.iter().for_each(|other| self.unlink(other, code));
        notices
    }

    /// Another socket holds the code now: what is pending on either side ends, links stay.
    pub fn end_requests(&mut self, code: &PeerId) -> Vec<Notice> {
        let Some(own) = self.codes.get(code) else { return Vec::new() };
        let pending: Vec<u64> = own.incoming.iter().chain(&own.outgoing).copied().collect();
        let ended = pending.into_iter().filter_map(|number| self.end(number));
        let notice = |request: Request| {
            let of_requester = request.from == *code;
            let message = match (&request.about, of_requester) {
                (About::Link { .. }, _) => ServerMessage::LinkTimeout { link_code: text(&request.to) },
                (About::Pairing, true) => ServerMessage::PairCancelled { peer_code: text(code) },
                (About::Pairing, false) => ServerMessage::PairTimeout { peer_code: text(code) },
            };
            Notice { to: if of_requester { request.to } else { request.from }, message }
        };
        ended.map(notice).collect()
    }

    /// `pair_request`: what the target is told.
    pub fn request(&mut self, now: Duration, from: &PeerId, request: PairRequest) -> Result<Notice, Fault> {
        let PairRequest { target, proposed_name } = request;
        let waiting = self.waiting_for(from, &target)?;
        let requests = waiting.iter().map(|number| &self.requests[number]);
        let others = requests.filter(|other| !other.is_for_a_link() && other.from != *from);
        if others.count() >= MAX_PAIR_REQUESTS_PER_CODE {
            return Err(Fault::CannotBeProcessed);
        }
        if let Some(older) = self.pair_request(from, &target) {
            self.end(older);
        }
        let end = now + self.rules.request_timeout;
        let warned_at = end.saturating_sub(self.rules.warning);
        self.begin(Request {
            from: from.clone(),
            to: target.clone(),
            about: About::Pairing,
            end,
            look_at: warned_at,
        });
        let message = ServerMessage::PairIncoming {
            from_code: text(from),
            from_public_key: self.codes[from].public_key.clone(),
            expires_in: self.rules.request_timeout.as_millis() as u64,
            proposed_name,
        };
        Ok(Notice { to: target, message })
    }

    /// `pair_response`: what the requester is told, and then the responder.
    pub fn respond(
        &mut self,
        now: Duration,
        own: &PeerId,
        response: PairResponse,
    ) -> Result<(Notice, Option<ServerMessage>), Fault> {
        let PairResponse { requester, accepted } = response;
        let pending = self.pair_request(&requester, own).filter(|number| !self.is_over(*number, now));
        self.end(pending.ok_or(Fault::NothingPending)?);
        if !accepted {
            let message = ServerMessage::PairRejected { peer_code: text(own) };
            return Ok((Notice { to: requester, message }, None));
        }
        let matched = |peer: &PeerId, is_initiator| ServerMessage::PairMatched {
            peer_code: text(peer),
            peer_public_key: self.codes[peer].public_key.clone(),
            is_initiator,
        };
        let (to_requester, to_own) = (matched(own, true), matched(&requester, false));
        Ok((Notice { to: requester, message: to_requester }, Some(to_own)))
    }

    /// `link_request`: what the holder of the code is told.
    pub fn request_link(
        &mut self,
        now: Duration,
        from: &PeerId,
        request: LinkRequest,
    ) -> Result<Notice, Fault> {
        let LinkRequest { link_code, public_key, device_name } = request;
        self.waiting_for(from, &link_code)?;
        if let Some(older) = self.link_request(&link_code) {
            if self.requests[&older].from != *from {
                return Err(Fault::CannotBeProcessed);
            }
            self.end(older);
        }
        let end = now + self.rules.request_timeout;
        let about = About::Link { public_key: public_key.clone(), device_name: device_name.clone() };
        self.begin(Request { from: from.clone(), to: link_code.clone(), about, end, look_at: end });
        let message = ServerMessage::LinkRequest {
            link_code: text(&link_code),
            public_key,
            device_name,
            expires_in: self.rules.request_timeout.as_millis() as u64,
        };
        Ok(Notice { to: link_code, message })
    }

    /// `link_response` of the holder of the code: what the device that asked is told, and then the holder.
    pub fn respond_link(
        &mut self,
        now: Duration,
        response: LinkResponse,
    ) -> Result<(Notice, Option<ServerMessage>), Fault> {
        let LinkResponse { link_code: own, accepted, device_id } = response;
        let pending = self.link_request(&own).filter(|number| !self.is_over(*number, now));
        let Some(Request { from: web, about: About::Link { public_key, device_name }, .. }) =
            pending.and_then(|number| self.end(number))
        else {
            return Err(Fault::NothingPending);
        };
        if !accepted {
            let message = ServerMessage::LinkRejected { link_code: text(&own) };
            return Ok((Notice { to: web, message }, None));
        }
        self.link(&own, &web);
        let to_web = ServerMessage::LinkMatched {
            link_code: text(&own),
            peer_public_key: self.codes[&own].public_key.clone(),
            is_initiator: true,
            device_id,
            web_client_code: None,
            device_name: None,
        };
        let to_own = ServerMessage::LinkMatched {
            link_code: text(&own),
            peer_public_key: public_key,
            is_initiator: false,
            device_id: None,
            web_client_code: Some(text(&web)),
            device_name: Some(device_name),
        };
        Ok((Notice { to: web, message: to_web }, Some(to_own)))
    }

    /// The other end of a code's newest link.
    pub fn linked_to(&self, code: &PeerId) -> Option<&PeerId> {
        self.codes.get(code)?.links.last()
    }

    /// When [`Pairing::ring`] has something to do.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Warns of requests that are about to end, and ends those whose time is up; some of them, where they are many.
    pub fn ring(&mut self, now: Duration) -> Vec<Notice> {
        let mut notices = Vec::new();
        for _ in 0..RUNG_PER_TURN {
            let Some((at, number)) = self.deadlines.first().copied() else { break };
            if at > now {
                break;
            }
            let Some(request) = self.requests.get_mut(&number) else { break };
            let (from, to) = (request.from.clone(), request.to.clone());
            if now < request.end {
                request.look_at = request.end;
                let end = request.end;
                self.deadlines.pop_first();
                self.deadlines.insert((end, number));
                let left = (end - now).as_millis().div_ceil(1000) as u64;
                let expiring = |peer: &PeerId| ServerMessage::PairExpiring {
                    peer_code: text(peer),
                    remaining_seconds: left,
                };
                notices.push(Notice { to: from.clone(), message: expiring(&to) });
                notices.push(Notice { message: expiring(&from), to });
                continue;
            }
            match self.end(number).map(|request| request.about) {
                Some(About::Link { .. }) => {
                    let message = ServerMessage::LinkTimeout { link_code: text(&to) };
                    notices.push(Notice { to: from, message: message.clone() });
                    notices.push(Notice { to, message });
                }
                _ => {
                    let message = ServerMessage::PairTimeout { peer_code: text(&to) };
                    notices.push(Notice { to: from, message });
                }
            }
        }
        notices
    }

    /// Whether nothing of anybody is left.
    pub fn is_empty(&self) -> bool {
        self.codes.is_empty()
            && self.requests.is_empty()
            && self.deadlines.is_empty()
            && self.counts() == Counts::default()
    }

    pub fn counts(&self) -> Counts {
        Counts {
            codes: self.codes.len(),
            pair_requests: self.requests.len() - self.link_requests,
            link_requests: self.link_requests,
            links: self.link_ends / 2,
        }
    }

    /// What waits for the answer of somebody else who is there.
    fn waiting_for(&self, from: &PeerId, to: &PeerId) -> Result<&BTreeSet<u64>, Fault> {
        let target = self.codes.get(to).filter(|_| from != to);
        target.map(|code| &code.incoming).ok_or(Fault::CannotBeProcessed)
    }

    /// Whether a request's time is up, though nobody was told yet.
    fn is_over(&self, number: u64, now: Duration) -> bool {
        self.requests[&number].end <= now
    }

    fn pair_request(&self, from: &PeerId, to: &PeerId) -> Option<u64> {
        self.incoming(to, |request| !request.is_for_a_link() && request.from == *from)
    }

    fn link_request(&self, to: &PeerId) -> Option<u64> {
        self.incoming(to, Request::is_for_a_link)
    }

    fn incoming(&self, to: &PeerId, is: impl Fn(&Request) -> bool) -> Option<u64> {
        self.codes.get(to)?.incoming.iter().copied().find(|number| is(&self.requests[number]))
    }

    fn begin(&mut self, request: Request) {
        self.last_request += 1;
        let number = self.last_request;
        self.deadlines.insert((request.look_at, number));
        self.link_requests += usize::from(request.is_for_a_link());
        for (code, of_requester) in [(&request.from, true), (&request.to, false)] {
            if let Some(code) = self.codes.get_mut(code) {
                let requests = if of_requester { &mut code.outgoing } else { &mut code.incoming };
                requests.insert(number);
            }
        }
        self.requests.insert(number, request);
    }

    fn end(&mut self, number: u64) -> Option<Request> {
        let request = self.requests.remove(&number)?;
        self.deadlines.remove(&(request.look_at, number));
        self.link_requests -= usize::from(request.is_for_a_link());
        if let Some(requester) = self.codes.get_mut(&request.from) {
            requester.outgoing.remove(&number);
        }
        if let Some(target) = self.codes.get_mut(&request.to) {
            target.incoming.remove(&number);
        }
        Some(request)
    }

    fn link(&mut self, one: &PeerId, other: &PeerId) {
        for (this, that) in [(one, other), (other, one)] {
            self.unlink(this, that);
            let Some(code) = self.codes.get_mut(this) else { continue };
            code.links.push(that.clone());
            self.link_ends += 1;
            if code.links.len() > MAX_LINKS_PER_CODE {
                let oldest = code.links.remove(0);
                self.link_ends -= 1;
                self.unlink(&oldest, this);
            }
        }
    }

    fn unlink(&mut self, this: &PeerId, that: &PeerId) {
        if let Some(code) = self.codes.get_mut(this) {
            let before = code.links.len();
            code.links.retain(|other| other != that);
            self.link_ends -= before - code.links.len();
        }
    }
}

fn text(code: &PeerId) -> String {
    code.as_str().to_owned()
}
