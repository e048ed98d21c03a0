//! Photos over networks that drop, to an ERP that fails: each arrives once, and everybody who
//! keeps asking is answered. `LLAVERO_RETRY_PHOTOS` says how many.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use fastrand::Rng;
use llavero_simulator::{Faults, StatusFault};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{World, leaks, with_clave};

const PHOTOS: usize = 150;
/// More photos are more clients', to more orders: what takes time is that each waits for its doubts to end.
const FEWEST_CLIENTS: usize = 16;
const OF_A_CLIENT: usize = 20;
const OF_AN_ORDER: usize = 8;
/// The tenant's.
const MOST_ORDERS: u64 = 127;

/// A technician's photo, and how it is sent.
struct Job {
    number: usize,
    photo: Vec<u8>,
    path: String,
    titulo: Option<&'static str>,
    /// None: it counts as the same by its content.
    key: Option<String>,
}

/// One pixel, and a comment that no other has.
fn photo(number: usize) -> Vec<u8> {
    let comment = format!("foto {number} {}", "x".repeat(number % 700));
    let mut photo = b"\xff\xd8\xff\xfe".to_vec();
    photo.extend((comment.len() as u16 + 2).to_be_bytes());
    photo.extend(comment.bytes());
    photo.extend(
        b"\xff\xc0\0\x0b\x08\0\x01\0\x01\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\x3f\0\x37\xff\xd9",
    );
    photo
}

fn job(number: usize, orders: u64, rng: &mut Rng) -> Job {
    Job {
        number,
        photo: photo(number),
        path: format!("/v1/ordenes/{}/imagenes", 11001 + rng.u64(..orders)),
        titulo: rng.bool().then_some("Fachada"),
        key: (rng.u8(..5) > 0).then(|| format!("foto-{number}")),
    }
}

impl Job {
    /// The request, written anew: another boundary, another order of the parts.
    fn request(&self, token: &str, rng: &mut Rng) -> Vec<u8> {
        let boundary = format!("b{:x}", rng.u64(..));
        let mut parts = vec![
            (
                "name=\"imagen\"; filename=\"foto.jpg\"\r\nContent-Type: image/jpeg",
                &self.photo[..],
            ),
            ("name=\"proceso\"", b"antes"),
        ];
        if let Some(titulo) = self.titulo {
            parts.push(("name=\"titulo\"", titulo.as_bytes()));
        }
        rng.shuffle(&mut parts);
        let mut body = Vec::new();
        for (head, content) in parts {
            body.extend(
                format!("--{boundary}\r\nContent-Disposition: form-data; {head}\r\n\r\n").bytes(),
            );
            body.extend(content);
            body.extend(b"\r\n");
        }
        body.extend(format!("--{boundary}--\r\n").bytes());
        let key = self.key.as_ref().map(|key| match rng.bool() {
            true => format!("Idempotency-Key: {key}\r\n"),
            false => format!("Idempotency-Key: \"{key}\"\r\n"),
        });
        let mut request = format!(
            "POST {} HTTP/1.1\r\nHost: llavero\r\nConnection: close\r\nAuthorization: Bearer {token}\r\n{}\
             Content-Type: multipart/form-data; boundary={boundary}\r\nContent-Length: {}\r\n\r\n",
            self.path,
            key.unwrap_or_default(),
            body.len()
        )
        .into_bytes();
        request.extend(body);
        request
    }

    /// Sends until it has the whole answer to a photo that was attached.
    async fn until_answered(&self, world: &World, token: &str, rng: &mut Rng) -> Value {
        for _ in 0..1000 {
            let request = self.request(token, rng);
            let answer = match rng.u8(..10) {
                // Its user is impatient, and it goes out twice.
                0 => {
                    let again = self.request(token, rng);
                    let (first, second) = (rng.fork(), rng.fork());
                    let (first, second) = tokio::join!(
                        attempt(world, &request, first),
                        attempt(world, &again, second)
                    );
                    first.or(second)
                }
                _ => attempt(world, &request, rng.fork()).await,
            };
            match answer {
                Some((201, body)) => return body,
                Some((409 | 429 | 502 | 503 | 504, _)) | None => {
                    world
                        .clock
                        .sleep_until(
                            world.clock.instant() + Duration::from_millis(rng.u64(100..3000)),
                        )
                        .await;
                }
                Some((status, body)) => panic!("photo {}: {status} {body}", self.number),
            }
        }
        panic!("photo {} isn't answered", self.number);
    }
}

/// One connection, which may break anywhere. None where no whole answer was read.
async fn attempt(world: &World, request: &[u8], mut rng: Rng) -> Option<(u16, Value)> {
    let mut socket = TcpStream::connect(world.public.trim_start_matches("http://"))
        .await
        .unwrap();
    let cut = match rng.u8(..10) {
        // In the head, in the body, one byte before its end, and after it.
        0 => rng.usize(..200),
        1 | 2 => rng.usize(..request.len()),
        3 => request.len() - 1,
        _ => request.len(),
    };
    for piece in request[..cut].chunks(rng.usize(50..2000)) {
        socket.write_all(piece).await.ok()?;
        if rng.u8(..4) == 0 {
            tokio::task::yield_now().await;
        }
    }
    // Gone while it is sent to the ERP, or while the answer comes.
    let patience = match (cut < request.len(), rng.u8(..10)) {
        (true, _) => return None,
        (_, 0) => Duration::from_millis(rng.u64(..4000)),
        (_, 1) => return None,
        _ => Duration::from_secs(3600),
    };
    let mut answer = Vec::new();
    let whole = socket.read_to_end(&mut answer);
    let until = world.clock.instant() + patience;
    world.clock.before(until, whole).await?.ok()?;
    leaks::assert_none_in("an answer", &answer);
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().unwrap();
    Some((status, serde_json::from_str(body).ok()?))
}

/// What is wrong with the ERP for a while.
fn trouble(rng: &mut Rng) -> Faults {
    let status = |code| StatusFault {
        times: Some(3),
        ..StatusFault::new(code)
    };
    let mut faults = Faults::default();
    match rng.u8(..10) {
        0 | 1 => faults.accept_then_hang = true,
        2 => faults.truncate = true,
        3 => faults.hang = true,
        4 => faults.status = Some(status(500)),
        5 => faults.status = Some(status(503)),
        6 => faults.status = Some(status(429)),
        _ => {}
    }
    faults
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_photo_arrives_once_and_everybody_is_answered() {
    let count = std::env::var("LLAVERO_RETRY_PHOTOS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(PHOTOS);
    let clients = count.div_ceil(OF_A_CLIENT).max(FEWEST_CLIENTS);
    // What the ERP has when it begins to hang is in doubt: of more clients, more.
    let at_once = clients / 2;
    let world = World::configured(&format!(
        "upstream:\n  timeout: 2s\n  upload_timeout: 2s\n  queue_timeout: 60s\n  max_concurrency: {at_once}\n\
         images: {{dedupe_window: 30d}}\n"
    ))
    .await;
    let world = Arc::new(world);
    let _time = world.time_flies_by(Duration::from_millis(20));
    let mut rng = Rng::with_seed(5);
    let troubles = {
        let (world, mut rng) = (world.clone(), rng.fork());
        tokio::spawn(async move {
            loop {
                world.faults("carper", trouble(&mut rng));
                let pause = Duration::from_millis(rng.u64(500..4000));
                world.clock.sleep_until(world.clock.instant() + pause).await;
            }
        })
    };
    // Time flies; a token that doesn't expire meanwhile.
    let token = world.token(&json!({"exp": world.clock.unix_seconds() + 30 * 24 * 3600}));
    let orders = (count.div_ceil(OF_AN_ORDER) as u64).min(MOST_ORDERS);
    let jobs: Vec<Job> = (0..count)
        .map(|number| job(number, orders, &mut rng))
        .collect();
    let jobs = Arc::new(std::sync::Mutex::new(jobs));
    let clients: Vec<_> = (0..clients)
        .map(|_| {
            let (world, token, jobs, mut rng) =
                (world.clone(), token.clone(), jobs.clone(), rng.fork());
            tokio::spawn(async move {
                let mut answers = Vec::new();
                loop {
                    let job = jobs.lock().unwrap().pop();
                    let Some(job) = job else { return answers };
                    let answer = job.until_answered(&world, &token, &mut rng).await;
                    answers.push((job, answer));
                }
            })
        })
        .collect();
    let mut answers = Vec::new();
    for client in clients {
        answers.extend(client.await.unwrap());
    }
    troubles.abort();
    let _ = troubles.await;
    assert_eq!(answers.len(), count);

    let clave = with_clave("carper");
    let mut kept: HashMap<Vec<u8>, usize> = HashMap::new();
    let mut ids = HashSet::new();
    for order in 11001..11001 + orders {
        let orden = world.erp.orden(&clave, order).unwrap();
        for archivo in orden["archivos"].as_array().into_iter().flatten() {
            let id = archivo["id"].as_u64().unwrap();
            if let Some(photo) = world.erp.imagen(&clave, id) {
                *kept.entry(photo).or_default() += 1;
            }
        }
    }
    for (job, answer) in &answers {
        let number = job.number;
        assert_eq!(kept.get(&job.photo), Some(&1), "photo {number} of {count}");
        let id = answer["id"].as_u64().unwrap();
        assert!(ids.insert(id), "photo {number} has another's answer");
        let theirs = world.erp.imagen(&clave, id).unwrap();
        assert!(theirs == job.photo, "photo {number} has another's answer");
    }
    assert_eq!(kept.len(), count, "and no others");
}
