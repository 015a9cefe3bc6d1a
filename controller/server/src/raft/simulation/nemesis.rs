//! Trouble: crashes, partitions, pauses, bad disks, wrong clocks, snapshots and handovers, as the seed has it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::controller::{crash, name_of, start};
use super::disk::Cut;
use super::events::Event;
use super::network::address_of;
use super::world::World;
use crate::raft::{Change, Joining};

/// How far a wall clock may go wrong, in milliseconds, either way: keys are remembered for ten minutes of the
/// entries' time, and two of these are less.
const SKEW: u64 = 240_000;

/// Of a hundred troubles so many are changes of the membership: some in each run, each in the middle of other trouble.
const MEMBERS: u64 = 20;

/// Makes trouble for as long as the plan says.
pub(super) async fn run(world: Arc<World>) {
    let end = world.now() + world.plan.trouble;
    while world.now() < end {
        trouble(&world).await;
        let (least, most) = world.plan.pause;
        tokio::time::sleep(world.millis(least, most)).await;
    }
}

/// Everything works again.
pub(super) fn heal(world: &Arc<World>) {
    note(world, "all is healed".to_owned());
    world.network.heal();
    for (node, slot) in world.slots.iter().enumerate() {
        slot.disk.heal();
        if let Some(life) = slot.life() {
            life.resume();
        }
        start(world, node);
    }
}

fn note(world: &World, text: String) {
    world.observe(Event::Trouble(text));
}

fn any(world: &World) -> usize {
    world.below(world.plan.nodes as u64) as usize
}

/// The leader, more often than chance has it.
fn someone(world: &World) -> usize {
    let leader = (0..world.plan.nodes).find(|node| world.slots[*node].leads());
    leader.filter(|_| world.percent(40)).unwrap_or_else(|| any(world))
}

/// Does `then` after `wait`.
fn later(world: &Arc<World>, wait: Duration, then: impl FnOnce(&Arc<World>) + Send + 'static) {
    let world = world.clone();
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        then(&world);
    });
}

fn restart_later(world: &Arc<World>, node: usize) {
    let wait = if world.percent(60) { world.millis(0, 800) } else { world.millis(0, 4_000) };
    later(world, wait, move |world| start(world, node));
}

async fn trouble(world: &Arc<World>) {
    // A roll of its own, so that what else happens keeps its shares.
    if world.percent(MEMBERS) {
        return change_members(world);
    }
    match world.below(100) {
        0..12 => kill(world, someone(world)),
        12..18 => cut_power(world, someone(world)),
        18..30 => cut_power_while_writing(world, someone(world)).await,
        30..35 => crash_several(world),
        35..50 => partition(world),
        50..56 => {
            let (one, other) = (any(world), any(world));
            note(world, format!("the connections between {one} and {other} are reset"));
            world.network.reset(one, other);
        }
        56..64 => pause(world, someone(world)),
        64..70 => jump(world),
        70..78 => bad_disk(world),
        78..86 => snapshot(world, any(world)).await,
        86..91 => hand_over(world),
        91..94 => elect(world, any(world)).await,
        94..97 => stop(world, someone(world)),
        _ => note(world, "nothing".to_owned()),
    }
}

fn kill(world: &Arc<World>, node: usize) {
    crash(world, node, "killed", true);
    restart_later(world, node);
}

fn cut_power(world: &Arc<World>, node: usize) {
    crash(world, node, "without power", false);
    restart_later(world, node);
}

/// The power goes in the middle of the node's next write, if there is one soon.
async fn cut_power_while_writing(world: &Arc<World>, node: usize) {
    let Some(life) = world.slots[node].life() else { return };
    let cut = *world.pick(&[Cut::InSync, Cut::InJournal, Cut::AfterSync]);
    note(world, format!("the power of {node} will go: {cut:?}"));
    world.slots[node].disk.arm(cut);
    let _ = tokio::time::timeout(Duration::from_millis(1_500), life.ended.cancelled()).await;
    crash(world, node, "without power", false);
    restart_later(world, node);
}

fn crash_several(world: &Arc<World>) {
    let count = 1 + world.below(world.plan.nodes as u64) as usize;
    let first = any(world);
    let power = world.percent(50);
    for node in (0..count).map(|at| (first + at) % world.plan.nodes) {
        if power { cut_power(world, node) } else { kill(world, node) }
    }
}

fn partition(world: &Arc<World>) {
    let nodes = world.plan.nodes;
    let alone = someone(world);
    let others = (0..nodes).filter(|node| *node != alone);
    let mut cuts = Vec::new();
    let kind = match world.below(4) {
        0 => {
            others.for_each(|node| cuts.extend([(alone, node), (node, alone)]));
            format!("{alone} is cut off")
        }
        1 => {
            others.for_each(|node| cuts.push((alone, node)));
            format!("nobody hears {alone}")
        }
        2 => {
            others.for_each(|node| cuts.push((node, alone)));
            format!("{alone} hears nobody")
        }
        _ => {
            // All but one see only half; that one sees all.
            let left = |node: usize| (node + nodes - alone) % nodes <= nodes / 2;
            for one in others.clone() {
                others.clone().filter(|other| left(one) != left(*other)).for_each(|other| cuts.push((one, other)));
            }
            format!("{alone} is the bridge")
        }
    };
    note(world, format!("{kind}: {cuts:?}"));
    for (from, to) in cuts {
        world.network.cut(world, from, to);
    }
    later(world, world.millis(200, 6_000), |world| {
        note(world, "partitions end".to_owned());
        world.network.heal();
    });
}

fn pause(world: &Arc<World>, node: usize) {
    let Some(life) = world.slots[node].life() else { return };
    note(world, format!("{node} is paused"));
    life.pause();
    later(world, world.millis(50, 4_000), move |world| {
        note(world, format!("{node} goes on"));
        life.resume();
    });
}

fn jump(world: &Arc<World>) {
    let node = any(world);
    let skew = world.below(2 * SKEW) as i64 - SKEW as i64;
    note(world, format!("the clock of {node} is {skew} ms ahead"));
    world.set_skew(node, skew);
}

fn bad_disk(world: &Arc<World>) {
    let node = any(world);
    let disk = world.slots[node].disk.clone();
    match world.below(3) {
        0 => {
            note(world, format!("the disk of {node} is full"));
            disk.set_full(true);
        }
        1 => {
            let percent = 300 + world.below(10_000);
            note(world, format!("the disk of {node} takes {percent} % of its time"));
            disk.set_slowness(percent);
        }
        _ => {
            note(world, format!("the disk of {node} stalls"));
            disk.set_stalled(true);
        }
    }
    later(world, world.millis(200, 3_000), move |_| disk.heal());
}

/// A snapshot, and nothing kept behind it: whoever is behind needs it.
async fn snapshot(world: &Arc<World>, node: usize) {
    let Some((life, consensus)) = world.slots[node].consensus() else { return };
    let raft = consensus.raft.clone();
    drop(consensus);
    note(world, format!("{node} makes a snapshot"));
    let before = world.millis(20, 600);
    life.spawn(async move {
        use openraft::async_runtime::watch::WatchReceiver;
        raft.trigger().snapshot().await.ok()?;
        tokio::time::sleep(before).await;
        let upto = raft.metrics().borrow_watched().snapshot?.index();
        raft.trigger().purge_log(upto).await.ok()
    });
}

fn hand_over(world: &Arc<World>) {
    let to = any(world);
    for node in 0..world.plan.nodes {
        if let Some((_, consensus)) = world.slots[node].consensus().filter(|_| world.slots[node].leads()) {
            // Not openraft's own: a leader that hands over to who cannot lead leads nobody any more.
            let answer = consensus.membership().ask(&Change::Transfer { to: Some(name_of(to)) });
            note(world, format!("{node} hands over to {to}: {answer:?}"));
        }
    }
}

/// A controller leaves, or one that has left comes back. Production gives who comes back a new id; what the entries are like
/// is the same.
fn change_members(world: &Arc<World>) {
    let (one, comes_back, force) = (any(world), world.percent(60), world.percent(50));
    for node in 0..world.plan.nodes {
        let Some((_, consensus)) = world.slots[node].consensus().filter(|_| world.slots[node].leads()) else {
            continue;
        };
        let members = consensus.members();
        let has_left = |node: &usize| members.iter().all(|member| member.id != super::id_of(*node));
        let change = match (0..world.plan.nodes).find(has_left).filter(|_| comes_back) {
            Some(node) => join(node),
            None => Change::Remove { name: name_of(one), force },
        };
        let answer = consensus.membership().ask(&change);
        note(world, format!("{node} is asked: {change:?}: {answer:?}"));
    }
}

/// That controller `node` is let in.
pub(super) fn join(node: usize) -> Change {
    let (id, name, grpc) = (super::id_of(node), name_of(node), address_of(node));
    Change::Join(Joining { id, name, grpc, voter: true, empty: false })
}

async fn elect(world: &Arc<World>, node: usize) {
    if let Some((life, consensus)) = world.slots[node].consensus() {
        note(world, format!("{node} asks to lead"));
        let raft = consensus.raft.clone();
        let pre_vote = world.percent(50);
        life.spawn(async move { raft.trigger().elect(pre_vote).await });
    }
}

/// A planned stop, as on SIGTERM.
fn stop(world: &Arc<World>, node: usize) {
    let Some((life, consensus)) = world.slots[node].consensus() else { return };
    note(world, format!("{node} is told to stop"));
    life.stopping.store(true, Ordering::Relaxed);
    let stopping = life.spawn(async move { consensus.shutdown().await });
    let world = world.clone();
    tokio::spawn(async move {
        let _ = tokio::time::timeout(Duration::from_secs(10), stopping).await;
        if world.slots[node].life().is_some_and(|now| now.number == life.number) {
            crash(&world, node, "stopped", true);
            restart_later(&world, node);
        }
    });
}
