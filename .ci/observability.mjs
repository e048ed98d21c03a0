// The run of .ci/observability: gateways in trouble and one that is well, a Prometheus that looks, and
// what it must have seen afterwards.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHmac, createPrivateKey, generateKeyPairSync, randomUUID, sign } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { Agent, createServer, request as httpRequest } from "node:http";
import { Agent as TlsAgent, request as httpsRequest } from "node:https";
import { connect } from "node:net";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { connect as connectTls } from "node:tls";

import { draw } from "./observability-page.mjs";
import { atEnd, directory, end, endsWithin, freePorts, givenUp, start, until } from "./processes.mjs";

const [binary, tools] = process.argv.slice(2).map((path) => resolve(path));
const RULES = "helm/llavero/files/alerts.yaml";
const DASHBOARD = "helm/llavero/files/dashboard.json";
const OUT = resolve("target/observability");

const RUN_MS = 60_000;

endsWithin(150);

// What this run can't show, with the reason. A name here that is shown all the same is an error too.
const NOT_SHOWN = {
  alerts: {},
  metrics: {},
  panels: {},
};

/** Starts a program; what it printed last is left in a file, if one is named. */
async function startLogged(name, log, command, args, options) {
  let child;
  if (log) atEnd(() => child && writeFileSync(join(OUT, log), child.text()));
  child = await start(name, command, args, { signal: "SIGTERM", ...options });
  return child;
}

// ---- requests ----

const agents = {
  "http:": new Agent({ keepAlive: true, maxSockets: 256 }),
  // The certificate is made here, for a name that nobody has.
  "https:": new TlsAgent({ keepAlive: true, maxSockets: 64, rejectUnauthorized: false }),
};

function ask(url, { method = "GET", headers = {}, body, timeout = 20_000 } = {}) {
  return new Promise((give, fail) => {
    const send = url.startsWith("https:") ? httpsRequest : httpRequest;
    const agent = agents[new URL(url).protocol];
    const request = send(url, { method, headers, agent, timeout }, (response) => {
      const parts = [];
      response.on("data", (part) => parts.push(part));
      response.on("error", fail);
      response.on("end", () =>
        give({ status: response.statusCode, headers: response.headers, text: Buffer.concat(parts).toString() }),
      );
    });
    request.on("timeout", () => request.destroy(new Error("no answer in time")));
    request.on("error", fail);
    request.end(body);
  });
}

async function askJson(url, options) {
  const { status, text } = await ask(url, options);
  assert.ok(status < 300, `${url}: ${status} ${text.slice(0, 300)}`);
  return text ? JSON.parse(text) : null;
}

// ---- tokens ----

const SECRET = "a secret of this run alone, 32 bytes at least";
const ISSUER = "https://id.example/";
const base64url = (value) => Buffer.from(typeof value === "string" ? value : JSON.stringify(value)).toString("base64url");

function claims(issuer, sub, tenant) {
  const now = Math.floor(Date.now() / 1000);
  const scope = "ordenes:read ordenes:write imagenes:write";
  return { iss: issuer, aud: "llavero", sub, tenant, scope, iat: now, exp: now + 3600 };
}

function token(sub, tenant) {
  const signed = `${base64url({ alg: "HS256", typ: "JWT" })}.${base64url(claims(ISSUER, sub, tenant))}`;
  return `${signed}.${createHmac("sha256", SECRET).update(signed).digest("base64url")}`;
}

const ec = generateKeyPairSync("ec", { namedCurve: "P-256" });
const jwk = { ...ec.publicKey.export({ format: "jwk" }), kid: "run", alg: "ES256", use: "sig" };

function tokenOf(issuer, sub, tenant) {
  const signed = `${base64url({ alg: "ES256", typ: "JWT", kid: "run" })}.${base64url(claims(issuer, sub, tenant))}`;
  const key = { key: createPrivateKey(ec.privateKey.export({ type: "pkcs8", format: "pem" })), dsaEncoding: "ieee-p1363" };
  return `${signed}.${sign("sha256", Buffer.from(signed), key).toString("base64url")}`;
}

// ---- the parts ----

/** An issuer's keys, for as long as it is well, and a collector that takes every trace. */
async function startNeighbour() {
  const neighbour = { keysAreThere: true };
  const server = createServer((request, response) => {
    request.resume().on("end", () => {
      if (request.url.startsWith("/v1/traces")) return response.end();
      if (!neighbour.keysAreThere || request.url === "/never") response.statusCode = 503;
      response.setHeader("Content-Type", "application/json");
      response.end(JSON.stringify({ keys: [jwk] }));
    });
  });
  await new Promise((done, fail) => server.on("error", fail).listen(0, "127.0.0.1", done));
  atEnd(() => {
    server.closeAllConnections();
    return new Promise((done) => server.close(done));
  });
  neighbour.url = `http://127.0.0.1:${server.address().port}`;
  return neighbour;
}

async function startErp() {
  const [port] = await freePorts(1);
  const url = `http://127.0.0.1:${port}`;
  const child = await startLogged("the simulated ERP", "erp.log", binary, ["sim", "--listen", `127.0.0.1:${port}`]);
  await until("the simulated ERP", () => askJson(`${url}/_sim/tenants/carper/faults`), child);
  return {
    url,
    add: (tenant) =>
      ask(`${url}/_sim/tenants/${tenant}`, {
        method: "PUT",
        body: JSON.stringify({ users: [{ username: "u", password: passwordOf(tenant), api_key: keyOf(tenant) }], orders: 60, first_id: 1, access_seconds: 8 }),
      }),
    faults: (tenant, faults) =>
      ask(`${url}/_sim/tenants/${tenant}/faults`, { method: "PUT", body: JSON.stringify(faults) }),
  };
}

const keyOf = (tenant) => `key-of-${tenant}-9c1f5e7ab2`;
const passwordOf = (tenant) => `password-of-${tenant}-4d8a6b`;
const TENANTS = ["sana", "firme", "lenta", "limitada", "cauta", "caida", "mala", "fuga", "entra", "muda"];

const CREDENTIALS = {
  mala: "{api_key: {env: WRONG}}",
  entra: "{login: {username: u, password: {env: PASSWORD_ENTRA}}}",
};

function tenantFile(tenant) {
  const credential = CREDENTIALS[tenant] ?? `{api_key: {env: KEY_${tenant.toUpperCase()}}}`;
  return `clave: ${tenant}\ncredentials: {default: ${credential}}\n`;
}

const SECRETS = Object.fromEntries([
  ["SECRET", SECRET],
  ["WRONG", "a-key-that-was-revoked-771c"],
  ["PASSWORD_ENTRA", passwordOf("entra")],
  ...TENANTS.map((tenant) => [`KEY_${tenant.toUpperCase()}`, keyOf(tenant)]),
]);

/** What is common to all gateways, and what is each one's own. */
async function gateway(name, job, erp, neighbour, own = {}) {
  const at = join(directory, name);
  const tenants = own.tenants ?? ["sana"];
  mkdirSync(join(at, "tenants"), { recursive: true });
  for (const tenant of tenants) writeFileSync(join(at, "tenants", `${tenant}.yaml`), tenantFile(tenant));
  const [port, admin] = await freePorts(2);
  const issuers = own.issuers ?? [
    `{issuer: "${ISSUER}", audience: [llavero], algorithms: [HS256], secret: {env: SECRET}}`,
    `{issuer: "${neighbour.url}/", audience: [llavero], algorithms: [ES256], jwks_url: "${neighbour.url}/keys"}`,
  ];
  const config = join(at, "llavero.yaml");
  writeFileSync(
    config,
    `server:
  listen: 127.0.0.1:${port}
  admin_listen: 127.0.0.1:${admin}
  drain_delay: 0s
  shutdown_grace: 1s
${own.server ?? ""}upstream:
  base_url: ${erp.url}/{clave}/api/v2/
  connect_timeout: 1s
  timeout: ${own.timeout ?? "5s"}
  upload_timeout: 5s
  max_concurrency: ${own.max_concurrency ?? 2}
auth:
  jwks: {allow_loopback_http: true, refresh: 10s, keep_for: 5m, timeout: 1s}
  issuers:
${issuers.map((issuer) => `    - ${issuer}\n`).join("")}cache: {ttl: {list: 2s, detail: 2s}, stale_while_revalidate: 3s}
images: {max_bytes: 64KiB, in_flight_bytes: 64KiB}
idempotency: {max_bytes: 1MiB}
limits:
  user: {requests: 600, per: 1m, burst: 100}
  tenant: {requests: 100000, per: 1m, burst: 10000}
audit: {output: ${own.audit ?? "stdout"}}
`,
  );
  const env = { ...SECRETS, OTEL_EXPORTER_OTLP_ENDPOINT: neighbour.url, RUST_LOG: "info", ...own.env };
  const scheme = own.tls ? "https" : "http";
  const it = { name, job, at, config, admin: `http://127.0.0.1:${admin}`, url: `${scheme}://127.0.0.1:${port}`, port, env };
  it.start = async () => {
    const [command, ...args] = [...(own.within ?? []), binary, "serve", "--config", config];
    const options = { env, unread: own.unread };
    it.process = await startLogged(name, own.unread ? undefined : `${name}.log`, command, args, options);
    it.process.ended.then(() => (it.isUp = false));
    await until(`the gateway ${name}`, () => ask(`${it.admin}/livez`), it.process);
    it.isUp = true;
  };
  await it.start();
  return it;
}

/** The file of rules with nothing but its durations changed. */
function hurried(rules) {
  const seconds = { s: 1, m: 60, h: 3600, d: 86400 };
  const duration = /(for: |\[|offset )(\d+)([smhd])/g;
  const fast = rules.replace(duration, (_, before, count, unit) => {
    if (before === "for: ") return "for: 2s";
    return `${before}${count * seconds[unit] > 600 ? "30s" : "15s"}`;
  });
  const masked = (text) => text.replace(duration, "$1");
  assert.equal(masked(fast), masked(rules), "something besides durations is changed");
  return fast;
}

async function startPrometheus(gateways) {
  const [port] = await freePorts(1);
  writeFileSync(join(directory, "alerts.yaml"), hurried(readFileSync(RULES, "utf8")));
  const jobs = [...new Set(gateways.map(({ job }) => job))];
  const config = {
    global: { scrape_interval: "1s", scrape_timeout: "1s", evaluation_interval: "1s" },
    rule_files: [join(directory, "alerts.yaml")],
    scrape_configs: jobs.map((job) => ({
      job_name: job,
      static_configs: gateways.filter((it) => it.job === job).map((it) => ({
        targets: [new URL(it.admin).host],
        labels: { namespace: "run", pod: it.name },
      })),
    })),
  };
  // JSON is YAML.
  writeFileSync(join(directory, "prometheus.yaml"), JSON.stringify(config));
  const child = await startLogged("Prometheus", "prometheus.log", "prometheus", [
    `--config.file=${join(directory, "prometheus.yaml")}`,
    `--storage.tsdb.path=${join(directory, "data")}`,
    `--web.listen-address=127.0.0.1:${port}`,
    "--log.level=warn",
  ]);
  const url = `http://127.0.0.1:${port}`;
  await until("Prometheus", async () => (await ask(`${url}/-/ready`)).status === 200, child);
  const api = async (path, parameters = {}) => {
    const { data } = await askJson(`${url}/api/v1/${path}?${new URLSearchParams(parameters)}`, { timeout: 30_000 });
    return data;
  };
  return {
    api,
    now: async (query) => (await api("query", { query })).result,
    range: async (query, from, to) =>
      (await api("query_range", { query, start: from, end: to, step: 1 })).result,
  };
}

// ---- what happens to them ----

const ORDEN = "/v1/ordenes/";
const authorized = (bearer) => ({ Authorization: `Bearer ${bearer}` });
const any = (count) => Math.floor(Math.random() * count);

let over = false;

/** What goes on until the run is over. Answers that fail are what is wanted here. */
function repeatedly(pauseMs, body, atOnce = 1) {
  return Promise.all(
    Array.from({ length: atOnce }, async () => {
      while (!over) {
        await body().catch(() => sleep(100));
        await sleep(pauseMs);
      }
    }),
  );
}

function form(photo) {
  const boundary = randomUUID();
  const part = (name, more) => `--${boundary}\r\nContent-Disposition: form-data; name="${name}"${more}\r\n\r\n`;
  const body = Buffer.concat([
    Buffer.from(`${part("proceso", "")}antes\r\n${part("imagen", '; filename="foto.jpg"\r\nContent-Type: image/jpeg')}`),
    photo,
    Buffer.from(`\r\n--${boundary}--\r\n`),
  ]);
  return { body, headers: { "Content-Type": `multipart/form-data; boundary=${boundary}`, "Content-Length": body.length } };
}

const photo = readFileSync("src/cli/demo.jpg");

function upload(it, bearer, orden, key, timeout) {
  const { body, headers } = form(photo);
  const all = { ...headers, ...authorized(bearer), "Idempotency-Key": key };
  return ask(`${it.url}${ORDEN}${orden}/imagenes`, { method: "POST", headers: all, body, timeout });
}

function change(it, bearer, orden, fields, key = randomUUID()) {
  const headers = { ...authorized(bearer), "Content-Type": "application/json", "Idempotency-Key": key };
  return ask(`${it.url}${ORDEN}${orden}`, { method: "PATCH", headers, body: JSON.stringify(fields) });
}

function read(it, bearer, path, more = {}) {
  return ask(`${it.url}${path}`, { headers: { ...authorized(bearer), ...more } });
}

const FRESH = { "Cache-Control": "no-cache" };

/** What an ordinary day looks like. */
function ordinary(it, tenant) {
  const users = Array.from({ length: 10 }, (_, at) => token(`user-${at}`, tenant));
  const user = () => users[any(users.length)];
  repeatedly(40, () => read(it, user(), `${ORDEN}${1 + any(20)}`));
  repeatedly(200, () => read(it, user(), "/v1/ordenes?limit=20"));
  repeatedly(500, () => read(it, user(), `${ORDEN}${1 + any(20)}`, FRESH));
  repeatedly(500, () => change(it, user(), 30 + any(20), { prioridad: "alta" }));
  repeatedly(1500, () => upload(it, user(), 30 + any(20), randomUUID()));
}

/** Much at once that goes wrong on the way to the ERP, and what callers do. */
function troubled(it) {
  ordinary(it, "sana");
  repeatedly(50, () => change(it, token(`user-${any(1000)}`, "sana"), 1 + any(20), { descripcion: `<p>${"x".repeat(40_000)}</p>` }));
  // Each several times, so that equal reads meet.
  repeatedly(700, () => Promise.all(Array.from({ length: 5 }, () => read(it, token("ana", "entra"), "/v1/ordenes?limit=5"))));
  repeatedly(400, () => read(it, token("ana", "caida"), `${ORDEN}${1 + any(20)}`, { "Cache-Control": "max-age=0" }));
  repeatedly(300, () => read(it, token("ana", "caida"), `${ORDEN}1`));
  repeatedly(300, () => read(it, token("ana", "mala"), `${ORDEN}${1 + any(50)}`, FRESH));
  // One photo's room is all there is, and the ERP is in no hurry.
  repeatedly(100, () => upload(it, token("ana", "lenta"), 1 + any(50), randomUUID()), 4);
  repeatedly(2000, () => change(it, token("ana", "fuga"), 7, { descripcion: `<p>${keyOf("fuga")}</p>` }));
  repeatedly(5000, () => Promise.all(Array.from({ length: 150 }, () => read(it, token("impaciente", "sana"), "/v1/me"))));
  repeatedly(1000, () => read(it, "not.a.token", "/v1/me"));
  repeatedly(1000, () => read(it, token("ana", "sana"), "/v1/nowhere"));
}

/** An ERP that is slow, that limits, and that says nothing where it has done it. */
function sluggish(it, erp) {
  repeatedly(50, () => read(it, token(`user-${any(100)}`, "lenta"), `${ORDEN}${1 + any(50)}`, FRESH), 55);
  repeatedly(100, () => read(it, token(`user-${any(20)}`, "limitada"), `${ORDEN}${1 + any(50)}`, FRESH), 12);
  void learns(it, erp);
  repeatedly(3000, async () => {
    const key = randomUUID();
    await erp.faults("muda", { accept_then_hang: true, only: { method: "POST" } });
    await upload(it, token("ana", "muda"), 3, key);
    await erp.faults("muda", {});
    await upload(it, token("ana", "muda"), 3, key);
  });
}

/** The ERP lets one through, then asks for a pause that shows its window, and lets the next through. */
async function learns(it, erp) {
  await read(it, token("ana", "cauta"), `${ORDEN}1`, FRESH);
  await erp.faults("cauta", { status: { code: 429, retry_after: "5", times: 1 } });
  await read(it, token("ana", "cauta"), `${ORDEN}2`, FRESH);
}

/** A connection over which so many requests go at once, whose answers are thrown away. */
function pipeline(it, count) {
  return new Promise((done) => {
    const socket = connect(it.port, "127.0.0.1");
    socket.on("error", done).on("close", done).resume();
    const one = "GET /problems/internal HTTP/1.1\r\nHost: run.example\r\n\r\n";
    const last = one.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n");
    socket.write(one.repeat(count - 1) + last);
    setTimeout(() => socket.destroy(), 10_000).unref();
  });
}

/** Requests until log lines are lost, however busy the machine is, and then only as many as lose more. */
function flood(it) {
  let count = 1500;
  repeatedly(
    0,
    async () => {
      await pipeline(it, count);
      const { text } = await ask(`${it.admin}/metrics`);
      if (/^llavero_log_lines_lost_total 0$/m.test(text)) return;
      count = 20;
      await sleep(1000);
    },
    6,
  );
}

/** HTTP/2 with nothing but pings (RFC 9113 §6.7). */
function pings(it) {
  return new Promise((done) => {
    const socket = connect(it.port, "127.0.0.1");
    socket.on("error", done).on("close", done).resume();
    const settings = Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    const ping = Buffer.concat([Buffer.from([0, 0, 8, 6, 0, 0, 0, 0, 0]), Buffer.alloc(8)]);
    socket.write(Buffer.concat([Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), settings, ...Array(6000).fill(ping)]));
    setTimeout(() => socket.destroy(), 3_000).unref();
  });
}

/** Connections that stay, and come again where they are closed. */
function crowd(it, count) {
  return repeatedly(
    300,
    () =>
      new Promise((done) => {
        const socket = connect(it.port, "127.0.0.1");
        socket.on("error", done).on("close", done).resume();
        socket.write("GET /problems/internal HTTP/1.1\r\nHost: run.example\r\n\r\n");
        atEnd(() => socket.destroy());
      }),
    count,
  );
}

/** A connection with TLS, and one that forgot it. */
async function handshakes({ port, url }) {
  const socket = connectTls({ port, host: "127.0.0.1", rejectUnauthorized: false });
  await new Promise((done) => socket.once("secureConnect", done).once("error", done));
  socket.destroy();
  await ask(url.replace("https:", "http:"));
}

async function takesTls() {
  const at = join(directory, "tls-try");
  mkdirSync(join(at, "tenants"), { recursive: true });
  makeCertificate(at);
  writeFileSync(
    join(at, "llavero.yaml"),
    `server: {tls: {cert_file: tls.crt, key_file: tls.key}}
auth: {issuers: [{issuer: "${ISSUER}", audience: [llavero], algorithms: [HS256], secret: {env: SECRET}}]}
`,
  );
  try {
    execFileSync(binary, ["check", "--config", join(at, "llavero.yaml")], { env: SECRETS, stdio: "pipe" });
    return true;
  } catch (error) {
    return !/server\.tls/.test(`${error.stdout}${error.stderr}`);
  }
}

/** One that ends within the day. */
function makeCertificate(at) {
  execFileSync(
    "openssl",
    ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=run.example",
      "-addext", "subjectAltName=DNS:run.example", "-keyout", join(at, "tls.key"), "-out", join(at, "tls.crt")],
    { stdio: "pipe" },
  );
}

// ---- what must have been seen ----

const rows = [];
let gaps = 0;

function note(kind, name, is, why = "") {
  const excuse = NOT_SHOWN[`${kind}s`]?.[name];
  const isGap = excuse ? is : !is;
  gaps += isGap;
  const word = excuse ? (is ? "SHOWN, though listed as not" : "not shown") : is ? "ok" : "MISSING";
  rows.push([kind, name, word, why || excuse || ""]);
}

const WELL = "llavero-well";

async function checkAlerts(prometheus, annotations) {
  const { groups } = await prometheus.api("rules", { type: "alert" });
  const rules = groups.flatMap((group) => group.rules);
  const fired = await prometheus.now('max by (alertname, job) (max_over_time(ALERTS{alertstate="firing"}[5m]))');
  const runbook = readFileSync("docs/runbook.md", "utf8");
  const sections = new Set([...runbook.matchAll(/^## (\S+)$/gm)].map((found) => found[1]));
  const tests = readFileSync("helm/llavero/tests/alerts.yaml", "utf8");
  for (const rule of rules) {
    const of = fired.filter(({ metric }) => metric.alertname === rule.name).map(({ metric }) => metric.job);
    const wrong = [];
    if (rule.health !== "ok") wrong.push(`the rule fails: ${rule.lastError}`);
    if (!of.length) wrong.push("it didn't fire");
    if (of.includes(WELL)) wrong.push("it fired for a gateway that is well");
    if (!sections.delete(rule.name)) wrong.push("docs/runbook.md has no section for it");
    if (rule.annotations.runbook_url !== `docs/runbook.md#${rule.name.toLowerCase()}`) wrong.push("its runbook_url leads elsewhere");
    if (!tests.includes(`alertname="${rule.name}"`)) wrong.push("helm/llavero/tests/alerts.yaml has no test of it");
    const told = annotations.get(rule.name);
    if (of.length && !told) wrong.push("its annotations weren't seen");
    if (told && /no value|error expanding|<nil>|\{\{/i.test(told)) wrong.push(`its annotations don't render: ${told}`);
    note("alert", rule.name, !wrong.length, wrong.join("; ") || of.join(" "));
  }
  for (const section of sections) note("alert", section, false, "docs/runbook.md has a section for an alert that isn't there");
  const { panels } = JSON.parse(readFileSync(DASHBOARD, "utf8"));
  const titles = new Set(panels.filter(({ type }) => type !== "row").map(({ title }) => title));
  // In italics, on one line or two; an asterisk in code is another thing.
  const prose = runbook.replace(/```[^]*?```|`[^`]*`/g, "");
  const named = new Set([...prose.matchAll(/(?<!\*)\*([^*]+)\*(?!\*)/g)].map(([, name]) => name.replace(/\s+/g, " ")));
  note("runbook", "names panels", named.size > 0, `${named.size}`);
  for (const name of named) note("runbook", name, titles.has(name), "docs/runbook.md names this panel");
}

const METRIC = /\b(?:llavero|process)_[a-z0-9_]+|\bhttp_(?:server|client)_[a-z0-9_]+_seconds\b/g;

async function checkMetrics(prometheus, exposed) {
  const readme = readFileSync("README.md", "utf8");
  const table = readme.split("\n").filter((line) => line.startsWith("| `") && /^\| `(llavero|http|process)_/.test(line));
  const names = new Set(table.flatMap((line) => line.split(" |")[0].match(METRIC) ?? []));
  for (const text of exposed) {
    for (const [, name, kind] of text.matchAll(/^# TYPE (\S+) (\S+)$/gm)) {
      // OpenMetrics leaves these ends out here, the older format doesn't.
      const ending = { counter: "_total", info: "_info" }[kind] ?? "";
      names.add(name.endsWith(ending) ? name : name + ending);
    }
  }
  // What rules and panels name, whether it is there or not.
  const used = `${readFileSync(RULES, "utf8")}${readFileSync(DASHBOARD, "utf8")}`;
  for (const name of used.match(METRIC)) names.add(name.replace(/_(bucket|count|sum)$/, ""));
  for (const name of [...names].sort()) {
    const seen = await prometheus.now(`max(max_over_time({__name__=~"${name}(_count)?"}[5m]))`);
    const most = seen.length ? Number(seen[0].value[1]) : NaN;
    const why = Number.isNaN(most) ? "no gateway has it" : most === 0 ? "it was 0 all the time" : `at most ${+most.toPrecision(6)}`;
    note("metric", name, most > 0, why);
  }
}

async function checkPanels(prometheus, from, to) {
  const dashboard = JSON.parse(readFileSync(DASHBOARD, "utf8"));
  const panels = [];
  for (const panel of dashboard.panels.filter((panel) => panel.type !== "row")) {
    const wrong = [];
    const series = [];
    for (const { expr, legendFormat } of panel.targets) {
      const query = expr.replaceAll("$__rate_interval", "15s").replace(/\$(namespace|job|pod|tenant)\b/g, ".*");
      const result = await prometheus.range(query, from, to).catch((error) => {
        wrong.push(error.message);
        return [];
      });
      const isReal = result.some(({ values }) => values.some(([, value]) => Number.isFinite(Number(value))));
      if (!isReal) wrong.push(`no data: ${expr}`);
      for (const { metric, values } of result) {
        const legend = legendFormat.replace(/\{\{(\w+)\}\}/g, (_, label) => metric[label] ?? "");
        series.push({ legend, values });
      }
    }
    const isFlat = series.every(({ values }) => values.every(([, value]) => !(Number(value) > 0)));
    if (isFlat) wrong.push("nothing but zeros");
    panels.push({ ...panel, series });
    note("panel", panel.title, !wrong.length, wrong.join("; "));
  }
  // What is asked for when the dashboard opens.
  for (const { name, definition } of dashboard.templating.list.filter(({ type }) => type === "query")) {
    const [, selector, label] = definition.match(/^label_values\((.*), (\w+)\)$/);
    const match = selector.replace(/\$(namespace|job)\b/g, ".*");
    const values = await prometheus.api(`label/${label}/values`, { "match[]": match });
    note("variable", name, values.length > 0, values.join(" "));
  }
  return { ...dashboard, panels: [...dashboard.panels.filter((panel) => panel.type === "row"), ...panels] };
}

function checkSecrets(texts) {
  const secrets = [...Object.values(SECRETS), ...TENANTS.map(passwordOf)];
  const found = secrets.filter((secret) => texts.some((text) => text.includes(secret)));
  note("secret", "no key, password or secret in the metrics and alerts", !found.length, found.map((it) => it.slice(0, 12)).join(" "));
}

// ---- the run ----

async function run() {
  rmSync(OUT, { recursive: true, force: true });
  mkdirSync(OUT, { recursive: true });
  const [erp, neighbour] = [await startErp(), await startNeighbour()];
  for (const tenant of TENANTS) assert.ok((await erp.add(tenant)).status < 300, tenant);
  await erp.faults("lenta", { delay: 3500 });
  await erp.faults("limitada", { status: { code: 429, retry_after: "1" } });

  const hasTls = await takesTls();
  const tls = "  tls: {cert_file: tls.crt, key_file: tls.key}\n";
  mkdirSync(join(directory, "ill"));
  makeCertificate(join(directory, "ill"));
  // A control group as a container would see it: the limit is a file, and nothing else is limited by it.
  const group = join(directory, "group");
  mkdirSync(group);
  writeFileSync(join(group, "memory.max"), `${12 << 20}\n`);
  const within = ["unshare", ...(process.getuid() === 0 ? [] : ["--map-root-user"]), "--mount", "sh", "-c",
    `mount --bind ${group} /sys/fs/cgroup && exec "$@"`, "sh"];

  const well = await gateway("well", WELL, erp, neighbour, {
    tenants: ["firme"],
    issuers: [`{issuer: "${ISSUER}", audience: [llavero], algorithms: [HS256], secret: {env: SECRET}}`],
  });
  const ill = await gateway("ill", "llavero-ill", erp, neighbour, {
    tenants: TENANTS.filter((tenant) => tenant !== "firme"),
    audit: "{file: /dev/full}",
    server: hasTls ? tls : "",
    tls: hasTls,
    within,
  });
  const slow = await gateway("slow", "llavero-slow", erp, neighbour, {
    tenants: ["lenta", "limitada", "cauta", "muda"],
    max_concurrency: 20,
  });
  const empty = await gateway("empty", "llavero-empty", erp, neighbour, {
    tenants: [],
    issuers: [`{issuer: "${neighbour.url}/", audience: [llavero], algorithms: [ES256], jwks_url: "${neighbour.url}/never"}`],
  });
  const crowded = await gateway("crowded", "llavero-crowded", erp, neighbour, {
    within: ["sh", "-c", 'ulimit -n 100 && exec "$@"', "sh"],
  });
  const noisy = await gateway("noisy", "llavero-crowded", erp, neighbour, { unread: true });
  const restless = await gateway("restless", "llavero-crowded", erp, neighbour);
  const gone = await gateway("gone", "llavero-gone", erp, neighbour);
  const gateways = [well, ill, slow, empty, crowded, noisy, restless, gone];
  const prometheus = await startPrometheus(gateways);

  atEnd(() => (over = true));
  const from = Math.floor(Date.now() / 1000);
  const began = Date.now();
  const annotations = new Map();
  const told = [];
  repeatedly(1000, async () => {
    const { alerts } = await prometheus.api("alerts");
    for (const alert of alerts.filter(({ state }) => state === "firing")) {
      const { summary, description } = alert.annotations;
      annotations.set(alert.labels.alertname, `${summary} ${description}`);
      told.push(JSON.stringify(alert));
    }
  });
  const at = async (seconds) => sleep(Math.max(0, began + seconds * 1000 - Date.now()));

  ordinary(well, "firme");
  await read(ill, tokenOf(`${neighbour.url}/`, "ana", "caida"), `${ORDEN}1`);
  await at(2);
  await erp.faults("caida", { status: { code: 500 } });
  troubled(ill);
  sluggish(slow, erp);
  neighbour.keysAreThere = false;
  crowd(crowded, 90);
  flood(noisy);
  await at(5);
  writeFileSync(join(ill.at, "tenants", "rota.yaml"), "clave: rota\ncredenciales: {}\n");
  for (let times = 0; times < 4; times++) {
    restless.process.kill("SIGKILL");
    await restless.process.ended;
    await restless.start();
    // Each start must be scraped, or nobody knows of it.
    await sleep(2500);
  }
  repeatedly(2000, () => pings(slow));
  if (hasTls) repeatedly(500, () => handshakes(ill));
  await at(28);
  restless.process.kill("SIGKILL");
  gone.process.kill("SIGKILL");
  renameSync(join(ill.at, "tenants"), join(ill.at, "tenants-away"));
  writeFileSync(join(ill.at, "tls.crt"), "not a certificate\n");
  repeatedly(2000, async () => ill.process.kill("SIGHUP"));
  await at(RUN_MS / 1000);
  const to = Math.floor(Date.now() / 1000);

  const exposed = [];
  for (const it of gateways.filter(({ isUp }) => isUp)) {
    const { text } = await ask(`${it.admin}/metrics`);
    writeFileSync(join(OUT, `${it.name}.metrics`), text);
    exposed.push(text);
  }
  over = true;
  await checkAlerts(prometheus, annotations);
  await checkMetrics(prometheus, exposed);
  const drawn = await checkPanels(prometheus, from, to);
  checkSecrets([...exposed, ...told]);
  await draw(drawn, { from, to, tools, out: OUT });
}

const started = performance.now();
try {
  await run();
} catch (error) {
  gaps += 1;
  if (!givenUp) console.log(error.stack);
} finally {
  await end();
}
const widths = [0, 1, 2].map((column) => Math.max(0, ...rows.map((row) => row[column].length)));
for (const row of rows) {
  console.log(row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join("  ").trimEnd());
}
const kinds = [...new Set(rows.map(([kind]) => kind))];
const counted = kinds.map((kind) => `${rows.filter(([other]) => other === kind).length} of kind ${kind}`);
const seconds = ((performance.now() - started) / 1000).toFixed(0);
console.log(`observability: ${counted.join(", ")} in ${seconds} s, ${gaps ? `${gaps} gaps` : "no gap"}`);
process.exitCode = gaps ? 1 : 0;
// Loads may still wait for answers that don't come.
setTimeout(() => process.exit(), 1_000).unref();
