//! In front of S3 servers, asked by boto3: signatures, odd keys, payload framings, multipart, and buckets that have owners.
//!
//! moto believes any signature, so those are held against a store that computes them itself (`verifying_s3.py`).

use std::net::SocketAddr;

use serde_json::{Value, json};
use waypost_tests::{Etcd, Python, Waypost};

use crate::stage::Front;

fn url(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Tells a story of `s3_client.py` through a proxy, in front of a store that verifies signatures.
async fn verified(story: &str) {
    let store = Python::serve("verifying_s3.py").await;
    let front = Front::of(store.address).await;
    let [proxied, direct] = front.urls();
    Python::run("s3_client.py", &[story, &proxied, &direct]).await.succeeded();
}

/// The same in front of moto.
async fn told(story: &str) {
    let store = Python::s3().await;
    let front = Front::of(store.address).await;
    let [proxied, direct] = front.urls();
    Python::run("s3_client.py", &[story, &proxied, &direct]).await.succeeded();
}

#[tokio::test]
async fn signatures_stay_valid() {
    verified("verified_signatures").await;
}

#[tokio::test]
async fn an_altered_byte_would_be_noticed() {
    verified("verified_alterations_are_noticed").await;
}

#[tokio::test]
async fn odd_keys_stay_what_they_are() {
    verified("verified_odd_keys").await;
}

#[tokio::test]
async fn expect_reaches_the_store() {
    verified("verified_expect").await;
}

#[tokio::test]
async fn a_checksum_behind_a_chunked_payload_arrives() {
    verified("verified_trailing_checksum").await;
}

#[tokio::test]
async fn a_payload_with_its_own_framing_arrives() {
    verified("verified_framed_payload").await;
}

#[tokio::test]
async fn presigned_links_work() {
    verified("verified_presigned").await;
}

#[tokio::test]
async fn objects_live_their_whole_life_through_the_proxy() {
    told("objects").await;
}

#[tokio::test]
async fn large_objects_go_up_and_down_in_parts() {
    told("multipart").await;
}

/// Two stores as the owners of buckets; `first` has all of these but `beta` and `delta.dots`.
async fn owned(key: Value) -> (Etcd, Waypost, Python, Python) {
    let (etcd, first, second) = (Etcd::start().await, Python::s3().await, Python::s3().await);
    let upstream = |store: &Python| json!({ "endpoints": [{ "address": store.address.to_string() }] });
    let service = json!({ "match": [{}], "key": key, "dot_segments": true });
    let route = |owner: &str| json!({ "owner": owner, "epoch": 1 });
    etcd.put_all(&[
        ("services/objects", service),
        ("upstreams/first", upstream(&first)),
        ("upstreams/second", upstream(&second)),
        ("routes/objects/alpha", route("first")),
        ("routes/objects/beta", route("second")),
        ("routes/objects/gamma", route("first")),
        ("routes/objects/delta.dots", route("second")),
    ])
    .await;
    let waypost = Waypost::start(&etcd.url(), &[]).await;
    (etcd, waypost, first, second)
}

#[tokio::test]
async fn a_bucket_in_the_path_leads_to_its_owner_and_can_move() {
    let (etcd, waypost, first, second) = owned(json!({ "path": "/{key}/*rest" })).await;
    let proxied = url(waypost.listen);
    Python::run("s3_client.py", &["owners_by_path", &proxied, &url(first.address), &url(second.address)]).await.succeeded();
    // The other store takes `alpha` over, without its objects, and gives it back.
    let revision = etcd.put("routes/objects/alpha", json!({ "owner": "second", "epoch": 2 })).await;
    waypost.at(revision).await;
    let refused = Python::run("s3_client.py", &["holds_what", &proxied, "alpha", "a/of b", "alpha"]).await;
    assert!(refused.stderr.contains("NoSuchBucket"), "the new owner has nothing yet: {}", refused.stderr);
    let revision = etcd.put("routes/objects/alpha", json!({ "owner": "first", "epoch": 3 })).await;
    waypost.at(revision).await;
    Python::run("s3_client.py", &["holds_what", &proxied, "alpha", "a/of b", "alpha"]).await.succeeded();
}

#[tokio::test]
async fn a_bucket_in_the_host_leads_to_its_owner() {
    let (_etcd, waypost, first, second) = owned(json!({ "host": "{key}.s3.example.test" })).await;
    let stores = [waypost.listen, first.address, second.address].map(url);
    Python::run("s3_client.py", &["owners_by_host", &stores[0], &stores[1], &stores[2]]).await.succeeded();
}
