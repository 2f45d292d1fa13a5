"""What requests and http.client do with an HTTP server, a story a function: `http_clients.py STORY HOST:PORT`. Any difference is an error.

Behind the address is asgi_app.py, directly or through a proxy.
"""

import http.client
import io
import sys

import requests


def content(length):
    return bytes((n % 251) ^ (n // 251 % 127) for n in range(length))


def fields(answer):
    """What the application saw as header fields."""
    return [(name, value) for name, value in answer.json()["headers"]]


def sessions(address):
    """One kept-alive connection for everything."""
    with requests.Session() as session:
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]:
            answer = session.request(method, f"http://{address}/things?n=1", headers={"X-Own": "a"}, timeout=20)
            assert answer.json()["method"] == method and ("x-own", "a") in fields(answer), answer.text
        assert session.head(f"http://{address}/things", timeout=20).status_code == 200
        for number in range(50):
            assert session.get(f"http://{address}/n/{number}", timeout=20).json()["raw_path"] == f"/n/{number}"
        pools = session.get_adapter("http://").poolmanager.pools
        connections = sum(pools.get(key).num_connections for key in pools.keys())
        assert connections == 1, f"{connections} connections for what one could do"


def uploads(address):
    """A generator (chunked), a file with its length, and a form of several parts."""
    def parts():
        for number in range(200):
            yield content(number * 7 + 1)

    wanted = sum(number * 7 + 1 for number in range(200))
    with requests.Session() as session:
        assert session.post(f"http://{address}/upload", data=parts(), timeout=20).json()["total"] == wanted
        assert session.post(f"http://{address}/upload", data=io.BytesIO(content(3_000_000)), timeout=20).json()["total"] == 3_000_000
        assert session.post(f"http://{address}/upload", data=b"", timeout=20).json()["total"] == 0
        form = session.post(f"http://{address}/echo", data={"a": "b c"}, files={"file": ("ü.txt", content(200_000))}, timeout=20)
        assert content(200_000) in form.content and "b c" in form.text
        back = session.post(f"http://{address}/echo", data=(content(10_000) for _ in range(100)), timeout=20)
        assert back.content == content(10_000) * 100


def redirects_and_cookies(address):
    """A redirect is followed to the same place, with all cookies that came with it."""
    with requests.Session() as session:
        answer = session.post(f"http://{address}/redirect", data=content(100_000), timeout=20)
        assert [step.status_code for step in answer.history] == [303] and answer.url == f"http://{address}/cookies?from=here", answer.history
        seen = dict(fields(answer))
        assert seen["host"] == address and seen["cookie"] == 'a=1; b="2, and"' or seen["cookie"] == "a=1; b=2, and", seen
        # Cookie fields that were several stay several.
        raw = session.post(f"http://{address}/redirect", allow_redirects=False, timeout=20).raw.headers
        assert raw.getlist("set-cookie") == ["a=1; Path=/", "b=2, and; Path=/"], raw


def streams(address):
    """An answer is read line by line as it comes."""
    with requests.get(f"http://{address}/stream", stream=True, timeout=20) as answer:
        lines = list(answer.iter_lines())
    assert lines[0] == b"0" and lines[-1] == b"end" and len(lines) == 500 * 20 + 1, len(lines)


def ask(connection, method, target, body=None, headers=(), version=11):
    """A request exactly as it is given."""
    connection._http_vsn, connection._http_vsn_str = version, f"HTTP/{version // 10}.{version % 10}"
    connection.putrequest(method, target, skip_host=any(name == "Host" for name, _ in headers), skip_accept_encoding=True)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    return answer, answer.read()


def odd_requests(address):
    """What http.client lets one say and few people do."""
    connection = http.client.HTTPConnection(address, timeout=20)
    answer, body = ask(connection, "GET", "/echo", b"a body with GET", [("Content-Length", "15")])
    assert body == b"a body with GET", body
    fields = [("Content-Length", "6"), ("X-Empty", ""), ("x-MiXeD", "v"), ("X-Wide", "a\t b")]
    answer, body = ask(connection, "QUERY", "/x", b"select", fields)
    assert answer.status == 200 and all(part in body for part in [b'"QUERY"', b'["x-empty", ""]', b'["x-mixed", "v"]']), body
    answer, body = ask(connection, "GET", "/x", None, [("X-Many", str(number)) for number in range(90)])
    assert body.count(b'"x-many"') == 90, body
    answer, body = ask(connection, "OPTIONS", "/x", None, [("Host", "h.example.com"), ("Content-Length", "0")])
    assert b'"h.example.com"' in body, body
    chunk = b"5;ext=\"a;b\"\r\nhello\r\n0\r\n\r\n"
    answer, body = ask(connection, "POST", "/upload", chunk, [("Transfer-Encoding", "chunked")])
    assert body == b'{"total": 5}', body
    answer, body = ask(connection, "GET", "/x", None, [("Connection", "close")])
    assert answer.status == 200 and answer.will_close


def of_no_known_length_for_http_1_0(address):
    """A streamed answer, which HTTP/1.0 can only end by closing."""
    for fields in [[("Host", "h")], [("Host", "h"), ("Connection", "keep-alive")]]:
        connection = http.client.HTTPConnection(address, timeout=20)
        answer, body = ask(connection, "GET", "/stream", None, fields, version=10)
        assert answer.status == 200 and body.endswith(b"end\n"), (answer.status, body[-100:])
        assert answer.getheader("transfer-encoding") is None, answer.headers.items()


def without_host_in_http_1_0(address):
    """HTTP/1.0 knows no Host, and every server answers without one."""
    connection = http.client.HTTPConnection(address, timeout=20)
    answer, body = ask(connection, "GET", "/x", version=10)
    assert answer.status == 200, (answer.status, body)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
