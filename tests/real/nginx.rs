//! In front of nginx: static files, ranges, compression, conditional requests, its own pages and redirects, reuse of connections.

use serde_json::json;
use waypost_tests::{Certificates, Client, Nginx, RecordFile, Waypost, free_address};

use crate::stage::{Front, bytes};

#[tokio::test]
async fn files_of_all_sizes_arrive_byte_for_byte() {
    let nginx = Nginx::start("").await;
    let front = Front::of(nginx.address).await;
    let mut pair = front.pair().await;
    for size in [0, 1, 1_459, 1_460, 1_461, 4_096, 65_535, 65_536, 1_000_003, 20_000_000] {
        let (name, content) = (format!("/f{size}"), bytes(size));
        nginx.write(&name[1..], &content);
        let answer = pair.same("GET", &name, &[]).await;
        assert_eq!((answer.status, answer.header("content-length")), (200, &*size.to_string()));
        assert!(answer.body == content, "{size} bytes");
        let answer = pair.same("HEAD", &name, &[]).await;
        assert_eq!((answer.status, answer.header("content-length")), (200, &*size.to_string()));
    }
}

#[tokio::test]
async fn ranges_pass_as_the_server_gives_them() {
    let nginx = Nginx::start("").await;
    let content = bytes(100_000);
    nginx.write("file", &content);
    let front = Front::of(nginx.address).await;
    let mut pair = front.pair().await;
    let etag = pair.same("HEAD", "/file", &[]).await.header("etag").to_owned();
    for (range, from, to) in [("0-0", 0, 0), ("10-70009", 10, 70_009), ("99990-", 99_990, 99_999), ("-5", 99_995, 99_999)] {
        let answer = pair.same("GET", "/file", &[("Range", &format!("bytes={range}"))]).await;
        assert_eq!((answer.status, answer.header("content-range")), (206, &*format!("bytes {from}-{to}/100000")));
        assert_eq!(answer.body, content[from..=to]);
    }
    let several = pair.same("GET", "/file", &[("Range", "bytes=0-1,5-9,99000-")]).await;
    assert_eq!(several.status, 206);
    assert!(several.header("content-type").starts_with("multipart/byteranges; boundary="), "{:?}", several.headers);
    assert_eq!(several.text().matches("Content-Range: bytes ").count(), 3);
    let beyond = pair.same("GET", "/file", &[("Range", "bytes=100000-")]).await;
    assert_eq!((beyond.status, beyond.header("content-range")), (416, "bytes */100000"));
    let range = ("Range", "bytes=0-9");
    assert_eq!(pair.same("GET", "/file", &[range, ("If-Range", &etag)]).await.status, 206);
    assert_eq!(pair.same("GET", "/file", &[range, ("If-Range", "\"other\"")]).await.status, 200);
    assert_eq!(pair.same("HEAD", "/file", &[range]).await.header("content-length"), "10");
}

#[tokio::test]
async fn compressed_bodies_arrive_as_they_were_sent() {
    // The proxy's `Via` makes nginx send plain bodies unless it is told otherwise.
    let nginx = Nginx::start("gzip on; gzip_vary on; gzip_proxied any; gzip_min_length 1; gzip_types application/json;").await;
    let text = "{\"a\":\"the quick brown fox\"}".repeat(40_000);
    nginx.write("text.json", text.as_bytes());
    let front = Front::of(nginx.address).await;
    let mut pair = front.pair().await;
    let zipped = pair.same("GET", "/text.json", &[("Accept-Encoding", "br;q=0.1, gzip")]).await;
    assert_eq!((zipped.header("content-encoding"), zipped.header("vary")), ("gzip", "Accept-Encoding"));
    assert!(zipped.body.starts_with(&[0x1f, 0x8b]) && zipped.body.len() < text.len() / 10);
    assert!(zipped.header("etag").starts_with("W/"), "{:?}", zipped.headers);
    let plain = pair.same("GET", "/text.json", &[("Accept-Encoding", "identity")]).await;
    assert_eq!((plain.header("content-encoding"), plain.text() == text), ("", true));
    assert_eq!(pair.same("HEAD", "/text.json", &[("Accept-Encoding", "gzip")]).await.header("content-encoding"), "gzip");
}

#[tokio::test]
async fn not_modified_keeps_the_connection() {
    let nginx = Nginx::start("").await;
    nginx.write("page.html", b"<p>hello</p>");
    let front = Front::of(nginx.address).await;
    let mut pair = front.pair().await;
    let first = pair.same("GET", "/page.html", &[]).await;
    let (etag, modified) = (first.header("etag").to_owned(), first.header("last-modified").to_owned());
    let several = format!("\"x\", {etag}, W/\"y\"");
    assert!(!etag.is_empty() && !modified.is_empty(), "{:?}", first.headers);
    for _ in 0..3 {
        for condition in [("If-None-Match", &*etag), ("If-None-Match", &*several), ("If-Modified-Since", &*modified)] {
            let answer = pair.same("GET", "/page.html", &[condition]).await;
            assert_eq!((answer.status, answer.header("etag"), answer.body.len()), (304, &*etag, 0), "{condition:?}");
        }
        assert_eq!(pair.same("HEAD", "/page.html", &[("If-None-Match", &etag)]).await.status, 304);
        assert_eq!(pair.same("GET", "/page.html", &[("If-None-Match", "\"other\"")]).await.status, 200);
        // nginx says keep-alive here and closes: the next round begins on a connection that has died in the pool.
        assert_eq!(pair.same("GET", "/page.html", &[("If-Match", "\"other\"")]).await.status, 412);
    }
}

#[tokio::test]
async fn listings_error_pages_and_redirects_are_the_server_s_own() {
    let nginx = Nginx::start(
        "error_page 404 /missing.html;
        location /shelf/ { autoindex on; autoindex_format json; }
        location = /moved { return 301 /elsewhere?a=b%20c; }
        location = /away { return 302 https://elsewhere.example.com/x; }
        location = /private { deny all; }
        location = /gone { return 410; }
        location = /empty { return 204; }",
    )
    .await;
    for name in ["shelf/one", "shelf/a b", "shelf/ü", "docs/index.html"] {
        nginx.write(name, b"content");
    }
    nginx.write("missing.html", b"<p>our own page</p>");
    let front = Front::of(nginx.address).await;
    let mut pair = front.pair().await;
    let listing = pair.same("GET", "/shelf/", &[]).await;
    assert!(["\"one\"", "\"a b\"", "\"ü\""].iter().all(|name| listing.text().contains(name)), "{}", listing.text());
    for (path, status) in [("/shelf/a%20b", 200), ("/shelf/%C3%BC", 200), ("/shelf/../shelf/one", 200), ("//shelf///one", 200)] {
        assert_eq!(pair.same("GET", path, &[]).await.status, status, "{path}");
    }
    for (path, status) in [("/nothing", 404), ("/private", 403), ("/gone", 410), ("/empty", 204), ("/shelf/../../etc/passwd", 400)] {
        let answer = pair.same("GET", path, &[]).await;
        assert_eq!((answer.status, answer.reason()), (status, ""), "{path}");
    }
    assert_eq!(pair.same("GET", "/nothing", &[]).await.text(), "<p>our own page</p>");
    assert_eq!(pair.same("POST", "/docs/index.html", &[]).await.status, 405);
    for (path, ending) in [("/docs", "/docs/"), ("/moved", "/elsewhere?a=b%20c"), ("/away", "https://elsewhere.example.com/x")] {
        let answer = pair.same("GET", path, &[("Host", "shop.example.com")]).await;
        assert!(answer.header("location").ends_with(ending), "{:?}", answer.headers);
    }
}

#[tokio::test]
async fn large_heads_pass_in_both_directions() {
    let nginx =
        Nginx::start("location = /echo { add_header X-Echo $http_x_large; add_header X-Query $arg_q; return 200 $http_cookie; }").await;
    let front = Front::of(nginx.address).await;
    let mut pair = front.pair().await;
    for size in [1_000, 8_192, 16_384, 30_000] {
        let (large, cookie) = ("v".repeat(size), format!("c={}", "k".repeat(size / 2)));
        let path = format!("/echo?q={}", "q".repeat(size / 4));
        let answer = pair.same("GET", &path, &[("X-Large", &large), ("Cookie", &cookie)]).await;
        assert_eq!((answer.status, answer.header("x-echo") == large, answer.text() == cookie), (200, true, true), "{size}");
        assert_eq!(answer.header("x-query").len(), size / 4);
    }
}

#[tokio::test]
async fn connections_to_the_server_are_used_again() {
    let nginx = Nginx::start("").await;
    nginx.write("small", b"small");
    nginx.write("large", &bytes(300_000));
    let front = Front::of(nginx.address).await;
    let before = nginx.accepted().await;
    let mut client = front.waypost.client().await;
    for path in ["/small", "/large", "/none"].into_iter().cycle().take(30) {
        client.get(path, &[]).await;
        client.request("HEAD", path, &[], b"").await;
        client.get(path, &[("If-None-Match", "*"), ("Range", "bytes=0-0")]).await;
        Client::fetch(front.waypost.listen, path).await.unwrap();
    }
    // One of these is the second question itself.
    let connections = nginx.accepted().await - before;
    assert!((1..=4).contains(&connections), "120 requests, one at a time, took {connections} connections");
}

#[tokio::test]
async fn one_that_lets_in_only_who_shows_a_certificate_serves_over_tls() {
    let certificates = Certificates::new();
    let (server, edge) = (certificates.sign_for("nginx", &["files.internal"]), certificates.sign("edge"));
    let secure = free_address();
    let (cert, key, ca) = (server.cert.display(), server.key.display(), certificates.ca.display());
    let nginx = Nginx::start(&format!(
        "listen {secure} ssl; ssl_certificate {cert}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3;
         ssl_client_certificate {ca}; ssl_verify_client on;
         location = /who {{ return 200 \"$ssl_protocol $ssl_server_name $ssl_client_s_dn\"; }}"
    ))
    .await;
    let content = bytes(5_000_000);
    nginx.write("file", &content);
    let file = |path: &std::path::Path| format!("file:{}", path.display());
    let tls = json!({ "sni": "files.internal", "ca": file(&certificates.ca) });
    let mut shown = tls.clone();
    (shown["cert"], shown["key"]) = (json!(file(&edge.cert)), json!(file(&edge.key)));
    for (tls, is_let_in) in [(shown, true), (tls, false)] {
        let records = RecordFile::of(&json!({
            "services/all": { "match": [{}], "default_owner": "server" },
            "upstreams/server": { "endpoints": [{ "address": secure.to_string() }], "tls": tls },
        }));
        let waypost = Waypost::start(&records.gold(), &[]).await;
        let mut client = waypost.client().await;
        let answer = client.get("/who", &[]).await;
        if is_let_in {
            assert_eq!((answer.status, answer.text().as_str()), (200, "TLSv1.3 files.internal CN=edge"));
            for _ in 0..3 {
                assert!(client.get("/file", &[]).await.body == content);
            }
        } else {
            // nginx lets anybody shake hands, and then says what it wants.
            assert_eq!((answer.status, answer.text().contains("No required SSL certificate was sent")), (400, true));
        }
    }
}
