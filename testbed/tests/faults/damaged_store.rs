//! Stores that are damaged or gone when their controller starts.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use pontoon_testbed::app::copy;
use pontoon_testbed::controllers::{Controllers, Kind};
use pontoon_testbed::until;
use serde_json::Value as Json;

use crate::workload::{PATIENCE, Workload};
use crate::{few, rounds, some};

/// What its log says, once, of a store that cannot be used.
const LOSS: &str = "is lost or damaged";

/// sled's file.
fn database(controllers: &Controllers, one: usize) -> PathBuf {
    controllers.raft_folder(one).join("log").join("db")
}

/// What a controller may find of its store.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// Everything is gone but who it was.
    Gone,
    /// The file ends early. The journal may have everything after that.
    Cut,
    /// All of it is noise.
    Noise,
}

impl Damage {
    /// Whether something is lost for sure.
    fn is_loss(self) -> bool {
        !matches!(self, Self::Cut)
    }
}

fn damage(controllers: &Controllers, one: usize, how: Damage) -> Result<()> {
    let path = database(controllers, one);
    let length = fs::metadata(&path)?.len();
    match how {
        Damage::Gone => {
            for entry in fs::read_dir(controllers.raft_folder(one))? {
                let path = entry?.path();
                if path.is_dir() {
                    fs::remove_dir_all(path)?;
                } else if path.file_name().is_some_and(|name| name != "identity") {
                    fs::remove_file(path)?;
                }
            }
        }
        Damage::Cut => fs::OpenOptions::new().write(true).open(&path)?.set_len(length / 8)?,
        Damage::Noise => {
            let mut bytes = fs::read(&path)?;
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte ^= (at as u8).wrapping_mul(31) | 1;
            }
            fs::write(&path, bytes)?;
        }
    }
    Ok(())
}

#[test]
fn a_controller_whose_store_is_gone_votes_again_under_a_new_id() -> Result<()> {
    comes_back_after(&[Damage::Gone])
}

#[test]
fn a_controller_whose_store_is_damaged_votes_again_under_a_new_id() -> Result<()> {
    comes_back_after(&[Damage::Cut, Damage::Noise])
}

fn comes_back_after(damages: &[Damage]) -> Result<()> {
    let mut controllers = Controllers::start(&Kind::of(3))?;
    let workload = Workload::start(&controllers)?;
    for round in 0..rounds(damages.len(), 4 * damages.len()) {
        workload.until_more(some())?;
        let leader = controllers.until_whole()?;
        let others = controllers.others(leader);
        // Whoever it is: the second time the leader.
        let victim = if round % 2 == 0 { others[0] } else { leader };
        let old = id_of(&controllers, controllers.others(victim)[0], controllers.name(victim))?;
        let before = quarantined(&controllers, victim)?.len();
        controllers.kill(&[victim])?;
        workload.until_more(few())?;
        let how = damages[round % damages.len()];
        damage(&controllers, victim, how)?;
        let said = |controllers: &Controllers| controllers.processes[victim].log().matches(LOSS).count();
        let before_it = said(&controllers);
        controllers.restart(&[victim])?;
        until(&format!("{} to answer", controllers.name(victim)), PATIENCE, || {
            controllers.get(victim, "/v1/status").map(drop)
        })?;
        // A loss is noticed before anything is answered.
        let losses = said(&controllers) - before_it;
        if losses == 0 {
            ensure!(!how.is_loss(), "{how:?} was not noticed:\n{}", controllers.processes[victim].log_tail());
            controllers.until_whole()?;
            let id = id_of(&controllers, controllers.others(victim)[0], controllers.name(victim))?;
            ensure!(id == old, "nothing was lost, and yet {old} is {id} now");
            ensure!(quarantined(&controllers, victim)?.len() == before, "a whole store was set aside");
        } else {
            let new = until_replaced(&controllers, victim, &old)?;
            ensure!(new != old, "the same id votes again");
            ensure!(quarantined(&controllers, victim)?.len() == before + 1, "the store was not set aside");
            let losses = said(&controllers) - before_it;
            ensure!(losses == 1, "the loss was said in {losses} lines:\n{}", controllers.processes[victim].log_tail());
        }
        // It counts: with another one gone, there is a majority only with it.
        let gone = controllers.others(victim)[round / 2 % 2];
        controllers.kill(&[gone])?;
        workload.until_more(few())?;
        controllers.restart(&[gone])?;
        controllers.until_whole()?;
    }
    workload.finish(&mut controllers).map(drop)
}

#[test]
fn with_a_majority_damaged_nothing_is_set_aside_and_nothing_acknowledged() -> Result<()> {
    let mut controllers = Controllers::start(&Kind::of(3))?;
    let workload = Workload::start(&controllers)?;
    workload.until_more(some())?;
    let all: Vec<usize> = controllers.all().collect();
    let (damaged, whole) = ([0, 1], 2);
    controllers.kill(&all)?;
    let copies = tempfile::tempdir()?;
    for one in damaged {
        copy(&controllers.raft_folder(one), &copies.path().join(one.to_string()))?;
        damage(&controllers, one, Damage::Gone)?;
    }
    let stuck = workload.acknowledged();
    controllers.restart(&all)?;
    for one in damaged {
        until("it to say that it may not set its store aside", PATIENCE, || {
            let log = controllers.processes[one].log();
            ensure!(
                log.contains(LOSS) && log.contains("may not set its store aside yet"),
                "{}",
                controllers.processes[one].log_tail()
            );
            Ok(())
        })?;
        ensure!(quarantined(&controllers, one)?.is_empty(), "a store was set aside");
    }
    let status = controllers.get(whole, "/v1/status")?;
    ensure!(status["leader"].is_null(), "one of three leads: {status}");
    ensure!(workload.acknowledged() == stuck, "a write was acknowledged without a majority");
    // A person puts back what a backup has: everything is there again.
    controllers.kill(&damaged)?;
    for one in damaged {
        let folder = controllers.raft_folder(one);
        fs::remove_dir_all(&folder)?;
        copy(&copies.path().join(one.to_string()), &folder)?;
    }
    controllers.restart(&damaged)?;
    workload.until_more(few())?;
    workload.finish(&mut controllers).map(drop)
}

/// Waits until the others list `victim` as a voter under another id than `old`, and that one no longer.
fn until_replaced(controllers: &Controllers, victim: usize, old: &str) -> Result<String> {
    let name = controllers.name(victim);
    until(&format!("{name} to vote under a new id"), PATIENCE, || {
        let mut new = None;
        for one in controllers.all() {
            let list = controllers.get(one, "/v1/controllers")?;
            let rows = list.as_array().context("not a list")?;
            ensure!(
                rows.iter().all(|row| row["id"] != old || row["role"] == "removed"),
                "{old} is still there: {list}"
            );
            let row = rows.iter().find(|row| row["name"] == name && row["id"] != old).context("not listed")?;
            ensure!(
                row["role"] == "voter" || row["role"] == "leader",
                "{} calls it {}",
                controllers.name(one),
                row["role"]
            );
            new = row["id"].as_str().map(str::to_owned);
        }
        new.context("nobody was asked")
    })
}

fn id_of(controllers: &Controllers, one: usize, name: &str) -> Result<String> {
    let list = controllers.get(one, "/v1/controllers")?;
    let votes = |row: &&Json| row["name"] == name && (row["role"] == "voter" || row["role"] == "leader");
    let row = list.as_array().into_iter().flatten().find(votes).with_context(|| format!("{name} is not in {list}"))?;
    Ok(row["id"].as_str().context("id")?.to_owned())
}

fn quarantined(controllers: &Controllers, one: usize) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(controllers.data_folder(one))? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("raft.quarantined-")) {
            found.push(path);
        }
    }
    Ok(found)
}
