// The dashboard as it looked in a run: each panel by its own queries' answers, in the dashboard's grid.
// A stand-in for Grafana, which no registry that this needs has: it knows rows, stats and time series.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";

import { atEnd } from "./processes.mjs";

const STEP_MS = 10_000;

/** Leaves dashboard.html and dashboard.png in `out`. */
export async function draw(dashboard, { from, to, tools, out }) {
  const uplot = join(tools, "node_modules/uplot/dist");
  const asset = (name) => readFileSync(join(uplot, name), "utf8");
  const data = JSON.stringify({ dashboard, from, to }).replaceAll("<", "\\u003c");
  const page = join(out, "dashboard.html");
  writeFileSync(
    page,
    `<!doctype html><meta charset="utf-8"><title>${dashboard.title}</title>
<style>${asset("uPlot.min.css")}${STYLE}</style><main></main>
<script>${asset("uPlot.iife.min.js")}</script>
<script>const { dashboard, from, to } = ${data};
(${paint})(dashboard, from, to);</script>`,
  );
  const { chromium } = createRequire(join(tools, "package.json"))("playwright-core");
  const browser = await chromium.launch({
    executablePath: "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--no-proxy-server", "--host-resolver-rules=MAP * ~NOTFOUND"],
    // A signal ends it with the others.
    handleSIGHUP: false,
    handleSIGINT: false,
    handleSIGTERM: false,
  });
  atEnd(() => browser.close());
  try {
    const tab = await browser.newPage({ viewport: { width: 1600, height: 900 } });
    tab.setDefaultTimeout(STEP_MS);
    const errors = [];
    tab.on("pageerror", (error) => errors.push(error.message));
    await tab.goto(`file://${page}`);
    await tab.waitForSelector("main[data-painted]");
    await tab.screenshot({ path: join(out, "dashboard.png"), fullPage: true });
    if (errors.length) throw new Error(errors.join("\n"));
  } finally {
    await browser.close();
  }
}

const STYLE = `
body { margin: 0; background: #f4f5f5; font: 12px sans-serif; color: #24292e }
main { position: relative }
section { position: absolute; box-sizing: border-box; background: #fff; border: 1px solid #e0e0e0; overflow: hidden; padding: 4px 8px }
section.row { background: none; border: 0; font-weight: bold; font-size: 15px }
h2 { font-size: 12px; margin: 0 0 2px }
.stat { font-size: 30px; text-align: center; margin-top: 12px }
.legend { font-size: 10px; line-height: 13px; max-height: 39px; overflow: hidden }
.legend i { display: inline-block; width: 10px; height: 3px; margin: 0 4px 3px 10px }
.none { color: #c00; text-align: center; margin-top: 40px }`;

/** Runs in the page. */
function paint(dashboard, from, to) {
  const colors = ["#3274d9", "#56a64b", "#e02f44", "#ff780a", "#a352cc", "#e0b400", "#0c9c9c", "#8f3bb8", "#555", "#c15c17", "#7eb26d", "#ba43a9"];
  const [gap, unit] = [8, 34];
  const width = (innerWidth - gap) / 24;
  const main = document.querySelector("main");
  const round = (value, digits = 3) => String(+value.toPrecision(digits));
  const scaled = (value, base, units) => {
    let at = 0;
    while (Math.abs(value) >= base && at < units.length - 1) (value /= base), (at += 1);
    return `${round(value)} ${units[at]}`;
  };
  const formats = {
    bytes: (value) => scaled(value, 1024, ["B", "KiB", "MiB", "GiB"]),
    Bps: (value) => `${scaled(value, 1024, ["B", "KiB", "MiB"])}/s`,
    percentunit: (value) => `${round(value * 100)} %`,
    reqps: (value) => `${round(value)}/s`,
    ops: (value) => `${round(value)}/s`,
    s: (value) => {
      const size = Math.abs(value);
      if (size >= 86400) return `${round(value / 86400)} d`;
      if (size >= 3600) return `${round(value / 3600)} h`;
      if (size >= 120) return `${round(value / 60)} min`;
      return size < 1 && size > 0 ? `${round(value * 1000)} ms` : `${round(value)} s`;
    },
  };
  const times = Array.from({ length: to - from + 1 }, (_, at) => from + at);
  let bottom = 0;
  for (const panel of dashboard.panels) {
    const { x, y, w, h } = panel.gridPos;
    const box = document.createElement("section");
    const place = { left: x * width + gap, top: y * unit + gap, width: w * width - gap, height: h * unit - gap };
    for (const [key, value] of Object.entries(place)) box.style[key] = `${value}px`;
    bottom = Math.max(bottom, (y + h) * unit);
    main.append(box);
    if (panel.type === "row") {
      box.className = "row";
      box.textContent = panel.title;
      continue;
    }
    box.append(Object.assign(document.createElement("h2"), { textContent: panel.title }));
    const { unit: unitName, min, max, custom, thresholds } = panel.fieldConfig.defaults;
    const format = formats[unitName] ?? ((value) => round(value));
    if (!panel.series.length) {
      box.append(Object.assign(document.createElement("div"), { className: "none", textContent: "No data" }));
      continue;
    }
    if (panel.type === "stat") {
      const numbers = panel.series[0].values.map(([, value]) => Number(value)).filter(Number.isFinite);
      const value = numbers.at(-1);
      const step = thresholds.steps.findLast((step) => step.value === null || value >= step.value);
      const big = Object.assign(document.createElement("div"), { className: "stat", textContent: format(value) });
      big.style.color = { green: "#37872d", orange: "#fa6400", red: "#c4162a" }[step.color];
      box.append(big);
      continue;
    }
    const isStack = custom.stacking.mode === "normal";
    const lines = panel.series.map(({ legend, values }) => {
      const known = new Map(values.map(([at, value]) => [Math.round(at), Number(value)]));
      return { legend, points: times.map((at) => (Number.isFinite(known.get(at)) ? known.get(at) : null)) };
    });
    if (isStack) {
      const sums = times.map(() => 0);
      for (const line of lines) {
        line.points = line.points.map((value, at) => (value === null ? (sums[at] || null) : (sums[at] += value)));
      }
      // The largest lies behind.
      lines.reverse();
    }
    const color = (at) => colors[(isStack ? lines.length - 1 - at : at) % colors.length];
    const room = 13 * Math.min(3, Math.ceil(lines.reduce((sum, { legend }) => sum + legend.length * 5.2 + 26, 0) / (place.width - 20)));
    const steps = custom.lineInterpolation === "stepAfter" ? uPlot.paths.stepped({ align: 1 }) : undefined;
    new uPlot(
      {
        width: place.width - 16,
        height: place.height - 34 - room,
        legend: { show: false },
        cursor: { show: false },
        scales: { y: { range: (_, low, high) => [min ?? low, max ?? Math.max(high * 1.05, (min ?? 0) + 1e-9)] } },
        axes: [
          { values: (_, splits) => splits.map((at) => `${at - from} s`), grid: { stroke: "#eee" }, size: 24, font: "10px sans-serif" },
          { values: (_, splits) => splits.map(format), grid: { stroke: "#eee" }, size: 62, font: "10px sans-serif" },
        ],
        series: [
          {},
          ...lines.map((_, at) => ({
            stroke: color(at), width: 1.5, paths: steps, points: { show: false },
            fill: isStack ? color(at) : undefined,
          })),
        ],
      },
      [times, ...lines.map(({ points }) => points)],
      box,
    );
    const legend = Object.assign(document.createElement("div"), { className: "legend" });
    lines.forEach((line, at) => {
      const mark = document.createElement("i");
      mark.style.background = color(at);
      legend.append(mark, line.legend);
    });
    box.append(legend);
  }
  main.style.height = `${bottom + 8}px`;
  main.dataset.painted = "";
}
