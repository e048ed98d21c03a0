// What `.ci/rollout` does once everything is installed: node .ci/rollout.mjs BINARY
//
// Two instances behind HAProxy, then behind nginx; 500 requests a second with changes and uploads; five times one of
// the two is ended by SIGTERM and started anew. No request may fail, and none be made twice at the ERP.

import { randomUUID } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { Agent, request } from "node:http";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { directory, end, endsWithin, freePorts, start, until } from "./processes.mjs";
import { ORDERS, erp, gateway, percentile, photo, token } from "./stage.mjs";

const [binary] = process.argv.slice(2);
const RATE = Number(process.env.LLAVERO_RATE ?? 500);
const ROUNDS = 5;
/** How long a photo is on its way, and in how many pieces. */
const UPLOAD_MS = 2000;
const PIECES = 20;
const READ_ORDERS = 50;
/** How long both instances serve between two restarts; a proxy tries one that was gone again within it and `DRAIN_DELAY`. */
const SETTLED_MS = 700;
/** Shorter than the default, so harder. HAProxy's checks are over in half of it. */
const DRAIN_DELAY = "2s";
/** More than an instance prints in a run: its warnings are counted from its start. */
const KEPT_BYTES = 64 * 1024 * 1024;
/** Where a caller is who isn't at the proxy's own address. */
const ELSEWHERE = "127.0.0.2";

endsWithin(150);

/** The file that docs/load-balancers.md shows for a proxy, with what has to be another here. */
function configuration(name, changes) {
  const page = readFileSync("docs/load-balancers.md", "utf8");
  let [, text] = new RegExp(`^## ${name}\\n[^#]*?\`\`\`\\n([^]*?)\`\`\``, "im").exec(page);
  for (const [shown, here] of changes) {
    if (!shown.test(text)) throw new Error(`docs/load-balancers.md shows no ${shown} for ${name}`);
    text = text.replace(shown, here);
  }
  return text;
}

const configurations = {
  haproxy: (port, instances) => configuration("haproxy", [
    [/bind .*/, `bind 127.0.0.1:${port}`],
    ...instances.map((it, at) => [new RegExp(`10\\.0\\.0\\.1${at + 1}:8080 port 9090`), `127.0.0.1:${it.port} port ${it.adminPort}`]),
  ]),
  nginx: (port, instances) => configuration("nginx", [
    [/^worker_processes auto;/, `${process.getuid() === 0 ? "user root;" : ""}
daemon off;
worker_processes 1;
pid ${directory}/nginx.pid;
error_log ${directory}/nginx.log warn;`],
    [/^http \{/m, `http {
  access_log off;
  client_body_temp_path ${directory}/nginx-body;
  proxy_temp_path ${directory}/nginx-proxy;
  fastcgi_temp_path ${directory}/nginx-fastcgi;
  uwsgi_temp_path ${directory}/nginx-uwsgi;
  scgi_temp_path ${directory}/nginx-scgi;
  keepalive_requests 1000000;`],
    [/listen .*\n.*ssl_certificate .*\n.*ssl_certificate_key .*/, `listen 127.0.0.1:${port};`],
    ...instances.map((it, at) => [new RegExp(`10\\.0\\.0\\.1${at + 1}:8080`), `127.0.0.1:${it.port}`]),
  ]),
};
const commands = {
  haproxy: (file) => ["haproxy", ["-db", "-f", file]],
  nginx: (file) => ["nginx", ["-e", `${directory}/nginx.log`, "-c", file, "-p", directory]],
};

/** Callers who send at a steady rate, whatever becomes of what they sent. */
class Callers {
  constructor(port) {
    this.port = port;
    this.agent = new Agent({ keepAlive: true, maxSockets: 1000 });
    this.bearer = token("ana");
    this.count = 0;
    this.failures = [];
    this.times = [];
    this.done = new Map();
    this.underWay = new Set();
    this.uploads = 0;
  }

  /** Sends until `work` is done, and waits for the last answer. Gives back how many a second were sent. */
  async during(work) {
    let goesOn = true;
    const sending = (async () => {
      const begun = performance.now();
      while (goesOn) {
        const due = Math.floor(((performance.now() - begun) / 1000) * RATE);
        while (this.count < due) this.send();
        await sleep(4);
      }
      return (this.count / (performance.now() - begun)) * 1000;
    })();
    try {
      await work();
    } finally {
      goesOn = false;
    }
    const rate = await sending;
    await Promise.all(this.underWay);
    return rate;
  }

  send() {
    const number = this.count++;
    const at = number % 100;
    const written = READ_ORDERS + 1 + (number % (ORDERS - READ_ORDERS));
    let answered;
    if (at === 0 || at === 50) answered = this.upload(written);
    else if (at % 5 === 1) answered = this.change(written, number);
    else if (at % 10 === 2) answered = this.ask("GET", "/v1/ordenes?limit=20", 200);
    else answered = this.ask("GET", `/v1/ordenes/${1 + (number % READ_ORDERS)}`, 200);
    const kept = answered.catch((error) => this.failures.push(error.message)).finally(() => this.underWay.delete(kept));
    this.underWay.add(kept);
  }

  async change(order, number) {
    const body = Buffer.from(JSON.stringify({ descripcion: `<p>${number}</p>` }));
    await this.ask("PATCH", `/v1/ordenes/${order}`, 200, [body], { "content-type": "application/json" });
    this.note(`PATCH ${order}`);
  }

  async upload(order) {
    const body = Buffer.concat([
      Buffer.from('--b\r\ncontent-disposition: form-data; name="proceso"\r\n\r\nantes\r\n'
        + '--b\r\ncontent-disposition: form-data; name="imagen"; filename="a.png"\r\n\r\n'),
      photo(300),
      Buffer.from("\r\n--b--\r\n"),
    ]);
    const piece = Math.ceil(body.length / PIECES);
    const pieces = Array.from({ length: PIECES }, (_, at) => body.subarray(at * piece, (at + 1) * piece));
    this.uploads += 1;
    try {
      await this.ask("POST", `/v1/ordenes/${order}/imagenes`, 201, pieces,
        { "content-type": "multipart/form-data; boundary=b", "idempotency-key": randomUUID() });
    } finally {
      this.uploads -= 1;
    }
    this.note(`POST ${order}`);
  }

  note(write) {
    this.done.set(write, (this.done.get(write) ?? 0) + 1);
  }

  ask(method, path, expected, pieces = [], headers = {}) {
    const begun = performance.now();
    return new Promise((done, failed) => {
      const fail = (why) => failed(new Error(`${method} ${path.replace(/(?<=ordenes\/)\d+/, "…")}: ${why}`));
      const length = pieces.reduce((sum, piece) => sum + piece.length, 0);
      const sent = request({
        host: "127.0.0.1", port: this.port, method, path, agent: this.agent, timeout: 60_000,
        headers: { authorization: `Bearer ${this.bearer}`, ...(length && { "content-length": length }), ...headers },
      });
      sent.on("error", (error) => fail(error.code ?? error.message));
      sent.on("timeout", () => sent.destroy(new Error("no answer within 60 s")));
      sent.on("response", (answer) => {
        const parts = [];
        answer.on("data", (part) => parts.push(part));
        answer.on("error", (error) => fail(error.code ?? error.message));
        answer.on("end", () => {
          if (method === "GET") this.times.push(performance.now() - begun);
          if (answer.statusCode === expected) return done();
          const code = /"code":"([^"]*)"/.exec(Buffer.concat(parts).toString())?.[1] ?? "not the gateway's";
          fail(`${answer.statusCode} ${code}`);
        });
      });
      (async () => {
        for (const [at, piece] of pieces.entries()) {
          if (at > 0) await sleep(UPLOAD_MS / PIECES);
          if (sent.destroyed) return;
          sent.write(piece);
        }
        sent.end();
      })();
    });
  }
}

/** What the ERP made more often, and less often, than its callers were told. */
async function compared(journal, callers) {
  const made = new Map();
  for (const it of await (await fetch(journal)).json()) {
    const [, order, isImage] = /ordenes_servicio\/(\d+)\/(\w*)/.exec(it.path) ?? [];
    if (it.method === "GET" || !(it.status >= 200 && it.status < 300)) continue;
    const write = `${isImage ? "POST" : "PATCH"} ${order}`;
    made.set(write, (made.get(write) ?? 0) + 1);
  }
  await fetch(journal, { method: "DELETE" });
  let [twice, never, all] = [0, 0, 0];
  for (const write of new Set([...made.keys(), ...callers.done.keys()])) {
    const more = (made.get(write) ?? 0) - (callers.done.get(write) ?? 0);
    all += made.get(write) ?? 0;
    if (more > 0) twice += more;
    else never -= more;
  }
  return { twice, never, all };
}

/** What a gateway has warned of beside requests that failed, and how often. */
function warnings(child) {
  const counts = new Map();
  for (const [, message] of child.text().matchAll(/"level":"WARN","message":"(?!request")([^"]*)"/g)) {
    counts.set(message, (counts.get(message) ?? 0) + 1);
  }
  return counts;
}

/** Whom the gateway takes a caller for who isn't at the proxy's address, and says to be another. */
async function clientSeen(port, instances) {
  const headers = { "x-forwarded-for": "203.0.113.9", forwarded: "for=203.0.113.9", "x-request-id": randomUUID() };
  const sent = request({ host: "127.0.0.1", port, path: "/v1/me", localAddress: ELSEWHERE, headers });
  sent.on("response", (answer) => answer.resume()).on("error", (error) => console.log(error.message)).end();
  const line = await until("the line of a request", () =>
    instances.flatMap(({ child }) => child.text().split("\n")).find((it) => it.includes(headers["x-request-id"]) && it.includes('"client"')));
  return JSON.parse(line).client;
}

let isWell = true;
const { at, journal } = await erp(binary);

async function behind(name) {
  // The proxy speaks for everybody, so it is no single address among others.
  const settings = { server: `trusted_proxies: [127.0.0.1/32], drain_delay: ${DRAIN_DELAY}`, keep: KEPT_BYTES };
  const instances = [await gateway(binary, at, settings), await gateway(binary, at, settings)];
  for (const instance of instances) await instance.start();
  const [port] = await freePorts(1);
  const file = join(directory, `${name}.conf`);
  writeFileSync(file, configurations[name](port, instances));
  // Killed, nginx would leave its workers.
  const proxy = await start(name, ...commands[name](file), { signal: "SIGTERM" });
  await until(name, async () => (await fetch(`http://127.0.0.1:${port}/v1/me`)).status === 401, proxy);
  const client = await clientSeen(port, instances);
  if (client !== ELSEWHERE) console.log(`${name}: a caller at ${ELSEWHERE} is taken for ${client}`);
  isWell &&= client === ELSEWHERE;
  const callers = new Callers(port);
  await fetch(journal, { method: "DELETE" });
  // Callers never pause: a restart meets whatever the one before has left.
  const rate = await callers.during(async () => {
    await sleep(UPLOAD_MS);
    for (let round = 1; round <= ROUNDS; round += 1) {
      await sleep(SETTLED_MS);
      const instance = instances[round % 2];
      const { child } = instance;
      const [uploads, count, failures, begun] = [callers.uploads, callers.count, callers.failures.length, performance.now()];
      callers.times = [];
      child.kill("SIGTERM");
      const code = await child.ended;
      const drained = (performance.now() - begun) / 1000;
      const isWhole = code === 0 && !child.text().includes("connections were cut");
      if (!isWhole) console.log(child.text().split("\n").slice(-12).join("\n"));
      for (const [warning, times] of warnings(child)) console.log(`  it warned ${times} times: ${warning}`);
      await instance.start();
      console.log(`${name} restart ${round}: ${uploads} uploads under way at SIGTERM, drained in ${drained.toFixed(1)} s (exit ${code}), `
        + `${callers.count - count} requests meanwhile, GET p99 ${percentile(callers.times, 99).toFixed(0)} ms, ${callers.failures.length - failures} failed`);
      // Without uploads it would show nothing.
      isWell &&= isWhole && uploads > 0;
    }
    await sleep(SETTLED_MS);
  });
  const { twice, never, all } = await compared(journal, callers);
  console.log(`${name}: ${callers.count} requests, ${rate.toFixed(0)}/s, ${all} writes: `
    + `${callers.failures.length} failed, ${twice} made twice, ${never} lost`);
  const kinds = new Map();
  for (const failure of callers.failures) kinds.set(failure, (kinds.get(failure) ?? 0) + 1);
  for (const [failure, times] of kinds) console.log(`  ${times} × ${failure}`);
  if (rate <= RATE * 0.9) console.log(`  the rate of ${RATE}/s was not reached: that shows nothing`);
  isWell &&= callers.failures.length + twice + never === 0 && all > 0 && rate > RATE * 0.9;
  callers.agent.destroy();
  await proxy.stop();
  for (const instance of instances) await instance.child.stop();
}

for (const name of (process.env.LLAVERO_PROXY ?? "haproxy nginx").split(" ")) await behind(name);
console.log(isWell ? "rollout: nothing failed, nothing was made twice" : "rollout: FAILED");
await end();
process.exit(isWell ? 0 : 1);
