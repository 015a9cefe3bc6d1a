//! One image per bundle and run image: the run image and one more layer with the app's files.
//!
//! The layer is given to the engine as a saved image that lacks the layers the engine has. Measured
//! with 400 files on fuse-overlayfs: 0.4 s, against 2.7 s for a `COPY` by the engine's builder. An
//! engine that refuses this gets the files into a container that is then committed.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, BufWriter, Seek};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use bollard::models::{ContainerConfig, ContainerCreateBody, ImageInspect};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, ImportImageOptions, ListImagesOptionsBuilder,
    RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder, UploadToContainerOptionsBuilder,
};
use bollard::{Docker, body_try_stream};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use pontoon_kit::clock;
use pontoon_model::Digest;
use serde_json::json;
use tar::{Builder, Header};
use tokio_util::io::ReaderStream;

use super::{DockerSettings, USER, describe, labels, status, unreachable};
use crate::archive;
use crate::hashing::Hashing;
use crate::runtime::{Launch, RuntimeError};

const REPOSITORY: &str = "pontoon/bundle";
/// Prepared images that no servo needs are kept this long, so that a rollback starts at once.
const KEPT_FOR: Duration = Duration::from_secs(6 * 3600);
/// And this many of them whatever their age.
const KEPT_NEWEST: usize = 3;
const TAR_BLOCK: u64 = 512;

/// The bundles' images.
#[derive(Default)]
pub(super) struct Images {
    /// One at a time: twenty servos of one bundle need one image, and the disk is the limit.
    making: tokio::sync::Mutex<()>,
    /// Tags known to be there, by bundle.
    known: Mutex<HashSet<(Digest, String)>>,
}

impl Images {
    /// The image for `launch`, made if it is not there.
    pub(super) async fn ensure(
        &self,
        engine: &Docker,
        settings: &DockerSettings,
        launch: &Launch,
    ) -> Result<String, RuntimeError> {
        let digest = launch.spec.bundle.digest;
        let failed = |why: String| RuntimeError::Prepare { bundle: digest, why };
        let base_name = launch.spec.language.run_image();
        let base = match engine.inspect_image(base_name).await {
            Ok(base) => base,
            Err(error) if status(&error) == Some(404) => return Err(RuntimeError::ImageMissing(base_name.into())),
            Err(error) => return Err(unreachable(error)),
        };
        // With the run image's id in its name: a new run image (security updates) makes a new one.
        let tag = format!("{}-{}", digest.short(), short_id(&base));
        if self.is_known(digest, &tag) {
            return Ok(format!("{REPOSITORY}:{tag}"));
        }
        let _one = self.making.lock().await;
        let image = format!("{REPOSITORY}:{tag}");
        if !self.is_known(digest, &tag) {
            if engine.inspect_image(&image).await.is_err() {
                make(engine, settings, launch, &base, base_name, &image).await.map_err(failed)?;
            }
            if let Ok(mut known) = self.known.lock() {
                known.insert((digest, tag));
            }
        }
        Ok(image)
    }

    /// An image was not there after all.
    pub(super) fn forget(&self, digest: Digest) {
        if let Ok(mut known) = self.known.lock() {
            known.retain(|(of, _)| *of != digest);
        }
    }

    fn is_known(&self, digest: Digest, tag: &str) -> bool {
        self.known.lock().is_ok_and(|known| known.contains(&(digest, tag.to_owned())))
    }
}

/// Removes prepared images but those in `keep`, the newest, and the young.
pub(super) async fn collect_garbage(engine: &Docker, keep: Vec<Digest>) -> Result<(), RuntimeError> {
    let filters = HashMap::from([("label", vec![labels::BUNDLE.to_owned()])]);
    let options = ListImagesOptionsBuilder::default().filters(&filters).build();
    let mut images = engine.list_images(Some(options)).await.map_err(unreachable)?;
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let keep: HashSet<String> = keep.iter().map(Digest::to_string).collect();
    let oldest = (clock::unix_millis() / 1000).saturating_sub(KEPT_FOR.as_secs());
    let unwanted = images
        .into_iter()
        .filter(|image| image.labels.get(labels::BUNDLE).is_none_or(|bundle| !keep.contains(bundle)))
        .skip(KEPT_NEWEST)
        .filter(|image| u64::try_from(image.created).unwrap_or(0) < oldest);
    for image in unwanted {
        let Some(tag) = image.repo_tags.first().filter(|tag| tag.starts_with(REPOSITORY)) else { continue };
        // Without force: the engine refuses while a container (of another agent) is made from it.
        match engine.remove_image(tag, Some(RemoveImageOptionsBuilder::default().build()), None).await {
            Ok(_) => tracing::info!(image = tag, "removed an unused bundle's image"),
            Err(error) => tracing::debug!(image = tag, why = describe(&error), "kept a bundle's image"),
        }
    }
    Ok(())
}

fn short_id(image: &ImageInspect) -> String {
    let id = image.id.as_deref().unwrap_or_default();
    id.trim_start_matches("sha256:").chars().take(12).collect()
}

async fn make(
    engine: &Docker,
    settings: &DockerSettings,
    launch: &Launch,
    base: &ImageInspect,
    base_name: &str,
    image: &str,
) -> Result<(), String> {
    let (bundle, folder) = (launch.bundle.clone(), settings.temporary.clone());
    let (layer, diff_id, size) = tokio::task::spawn_blocking(move || layer_of(&bundle, &folder))
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())?;
    let second = layer.try_clone().map_err(|error| error.to_string())?;
    match load(engine, layer, &diff_id, size, launch, base, image).await {
        Ok(()) => Ok(()),
        Err(why) => {
            tracing::info!(image, why, "the engine does not load a layer on its own; committing a container instead");
            commit(engine, second, launch, base_name, image).await
        }
    }
}

/// The bundle as an uncompressed layer in a nameless file, its sha256, and its size.
fn layer_of(bundle: &Path, folder: &Path) -> Result<(File, String, u64), archive::ArchiveError> {
    let mut hashing = Hashing::new(BufWriter::new(tempfile::tempfile_in(folder)?));
    let reader = zstd::Decoder::new(File::open(bundle)?)?;
    archive::rewrite(reader, &mut hashing, Some(archive::APP_FOLDER), archive::LIMITS)?;
    let (buffer, digest, size) = hashing.finish()?;
    let mut file = buffer.into_inner().map_err(io::IntoInnerError::into_error)?;
    file.rewind()?;
    Ok((file, format!("sha256:{digest}"), size))
}

async fn load(
    engine: &Docker,
    layer: File,
    diff_id: &str,
    size: u64,
    launch: &Launch,
    base: &ImageInspect,
    image: &str,
) -> Result<(), String> {
    let head = saved_image(diff_id, size, launch.spec.bundle.digest, base, image).map_err(|error| error.to_string())?;
    let padding = (TAR_BLOCK - size % TAR_BLOCK) % TAR_BLOCK + 2 * TAR_BLOCK;
    let tail = Bytes::from(vec![0; padding as usize]);
    let body = stream::once(async { Ok(Bytes::from(head)) })
        .chain(ReaderStream::with_capacity(tokio::fs::File::from_std(layer), 256 * 1024))
        .chain(stream::once(async { Ok(tail) }));
    let answers = engine.import_image(ImportImageOptions::default(), body_try_stream(body), None);
    answers.try_for_each(|_| std::future::ready(Ok(()))).await.map_err(|error| describe(&error))?;
    // An answer without an error is no proof: look.
    engine.inspect_image(image).await.map(|_| ()).map_err(|error| describe(&error))
}

/// The beginning of a saved image: configuration, manifest, empty files for the layers of `base`, and
/// the head of the new layer, whose bytes follow.
fn saved_image(diff_id: &str, size: u64, bundle: Digest, base: &ImageInspect, image: &str) -> io::Result<Vec<u8>> {
    let config = base.config.clone().unwrap_or_default();
    let below = base.root_fs.as_ref().and_then(|layers| layers.layers.clone()).unwrap_or_default();
    let mut layers = below.clone();
    layers.push(diff_id.to_owned());
    let mut image_labels = config.labels.unwrap_or_default();
    image_labels.insert(labels::BUNDLE.into(), bundle.to_string());
    let config = json!({
        "architecture": base.architecture,
        "os": base.os,
        "created": clock::rfc3339(clock::unix_millis() / 1000),
        "config": {
            "Env": config.env, "Cmd": config.cmd, "User": USER, "WorkingDir": "/app", "Labels": image_labels,
        },
        "rootfs": { "type": "layers", "diff_ids": layers },
    });
    let config = config.to_string();
    let config_name = format!("{}.json", Digest::of(config.as_bytes()));
    let names: Vec<String> = (0..layers.len()).map(|number| format!("{number}/layer.tar")).collect();
    let manifest = json!([{ "Config": config_name, "RepoTags": [image], "Layers": names }]).to_string();

    let mut builder = Builder::new(Vec::new());
    let mut add = |name: &str, bytes: &[u8], len: u64| {
        let mut header = Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(len);
        header.set_path(name)?;
        header.set_cksum();
        builder.append(&header, bytes)
    };
    add(&config_name, config.as_bytes(), config.len() as u64)?;
    add("manifest.json", manifest.as_bytes(), manifest.len() as u64)?;
    for name in &names[..below.len()] {
        add(name, b"", 0)?;
    }
    add(&names[below.len()], b"", size)?;
    // Not `into_inner`, which would end the archive here.
    Ok(std::mem::take(builder.get_mut()))
}

/// The slow way, by what every engine can: put the files into a container and commit it.
async fn commit(engine: &Docker, mut layer: File, launch: &Launch, base: &str, image: &str) -> Result<(), String> {
    let name = format!("pontoon-prepare-{}-{:08x}", launch.spec.bundle.digest.short(), rand::random::<u32>());
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    let label = HashMap::from([(labels::BUNDLE.to_owned(), launch.spec.bundle.digest.to_string())]);
    let body = ContainerCreateBody { image: Some(base.into()), labels: Some(label.clone()), ..Default::default() };
    let failed = |error: bollard::errors::Error| describe(&error);
    engine.create_container(Some(options), body).await.map_err(failed)?;
    let committed = async {
        layer.rewind().map_err(|error| error.to_string())?;
        let stream = ReaderStream::with_capacity(tokio::fs::File::from_std(layer), 256 * 1024);
        let to = UploadToContainerOptionsBuilder::default().path("/").build();
        engine.upload_to_container(&name, Some(to), body_try_stream(stream)).await.map_err(failed)?;
        let (repo, tag) = image.split_once(':').unwrap_or((image, "latest"));
        let options =
            CommitContainerOptionsBuilder::default().container(&name).repo(repo).tag(tag).pause(false).build();
        let config = ContainerConfig { labels: Some(label), ..Default::default() };
        engine.commit_container(options, config).await.map_err(failed).map(|_| ())
    }
    .await;
    let remove = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    if let Err(error) = engine.remove_container(&name, Some(remove)).await {
        tracing::warn!(container = name, error = describe(&error), "a container could not be removed");
    }
    committed
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_head_of_a_saved_image_names_all_layers_and_is_followed_by_the_new_one() {
        let base: ImageInspect = serde_json::from_value(json!({
            "Architecture": "amd64", "Os": "linux", "RootFS": { "Type": "layers", "Layers": ["sha256:a"] },
            "Config": { "Env": ["PATH=/bin"], "Labels": { "x": "y" } },
        }))
        .unwrap();
        let mut bytes = saved_image("sha256:b", 3, Digest::of(b"b"), &base, "pontoon/bundle:t").unwrap();
        bytes.extend(b"new");
        bytes.resize(bytes.len() + 509 + 1024, 0);
        let mut archive = tar::Archive::new(&bytes[..]);
        let files: Vec<(String, String)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                (entry.path().unwrap().display().to_string(), text)
            })
            .collect();
        assert!(files[0].1.contains(r#""diff_ids":["sha256:a","sha256:b"]"#), "{files:?}");
        assert!(files[0].1.contains("PATH=/bin") && files[0].1.contains("pontoon.bundle"), "{files:?}");
        assert!(files[1].1.contains(&files[0].0) && files[1].1.contains("pontoon/bundle:t"), "{files:?}");
        assert_eq!((files[2].1.as_str(), files[3].1.as_str()), ("", "new"));
    }
}
