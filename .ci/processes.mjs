// Programs that a script of `.ci` starts, and a directory for what they write. However the script ends, short of
// SIGKILL, they end before it and the directory is removed.

import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

/** How long a program may take to end in order, and all of them when the script is ended early. */
const STOP_MS = 5_000;
const GIVE_UP_MS = 8_000;
/** How long something may take to come. */
const COME_MS = 30_000;
const LOOK_MS = 50;
/** How much of a program's output is kept, and how much of that an error shows. */
const KEPT_BYTES = 64 * 1024;
const SHOWN_CHARACTERS = 20_000;

const script = basename(process.argv[1], ".mjs");

/** A directory of this run alone. Temporary files are made in it, the browser's and the programs' too. */
export const directory = mkdtempSync(join(tmpdir(), `llavero-${script}-`));
process.env.TMPDIR = directory;

/** Whether the script is being ended early: what fails from then on, fails for want of what is ended. */
export let givenUp = false;

/** What a script waits for here that is being ended early: it has no more to say. */
const never = new Promise(() => {});
const endings = [];
let inOrder;
const running = new Set();

process.on("exit", () => {
  for (const child of running) killGroup(child);
  try {
    // Who has just been killed may still have been writing.
    rmSync(directory, { recursive: true, force: true, maxRetries: 5, retryDelay: 50 });
  } catch (error) {
    console.log(`not removed: ${error.message}`);
    process.exitCode ||= 1;
  }
});
for (const [signal, number] of [["SIGHUP", 1], ["SIGINT", 2], ["SIGTERM", 15]]) {
  process.on(signal, () => giveUp(signal, 128 + number));
}
process.on("uncaughtException", (error) => giveUp(error?.stack ?? error, 1));

/** Ends the script, and all that it started, if it takes longer than that. */
export function endsWithin(seconds) {
  setTimeout(() => giveUp(`it took longer than ${seconds} s`, 1), seconds * 1000).unref();
}

/** What has to be done at the end, before what was registered or started earlier is ended. */
export function atEnd(ending) {
  endings.push(ending);
}

/** Ends in order what was started, the last first. */
export async function end() {
  await (inOrder ??= endInOrder());
  if (givenUp) await never;
}

async function endInOrder() {
  for (let ending; (ending = endings.pop()); ) {
    try {
      await ending();
    } catch (error) {
      console.log(`not ended: ${error.message}`);
    }
  }
}

/** Ends the script early, and first what it started. */
function giveUp(why, code) {
  if (givenUp) return;
  givenUp = true;
  console.log(`ended early: ${why}`);
  setTimeout(() => process.exit(code), GIVE_UP_MS);
  (inOrder ??= endInOrder()).then(() => process.exit(code));
}

/** Kills a program and what it started, which may be there still when the program isn't. */
function killGroup({ pid }) {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // Nobody is left.
  }
}

/**
 * Starts a program; gives its process once it runs. It gets no environment but `env` and what any program needs.
 *
 * - `signal`: what ends it; one that doesn't end it in time is killed.
 * - `keep`: of its output, the last so many bytes are kept.
 * - `unread`: nobody reads what it says on stderr.
 *
 * The process has `text()`, what it printed; `ended`, which waits for its end and gives its exit code or signal, as
 * `outcome` does from then on; and `stop()`, which ends it.
 */
export async function start(name, command, args, { env = {}, signal = "SIGKILL", keep = KEPT_BYTES, unread = false } = {}) {
  const { PATH } = process.env;
  const child = spawn(command, args, {
    env: { PATH, HOME: directory, TMPDIR: directory, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    // A group of its own, which can be killed as a whole, and which a terminal's Ctrl-C doesn't reach before us.
    detached: true,
  });
  running.add(child);
  child.text = collect(unread ? [child.stdout] : [child.stdout, child.stderr], keep);
  child.on("exit", () => killGroup(child));
  const closed = new Promise((done) => {
    // Not before all of its output is read.
    child.on("close", (code, killedBy) => {
      running.delete(child);
      child.outcome = code ?? killedBy;
      done(child.outcome);
    });
  });
  child.ended = closed.then((outcome) => (givenUp ? never : outcome));
  child.stop = async () => {
    child.kill(signal);
    const late = setTimeout(() => killGroup(child), STOP_MS);
    await closed;
    clearTimeout(late);
  };
  endings.push(child.stop);
  await new Promise((done, fail) => {
    child.once("spawn", done);
    child.once("error", (error) => fail(new Error(`${name} can't be started: ${error.message}`)));
  });
  return child;
}

/** Gives what gives the last that came, some `keep` bytes. */
function collect(streams, keep) {
  const parts = [];
  let size = 0;
  for (const stream of streams) {
    stream.on("data", (part) => {
      parts.push(part);
      size += part.length;
      while (size - parts[0].length >= keep) size -= parts.shift().length;
    });
  }
  return () => Buffer.concat(parts).toString();
}

/**
 * Waits until it holds, and gives what it gave; where it throws, it doesn't hold yet. `child` is the program that has
 * to make it hold: once that has ended, there is nothing to wait for.
 */
export async function until(what, holds, child) {
  const printed = () => `printed${child.text() ? `:\n${child.text().slice(-SHOWN_CHARACTERS)}` : " nothing"}`;
  const last = performance.now() + COME_MS;
  for (let why = ""; ; await sleep(LOOK_MS)) {
    const outcome = child?.outcome;
    try {
      const found = await holds();
      if (found) return found;
    } catch (error) {
      why = `: ${error.message}`;
    }
    if (givenUp) await never;
    if (outcome !== undefined) throw new Error(`${what} doesn't come: it ended (${outcome}) and ${printed()}`);
    if (performance.now() < last) continue;
    throw new Error(`${what} doesn't come within ${COME_MS / 1000} s${why}${child ? `; it ${printed()}` : ""}`);
  }
}

/** Ports that nobody has. */
export async function freePorts(count) {
  const listeners = Array.from({ length: count }, () => createServer());
  const ports = [];
  // All at once, or the same one could come twice.
  for (const listener of listeners) {
    await new Promise((done, fail) => listener.on("error", fail).listen(0, "127.0.0.1", done));
    ports.push(listener.address().port);
  }
  for (const listener of listeners) await new Promise((done) => listener.close(done));
  return ports;
}
