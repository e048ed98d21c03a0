// What `.ci/slow-clients` does once everything is installed: node .ci/slow-clients.mjs BINARY
//
// What clients that are slow on purpose, or only idle, cost another one: its answers' p99, before and during, in windows of
// equal work; and the gateway's memory and processor time.

import { Agent, request } from "node:http";
import { connect } from "node:net";
import { readFileSync } from "node:fs";
import { endsWithin, erp, gateway, memory, percentile, start, token, until } from "./stage.mjs";

const [binary] = process.argv.slice(2);
/** A window is so many requests of so many callers. */
const REQUESTS = 800;
const CALLERS = 4;
const WINDOWS = 5;
const CONNECTIONS = 600;
const IDLE = 2000;
const UPLOADS = 300;
/** More than a connection may cost in memory, whatever it does. */
const KIB_EACH = 160;
/** How long slow clients stay at most; they are ended when the windows are. */
const ATTACK_SECONDS = 60;

endsWithin(118);

// The gateway and who measures share a core, so that the others' own work on the other one isn't taken for the gateway's.
const [here, there] = [["taskset", "-c", "0"], ["taskset", "-c", "1"]];
const { at } = await erp(binary, here);
const it = await gateway(binary, at, here);
await it.start();
const agent = new Agent({ keepAlive: true, maxSockets: CALLERS });
const bearer = token("ana");
let failed = 0;

function ask() {
  const begun = performance.now();
  return new Promise((done) => {
    const fail = () => {
      failed += 1;
      done(performance.now() - begun);
    };
    const sent = request({ host: "127.0.0.1", port: it.port, path: "/v1/ordenes/7", agent, timeout: 30_000,
      headers: { authorization: `Bearer ${bearer}` } });
    sent.on("error", fail);
    sent.on("timeout", () => sent.destroy(new Error("no answer")));
    sent.on("response", (answer) => {
      answer.resume();
      answer.on("error", fail);
      answer.on("end", () => (answer.statusCode === 200 ? done(performance.now() - begun) : fail()));
    });
    sent.end();
  });
}

/** One window's p99 and median, in ms. */
async function measured() {
  const times = [];
  let left = REQUESTS;
  await Promise.all(Array.from({ length: CALLERS }, async () => {
    while (left-- > 0) times.push(await ask());
  }));
  return { p99: percentile(times, 99), p50: percentile(times, 50) };
}

/** Processor time of the gateway so far, in s (proc(5); a tick is 10 ms). */
function processorTime() {
  const fields = readFileSync(`/proc/${it.child.pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

function openConnections() {
  return readFileSync("/proc/net/tcp", "utf8").split("\n").filter((line) => {
    const [, local, , state] = line.trim().split(/\s+/);
    return state === "01" && parseInt(local.split(":")[1], 16) === it.port;
  }).length;
}

/** What holds with so many others there. */
async function windows(name, others) {
  const seen = [];
  // The gateway ends those that do nothing, and their program opens others or doesn't.
  let open = openConnections();
  for (let window = 0; window < WINDOWS; window += 1) {
    seen.push(await measured());
    open = Math.max(open, openConnections());
  }
  const of = (what) => percentile(seen.map((window) => window[what]), 50);
  const result = { p99: of("p99"), p50: of("p50"), rss: memory(it.child, "VmRSS"), open };
  const ratio = before ? ` (${(result.p99 / before.p99).toFixed(2)} × of before)` : "";
  console.log(`${name}: p99 ${result.p99.toFixed(2)} ms${ratio}, p50 ${result.p50.toFixed(2)} ms; ${result.open} connections open at most; `
    + `${(result.rss / 1024).toFixed(0)} MiB held`);
  if (others && result.open < others / 2) {
    isWell = false;
    console.log(`  only ${result.open} connections were open: that shows nothing`);
  }
  return result;
}

let before;
let isWell = true;
for (let warm = 0; warm < 3; warm += 1) await measured();
before = await windows("alone");
const bound = before.rss + IDLE * KIB_EACH;

/** Runs it beside slow clients. */
async function beside(name, args) {
  const url = `http://127.0.0.1:${it.port}${args.path}`;
  const [command, ...rest] = [...there, "slowhttptest", ...args.how, "-c", `${CONNECTIONS}`, "-r", "200",
    "-l", `${ATTACK_SECONDS}`, "-p", "5", "-u", url];
  const spent = processorTime();
  const begun = performance.now();
  const slow = start("slowhttptest", command, rest);
  await until("its connections", () => openConnections() > CONNECTIONS * 0.6);
  await windows(name, CONNECTIONS);
  const measuring = performance.now() - begun;
  console.log(`  the gateway's processor time meanwhile: ${(((processorTime() - spent) / measuring) * 1e5).toFixed(0)} % of a core`);
  slow.kill("SIGKILL");
  await until("their end", () => openConnections() <= CALLERS + 1);
}

await beside("slow headers", { path: "/v1/ordenes", how: ["-H", "-i", "3", "-x", "24"] });
await beside("slow bodies without a token", { path: "/v1/ordenes/7/imagenes",
  how: ["-B", "-i", "3", "-s", "1000000", "-x", "10", "-t", "POST"] });
await beside("slow reads", { path: "/openapi.json", how: ["-X", "-w", "512", "-y", "1024", "-n", "3", "-z", "64", "-k", "10"] });

const idle = Array.from({ length: IDLE }, () => connect(it.port, "127.0.0.1").on("error", () => {}));
await until("idle connections", () => openConnections() > IDLE * 0.9);
await windows(`${IDLE} idle connections`, IDLE);
for (const socket of idle) socket.destroy();
await until("their end", () => openConnections() <= CALLERS + 1);

// slowhttptest has no token, so its bodies are refused at once. These aren't.
const head = `POST /v1/ordenes/7/imagenes HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${bearer}\r\n`
  + "content-type: multipart/form-data; boundary=b\r\ncontent-length: 1000000\r\n\r\n--b\r\n"
  + 'content-disposition: form-data; name="imagen"; filename="a.jpg"\r\n\r\n';
const uploads = Array.from({ length: UPLOADS }, () => {
  const socket = connect(it.port, "127.0.0.1").on("error", () => {}).on("data", () => {});
  socket.write(head);
  const trickle = setInterval(() => socket.write("x"), 1000);
  return socket.on("close", () => clearInterval(trickle));
});
await until("uploads", () => openConnections() > UPLOADS * 0.9);
await windows(`${UPLOADS} slow uploads with a token`, UPLOADS);
for (const socket of uploads) socket.destroy();
const peak = memory(it.child, "VmHWM");
console.log(`at most ${(peak / 1024).toFixed(0)} MiB held; ${failed} of the other client's requests failed`);
if (failed > 0 || peak > bound) isWell = false;
console.log(isWell ? "slow clients: nobody else's request failed, memory is bounded" : "slow clients: FAILED");
process.exit(isWell ? 0 : 1);
