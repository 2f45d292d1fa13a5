"""A small ASGI application that shows what has reached it, and when.

Requests with `?id=X` are noted under X; `/notes?id=X` says what is noted, asked directly by the tests.
"""

import asyncio
import json
import sys
from urllib.parse import parse_qs

import uvicorn

notes: dict[str, list] = {}
gates: dict[str, asyncio.Event] = {}


def gate(name):
    return gates.setdefault(name, asyncio.Event())


async def answer(send, status, content_type, body):
    headers = [(b"content-type", content_type), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def as_json(send, value):
    await answer(send, 200, b"application/json", json.dumps(value).encode())


async def scope_as_it_came(scope, receive, send, name):
    headers = [[key.decode("latin-1"), value.decode("latin-1")] for key, value in scope["headers"]]
    await as_json(send, {
        "method": scope["method"],
        "http_version": scope["http_version"],
        "raw_path": scope["raw_path"].decode("latin-1"),
        "query_string": scope["query_string"].decode("latin-1"),
        "headers": headers,
    })


async def stream(scope, receive, send, name):
    """A body in many parts, of no known length."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    for number in range(500):
        await send({"type": "http.response.body", "body": b"%d\n" % number * 20, "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b"end\n"})


async def events(scope, receive, send, name):
    """Server-sent events, each after the gate has been opened for it."""
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number in range(3):
        await send({"type": "http.response.body", "body": b"data: %d\n\n" % number, "more_body": True})
        await asyncio.wait_for(gate(name).wait(), 30)
        gate(name).clear()
    await send({"type": "http.response.body", "body": b""})


async def open_gate(scope, receive, send, name):
    gate(name).set()
    await as_json(send, "open")


async def upload(scope, receive, send, name):
    """Takes a body part by part and notes how much has come so far."""
    total, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            notes.setdefault(name, []).append("disconnect")
            return
        total += len(message.get("body", b""))
        more = message.get("more_body", False)
        notes.setdefault(name, []).append(total)
    await as_json(send, {"total": total})


async def early(scope, receive, send, name):
    """Refuses on the head alone, without asking for the body."""
    notes.setdefault(name, []).append("refused")
    await answer(send, 403, b"text/plain", b"not you")


async def wait(scope, receive, send, name):
    """Begins an answer or not, and waits for the client's going away."""
    if scope["path"] == "/wait/begun":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
    notes.setdefault(name, []).append("waits")
    while (message := await receive())["type"] != "http.disconnect":
        pass
    notes[name].append(message["type"])


async def noted(scope, receive, send, name):
    await as_json(send, notes.get(name, []))


async def echo(scope, receive, send, name):
    """Sends back each WebSocket message as it came."""
    await receive()
    await send({"type": "websocket.accept", "subprotocol": (scope["subprotocols"] or [None])[0]})
    while (message := await receive())["type"] == "websocket.receive":
        if message.get("text") == "hang up":
            await send({"type": "websocket.close", "code": 4001, "reason": "as asked"})
            return
        back = {key: message[key] for key in ("text", "bytes") if message.get(key) is not None}
        await send({"type": "websocket.send", **back})


async def redirect(scope, receive, send, name):
    """A redirect that sets two cookies."""
    while (await receive()).get("more_body"):
        pass
    headers = [(b"location", b"/cookies?from=here"), (b"set-cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2, and; Path=/"), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def echo_body(scope, receive, send, name):
    """Sends the body back, part by part, of no known length."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        more = message.get("more_body", False)
        await send({"type": "http.response.body", "body": message.get("body", b""), "more_body": more})


ROUTES = {
    "redirect": redirect, "echo": echo_body, "stream": stream, "events": events, "open": open_gate, "upload": upload, "early": early, "wait": wait, "notes": noted,
}


async def app(scope, receive, send):
    if scope["type"] == "websocket":
        await echo(scope, receive, send, "")
    elif scope["type"] == "http":
        name = parse_qs(scope["query_string"].decode("latin-1")).get("id", ["?"])[0]
        handler = ROUTES.get(scope["path"].split("/")[1], scope_as_it_came)
        await handler(scope, receive, send, name)


if __name__ == "__main__":
    uvicorn.run(app, host=sys.argv[1], port=int(sys.argv[2]), lifespan="off", log_level="warning", forwarded_allow_ips="")
