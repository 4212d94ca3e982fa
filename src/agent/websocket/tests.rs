//! Connections in a dialect whose agent has to say that it is ready.

use std::cell::RefCell;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use patchcord_media::audio_terms::AudioTerms;
use patchcord_media::bridge::Bridge;
use patchcord_media::gather::GatherOptions;
use patchcord_media::peer::{Consent, Identity, LocalAddress, Peer, PeerOptions};
use patchcord_media::prompt::{Prompt, Repeat};
use patchcord_media::rtp_leg::{RtpLeg, RtpLegOptions};
use patchcord_media::sdp::{Answer, Offer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use super::*;
use crate::agent::AgentTarget;
use crate::agent::browser::{BrowserId, BrowserLeg};
use crate::agent::dialect::{FromAgent, Incoming, Joins};
use crate::agent::notice::Notice;
use crate::agent::port::{AgentSlot, PortHost, PortReport, PortUser};
use crate::agent::sip::{PhoneId, PhoneLine};
use crate::agent::{Instances, SoundFormat};
use crate::call::Attempt;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::command::{CommandResult, Owner, SoundCommand};
use crate::call::description::CallDescription;
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::prompts::PromptLibrary;
use crate::pulse::Pulse;
use crate::settings::CurrentSettings;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

/// Its agent has joined when it has sent "ready".
struct Shy;

impl Dialect for Shy {
    fn subprotocols(&self) -> &'static [&'static str] {
        &[]
    }

    fn format(&self, configured: SoundFormat) -> SoundFormat {
        configured
    }

    fn joins(&self) -> Joins {
        Joins::WhenReady
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        if let Incoming::Text(_) = message {
            inbox.push(FromAgent::Ready { format: None, events: false });
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        if let Notice::Start(_) = notice {
            outbox.extend(["hello", "start"].map(Message::text));
        }
    }

    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>) {
        outbox.push(Message::Binary(sound));
    }

    fn close_code(&self, _: Closing) -> u16 {
        4321
    }
}

/// A call whose caller is not there.
struct Host {
    call: CallId,
    description: CallDescription,
    pulse: Arc<Pulse>,
    bridge: RefCell<Bridge>,
    reports: mpsc::UnboundedSender<PortReport>,
}

impl PortHost for Host {
    fn call_id(&self) -> &CallId {
        &self.call
    }

    fn description(&self) -> &CallDescription {
        &self.description
    }

    fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    fn bridge(&self) -> &RefCell<Bridge> {
        &self.bridge
    }

    fn settle(&self) {}

    fn browser(&self, _: BrowserId) -> Option<Rc<BrowserLeg>> {
        None
    }

    fn offer_browser(self: Rc<Self>) -> Result<(BrowserId, String), Refusal> {
        Err(Refusal::new(RefusalCode::NoMediaPort, "not in this test"))
    }

    fn accept_answer(self: Rc<Self>, _: BrowserId, _: &Answer) -> Result<(), Refusal> {
        Err(Refusal::new(RefusalCode::NoMediaPort, "not in this test"))
    }

    fn answer_browser(self: Rc<Self>, _: &Offer) -> Result<(BrowserId, String), Refusal> {
        Err(Refusal::new(RefusalCode::NoMediaPort, "not in this test"))
    }

    fn answer_again(self: Rc<Self>, _: BrowserId, _: &Offer) -> Result<String, Refusal> {
        Err(Refusal::new(RefusalCode::NoMediaPort, "not in this test"))
    }

    fn release_browser(&self, _: BrowserId) {}

    fn open_phone(self: Rc<Self>) -> Result<Rc<PhoneLine>, AgentFailure> {
        Err(AgentFailureKind::NotConfigured.into())
    }

    fn release_phone(&self, _: PhoneId) {}

    fn perform(self: Rc<Self>, _: SoundCommand, _: Owner) -> Result<CommandResult, Refusal> {
        Err(Refusal::new(RefusalCode::NoAgent, "not in this test"))
    }

    fn is_accepted(&self) -> bool {
        false
    }

    fn prompts(&self) -> &PromptLibrary {
        unreachable!("not in this test")
    }

    fn play_prompts(self: Rc<Self>, _: Vec<Prompt>, _: Repeat) -> Result<u64, Refusal> {
        Err(Refusal::new(RefusalCode::NoAgent, "not in this test"))
    }

    fn gather_keys(self: Rc<Self>, _: GatherOptions, _: Vec<Prompt>) -> Result<u64, Refusal> {
        Err(Refusal::new(RefusalCode::NoAgent, "not in this test"))
    }

    fn invite(self: Rc<Self>, _: AgentTarget) -> Result<u32, Refusal> {
        Err(Refusal::new(RefusalCode::NoAgent, "not in this test"))
    }

    fn report(&self, _: PortUser, report: PortReport) {
        self.reports.send(report).unwrap();
    }

    fn task_panicked(&self) {}
}

fn bridge() -> anyhow::Result<Bridge> {
    let (now, socket) = (Instant::now(), SocketAddr::from((Ipv4Addr::LOCALHOST, 4002)));
    let options = PeerOptions {
        identity: Arc::new(Identity::generate()?),
        addresses: vec![LocalAddress { socket, advertised: socket }],
        allow_private: true,
        ssrc: 1,
        consent: Consent::default(),
    };
    let (peer, _) = Peer::offer(&options, now)?;
    let options = RtpLegOptions {
        ssrc: 1,
        first_sequence: 1,
        first_timestamp: 1,
        audio: AudioTerms::webrtc(111, None),
        silence_warn_after: Duration::from_secs(5),
        silence_end_after: Duration::from_secs(30),
    };
    Ok(Bridge::new(RtpLeg::new(peer, &options, now), now))
}

/// An agent's address, and the call's side of the connection to it.
struct Scene {
    listener: TcpListener,
    agent: WebSocketOptions,
    port: AgentPort,
    slot: Rc<AgentSlot>,
    translate: Translate,
    options: SocketOptions,
    reports: mpsc::UnboundedReceiver<PortReport>,
}

async fn scene(connect_timeout: Duration) -> anyhow::Result<Scene> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let agent = WebSocketOptions::at(format!("ws://{}/call", listener.local_addr()?).parse()?);
    let (told, reports) = mpsc::unbounded_channel();
    let host = Host {
        call: CallId::generate(),
        description: CallDescription::default(),
        pulse: Arc::default(),
        bridge: RefCell::new(bridge()?),
        reports: told,
    };
    let user = PortUser::Agent { attempt: Attempt::new(0) };
    let slot = Rc::new(AgentSlot::new(user, patchcord_media::bridge::Speaker::Agent));
    let port = AgentPort::new(Rc::new(host), slot.clone(), Duration::from_secs(60));
    let roots = rustls::RootCertStore::empty();
    let options = SocketOptions {
        tls: Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()),
        connect_timeout,
        idle_timeout: Duration::from_secs(20),
        instances: Instances::default(),
        sip: None,
        settings: CurrentSettings::default(),
    };
    let translate: Translate = Box::new(|| Box::new(Shy));
    Ok(Scene { listener, agent, port, slot, translate, options, reports })
}

#[tokio::test]
async fn an_agent_that_has_to_say_that_it_is_ready_joins_only_then() -> anyhow::Result<()> {
    let Scene { listener, agent, port, slot, translate, options, mut reports } = scene(Duration::from_secs(60)).await?;
    let served = async {
        let mut socket = tokio_tungstenite::accept_async(listener.accept().await?.0).await?;
        for text in ["hello", "start"] {
            assert_eq!(socket.next().await.unwrap()?.to_text()?, text);
        }
        assert!(reports.try_recv().is_err());
        socket.send(Message::text("ready")).await?;
        assert!(matches!(reports.recv().await, Some(PortReport::Joined)));
        slot.dismiss("over");
        loop {
            if let Message::Close(frame) = socket.next().await.unwrap()? {
                return anyhow::Ok(frame.unwrap());
            }
        }
    };
    let ((), closed) = tokio::join!(talk(&agent, &translate, &port, &options), served);
    let closed = closed?;
    assert_eq!((u16::from(closed.code), closed.reason.as_str()), (4321, "over"));
    Ok(())
}

#[tokio::test]
async fn an_agent_that_does_not_say_in_time_that_it_is_ready_has_not_answered() -> anyhow::Result<()> {
    let Scene { listener, agent, port, translate, options, mut reports, .. } =
        scene(Duration::from_millis(500)).await?;
    let served = async {
        let mut socket = tokio_tungstenite::accept_async(listener.accept().await?.0).await?;
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
        anyhow::Ok(())
    };
    let ((), served) = tokio::join!(talk(&agent, &translate, &port, &options), served);
    served?;
    let report = reports.try_recv()?;
    assert!(matches!(&report, PortReport::Failed(failure) if failure.kind == AgentFailureKind::NoAnswer), "{report:?}");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_closes_before_it_is_ready_has_refused() -> anyhow::Result<()> {
    let Scene { listener, agent, port, translate, options, mut reports, .. } = scene(Duration::from_secs(60)).await?;
    let served = async {
        let mut socket = tokio_tungstenite::accept_async(listener.accept().await?.0).await?;
        socket.close(None).await?;
        while socket.next().await.is_some_and(|message| message.is_ok()) {}
        anyhow::Ok(())
    };
    let ((), served) = tokio::join!(talk(&agent, &translate, &port, &options), served);
    served?;
    let report = reports.try_recv()?;
    assert!(matches!(&report, PortReport::Failed(failure) if failure.kind == AgentFailureKind::Refused), "{report:?}");
    Ok(())
}
