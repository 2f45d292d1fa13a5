//! Heads and chunks that pass and that do not.

use super::*;

fn check(head: &str) -> Result<Framing, Code> {
    check_head(head.as_bytes()).map(|head| head.framing)
}

#[test]
fn plain_heads_pass() {
    assert_eq!(check("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(Framing::Length(0)));
    assert_eq!(check("POST /a?b HTTP/1.1\r\nhost:a:80\r\nContent-Length: 12\r\n\r\n"), Ok(Framing::Length(12)));
    assert_eq!(check("PUT / HTTP/1.1\r\nHost: [::1]:8\r\nTransfer-Encoding: Chunked\r\n\r\n"), Ok(Framing::Chunked));
    assert_eq!(check("GET / HTTP/1.0\r\n\r\n"), Ok(Framing::Length(0)));
    assert_eq!(check("OPTIONS * HTTP/1.1\r\nHost:\r\nX:\r\n\r\n"), Ok(Framing::Length(0)));
    assert_eq!(check("GET http://a:80/ HTTP/1.1\r\nHost: a:80\r\nConnection: ,close ,, x-a\r\n\r\n"), Ok(Framing::Length(0)));
    for host in ["a:", "[::1]", "[::1]:", "a.b.:80", "%41"] {
        assert_eq!(check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Ok(Framing::Length(0)), "{host}");
    }
}

#[test]
fn whatever_two_parsers_could_read_differently_is_refused() {
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
        "GET /\tx HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
        "GET /\r\nHost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
        "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\n X: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nXb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: :80\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: []\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [a]:1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a%4z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent_Length: 5\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer_encoding: chunked\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET hptt://[/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET http://A/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Host\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: \"close\"\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: a,b,c,d,e\r\nConnection: f,g,h,i\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: \r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        assert_eq!(check(head), Err(Code::BadRequest), "{head:?}");
    }
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(MAX_FIELDS));
    assert_eq!(check(&many), Err(Code::HeaderTooLarge));
}

#[test]
fn chunked_framing_ends_where_the_body_ends() {
    let body = b"5;x=\"y\"\r\nhello\r\nA\r\n0123456789\r\n0\r\n\r\nGET / HTTP/1.1";
    let end = body.len() - b"GET / HTTP/1.1".len();
    for cut in 0..=body.len() {
        let mut chunks = Chunks::START;
        let first = chunks.take(&body[..cut]).unwrap();
        let second = chunks.take(&body[first..]).unwrap();
        assert_eq!((first + second, chunks), (end, Chunks::Done), "cut at {cut}");
    }
}

#[test]
fn broken_chunks_and_trailers_are_refused() {
    for body in [
        "\r\n",
        "g\r\n",
        "5\nhello",
        "5\r\nhelloX",
        "5 \r\n",
        "-1\r\n",
        "0x5\r\n",
        "1111111111111111\r\n",
        "0\r\nTrailer: x\r\n\r\n",
        "1;a\0\r\n",
    ] {
        assert_eq!(Chunks::START.clone().take(body.as_bytes()), Err(Code::BadRequest), "{body:?}");
    }
}

#[test]
fn the_end_of_a_head_is_found_across_reads() {
    let head = b"GET / HTTP/1.1\r\n\r\nrest";
    for from in 0..18 {
        assert_eq!(end_of_head(head, from), Some(18));
    }
    assert_eq!(end_of_head(&head[..17], 0), None);
}

#[test]
fn the_data_of_chunks_is_told_however_they_are_cut() {
    let body = b"3\r\nabc\r\n1;x=y\r\nd\r\n0002\r\nef\r\n0\r\n\r\nnext";
    for step in 1..body.len() {
        let (mut chunks, mut data, mut taken) = (Chunks::START, Vec::new(), 0);
        for bytes in body.chunks(step) {
            let mut at = 0;
            while at < bytes.len() && chunks != Chunks::Done {
                let part = chunks.part(&bytes[at..]).unwrap();
                data.extend_from_slice(&bytes[at..][part.data]);
                at += part.taken;
            }
            taken += at;
        }
        assert_eq!((&*data, taken), (&b"abcdef"[..], body.len() - 4), "in parts of {step}");
    }
}
