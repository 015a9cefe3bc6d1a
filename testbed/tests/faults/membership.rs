//! Links that are cut while the membership changes: whatever becomes of a change, in the end all know one membership.

use anyhow::{Context, Result, ensure};
use pontoon_testbed::controllers::{Controllers, Kind};
use pontoon_testbed::until;
use reqwest::Method;

use crate::some;
use crate::workload::{PATIENCE, Workload};

/// The one that comes and goes.
const LAST: usize = 3;

/// Asks the leader for a change and cuts `these` off before it can be done; goes on once the others write, and heals.
fn cut_in_the_middle(
    controllers: &mut Controllers,
    workload: &Workload,
    (method, path): (&Method, &str),
    these: impl Fn(usize) -> Vec<usize>,
) -> Result<()> {
    let leader = controllers.until_whole()?;
    let cut = these(leader);
    controllers.isolate(&cut)?;
    let asked = controllers.change_and_go_on(leader, method.clone(), path);
    workload.until_more(some())?;
    // Where the one that is to go led, the others go on without it at once, and it may have ended by now.
    let stays = |one: &usize| !cut.contains(one) && (*method != Method::DELETE || *one != LAST);
    let majority: Vec<usize> = controllers.all().filter(stays).collect();
    controllers.until_led(&majority)?;
    controllers.heal();
    // Who was asked carries the wish on to whoever leads by then: it may be done, or not.
    let answer = asked.join().ok().context("who asked panicked")?;
    eprintln!("{method} {path} with {cut:?} cut off: {answer:?}");
    Ok(())
}

/// Asks again, as a person would, until it is done.
fn until_done(controllers: &Controllers, (method, path): (&Method, &str)) -> Result<()> {
    until(&format!("{method} {path} to be done"), PATIENCE, || {
        let (status, said) = controllers.change(0, method.clone(), path)?;
        // The one that is to go may be gone already, by an earlier try.
        let gone = status == 404 && *method == Method::DELETE;
        ensure!((status == 200 && said.contains("\"done\":true")) || gone, "{status} {said}");
        Ok(())
    })
}

#[test]
fn a_partition_while_a_learner_is_promoted_and_while_a_voter_is_removed_leaves_one_membership() -> Result<()> {
    let mut controllers = Controllers::start(&Kind { proxied: true, last_joins: true, ..Kind::of(4) })?;
    let workload = Workload::start(&controllers)?;
    let name = controllers.name(LAST);
    let voters = |of: &std::collections::BTreeMap<String, bool>| of.values().filter(|votes| **votes).count();
    until("the last to follow", PATIENCE, || {
        let membership = controllers.until_one_membership()?;
        ensure!(membership.get(name) == Some(&false) && membership.len() == 4, "{membership:?}");
        Ok(())
    })?;

    let promote = format!("/v1/controllers/{name}/promote");
    let promote = (&Method::POST, promote.as_str());
    // In neither of these it can become a voter while the leader is cut off: a majority of those that vote is on the other
    // side. The second time it may be one already.
    cut_in_the_middle(&mut controllers, &workload, promote, |leader| vec![leader, LAST])?;
    cut_in_the_middle(&mut controllers, &workload, promote, |leader| vec![leader])?;
    controllers.until_whole()?;
    let membership = controllers.until_one_membership()?;
    ensure!(membership.len() == 4 && voters(&membership) >= 3, "{membership:?}");
    // Without one that follows, it can.
    cut_in_the_middle(&mut controllers, &workload, promote, |leader| vec![(leader + 1) % LAST])?;
    until_done(&controllers, promote)?;
    controllers.until_whole()?;
    let membership = controllers.until_one_membership()?;
    ensure!(membership.len() == 4 && voters(&membership) == 4, "{membership:?}");

    let remove = format!("/v1/controllers/{name}");
    let remove = (&Method::DELETE, remove.as_str());
    // The leader alone is no majority; then the one that is to go hears nothing of it.
    cut_in_the_middle(&mut controllers, &workload, remove, |leader| vec![if leader == LAST { 0 } else { leader }])?;
    workload.until_more(some())?;
    if controllers.processes[LAST].is_running()? {
        controllers.isolate(&[LAST])?;
        until_done(&controllers, remove)?;
        workload.until_more(some())?;
        controllers.heal();
    }
    until_done(&controllers, remove)?;
    let code = until("the removed one to end by itself", PATIENCE, || {
        controllers.processes[LAST].exit_code()?.context("it still runs")
    })?;
    let said = controllers.processes[LAST].log_tail();
    // Its key is revoked with its removal: it hears of whichever comes first.
    let why = ["was removed from its cluster", "its certificate is revoked"];
    ensure!(code == 1 && why.iter().any(|why| said.contains(why)), "{code}: {said}");
    controllers.forget_the_last();
    let membership = controllers.until_one_membership()?;
    ensure!(membership.len() == 3 && voters(&membership) == 3, "{membership:?}");
    workload.finish(&mut controllers).map(drop)
}
