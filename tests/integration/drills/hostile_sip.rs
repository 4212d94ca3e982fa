//! Strangers attack every SIP and RTP port beside a call: rubbish and mutated messages over UDP, TCP and TLS, lies about
//! lengths, guessed passwords, forged requests in the call's own dialog, forged audio; and the phone itself floods it with
//! changes. The call goes on, memory is bounded, and the next call comes through.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use patchcord_simulator::sip_phone::{SipPhone, SipPhoneOptions};
use patchcord_simulator::sound;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{lasting, memory_mb, report, seed};
use crate::people::{AGENT_HZ, CALLER_HZ, SECOND, VOICES, caller, caller_hears_next, heard_voices, objections};
use crate::program::Program;
use crate::service::{Folder, TestOptions};

/// Between two bursts of one attacker.
const PAUSE: Duration = Duration::from_millis(10);
/// Messages of one burst over UDP.
const BURST: usize = 10;
/// What the attacks may take for good: buffers of connections, suspects, the allocator's slack.
const MOST_MB: u64 = 48;

/// What the attackers know, and count.
struct Attack {
    udp: SocketAddr,
    tcp: SocketAddr,
    tls: SocketAddr,
    rtp: SocketAddr,
    /// An INVITE as the service sends it, with another Call-ID.
    invite: String,
    /// Of the call, which only the forged requests have: a dialog that floods is read in part.
    call_id: String,
    sent: AtomicU64,
    until: Instant,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "attacks for a minute or longer: make drills"]
async fn hostile_sip_harms_no_call_and_takes_bounded_memory() -> anyhow::Result<()> {
    let (seed, lasting, folder) = (seed(), lasting(60), Folder::new()?);
    let meta = Meta::start(MetaOptions::default()).await?;
    let phone = SipPhone::start(SipPhoneOptions { tone_hz: AGENT_HZ, ..SipPhoneOptions::default() }).await?;
    let options = TestOptions { sip: sip_section(&folder)?, ..TestOptions::default() };
    let program = Program::start_for(&folder, &meta, &phone.uri(), options).await?;
    let live = meta.place_call(caller()).await?;
    live.wait_until(Stage::FirstSound).await?;
    assert_eq!(heard_voices(&caller_hears_next(&live, SECOND).await?), [AGENT_HZ], "{}", live.seen());
    let invite = phone.request("INVITE").await?;
    let before = memory_mb(program.id(), "VmRSS")?;

    let call_id = invite.header("Call-ID").context("a Call-ID")?.to_owned();
    let attack = Arc::new(Attack {
        udp: listener(&program, "udp")?,
        tcp: listener(&program, "tcp")?,
        tls: listener(&program, "tls")?,
        rtp: rtp_of(&invite.body)?,
        invite: invite.to_string().replace(&call_id, "0123456789abcdef@patchcord"),
        call_id,
        sent: AtomicU64::new(0),
        until: Instant::now() + lasting,
    });
    let mut attackers = JoinSet::new();
    attackers.spawn(datagrams(attack.clone(), seed));
    attackers.spawn(streams(attack.clone(), seed + 1));
    attackers.spawn(half_open(attack.clone()));
    attackers.spawn(forged_requests(attack.clone()));
    attackers.spawn(audio(attack.clone(), seed + 2));
    let mut changes = 0;
    while Instant::now() < attack.until {
        changes += match storm(&phone).await {
            Ok(changes) => changes,
            Err(error) => {
                let log = program.finish().await?;
                let told: Vec<&str> =
                    log.lines().filter(|line| line.contains("INFO") || line.contains("WARN")).collect();
                anyhow::bail!("{error:#}\n{}", told.join("\n"));
            }
        };
        assert_eq!(heard_voices(&caller_hears_next(&live, SECOND).await?), [AGENT_HZ], "{}", live.seen());
        assert_eq!(phone_hears(&phone).await?, [CALLER_HZ]);
    }
    while let Some(attacker) = attackers.join_next().await {
        attacker??;
    }
    assert_eq!(objections(&live), [], "{}", live.seen());
    assert_eq!(phone.hang_up().await?, 200);
    live.wait_until(Stage::Ended).await?;

    next_call(&meta).await?;
    let (after, peak) = (memory_mb(program.id(), "VmRSS")?, memory_mb(program.id(), "VmHWM")?);
    assert!(after.saturating_sub(before) <= MOST_MB, "{before} MB became {after} MB");
    report(
        "hostile SIP",
        &format!(
            "{} s, {} messages of strangers, {changes} changes of the session: {before} MB before, {after} MB after, \
             {peak} MB at the peak, 2 of 2 calls whole",
            lasting.as_secs(),
            attack.sent.load(Ordering::Relaxed)
        ),
    );
    Ok(())
}

async fn next_call(meta: &Meta) -> anyhow::Result<Call> {
    let call = meta.place_call(caller()).await?;
    call.wait_until(Stage::FirstSound).await?;
    assert_eq!(heard_voices(&caller_hears_next(&call, SECOND).await?), [AGENT_HZ], "{}", call.seen());
    Ok(call)
}

/// The phone holds and comes back, as fast as it is answered; gives how often.
async fn storm(phone: &SipPhone) -> anyhow::Result<u64> {
    let mut changes = 0;
    for direction in ["sendonly", "sendrecv"].repeat(10) {
        let answered = phone.reinvite(&phone.sdp(direction)?, "").await?;
        // 491 while the one before is under way.
        anyhow::ensure!(matches!(answered.code(), Some(200 | 491)), "{answered}");
        changes += 1;
    }
    anyhow::ensure!(phone.reinvite(&phone.sdp("sendrecv")?, "").await?.code() == Some(200));
    Ok(changes)
}

async fn phone_hears(phone: &SipPhone) -> anyhow::Result<Vec<f64>> {
    let audio = phone.audio().await?;
    let before = audio.packets().len();
    let come = async {
        while audio.packets().len() < before + 50 {
            sleep(PAUSE).await;
        }
    };
    timeout(crate::service::DEADLINE, come).await.context("the phone hears nothing")?;
    Ok(sound::voices_heard(&audio.heard_since(before)?, sound::PHONE_RATE, &VOICES))
}

/// Random bytes, messages of strangers, and mutations of a real one, from ten addresses.
async fn datagrams(attack: Arc<Attack>, seed: u64) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut sockets = Vec::new();
    for host in 2..12 {
        sockets.push(UdpSocket::bind((format!("127.0.0.{host}"), 0)).await?);
    }
    while Instant::now() < attack.until {
        for _ in 0..BURST {
            let socket = &sockets[random.random_range(0..sockets.len())];
            let bytes = match random.random_range(0..4) {
                0 => rubbish(&mut random, 1500),
                1 => guess(&mut random).into_bytes(),
                2 => mutated(attack.invite.as_bytes(), &mut random),
                _ => mutated(guess(&mut random).as_bytes(), &mut random),
            };
            // A full queue of the kernel's drops it.
            let _ = socket.send_to(&bytes, attack.udp).await;
            attack.sent.fetch_add(1, Ordering::Relaxed);
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Over TCP, and over TLS as well because rubbish needs no handshake: heads without end, lengths that lie, and silence.
async fn streams(attack: Arc<Attack>, seed: u64) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    while Instant::now() < attack.until {
        let to = if random.random_bool(0.7) { attack.tcp } else { attack.tls };
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from(([127, 0, 0, random.random_range(12..30)], 0)))?;
        // Beyond its share the service closes it.
        let Ok(Ok(mut stream)) = timeout(SECOND, socket.connect(to)).await else { continue };
        let bytes = match random.random_range(0..5) {
            0 => rubbish(&mut random, 60_000),
            1 => format!("INVITE sip:a@b SIP/2.0\r\n{}", "X: y\r\n".repeat(10_000)).into_bytes(),
            2 => attack.invite.replace("Content-Length: ", "Content-Length: 9").into_bytes(),
            3 => attack.invite.replace("Content-Length: ", "Content-Length: 4\r\nl: ").into_bytes(),
            _ => mutated(attack.invite.as_bytes(), &mut random),
        };
        let _ = timeout(SECOND, stream.write_all(&bytes)).await;
        attack.sent.fetch_add(1, Ordering::Relaxed);
        sleep(PAUSE).await;
    }
    Ok(())
}

/// Connections that say nothing, or half of a TLS handshake, and stay.
async fn half_open(attack: Arc<Attack>) -> anyhow::Result<()> {
    let mut held = Vec::new();
    while Instant::now() < attack.until {
        for (to, bytes) in
            [(attack.tls, &b"\x16\x03\x01\x02\x00\x01\x00"[..]), (attack.tcp, b"INVITE sip:a"), (attack.tls, b"")]
        {
            let Ok(Ok(mut stream)) = timeout(SECOND, tokio::net::TcpStream::connect(to)).await else { continue };
            let _ = timeout(SECOND, stream.write_all(bytes)).await;
            held.push(stream);
        }
        let surplus = held.len().saturating_sub(200);
        held.drain(..surplus);
        sleep(PAUSE * 5).await;
    }
    Ok(())
}

/// Who has seen the Call-ID asks for an end, a change, a transfer; ten times a second, because a dialog is read in part
/// when it floods.
async fn forged_requests(attack: Arc<Attack>) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("127.0.0.40:0").await?;
    let methods = ["BYE", "CANCEL", "INVITE", "UPDATE", "INFO", "REFER", "ACK", "OPTIONS"];
    for number in 0_usize.. {
        if Instant::now() >= attack.until {
            break;
        }
        let method = methods[number % methods.len()];
        let forged = message(method, &attack.call_id, number, "Refer-To: <sip:a@192.0.2.9>\r\n");
        let _ = socket.send_to(forged.as_bytes(), attack.udp).await;
        attack.sent.fetch_add(1, Ordering::Relaxed);
        sleep(PAUSE * 10).await;
    }
    Ok(())
}

/// RTP, RTCP and rubbish at the port of the phone's audio.
async fn audio(attack: Arc<Attack>, seed: u64) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed);
    let socket = UdpSocket::bind("127.0.0.50:0").await?;
    for number in 0_u16.. {
        if Instant::now() >= attack.until {
            break;
        }
        for _ in 0..BURST {
            let mut packet = vec![0x80, if random.random_bool(0.9) { 0 } else { random.random() }];
            packet.extend(number.to_be_bytes());
            packet.extend((u32::from(number) * 160).to_be_bytes());
            packet.extend(rubbish(&mut random, 170));
            let _ = socket.send_to(&packet, attack.rtp).await;
            attack.sent.fetch_add(1, Ordering::Relaxed);
        }
        sleep(PAUSE).await;
    }
    Ok(())
}

fn rubbish(random: &mut StdRng, most: usize) -> Vec<u8> {
    let length = random.random_range(0..most);
    (0..length).map(|_| random.random()).collect()
}

/// A password is guessed, or somebody looks whether we are there.
fn guess(random: &mut StdRng) -> String {
    let method = ["REGISTER", "INVITE", "OPTIONS", "SUBSCRIBE"][random.random_range(0..4)];
    let user = random.random_range(100..999);
    let digest = format!(
        "Authorization: Digest username=\"{user}\", realm=\"patchcord\", nonce=\"{:x}\", uri=\"sip:a@b\", response=\"{:032x}\"\r\n",
        random.random::<u64>(),
        random.random::<u128>()
    );
    message(method, &format!("{:x}", random.random::<u64>()), 1, &digest)
}

fn message(method: &str, call_id: &str, number: usize, more: &str) -> String {
    format!(
        "{method} sip:200@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.40:9;branch=z9hG4bK{number}\r\nMax-Forwards: 70\r\n\
         From: <sip:200@127.0.0.1>;tag=stranger\r\nTo: <sip:whatsapp@127.0.0.1>;tag=x\r\nCall-ID: {call_id}\r\n\
         CSeq: {number} {method}\r\nContact: <sip:200@127.0.0.40:9>\r\n{more}Content-Length: 0\r\n\r\n"
    )
}

fn mutated(bytes: &[u8], random: &mut StdRng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..random.random_range(1..6) {
        let at = random.random_range(0..bytes.len());
        let length = random.random_range(0..4).min(bytes.len() - at);
        bytes.splice(at..at + length, rubbish(random, 6));
        if bytes.is_empty() {
            break;
        }
    }
    bytes
}

fn rtp_of(sdp: &str) -> anyhow::Result<SocketAddr> {
    let port = sdp.lines().find_map(|line| line.strip_prefix("m=audio ")).and_then(|media| media.split(' ').next());
    Ok(SocketAddr::from(([127, 0, 0, 1], port.context("a port")?.parse()?)))
}

fn listener(program: &Program, transport: &str) -> anyhow::Result<SocketAddr> {
    let prefix = format!("SIP phones are called from {transport}:");
    let found = program.log().iter().find_map(|line| line.split_once(&prefix));
    let address: String =
        found.context(prefix.clone())?.1.chars().take_while(|sign| "0123456789.:".contains(*sign)).collect();
    address.parse().context(address)
}

fn sip_section(folder: &Folder) -> anyhow::Result<String> {
    let key = rcgen::KeyPair::generate()?;
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
    let pem = |label: &str, bytes: &[u8]| {
        let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes);
        format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
    };
    let (cert, private) = (folder.0.join("sip.pem"), folder.0.join("sip.key"));
    std::fs::write(&cert, pem("CERTIFICATE", certificate.der()))?;
    std::fs::write(&private, pem("PRIVATE KEY", &key.serialize_der()))?;
    Ok(format!(
        "[sip]\nlisten = [\"udp:127.0.0.1:0\", \"tcp:127.0.0.1:0\", \"tls:127.0.0.1:0\"]\n\
         tls = {{ cert = \"{}\", key = \"{}\" }}",
        cert.display(),
        private.display()
    ))
}
