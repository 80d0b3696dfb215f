//! Kills each part of the product at each step of backup and restore, and looks at what is left.
//!
//! `--all` runs every point with every component, goes on where an earlier run stopped, and writes
//! `docs/crash-points.md`. `--only POINT` and `--with COMPONENT` choose; `--again` repeats what is done.
//! Without any of them a dozen are run, as `./test.sh` does.

// a test that fails panics: that is what it is for
#![allow(clippy::panic)]

mod chain;
mod client;
mod facts;
mod flows;
mod net;
mod points;
mod site;
mod table;

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::Client;
use facts::Facts;
use flows::{Armed, Stage};
use points::{Flow, POINTS, Point};
use site::{Component, Site};
use table::{Done, Table};
use tokio::sync::{Mutex, watch};

#[derive(Default)]
struct Options {
    all: bool,
    again: bool,
    only: Option<String>,
    with: Option<String>,
}

fn main() -> std::process::ExitCode {
    sqlx::any::install_default_drivers();
    let mut options = Options::default();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--all" => options.all = true,
            "--again" => options.again = true,
            "--only" => options.only = args.next(),
            "--with" => options.with = args.next(),
            "--table" => {
                Table::load().write();
                return std::process::ExitCode::SUCCESS;
            }
            // what the ordinary test runner is given
            _ => {}
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let failed = runtime.block_on(async {
        let kind = tokio::signal::unix::SignalKind::terminate();
        let mut terminated = tokio::signal::unix::signal(kind).expect("SIGTERM");
        // whatever ends us, the site is taken down
        tokio::select! {
            failed = run(&options) => failed,
            _ = tokio::signal::ctrl_c() => 1,
            _ = terminated.recv() => 1,
        }
    });
    std::process::ExitCode::from(u8::from(failed > 0))
}

/// How many failed.
async fn run(options: &Options) -> usize {
    let mut table = Table::load();
    let chosen: Vec<(&Point, Component)> =
        match options.all || options.only.is_some() || options.with.is_some() {
            true => combinations(options),
            false => SHORT.iter().filter_map(|(name, component)| Some((point(name)?, *component))).collect(),
        };
    let resume = options.all && !options.again;
    let (mut site, mut passed, mut failed) = (None, 0usize, 0usize);
    for (point, component) in chosen {
        if resume && table.has_passed(point.name, component) {
            continue;
        }
        if site.is_none() {
            match fresh().await {
                Ok(new) => site = Some(new),
                Err(text) if text.contains("needs root") => return skip(&text),
                Err(text) => {
                    println!("no site: {text}");
                    failed += 1;
                    break;
                }
            }
        }
        let Some((shared, facts)) = &site else { break };
        let started = Instant::now();
        let done = one(shared, facts, point, component).await;
        let word = match done.problem.is_none() {
            true => "ok",
            false => "FAILED",
        };
        println!(
            "{} × {}: {} ({} s after its return, {} s in all) ... {word}",
            point.name,
            component.name(),
            done.outcome,
            done.seconds,
            started.elapsed().as_secs(),
        );
        match &done.problem {
            None => passed += 1,
            Some(problem) => {
                failed += 1;
                println!("    {problem}");
                let site = shared.lock().await;
                site.keep_logs(&table::logs().join(format!("{}-{}", point.name, component.name())));
                if !options.all {
                    println!("{}", site.logs());
                }
            }
        }
        let broken = done.problem.is_some();
        table.note(point.name, component, done);
        if broken {
            site = None;
        }
    }
    if options.all {
        table.write();
    }
    println!(
        "test result: {}. {passed} passed; {failed} failed; 0 ignored;",
        if failed == 0 { "ok" } else { "FAILED" }
    );
    failed
}

fn skip(text: &str) -> usize {
    eprintln!("SKIPPED: crash points: {text}");
    if let Some(path) = std::env::var_os("OVIRT_GATEWAY_SKIPPED") {
        use std::io::Write;
        let file = std::fs::File::options().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "crash points: {}", text.lines().next().unwrap_or_default()))
            .expect("the list of skipped tests");
    }
    println!("test result: ok. 1 passed; 0 failed; 0 ignored;");
    0
}

async fn fresh() -> Result<(Arc<Mutex<Site>>, Arc<Facts>), String> {
    let site = Site::start().await?;
    // the guest writes its first blocks
    tokio::time::sleep(Duration::from_secs(3)).await;
    let facts = Facts::of(&site)?;
    Ok((Arc::new(Mutex::new(site)), Arc::new(facts)))
}

fn combinations(options: &Options) -> Vec<(&'static Point, Component)> {
    let mut all = Vec::new();
    for point in POINTS {
        // its own process first: the plainest of all crashes
        let mut components = Component::ALL.to_vec();
        components.sort_by_key(|component| *component != own(point));
        all.extend(
            components.into_iter().filter(|component| has_a_part(point, *component)).map(|c| (point, c)),
        );
    }
    all.retain(|(point, component)| {
        options.only.as_ref().is_none_or(|only| point.name.starts_with(only.as_str()))
            && options.with.as_ref().is_none_or(|with| component.name() == with)
    });
    // by columns: a run that is cut short has something of everything
    all.sort_by_key(|(point, component)| (*component != own(point), *component));
    all
}

fn own(point: &Point) -> Component {
    match point.name.starts_with("gateway.") {
        true => Component::Gateway,
        false => Component::Imageio,
    }
}

/// Whether a component has anything to do with what is under way.
fn has_a_part(point: &Point, component: Component) -> bool {
    match component {
        Component::Libvirtd => {
            !matches!(point.flow, Flow::Plain | Flow::Import | Flow::Point | Flow::File | Flow::Undo)
        }
        Component::QemuNbd => {
            matches!(
                point.flow,
                Flow::Stopped | Flow::Cancel | Flow::Plain | Flow::GatewayStarts | Flow::HostStarts
            ) || point.name.contains("transfer.") && point.flow == Flow::Import
                || point.name.contains("export.") && point.flow == Flow::Import
        }
        _ => true,
    }
}

fn point(name: &str) -> Option<&'static Point> {
    POINTS.iter().find(|point| point.name == name)
}

async fn one(site: &Arc<Mutex<Site>>, facts: &Arc<Facts>, point: &'static Point, victim: Component) -> Done {
    let client = {
        let site = site.lock().await;
        Client::new(&site.path("certs/ca.pem"), &site.base())
    };
    let action = if own(point) == victim { "kill" } else { "stop" };
    let armed = Some(Armed { point: point.name, action });
    let mut stage = Stage { site: site.clone(), client, facts: facts.clone(), armed };
    let (ended, end) = watch::channel(false);
    let strike = tokio::spawn(strike(site.clone(), point.name, victim, action, end));
    let outcome = stage.play(point.flow).await;
    let _ = ended.send(true);
    let struck = strike.await.unwrap_or_else(|error| Err(error.to_string()));
    site.lock().await.disarm();
    let (recovered, was_there) = match struck {
        Ok(Some(struck)) => struck,
        Ok(None) => {
            let text = outcome.clone().unwrap_or_else(|error| error);
            return Done::failed(
                "not reached",
                format!("the point was not reached; the flow came to: {text}"),
            );
        }
        Err(error) => return Done::failed("no return", error),
    };
    let word = match (outcome, was_there) {
        (Ok(_), false) => "no such process there".to_owned(),
        (Ok(word), true) => word,
        (Err(problem), _) => return Done::failed("wrong", problem),
    };
    let left = loop {
        let left = facts.left(&*site.lock().await).await;
        if left.is_empty() || recovered.elapsed() > LIMIT {
            break left;
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    let seconds = recovered.elapsed().as_secs();
    if !left.is_empty() {
        return Done::failed(&word, format!("({word}) left after a minute: {}", left.join("; ")));
    }
    let next = match point.flow {
        Flow::GatewayStarts | Flow::HostStarts | Flow::Cancel | Flow::Failing | Flow::Unmade => Flow::Stopped,
        Flow::Undo => Flow::Point,
        flow => flow,
    };
    match stage.play(next).await.as_deref() {
        Ok("succeeded" | "restored" | "read") => {}
        other => return Done::failed(&word, format!("({word}) the next time: {other:?}")),
    }
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let left = facts.left(&*site.lock().await).await;
        if left.is_empty() {
            return Done::passed(&word, seconds);
        }
        if Instant::now() > until {
            return Done::failed(&word, format!("({word}) left after the next time: {}", left.join("; ")));
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// Waits for the point, kills, and brings back: when it was back, and whether there was one to kill.
async fn strike(
    site: Arc<Mutex<Site>>,
    point: &'static str,
    victim: Component,
    action: &'static str,
    mut end: watch::Receiver<bool>,
) -> Result<Option<(Instant, bool)>, String> {
    loop {
        if site.lock().await.reached(point) {
            break;
        }
        if *end.borrow_and_update() {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut was_there = true;
    if action == "stop" {
        let mut site = site.lock().await;
        was_there = site.kill(victim);
        site.go();
    }
    tokio::time::sleep(if victim == Component::Network { CUT } else { DOWN }).await;
    site.lock().await.revive(victim)?;
    let until = Instant::now() + Duration::from_secs(60);
    while !site.lock().await.ready(victim)? {
        if Instant::now() > until {
            return Err(format!("the {} is not ready a minute after its start", victim.name()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(Some((Instant::now(), was_there)))
}

/// How long it is away.
const DOWN: Duration = Duration::from_millis(1000);
const CUT: Duration = Duration::from_secs(4);
/// After this nothing may be left.
const LIMIT: Duration = Duration::from_secs(60);

/// A dozen for every day: each component, each part of backup and restore.
const SHORT: &[(&str, Component)] = &[
    ("gateway.backup.asked", Component::Gateway),
    ("gateway.backup.ended", Component::Gateway),
    ("gateway.disk.imaged", Component::Gateway),
    ("gateway.instance.detached", Component::Gateway),
    ("host.backup.begun", Component::Imageio),
    ("host.backup.served", Component::Imageio),
    ("host.export.renamed", Component::Imageio),
    ("host.backup.ending", Component::Libvirtd),
    ("host.backup.kept", Component::QemuNbd),
    ("gateway.disk.known", Component::Simulator),
    ("gateway.transfer.finalizing", Component::Network),
    ("gateway.backup.ready", Component::Network),
];
