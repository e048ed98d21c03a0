// Holds custom resources, a JSON array in the second argument's file, against their schemas: values by the
// schemas' own rules, and fields that no schema has by the compiler, which refuses them in literals.
// Its first argument is the directory where the packages are installed. Prints what is wrong, and exits 1.
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const [root, file] = process.argv.slice(2).map((it) => path.resolve(it));
const require = createRequire(path.join(root, "package.json"));
const ts = require("typescript");

const packages = {
  "gateway.networking.k8s.io": "gateway-api",
  "monitoring.coreos.com": "prometheus-operator",
  "external-secrets.io": "external-secrets",
};

const wrong = [];
const literals = [];
for (const { of, object } of JSON.parse(fs.readFileSync(file, "utf8"))) {
  const group = packages[object.apiVersion.split("/")[0]];
  if (!group) {
    wrong.push(`${of}: ${object.apiVersion} ${object.kind}: no schema is known`);
    continue;
  }
  const module = `@kubernetes-models/${group}/${object.apiVersion}/${object.kind}`;
  const { [object.kind]: Model } = await import(
    pathToFileURL(path.join(root, "node_modules", `${module}.js`))
  );
  try {
    new Model(object).validate();
  } catch (error) {
    wrong.push(`${of}: ${object.kind}: ${error.message}`);
  }
  literals.push({ of, kind: object.kind, module, text: JSON.stringify(object) });
}

// One line each, so that a line of the compiler's leads back to its object.
const source = path.join(root, "objects.ts");
fs.writeFileSync(
  source,
  literals
    .map(
      ({ kind, module, text }, i) =>
        `import type { I${kind} as T${i} } from "${module}"; export const o${i}: T${i} = ${text};`,
    )
    .join("\n"),
);
const program = ts.createProgram([source], {
  strict: true,
  noEmit: true,
  skipLibCheck: true,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
  target: ts.ScriptTarget.ES2022,
  types: [],
});
for (const { file, start, messageText } of ts.getPreEmitDiagnostics(program)) {
  const { of, kind } = literals[file?.getLineAndCharacterOfPosition(start).line ?? 0] ?? {};
  wrong.push(`${of}: ${kind}: ${ts.flattenDiagnosticMessageText(messageText, " ")}`);
}

if (wrong.length > 0) {
  console.error(wrong.join("\n"));
  process.exit(1);
}
