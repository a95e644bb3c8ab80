//! The control service's process, from its handover to its end: what it takes over, in which order it starts.
//!
//! Holds nothing that must outlive it: killed at any moment, its successor takes over the same sockets, opens
//! the same store, and makes itself whole from the engine's dump.

use crate::api;
use crate::auth::{KeyError, SigningKey};
use crate::cli::ControlArgs;
use crate::config::{Settings, SettingsError};
use crate::engine_link::EngineLink;
use crate::logging::{self, Level};
use crate::policy::candidates::candidates;
use crate::service::Service;
use crate::shm::{self, ShmError, Wake};
use crate::store::{Store, StoreError};
use spillway_proto::link::fields::FieldsError;
use spillway_proto::link::handover::{HANDOVER_VARIABLE, Handover};
use std::fs::File;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// Threads of the HTTP service; media runs in another process.
const THREADS_MAX: usize = 4;
/// What a join's task may still take when the process is asked to end.
const LAST_TASKS_WAIT: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("{HANDOVER_VARIABLE} is not set; control is started by `spillway serve`, not by hand")]
    NoHandover,
    #[error(transparent)]
    Handover(#[from] FieldsError),
    #[error("the handover names no HTTP socket; supervisor and control are of different builds")]
    NoHttp,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("{0}")]
    Told(String),
    #[error(transparent)]
    Shm(#[from] ShmError),
    #[error("cannot {0}: {1}")]
    System(&'static str, io::Error),
}

/// `spillway control`.
pub fn run(args: ControlArgs) -> ExitCode {
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::complain(error);
            ExitCode::FAILURE
        }
    }
}

fn start(args: &ControlArgs) -> Result<(), StartError> {
    let system = |what: &'static str| move |error| StartError::System(what, error);
    let handover = std::env::var(HANDOVER_VARIABLE).map_err(|_| StartError::NoHandover)?;
    let handover = Handover::parse(&handover)?;
    let http = TcpListener::from(shm::inherit(handover.http.ok_or(StartError::NoHttp)?)?);
    http.set_nonblocking(true).map_err(system("use the HTTP socket"))?;
    let ready = File::from(shm::inherit(handover.ready)?);
    let link = shm::map_link(shm::inherit(handover.link)?)?;
    let shard_wakes: Vec<Wake> =
        handover.shard_wake.iter().map(|number| Wake::inherit(*number)).collect::<Result<_, _>>()?;
    let control_wake = Wake::inherit(handover.control_wake)?;
    let adapters = handover.adapters.map(shm::inherit).transpose()?.map(UnixDatagram::from);

    let key = SigningKey::load_or_create(&args.data.data)?;
    let store = Store::open(&args.data.data)?;
    // Without a list of interfaces only a wildcard loses something.
    let interfaces = shm::interface_addresses().unwrap_or_else(|error| {
        logging::tell(Level::Warn, &format!("cannot list the network interfaces ({error}); give --announce IP"), &[]);
        Vec::new()
    });
    let candidates = candidates(&args.media, &args.announce, &interfaces);
    if candidates.is_empty() {
        logging::tell(Level::Warn, "no address that others can reach was found; give --announce IP", &[]);
    }

    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.min(THREADS_MAX))
        .enable_all()
        .build()
        .map_err(system("start the threads"))?;
    let ended = runtime.block_on(async {
        // Taken and not looked at: Ctrl-C is for the supervisor, which then asks us by SIGTERM.
        let _interrupt = signal(SignalKind::interrupt()).map_err(system("take the signals"))?;
        let mut terminate = signal(SignalKind::terminate()).map_err(system("take the signals"))?;
        // Before the settings are read: what is written from now on is heard of.
        let mut hangup = signal(SignalKind::hangup()).map_err(system("take the signals"))?;
        let settings = Settings::read(&args.data.data)?;
        let listener = tokio::net::TcpListener::from_std(http).map_err(system("use the HTTP socket"))?;
        let wake = control_wake.watch().map_err(system("watch the engine's eventfd"))?;
        let service = Service::new(key, store, EngineLink::attach(link, shard_wakes), candidates, settings.clone());
        service.begin(settings.clone()).await.map_err(StartError::Told)?;
        let recordings = settings.recording.directory(&args.data.data);
        service.begin_recordings(adapters, handover.boot.unwrap_or(0), recordings).await?;
        let pump = tokio::spawn(service.clone().run(wake));
        // Whoever comes while a new control takes stock waits in the listener's queue and is refused nothing.
        let stocked = service.clone();
        let serve = async {
            stocked.first_sync().await;
            axum::serve(api::Bounded::new(listener), api::app(service.clone())).await
        };
        let metrics = settings.metrics;
        let watched = service.clone();
        let monitor = async move {
            let Some(address) = metrics else { return std::future::pending().await };
            match tokio::net::TcpListener::bind(address).await {
                Ok(listener) => {
                    let served = axum::serve(api::Bounded::new(listener), api::monitoring(watched)).await;
                    logging::tell(Level::Error, &format!("metrics are not served any more: {served:?}"), &[]);
                }
                // The node's work does not hang on who watches it.
                Err(error) => logging::tell(Level::Error, &format!("metrics cannot be served on {address}: {error}"), &[]),
            }
        };
        let monitor = tokio::spawn(monitor);
        let tell = tokio::spawn(tell_ready(service.clone(), ready));
        let reload = async {
            while hangup.recv().await.is_some() {
                match Settings::read(&args.data.data).map_err(|error| error.to_string()) {
                    Ok(settings) => service.set_settings(settings),
                    Err(error) => Err(error),
                }
                .unwrap_or_else(|error| logging::tell(Level::Error, &format!("the settings stay as they were: {error}"), &[]));
            }
        };
        let ended = tokio::select! {
            () = reload => Ok(()),
            _ = terminate.recv() => Ok(()),
            ended = serve => ended.map_err(system("serve HTTP")),
            // Only a panic ends it: without it nobody would hear the engine.
            _ = pump => Err(StartError::System("go on", io::Error::other("the engine's reader has ended"))),
        };
        tell.abort();
        monitor.abort();
        ended
    });
    runtime.shutdown_timeout(LAST_TASKS_WAIT);
    ended
}

/// Ready is who can take a POST; who has no engine says so after a while all the same, so that a dead
/// engine does not look like a dead control.
async fn tell_ready(service: Arc<Service>, mut ready: File) {
    service.first_sync().await;
    // A supervisor that is gone has nobody to tell.
    let _ = ready.write_all(b"ready\n");
}
