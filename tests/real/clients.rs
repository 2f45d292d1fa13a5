//! With clients that nobody here wrote: curl, wrk, ab, Python's requests and http.client.

use std::net::SocketAddr;

use waypost_tests::{Backend, Nginx, Python, Ran, Reply, program};

use crate::stage::{Front, bytes};

/// curl with these arguments; it says on stderr why it failed.
async fn curl(args: &[&str], stdin: &[u8]) -> Ran {
    program("curl", &[&["-sS", "--max-time", "30"], args].concat(), stdin).await.succeeded()
}

/// A backend that sends bodies back, behind a proxy.
async fn echo() -> (Backend, Front, String) {
    let backend = Backend::start(|seen| Reply::Say(200, vec![("X-Kept".to_owned(), "as sent".to_owned())], seen.body.clone())).await;
    let front = Front::of(backend.address).await;
    let [url, _] = front.urls();
    (backend, front, url)
}

#[tokio::test]
async fn curl_sends_bodies_of_every_kind() {
    let (backend, _front, url) = echo().await;
    let body = bytes(200_000);
    let plain = curl(&["--data-binary", "@-", &url], &body).await;
    assert!(plain.stdout == body && backend.last().header("content-length") == "200000");
    let chunked = curl(&["-T", "-", &format!("{url}/chunked")], &body).await;
    assert!(chunked.stdout == body && backend.last().header("transfer-encoding") == "chunked");
    assert_eq!((backend.last().method.as_str(), backend.last().header("content-length")), ("PUT", ""));
    let form = curl(&["-F", "a=b", "-F", "file=@-", &url], &body).await;
    assert!(form.stdout == backend.last().body && backend.last().header("content-type").starts_with("multipart/form-data"));
    let old = curl(&["--http1.0", "--data-binary", "@-", &url], &body).await;
    assert!(old.stdout == body);
    let empty = curl(&["-X", "POST", "-d", "", &url], b"").await;
    assert!(empty.stdout.is_empty() && backend.last().header("content-length") == "0");
}

#[tokio::test]
async fn curl_s_targets_pass_as_given() {
    let (backend, _front, url) = echo().await;
    for target in ["/a/../b/./c", "/%7Euser/%2e%2e", "//x//", "/?a=[1]&b={2}", "/caf%C3%A9?q=%20+", "/;p=1"] {
        curl(&["--path-as-is", "--globoff", &format!("{url}{target}")], b"").await;
        assert_eq!(backend.last().target, target);
    }
    // As a forward proxy would be asked: the absolute form of the target.
    let asked = ["--noproxy", "", "-x", &url, "http://orders.example.com/x?y"];
    curl(&asked, b"").await;
    assert_eq!((backend.last().target.as_str(), backend.last().header("host")), ("/x?y", "orders.example.com"));
    curl(&["-X", "OPTIONS", "--request-target", "*", &url], b"").await;
    assert_eq!((backend.last().method.as_str(), backend.last().target.as_str()), ("OPTIONS", "*"));
}

#[tokio::test]
async fn curl_keeps_one_connection_for_many_urls() {
    let nginx = Nginx::start("gzip on; gzip_proxied any; gzip_types application/json; location = /empty { return 204; }").await;
    nginx.write("text.json", "{\"some\":\"words\"}".repeat(5_000).as_bytes());
    nginx.write("file", &bytes(100_000));
    let front = Front::of(nginx.address).await;
    let [url, direct] = front.urls();
    let urls: Vec<String> = ["file", "text.json", "empty", "none"].iter().cycle().take(40).map(|name| format!("{url}/{name}")).collect();
    let outputs = urls.iter().flat_map(|_| ["-o", "/dev/null"]);
    let all: Vec<&str> = ["-w", "%{num_connects}"].into_iter().chain(outputs).chain(urls.iter().map(|url| &**url)).collect();
    let connects = curl(&all, b"").await.text();
    assert_eq!(connects, format!("1{}", "0".repeat(39)), "only the first one connects");
    for args in [&["--compressed", "text.json"][..], &["-r", "5-70000", "file"], &["--http1.0", "file"], &["--http2", "file"]] {
        let (name, options) = args.split_last().unwrap();
        let [through, direct] = [&url, &direct].map(|url| format!("{url}/{name}"));
        let through = curl(&[options, &[&*through]].concat(), b"").await;
        assert!(through.stdout == curl(&[options, &[&*direct]].concat(), b"").await.stdout && !through.stdout.is_empty(), "{args:?}");
    }
    let head = curl(&["-I", &format!("{url}/file")], b"").await.text();
    assert!(head.contains("Content-Length: 100000\r\n"), "{head}");
}

#[tokio::test]
async fn curl_waits_for_100_continue() {
    let nginx = Nginx::start("dav_methods PUT; location /small/ { client_max_body_size 1k; }").await;
    let front = Front::of(nginx.address).await;
    let [url, _] = front.urls();
    let sent =
        curl(&["-v", "--expect100-timeout", "20", "-H", "Expect: 100-continue", "-T", "-", &format!("{url}/file")], &bytes(400_000)).await;
    assert!(sent.stderr.contains("< HTTP/1.1 100 Continue") && sent.stderr.contains("< HTTP/1.1 201"), "{}", sent.stderr);
    assert!(std::fs::read(nginx.files().join("file")).unwrap() == bytes(400_000));
    let body = format!("@{}", nginx.files().join("file").display());
    let refused = ["-o", "/dev/null", "-w", "%{http_code} %{size_upload}", "--expect100-timeout", "20", "-H", "Expect: 100-continue"];
    let refused = curl(&[&refused[..], &["-X", "PUT", "--data-binary", &body, &format!("{url}/small/file")]].concat(), b"").await;
    assert_eq!(refused.text(), "413 0", "refused before a byte of the body was sent");
}

#[tokio::test]
async fn many_at_once_get_what_they_asked_for() {
    let nginx = Nginx::start("").await;
    for number in 0..50 {
        nginx.write(format!("f{number}"), format!("<{number}>").repeat(number * 100).as_bytes());
    }
    let front = Front::of(nginx.address).await;
    let [url, _] = front.urls();
    let folder = tempfile::tempdir().unwrap();
    let into = folder.path().join("f#1").display().to_string();
    curl(&["-Z", "--parallel-max", "25", "-o", &into, &format!("{url}/f[0-49]")], b"").await;
    for number in 0..50 {
        let got = std::fs::read_to_string(folder.path().join(format!("f{number}"))).unwrap_or_default();
        assert!(got == format!("<{number}>").repeat(number * 100), "f{number}: {} bytes", got.len());
    }
}

/// A short run of wrk that meets no failure; it waits for slow answers.
async fn wrk(args: &[&str]) {
    let said = program("wrk", &[&["-t2", "-d2s", "--timeout", "40s"], args].concat(), b"").await.succeeded().text();
    assert!(said.contains("requests in") && !said.contains("Socket errors") && !said.contains("Non-2xx"), "{said}");
}

#[tokio::test]
async fn wrk_may_pipeline() {
    let nginx = Nginx::start("location = /ok { return 200 ok; }").await;
    let front = Front::of(nginx.address).await;
    let script = tempfile::NamedTempFile::new().unwrap();
    let sixteen = "init = function() local all = {} for n = 1, 16 do all[n] = wrk.format('GET', '/ok') end sent = table.concat(all) end
        request = function() return sent end";
    std::fs::write(&script, sixteen).unwrap();
    wrk(&["-c20", "-s", script.path().to_str().unwrap(), &front.urls()[0]]).await;
}

#[tokio::test]
async fn wrk_and_ab_count_no_failure() {
    let nginx = Nginx::start("location = /ok { return 200 ok; }").await;
    nginx.write("file", &bytes(50_000));
    let front = Front::of(nginx.address).await;
    let [url, _] = front.urls();
    for path in ["/ok", "/file"] {
        let url = format!("{url}{path}");
        wrk(&["-c50", &url]).await;
        for keep in [&["-k"][..], &[]] {
            let asked = [keep, &["-q", "-n", "1000", "-c", "20", &url]].concat();
            let ab = program("ab", &asked, b"").await.succeeded().text();
            let line = |name: &str| ab.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0").trim().to_owned();
            assert_eq!((line("Complete requests:"), line("Failed requests:")), ("1000".to_owned(), "0".to_owned()), "{ab}");
            assert!(!ab.contains("Non-2xx"), "{ab}");
            // ab speaks HTTP/1.0, with which a connection is kept only if both sides say so.
            let kept: u64 = line("Keep-Alive requests:").parse().unwrap();
            assert!(keep.is_empty() || kept == 1000, "{ab}");
        }
    }
}

/// Tells a story of `http_clients.py` to the application itself, so that it is known to be told right, and through the proxy.
async fn told(story: &str) {
    let python = Python::serve("asgi_app.py").await;
    let front = Front::of(python.address).await;
    let addresses: [SocketAddr; 2] = [python.address, front.waypost.listen];
    for address in addresses {
        Python::run("http_clients.py", &[story, &address.to_string()]).await.succeeded();
    }
}

#[tokio::test]
async fn requests_keeps_its_connection() {
    told("sessions").await;
}

#[tokio::test]
async fn requests_uploads_generators_files_and_forms() {
    told("uploads").await;
}

#[tokio::test]
async fn requests_follows_redirects_with_its_cookies() {
    told("redirects_and_cookies").await;
}

#[tokio::test]
async fn requests_reads_streams_line_by_line() {
    told("streams").await;
}

#[tokio::test]
async fn http_client_may_ask_in_odd_ways() {
    told("odd_requests").await;
}

#[tokio::test]
async fn an_http_1_0_client_gets_no_chunks() {
    told("of_no_known_length_for_http_1_0").await;
}

#[tokio::test]
async fn an_http_1_0_client_needs_no_host() {
    told("without_host_in_http_1_0").await;
}
