//! `pontoon controller recover --from-this-copy`: for a majority of controllers that is lost for good. What this controller's
//! store holds becomes the cluster, unless others answer that it lives.

use std::io::{self, IsTerminal};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use pontoon_controller::Config;
use pontoon_controller::raft::{At, Elsewhere, LastCopy, Member, begin_anew, elsewhere, last_copy};
use pontoon_enrol::Remembered;
use pontoon_kit::{Credentials, FolderLock, Identity, clock, file};
use pontoon_model::{ControllerName, MachineRole, Timestamp};

use super::init::new_id;
use crate::Usage;
use crate::output;
use crate::small_file::{self, MOST_TOML};

/// Arguments of `controller recover`.
#[derive(Debug, Args)]
pub struct RecoverArgs {
    /// Say that what this controller's store holds shall become the cluster
    #[arg(long, required = true)]
    from_this_copy: bool,
    /// Its configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Do it without asking
    #[arg(long)]
    yes: bool,
    /// Do it although the cluster lives without this controller, or has shut it out
    #[arg(long)]
    force: bool,
}

/// Says what it would do, asks, does it.
pub async fn run(args: &RecoverArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.config)?;
    // Also held by its log; but whoever reads of a port knows what to do.
    TcpListener::bind(config.grpc).map(drop).with_context(|| {
        format!("something listens on {}: stop this controller first; nothing was changed", config.grpc)
    })?;
    // One that is starting may not listen yet.
    let _lock = match config.data_dir.is_dir() {
        true => Some(FolderLock::try_take(&config.data_dir).map_err(|error| {
            let said = error.in_words("stop this controller first");
            anyhow::Error::from(error).context(format!("{said}; nothing was changed"))
        })?),
        false => None,
    };
    let copy = last_copy(&config.data_dir, config.id).await?;
    if !args.force {
        refuse_if_the_cluster_lives(&config, &copy, &args.config).await?;
    }
    output::note(&warning(&config, &copy));
    if !args.yes && !confirmed()? {
        bail!("nothing was changed");
    }
    let LastCopy { id: former, state, members, .. } = copy;
    let machine = |name: &ControllerName| state.trust().machine(MachineRole::Controller, name.as_str());
    let own = machine(&config.name).map(|row| row.as_ref().clone());
    let others: Vec<_> = members.iter().map(|member| &member.name).filter(|name| **name != config.name).collect();
    // Their certificates were made elsewhere, and no row says for which keys.
    let unknown: Vec<_> = others.iter().filter(|name| machine(name).is_none()).map(|name| name.as_str()).collect();
    let others = said_of_the_others(others.len(), &unknown);
    let state = state.begun_anew(own, Timestamp(clock::unix_millis()));
    let (epoch, id) = (state.epoch(), new_id());
    let member = Member { id, name: config.name.clone(), grpc: config.grpc_address() };
    // The configuration first: with it, the old store is refused as another's, and with the old one nothing has happened yet.
    let kept = rewrite(&args.config, &member)?;
    let aside = match begin_anew(&config.data_dir, member, state).await {
        Ok(aside) => aside,
        Err(error) => {
            std::fs::rename(&kept, &args.config).with_context(|| format!("cannot put {} back", kept.display()))?;
            return Err(error.into());
        }
    };
    Ok(output::line(&format!(
        "controller {} is now the only one of the cluster (id {id}, epoch {epoch}; before: {former})\n\n  the old store is in \
         {}, the old configuration in {}\n  {others}\n\nstart it with\n\n    pontoon controller --config {}",
        config.name,
        aside.display(),
        kept.display(),
        args.config.display()
    ))?)
}

/// All that this controller can know of are asked: whoever has a majority goes on without it, and what is acknowledged there would
/// be lost.
async fn refuse_if_the_cluster_lives(config: &Config, copy: &LastCopy, path: &Path) -> anyhow::Result<()> {
    let asking = Identity::load(&config.tls_dir).and_then(Credentials::new);
    let credentials = match asking {
        Ok(credentials) => credentials,
        Err(error) => {
            output::note(&format!("the other controllers cannot be asked whether they live: {error}\n"));
            return Ok(());
        }
    };
    let remembered = Remembered::in_folder(&config.data_dir).load().known.into_iter().map(|known| known.grpc);
    let configured = config.members.iter().map(|member| member.grpc);
    let mut others: Vec<_> =
        copy.members.iter().map(|member| member.grpc).chain(configured).chain(remembered).collect();
    others.sort_unstable();
    others.dedup();
    others.retain(|address| *address != config.grpc_address());
    let name_of =
        |address| copy.members.iter().find(|member| member.grpc == address).map(|member| member.name.to_string());
    match elsewhere(&credentials, copy.id, &others).await {
        Elsewhere::Nobody => Ok(()),
        Elsewhere::Leads(address) => bail!(
            "the cluster lives: {} at {address} leads, and a majority has answered it just now. This would end it, with all that \
             it has acknowledged since this copy. Start this controller instead (`pontoon controller --config {}`); if it was \
             removed, set its folder aside and let it join with a new token. With --force it is done all the same; nothing was \
             changed",
            name_of(address).unwrap_or_else(|| "the controller".to_owned()),
            path.display()
        ),
        Elsewhere::Refuses(address, why) => bail!(
            "{} at {address} runs, and does not let this one ask whether the cluster lives ({why}). If it does, this would end it. \
             Look there first (`pontoon controllers`); with --force it is done all the same; nothing was changed",
            name_of(address).unwrap_or_else(|| "the controller".to_owned()),
        ),
        Elsewhere::ShutOut => bail!(
            "the cluster lives, and has shut this controller out: another one says that its certificate is revoked. What its copy \
             holds is not the cluster's any more. With --force a cluster is made of it all the same; nothing was changed"
        ),
    }
}

fn said_of_the_others(count: usize, unknown: &[&str]) -> String {
    let mut said = Vec::new();
    if unknown.len() < count {
        said.push(
            "the others' certificates are revoked: one that comes back is refused, and stops when it is told so. To use its \
             machine again, set its folder aside there and `pontoon controller join`"
                .to_owned(),
        );
    }
    if !unknown.is_empty() {
        said.push(format!(
            "the certificates of {} were made elsewhere, so they cannot be shut out: never start them again with their data \
             folders",
            unknown.join(", ")
        ));
    }
    said.join("\n  ")
}

fn warning(config: &Config, copy: &LastCopy) -> String {
    let at = |at: &Option<At>| {
        at.map_or_else(
            || "none".to_owned(),
            |at| format!("index {}, term {}, {} ago", at.index, at.term, output::age(at.time.0)),
        )
    };
    let members: Vec<_> = copy.members.iter().map(|member| member.name.as_str()).collect();
    format!(
        "controller {} of the members {}\n\n  last entry known to be committed:  {}\n  last entry:                        {}\n\n\
         This makes a cluster of this controller alone out of its copy. What others acknowledged after that last entry is \
         lost for good; what lies between the two may not have been acknowledged, and is kept. If more than half of the \
         controllers can be started, start them instead. If others have a copy too, take the one with the highest term, and \
         of these the highest index: the same command without --yes shows it there.\n",
        config.name,
        members.join(", "),
        at(&copy.committed),
        at(&copy.last)
    )
}

fn confirmed() -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Usage("no terminal to ask: say --yes to do it without asking; nothing was changed".into()).into());
    }
    output::note("Type yes to go on:");
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    Ok(answer.trim() == "yes")
}

/// The same configuration for `own` alone; says where the old one is kept.
fn rewrite(path: &Path, own: &Member) -> anyhow::Result<PathBuf> {
    let text = small_file::read(path, MOST_TOML).with_context(|| format!("cannot read {}", path.display()))?;
    let mut table: toml::Table = text.parse().with_context(|| format!("cannot read {}", path.display()))?;
    let id = toml::Value::try_from(own.id)?;
    let mut member = toml::Table::new();
    member.insert("id".into(), id.clone());
    member.insert("name".into(), own.name.as_str().into());
    member.insert("grpc".into(), own.grpc.to_string().into());
    table.insert("id".into(), id);
    table.insert("members".into(), toml::Value::Array(vec![member.into()]));
    // It votes, and joins nobody.
    table.remove("join");
    table.remove("voter");
    let kept = path.with_extension("toml.before-recovery");
    let write = |path: &Path, text: &str| {
        file::replace(path, text.as_bytes(), 0o600).with_context(|| format!("cannot write {}", path.display()))
    };
    write(&kept, &text)?;
    write(path, &toml::to_string(&table)?)?;
    Ok(kept)
}
