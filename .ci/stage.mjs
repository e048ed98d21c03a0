// What `.ci/rollout` and `.ci/slow-clients` begin with: a simulated ERP, gateways before it, callers' tokens
// and photos. Everything ends with this process.

import { spawn } from "node:child_process";
import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { crc32, deflateSync } from "node:zlib";

const ISSUER = "https://id.example.com/";
export const ORDERS = 200;
export const directory = mkdtempSync(join(tmpdir(), "llavero-stage-"));
const children = new Set();

process.on("exit", () => {
  for (const child of children) child.kill("SIGKILL");
  rmSync(directory, { recursive: true, force: true });
});
for (const signal of ["SIGHUP", "SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

/** Ends everything if it takes longer than that. */
export function endsWithin(seconds) {
  setTimeout(() => {
    console.error(`ended: it took longer than ${seconds} s`);
    process.exit(1);
  }, seconds * 1000).unref();
}

/** Ports that nobody has. */
export async function freePorts(count) {
  const listeners = Array.from({ length: count }, () => createServer());
  const ports = [];
  for (const listener of listeners) {
    await new Promise((done) => listener.listen(0, "127.0.0.1", done));
    ports.push(listener.address().port);
  }
  for (const listener of listeners) await new Promise((done) => listener.close(done));
  return ports;
}

/** A process that ends with this one; its output goes to a file. */
export function start(name, command, args) {
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  const output = [];
  for (const stream of [child.stdout, child.stderr]) stream.on("data", (text) => output.push(text));
  child.text = () => Buffer.concat(output).toString();
  child.ended = new Promise((done) => child.on("exit", (code, signal) => done(code ?? signal)));
  child.on("error", (error) => {
    console.error(`${name} can't be started: ${error.message}`);
    process.exit(1);
  });
  children.add(child);
  child.ended.then(() => children.delete(child));
  return child;
}

/** Waits until it holds, 30 s at most. */
export async function until(what, holds) {
  for (let tries = 0; tries < 600; tries += 1) {
    const found = await holds();
    if (found) return found;
    await sleep(50);
  }
  throw new Error(`${what} doesn't come`);
}

const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });

/** A token of somebody at the tenant `carper`. */
export function token(sub) {
  const now = Math.floor(Date.now() / 1000);
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const claims = { iss: ISSUER, aud: "llavero", sub, iat: now, exp: now + 3600, tenant: "carper",
    scope: "ordenes:read ordenes:write imagenes:write" };
  const signed = `${part({ alg: "ES256", typ: "JWT" })}.${part(claims)}`;
  return `${signed}.${sign("sha256", Buffer.from(signed), { key: privateKey, dsaEncoding: "ieee-p1363" }).toString("base64url")}`;
}

/** The simulated ERP. Gives back where it is and how to ask it what it received. */
export async function erp(binary, prefix = []) {
  const [command, ...args] = [...prefix, binary, "sim", "--listen", "127.0.0.1:0"];
  const child = start("the simulated ERP", command, args);
  const [, at] = await until("the simulated ERP", () => /(http:\/\/[^/]+)\//.exec(child.text()));
  const key = randomBytes(16).toString("hex");
  writeFileSync(join(directory, "carper.key"), key);
  const users = [{ username: "app", password: randomBytes(9).toString("hex"), api_key: key }];
  const made = await fetch(`${at}/_sim/tenants/carper`, {
    method: "PUT",
    body: JSON.stringify({ users, orders: ORDERS, first_id: 1 }),
  });
  if (!made.ok) throw new Error(`the ERP takes no tenant: ${await made.text()}`);
  return { at, journal: `${at}/_sim/requests` };
}

/** A gateway before it, with its own ports and more settings of `server`; `start` runs it, any number of times. */
export async function gateway(binary, erpAt, { prefix = [], server }) {
  const [port, adminPort] = await freePorts(2);
  writeFileSync(join(directory, "issuer.pem"), publicKey.export({ type: "spki", format: "pem" }));
  const tenants = join(directory, "tenants");
  mkdirSync(tenants, { recursive: true });
  writeFileSync(join(tenants, "carper.yaml"),
    `clave: carper\ncredentials:\n  default: {api_key: {file: ${join(directory, "carper.key")}}}\n`);
  const config = join(directory, `${port}.yaml`);
  const many = "{requests: 1000000, per: 1s, burst: 1000000}";
  writeFileSync(config, `server: {listen: "127.0.0.1:${port}", admin_listen: "127.0.0.1:${adminPort}", ${server}}
upstream: {base_url: "${erpAt}/{clave}/api/v2/", max_concurrency: 20}
auth:
  issuers:
    - {issuer: "${ISSUER}", audience: [llavero], algorithms: [ES256], public_key_file: ${join(directory, "issuer.pem")}}
tenants_dir: ${tenants}
limits: {user: ${many}, tenant: ${many}}
`);
  const isReady = () => fetch(`http://127.0.0.1:${adminPort}/readyz`).then((it) => it.ok, () => false);
  const [command, ...args] = [...prefix, binary, "serve", "--config", config];
  return {
    port,
    adminPort,
    child: undefined,
    async start() {
      this.child = start("a gateway", command, args);
      await until("a gateway that is ready", async () => {
        if (this.child.exitCode !== null) throw new Error(`a gateway ended:\n${this.child.text()}`);
        return isReady();
      });
    },
  };
}

/** A value of /proc/PID/status in KiB, such as VmRSS. */
export function memory(child, what) {
  return Number(new RegExp(`${what}:\\s+(\\d+)`).exec(readFileSync(`/proc/${child.pid}/status`))[1]);
}

/** The value that so many of a hundred don't exceed. */
export function percentile(values, percent) {
  const sorted = Float64Array.from(values).sort();
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor((sorted.length * percent) / 100))] : NaN;
}

/** Another photo at each call: a PNG of noise, `side` pixels a side, some 3 × side² bytes. */
export function photo(side) {
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const [length, sum] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    sum.writeUInt32BE(crc32(body));
    return Buffer.concat([length, body, sum]);
  };
  const head = Buffer.alloc(13);
  head.writeUInt32BE(side, 0);
  head.writeUInt32BE(side, 4);
  head.set([8, 2, 0, 0, 0], 8);
  const row = side * 3 + 1;
  const rows = randomBytes(row * side);
  for (let at = 0; at < rows.length; at += row) rows[at] = 0;
  const signature = Buffer.from("\x89PNG\r\n\x1a\n", "latin1");
  return Buffer.concat([signature, chunk("IHDR", head), chunk("IDAT", deflateSync(rows, { level: 0 })), chunk("IEND", Buffer.alloc(0))]);
}
