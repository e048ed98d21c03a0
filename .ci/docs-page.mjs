// What `.ci/docs-page` checks, once everything is installed:
// node .ci/docs-page.mjs BINARY DIRECTORY-OF-PLAYWRIGHT

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { join, resolve } from "node:path";

import { atEnd, directory, end, endsWithin, freePorts, givenUp, start, until } from "./processes.mjs";

const [binary, tools] = process.argv.slice(2);
const { chromium } = createRequire(resolve(tools, "package.json"))("playwright-core");

const OPERATIONS = [
  "GET /v1/ordenes listar_ordenes",
  "GET /v1/ordenes/{id} ver_orden",
  "PATCH /v1/ordenes/{id} modificar_orden",
  "POST /v1/ordenes/{id}/imagenes adjuntar_imagen",
  "GET /v1/me quien_soy",
];

// Names that only this browser knows, all of this machine. A page treats a loopback name
// unlike the one that it will have: Swagger UI keeps its online validator to itself there.
const GATEWAY = "llavero.example";
const APP = "app.example";
const STRANGER = "stranger.example";
const ELSEWHERE = "http://elsewhere.example/";

const STEP_MS = 5_000;

endsWithin(50);

// ---- what is started ----

/** Starts the binary; gives what it has printed once `ready` is among it. */
async function startLlavero(name, args, env, ready) {
  const child = await start(name, binary, args, { env, signal: "SIGINT" });
  await until(name, () => child.text().includes(ready), child);
  return child.text();
}

/** The demo; gives what it tells its reader. */
async function startDemo() {
  const free = "127.0.0.1:0";
  const text = await startLlavero(
    "the demo",
    ["demo", "--listen", free, "--admin-listen", free, "--sim-listen", free],
    {},
    "Ctrl-C ends it",
  );
  const find = (what) => text.match(what)?.[1] ?? assert.fail(`the demo doesn't print ${what}`);
  return {
    port: find(/gateway +http:\/\/127\.0\.0\.1:(\d+)/),
    token: find(/^ +(eyJ\S+)$/m),
    orden: find(/\/v1\/ordenes\/(\d+)'/),
    photo: find(/imagen=@"([^"]+)"/),
  };
}

/** A gateway that one origin may call; gives its port and a token of ana's. */
async function startAllowing(origin) {
  const [port, admin] = await freePorts(2);
  const config = join(directory, "llavero.yaml");
  // No ERP is there, and none is asked.
  writeFileSync(
    config,
    `server:
  listen: 127.0.0.1:${port}
  admin_listen: 127.0.0.1:${admin}
  drain_delay: 0s
  cors: {allowed_origins: ["${origin}"]}
upstream: {base_url: "http://127.0.0.1:9/{clave}/api/v2/"}
auth:
  issuers:
    - {issuer: "https://id.example/", audience: [llavero], algorithms: [HS256], secret: {env: SECRET}}
`,
  );
  mkdirSync(join(directory, "tenants"));
  writeFileSync(
    join(directory, "tenants", "carper.yaml"),
    "clave: carper\ncredentials: {default: {api_key: {env: KEY}}}\n",
  );
  const env = { SECRET: "a secret of a test, 32 bytes at least", KEY: "a-key-of-a-test" };
  const token = execFileSync(
    binary,
    ["token", "--config", config, "--sub", "ana", "--tenant", "carper"],
    { env: { PATH: process.env.PATH, ...env }, encoding: "utf8" },
  ).trim();
  await startLlavero("the gateway", ["serve", "--config", config], env, "serving");
  return { port, token };
}

/** A site of somebody's: an empty page, and a page that does all that a page must not. */
async function startSite() {
  const noisy = `<img src="${ELSEWHERE}"><script>
    console.error("noise"); fetch("${ELSEWHERE}").catch(() => {}); setTimeout(() => { throw new Error("thrown") });
  </script>`;
  const server = createServer((request, response) => {
    response.setHeader("Content-Type", "text/html");
    if (request.url === "/noisy") response.setHeader("Content-Security-Policy", "img-src 'self'");
    response.end(`<!doctype html><title>A page</title>${request.url === "/noisy" ? noisy : ""}`);
  });
  await new Promise((done, fail) => server.on("error", fail).listen(0, "127.0.0.1", done));
  atEnd(() => {
    server.closeAllConnections();
    return new Promise((done) => server.close(done));
  });
  return server.address().port;
}

async function startBrowser() {
  const here = [GATEWAY, APP, STRANGER].map((name) => `MAP ${name} 127.0.0.1`);
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: [
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
      "--no-proxy-server",
      `--host-resolver-rules=${[...here, "MAP * ~NOTFOUND"].join(", ")}`,
    ],
    // `end` closes it.
    handleSIGHUP: false,
    handleSIGINT: false,
    handleSIGTERM: false,
  });
  atEnd(() => browser.close());
  return browser;
}

// ---- what is seen ----

/** A page, and what it did that it must not: requests elsewhere are refused and noted. */
async function watched(browser, origin) {
  const seen = { elsewhere: [], errors: [], violations: [] };
  const context = await browser.newContext({
    viewport: { width: 1280, height: 900 },
    serviceWorkers: "block",
  });
  context.setDefaultTimeout(STEP_MS);
  const foreign = (url) => /^https?:$/.test(url.protocol) && url.origin !== origin;
  await context.route(foreign, (route) => {
    seen.elsewhere.push(`${route.request().method()} ${route.request().url()}`);
    return route.abort();
  });
  await context.routeWebSocket(/./, (socket) => {
    seen.elsewhere.push(`WebSocket ${socket.url()}`);
    socket.close();
  });
  context.on("console", (message) => {
    if (message.type() === "error") seen.errors.push(message.text());
  });
  context.on("weberror", (thrown) => seen.errors.push(String(thrown.error())));
  await context.exposeBinding("noteViolation", (_, what) => seen.violations.push(what));
  await context.addInitScript(() => {
    document.addEventListener("securitypolicyviolation", (event) =>
      noteViolation(`${event.effectiveDirective} refused ${event.blockedURI}`),
    );
  });
  return { page: await context.newPage(), seen };
}

/** What a page of that address gets when it asks. */
async function ask(browser, from, url, headers = {}) {
  // Without routes: where there is one, Playwright answers the preflights itself.
  const context = await browser.newContext({ serviceWorkers: "block" });
  context.setDefaultTimeout(STEP_MS);
  const said = [];
  context.on("console", (message) => said.push(message.text()));
  const page = await context.newPage();
  await page.goto(from);
  const answer = await page.evaluate(
    async ([url, headers]) => {
      try {
        const response = await fetch(url, { headers });
        const id = response.headers.get("x-request-id");
        return { status: response.status, id, body: await response.text() };
      } catch (error) {
        return { refused: String(error) };
      }
    },
    [url, headers],
  );
  await context.close();
  return { ...answer, said: said.join("\n") };
}

/** Executes an operation on the page, as it is filled in but for what `fill` does. */
async function execute(page, operation, fill = async () => {}) {
  const block = page.locator(`.opblock[id$="-${operation}"]`);
  const head = block.locator(".opblock-summary-control");
  await head.click();
  await fill(block);
  await block.locator("button.execute").click();
  const answer = block.locator(".live-responses-table tbody tr.response");
  const shown = {
    status: (await answer.locator(".response-col_status").innerText()).trim(),
    text: await answer.locator(".response-col_description").innerText(),
  };
  // The answer and what leads to it; the list of possible ones below is long.
  const box = await block.boundingBox();
  const y = box.y + (await page.evaluate(() => scrollY));
  await page.screenshot({
    path: `target/docs-page-${operation}.png`,
    fullPage: true,
    clip: { ...box, y, height: Math.min(box.height, 2000) },
  });
  await head.click();
  return shown;
}

let checks = 0;
let failures = 0;

async function check(name, body) {
  checks += 1;
  try {
    await body();
    console.log(`${name}: 1 passed, 0 failed`);
  } catch (error) {
    // What fails then, fails for want of a browser.
    if (givenUp) return;
    failures += 1;
    console.log(`${name}: 0 passed, 1 failed`);
    console.log(error.message.replace(/^/gm, "    "));
  }
}

function nothing(list) {
  assert.equal(list.length, 0, list.join("\n"));
}

function refused(answer) {
  assert.ok(answer.refused, `the page reads ${answer.status} ${answer.body}`);
  assert.match(answer.said, /blocked by CORS policy/);
}

// ---- the checks ----

async function run() {
  // One after the other: what has begun when another fails is among the endings.
  const site = await startSite();
  const demo = await startDemo();
  const browser = await startBrowser();
  const gateway = `http://${GATEWAY}:${demo.port}`;
  const [app, stranger] = [`http://${APP}:${site}`, `http://${STRANGER}:${site}`];

  await check("the watch notices what a page must not do", async () => {
    const { page, seen } = await watched(browser, app);
    await page.goto(`${app}/noisy`, { waitUntil: "networkidle" });
    assert.deepEqual(seen.elsewhere, [`GET ${ELSEWHERE}`]);
    assert.deepEqual(seen.violations, [`img-src refused ${ELSEWHERE}`]);
    assert.ok(seen.errors.includes("noise") && seen.errors.includes("Error: thrown"), `${seen.errors}`);
    await page.context().close();
  });

  const { page, seen } = await watched(browser, gateway);
  await check("the page shows every operation", async () => {
    await page.goto(`${gateway}/docs`, { waitUntil: "networkidle" });
    await page.locator(".opblock").first().waitFor();
    await page.screenshot({ path: "target/docs-page.png", fullPage: true });
    const shown = await page.locator(".opblock").evaluateAll((blocks) =>
      blocks.map((block) => {
        const text = (part) => block.querySelector(part).innerText.replaceAll("\u200b", "").trim();
        const id = block.id.split("-").pop();
        return `${text(".opblock-summary-method")} ${text(".opblock-summary-path")} ${id}`;
      }),
    );
    const { paths } = await (await fetch(`http://127.0.0.1:${demo.port}/openapi.json`)).json();
    const documented = Object.entries(paths).flatMap(([path, item]) =>
      Object.entries(item)
        .filter(([, operation]) => operation.operationId)
        .map(([method, { operationId }]) => `${method.toUpperCase()} ${path} ${operationId}`),
    );
    assert.deepEqual([...shown].sort(), documented.sort());
    assert.deepEqual(OPERATIONS.filter((operation) => !shown.includes(operation)), []);
  });

  await check("Authorize takes ana's token, and GET /v1/me shows her", async () => {
    await page.locator(".auth-wrapper .authorize").click();
    const dialog = page.locator(".dialog-ux .modal-ux");
    await dialog.locator("input").fill(demo.token);
    await dialog.locator("button.authorize").click();
    await dialog.locator("button.btn-done").click();
    const shown = await execute(page, "quien_soy");
    assert.equal(shown.status, "200", shown.text);
    assert.match(shown.text, /"sub": "ana"/);
  });

  const orden = (block) => block.locator('tr[data-param-name="id"] input').fill(demo.orden);
  for (const [operation, status, fill] of [
    ["listar_ordenes", "200"],
    ["ver_orden", "200", orden],
    ["modificar_orden", "200", orden],
    [
      "adjuntar_imagen",
      "201",
      async (block) => {
        await orden(block);
        await block.locator('input[type="file"]').setInputFiles(demo.photo);
      },
    ],
  ]) {
    await check(`${operation} works as the page fills it in`, async () => {
      const shown = await execute(page, operation, fill);
      assert.equal(shown.status, status, shown.text);
    });
  }

  await page.waitForLoadState("networkidle");
  await check("no request went to another host", () => nothing(seen.elsewhere));
  await check("no console error", () => nothing(seen.errors));
  await check("no violation of the Content-Security-Policy", () => nothing(seen.violations));

  const bearer = (token) => ({ Authorization: `Bearer ${token}` });
  await check("where no origin is allowed, another site's page reads nothing", async () => {
    refused(await ask(browser, app, `${gateway}/v1/me`, bearer(demo.token)));
    refused(await ask(browser, app, `${gateway}/openapi.json`));
  });
  await check("where an origin is allowed, its page reads answers, and no other page does", async () => {
    const { port, token } = await startAllowing(app);
    const open = `http://${GATEWAY}:${port}`;
    const answer = await ask(browser, app, `${open}/v1/me`, bearer(token));
    assert.equal(answer.status, 200, answer.refused ?? answer.body);
    assert.equal(JSON.parse(answer.body).sub, "ana");
    assert.ok(answer.id, "X-Request-Id isn't exposed");
    assert.equal((await ask(browser, app, `${open}/v1/me`)).status, 401, "an error can be read too");
    refused(await ask(browser, stranger, `${open}/v1/me`, bearer(token)));
    refused(await ask(browser, stranger, `${open}/openapi.json`));
  });
}

const began = performance.now();
try {
  await run();
} catch (error) {
  // Also where nothing was checked.
  failures += 1;
  if (!givenUp) console.log(error.stack);
} finally {
  await end();
}
const seconds = ((performance.now() - began) / 1000).toFixed(1);
console.log(`docs page: ${checks} checks in ${seconds} s, ${failures ? `${failures} did not hold` : "all hold"}`);
process.exitCode = failures ? 1 : 0;
