// What `.ci/rollout` and `.ci/slow-clients` begin with: a simulated ERP, gateways before it, callers' tokens
// and photos.

import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32, deflateSync } from "node:zlib";
import { directory, freePorts, start, until } from "./processes.mjs";

const ISSUER = "https://id.example.com/";
export const ORDERS = 200;

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
  const child = await start("the simulated ERP", command, args);
  const [, at] = await until("the simulated ERP", () => /(http:\/\/[^/]+)\//.exec(child.text()), child);
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

/**
 * A gateway before it, with its own ports and more settings of `server`; `start` runs it, any number of times. Of what
 * it prints, the last `keep` bytes are kept.
 */
export async function gateway(binary, erpAt, { prefix = [], server, keep }) {
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
      this.child = await start("a gateway", command, args, { keep });
      await until("a gateway that is ready", isReady, this.child);
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
