//! What uploads cost the gateway, in memory and in processor time: `cargo bench --bench uploads`. Ends by
//! itself in well under a minute; loopback only, Linux only, since the figures come from `/proc`.
//!
//! `-- memory`, `-- time` and `-- looking` run one part of it.
//!
//! The gateway is the built command in a process of its own, so that nobody else's memory or time is counted.
//! Photos are sent to it over plain sockets, and the ERP is a sink in this process that reads a request,
//! takes its time and answers 201.
//!
//! *Memory* is the peak of the resident set (`VmHWM`) above what was resident before, and what is still resident
//! within some seconds, while small uploads go on. Each case has a fresh process, which has had one small upload before. Where a case goes over its
//! bound, the benchmark says so and fails. That is no matter of time.
//!
//! *Processor time* is user and system time (`/proc/PID/stat`) for each upload, beside the floor: a program (this
//! one, started again) that reads the same bytes from a socket, encodes them in base64 once and writes them to the
//! same sink. A second floor takes the digest of what it reads too, as the audit and `Repr-Digest` want it. All take
//! turns, and the median of the rounds counts.
//!
//! *Looking* is the processor time of a photo whose metadata is full of what begins a page or a script, beside that of one that
//! is full of letters. What costs more than three times as much fails.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark may fail, and it measures the machine's own time"
)]

use std::{
    fs,
    hint::black_box,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use aws_lc_rs::digest;
use base64_simd::{AsOut as _, STANDARD};
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

const SECRET: &str = "a secret for benchmarks of forty-two bytes";
const BOUNDARY: &str = "----WebKitFormBoundary7MA4YWxkTrZu0gW";
/// How long the ERP takes, where memory is measured.
const ERP_TAKES: Duration = Duration::from_millis(100);
/// Uploads at once, where memory is measured, and the size of each.
const AT_ONCE: usize = 64;
const PHOTO: usize = 8_000_000;
/// Sizes of photos that come mixed: no two that follow each other suit each other's memory.
const MIXED: [usize; 8] = [
    2_000_000, 12_000_000, 5_000_000, 9_000_000, 3_000_000, 11_000_000, 4_000_000, 7_000_000,
];
/// Whose uploads they are.
const TENANTS: [&str; 4] = ["norte", "sur", "este", "oeste"];
const SMALL_PHOTO: usize = 100_000;
/// How often a client asks again after a 503.
const MOST_ATTEMPTS: usize = 60;
/// What the bounds allow beside the images themselves.
const MARGIN: f64 = 1.2;
const ONE_UPLOAD_MARGIN: u64 = 256 << 10;
/// How long the gateway may take to give memory back.
const SETTLES_WITHIN: Duration = Duration::from_secs(3);
/// Uploads of a round, where time is measured, and rounds.
const UPLOADS: usize = 50;
const ROUNDS: usize = 9;
const TIMED_PHOTO: usize = 5_000_000;
const CALLERS: usize = 4;
/// What a floor is told.
const WITH_DIGEST: &str = "with-digest";
const WITHOUT: &str = "without";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, role, sink, digest] = arguments.as_slice()
        && role == "--floor"
    {
        floor(sink.parse().unwrap(), digest == WITH_DIGEST);
    }
    // `cargo test` builds and runs benchmarks too, and wants nothing measured.
    if !arguments.iter().any(|argument| argument == "--bench") {
        return ExitCode::SUCCESS;
    }
    let parts = ["memory", "time", "looking"];
    let is_named = |part: &str| arguments.iter().any(|argument| argument == part);
    let runs_all = !parts.into_iter().any(is_named);
    let runs = |part: &str| runs_all || is_named(part);
    let holds = !runs("memory") || memory();
    if runs("time") {
        time();
    }
    let is_even = !runs("looking") || looking();
    if !holds {
        eprintln!("a bound on memory is broken");
    }
    if !is_even {
        eprintln!("what a photo is full of decides what looking at it costs");
    }
    if holds && is_even {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Prints what an upload costs by what its metadata is full of; whether none costs much more than letters.
fn looking() -> bool {
    const MOST: f64 = 3.0;
    const TIMES: u32 = 20;
    let gateway = Gateway::start(sink(Duration::ZERO), 512 << 20);
    let mut client = gateway.client(1);
    let mut letters = None;
    let mut is_even = true;
    println!("\n| an upload of 11 MB full of | user + system | to letters |");
    println!("|---|---|---|");
    for filling in [
        "a",
        "<",
        "<\0",
        "<s",
        "<!--",
        "<script\u{1}",
        "<%=\u{1}",
        "<img \u{1}",
        "<\0s\0c\0r\0i\u{1}",
        "JAVASCRIPT:",
        "%PDF",
    ] {
        let form = form_of(&full_of(filling.as_bytes(), 11_000_000));
        // The first one warms up.
        client.upload(&form).accepted();
        let took = gateway.process.time_of(|| {
            (0..TIMES).for_each(|_| client.upload(&form).accepted());
        });
        let took = (took / TIMES).as_secs_f64() * 1e3;
        let ratio = took / *letters.get_or_insert(took);
        is_even &= ratio <= MOST;
        println!(
            "| `{}` | {took:.1} ms | {ratio:.2} |",
            filling.escape_debug()
        );
    }
    is_even
}

/// A PNG with that in its XMP, again and again.
fn full_of(filling: &[u8], size: usize) -> Vec<u8> {
    const HEADER: usize = 8 + 12 + 13;
    let mut png = io::Cursor::new(Vec::new());
    let picture = image::RgbImage::new(8, 8);
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let mut png = png.into_inner();
    let mut chunk = b"iTXtXML:com.adobe.xmp\0\0\0\0\0".to_vec();
    chunk.extend(filling.iter().cycle().take(size));
    let length = u32::try_from(chunk.len() - 4).unwrap().to_be_bytes();
    let crc = crc32fast::hash(&chunk).to_be_bytes();
    png.splice(HEADER..HEADER, [&length[..], &chunk, &crc].concat());
    png
}

/// Prints each case of memory; whether all are within their bounds.
fn memory() -> bool {
    const MB: f64 = 1e6;
    let sink = sink(ERP_TAKES);
    println!(
        "\n| uploads | at once | tenants | idle | peak above idle | bound | afterwards | 201 | 503 |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    let whole = (AT_ONCE * PHOTO) as u64;
    let default = 512 << 20;
    let small = 128 << 20;
    let mut holds = true;
    for (sizes, at_once, tenants, in_flight, allowed) in [
        (&[5_000_000][..], 1, 1, default, 0),
        (&[12_000_000], 1, 1, default, 0),
        (&[PHOTO], AT_ONCE, 1, default, whole),
        (&[PHOTO], AT_ONCE, 1, small, small),
        (&MIXED, AT_ONCE, 1, small, small),
        (&MIXED, AT_ONCE, TENANTS.len(), small, small),
    ] {
        let bound = match at_once {
            1 => (sizes[0] as f64 * MARGIN) as u64 + ONE_UPLOAD_MARGIN,
            // What all may hold is what they hold.
            _ if allowed == in_flight => allowed,
            _ => (allowed as f64 * MARGIN) as u64,
        };
        let gateway = Gateway::start(sink, in_flight);
        gateway.client(1).upload(&form(SMALL_PHOTO)).accepted();
        let idle = gateway.process.resident();
        gateway.process.forget_peak();
        let forms: Vec<_> = sizes.iter().map(|size| form(*size)).collect();
        let refused: usize = thread::scope(|scope| {
            let uploads: Vec<_> = (0..at_once)
                .map(|order| {
                    // Each tenant has photos of each size.
                    let tenant = TENANTS[order / forms.len() % tenants];
                    let client = Client::of(tenant, gateway.at, order);
                    (client, &forms[order % forms.len()])
                })
                .map(|(client, form)| scope.spawn(|| client.until_accepted(form)))
                .collect();
            uploads
                .into_iter()
                .map(|upload| upload.join().unwrap())
                .sum()
        });
        let above = gateway.process.peak().saturating_sub(idle);
        let afterwards = gateway.settles(idle);
        holds &= above <= bound;
        println!(
            "| {} MB, in_flight_bytes {} MiB | {at_once} | {tenants} | {:.1} MB | {:.1} MB{} | {:.1} MB | {:+.1} MB | {at_once} | {refused} |",
            told(sizes),
            in_flight >> 20,
            idle as f64 / MB,
            above as f64 / MB,
            if above <= bound { "" } else { " (over)" },
            bound as f64 / MB,
            (afterwards as f64 - idle as f64) / MB,
        );
    }
    holds
}

/// Sizes in MB.
fn told(sizes: &[usize]) -> String {
    let mb = |size: Option<&usize>| size.map_or(0, |size| size / 1_000_000);
    match sizes {
        [size] => mb(Some(size)).to_string(),
        _ => format!("{} to {}", mb(sizes.iter().min()), mb(sizes.iter().max())),
    }
}

/// Prints what an upload costs beside the floor, and how fast uploads are.
fn time() {
    let sink = sink(Duration::ZERO);
    let gateway = Gateway::start(sink, 512 << 20);
    let [floor, floor_with_digest] =
        [WITHOUT, WITH_DIGEST].map(|digest| Floor::start(sink, digest));
    let form = form(TIMED_PHOTO);
    let mut measured = [
        ("gateway", &gateway.process, gateway.client(1), Vec::new()),
        (
            "floor",
            &floor.process,
            Client::new(floor.at, 1),
            Vec::new(),
        ),
        (
            "floor with a SHA-256",
            &floor_with_digest.process,
            Client::new(floor_with_digest.at, 1),
            Vec::new(),
        ),
    ];
    // The first round warms up.
    for is_measured in [false].into_iter().chain([true; ROUNDS]) {
        for (_, process, client, rounds) in &mut measured {
            let took = process.time_of(|| {
                (0..UPLOADS).for_each(|_| client.upload(&form).accepted());
            });
            rounds.extend(is_measured.then_some(took));
        }
    }
    let size = TIMED_PHOTO as f64 / 1e6;
    println!(
        "\nprocessor time of one upload of {size:.0} MB, median of {ROUNDS} rounds of {UPLOADS}\n"
    );
    println!("| | user + system | gateway to it |");
    println!("|---|---|---|");
    let medians = measured.map(|(name, _, _, mut rounds)| {
        rounds.sort_unstable();
        let median = rounds[ROUNDS / 2].as_secs_f64() * 1e3;
        (name, median / UPLOADS as f64)
    });
    for (name, median) in medians {
        println!("| {name} | {median:.2} ms | {:.2} |", medians[0].1 / median);
    }

    let begun = Instant::now();
    let mut took: Vec<_> = thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|order| gateway.client(order))
            .map(|mut client| {
                let form = &form;
                scope.spawn(move || {
                    let upload = |_| {
                        let sent = Instant::now();
                        client.upload(form).accepted();
                        sent.elapsed()
                    };
                    (0..UPLOADS).map(upload).collect::<Vec<_>>()
                })
            })
            .collect();
        let took = callers.into_iter().map(|caller| caller.join().unwrap());
        took.flatten().collect()
    });
    let rate = (CALLERS * UPLOADS) as f64 * size / begun.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 100];
    println!(
        "\n{CALLERS} clients at once: {rate:.0} MB/s, p50 {:.1?}, p99 {:.1?}",
        at(50),
        at(99)
    );
}

/// A running process, which ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn proc(&self, file: &str) -> PathBuf {
        format!("/proc/{}/{file}", self.0.id()).into()
    }

    /// A line of `status`, in bytes.
    fn status(&self, name: &str) -> u64 {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.unwrap().trim_matches(|it: char| !it.is_ascii_digit());
        kib.parse::<u64>().unwrap() << 10
    }

    fn resident(&self) -> u64 {
        self.status("VmRSS")
    }

    fn peak(&self) -> u64 {
        self.status("VmHWM")
    }

    /// The peak is of what follows. Only root may ask for that, since the gateway keeps its memory from others; for
    /// anybody else the peak is of the whole life, which is no less.
    fn forget_peak(&self) {
        let _ = fs::write(self.proc("clear_refs"), "5");
    }

    /// The process's own time while that happened.
    fn time_of(&self, what: impl FnOnce()) -> Duration {
        let before = self.time();
        what();
        self.time() - before
    }

    /// proc_pid_stat(5): `utime` and `stime` in ticks, which are of 10 ms on every Linux that Rust runs on.
    fn time(&self) -> Duration {
        const UTIME_AFTER_NAME: usize = 11;
        let stat = fs::read_to_string(self.proc("stat")).unwrap();
        let (_, fields) = stat.rsplit_once(')').unwrap();
        let fields = fields.split_whitespace().skip(UTIME_AFTER_NAME).take(2);
        let ticks: u64 = fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }
}

/// The built command, serving.
struct Gateway {
    process: Process,
    at: SocketAddr,
    _files: tempfile::TempDir,
}

impl Gateway {
    fn start(sink: SocketAddr, in_flight_bytes: u64) -> Self {
        let files = tempfile::tempdir().unwrap();
        let path = |name: &str| files.path().join(name);
        fs::create_dir(path("tenants")).unwrap();
        for tenant in TENANTS {
            let file = path("tenants").join(tenant).with_extension("yaml");
            let key = format!("sim-key-{tenant}-default");
            let tenant = format!("clave: {tenant}\ncredentials: {{default: {{api_key: {key}}}}}\n");
            fs::write(file, tenant).unwrap();
        }
        let (at, admin) = (free(), free());
        let config = format!(
            "server: {{listen: \"{at}\", admin_listen: \"{admin}\"}}\n\
             upstream: {{base_url: \"http://{sink}/{{clave}}/api/v2/\", max_concurrency: {AT_ONCE}}}\n\
             auth: {{issuers: [{{issuer: bench, audience: llavero, algorithms: [HS256], secret: {SECRET}}}]}}\n\
             limits: {{user: {{requests: 4000000000, per: 1s, burst: 4000000000}}, tenant: {{requests: 4000000000, per: 1s, burst: 4000000000}}}}\n\
             images: {{dedupe_window: 0s, in_flight_bytes: {in_flight_bytes}B}}\n\
             audit: {{output: {{file: audit.jsonl}}}}\n"
        );
        fs::write(path("llavero.yaml"), config).unwrap();
        let log = fs::File::create(path("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_llavero"))
            .args(["serve", "--config"])
            .arg(path("llavero.yaml"))
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let process = Process(child);
        let begun = Instant::now();
        while TcpStream::connect(at).is_err() {
            let log = || fs::read_to_string(path("log")).unwrap();
            assert!(begun.elapsed() < Duration::from_secs(10), "{}", log());
            thread::sleep(Duration::from_millis(10));
        }
        Self {
            process,
            at,
            _files: files,
        }
    }

    /// What is resident once memory was given back, or when there was time enough for it. The allocator
    /// looks after that while it is used, so small uploads go on.
    fn settles(&self, idle: u64) -> u64 {
        let (begun, form) = (Instant::now(), form(SMALL_PHOTO));
        let mut client = self.client(1);
        while self.process.resident() > idle && begun.elapsed() < SETTLES_WITHIN {
            client.upload(&form).accepted();
        }
        self.process.resident()
    }

    fn client(&self, order: usize) -> Client {
        Client::new(self.at, order)
    }
}

fn free() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn token(tenant: &str) -> String {
    let claims = json!({
        "iss": "bench", "aud": "llavero", "sub": "ana", "tenant": tenant,
        "scope": "imagenes:write", "exp": 4_102_444_800_u64,
    });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    encode(&Header::default(), &claims, &key).unwrap()
}

/// A photo as a browser sends it: parts in a form, of which the image is `size` bytes.
fn form(size: usize) -> Vec<u8> {
    form_of(&photo(size))
}

fn form_of(photo: &[u8]) -> Vec<u8> {
    let part = |head: &str| {
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name={head}\r\n\r\n").into_bytes()
    };
    [
        part("\"proceso\""),
        b"antes\r\n".to_vec(),
        part("\"imagen\"; filename=\"foto.jpg\"\r\nContent-Type: image/jpeg"),
        photo.to_vec(),
        format!("\r\n--{BOUNDARY}--\r\n").into_bytes(),
    ]
    .concat()
}

/// A JPEG of that many bytes: a real one's header before a scan of noise, which no decoder meets here.
fn photo(size: usize) -> Vec<u8> {
    const SCAN: [u8; 2] = [0xff, 0xda];
    const END: [u8; 2] = [0xff, 0xd9];
    let mut jpeg = Vec::with_capacity(size);
    let picture = image::RgbImage::new(4032, 3024);
    let mut encoder = image::codecs::jpeg::JpegEncoder::new(&mut jpeg);
    encoder.encode_image(&picture).unwrap();
    let scan = jpeg.windows(2).position(|two| two == SCAN).unwrap();
    let length = u16::from_be_bytes([jpeg[scan + 2], jpeg[scan + 3]]);
    jpeg.truncate(scan + 2 + usize::from(length));
    let mut noise = fastrand::Rng::with_seed(7);
    while jpeg.len() < size - END.len() {
        match noise.u8(..) {
            // A byte like a marker's first is followed by a zero (ITU T.81, B.1.1.5).
            0xff => jpeg.extend([0xff, 0]),
            byte => jpeg.push(byte),
        }
    }
    jpeg.truncate(size - END.len() - 1);
    jpeg.push(0);
    jpeg.extend(END);
    jpeg
}

/// One connection, and uploads to one order.
struct Client {
    at: SocketAddr,
    connection: Option<TcpStream>,
    order: usize,
    token: String,
}

struct Answer {
    status: u16,
    head: String,
}

impl Answer {
    fn accepted(self) {
        assert_eq!(self.status, 201, "{}", self.head);
    }
}

impl Client {
    fn new(at: SocketAddr, order: usize) -> Self {
        Self::of(TENANTS[0], at, order)
    }

    fn of(tenant: &str, at: SocketAddr, order: usize) -> Self {
        Self {
            at,
            connection: None,
            order: 21001 + order,
            token: token(tenant),
        }
    }

    /// How often the upload was put off before it was accepted.
    fn until_accepted(mut self, form: &[u8]) -> usize {
        for refused in 0..MOST_ATTEMPTS {
            let answer = self.upload(form);
            if answer.status != 503 {
                answer.accepted();
                return refused;
            }
            let after = header(&answer.head, "retry-after").expect("a 503 without Retry-After");
            thread::sleep(Duration::from_secs(after.parse().unwrap()));
        }
        panic!("an upload was never accepted");
    }

    fn upload(&mut self, form: &[u8]) -> Answer {
        let head = format!(
            "POST /v1/ordenes/{}/imagenes HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\n\
             content-type: multipart/form-data; boundary={BOUNDARY}\r\ncontent-length: {}\r\n\r\n",
            self.order,
            self.token,
            form.len()
        );
        let connection = self.connection.take();
        let mut connection = connection.unwrap_or_else(|| TcpStream::connect(self.at).unwrap());
        connection.set_nodelay(true).unwrap();
        // Who is refused early may find that nobody reads on; there is an answer all the same.
        let sent = connection
            .write_all(head.as_bytes())
            .and_then(|()| connection.write_all(form));
        let (head, length, rest) = read_head(&mut connection).unwrap().expect("an answer");
        discard(&mut connection, length - rest.len()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        if sent.is_ok() && header(&head, "connection") != Some("close") {
            self.connection = Some(connection);
        }
        Answer { status, head }
    }
}

/// A message's head, the length of its body, and what has already come of that; none where the connection has ended.
fn read_head(connection: &mut TcpStream) -> io::Result<Option<(String, usize, Vec<u8>)>> {
    const END: &[u8] = b"\r\n\r\n";
    let (mut read, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let count = connection.read(&mut buffer)?;
        if count == 0 {
            return Ok(None);
        }
        read.extend_from_slice(&buffer[..count]);
        if let Some(end) = read.windows(END.len()).position(|window| window == END) {
            let body = read.split_off(end + END.len());
            let head = String::from_utf8(read).unwrap();
            let length = header(&head, "content-length").unwrap().parse().unwrap();
            return Ok(Some((head, length, body)));
        }
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (of, value) = line.split_once(':')?;
        of.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn discard(connection: &mut TcpStream, length: usize) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut left = length;
    while left > 0 {
        let portion = left.min(buffer.len());
        let count = connection.read(&mut buffer[..portion])?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= count;
    }
    Ok(())
}

/// Serves each connection on a thread of its own, as long as this process lives.
fn listen(serve: impl Fn(TcpStream) -> io::Result<()> + Copy + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || serve(connection));
        }
    });
    at
}

/// An ERP that takes whatever comes.
fn sink(takes: Duration) -> SocketAddr {
    listen(move |mut connection| {
        while let Some((_, length, rest)) = read_head(&mut connection)? {
            discard(&mut connection, length - rest.len())?;
            thread::sleep(takes);
            connection.write_all(&created())?;
        }
        Ok(())
    })
}

fn created() -> Vec<u8> {
    let body = r#"{"id": 1, "url": "https://archivos.example.net/1.jpg", "titulo": "x", "creado": "2026-01-28T17:53:36.346193+00:00"}"#;
    let length = body.len();
    format!(
        "HTTP/1.1 201 Created\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The least that a program does which sends on what it gets, in base64.
struct Floor {
    process: Process,
    at: SocketAddr,
}

impl Floor {
    fn start(sink: SocketAddr, digest: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--floor", &sink.to_string(), digest])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut printed = io::BufReader::new(child.stdout.take().unwrap());
        let process = Process(child);
        let mut at = String::new();
        io::BufRead::read_line(&mut printed, &mut at).unwrap();
        Self {
            process,
            at: at.trim().parse().unwrap(),
        }
    }
}

fn floor(sink: SocketAddr, with_digest: bool) -> ! {
    let at = listen(move |mut client| {
        // A multiple of 3 as near 64 KiB as there is, so that no padding falls in the middle.
        let mut read = vec![0; 65_535];
        let mut encoded = vec![0; STANDARD.encoded_length(read.len())];
        let mut erp = TcpStream::connect(sink)?;
        erp.set_nodelay(true)?;
        while let Some((_, length, rest)) = read_head(&mut client)? {
            let head = format!(
                "POST / HTTP/1.1\r\ncontent-length: {}\r\n\r\n",
                STANDARD.encoded_length(length)
            );
            erp.write_all(head.as_bytes())?;
            read[..rest.len()].copy_from_slice(&rest);
            let (mut left, mut filled) = (length, rest.len());
            let mut digest = digest::Context::new(&digest::SHA256);
            while left > 0 {
                let portion = left.min(read.len());
                client.read_exact(&mut read[filled..portion])?;
                if with_digest {
                    digest.update(&read[..portion]);
                }
                let text = STANDARD.encode(&read[..portion], encoded.as_mut_slice().as_out());
                erp.write_all(text)?;
                (left, filled) = (left - portion, 0);
            }
            black_box(digest.finish());
            let (_, length, rest) = read_head(&mut erp)?.unwrap();
            discard(&mut erp, length - rest.len())?;
            client.write_all(&created())?;
        }
        Ok(())
    });
    println!("{at}");
    loop {
        thread::park();
    }
}
