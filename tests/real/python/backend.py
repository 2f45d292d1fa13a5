"""A backend that speaks the stale-route protocol, written from docs/backends.md alone: `backend.py GOLD PREFIX UPSTREAM HOST:PORT`.

It keeps values by key and path: PUT stores, GET shows. Ownership comes from etcd through its JSON gateway; nothing but the standard
library is used.
"""

import base64
import collections
import http.server
import json
import re
import sys
import threading
import time
import urllib.request

SERVICE = "orders"
LEASE_SECONDS = 10
SAFE = {"GET", "HEAD", "OPTIONS", "TRACE"}
Route = collections.namedtuple("Route", "owner epoch state target created")


def b64(data):
    return base64.b64encode(data).decode()


class Etcd:
    """The four calls of etcd's JSON gateway that are needed."""

    def __init__(self, url):
        self.url = url

    def open(self, path, body, timeout=5):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=timeout)

    def call(self, path, body):
        with self.open(path, body) as answer:
            return json.load(answer)

    def below(self, prefix):
        start = prefix.encode()
        return {"key": b64(start), "range_end": b64(start[:-1] + bytes([start[-1] + 1]))}


class View:
    """What is known of the gold copy, and who is under way."""

    def __init__(self, etcd, prefix, upstream):
        self.etcd, self.prefix, self.upstream = etcd, prefix + "/", upstream
        self.changed = threading.Condition()
        self.routes, self.defaults, self.incarnation, self.revision, self.cluster = {}, {}, 0, 0, 0
        self.under_way = collections.Counter()
        self.wanted = None
        self.announcing = threading.Condition()

    def table(self):
        return f"{self.cluster:x}-{self.incarnation}"

    def put(self, key, kv):
        """One record; a bad one changes nothing."""
        try:
            value = json.loads(base64.b64decode(kv.get("value", "")))
            kind, _, rest = key.partition(b"/")
            if kind == b"routes":
                service, _, routing_key = rest.partition(b"/")
                created, epoch = int(kv["create_revision"]), int(value.get("epoch", kv["mod_revision"]))
                known = self.routes.get((service.decode(), routing_key))
                if known and known.created == created and known.epoch > epoch:
                    return
                route = Route(str(value["owner"]), epoch, value.get("state", "serving"), value.get("target"), created)
                self.routes[service.decode(), routing_key] = route
            elif kind == b"services":
                self.defaults[rest.decode()] = value.get("default_owner")
            elif key == b"incarnation":
                self.incarnation = int(value)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            print("ignored:", key, error, file=sys.stderr)

    def delete(self, key):
        kind, _, rest = key.partition(b"/")
        if kind == b"routes":
            service, _, routing_key = rest.partition(b"/")
            self.routes.pop((service.decode(), routing_key), None)
        elif kind == b"services":
            self.defaults.pop(rest.decode(), None)
        elif key == b"incarnation":
            self.incarnation = 0

    def list(self):
        found = self.etcd.call("/v3/kv/range", self.etcd.below(self.prefix))
        with self.changed:
            self.routes, self.defaults, self.incarnation = {}, {}, 0
            for kv in found.get("kvs", []):
                self.put(base64.b64decode(kv["key"])[len(self.prefix):], kv)
            self.revision, self.cluster = int(found["header"]["revision"]), int(found["header"]["cluster_id"])
            self.changed.notify_all()

    def watch(self):
        """Follows what comes behind the present revision, for ever."""
        while True:
            try:
                create = {**self.etcd.below(self.prefix), "start_revision": str(self.revision + 1)}
                with self.etcd.open("/v3/watch", {"create_request": create}, timeout=None) as answers:
                    for line in answers:
                        result = json.loads(line)["result"]
                        if int(result.get("compact_revision", 0)) > 0:
                            self.list()
                            break
                        self.apply(result)
            except (OSError, ValueError, KeyError) as error:
                print("the watch ended:", error, file=sys.stderr)
            time.sleep(0.1)

    def apply(self, result):
        events = result.get("events", [])
        with self.changed:
            for event in events:
                key = base64.b64decode(event["kv"]["key"])[len(self.prefix):]
                if event.get("type") == "DELETE":
                    self.delete(key)
                else:
                    self.put(key, event["kv"])
            if events:
                self.revision = int(result["header"]["revision"])
            self.changed.notify_all()
        if events:
            self.announce()

    def route(self, service, key):
        """Owner, epoch, state and target of a key."""
        known = self.routes.get((service, key))
        return known or Route(self.defaults.get(service), 0, "serving", None, 0)

    def owns(self, service, key):
        route = self.route(service, key)
        return route.owner == self.upstream and route.state != "frozen"

    def judge(self, stamp, service, key, is_safe, may_wait):
        """None: wait; else (served?, header's value or None)."""
        route = self.route(service, key)
        owns, frozen = self.owns(service, key), route.state == "frozen"

        def stale(state, names=False):
            owner = f', owner="{route.owner}", epoch={route.epoch}' if names and route.owner else ""
            return False, f'state={state}, service="{service}", key={item(key)}{owner}, revision={self.revision}, table="{self.table()}"'

        if stamp is None:
            return (True, None) if owns else stale("handoff" if frozen else "moved", names=not frozen)
        if stamp.get("table") != self.table():
            if may_wait:
                return None
            return (True, None) if owns else stale("handoff" if frozen else "moved")
        if stamp.get("ask") == self.upstream:
            if owns or (route.state == "moving" and route.target == self.upstream):
                return True, None
            return None if may_wait else stale("behind")
        if stamp["epoch"] > route.epoch:
            return None if may_wait else stale("behind")
        if frozen:
            return stale("handoff")
        if owns and stamp["epoch"] < route.epoch:
            update = f'key={item(key)}, owner="{self.upstream}", epoch={route.epoch}, revision={self.revision}, table="{self.table()}"'
            return (True, update) if is_safe else stale("moved", names=True)
        if owns:
            return True, None
        return stale("moved", names=stamp["epoch"] < route.epoch)

    def admit(self, stamp, service, key, is_safe):
        """Judges, waiting if that helps. Who is served is under way until `end`."""
        until = time.monotonic() + (stamp or {}).get("wait-ms", 0) / 1000
        with self.changed:
            while True:
                left = until - time.monotonic()
                judged = self.judge(stamp, service, key, is_safe, left > 0)
                if judged is not None:
                    if judged[0]:
                        self.under_way[service, key] += 1
                    return judged
                self.changed.wait(max(left, 0))

    def end(self, service, key):
        with self.changed:
            self.under_way[service, key] -= 1
            if self.under_way[service, key]:
                return
            del self.under_way[service, key]
            was_awaited = not self.owns(service, key)
        if was_awaited:
            self.announce()

    def announce(self):
        """Has the announcement written anew, if there is something new to say."""
        with self.changed:
            busy = [{"service": service, "key": key.decode(errors="replace")} for service, key in self.under_way if not self.owns(service, key)]
            said = json.dumps({"applied": self.revision, "busy": busy}).encode()
        with self.announcing:
            self.wanted = said
            self.announcing.notify()

    def keep_announced(self, key, was_written):
        """Keeps what was said last in the store, under a lease that is renewed."""
        while True:
            try:
                lease = self.etcd.call("/v3/lease/grant", {"TTL": str(LEASE_SECONDS)})["ID"]
                written, renewed = None, time.monotonic()
                while True:
                    with self.announcing:
                        if written == self.wanted:
                            self.announcing.wait(LEASE_SECONDS / 3)
                        said = self.wanted
                    if said != written:
                        self.etcd.call("/v3/kv/put", {"key": b64(key.encode()), "value": b64(said), "lease": lease})
                        written = said
                        was_written.set()
                    if time.monotonic() - renewed > LEASE_SECONDS / 4:
                        self.etcd.call("/v3/lease/keepalive", {"ID": lease})
                        renewed = time.monotonic()
            except (OSError, ValueError, KeyError) as error:
                print("not announced:", error, file=sys.stderr)
                time.sleep(0.5)


MEMBER = re.compile(r'\s*([a-z*][a-z0-9_.*-]*)(?:=(?:"((?:[^"\\]|\\.)*)"|:([A-Za-z0-9+/=]*):|(-?\d+)|([^,;]*)))?(?:;[^,]*)?\s*(?:,|$)')


def parse(stamp):
    """A structured-field dictionary of strings, byte sequences and integers; None if it is none."""
    members, at = {}, 0
    while at < len(stamp):
        found = MEMBER.match(stamp, at)
        if not found:
            return None
        name, string, sequence, integer, _ = found.groups()
        if string is not None:
            members[name] = re.sub(r"\\(.)", r"\1", string)
        elif sequence is not None:
            members[name] = base64.b64decode(sequence)
        elif integer is not None:
            members[name] = int(integer)
        at = found.end()
    return members if isinstance(members.get("epoch"), int) else None


def item(key):
    """A routing key as a structured-field item."""
    if all(0x20 <= byte < 0x7F for byte in key):
        return '"' + key.decode().replace("\\", "\\\\").replace('"', '\\"') + '"'
    return f":{b64(key)}:"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_expect_100(self):
        # Said only to whom may go on.
        return True

    def answer(self):
        key = self.headers.get("x-tenant", "").encode("latin-1")
        stamp = self.headers.get("route-stamp")
        stamp = parse(stamp) if stamp is not None else None
        served, value = self.server.view.admit(stamp, SERVICE, key, self.command in SAFE)
        if not served:
            # What is left of the request's body is not read.
            self.close_connection = True
            return self.say(421, b"", [("Route-Stale", value), ("Cache-Control", "no-store"), ("Connection", "close")])
        try:
            if self.headers.get("expect", "").lower() == "100-continue":
                self.send_response_only(100)
                self.end_headers()
            body = self.read_body()
            if self.command == "PUT":
                self.server.values[key, self.path] = body
            shown = b"" if self.command == "PUT" else self.server.values.get((key, self.path), b"")
        finally:
            self.server.view.end(SERVICE, key)
        self.say(200, shown, [("Route-Update", value)] if value else [])

    do_GET = do_PUT = do_POST = answer

    def read_body(self):
        if self.headers.get("transfer-encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("content-length", 0)))
        body = b""
        while True:
            size = int(self.rfile.readline().split(b";")[0], 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if size == 0:
                return body

    def say(self, status, body, headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def main(gold, prefix, upstream, listen):
    view = View(Etcd(gold), prefix, upstream)
    view.list()
    view.announce()
    was_written = threading.Event()
    place = f"{prefix}-state/owners/{upstream}/python-1"
    threading.Thread(target=view.keep_announced, args=(place, was_written), daemon=True).start()
    # Before it first serves.
    was_written.wait()
    threading.Thread(target=view.watch, daemon=True).start()
    host, port = listen.split(":")
    server = Server((host, int(port)), Handler)
    server.view, server.values = view, {}
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
