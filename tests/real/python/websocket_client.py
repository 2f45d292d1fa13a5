"""Talks to the echoing WebSocket at ws://<argv[1]>/ a number of times; every difference is an error."""

import sys

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

ROUNDS = 40


def talk(url):
    with connect(url, subprotocols=["chat", "other"], max_size=None, open_timeout=10) as socket:
        assert socket.subprotocol == "chat", socket.subprotocol
        for message in ["hello", "", "ü№", b"\x00\xff", b"x" * 300_000, "y" * 70_000]:
            socket.send(message)
            back = socket.recv(timeout=10)
            assert back == message, (len(message), back[:50])
        socket.send(["in ", "three ", "parts"])
        assert socket.recv(timeout=10) == "in three parts"
        assert socket.ping().wait(10)


def close_from_the_server(url):
    with connect(url) as socket:
        socket.send("hang up")
        try:
            socket.recv(timeout=10)
            raise AssertionError("it was not closed")
        except ConnectionClosed as closed:
            assert closed.rcvd.code == 4001 and closed.rcvd.reason == "as asked", closed


failures = []
for number in range(ROUNDS):
    try:
        talk(f"ws://{sys.argv[1]}/")
        close_from_the_server(f"ws://{sys.argv[1]}/")
    except Exception as error:  # each round counts by itself
        failures.append(f"round {number}: {error!r}")
if failures:
    sys.exit(f"{len(failures)} of {ROUNDS} failed:\n" + "\n".join(failures[:5]))
