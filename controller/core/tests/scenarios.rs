//! Sessions in words, with the plan and the routes after each step. `UPDATE_EXPECT=1` renews the outputs;
//! their difference in review is the change of behaviour.

mod common;

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::time::Duration;

use common::World;
use expect_test::expect_file;
use pontoon_core::command::*;
use pontoon_core::{Op, Reply, view};
use pontoon_model::*;

fn op_text(op: &Op) -> String {
    match op {
        Op::SetHostState { host, state, .. } => format!("host {host} is {state}"),
        Op::PlaceServo { app, process, deployment, host, size } => {
            format!("place {app} {process} of {deployment} on {host} ({})", size.memory)
        }
        Op::DrainServo { servo, .. } => format!("drain {servo}"),
        Op::StopServo { servo, .. } => format!("stop {servo}"),
        Op::ForgetServo { servo, .. } => format!("forget {servo}"),
        Op::PlaceBuild { build, host, .. } => format!("build {build} on {host}"),
        Op::QueueBuild { build, .. } => format!("queue {build} again"),
        Op::FailBuild { build, reason, .. } => format!("fail {build}: {reason}"),
        Op::MixDeployment { deployment, .. } => format!("replace in turns for {deployment}"),
        Op::SwitchDeployment { deployment, .. } => format!("switch to {deployment}"),
        Op::FinishDeployment { deployment, .. } => format!("finish {deployment}"),
        Op::FailDeployment { deployment, reason, .. } => format!("fail {deployment}: {reason}"),
        Op::ForgetRelease { app, number } => format!("forget {app} {number}"),
        Op::ForgetBuild { build } => format!("forget {build}"),
        Op::ForgetDeployment { deployment } => format!("forget {deployment}"),
        Op::ForgetBalancer { name, .. } => format!("forget balancer {name}"),
    }
}

fn routes_text(world: &World) -> String {
    let mut text = String::new();
    for route in view::route_table(&world.state).routes {
        let servos: Vec<String> =
            route.servos.iter().map(|s| format!("{}@{}{}", s.id, s.site, if s.suspect { "?" } else { "" })).collect();
        let to = if servos.is_empty() { format!("503 {}", route.reason) } else { servos.join(" ") };
        let release = route.release.map_or("-".to_owned(), |release| release.to_string());
        writeln!(text, "  route {} {release} → {to}", route.host).unwrap();
    }
    for entry in &view::edge_table(&world.state).entries {
        if let EdgeEntry::Split { route, beside, share, .. } = &**entry {
            writeln!(text, "  {share} % of {route} → {beside}").unwrap();
        }
    }
    text
}

fn ports_text(world: &World) -> String {
    let ports = world.state.edge().ports().map(|row| format!(" {}={}:{}", row.port, row.process, row.app));
    format!("  ports:{}\n", ports.collect::<String>())
}

fn controllers_text(world: &World) -> String {
    let names = world.state.controllers().map(|row| format!(" {}={}", row.name, row.id));
    format!("  controllers:{}\n", names.collect::<String>())
}

fn step(world: &mut World, line: &str) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let servo = |word: &str| word.parse::<ServoId>().unwrap();
    let mut say = String::new();
    let done = |outcome: pontoon_core::Outcome| match outcome {
        Ok(Reply::Done) => Ok(String::new()),
        Ok(reply) => Ok(format!("  = {reply:?}\n")),
        Err(rejected) => Err(format!("  ! {rejected}\n")),
    };
    match words.as_slice() {
        ["host", name, site, memory] => world.host(name, site, memory.parse().unwrap()),
        ["balancer", name, site] => world.balancer(name, site),
        ["controller", name, id, site] => {
            let (id, name, site) = (ControllerId(id.parse().unwrap()), name.parse().unwrap(), site.parse().unwrap());
            let (grpc, rest) = ("127.0.0.1:7711".parse().unwrap(), "127.0.0.1:7700".parse().unwrap());
            say = done(world.apply(RegisterController { id, name, site, grpc, rest }))?;
            say += &controllers_text(world);
        }
        ["remove-controller", id] => {
            say = done(world.apply(RemoveController { id: ControllerId(id.parse().unwrap()) }))?;
            say += &controllers_text(world);
        }
        ["timing", heartbeat] => {
            say = done(world.apply(SetTiming { heartbeat_ms: heartbeat.parse().unwrap() }))?;
            say += &format!("  timing: {:?}\n", world.state.chosen_timing());
        }
        ["level", to] => say = done(world.apply(RaiseFeatureLevel { to: to.parse().unwrap() }))?,
        ["app", name] => say = done(world.apply(CreateApp { name: name.parse().unwrap() }))?,
        ["destroy", name] => say = done(world.apply(DestroyApp { name: name.parse().unwrap() }))?,
        ["source", name] => say = done(world.start_build(&name.parse().unwrap()))?,
        ["deploy", name] => say = done(world.build(&name.parse().unwrap()))?,
        ["deploy", name, processes @ ..] => say = done(world.build_of(&name.parse().unwrap(), processes))?,
        ["port", name, process, port @ ..] => {
            let (app, process) = (name.parse().unwrap(), process.parse().unwrap());
            let port = port.first().map(|port| port.parse().unwrap());
            let settings = PortSettings::default();
            say = done(world.apply(AddPort { app, process, port, range: (10_000, 10_001), settings }))?;
            say += &ports_text(world);
        }
        ["build-beside", name, share, count @ ..] => {
            let count = count.first().map(|count| count.parse().unwrap());
            say = done(world.build_beside(&name.parse().unwrap(), share.parse().unwrap(), count))?;
        }
        ["canary", name, release, share] => {
            let (app, release, share) = (name.parse().unwrap(), release.parse().unwrap(), share.parse().unwrap());
            say = done(world.apply(SetBeside { app, release, share, count: None }))?;
        }
        [verb @ ("promote" | "stop-beside"), name, release] => {
            let (app, release) = (name.parse().unwrap(), release.parse().unwrap());
            say = done(world.apply(EndBeside { app, release, promote: *verb == "promote" }))?;
        }
        ["domain", name, domain] => {
            say = done(world.apply(AddDomain { app: name.parse().unwrap(), domain: domain.parse().unwrap() }))?;
        }
        ["remove-port", name, port] => {
            say = done(world.apply(RemovePort { app: name.parse().unwrap(), port: port.parse().unwrap() }))?;
            say += &ports_text(world);
        }
        ["scale", name, process, count] if count.parse::<u32>().is_ok() && process.parse::<u32>().is_err() => {
            let (app, process) = (name.parse().unwrap(), process.parse().unwrap());
            let anywhere = Some(count.parse().unwrap());
            say = done(world.apply(SetScale { app, process, anywhere, in_site: None, memory: None, cpu: None }))?;
        }
        ["scale", name, count, rest @ ..] => {
            let memory = rest.first().map(|memory| memory.parse().unwrap());
            let (app, process) = (name.parse().unwrap(), ProcessName::web());
            let anywhere = Some(count.parse().unwrap());
            say = done(world.apply(SetScale { app, process, anywhere, in_site: None, memory, cpu: None }))?;
        }
        ["scale-site", name, site, count] => {
            let (app, process) = (name.parse().unwrap(), ProcessName::web());
            let in_site = Some([(site.parse().unwrap(), count.parse().unwrap())].into());
            say = done(world.apply(SetScale { app, process, anywhere: None, in_site, memory: None, cpu: None }))?;
        }
        ["env", name, key, value] => {
            let set = [(key.to_string(), Secret::from(*value))].into();
            say = done(world.apply(ChangeEnv { app: name.parse().unwrap(), set, unset: vec![] }))?;
        }
        ["rollback", name, to @ ..] => {
            let to = to.first().map(|to| to.parse().unwrap());
            say = done(world.apply(Rollback { app: name.parse().unwrap(), to }))?;
        }
        ["restart", name] => say = done(world.apply(Restart { app: name.parse().unwrap() }))?,
        ["run", name, command @ ..] => {
            say = done(world.apply(RunOneOff { app: name.parse().unwrap(), command: command.join(" ") }))?
        }
        ["end", name, id] => say = done(world.apply(EndOneOff { app: name.parse().unwrap(), servo: servo(id) }))?,
        ["adopt", secret] => say = done(world.apply(AdoptApiToken { hash: Digest::of(secret.as_bytes()) }))?,
        ["token", secret, rest @ ..] => {
            let (ttl, scopes) = match rest {
                ["for", hours, scopes @ ..] => {
                    (Some(Duration::from_secs(3600 * hours.parse::<u64>().unwrap())), scopes)
                }
                scopes => (None, scopes),
            };
            let scopes = scopes.iter().map(|scope| scope.parse().unwrap()).collect();
            let hash = Digest::of(secret.as_bytes());
            say = done(world.apply(CreateApiToken { hash, name: secret.to_string(), scopes, ttl }))?;
        }
        ["revoke", id] => say = done(world.apply(RevokeApiToken { id: id.parse().unwrap() }))?,
        ["used", id] => {
            let uses = vec![(id.parse().unwrap(), world.now)];
            say = done(world.apply(NoteTokenUse { uses }))?;
        }
        ["tokens"] => {
            let (start, now) = (Timestamp(1_000_000), world.now);
            for token in world.state.api_tokens() {
                let scopes: Vec<String> = token.scopes.iter().map(Scope::to_string).collect();
                let hours = |at: Timestamp| at.since(start).as_secs() / 3600;
                let used = token.last_used_at.map_or("never used".into(), |at| format!("used at {} h", hours(at)));
                let ends = token.expires_at.map_or("lasts".into(), |at| format!("ends at {} h", hours(at)));
                let over = if token.is_expired(now) { ", expired" } else { "" };
                writeln!(say, "  {} {}: {}, {ends}, {used}{over}", token.id, token.name, scopes.join(" ")).unwrap();
            }
        }
        ["ready", id] => world.report(servo(id), ServoStatus::Ready),
        ["gone", id] => world.report(servo(id), ServoStatus::Gone),
        ["exit", id, code] => {
            let code = code.parse().unwrap();
            let exit = Exit { code, reason: format!("exited with code {code}"), last_lines: vec!["boom".into()] };
            world.report(servo(id), ServoStatus::exited(exit));
        }
        ["silence", host] => world.silent.push(host.parse().unwrap()),
        ["hear", host] => world.silent.retain(|silent| silent.as_str() != *host),
        ["deaf", balancer] => world.deaf.push(balancer.parse().unwrap()),
        ["ack"] => world.hear(),
        ["tick", seconds] => world.tick(Duration::from_secs_f64(seconds.parse().unwrap())),
        ["elect"] => {
            world.leader_since = world.now;
            world.observed = Default::default();
        }
        ["obey"] => world.obey(),
        ["converge"] => {
            let ops = world.converge();
            return Ok(ops.iter().map(|op| format!("  {}\n", op_text(op))).collect());
        }
        _ => panic!("no such step: {line}"),
    }
    Ok(say)
}

fn run(script: &str) -> String {
    let mut world = World::new();
    let mut output = String::new();
    let mut routes = String::new();
    for line in script.lines() {
        if line.trim().is_empty() || line.starts_with('#') {
            writeln!(output, "{line}").unwrap();
            continue;
        }
        writeln!(output, "> {line}").unwrap();
        match step(&mut world, line) {
            Ok(text) | Err(text) => output.push_str(&text),
        }
        for op in world.settle() {
            writeln!(output, "  {}", op_text(&op)).unwrap();
        }
        let now = routes_text(&world);
        if now != routes {
            output.push_str(&now);
            routes = now;
        }
    }
    output
}

#[test]
fn scenarios_plan_what_their_outputs_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut scripts: Vec<_> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|p| p.extension() == Some("txt".as_ref()))
        .collect();
    scripts.sort();
    assert!(scripts.len() >= 8, "scenario files are missing");
    for script in scripts {
        let output = run(&fs::read_to_string(&script).unwrap());
        expect_file![script.with_extension("out")].assert_eq(&output);
    }
}
