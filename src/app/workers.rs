//! Starts the workers, with all that their calls need.

use std::sync::Arc;

use anyhow::Context;
use patchcord_media::peer::Identity;
use tokio::sync::mpsc;

use super::sip::start_user_agent;
use crate::agent::{self, AudioRules, Instances, SipOptions, SocketOptions};
use crate::config::Config;
use crate::prompts::PromptLibrary;
use crate::public_address;
use crate::recordings::Recordings;
use crate::settings::CurrentSettings;
use crate::sip::{IncomingCall, UserAgent};
use crate::worker::load::LoadLimits;
use crate::worker::{self, Silence, WorkerHandle, WorkerOptions};

/// What carries the calls.
pub(super) struct Workers {
    pub handles: Vec<WorkerHandle>,
    pub threads: Vec<std::thread::JoinHandle<()>>,
    pub user_agent: Option<UserAgent>,
    /// Calls that phones ask for.
    pub from_phones: mpsc::Receiver<IncomingCall>,
}

pub(super) async fn start_workers(
    config: &Config,
    settings: &CurrentSettings,
    prompts: &PromptLibrary,
    recordings: &Option<Recordings>,
    instances: &Instances,
) -> anyhow::Result<Workers> {
    let addresses = public_address::find(&config.media).await?;
    let (incoming, from_phones) = UserAgent::incoming_calls();
    let user_agent = start_user_agent(config, &addresses, incoming).await?;
    let phones = user_agent.as_ref().zip(config.sip.as_ref()).map(|(user_agent, sip)| SipOptions {
        user_agent: user_agent.clone(),
        ring_timeout: sip.ring_timeout,
        audio: AudioRules { allow_private: config.media.allow_private, latching: sip.latching, srtp: sip.srtp },
    });
    let options = WorkerOptions {
        identity: Arc::new(Identity::generate().context("no certificate could be made")?),
        addresses,
        ports: config.media.ports.first..=config.media.ports.last,
        allow_private: config.media.allow_private,
        silence: Silence {
            warn_after: config.calls.media_lost_warn,
            consent_lost_after: config.calls.media_lost_end,
            end_after: config.calls.media_silent_end,
        },
        load: LoadLimits {
            lateness: config.media.max_lateness,
            share: f64::from(config.media.max_load_percent) / 100.0,
        },
        sockets: SocketOptions {
            tls: Arc::new(agent::tls::usual()?),
            connect_timeout: config.calls.agent_timeout,
            idle_timeout: config.calls.agent_idle_timeout,
            instances: instances.clone(),
            sip: phones,
            settings: settings.clone(),
        },
        prompts: prompts.clone(),
        recordings: recordings.clone(),
        settings: settings.clone(),
    };
    let count = match config.media.workers {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get()),
        workers => workers,
    };
    let mut handles = Vec::with_capacity(count);
    let mut threads = Vec::with_capacity(count);
    for index in 0..count {
        let (handle, thread) = worker::start(options.clone(), index, count)?;
        handles.push(handle);
        threads.push(thread);
    }
    Ok(Workers { handles, threads, user_agent, from_phones })
}
