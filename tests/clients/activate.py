"""Runs a command with listening sockets handed over, as systemd does: NAME=ADDRESS …, then "--", then the command.

An address is HOST:PORT, unix:PATH, or udp:HOST:PORT for one that nobody can listen on."""

import fcntl
import os
import socket
import sys


def opened(address):
    kind, _, rest = address.partition(":")
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(rest)
    elif kind == "udp":
        host, _, port = rest.partition(":")
        listener = socket.socket(type=socket.SOCK_DGRAM)
        listener.bind((host, int(port)))
        return listener
    else:
        listener = socket.socket()
        listener.bind((kind, int(rest)))
    listener.listen()
    return listener


split = sys.argv.index("--")
names, sockets = [], []
for argument in sys.argv[1:split]:
    name, _, address = argument.partition("=")
    names.append(name)
    # Out of the way of the numbers that they get.
    sockets.append(fcntl.fcntl(opened(address).detach(), fcntl.F_DUPFD, 100))
for number, descriptor in enumerate(sockets):
    os.dup2(descriptor, 3 + number)
    os.close(descriptor)
own = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": ":".join(names)}
command = sys.argv[split + 1 :]
os.execve(command[0], command, os.environ | own)
