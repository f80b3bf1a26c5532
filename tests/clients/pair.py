#!/usr/bin/env python3
"""A client that is not ours, in a language that is not ours, against a running daemon.

Pairs two devices, exchanges an offer, an answer and candidates, calls in both shapes, links a second device that never
names whom it means, and meets through a token. Every answer is compared to the letter.

    python3 -m venv venv && venv/bin/pip install -r tests/clients/requirements.txt
    venv/bin/python tests/clients/pair.py ws://127.0.0.1:9000

Exits with 0 and one line for each story if all of it went as the protocol says, else with 1 and the difference.
"""

import asyncio
import base64
import json
import secrets
import sys
import uuid

import websockets

CODE_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"
PATIENCE = 10  # seconds; far more than any answer takes
SDP = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n"


class Unexpected(Exception):
    pass


def expect(what, heard, expected):
    if heard != expected:
        raise Unexpected(f"{what}\n  heard:    {json.dumps(heard)}\n  expected: {json.dumps(expected)}")


class Device:
    """A socket that holds a pairing code."""

    def __init__(self, socket):
        self.socket = socket
        self.code = "".join(secrets.choice(CODE_LETTERS) for _ in range(6))
        self.key = base64.b64encode(secrets.token_bytes(32)).decode()

    @classmethod
    async def register(cls, url):
        device = cls(await websockets.connect(url))
        info = await device.hear()
        expect("the first message", info["type"], "server_info")
        await device.say(type="register", pairingCode=device.code, publicKey=device.key)
        answer = await device.hear()
        expect("registering", (answer["type"], answer["pairingCode"]), ("registered", device.code))
        expect("the server is who it was", answer["serverId"], info["serverId"])
        return device

    async def say(self, **message):
        await self.socket.send(json.dumps(message))

    async def hear(self):
        return json.loads(await asyncio.wait_for(self.socket.recv(), PATIENCE))

    async def hears(self, what, **expected):
        expect(what, await self.hear(), expected)

    async def hears_nothing(self):
        await self.say(type="ping")
        await self.hears("nothing but the pong", type="pong")


async def pair(alice, bob):
    await alice.say(type="pair_request", targetCode=bob.code, proposedName="Alice")
    await bob.hears(
        "an incoming request",
        type="pair_incoming",
        fromCode=alice.code,
        fromPublicKey=alice.key,
        expiresIn=120_000,
        proposedName="Alice",
    )
    await alice.hears_nothing()
    await bob.say(type="pair_response", targetCode=alice.code, accepted=True)
    for device, peer, initiator in ((alice, bob, True), (bob, alice, False)):
        await device.hears(
            "the match", type="pair_matched", peerCode=peer.code, peerPublicKey=peer.key, isInitiator=initiator
        )
    await alice.say(type="pair_request", targetCode=alice.code)
    await alice.hears("oneself", type="pair_error", error="Pair request could not be processed")


async def exchange(alice, bob):
    candidate = {"candidate": "candidate:1 1 udp 1 192.0.2.1 9 typ host", "sdpMid": "0", "sdpMLineIndex": 0}
    for sender, receiver, kind, payload in (
        (alice, bob, "offer", {"type": "offer", "sdp": SDP}),
        (bob, alice, "answer", {"type": "answer", "sdp": SDP}),
        (alice, bob, "ice_candidate", candidate),
        (bob, alice, "ice_candidate", candidate | {"sdpMid": None}),
    ):
        await sender.say(type=kind, target=receiver.code, payload=payload)
        await receiver.hears(kind, type=kind, **{"from": sender.code}, payload=payload)
    await alice.say(type="offer", target="ZZZZZZ", payload={})
    await alice.hears("nobody there", type="error", message="Peer not found: ZZZZZZ", code="peer_not_found")


async def call(alice, bob):
    call_id = str(uuid.uuid4())
    for kind, fields in (
        ("call_offer", {"callId": call_id, "sdp": SDP, "withVideo": True}),
        ("call_answer", {"callId": call_id, "sdp": SDP}),
        ("call_ice", {"callId": call_id, "candidate": "{}"}),
        ("call_reject", {"callId": call_id, "reason": "busy"}),
        ("call_hangup", {"callId": call_id}),
    ):
        arrived = {"type": kind, "payload": fields} | fields
        await alice.say(type=kind, target=bob.code, payload=fields)
        await bob.hears(f"{kind}, nested", **arrived, **{"from": alice.code})
        await bob.say(type=kind, targetId=alice.code, **fields)
        await alice.hears(f"{kind}, flat", **arrived, **{"from": bob.code})
    await alice.say(type="call_hangup", target=bob.code, payload={"callId": "1"})
    await alice.hears(
        "a bad callId",
        type="error",
        message="Invalid or missing callId (must be UUID v4 format)",
        code="invalid_call_id",
    )


async def link(mobile, web):
    await web.say(type="link_request", linkCode=mobile.code, publicKey=web.key)
    await mobile.hears(
        "a request to link",
        type="link_request",
        linkCode=mobile.code,
        publicKey=web.key,
        deviceName="Unknown Browser",
        expiresIn=120_000,
    )
    await mobile.say(type="link_response", linkCode=mobile.code, accepted=True, deviceId="device-1")
    await web.hears(
        "the match of the web client",
        type="link_matched",
        linkCode=mobile.code,
        peerPublicKey=mobile.key,
        isInitiator=True,
        deviceId="device-1",
    )
    await mobile.hears(
        "the match of the mobile",
        type="link_matched",
        linkCode=mobile.code,
        peerPublicKey=web.key,
        isInitiator=False,
        webClientCode=web.code,
        deviceName="Unknown Browser",
    )
    await web.say(type="offer", payload={"sdp": SDP})
    await mobile.hears("an offer without a target", type="offer", **{"from": web.code}, payload={"sdp": SDP})


async def meet(alice, bob):
    token = "hr_" + secrets.token_hex(8)

    async def register(device):
        await device.say(
            type="register_rendezvous", peerId=device.code, daily_points=[], hourly_tokens=[token], dead_drops={}
        )

    def at_token(device):
        return {"peerId": device.code, "relayId": "", "meetingPoint": token}

    await register(alice)
    await alice.hears("the first one there", type="rendezvous_result", liveMatches=[], deadDrops=[])
    await register(bob)
    await bob.hears("the newcomer", type="rendezvous_result", liveMatches=[at_token(alice)], deadDrops=[])
    await alice.hears("the push", type="rendezvous_match", match=at_token(bob))


async def main(url):
    alice, bob, web = [await Device.register(url) for _ in range(3)]
    stories = (
        ("two devices pair", pair(alice, bob)),
        ("they exchange an offer, an answer and candidates", exchange(alice, bob)),
        ("they call each other in both shapes", call(alice, bob)),
        ("a second device links, and never says whom it means", link(alice, web)),
        ("they meet through a token", meet(alice, bob)),
    )
    for name, story in stories:
        await story
        print(f"ok: {name}")
    for device in (alice, bob, web):
        await device.hears_nothing()
        await device.socket.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        asyncio.run(main(sys.argv[1]))
    except Unexpected as difference:
        sys.exit(f"not as the protocol says: {difference}")
