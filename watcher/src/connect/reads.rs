//! Reads over one connection, as whom etcd knows us by a token.
//!
//! A token expires, is forgotten when its member restarts, and, if it is a signed one, is refused as soon as the rights of anybody
//! have changed. What always holds: a read that is refused for its token is repeated once with a new one; the new one is asked for by
//! one reader at a time, and in a task of its own, since a reader may give up sooner than etcd can hash a password.
//!
//! etcd takes no keep-alive of a connection on which nothing is asked, and a check gives up long before one could show that the other
//! end has gone. So after a check that was not answered in time one read waits on ([`Reads::prove`]): if nothing is heard meanwhile, the
//! connection ends, and the next read makes a new one.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use etcd_client::{Client, Error, GetOptions, GetResponse, KvClient, Txn, TxnResponse};
use tokio::sync::Mutex;

use super::Credentials;

/// gRPC's code for who is not known.
const UNAUTHENTICATED: i32 = 16;

/// How long a reader waits for a new token at most; most have given up before.
const RENEWAL_LIMIT: Duration = Duration::from_secs(20);

/// How long a read waits that is to show whether a connection is still good: longer than keep-alive needs.
const PROOF_LIMIT: Duration = Duration::from_secs(20);

/// What is being read. On the heap: what etcd's client holds on the way would make every reader's future large.
type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// The reader; clones share the connection and the token.
#[derive(Clone)]
pub(crate) struct Reads {
    kv: KvClient,
    client: Client,
    credentials: Credentials,
    renewing: Arc<Mutex<()>>,
    renewals: Arc<AtomicU64>,
    proving: Arc<AtomicBool>,
}

impl Reads {
    /// Reads over this connection, which was made as them.
    pub(crate) fn over(client: Client, credentials: &Credentials) -> Self {
        let credentials = credentials.clone();
        Self { kv: client.kv_client(), client, credentials, renewing: Arc::default(), renewals: Arc::default(), proving: Arc::default() }
    }

    /// The same, with answers of up to this size.
    pub(crate) fn max_decoding_message_size(mut self, bytes: usize) -> Self {
        self.kv = self.kv.max_decoding_message_size(bytes);
        self
    }

    /// A read of this key was not answered in time: has one wait on in the background, unless one does.
    pub(crate) fn prove(&self, key: Vec<u8>) {
        if self.proving.swap(true, Ordering::AcqRel) {
            return;
        }
        let (mut kv, proving) = (self.kv.clone(), Arc::clone(&self.proving));
        tokio::spawn(async move {
            // Whatever comes of it, it has shown what it was to show.
            let _ = tokio::time::timeout(PROOF_LIMIT, kv.get(key, None)).await;
            proving.store(false, Ordering::Release);
        });
    }

    /// One key, or a range.
    ///
    /// # Errors
    /// As etcd's client.
    pub(crate) fn get(&self, key: impl Into<Vec<u8>>, options: Option<GetOptions>) -> Answer<'_, GetResponse> {
        let key = key.into();
        self.ask(move |mut kv| {
            let (key, options) = (key.clone(), options.clone());
            async move { kv.get(key, options).await }
        })
    }

    /// A transaction.
    ///
    /// # Errors
    /// As etcd's client.
    pub(crate) fn txn(&self, txn: Txn) -> Answer<'_, TxnResponse> {
        self.ask(move |mut kv| {
            let txn = txn.clone();
            async move { kv.txn(txn).await }
        })
    }

    /// Whatever is asked, to the end of its answer: where that is a refusal of the token, all of it is asked once more.
    ///
    /// # Errors
    /// As etcd's client.
    pub(crate) fn ask<'a, T: Send + 'a, F>(&'a self, ask: impl Fn(KvClient) -> F + Send + 'a) -> Answer<'a, T>
    where
        F: Future<Output = Result<T, Error>> + Send + 'a,
    {
        Box::pin(async move {
            let before = self.renewals.load(Ordering::Acquire);
            match ask(self.kv.clone()).await {
                Err(error) if is_for_its_token(&error) => {
                    let renewed = tokio::time::timeout(RENEWAL_LIMIT, self.renew(before)).await;
                    renewed.unwrap_or_else(|_| Err(Error::IoError(std::io::ErrorKind::TimedOut.into())))?;
                    ask(self.kv.clone()).await
                }
                answer => answer,
            }
        })
    }

    /// Gets a new token, unless somebody has since there were so many.
    async fn renew(&self, before: u64) -> Result<(), Error> {
        let reads = self.clone();
        let renewal = tokio::spawn(async move {
            let _alone = reads.renewing.lock().await;
            if reads.renewals.load(Ordering::Acquire) == before {
                // Tokens end with the password that they were given for: it is read anew.
                let now = reads.credentials.user_and_password().map_err(Error::InvalidArgs)?;
                reads.client.clone().update_user(now).await?;
                reads.renewals.fetch_add(1, Ordering::Release);
            }
            Ok(())
        });
        renewal.await.unwrap_or_else(|_| Err(Error::IoError(std::io::ErrorKind::Interrupted.into())))
    }
}

/// How etcd says that rights have changed since a signed token was given, and how some versions (3.5.1) pass on what their parts say.
const OLD_TOKEN: [&str; 2] = ["etcdserver: revision of auth store is old", "auth: revision in header is old"];

/// Whether a request was refused before anything was done, for the token that it came with.
fn is_for_its_token(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    status.code() as i32 == UNAUTHENTICATED || OLD_TOKEN.contains(&status.message())
}
