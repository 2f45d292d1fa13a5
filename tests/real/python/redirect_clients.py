"""What requests does with a redirect to another owner, a story a function: `redirect_clients.py STORY HOST:PORT`. Any difference is an error.

Each request has a key of its own, named after the story and its number; the test then looks at what its owner has executed.
"""

import io
import sys

import requests


def content(length):
    return bytes((n % 251) ^ (n // 251 % 127) for n in range(length))


def asked(session, address, method, key, **more):
    return session.request(method, f"http://{address}/a//b?c=%20d", headers={"x-tenant": key}, timeout=20, **more)


def buffered(address):
    """Bodies that can be sent again: bytes, a form, a file, none."""
    with requests.Session() as session:
        bodies = [
            ("POST", {"data": content(200_000)}),
            ("PUT", {"data": io.BytesIO(content(300_000))}),
            ("PATCH", {"json": {"a": [1, 2]}}),
            ("POST", {"data": {"a": "b c"}, "files": {"file": ("name", content(100_000))}}),
            ("DELETE", {}),
            ("GET", {}),
        ]
        for number, (method, more) in enumerate(bodies):
            answer = asked(session, address, method, f"buffered-{number}", **more)
            assert (answer.status_code, answer.text) == (200, "b"), (number, answer.status_code, answer.text)
            assert [step.status_code for step in answer.history] == [307], answer.history
            assert answer.history[0].headers["cache-control"] == "no-store"


def streamed(address):
    """A body that nobody can send again. requests would go on with what is left of it, so who streams asks not to be led."""
    with requests.Session() as session:
        answer = asked(session, address, "PUT", "streamed-0", data=iter([content(50_000)] * 4), allow_redirects=False)
        assert (answer.status_code, answer.headers["waypost-reason"]) == (307, "moved"), answer.status_code
        # The proxy has healed: the next try reaches the owner.
        answer = asked(session, address, "PUT", "streamed-0", data=iter([content(50_000)] * 4), allow_redirects=False)
        assert (answer.status_code, answer.text) == (200, "b"), answer.text


def followed(address):
    """Under `follow` the proxy repeats what it has kept; the client is led nowhere."""
    with requests.Session() as session:
        for number, body in enumerate([content(60_000), iter([content(10_000)] * 5), io.BytesIO(content(65_000))]):
            answer = asked(session, address, "PUT", f"followed-{number}", data=body)
            assert (answer.status_code, answer.text, answer.history) == (200, "b", []), (number, answer.status_code)
        # More than it keeps, and the owner had it already: said, and to be tried again.
        answer = asked(session, address, "PUT", "followed-3", data=iter([content(50_000)] * 6))
        assert (answer.status_code, answer.headers["waypost-reason"]) == (503, "stale_unhealed"), answer.status_code
        assert answer.headers["retry-after"] == "1"
        answer = asked(session, address, "PUT", "followed-3", data=iter([content(50_000)] * 6))
        assert (answer.status_code, answer.text) == (200, "b"), answer.text


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
