// Checks an exported ONNX bundle as another team would use it: node check.mjs runs/NAME/export/onnx/1
// Its files are those of SHA256SUMS, and ONNX Runtime in Node.js makes of each golden input the golden output: the same
// class at 99.99 % of the pixels or more, bytes of images to within 1, other numbers to within 0.0001 (of the largest,
// where that is more than 1).
// Exit status: 0; 1 if something differs; 2 if the bundle cannot be read.
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import * as ort from "onnxruntime-node";
import { readNpz } from "./npz.mjs";

const LEAST_AGREEMENT = 0.9999;
const MOST_DIFFERENCE = 1e-4;

/** Lines about files that are not what SHA256SUMS says. */
async function wrongSums(folder) {
  const lines = (await readFile(join(folder, "SHA256SUMS"), "utf8")).split("\n").filter(Boolean);
  const wrong = [];
  const listed = new Set();
  for (const line of lines) {
    const [, sum, name] = line.match(/^([0-9a-f]{64}) [ *](.+)$/) ?? [];
    if (!sum || basename(name) !== name) throw new Error(`SHA256SUMS: cannot read the line "${line}"`);
    listed.add(name);
    const content = await readFile(join(folder, name)).catch(() => null);
    if (!content) wrong.push(`${name}: missing`);
    else if (createHash("sha256").update(content).digest("hex") !== sum) wrong.push(`${name}: not that of SHA256SUMS`);
  }
  for (const name of ["model.onnx", "golden.npz"]) if (!listed.has(name)) wrong.push(`${name}: not in SHA256SUMS`);
  return wrong;
}

/** Equal values as a share, and the greatest difference (NaN if there is one). */
function compare(found, golden) {
  let equal = 0;
  let difference = 0;
  for (let index = 0; index < golden.length; index++) {
    if (found[index] === golden[index]) equal++;
    difference = Math.max(difference, Math.abs(found[index] - golden[index]));
  }
  return { agreement: equal / golden.length, difference };
}

/** Runs one golden input; returns a line for each output, with whether it is good. */
async function checkInput(session, arrays, number) {
  const image = arrays.get(`image_${number}`);
  const results = await session.run({ image: new ort.Tensor("uint8", image.values, image.shape) });
  return session.outputNames.map((name) => {
    const golden = arrays.get(`${name}_${number}`);
    const title = `image_${number} [${image.shape}] ${name}`;
    if (!golden) return { good: false, line: `${title}: golden.npz does not have it` };
    if (`${results[name].dims}` !== `${golden.shape}`)
      return { good: false, line: `${title}: shape ${results[name].dims}, golden ${golden.shape}` };
    const { agreement, difference } = compare(results[name].data, golden.values);
    const largest = golden.values.reduce((most, value) => Math.max(most, Math.abs(value)), 1);
    const allowed = golden.values instanceof Uint8Array ? 1 : MOST_DIFFERENCE * largest;
    const good = name === "mask" ? agreement >= LEAST_AGREEMENT : difference <= allowed;
    return { good, line: `${title}: ${(100 * agreement).toFixed(4)} % equal, max difference ${difference}` };
  });
}

async function main(folder) {
  const wrong = await wrongSums(folder);
  for (const line of wrong) console.log(`WRONG  ${line}`);
  if (wrong.length) return 1;
  const arrays = readNpz(await readFile(join(folder, "golden.npz")));
  const session = await ort.InferenceSession.create(join(folder, "model.onnx"));
  const numbers = [...arrays.keys()].flatMap((name) => name.match(/^image_(\d+)$/)?.[1] ?? []);
  if (!numbers.length) throw new Error("golden.npz has no image_0");
  const rows = [];
  for (const number of numbers) rows.push(...(await checkInput(session, arrays, number)));
  for (const { good, line } of rows) console.log(`${good ? "ok    " : "WRONG "} ${line}`);
  return rows.every(({ good }) => good) ? 0 : 1;
}

if (process.argv.length !== 3) {
  console.error("usage: node check.mjs BUNDLE (the folder with model.onnx, golden.npz and SHA256SUMS)");
  process.exitCode = 2;
} else {
  process.exitCode = await main(process.argv[2]).catch((error) => {
    console.error(`error: ${error.message}`);
    return 2;
  });
}
