//! The cause of a failed HTTP request of ours, for the operator.

use std::error::Error;

use crate::descriptors;

/// Our own shortage of sockets, or the root of the error, such as "Connection refused (os error 111)". The library's own
/// words above the root name the URL, whose path and query may be secret.
pub fn cause_of(error: &reqwest::Error) -> String {
    if let Some(shortage) = shortage_of(error) {
        return shortage;
    }
    let causes = std::iter::successors(error.source(), |cause| (*cause).source());
    causes.last().map_or_else(|| "it failed".to_owned(), ToString::to_string)
}

/// The shortage of sockets on this machine that made the connection fail, if it was one.
pub fn shortage_of(error: &reqwest::Error) -> Option<String> {
    if error.is_connect() { descriptors::shortage_behind(error) } else { None }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    async fn failed(url: &str) -> String {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        cause_of(&http.get(url).send().await.unwrap_err())
    }

    #[tokio::test]
    async fn the_cause_is_named_and_the_url_is_not() {
        let closed = TcpSocket::new_v4().unwrap();
        closed.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let cause = failed(&format!("http://{}/secret?token=secret", closed.local_addr().unwrap())).await;
        assert!(cause.contains("Connection refused") && !cause.contains("secret"), "{cause}");

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"no HTTP\r\n\r\n").await;
            }
        });
        for scheme in ["http", "https"] {
            let cause = failed(&format!("{scheme}://{address}/secret?token=secret")).await;
            assert!(cause.len() > 10 && !cause.contains("secret"), "{scheme}: {cause}");
        }
        server.abort();
    }
}
