"""What boto3 does with an object store, a story a function: `s3_client.py STORY URL…`. Any difference is an error.

`verified_…` want verifying_s3.py behind the URL, the others moto's server.
"""

import hashlib
import http.client
import io
import json
import re
import socket
import sys
import zlib
from base64 import b64encode
from urllib.parse import urlsplit

import boto3
import requests
from boto3.s3.transfer import TransferConfig
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

ACCESS = {"aws_access_key_id": "AKTEST", "aws_secret_access_key": "the secret of AKTEST", "region_name": "us-east-1"}
ODD_KEYS = [
    "plain", "a b", "a+b", "a%2Fb", "100%", "%41", "ü/№/☃", "a//b", "/begins", "ends/", "~(x)!*'", "a?b&c=d", "a#b", "x;y=z,w", "a\\b|c^d`e{f}",
    "../up", "a/../b", "..", "./a/.", ".", "a/%2e%2e/b", "\x7f", "k" * 900,
]


def client(url, style="path", **settings):
    config = Config(
        signature_version="s3v4", s3={"addressing_style": style}, retries={"total_max_attempts": 1},
        connect_timeout=10, read_timeout=20, **settings,
    )
    return boto3.client("s3", endpoint_url=url, config=config, **ACCESS)


def content(length):
    return bytes((n % 251) ^ (n // 251 % 127) for n in range(length))


def refused(status, call, **arguments):
    """The call must fail with this status."""
    try:
        call(**arguments)
    except ClientError as error:
        assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status, error
        return error.response
    raise AssertionError(f"{arguments} should have been refused with {status}")


def same_object(s3, bucket, key, wanted):
    got = s3.get_object(Bucket=bucket, Key=key)["Body"].read()
    assert got == wanted, f"{key!r}: {len(got)} bytes instead of {len(wanted)}"


def seen(url):
    return requests.get(f"{url}/_seen", timeout=10).json()


def verified_signatures(proxied, direct):
    """Each byte that is signed arrives: method, host, path, query, fields, payload."""
    s3 = client(proxied)
    for size in [0, 1, 70_000, 3_000_000]:
        s3.put_object(Bucket="b", Key=f"n{size}", Body=content(size), Metadata={"note": "a  b   c", "x": "=,;"}, ContentType="text/x-own")
        same_object(s3, "b", f"n{size}", content(size))
        assert s3.head_object(Bucket="b", Key=f"n{size}")["ContentLength"] == size
    s3.get_object(Bucket="b", Key="n1", ResponseContentType="text/plain; a=b&c", ResponseContentDisposition='attachment; filename="ü+ .txt"')
    s3.delete_object(Bucket="b", Key="n1")
    refused(404, s3.get_object, Bucket="b", Key="n1")


def verified_odd_keys(proxied, direct):
    """Keys that a path has to escape, and those that look like dot segments."""
    s3 = client(proxied)
    for key in ODD_KEYS:
        s3.put_object(Bucket="b", Key=key, Body=key.encode())
    for key in ODD_KEYS:
        same_object(s3, "b", key, key.encode())
    # Directly: the same targets, so the same objects.
    for key in ODD_KEYS:
        same_object(client(proxied.replace(urlsplit(proxied).netloc, urlsplit(direct).netloc)), "b", key, key.encode())


def verified_expect(proxied, direct):
    """A body that can be read goes out with `Expect: 100-continue`, and the store sees it."""
    s3 = client(proxied)
    s3.put_object(Bucket="b", Key="expecting", Body=io.BytesIO(content(400_000)))
    same_object(s3, "b", "expecting", content(400_000))
    last = [request for request in seen(direct) if request["target"].endswith("/expecting") and request["method"] == "PUT"][-1]
    fields = {name.lower(): value for name, value in last["headers"]}
    assert fields.get("expect", "").lower() == "100-continue", fields
    assert fields["content-length"] == "400000", fields


def verified_trailing_checksum(proxied, direct):
    """The SDK's chunked payload with a checksum behind it, as it is sent over TLS."""
    s3 = client(proxied)

    def behind(params, **_):
        params["context"]["checksum"]["request_algorithm"]["in"] = "trailer"

    s3.meta.events.register("before-call.s3.PutObject", behind)
    for size in [1, 5_000, 2_500_000]:
        s3.put_object(Bucket="b", Key="trailing", Body=io.BytesIO(content(size)), ChecksumAlgorithm="CRC32")
        same_object(s3, "b", "trailing", content(size))
    fields = {name.lower(): value for name, value in seen(direct)[-2]["headers"]}
    assert fields["content-encoding"] == "aws-chunked" and fields["x-amz-trailer"] == "x-amz-checksum-crc32", fields
    assert fields["x-amz-content-sha256"] == "STREAMING-UNSIGNED-PAYLOAD-TRAILER", fields


def signed(method, url, body_hash, **fields):
    request = AWSRequest(method=method, url=url, headers={"x-amz-content-sha256": body_hash, **fields})
    signer = S3SigV4Auth(Credentials(ACCESS["aws_access_key_id"], ACCESS["aws_secret_access_key"]), "s3", "us-east-1")
    signer.payload = lambda _: body_hash
    signer.add_auth(request)
    return dict(request.headers)


def verified_framed_payload(proxied, direct):
    """The same payload under a Content-Length, as other SDKs send it."""
    body = content(200_000)
    crc = b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()
    parts = [body[at:at + 65_536] for at in range(0, len(body), 65_536)]
    framed = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\nx-amz-checksum-crc32:" + crc.encode() + b"\r\n\r\n"
    fields = {
        "Content-Encoding": "aws-chunked", "x-amz-decoded-content-length": str(len(body)), "x-amz-trailer": "x-amz-checksum-crc32",
        "Content-Length": str(len(framed)),
    }
    headers = signed("PUT", f"{proxied}/b/framed", "STREAMING-UNSIGNED-PAYLOAD-TRAILER", **fields)
    answer = requests.put(f"{proxied}/b/framed", data=framed, headers=headers, timeout=20)
    assert answer.status_code == 200, answer.text
    same_object(client(proxied), "b", "framed", body)


def verified_presigned(proxied, direct):
    """Links that anybody may use, with requests."""
    s3 = client(proxied)
    for key in ["plain", "a b+c", "ü/№", "a%2Fb", "q?x=y&z"]:
        put = s3.generate_presigned_url("put_object", Params={"Bucket": "b", "Key": key, "ContentType": "text/x-own"})
        answer = requests.put(put, data=content(100_000), headers={"Content-Type": "text/x-own"}, timeout=20)
        assert answer.status_code == 200, answer.text
        get = s3.generate_presigned_url("get_object", Params={"Bucket": "b", "Key": key, "ResponseContentType": "a/b; c=d"})
        answer = requests.get(get, timeout=20)
        assert answer.status_code == 200 and answer.content == content(100_000), answer.text[:200]
        wrong = requests.put(put, data=b"x", headers={"Content-Type": "text/other"}, timeout=20)
        assert wrong.status_code == 403, "a signed field was altered"


def verified_alterations_are_noticed(proxied, direct):
    """The store would notice: each alteration of one signed byte is refused, so that the other stories prove something."""
    address = urlsplit(proxied)
    digest = hashlib.sha256(b"body").hexdigest()

    def ask(method="PUT", target="/b/k%20ey?x=1&y=%2F", body=b"body", **altered):
        headers = signed("PUT", f"{proxied}/b/k%20ey?x=1&y=%2F", digest, **{"x-amz-meta-note": "a b"})
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=20)
        connection.request(method, target, body, {"Host": address.netloc, **headers, **altered})
        status = connection.getresponse().status
        connection.close()
        return status

    assert ask() == 200
    alterations = [
        {"method": "POST"}, {"target": "/b/k+ey?x=1&y=%2F"}, {"target": "/b/k%20ey?x=1&y=/"}, {"target": "/b//k%20ey?x=1&y=%2F"},
        {"Host": "other.example.com"}, {"Host": f"localhost:{address.port}"}, {"x-amz-meta-note": "a c"}, {"body": b"bodY"},
    ]
    for altered in alterations:
        assert ask(**altered) == 403, altered


def objects(proxied, direct):
    """Buckets and objects: ranges, conditions, copies, lists, deletes."""
    s3 = client(proxied)
    s3.create_bucket(Bucket="stories")
    body = content(300_000)
    etag = s3.put_object(Bucket="stories", Key="one", Body=io.BytesIO(body), Metadata={"a": "b"})["ETag"]
    part = s3.get_object(Bucket="stories", Key="one", Range="bytes=100-299999")
    assert part["Body"].read() == body[100:] and part["ContentRange"] == "bytes 100-299999/300000", part
    refused(304, s3.get_object, Bucket="stories", Key="one", IfNoneMatch=etag)
    refused(412, s3.get_object, Bucket="stories", Key="one", IfMatch='"other"')
    keys = [key for key in ODD_KEYS if ".." not in key.split("/") and "." not in key.split("/") and key not in ("%41", "a//b", "/begins")]
    for key in keys:
        s3.put_object(Bucket="stories", Key=f"odd/{key}", Body=key.encode())
        s3.copy_object(Bucket="stories", Key=f"copy/{key}", CopySource={"Bucket": "stories", "Key": f"odd/{key}"})
    for key in keys:
        same_object(s3, "stories", f"copy/{key}", key.encode())
    for prefix in ["odd/", "copy/", "odd/a"]:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket="stories", Prefix=prefix, PaginationConfig={"PageSize": 4})
        listed = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        assert listed == sorted((f"{prefix.split('/')[0]}/{key}" for key in keys if f"{prefix.split('/')[0]}/{key}".startswith(prefix)),
                                key=lambda key: key.encode()), (prefix, listed)
    folders = s3.list_objects_v2(Bucket="stories", Delimiter="/")
    assert [entry["Prefix"] for entry in folders["CommonPrefixes"]] == ["copy/", "odd/"], folders
    gone = s3.delete_objects(Bucket="stories", Delete={"Objects": [{"Key": f"odd/{key}"} for key in keys if key != "\x7f"]})
    assert "Errors" not in gone and len(gone["Deleted"]) == len(keys) - ("\x7f" in keys), gone
    s3.put_object_tagging(Bucket="stories", Key="one", Tagging={"TagSet": [{"Key": "a", "Value": "b c"}]})
    assert s3.get_object_tagging(Bucket="stories", Key="one")["TagSet"] == [{"Key": "a", "Value": "b c"}]
    assert client(direct).head_object(Bucket="stories", Key="one")["ETag"] == etag, "the store itself has it"
    missing = refused(404, s3.get_object, Bucket="stories", Key="none")
    assert missing["Error"]["Code"] == "NoSuchKey", missing


def multipart(proxied, direct):
    """Parts, several at a time, by the SDK's own transfer manager and one by one."""
    s3 = client(proxied, max_pool_connections=4)
    s3.create_bucket(Bucket="parts")
    body = content(1_000_003) * 17
    several = TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=4)
    s3.upload_fileobj(io.BytesIO(body), "parts", "managed", Config=several)
    into = io.BytesIO()
    s3.download_fileobj("parts", "managed", into, Config=several)
    assert into.getvalue() == body
    assert client(direct).head_object(Bucket="parts", Key="managed")["ETag"].endswith('-4"')
    upload = s3.create_multipart_upload(Bucket="parts", Key="by hand")["UploadId"]
    parts = [body[: 5 << 20], body[5 << 20: 10 << 20], b"the last"]
    etags = [
        s3.upload_part(Bucket="parts", Key="by hand", UploadId=upload, PartNumber=number + 1, Body=io.BytesIO(part))["ETag"]
        for number, part in reversed(list(enumerate(parts)))
    ][::-1]
    assert len(s3.list_parts(Bucket="parts", Key="by hand", UploadId=upload)["Parts"]) == 3
    named = [{"PartNumber": number + 1, "ETag": etag} for number, etag in enumerate(etags)]
    s3.complete_multipart_upload(Bucket="parts", Key="by hand", UploadId=upload, MultipartUpload={"Parts": named})
    same_object(s3, "parts", "by hand", b"".join(parts))
    upload = s3.create_multipart_upload(Bucket="parts", Key="given up")["UploadId"]
    s3.upload_part(Bucket="parts", Key="given up", UploadId=upload, PartNumber=1, Body=b"x")
    s3.abort_multipart_upload(Bucket="parts", Key="given up", UploadId=upload)
    refused(404, s3.list_parts, Bucket="parts", Key="given up", UploadId=upload)


def owners(proxied, owners_of, style="path"):
    """Each bucket lives only at its owner; the proxy is the only one who knows where."""
    s3 = client(proxied, style)
    for bucket in owners_of:
        s3.create_bucket(Bucket=bucket)
        s3.put_object(Bucket=bucket, Key="a/of b", Body=bucket.encode())
        same_object(s3, bucket, "a/of b", bucket.encode())
        assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == ["a/of b"]
        s3.head_bucket(Bucket=bucket)
    for bucket, owner in owners_of.items():
        for url in set(owners_of.values()):
            there = [entry["Name"] for entry in client(url).list_buckets()["Buckets"]]
            assert (bucket in there) == (url == owner), (bucket, owner, url, there)
    return s3


def owners_by_path(proxied, first, second):
    s3 = owners(proxied, {"alpha": first, "beta": second, "gamma": first, "delta.dots": second})
    reason = refused(400, s3.list_buckets)["ResponseMetadata"]["HTTPHeaders"]["waypost-reason"]
    assert reason == "no_key", reason
    reason = refused(404, s3.get_object, Bucket="stranger", Key="k")["ResponseMetadata"]["HTTPHeaders"]["waypost-reason"]
    assert reason == "no_route", reason


def owners_by_host(proxied, first, second):
    """Each bucket is a host name of its own; all of them are this machine."""
    resolve = socket.getaddrinfo
    socket.getaddrinfo = lambda host, *rest, **more: resolve("127.0.0.1" if host.endswith(".test") else host, *rest, **more)
    named = re.sub(r"127\.0\.0\.1", "s3.example.test", proxied)
    s3 = owners(named, {"alpha": first, "beta": second, "gamma": first}, style="virtual")
    presigned = s3.generate_presigned_url("get_object", Params={"Bucket": "beta", "Key": "a/of b"})
    assert urlsplit(presigned).hostname == "beta.s3.example.test", presigned
    assert requests.get(presigned, timeout=20).content == b"beta"


def holds_what(proxied, bucket, key, text):
    """One object through the proxy is this text."""
    same_object(client(proxied), bucket, key, text.encode())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
