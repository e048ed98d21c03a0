// What `.ci/slow-clients` does once everything is installed: node .ci/slow-clients.mjs BINARY
//
// What clients that are slow on purpose, or only idle, cost another one: its answers' p99, before and during, at the same steady
// rate; and the gateway's memory and processor time. With LLAVERO_CONTROL=1 each attack is also made on another gateway, which nobody
// else asks, so that what the attack takes from the machine is told from what it takes from the gateway.

import { readFileSync } from "node:fs";
import { Agent, request } from "node:http";
import { loadavg } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { end, endsWithin, start, until } from "./processes.mjs";
import { erp, gateway, memory, percentile, token } from "./stage.mjs";

const [binary] = process.argv.slice(2);
const withControl = process.env.LLAVERO_CONTROL === "1";
/** What the other client asks a second, and how much of it is one window. */
const RATE = 500;
const REQUESTS = 250;
/** A figure is the median of so many windows. */
const BEFORE = 5;
const DURING = 7;
/** More than a connection may cost in memory, whatever it does. */
const KIB_EACH = 160;
/** The same for what the system holds to be sent and read, which counts as the container's. */
const QUEUED_KIB_EACH = 192;
/** How many connections the other client has at most. */
const OWN = 20;
/** How long slow clients stay at most; they are ended when the windows are. */
const ATTACK_SECONDS = 60;

endsWithin(withControl ? 200 : 110);

// This process, its gateway and the ERP have one core, slow clients the other: their own work isn't taken for the gateway's.
const [here, there] = [["taskset", "-c", "0"], ["taskset", "-c", "1"]];
const { at } = await erp(binary, here);
// All of them come from one address.
const server = "connections: {per_address: 10000}";
const it = await gateway(binary, at, { prefix: here, server });
await it.start();
const other = withControl && (await gateway(binary, at, { prefix: there, server }));
if (other) await other.start();

const agent = new Agent({ keepAlive: true, maxSockets: OWN });
const bearer = token("ana");
let failed = 0;
let isWell = true;

function ask() {
  const begun = performance.now();
  return new Promise((done) => {
    const ended = (isAnswered) => {
      if (!isAnswered) failed += 1;
      done(performance.now() - begun);
    };
    const sent = request({ host: "127.0.0.1", port: it.port, path: "/v1/ordenes/7", agent, timeout: 30_000,
      headers: { authorization: `Bearer ${bearer}` } });
    sent.on("error", () => ended(false));
    sent.on("timeout", () => sent.destroy(new Error("no answer")));
    sent.on("response", (answer) => {
      answer.resume();
      answer.on("error", () => ended(false));
      answer.on("end", () => ended(answer.statusCode === 200));
    });
    sent.end();
  });
}

/** One window's times, in ms. A request is sent when it is due, whatever became of those before. */
async function window() {
  const begun = performance.now();
  const answers = [];
  while (answers.length < REQUESTS) {
    const due = Math.min(REQUESTS, ((performance.now() - begun) / 1000) * RATE);
    while (answers.length < due) answers.push(ask());
    await sleep(2);
  }
  return Promise.all(answers);
}

/** Processor time of a gateway so far, in s (proc(5); a tick is 10 ms). */
function processorTime({ child }) {
  const fields = readFileSync(`/proc/${child.pid}/stat`, "utf8").split(") ")[1].split(" ");
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

/**
 * How many connections a gateway has that neither end has closed, and how many MiB the system holds in their queues
 * (proc_net_tcp: 01 is ESTABLISHED, then the bytes to be sent and read).
 */
function sockets({ port }) {
  const found = { open: 0, queued: 0 };
  for (const line of readFileSync("/proc/net/tcp", "utf8").split("\n")) {
    const [, local, , state, queues] = line.trim().split(/\s+/);
    if (state !== "01" || parseInt(local.split(":")[1], 16) !== port) continue;
    found.open += 1;
    for (const queue of queues.split(":")) found.queued += parseInt(queue, 16) / 2 ** 20;
  }
  return found;
}

/** What holds over some windows. */
async function measured(windows, target = it) {
  const [spent, begun] = [processorTime(it), performance.now()];
  const seen = [];
  let [rss, queued, least] = [0, 0, Infinity];
  for (let at = 0; at < windows; at += 1) {
    const times = await window();
    seen.push({ p99: percentile(times, 99), p50: percentile(times, 50) });
    rss = Math.max(rss, memory(target.child, "VmRSS"));
    const now = sockets(target);
    queued = Math.max(queued, now.queued);
    least = Math.min(least, now.open);
  }
  const core = (processorTime(it) - spent) / (performance.now() - begun) * 1e5;
  const of = (what) => percentile(seen.map((window) => window[what]), 50);
  return { p99: of("p99"), p50: of("p50"), core, rss, queued, least };
}

const ms = (time) => time.toFixed(2);
const mib = (kib) => (kib / 1024).toFixed(0);

/**
 * Measures beside slow clients, who are begun by a function that takes a port. `held` is how many connections they have
 * at any time; where it is 0, they are meant to be sent away.
 */
async function beside(name, held, begin) {
  const before = await measured(BEFORE);
  for (const target of other ? [other, it] : [it]) {
    const slow = await begin(target);
    if (held > 0) await until(name, () => sockets(target).open >= held);
    else await sleep(1000);
    const during = await measured(DURING, target);
    await slow.stop();
    await until(`the end of ${name}`, () => sockets(target).open <= OWN);
    console.log(`${name}${target === other ? " on another gateway" : ""}: p99 ${ms(before.p99)} → ${ms(during.p99)} ms (${ms(during.p99 / before.p99)} ×), `
      + `p50 ${ms(before.p50)} → ${ms(during.p50)} ms; processor ${before.core.toFixed(0)} → ${during.core.toFixed(0)} % of a core; `
      + `${during.least} connections; ${target === it ? `${mib(before.rss)} → ` : ""}${mib(during.rss)} MiB held, ${during.queued.toFixed(0)} MiB more by the system`);
    if (target !== it) continue;
    if (during.least < held) {
      isWell = false;
      console.log(`  only ${during.least} connections stayed: that shows nothing`);
    }
    const each = Math.max(held, 100);
    if (during.rss - before.rss > each * KIB_EACH || during.queued > (each * QUEUED_KIB_EACH) / 1024) {
      isWell = false;
      console.log(`  more than ${KIB_EACH} KiB are held for each, or ${QUEUED_KIB_EACH} by the system`);
    }
  }
}

/** Slow clients of slowhttptest. */
function slowhttptest(count, path, how) {
  return (target) => start("slowhttptest", there[0], [...there.slice(1), "slowhttptest", ...how, "-c", `${count}`, "-r", `${count}`,
    "-l", `${ATTACK_SECONDS}`, "-p", "5", "-u", `http://127.0.0.1:${target.port}${path}`]);
}

/** Slow clients of our own. */
function peers(kind, count) {
  const script = join(import.meta.dirname, "slow-peers.mjs");
  return (target) => start(kind, there[0], [...there.slice(1), process.execPath, script, kind, `${target.port}`, `${count}`, bearer]);
}

console.log(`load average before: ${loadavg()[0].toFixed(1)}`);
for (let warm = 0; warm < 3; warm += 1) await window();
await beside("600 slow headers", 540, slowhttptest(600, "/v1/ordenes", ["-H", "-i", "3", "-x", "24"]));
await beside("600 slow bodies without a token", 0, slowhttptest(600, "/v1/ordenes/7/imagenes",
  ["-B", "-i", "3", "-s", "1000000", "-x", "10", "-t", "POST"]));
// slowhttptest writes the type as it is given, line ends too.
await beside("600 slow bodies with a token", 540, slowhttptest(600, "/v1/ordenes/7",
  ["-B", "-i", "3", "-s", "100000", "-x", "10", "-t", "PATCH", "-f", `application/json\r\nAuthorization: Bearer ${bearer}`]));
await beside("600 slow reads", 540, slowhttptest(600, "/openapi.json", ["-X", "-w", "512", "-y", "1024", "-n", "3", "-z", "64", "-k", "10"]));
await beside("2,000 idle connections", 1900, peers("idle", 2000));
await beside("300 slow uploads with a token", 280, peers("uploads", 300));

console.log(`load average after: ${loadavg()[0].toFixed(1)}; at most ${mib(memory(it.child, "VmHWM"))} MiB held; ${failed} of the other client's requests failed`);
if (failed > 0) isWell = false;
console.log(isWell ? "slow clients: nobody else's request failed, memory is bounded" : "slow clients: FAILED");
await end();
process.exit(isWell ? 0 : 1);
