//! A UDP relay between a browser and the service that loses and delays datagrams, as a NAT on a bad network would.
//!
//! Each address that the browser sends from gets a socket of its own towards the service, so that every candidate
//! pair stays a path of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use anyhow::Context;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::network::{Conditions, Network};
use crate::phone::shell::{now, sleep_until};

/// Addresses of the browser that get a path; datagrams from further ones are dropped.
const MOST_PATHS: usize = 8;
/// Datagrams of the service that wait for the relay's task; over it they are lost, as in a full router.
const WAITING: usize = 1024;
/// Larger than any datagram on the internet.
const DATAGRAM_BYTES: usize = 2048;

/// How SDP has to be changed so that both sides send to the relay.
#[derive(Debug)]
pub(crate) struct RelayRewrite {
    /// Where the browser sends to.
    browser_side: SocketAddr,
    /// Where the service sends to, until it learns of more.
    service_side: SocketAddr,
    /// The service, once its answer names it.
    service: Arc<OnceLock<SocketAddr>>,
}

impl RelayRewrite {
    /// The offer with the relay's candidate instead of all of the browser's.
    pub(crate) fn offer(&self, sdp: &str) -> String {
        let mut lines: Vec<String> =
            sdp.lines().filter(|line| !line.starts_with("a=candidate:")).map(str::to_owned).collect();
        let is_media = |line: &String| line.starts_with("m=");
        let first = lines.iter().position(is_media).unwrap_or(lines.len());
        let end = lines.iter().skip(first + 1).position(is_media).map_or(lines.len(), |next| first + 1 + next);
        lines.insert(end, candidate(self.service_side));
        text(&lines)
    }

    /// The answer with the relay's candidate in place of the first that the relay can reach, and without the others.
    pub(crate) fn answer(&self, sdp: &str) -> String {
        let Some(service) = sdp.lines().find_map(reachable) else { return sdp.to_owned() };
        // The answer comes once; a later one must be the same.
        let _ = self.service.set(service);
        let mut is_first = true;
        let lines: Vec<String> = sdp
            .lines()
            .filter_map(|line| match line.strip_prefix("a=candidate:") {
                Some(_) => std::mem::take(&mut is_first).then(|| candidate(self.browser_side)),
                None => Some(line.to_owned()),
            })
            .collect();
        text(&lines)
    }
}

fn candidate(address: SocketAddr) -> String {
    format!("a=candidate:1 1 udp 2130706431 {} {} typ host", address.ip(), address.port())
}

/// The address in a candidate line, where it is IPv4 over UDP (RFC 8839 §5.1).
fn reachable(line: &str) -> Option<SocketAddr> {
    let words: Vec<&str> = line.strip_prefix("a=candidate:")?.split_ascii_whitespace().collect();
    let [_, "1", transport, _, ip, port, ..] = words[..] else { return None };
    let ip: Ipv4Addr = ip.parse().ok()?;
    transport.eq_ignore_ascii_case("udp").then_some((ip, port.parse().ok()?).into())
}

fn text(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\r\n"]).collect()
}

/// A relay about to run. It ends when its future is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    browser_side: UdpSocket,
    /// A socket towards the service that no path uses yet; the offer names it.
    spare: Option<UdpSocket>,
    paths: Vec<Path>,
    readers: JoinSet<()>,
    came: mpsc::Sender<Datagram>,
    from_service: mpsc::Receiver<Datagram>,
    to_service: Network<Datagram>,
    to_browser: Network<Datagram>,
    service: Arc<OnceLock<SocketAddr>>,
}

/// One address of the browser, and the socket that stands for it towards the service.
#[derive(Debug)]
struct Path {
    browser: SocketAddr,
    socket: Arc<UdpSocket>,
}

#[derive(Debug, Clone)]
struct Datagram {
    path: usize,
    bytes: Vec<u8>,
}

impl AsRef<[u8]> for Datagram {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Relay {
    /// Opens the first two sockets. The same conditions hold in both directions; chance follows from the seed.
    pub(crate) async fn open(conditions: Conditions, seed: u64) -> anyhow::Result<(Self, RelayRewrite)> {
        let browser_side = bind().await?;
        let spare = bind().await?;
        let service = Arc::<OnceLock<SocketAddr>>::default();
        let rewrite = RelayRewrite {
            browser_side: browser_side.local_addr()?,
            service_side: spare.local_addr()?,
            service: service.clone(),
        };
        let (came, from_service) = mpsc::channel(WAITING);
        let relay = Self {
            browser_side,
            spare: Some(spare),
            paths: Vec::new(),
            readers: JoinSet::new(),
            came,
            from_service,
            to_service: Network::new(conditions.clone(), seed),
            to_browser: Network::new(conditions, seed ^ 1),
            service,
        };
        Ok((relay, rewrite))
    }

    pub(crate) async fn run(mut self) {
        let mut buffer = vec![0; DATAGRAM_BYTES];
        loop {
            self.drain();
            let deadline = self.deadline();
            tokio::select! {
                read = self.browser_side.recv_from(&mut buffer) => {
                    // An error (port unreachable and the like) means nothing to a relay.
                    let Ok((length, browser)) = read else { continue };
                    let Some(path) = self.path(browser).await else { continue };
                    self.to_service.send(Datagram { path, bytes: buffer[..length].to_vec() }, now());
                }
                Some(datagram) = self.from_service.recv() => self.to_browser.send(datagram, now()),
                () = sleep_until(deadline) => {}
            }
        }
    }

    /// The path of this address; a new one takes the spare socket or opens another.
    async fn path(&mut self, browser: SocketAddr) -> Option<usize> {
        if let Some(known) = self.paths.iter().position(|path| path.browser == browser) {
            return Some(known);
        }
        if self.paths.len() >= MOST_PATHS {
            return None;
        }
        let socket = match self.spare.take() {
            Some(spare) => spare,
            None => bind().await.ok()?,
        };
        let (index, socket) = (self.paths.len(), Arc::new(socket));
        self.readers.spawn(read(socket.clone(), index, self.service.clone(), self.came.clone()));
        self.paths.push(Path { browser, socket });
        Some(index)
    }

    /// Sends what is due in either direction. A full socket loses the datagram, as a network would.
    fn drain(&mut self) {
        let at = now();
        while let Some(datagram) = self.to_service.poll(at) {
            let (path, service) = (self.paths.get(datagram.path), self.service.get());
            if let Some((path, service)) = path.zip(service) {
                let _ = path.socket.try_send_to(&datagram.bytes, *service);
            }
        }
        while let Some(datagram) = self.to_browser.poll(at) {
            if let Some(path) = self.paths.get(datagram.path) {
                let _ = self.browser_side.try_send_to(&datagram.bytes, path.browser);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        [self.to_service.deadline(), self.to_browser.deadline()].into_iter().flatten().min()
    }
}

async fn bind() -> anyhow::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.context("bind a relay")
}

/// Takes what the service sends to one path, and nothing from anybody else.
async fn read(socket: Arc<UdpSocket>, path: usize, service: Arc<OnceLock<SocketAddr>>, came: mpsc::Sender<Datagram>) {
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let Ok((length, source)) = socket.recv_from(&mut buffer).await else { continue };
        if service.get() == Some(&source) {
            // Over the bound it is lost.
            let _ = came.try_send(Datagram { path, bytes: buffer[..length].to_vec() });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const OFFER: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n\
        a=candidate:1 1 udp 2113937151 4f3c.local 54400 typ host generation 0\r\na=mid:0\r\nm=video 9 RTP/AVP 96\r\na=mid:1\r\n";
    const ANSWER: &str = "v=0\r\ns=-\r\nt=0 0\r\nm=audio 40000 UDP/TLS/RTP/SAVPF 111\r\na=candidate:1 1 udp 2130706431 ::1 40000 typ host\r\n\
        a=candidate:2 1 UDP 2130706175 127.0.0.1 40001 typ host\r\na=mid:0\r\n";

    #[tokio::test]
    async fn both_sides_are_told_the_relays_address_and_no_other() -> anyhow::Result<()> {
        let (relay, rewrite) = Relay::open(Conditions::default(), 7).await?;
        let offer = rewrite.offer(OFFER);
        let spare = relay.spare.as_ref().unwrap().local_addr()?;
        let wanted =
            format!("a=mid:0\r\na=candidate:1 1 udp 2130706431 127.0.0.1 {} typ host\r\nm=video", spare.port());
        assert!(offer.contains(&wanted), "{offer}");
        assert!(!offer.contains("local"), "{offer}");
        let answer = rewrite.answer(ANSWER);
        let browser_side = relay.browser_side.local_addr()?.port();
        assert_eq!(answer.matches("a=candidate:").count(), 1, "{answer}");
        assert!(answer.contains(&format!("127.0.0.1 {browser_side} typ host")), "{answer}");
        assert_eq!(relay.service.get(), Some(&"127.0.0.1:40001".parse()?));
        Ok(())
    }

    #[tokio::test]
    async fn an_answer_without_an_address_stays_as_it_is() -> anyhow::Result<()> {
        let (_relay, rewrite) = Relay::open(Conditions::default(), 7).await?;
        assert_eq!(rewrite.answer("v=0\r\nm=audio 9 X 111\r\n"), "v=0\r\nm=audio 9 X 111\r\n");
        Ok(())
    }

    #[tokio::test]
    async fn each_address_of_the_browser_has_a_path_of_its_own_and_strangers_have_none() -> anyhow::Result<()> {
        let (relay, rewrite) =
            Relay::open(Conditions { delay: Duration::from_millis(5), ..Conditions::default() }, 7).await?;
        let (service, stranger) = (bind().await?, bind().await?);
        rewrite.answer(&ANSWER.replace("40001", &service.local_addr()?.port().to_string()));
        let running = tokio::spawn(relay.run());
        let mut buffer = [0; 16];
        let browsers = [bind().await?, bind().await?];
        let mut seen = Vec::new();
        for (browser, said) in browsers.iter().zip([b"one", b"two"]) {
            browser.send_to(said, rewrite.browser_side).await?;
            let (length, path) = service.recv_from(&mut buffer).await?;
            assert_eq!(&buffer[..length], said);
            seen.push(path);
        }
        assert_eq!(seen[0], rewrite.service_side);
        assert_ne!(seen[0], seen[1]);
        for (browser, path) in browsers.iter().zip(seen) {
            stranger.send_to(b"stranger", path).await?;
            service.send_to(b"reply", path).await?;
            let (length, source) = browser.recv_from(&mut buffer).await?;
            assert_eq!((&buffer[..length], source), (&b"reply"[..], rewrite.browser_side));
        }
        running.abort();
        Ok(())
    }
}
