//! The data plane against its peers on the same exports: `nbdcopy`, ovirt-imageio's own daemon with the
//! same certificate and client, `nbdinfo`. Ratios, and CPU seconds of the daemon per GiB.
//!
//! Starts everything itself, images on tmpfs. Contenders run in turn within each round; figures are
//! medians. `cargo bench --bench dataplane -- 1024 [ROW…]` chooses the size in MiB, and rows by a part of
//! their name.

mod parts;
mod wire;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parts::{Bench, Part};
use wire::Wire;

/// One contender of a row: its name, whose CPU counts, and a run that gives its seconds.
struct Contender<'a> {
    name: &'static str,
    part: Option<&'a Part>,
    run: Box<dyn Fn() -> f64 + 'a>,
}

/// Medians of seconds and CPU seconds.
fn row(title: &str, rounds: usize, contenders: &[Contender<'_>]) -> Vec<(f64, f64)> {
    let mut series = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        for (contender, series) in contenders.iter().zip(&mut series) {
            let cpu = contender.part.map(Part::cpu);
            let seconds = (contender.run)();
            let cpu = contender.part.zip(cpu).map_or(0.0, |(part, cpu)| (part.cpu() - cpu).as_secs_f64());
            series.push((seconds, cpu));
        }
    }
    let medians: Vec<_> = series
        .iter()
        .map(|series| {
            let of = |pick: fn(&(f64, f64)) -> f64| {
                let mut values: Vec<f64> = series.iter().map(pick).collect();
                values.sort_by(f64::total_cmp);
                values[values.len() / 2]
            };
            (of(|run| run.0), of(|run| run.1))
        })
        .collect();
    println!("\n{title}");
    let ours = medians[0];
    for (contender, (seconds, cpu)) in contenders.iter().zip(&medians) {
        let against =
            if *seconds == ours.0 { String::new() } else { format!("{:.2} × as fast", seconds / ours.0) };
        let cpu_ratio = match (*cpu > 0.0, *cpu == ours.1) {
            (true, false) => format!(", {:.2} × its CPU", ours.1 / cpu),
            _ => String::new(),
        };
        println!("  {:<34} {:>10.4} s   CPU {:>7.3} s   {against}{cpu_ratio}", contender.name, seconds, cpu);
    }
    medians
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    if let [role, cert, target] = arguments.as_slice()
        && role == "proxy"
    {
        return proxy(cert, target);
    }
    let mib: u64 = arguments.iter().find_map(|arg| arg.parse().ok()).unwrap_or(1024);
    let rows: Vec<&String> = arguments.iter().filter(|arg| arg.parse::<u64>().is_err()).collect();
    let wanted = |name: &str| rows.is_empty() || rows.iter().any(|row| name.contains(row.as_str()));
    let gib = mib as f64 / 1024.0;

    let bench = Bench::new();
    bench.full("read.raw", mib);
    bench.full("write.raw", mib);
    bench.full("copy.raw", mib);
    bench.full("down.raw", mib);
    bench.fragmented("map.qcow2", EXTENTS);
    let (_read, read) = bench.export("read.raw", "raw", &["--read-only"]);
    let (_write, write) = bench.export("write.raw", "raw", &[]);
    let (_map, map) = bench.export("map.qcow2", "qcow2", &["--read-only"]);
    let (ours, url) = bench.ours();
    let theirs = bench.theirs();
    for control in ["ours", "theirs"].iter().take(1 + usize::from(theirs.is_some())) {
        for (ticket, size, op, socket) in [
            ("r", mib << 20, "read", &read),
            ("w", mib << 20, "write", &write),
            ("m", EXTENTS << 16, "read", &map),
        ] {
            bench.ticket(control, ticket, size, op, &format!("nbd:unix:{socket}"));
        }
    }
    let roots = ovirt_gateway::tls::roots(&bench.site.ca.cert).expect("CA");
    let tls = Arc::new(ovirt_gateway::tls::client(roots, Vec::new(), None).expect("TLS"));
    let nbdcopy = |from: &str, to: &str| {
        timed(|| {
            let status =
                Command::new("nbdcopy").args(["--connections=1", from, to]).status().expect("nbdcopy");
            assert!(status.success());
        })
    };
    let library = |action: &str, url: &str, file: &str, workers: u32| {
        let python = format!("{}/.venv/bin/python", env!("CARGO_MANIFEST_DIR"));
        let script = format!("{}/tests/python/library.py", env!("CARGO_MANIFEST_DIR"));
        let ca = bench.site.ca.cert.display().to_string();
        let args = [script, action.into(), url.into(), bench.at(file), ca, workers.to_string()];
        let output = Command::new(python).args(args).output().expect("python");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds")
    };
    println!("{mib} MiB of data, raw on tmpfs; medians of {ROUNDS} interleaved rounds; CPU of the daemon");

    let peers: Vec<(&'static str, &Part, String)> = std::iter::once(("ours", &ours, url.clone()))
        .chain(theirs.iter().map(|(part, url)| ("ovirt-imageio", part, url.clone())))
        .collect();
    for (title, action, ticket, file) in
        [("library download", "download", "r", "down.raw"), ("library upload", "upload", "w", "copy.raw")]
    {
        for workers in [1, 4] {
            if !wanted(title) || theirs.is_none() {
                continue;
            }
            let contenders: Vec<_> = peers
                .iter()
                .map(|(name, part, url)| Contender {
                    name,
                    part: Some(part),
                    run: Box::new(move || library(action, &format!("{url}/images/{ticket}"), file, workers)),
                })
                .collect();
            row(&format!("{title}, {workers} connections"), ROUNDS, &contenders);
        }
    }
    if wanted("wire down") {
        let mut contenders: Vec<_> = peers
            .iter()
            .map(|(name, part, url)| Contender {
                name,
                part: Some(part),
                run: Box::new(|| {
                    let mut wire = Wire::connect(url, &tls);
                    timed(|| assert_eq!(wire.get("/images/r", ""), mib << 20))
                }),
            })
            .collect();
        contenders.push(Contender {
            name: "nbdcopy without TLS",
            part: None,
            run: Box::new(|| nbdcopy(&format!("nbd+unix:///?socket={read}"), "null:")),
        });
        let found = row("download, 1 connection", ROUNDS, &contenders);
        println!(
            "  ours: {:.2} GiB/s, {:.2} CPU s/GiB; of nbdcopy {:.2}",
            gib / found[0].0,
            found[0].1 / gib,
            found.last().expect("nbdcopy").0 / found[0].0
        );
    }
    if wanted("wire up") {
        let mut contenders: Vec<_> = peers
            .iter()
            .map(|(name, part, url)| Contender {
                name,
                part: Some(part),
                run: Box::new(|| {
                    let mut wire = Wire::connect(url, &tls);
                    timed(|| wire.put("/images/w?flush=n", mib))
                }),
            })
            .collect();
        contenders.push(Contender {
            name: "nbdcopy without TLS",
            part: None,
            run: Box::new(|| nbdcopy(&bench.at("copy.raw"), &format!("nbd+unix:///?socket={write}"))),
        });
        let found = row("upload, 1 connection", ROUNDS, &contenders);
        println!(
            "  ours: {:.2} GiB/s, {:.2} CPU s/GiB; of nbdcopy {:.2}",
            gib / found[0].0,
            found[0].1 / gib,
            found.last().expect("nbdcopy").0 / found[0].0
        );
    }
    let kept = |name: &'static str, act: &'static (dyn Fn(&mut Wire) + Sync)| {
        let contenders: Vec<_> = peers
            .iter()
            .map(|(name, part, url)| {
                let tls = &tls;
                Contender {
                    name,
                    part: Some(part),
                    run: Box::new(move || {
                        let mut wire = Wire::connect(url, tls);
                        act(&mut wire);
                        timed(|| (0..1000).for_each(|_| act(&mut wire)))
                    }),
                }
            })
            .collect();
        row(name, ROUNDS, &contenders);
    };
    if wanted("latency") {
        kept("latency: 1000 × 4 KiB on a kept connection", &|wire| {
            assert_eq!(wire.get("/images/r", "range: bytes=1048576-1052671\r\n"), 4096);
        });
        kept("latency: 1000 × OPTIONS on a kept connection", &|wire| wire.options("/images/r"));
        let contenders: Vec<_> = peers
            .iter()
            .map(|(name, part, url)| Contender {
                name,
                part: Some(part),
                run: Box::new(|| {
                    timed(|| (0..200).for_each(|_| Wire::connect(url, &tls).options("/images/r")))
                }),
            })
            .collect();
        row("latency: 200 × new connection and OPTIONS", ROUNDS, &contenders);
    }
    if wanted("extents") {
        let mut contenders: Vec<_> = peers
            .iter()
            .map(|(name, part, url)| Contender {
                name,
                part: Some(part),
                run: Box::new(|| {
                    // a new ticket knows nothing of what was asked before
                    let control = if *name == "ours" { "ours" } else { "theirs" };
                    let fresh = format!("m{}", Instant::now().elapsed().as_nanos() + rand());
                    bench.ticket(control, &fresh, EXTENTS << 16, "read", &format!("nbd:unix:{map}"));
                    let mut wire = Wire::connect(url, &tls);
                    wire.options(&format!("/images/{fresh}"));
                    timed(|| assert!(wire.get(&format!("/images/{fresh}/extents"), "") > 1 << 20))
                }),
            })
            .collect();
        contenders.push(Contender {
            name: "nbdinfo --map",
            part: None,
            run: Box::new(|| {
                timed(|| {
                    let address = format!("nbd+unix:///?socket={map}");
                    let output = Command::new("nbdinfo").args(["--map", &address]).output().expect("nbdinfo");
                    assert!(output.status.success());
                })
            }),
        });
        contenders.push(Contender {
            name: "ours, asked again",
            part: Some(&ours),
            run: Box::new(|| {
                let mut wire = Wire::connect(&url, &tls);
                wire.options("/images/m");
                timed(|| assert!(wire.get("/images/m/extents", "") > 1 << 20))
            }),
        });
        row(&format!("extents: {EXTENTS} of them"), ROUNDS, &contenders);
    }
    if wanted("proxy") {
        let server = bench.site.host("127.0.0.1").expect("certificate");
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        let stem = server.cert.display().to_string();
        command.args(["proxy", &stem, &url]).env("OVGW_BENCH_CA", &bench.site.ca.cert);
        command.env("OVGW_BENCH_KEY", &server.key).stdout(std::process::Stdio::piped());
        let mut part = Part::start(&mut command);
        let mut line = String::new();
        let stdout = part.0.stdout.take().expect("stdout");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).expect("a line");
        let through = line.trim().to_owned();
        let run = |url: String| {
            let tls = &tls;
            Box::new(move || {
                let mut wire = Wire::connect(&url, tls);
                timed(|| assert_eq!(wire.get("/images/r", ""), mib << 20))
            })
        };
        let contenders = [
            Contender { name: "through the proxy", part: Some(&part), run: run(through) },
            Contender { name: "direct", part: Some(&ours), run: run(url.clone()) },
        ];
        let found = row("proxy, 1 connection", ROUNDS, &contenders);
        println!("  of direct {:.2}; the proxy's CPU {:.2} s/GiB", found[1].0 / found[0].0, found[0].1 / gib);
    }
    if wanted("streams") {
        streams(&ours, &url, &tls);
    }
}

/// 64 downloads at once for some seconds: what each got, and the memory of all.
fn streams(ours: &Part, url: &str, tls: &Arc<rustls::ClientConfig>) {
    let (before, _) = ours.memory();
    let stop = AtomicBool::new(false);
    let shares: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..STREAMS)
            .map(|_| {
                scope.spawn(|| {
                    let mut wire = Wire::connect(url, tls);
                    let mut seen = 0;
                    while !stop.load(Ordering::Relaxed) {
                        seen += wire.get("/images/r", "range: bytes=0-67108863\r\n");
                    }
                    seen
                })
            })
            .collect();
        std::thread::sleep(Duration::from_secs(20));
        let (during, _) = ours.memory();
        println!("\n{STREAMS} streams at once");
        println!(
            "  memory: {before:.1} MiB before, {during:.1} during: {:.2} MiB per stream",
            (during - before) / STREAMS as f64
        );
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("a stream")).collect()
    });
    let mean = shares.iter().sum::<u64>() as f64 / shares.len() as f64;
    let (least, most) = (shares.iter().min().expect("one"), shares.iter().max().expect("one"));
    println!(
        "  shares: mean {:.0} MiB, least {:.0} % of it, most {:.0} %",
        mean / 1048576.0,
        *least as f64 / mean * 100.0,
        *most as f64 / mean * 100.0
    );
}

/// The image proxy in a process of its own, with one host behind it.
fn proxy(cert: &str, target: &str) {
    use ovirt_gateway::proxy::{Admission, Directory, Proxy, Trust};
    use ovirt_gateway::serve::{Options, Peer, Workers};
    use ovirt_gateway::tls::{self, Alpn, Current, Identity};

    struct One(String);
    impl Directory for One {
        fn find<'a>(
            &'a self,
            ticket: &'a str,
        ) -> std::pin::Pin<Box<dyn Future<Output = Option<String>> + Send + 'a>> {
            Box::pin(async move { Some(format!("{}/images/{ticket}", self.0)) })
        }

        fn admit(&self, _: &str) -> Option<Admission> {
            None
        }
    }

    let place = |name: &str| std::path::PathBuf::from(std::env::var(name).expect(name));
    let roots = tls::roots(&place("OVGW_BENCH_CA")).expect("CA");
    let client = Arc::new(tls::client(roots, Vec::new(), None).expect("TLS"));
    let identity = Identity::load(cert.as_ref(), &place("OVGW_BENCH_KEY")).expect("certificate");
    let server = tls::server(Current::new(&identity).expect("key"), Alpn::Http1).expect("TLS");
    let proxy = Proxy::new(Arc::new(One(target.to_owned())), Trust::new(move || Some(client.clone())));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("non-blocking");
    println!("https://{}", listener.local_addr().expect("address"));
    let make = move |_: &Peer| {
        let line = proxy.line();
        tower::service_fn(move |request| {
            let line = line.clone();
            async move { Ok(line.answer(request).await) }
        })
    };
    let stop = tokio_util::sync::CancellationToken::new();
    let _workers =
        Workers::start("proxy", listener, &server, make, Options::default(), &stop).expect("threads");
    std::thread::sleep(Duration::from_secs(3600));
}

/// Different for each call.
fn rand() -> u128 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1);
    u128::from(NEXT.fetch_add(1, Ordering::Relaxed)) << 32
}

const ROUNDS: usize = 5;
const EXTENTS: u64 = 32_768;
const STREAMS: usize = 64;
