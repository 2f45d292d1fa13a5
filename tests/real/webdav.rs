//! In front of nginx's WebDAV: PUT, MKCOL, COPY, MOVE, DELETE, and what `Expect: 100-continue` leads to.

use waypost_tests::{Answer, Client, Nginx};

use crate::stage::{Front, bytes};

const DAV: &str = "dav_methods PUT DELETE MKCOL COPY MOVE; create_full_put_path off;
    location /small/ { client_max_body_size 1k; }
    location /locked/ { limit_except GET { deny all; } }";

#[tokio::test]
async fn a_collection_lives_its_whole_life_through_the_proxy() {
    let nginx = Nginx::start(DAV).await;
    let front = Front::of(nginx.address).await;
    // The same story told twice: to the server itself, and through the proxy.
    for (name, to) in [("direct", nginx.address), ("proxied", front.waypost.listen)] {
        let mut client = Client::connect(to).await;
        let path = |rest: &str| format!("/{name}/{rest}");
        let status = |answer: Answer| answer.status;
        assert_eq!(status(client.request("MKCOL", &path(""), &[], b"").await), 201, "{name}");
        for (size, wanted) in [(0, 201), (5, 204), (70_000, 204), (3_000_000, 204)] {
            let answer =
                client.request("PUT", &path("file"), &[if size == 0 { ("Content-Length", "0") } else { ("X-A", "b") }], &bytes(size)).await;
            assert_eq!(status(answer), wanted, "{name}, {size} bytes");
            let answer = client.get(&path("file"), &[]).await;
            assert!(answer.body == bytes(size), "{name}, {size} bytes");
        }
        let to_copy = [("Destination", &*path("copy%20of"))];
        assert_eq!(status(client.request("COPY", &path("file"), &to_copy, b"").await), 204, "{name}");
        let full = format!("http://orders.example.com{}", path("moved"));
        assert_eq!(status(client.request("MOVE", &path("copy%20of"), &[("Destination", &full)], b"").await), 204, "{name}");
        let elsewhere = [("Destination", "http://other.example.com/x")];
        assert_eq!(status(client.request("MOVE", &path("moved"), &elsewhere, b"").await), 400, "{name}");
        // nginx closes behind a 400.
        let mut client = Client::connect(to).await;
        let moved = client.get(&path("moved"), &[]).await;
        assert!(moved.body == bytes(3_000_000) && !moved.header("etag").is_empty(), "{name}");
        let refused = [("Destination", &*path("file")), ("Overwrite", "F")];
        assert_eq!(status(client.request("COPY", &path("moved"), &refused, b"").await), 412, "{name}");
        let folder = format!("/{name}");
        assert_eq!(status(client.request("DELETE", &folder, &[("Depth", "infinity")], b"").await), 409, "{name}");
        assert_eq!(status(client.request("MKCOL", &path("no/such/folder/"), &[], b"").await), 409, "{name}");
        assert_eq!(status(client.request("DELETE", &path("moved"), &[], b"").await), 204, "{name}");
        assert_eq!(status(client.get(&path("moved"), &[]).await), 404, "{name}");
        assert_eq!(status(client.request("DELETE", &path(""), &[("Depth", "infinity")], b"").await), 204, "{name}");
        assert!(!nginx.files().join(name).exists());
    }
}

/// One upload that waits for the server's word.
async fn upload_when_told(client: &mut Client, path: &str) -> u16 {
    let head = format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    client.send(head.as_bytes()).await.unwrap();
    assert_eq!(client.head().await.unwrap_or_else(|why| panic!("{path}: {why}")).status, 100, "{path}");
    client.send(b"hello").await.unwrap();
    client.answer(false).await.unwrap().status
}

#[tokio::test]
async fn the_server_says_when_the_body_may_come() {
    let nginx = Nginx::start(DAV).await;
    let front = Front::of(nginx.address).await;
    for (path, to) in [("/direct", nginx.address), ("/proxied", front.waypost.listen)] {
        for wanted in [201, 204] {
            assert_eq!(upload_when_told(&mut Client::connect(to).await, path).await, wanted, "{path}");
            assert_eq!(Client::fetch(nginx.address, path).await.unwrap().text(), "hello");
        }
    }
}

#[tokio::test]
async fn a_connection_outlives_a_100_continue() {
    let nginx = Nginx::start(DAV).await;
    let front = Front::of(nginx.address).await;
    for to in [nginx.address, front.waypost.listen] {
        let mut client = Client::connect(to).await;
        for round in 0..3 {
            let path = format!("/{round}-{}", to.port());
            assert_eq!(upload_when_told(&mut client, &path).await, 201);
            assert_eq!(client.get(&path, &[]).await.text(), "hello");
        }
    }
}

#[tokio::test]
async fn a_server_that_refuses_says_so_before_the_body() {
    let nginx = Nginx::start(DAV).await;
    let front = Front::of(nginx.address).await;
    for (name, to) in [("direct", nginx.address), ("proxied", front.waypost.listen)] {
        for (path, status) in [("/small/file", 413), ("/locked/file", 403)] {
            let mut client = Client::connect(to).await;
            let head = format!("PUT {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\nExpect: 100-continue\r\n\r\n");
            client.send(head.as_bytes()).await.unwrap();
            let answer = client.head().await.unwrap_or_else(|why| panic!("{name}: {path}: {why}"));
            assert_eq!((answer.status, answer.reason()), (status, ""), "{name}: {path}");
        }
    }
}

#[tokio::test]
async fn a_chunked_upload_is_stored_whole() {
    let nginx = Nginx::start(DAV).await;
    let front = Front::of(nginx.address).await;
    let mut client = front.waypost.client().await;
    client.send(b"PUT /chunked HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let content = bytes(500_000);
    for part in content.chunks(9_999) {
        client.send(&[format!("{:x};ext=1\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()).await.unwrap();
    }
    client.send(b"0\r\n\r\n").await.unwrap();
    assert_eq!(client.answer(false).await.unwrap().status, 201);
    assert!(client.get("/chunked", &[]).await.body == content);
}
