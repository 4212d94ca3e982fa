//! Minimal bots behind an HTTP endpoint that answers offers: the WebRTC leg is the one that a browser has too.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use patchcord_media::peer::Identity;
use patchcord_simulator::Speech;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::phone::Phone;

/// All bots behind one address. Dropping it ends them.
pub struct Bots {
    /// For the route.
    pub url: String,
    bots: Rc<RefCell<Vec<Bot>>>,
    server: JoinHandle<()>,
}

struct Bot {
    phone: Rc<Phone>,
    running: JoinHandle<()>,
}

impl Bots {
    /// Listens on a port of its own. Every bot talks.
    pub async fn start(identity: &Arc<Identity>, speech: &Speech) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("offer:http://{}/offer", listener.local_addr()?);
        let bots = Rc::<RefCell<Vec<Bot>>>::default();
        let server = tokio::task::spawn_local({
            let (bots, identity, speech) = (bots.clone(), identity.clone(), speech.clone());
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let (bots, identity, speech) = (bots.clone(), identity.clone(), speech.clone());
                    // An offer without an answer is a call without an agent, which the topic sees.
                    tokio::task::spawn_local(async move { answer(stream, &bots, &identity, speech).await.ok() });
                }
            }
        });
        Ok(Self { url, bots, server })
    }

    /// RTP packets that all of them heard.
    pub fn heard(&self) -> u64 {
        self.bots.borrow().iter().map(|bot| bot.phone.heard.get()).sum()
    }

    /// RTP packets that all of them sent.
    pub fn said(&self) -> u64 {
        self.bots.borrow().iter().map(|bot| bot.phone.sent.get()).sum()
    }
}

impl Drop for Bots {
    fn drop(&mut self) {
        self.server.abort();
        self.bots.borrow().iter().for_each(|bot| bot.running.abort());
    }
}

/// One request on one connection: all that an offer needs.
async fn answer(
    mut stream: TcpStream,
    bots: &RefCell<Vec<Bot>>,
    identity: &Arc<Identity>,
    speech: Speech,
) -> anyhow::Result<()> {
    let request = read_request(&mut stream).await?;
    let (_, body) = request.split_once("\r\n\r\n").context("a request")?;
    let body: Value = serde_json::from_str(body)?;
    let phone = Phone::answering(identity, speech, body["sdp"].as_str().context("an offer")?).await?;
    let answer = json!({ "sdp": phone.sdp, "type": "answer" }).to_string();
    let running = phone.start();
    // Bots do not talk in step.
    phone.accepted(Duration::from_millis(20).mul_f64(rand::random()));
    bots.borrow_mut().push(Bot { phone, running });
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", answer.len());
    stream.write_all(format!("{head}{answer}").as_bytes()).await?;
    Ok(())
}

async fn read_request(stream: &mut TcpStream) -> anyhow::Result<String> {
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&request);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return Ok(text.into_owned());
            }
        }
        let length = stream.read(&mut buffer).await?;
        anyhow::ensure!(length > 0, "the request breaks off");
        request.extend_from_slice(&buffer[..length]);
    }
}
