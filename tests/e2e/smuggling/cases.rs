//! Requests that say two things, made from tables: how a field's name and value may be spelt, how chunks may be ended, and where a second
//! request may hide behind each. What is in the tables is known to have parted real servers.

/// A request that hides, with the number of its case, so that whoever sees it as one is found out.
pub(crate) fn smuggled(number: usize) -> String {
    format!("GET /smuggled-{number} HTTP/1.1\r\nHost: h\r\n\r\n")
}

/// Spellings of a name that somebody takes for the name itself; `{}` stands for it. What stands before a line's end is a line of its own.
pub(crate) const NAMES: [&[u8]; 31] = [
    b"{}",
    b"{} ",
    b"{}\t",
    b"{}\x0b",
    b"{}\x0c",
    b"{}\x00",
    b"{}\x01",
    b"{}\x7f",
    b"{}\xa0",
    b"{}\x85",
    b" {}",
    b"\t{}",
    b"\x0b{}",
    b"\x00{}",
    b"\xa0{}",
    b"\xef\xbb\xbf{}",
    b"\"{}\"",
    b"({})",
    b"X-{}",
    b"{};",
    b"{},",
    b"{}\r\n ",
    b"{}\r",
    b"X: y\n{}",
    b"X: y\r{}",
    b"X: y\r\r\n{}",
    b"X: y\n\r{}",
    b"X:\r\n {}",
    b"X\n{}",
    b"X: y\x00\r\n{}",
    b":{}",
];

/// What may stand between a name and a value.
pub(crate) const COLONS: [&[u8]; 17] = [
    b":", b" :", b"\t:", b":\t", b":  \t ", b":\x0b", b":\x0c", b":\x00", b":\r", b":\n", b":\r\n ", b":\r\n\t", b":\n ", b"::", b"", b"=",
    b":\xa0",
];

/// Codings that somebody takes for `chunked`.
pub(crate) const CODINGS: [&[u8]; 58] = [
    b"chunked",
    b"Chunked",
    b"CHUNKED",
    b"chunked ",
    b"chunked\t",
    b"chunked\x0b",
    b"chunked\x0c",
    b"chunked\x00",
    b"chunked\x01",
    b"chunked\x7f",
    b"chunked\xa0",
    b"chunked\r",
    b"chunked\n",
    b"\x0bchunked",
    b"\x0cchunked",
    b"\x00chunked",
    b"\xa0chunked",
    b"\x85chunked",
    b"\"chunked\"",
    b"'chunked'",
    b"(chunked)",
    b"chunked (x)",
    b"chunked;",
    b"chunked; q=1",
    b"chunked,",
    b",chunked",
    b", ,chunked",
    b"chunked, identity",
    b"identity, chunked",
    b"chunked, chunked",
    b"gzip, chunked",
    b"chunked, gzip",
    b"x, chunked",
    b"x chunked",
    b"chunked x",
    b"xchunked",
    b"chunkedx",
    b"chunke",
    b"chunKed\x00x",
    b"ch\xc3\xbcnked",
    b"chun\x00ked",
    b"chun\tked",
    b"chun\xe2\x84\xaaed",
    b"%63hunked",
    b"=?utf-8?q?chunked?=",
    b"identity",
    b"",
    b"*",
    b"chunked\r\nTransfer-Encoding: identity",
    b"identity\r\nTransfer-Encoding: chunked",
    b"chunked\r\nTransfer-Encoding: chunked",
    b"chunked\r\nTransfer-Encoding:",
    b"chunked\r\n x",
    b"x\r\n chunked",
    b"\r\n chunked",
    b"\n chunked",
    b"identity\nTransfer-Encoding: chunked",
    b"identity\rTransfer-Encoding: chunked",
];

/// Lengths that somebody takes for `{}`.
pub(crate) const LENGTHS: [&[u8]; 46] = [
    b"{}",
    b"0{}",
    b"00000000000000000000000{}",
    b"+{}",
    b"-{}",
    b"- {}",
    b"0x{}",
    b"{} ",
    b"{}\t",
    b"{}\x0b",
    b"{}\x00",
    b"\x0b{}",
    b"\x00{}",
    b"\xa0{}",
    b"{}\xa0",
    b"{}.0",
    b"{}e0",
    b"{};",
    b"{}; x",
    b"\"{}\"",
    b"'{}'",
    b"{} 0",
    b"0 {}",
    b"{},{}",
    b"{}, {}",
    b"{},0",
    b"0, {}",
    b"{},",
    b",{}",
    b"{}_0",
    b"{}\r\nContent-Length: {}",
    b"{}\r\nContent-Length: 0",
    b"0\r\nContent-Length: {}",
    b"{}\r\nContent-Length:",
    b"{}\r\ncontent-length: 0",
    b"{}\r\n 0",
    b"0\r\n {}",
    b"\r\n {}",
    b"\n{}",
    b"{}\nX: y",
    b"{}\rX: y",
    b"0\nContent-Length: {}",
    b"18446744073709551616",
    b"4294967296",
    b"\xd9\xa3",
    b"",
];

/// Chunked bodies of `hello` or less, and what may stand there instead; a request follows each.
const CHUNKS: [&[u8]; 84] = [
    b"5\r\nhello\r\n0\r\n\r\n",
    b"05\r\nhello\r\n000\r\n\r\n",
    b"5;a\r\nhello\r\n0;b\r\n\r\n",
    b"5;a=\"b\"\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\r\n0\r\n\r\n",
    b"5\rhello\r\n0\r\n\r\n",
    b"5\r\rhello\r\n0\r\n\r\n",
    b"5\r\r\nhello\r\n0\r\n\r\n",
    b"5\n\r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"5;\nhello\r\n0\r\n\r\n",
    b"5;a\nhello\r\n0\r\n\r\n",
    b"5;a\rhello\r\n0\r\n\r\n",
    b"5;a\n0\r\n\r\n",
    b"2;\nxx\r\n0\r\n\r\n",
    b"2;\n\r\n0\r\n\r\n",
    b"5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n",
    b"5;a=\"\n\"\r\nhello\r\n0\r\n\r\n",
    b"5;a\x00b\r\nhello\r\n0\r\n\r\n",
    b"5;a\x7f\r\nhello\r\n0\r\n\r\n",
    b"5 ;a\r\nhello\r\n0\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\t\r\nhello\r\n0\r\n\r\n",
    b" 5\r\nhello\r\n0\r\n\r\n",
    b"\t5\r\nhello\r\n0\r\n\r\n",
    b"\r\n5\r\nhello\r\n0\r\n\r\n",
    b"\n5\r\nhello\r\n0\r\n\r\n",
    b"+5\r\nhello\r\n0\r\n\r\n",
    b"-5\r\nhello\r\n0\r\n\r\n",
    b"0x5\r\nhello\r\n0\r\n\r\n",
    b"0X5\r\nhello\r\n0\r\n\r\n",
    b"x5\r\nhello\r\n0\r\n\r\n",
    b"5h\r\nhello\r\n0\r\n\r\n",
    b"5_0\r\nhello\r\n0\r\n\r\n",
    b"5,5\r\nhello\r\n0\r\n\r\n",
    b"5.0\r\nhello\r\n0\r\n\r\n",
    b"\"5\"\r\nhello\r\n0\r\n\r\n",
    b"5\x00\r\nhello\r\n0\r\n\r\n",
    b"5\x0b\r\nhello\r\n0\r\n\r\n",
    b"5\xa0\r\nhello\r\n0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n",
    b";a\r\n\r\n",
    b"g\r\n\r\n",
    b"10000000000000005\r\nhello\r\n0\r\n\r\n",
    b"100000005\r\nhello\r\n0\r\n\r\n",
    b"fffffffffffffffb\r\nhello\r\n0\r\n\r\n",
    b"ffffffffffffffffff5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello0\r\n\r\n",
    b"5\r\nhello\n0\r\n\r\n",
    b"5\r\nhello\r0\r\n\r\n",
    b"5\r\nhello\n\n0\r\n\r\n",
    b"5\r\nhello\r\r\n0\r\n\r\n",
    b"5\r\nhello\n\r\n0\r\n\r\n",
    b"5\r\nhello\r\n\r\n0\r\n\r\n",
    b"5\r\nhelloxx0\r\n\r\n",
    b"5\r\nhello  0\r\n\r\n",
    b"5\r\nhello \r\n0\r\n\r\n",
    b"5\r\nhello!\r\n0\r\n\r\n",
    b"4\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\n\n",
    b"5\r\nhello\r\n0\r\n\n",
    b"5\r\nhello\r\n0\n\r\n",
    b"5\r\nhello\r\n0\r\r",
    b"5\r\nhello\r\n0\r\n\r",
    b"5\r\nhello\r\n0\r\n",
    b"5\r\nhello\r\n0;\n\r\n",
    b"5\r\nhello\r\n0 \r\n\r\n",
    b"5\r\nhello\r\n-0\r\n\r\n",
    b"5\r\nhello\r\n0x0\r\n\r\n",
    b"5\r\nhello\r\n0\x00\r\n\r\n",
    b"5\r\nhello\r\n0\r\n\x00\r\n",
    b"5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: y\n\n",
    b"5\r\nhello\r\n0\r\nX: y\n\r\n",
    b"5\r\nhello\r\n0\r\nX\r\n\r\n",
    b"5\r\nhello\r\n0\r\n X: y\r\n\r\n",
    b"5\r\nhello\r\n0\r\n: y\r\n\r\n",
    b"5\r\nhello\r\n0\r\nContent-Length: 40\r\n\r\n",
    b"5\r\nhello\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"5\r\nhello\r\n0\r\nHost: other\r\n\r\n",
    b"5\r\nhello\r\n0\r\nRoute-Stamp: epoch=9\r\n\r\n",
    b"0\r\n\r\n",
    b"0\r\nX: GET / HTTP/1.1\r\n",
    b"",
];

/// Lines that may stand in a head; a request hides in some, or behind what somebody takes for the head's end.
pub(crate) const LINES: [&str; 35] = [
    "X: y\n\n{}",
    "X: y\r\n\n{}",
    "X: y\n\r\n{}",
    "X: y\r\r{}",
    "X: y\r\n\r{}",
    "X: y\r\n \r\n{}",
    "X: y\r\n\t\r\n{}",
    "X: y\r\n\0\r\n{}",
    "X: y\0\r\n\r\n\0{}",
    "X: y\n {}",
    "X:\r\n\n{}",
    "\n{}",
    "Host: h\nX: y",
    "Host: other",
    "Host : other",
    " Host: other",
    "\tHost: other",
    "X:\r\n Host: other",
    "Expect: 100-continue\r\nContent-Length: {len}\r\n\r\n{}",
    "Expect:\r\n 100-continue\r\nContent-Length: {len}\r\n\r\n{}",
    "Expect: x 100-continue\r\nContent-Length: {len}\r\n\r\n{}",
    "Expect: 100-continue, x\r\nContent-Length: {len}\r\n\r\n{}",
    "Expect : 100-continue\r\nContent-Length: {len}\r\n\r\n{}",
    "Expect: 100-continue\r\nTransfer-Encoding: chunked\r\nContent-Length: {len}\r\n\r\n{}",
    "Connection: Content-Length\r\nContent-Length: {len}\r\n\r\n{}",
    "Connection: close, content-length\r\nContent-Length: {len}\r\n\r\n{}",
    "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{}",
    "Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAAA\r\nContent-Length: {len}\r\n\r\n{}",
    "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: {len}\r\n\r\n{}",
    "Content-Length: {len}\r\nContent-Length : 0\r\n\r\n{}",
    "Content-Length: {len}\r\nContent_Length: 0\r\n\r\n{}",
    "Content-Length: {len}\r\n\r\n{}",
    "Content-Length: 0\r\n\r\n",
    "Content-Encoding: chunked\r\nContent-Length: {len}\r\n\r\n{}",
    "TE: trailers, chunked\r\nTrailer: Content-Length\r\nContent-Length: {len}\r\n\r\n{}",
];

/// First lines; `{}` is the target.
const FIRST_LINES: [&str; 24] = [
    "POST {} HTTP/1.1 ",
    "POST  {} HTTP/1.1",
    "POST\t{}\tHTTP/1.1",
    "POST {}  HTTP/1.1",
    " POST {} HTTP/1.1",
    "POST {} HTTP/1.1\0",
    "POST {}\0 HTTP/1.1",
    "POST {} x HTTP/1.1",
    "POST {} HTTP/1.1\r",
    "POST {} HTTP/1.10",
    "POST {} HTTP/1.2",
    "POST {} HTTP/01.1",
    "POST {} http/1.1",
    "POST {} HTTP/1.1\nX: y",
    "POST {}",
    "POST {} ",
    "POST {} HTTP/0.9",
    "POST {} HTTP/2.0",
    "POST {} HTTP/1.0",
    "P\u{b}OST {} HTTP/1.1",
    "\0POST {} HTTP/1.1",
    "\u{feff}POST {} HTTP/1.1",
    "\nPOST {} HTTP/1.1",
    "GET /x HTTP/1.1\r\nPOST {} HTTP/1.1",
];

/// The template with each `{}` filled in.
pub(crate) fn put(template: &[u8], value: &[u8]) -> Vec<u8> {
    let mut made = Vec::new();
    let mut rest = template;
    while let Some(at) = rest.windows(2).position(|two| two == b"{}") {
        made.extend_from_slice(&rest[..at]);
        made.extend_from_slice(value);
        rest = &rest[at + 2..];
    }
    made.extend_from_slice(rest);
    made
}

/// Every `Transfer-Encoding` line of the tables: each odd name, colon and value once, the other two as they should be.
pub(crate) fn coding_lines() -> Vec<Vec<u8>> {
    let names = NAMES.iter().map(|name| [&put(name, b"Transfer-Encoding")[..], b": chunked"].concat());
    let colons = COLONS.iter().map(|colon| [b"Transfer-Encoding", *colon, b"chunked"].concat());
    let codings = CODINGS.iter().map(|coding| [b"Transfer-Encoding: ", *coding].concat());
    let others =
        [&b"Transfer_Encoding: chunked"[..], b"TRANSFER-ENCODING: CHUNKED", b"Transfer-Encoding-: chunked", b"Transfer Encoding: chunked"];
    names.chain(colons).chain(codings).chain(others.iter().map(|line| line.to_vec())).collect()
}

fn length_lines(length: usize) -> Vec<Vec<u8>> {
    let length = length.to_string();
    let value = |template: &[u8]| put(template, length.as_bytes());
    let names = NAMES.iter().map(|name| [&put(name, b"Content-Length")[..], b": ", length.as_bytes()].concat());
    let colons = COLONS.iter().map(|colon| [b"Content-Length", *colon, length.as_bytes()].concat());
    let values = LENGTHS.iter().map(|template| [&b"Content-Length: "[..], &value(template)].concat());
    names.chain(colons).chain(values).collect()
}

/// Every case: what a client sends. Its targets carry the number that is its place in the list.
pub(crate) fn all() -> Vec<Vec<u8>> {
    let mut made: Vec<Vec<u8>> = Vec::new();
    let mut add = |case: &dyn Fn(usize) -> Vec<u8>| made.push(case(made.len()));
    let head = |number: usize, lines: &[&[u8]]| -> Vec<u8> {
        let mut head = format!("POST /case-{number} HTTP/1.1\r\nHost: h\r\n").into_bytes();
        for line in lines {
            head.extend_from_slice(line);
            head.extend_from_slice(b"\r\n");
        }
        head.extend_from_slice(b"\r\n");
        head
    };
    for line in coding_lines() {
        // By its length the body has the second request in it, by its coding it ends before.
        add(&|number| {
            let body = format!("0\r\n\r\n{}", smuggled(number));
            let length = format!("Content-Length: {}", body.len());
            [head(number, &[length.as_bytes(), &line]), body.into_bytes()].concat()
        });
        // The other way round, and in the other order.
        add(&|number| {
            let hidden = smuggled(number);
            let size = format!("{:x}\r\n", hidden.len());
            let length = format!("Content-Length: {}", size.len());
            [head(number, &[&line, length.as_bytes()]), format!("{size}{hidden}\r\n0\r\n\r\n").into_bytes()].concat()
        });
        // Without a length: to whom it is no coding, the body is a request.
        add(&|number| {
            let hidden = smuggled(number);
            [head(number, &[&line]), format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len()).into_bytes()].concat()
        });
    }
    // Two digits for as long as numbers have no more than four.
    for at in 0..length_lines(10).len() {
        add(&|number| {
            let hidden = smuggled(number);
            [head(number, &[&length_lines(hidden.len())[at]]), hidden.into_bytes()].concat()
        });
        add(&|number| {
            let hidden = smuggled(number);
            [head(number, &[b"Content-Length: 0", &length_lines(hidden.len())[at]]), hidden.into_bytes()].concat()
        });
    }
    for body in CHUNKS {
        add(&|number| [head(number, &[b"Transfer-Encoding: chunked"]), body.to_vec(), smuggled(number).into_bytes()].concat());
        // In a chunk of its own, behind one that somebody takes for the last.
        add(&|number| {
            let hidden = smuggled(number);
            let wrapped = format!("{:x}\r\n{hidden}\r\n0\r\n\r\n", hidden.len());
            let body = body.strip_suffix(b"0\r\n\r\n").unwrap_or(body);
            [head(number, &[b"Transfer-Encoding: chunked"]), body.to_vec(), wrapped.into_bytes()].concat()
        });
    }
    for line in LINES {
        add(&|number| {
            let hidden = smuggled(number);
            let line = line.replace("{len}", &hidden.len().to_string()).replace("{}", &hidden);
            let end = if line.contains("\r\n\r\n") { "" } else { "\r\n\r\n" };
            format!("POST /case-{number} HTTP/1.1\r\nHost: h\r\n{line}{end}").into_bytes()
        });
    }
    for line in FIRST_LINES {
        add(&|number| {
            let (line, hidden) = (line.replace("{}", &format!("/case-{number}")), smuggled(number));
            format!("{line}\r\nHost: h\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len()).into_bytes()
        });
    }
    made
}
