"""A bad wire between two network namespaces: packets are lost at random and late. For kernels without netem.

It makes a TUN device at either end, gives it its address, and forwards packets between the two until its input ends. It tells
how many it has lost when it ends. Needs root and iproute2.

    wire.py NAMESPACE ADDRESS PEER NAMESPACE ADDRESS PEER LOSS_PERCENT DELAY_MS
"""

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000


def end(name, namespace, address, peer):
    """A TUN device in a namespace, with a point-to-point address."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    run = lambda *words: subprocess.run(["ip", *words], check=True)
    run("link", "set", name, "netns", namespace)
    run("-n", namespace, "address", "add", address, "peer", peer, "dev", name)
    run("-n", namespace, "link", "set", name, "up")
    return device


def main(arguments):
    loss, delay = float(arguments[6]) / 100, float(arguments[7]) / 1000
    mark = f"wp{os.getpid() % 100000}"
    one = end(mark + "a", *arguments[0:3])
    other = end(mark + "b", *arguments[3:6])
    across = {one: other, other: one}
    chance = random.Random(7)
    late, lost, passed = [], 0, 0
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        while late and late[0][0] <= now:
            _, _, to, packet = heapq.heappop(late)
            try:
                os.write(to, packet)
            except OSError:
                pass
        wait = max(0, late[0][0] - now) if late else None
        ready, _, _ = select.select([one, other, sys.stdin], [], [], wait)
        if sys.stdin in ready:
            break
        for device in ready:
            packet = os.read(device, 65536)
            if chance.random() < loss:
                lost += 1
                continue
            passed += 1
            # The number keeps the order of those that are due at the same moment.
            heapq.heappush(late, (time.monotonic() + delay, passed, across[device], packet))
    print(f"{lost} {passed}", flush=True)


main(sys.argv[1:])
