"""A small object store that believes no signature it has not computed itself, over exactly what arrived.

Version 4 signatures are computed by botocore's own signer over the method, the target, the signed header fields and the announced
hash of the payload; the payload is then hashed as well. `/_seen` gives all requests so far, with their bodies' lengths, and is not checked.
"""

import base64
import hashlib
import json
import re
import sys
import threading
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

KEYS = {"AKTEST": "the secret of AKTEST"}
objects: dict[str, bytes] = {}
seen: list[dict] = []
lock = threading.Lock()


class Refused(Exception):
    """Why a request is not believed."""


def signature_of(method, host, target, headers, signed, credential, timestamp, payload):
    """What the signature has to be, computed over what has arrived."""
    key_id, _, region, service, _ = credential.split("/")
    if key_id not in KEYS:
        raise Refused(f"nobody has the key {key_id}")
    request = AWSRequest(method=method, url=f"http://{host}{target}")
    for name in signed.split(";"):
        values = headers.get_all(name)
        if values is None:
            raise Refused(f"the signed field {name} did not arrive")
        request.headers[name] = ",".join(values)
    request.context["timestamp"] = timestamp
    signer = S3SigV4Auth(Credentials(key_id, KEYS[key_id]), service, region)
    # The payload's hash goes in as announced, whether or not it stands among the signed fields.
    signer.payload = lambda _: payload
    canonical = signer.canonical_request(request)
    return signer.signature(signer.string_to_sign(request, canonical), request), canonical


def check_signature(method, target, headers):
    """Returns the announced hash of the payload, or refuses."""
    host = headers["host"]
    query = dict(parse_qsl(target.partition("?")[2], keep_blank_values=True))
    if "X-Amz-Signature" in query:
        given, payload = query["X-Amz-Signature"], "UNSIGNED-PAYLOAD"
        signed, credential, timestamp = query["X-Amz-SignedHeaders"], query["X-Amz-Credential"], query["X-Amz-Date"]
        target = re.sub(r"[&?]X-Amz-Signature=[0-9a-f]+", "", target)
    else:
        parts = dict(part.strip().split("=", 1) for part in headers["authorization"].removeprefix("AWS4-HMAC-SHA256 ").split(","))
        given, payload = parts["Signature"], headers["x-amz-content-sha256"]
        signed, credential, timestamp = parts["SignedHeaders"], parts["Credential"], headers["x-amz-date"]
    wanted, canonical = signature_of(method, host, target, headers, signed, credential, timestamp, payload)
    if wanted != given:
        raise Refused(f"the signature does not fit what arrived:\n{canonical}")
    return payload


def without_framing(body, headers):
    """The content of an `aws-chunked` body, and the fields behind it."""
    content, trailers = b"", {}
    while True:
        line, _, body = body.partition(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        content, body = content + body[:size], body[size:]
        if not body.startswith(b"\r\n"):
            raise Refused("a chunk of the payload does not end where it says")
        body = body[2:]
    for line in body.split(b"\r\n"):
        if line:
            name, _, value = line.decode().partition(":")
            trailers[name.strip().lower()] = value.strip()
    if len(content) != int(headers["x-amz-decoded-content-length"]):
        raise Refused(f"{len(content)} bytes arrived, not {headers['x-amz-decoded-content-length']}")
    if missing := set(headers.get("x-amz-trailer", "").lower().split(",")) - {""} - set(trailers):
        raise Refused(f"announced behind the payload, and did not arrive: {missing}")
    return content, trailers


def check_payload(payload, body, headers):
    """Returns the content, or refuses."""
    trailers = {}
    if "aws-chunked" in headers.get("content-encoding", ""):
        if not payload.startswith("STREAMING-"):
            raise Refused(f"a payload in chunks, but the hash is {payload}")
        body, trailers = without_framing(body, headers)
    elif payload != "UNSIGNED-PAYLOAD" and hashlib.sha256(body).hexdigest() != payload:
        raise Refused("the payload is not the one that was signed")
    crc = trailers.get("x-amz-checksum-crc32") or headers.get("x-amz-checksum-crc32")
    if crc and base64.b64decode(crc) != zlib.crc32(body).to_bytes(4, "big"):
        raise Refused("the payload has another CRC32")
    return body


class Store(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def body(self):
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def answer(self, status, body=b"", **fields):
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def serve(self):
        if self.path == "/_seen":
            return self.answer(200, json.dumps(seen).encode())
        body = self.body()
        with lock:
            seen.append({"method": self.command, "target": self.path, "headers": self.headers.items(), "length": len(body)})
        try:
            content = check_payload(check_signature(self.command, self.path, self.headers), body, self.headers)
        except Refused as refused:
            code = f"<Error><Code>SignatureDoesNotMatch</Code><Message>{refused}</Message></Error>"
            return self.answer(403, code.encode())
        name = self.path.partition("?")[0]
        if self.command == "PUT":
            with lock:
                objects[name] = content
            self.answer(200, ETag=f'"{hashlib.md5(content).hexdigest()}"')
        elif self.command == "DELETE":
            objects.pop(name, None)
            self.answer(204)
        elif name in objects:
            self.answer(200, objects[name], ETag=f'"{hashlib.md5(objects[name]).hexdigest()}"')
        else:
            self.answer(404, b"<Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>")

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = serve

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    request_queue_size = 128


if __name__ == "__main__":
    Server((sys.argv[1], int(sys.argv[2])), Store).serve_forever()
