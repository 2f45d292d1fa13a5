//! A running proxy's admin endpoints, as commands ask them: with the token that its door may want.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use hyper::{Method, StatusCode};

use crate::{
    admin::Tokens,
    cli::AdminArgs,
    failure::Failed,
    http_client::{Fetched, fetch, lines},
};

/// The endpoints.
pub(crate) struct Admin {
    /// Where they are.
    pub(crate) address: String,
    /// What is shown to the door, and the file that it comes from.
    token: Option<(String, PathBuf)>,
}

impl Admin {
    /// Those that a command was told of.
    ///
    /// # Errors
    /// Exit 2 if the token can't be read.
    pub(crate) fn of(args: &AdminArgs) -> Result<Self, Failed> {
        Self::at(&args.admin, args.admin_token_file.as_deref())
    }

    /// Those at an address.
    ///
    /// # Errors
    /// Exit 2 if the token can't be read.
    pub(crate) fn at(address: &str, token_file: Option<&Path>) -> Result<Self, Failed> {
        let token = |file: &Path| Tokens::read(file).map(|tokens| (format!("Bearer {}", tokens.first()), file.to_owned()));
        let token = token_file.map(token).transpose().map_err(Failed::unusable)?;
        Ok(Self { address: address.to_owned(), token })
    }

    /// What is to be sent with each request.
    pub(crate) fn headers(&self) -> Vec<(&str, &str)> {
        self.token.iter().map(|(token, _)| ("authorization", token.as_str())).collect()
    }

    /// One request and its whole answer.
    ///
    /// # Errors
    /// A few words, if there was none in time, or the door stayed shut.
    pub(crate) async fn fetch(&self, method: Method, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Fetched, String> {
        let headers = [headers, &self.headers()].concat();
        let answer = fetch(&self.address, method, path, &headers, body).await?;
        if answer.status == StatusCode::UNAUTHORIZED { Err(self.shut()) } else { Ok(answer) }
    }

    /// A stream of lines, read to its end.
    ///
    /// # Errors
    /// A few words, if it did not come or end, or a line was refused.
    pub(crate) async fn lines(&self, path: &str, each: impl FnMut(&[u8]) -> Result<(), String>) -> Result<(), String> {
        lines(&self.address, path, &self.headers(), each).await
    }

    /// Why the door stayed shut.
    pub(crate) fn shut(&self) -> String {
        match &self.token {
            None => "a token has to be shown there; name the file that holds it with --admin-token-file".to_owned(),
            Some((_, file)) => format!("the token in {} is not one of those that open it", file.display()),
        }
    }
}

impl fmt::Display for Admin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.address)
    }
}
