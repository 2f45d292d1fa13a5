//! The store behind TLS: who is believed, who is let in, and what is said where not.

use waypost_tests::{Certificates, Etcd, Signed, Steady, Waypost};

use super::{Cells, is_refused, moved};

fn flags<'a>(certificates: &'a Certificates, own: Option<&'a Signed>) -> Vec<&'a str> {
    let mut flags = vec!["--gold-ca", certificates.ca.to_str().unwrap()];
    flags.extend(own.map(Signed::flags).into_iter().flatten());
    flags
}

#[tokio::test]
async fn a_store_behind_tls_is_followed_and_left_and_found_again() {
    let certificates = Certificates::new();
    let mut etcd = Etcd::with_tls(&certificates, true, &[]).await;
    let _cells = Cells::of(&etcd).await;
    let own = certificates.sign("edge-1");
    let flags = flags(&certificates, Some(&own));
    let waypost = Waypost::start(&etcd.url(), &flags).await;
    let steady = Steady::start(&waypost, &[("t1", "a")]);
    moved(&etcd, &waypost, &steady, "b", 2).await;
    etcd.kill();
    waypost.until_connected(false).await;
    // Certificates that were renewed meanwhile are those that count.
    let renewed = certificates.sign("edge-1");
    std::fs::rename(&renewed.cert, &own.cert).unwrap();
    std::fs::rename(&renewed.key, &own.key).unwrap();
    etcd.restart().await;
    moved(&etcd, &waypost, &steady, "a", 3).await;
    waypost.equals(&[&["--gold", &etcd.url()][..], &flags].concat()).await;
    steady.stop().await;
}

#[tokio::test]
async fn whoever_is_not_believed_or_let_in_is_told_what_would_be_right() {
    let (certificates, others) = (Certificates::new(), Certificates::new());
    let etcd = Etcd::with_tls(&certificates, true, &[]).await;
    let plain = Etcd::start().await;
    let url = etcd.url();
    let own = certificates.sign("edge-1");
    let foreign = others.sign("edge-1");
    let expired = certificates.sign_expired("edge-1");
    let tests = [
        (url.clone(), flags(&others, Some(&own)), "those of --gold-ca have not signed"),
        (url.clone(), flags(&certificates, None), "--gold-cert and --gold-key"),
        (url.clone(), flags(&certificates, Some(&foreign)), "does not accept the certificate of --gold-cert"),
        (url.clone(), flags(&certificates, Some(&expired)), "does not accept the certificate of --gold-cert"),
        (url.replace("https", "http"), Vec::new(), "https:// would be right"),
        (plain.url().replace("http", "https"), flags(&certificates, None), "http:// would be right"),
    ];
    for (url, flags, says) in tests {
        is_refused(&url, &flags, &[&url, says]).await;
        let (status, _, told) = Waypost::run(&[&["check", "--gold", &url][..], &flags].concat()).await;
        assert!(status == 1 && told.contains(says) && told.contains(&url), "{status} {told}");
    }
}

#[tokio::test]
async fn a_server_s_certificate_for_another_host_or_past_its_time_is_not_accepted() {
    let certificates = Certificates::new();
    for (server, says) in
        [(certificates.sign_for("etcd", &["etcd.example.com"]), "for another host"), (certificates.sign_expired("etcd"), "has expired")]
    {
        let etcd = Etcd::with_certificate(&certificates, &server).await;
        is_refused(&etcd.url(), &flags(&certificates, None), &[&etcd.url(), says]).await;
    }
}
