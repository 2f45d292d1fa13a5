//! A backend that nobody's library helped: written in Python from docs/backends.md alone, with nothing but the standard library.

use serde_json::json;
use waypost_tests::{Etcd, Python, Waypost, free_address, until};

/// The command that starts it, as `waypost conform` wants it.
fn command(listen: &str) -> Vec<String> {
    let [python, script] = Python::command("backend.py");
    [&*python, &script, "{gold}", "{prefix}", "{upstream}", listen].map(str::to_owned).into()
}

#[tokio::test]
async fn a_backend_in_python_passes_whole() {
    let listen = free_address().to_string();
    let to = format!("http://{listen}");
    let command = command(&listen);
    let args: Vec<&str> = ["conform", "--to", &to, "--"].into_iter().chain(command.iter().map(String::as_str)).collect();
    let (status, out, said) = Waypost::run(&args).await;
    assert!(status == 0 && out.contains(" passed, 0 failed, 0 not played"), "{out}{said}");
}

/// Two of them behind a proxy; a key is handed over and back, and what was written stays with whoever owned it.
#[tokio::test]
async fn keys_are_handed_over_between_two_of_them() {
    let etcd = Etcd::start().await;
    let addresses = [free_address(), free_address()];
    let upstream = |at: usize| json!({ "endpoints": [{ "address": addresses[at].to_string() }], "stale_aware": true });
    etcd.put_all(&[
        ("services/orders", json!({ "match": [{}], "key": { "header": "x-tenant" } })),
        ("upstreams/a", upstream(0)),
        ("upstreams/b", upstream(1)),
        ("routes/orders/t1", json!({ "owner": "a", "epoch": 5 })),
    ])
    .await;
    let gold = etcd.url();
    let mut backends = Vec::new();
    for (name, address) in ["a", "b"].into_iter().zip(addresses) {
        backends.push(Python::serve_at(address, "backend.py", &[&gold, "/waypost/v1", name, &address.to_string()]).await);
    }
    let waypost = Waypost::start(&gold, &[]).await;
    let mut client = waypost.client().await;
    for (written, to) in [("one", "b"), ("two", "a"), ("three", "b")] {
        let answer = client.request("PUT", "/note", &[("x-tenant", "t1")], written.as_bytes()).await;
        assert_eq!((answer.status, answer.reason()), (200, ""), "{written}");
        assert_eq!(client.get("/note", &[("x-tenant", "t1")]).await.text(), written);
        let (status, out, said) = Waypost::run(&["route", "move", "orders", "t1", "--to", to, "--gold", &gold]).await;
        assert_eq!(status, 0, "{out}{said}");
        until("the proxy knows", async || {
            let owner = waypost.json("/routes/orders/t1").await["owner"].clone();
            if owner == to { Ok(()) } else { Err(owner.to_string()) }
        })
        .await;
    }
    assert_eq!(client.get("/note", &[("x-tenant", "t1")]).await.text(), "two", "b has what was written before the second move");
}
