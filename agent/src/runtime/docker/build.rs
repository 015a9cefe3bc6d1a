//! Builds: an ephemeral container around `/pontoon/build`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Seek};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::body_try_stream;
use bollard::errors::Error as EngineError;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder, InspectContainerOptions, KillContainerOptions,
    ListContainersOptionsBuilder, UploadToContainerOptionsBuilder,
};
use flate2::read::GzDecoder;
use futures_util::{StreamExt, TryStreamExt};
use pontoon_model::{BuildSpec, Timestamp};
use pontoon_proto::LogLine;
use tar::{Builder, EntryType, Header};
use tokio::sync::mpsc;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};

use super::servo::{LOG_FILE, limits, log_config};
use super::{DockerRuntime, USER, describe, labels, logs, network, status, unreachable};
use crate::archive::{self, APP_ID, ArchiveError};
use crate::runtime::{BuildJob, RuntimeError};

/// Where builds find certificates, whatever image they run in.
const CA_INSIDE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// How the usual tools are told to use them.
const CA_VARIABLES: [&str; 6] =
    ["SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"];
/// Passed on from the agent, so that builds reach the network the way this machine does.
const PROXY_VARIABLES: [&str; 6] = ["HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];
/// How long after a build's end its last output may take to arrive.
const OUTPUT_MARGIN: Duration = Duration::from_secs(5);
/// zstd's own default: twice as small as gzip's at five times its speed.
const ZSTD_LEVEL: i32 = 3;

impl DockerRuntime {
    pub(super) async fn run_build(&self, job: BuildJob) -> Result<(), RuntimeError> {
        let name = format!("pontoon-{}-{}-{}", self.settings.cluster, self.settings.host, job.spec.id);
        let result = tokio::select! {
            result = self.build_in(&name, &job) => result,
            () = job.cancel.cancelled() => Err(RuntimeError::Build("the build was cancelled".into())),
        };
        if let Err(error) = self.remove_container(&name).await {
            tracing::warn!(container = name, error = describe(&error), "a build's container could not be removed");
        }
        result
    }

    pub(super) async fn remove_old_builds(&self) -> Result<(), RuntimeError> {
        let mut filter = self.mine();
        filter.entry("label").or_default().push(labels::BUILD.into());
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
        for container in self.engine.list_containers(Some(options)).await.map_err(unreachable)? {
            if let Some(id) = container.id {
                self.remove_container(&id).await.map_err(unreachable)?;
            }
        }
        Ok(())
    }

    async fn build_in(&self, name: &str, job: &BuildJob) -> Result<(), RuntimeError> {
        let engine_failed = |error: EngineError| failed(format!("the build could not be run: {}", describe(&error)));
        self.renew_network().await?;
        // One left by an agent that was killed at this build.
        self.remove_container(name).await.map_err(engine_failed)?;
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        match self.engine.create_container(Some(options), self.build_body(&job.spec)).await {
            Ok(_) => {}
            Err(error) if status(&error) == Some(404) => {
                let image = job.spec.language.build_image();
                return Err(failed(RuntimeError::ImageMissing(image.into()).to_string()));
            }
            Err(error) => return Err(engine_failed(error)),
        }
        self.put_source(name, &job.source).await?;
        network::start(&self.engine, &self.settings, name).await.map_err(engine_failed)?;
        self.follow(name, job).await?;
        self.take_bundle(name, job.bundle.clone()).await
    }

    fn build_body(&self, spec: &BuildSpec) -> ContainerCreateBody {
        let mut env: BTreeMap<String, String> = spec.env.clone();
        env.extend(PROXY_VARIABLES.iter().filter_map(|name| Some(((*name).to_owned(), std::env::var(name).ok()?))));
        let mut binds = vec![format!("pontoon-{}-cache-{}:/cache", self.settings.cluster, spec.app)];
        if let Some(bundle) = &self.settings.ca_bundle {
            binds.push(format!("{}:{CA_INSIDE}:ro", bundle.display()));
            env.extend(CA_VARIABLES.iter().map(|name| ((*name).to_owned(), CA_INSIDE.to_owned())));
        }
        let mut build_labels = labels::own(&self.settings);
        build_labels.insert(labels::BUILD.into(), spec.id.0.to_string());
        ContainerCreateBody {
            image: Some(spec.language.build_image().into()),
            user: Some(USER.into()),
            env: Some(env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()),
            entrypoint: Some(vec!["/pontoon/build".into()]),
            cmd: Some(Vec::new()),
            working_dir: Some("/app".into()),
            labels: Some(build_labels),
            host_config: Some(HostConfig {
                binds: Some(binds),
                network_mode: Some(self.network()),
                log_config: Some(log_config(LOG_FILE)),
                // Reaps what the build leaves behind.
                init: Some(true),
                // Servos go first.
                cpu_shares: Some(256),
                ..limits(spec.size, self.cores)
            }),
            ..Default::default()
        }
    }

    /// The source goes to `/app`; the cache volume's top becomes the user's.
    async fn put_source(&self, name: &str, source: &Path) -> Result<(), RuntimeError> {
        let (source, folder) = (source.to_owned(), self.settings.temporary.clone());
        let file = tokio::task::spawn_blocking(move || source_tar(&source, &folder))
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(format!("the source cannot be unpacked: {error}")))?;
        let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(file), 256 * 1024);
        let options = UploadToContainerOptionsBuilder::default().path("/").build();
        self.engine
            .upload_to_container(name, Some(options), body_try_stream(stream))
            .await
            .map_err(|error| failed(format!("the source could not be given to the build: {}", describe(&error))))
    }

    /// Sends the output on until the build ends; an error unless it ended well.
    async fn follow(&self, name: &str, job: &BuildJob) -> Result<(), RuntimeError> {
        let output = job.output.clone();
        let mut lines = logs::read(&self.engine, name, None, None, true);
        let copying = async move {
            while let Some(line) = lines.next().await {
                let Ok(line) = line else { return };
                if output.send(line).await.is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(job.spec.timeout, copying).await.is_err() {
            let killed = self.engine.kill_container(name, None::<KillContainerOptions>).await;
            killed.map_err(|error| failed(describe(&error)))?;
            say(&job.output, "the build was stopped").await;
            return Err(failed(format!("the build took longer than {} s and was stopped", job.spec.timeout.as_secs())));
        }
        let state = tokio::time::timeout(OUTPUT_MARGIN, self.build_end(name))
            .await
            .map_err(|_| failed("the build's output broke off before it ended".to_owned()))??;
        match state {
            (0, _) => Ok(()),
            (_, true) => Err(failed(format!("the build used more than its {} of memory", job.spec.size.memory))),
            (code, _) => Err(failed(format!("the build ended with exit code {code}"))),
        }
    }

    async fn build_end(&self, name: &str) -> Result<(i64, bool), RuntimeError> {
        loop {
            let container = self
                .engine
                .inspect_container(name, None::<InspectContainerOptions>)
                .await
                .map_err(|error| failed(format!("the build's container is gone: {}", describe(&error))))?;
            let state = container.state.unwrap_or_default();
            if state.running != Some(true) {
                return Ok((state.exit_code.unwrap_or(-1), state.oom_killed == Some(true)));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Packs the container's `/app`.
    async fn take_bundle(&self, name: &str, to: PathBuf) -> Result<(), RuntimeError> {
        let options = DownloadFromContainerOptionsBuilder::default().path("/app").build();
        let stream = self.engine.download_from_container(name, Some(options));
        let stream = stream.map_err(|error| io::Error::other(describe(&error))).boxed();
        let reader = SyncIoBridge::new(StreamReader::new(stream));
        tokio::task::spawn_blocking(move || pack(reader, &to))
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| match error {
                ArchiveError::TooLarge(_) => failed(format!("the built app is too large: {error}")),
                other => failed(format!("the built app could not be packed: {}", chain(&other))),
            })
    }
}

fn failed(why: String) -> RuntimeError {
    RuntimeError::Build(why)
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

async fn say(output: &mpsc::Sender<LogLine>, text: &str) {
    let at = Some(Timestamp(pontoon_kit::clock::unix_millis()));
    // The reader of the output ends with the build; nobody waits for this line.
    let _ = output.send(LogLine { at, stderr: true, text: text.to_owned() }).await;
}

/// A plain tar for the container's root: `app/…` from the source, and `cache/`.
fn source_tar(source: &Path, folder: &Path) -> Result<File, ArchiveError> {
    let mut file = tempfile::tempfile_in(folder)?;
    let reader = GzDecoder::new(BufReader::new(File::open(source)?));
    archive::rewrite(reader, io::BufWriter::new(&mut file), None, archive::LIMITS)?;
    // Over the two empty blocks that end an archive.
    file.seek(io::SeekFrom::End(-1024))?;
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Directory);
    header.set_uid(APP_ID);
    header.set_gid(APP_ID);
    header.set_mode(0o755);
    header.set_size(0);
    let mut builder = Builder::new(&mut file);
    builder.append_data(&mut header, "cache", io::empty())?;
    builder.into_inner()?;
    file.rewind()?;
    Ok(file)
}

fn pack(reader: impl io::Read, to: &Path) -> Result<(), ArchiveError> {
    let mut encoder = zstd::Encoder::new(File::create(to)?, ZSTD_LEVEL)?;
    archive::rewrite(reader, &mut encoder, Some(archive::APP_FOLDER), archive::LIMITS)?;
    encoder.finish()?.sync_all()?;
    Ok(())
}
