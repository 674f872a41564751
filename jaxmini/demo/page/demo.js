// The demo: opens the very file, runs the test pictures beside the interpreter's answers, then whatever it is given.

import { chooseBuild, Network } from "./litert.js";
import { Pad } from "./pad.js";
import { crc32, fromPicture, toCanvas } from "./pixels.js";
import { best, distance, probabilities } from "./scores.js";
import { byId, count, percent, pictureCard, short, showBars, showFacts, showFigures } from "./view.js";
import { facts } from "./card.js";
import { listen } from "./sources.js";

const TIMED_BLOCKS = 15, BLOCK_MILLISECONDS = 10;

async function get(path) {
  const response = await fetch(path);
  if (!response.ok) throw new Error(`${path}: ${response.status} ${response.statusText}`);
  return response;
}

/** SHA-256 of bytes; null where a browser gives none: away from https and localhost. */
async function sha256(bytes) {
  if (!crypto.subtle) return null;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The picture of a file of this folder or of the user. */
function decode(blob) {
  // Colour profiles are left aside, as data.folder leaves them.
  return createImageBitmap(blob, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
}

/** Every test picture through the network, beside the interpreter's answer. */
async function answerAll(manifest, network) {
  const found = [];
  for (const { path, label, crc32: expected, answer } of manifest.pictures) {
    const pixels = fromPicture(await decode(await (await get(path)).blob()), manifest.input);
    const own = await network.run(pixels);
    found.push({
      label, pixels, answer: own,
      areSamePixels: crc32(pixels) === expected,
      isAlike: best(own) === best(answer),
      distance: distance(own, answer),
    });
  }
  return found;
}

/** Milliseconds of one picture: the median of blocks long enough for the browser's clock. */
async function time(network, pixels) {
  const begin = performance.now();
  let runs = 0;
  while (performance.now() - begin < BLOCK_MILLISECONDS) {
    await network.run(pixels);
    runs++;
  }
  const blocks = [];
  for (let block = 0; block < TIMED_BLOCKS; block++) {
    const start = performance.now();
    for (let run = 0; run < runs; run++) await network.run(pixels);
    blocks.push((performance.now() - start) / runs);
  }
  return blocks.sort((a, b) => a - b)[TIMED_BLOCKS >> 1];
}

/** What all test pictures together say. */
function summary(manifest, found) {
  const labelled = found.filter(({ label }) => label !== null);
  return {
    alike: found.filter(({ isAlike }) => isAlike).length,
    right: labelled.filter(({ label, answer }) => label === best(answer)).length,
    labelled: labelled.length,
    changed: found.filter(({ areSamePixels }) => !areSamePixels).length,
    distance: Math.max(0, ...found.map((each) => each.distance)),
    unit: manifest.output.dtype === "float32" ? "" : " LSB",
  };
}

function tell(manifest, found, milliseconds, kernels) {
  const { alike, right, labelled, changed, distance, unit } = summary(manifest, found);
  const total = found.length;
  byId("outcome").textContent =
    `The very file, run in this browser: ${alike} of ${total} pictures get the answer that the LiteRT ` +
    `interpreter gave on the machine that wrote this page. Pictures stay here.`;
  const accuracy = manifest.report.accuracy;
  showFigures([
    ["agreement", `${alike} of ${total}`],
    ["largest difference", `${short(distance)}${unit}`],
    ["time of one picture", `${short(milliseconds)} ms`],
    ...(accuracy === null ? [] : [["accuracy in its report", percent(accuracy)]]),
    ["bytes", count(manifest.file.bytes)],
  ]);
  const lines = [`${total} pictures: ${manifest.origin}.`];
  lines.push(`Agreement ${alike} of ${total}, largest difference of two numbers ${short(distance)}${unit}.`);
  if (labelled) lines.push(`Right: ${right} of ${labelled}.`);
  lines.push(accuracy === null ? `No accuracy is known: ${manifest.report.source}.`
    : `On the whole test split: ${percent(accuracy)} (${manifest.report.source}).`);
  if (changed) lines.push(`This browser changed the pixels of ${changed} pictures, as protection against ` +
    `fingerprinting does: the network was not given the same.`);
  byId("agreement").textContent = lines.join(" ");
  byId("agreement").classList.toggle("bad", changed > 0);
  byId("verdict-note").textContent = kernels;
}

/** Everything a person can do, from the pixels on. */
function makeTrial(manifest, network) {
  const { input, labels, output } = manifest;
  let latest = 0;
  return async (pixels) => {
    const mine = ++latest;
    toCanvas(pixels, input, byId("input"));
    const answer = await network.run(pixels);
    if (mine !== latest) return;
    const shares = probabilities(answer, output);
    const name = labels[best(answer)];
    if (byId("verdict").textContent !== name) byId("verdict").textContent = name;
    showBars(shares, labels);
  };
}

function showPictures(manifest, found, chosen) {
  byId("pictures").replaceChildren(
    ...found.map((each) =>
      pictureCard(
        toCanvas(each.pixels, manifest.input),
        {
          label: each.label === null ? null : manifest.labels[each.label],
          taken: manifest.labels[best(each.answer)],
          isAlike: each.isAlike,
        },
        (button) => {
          document.querySelector(".chosen")?.classList.remove("chosen");
          button.classList.add("chosen");
          chosen(each);
        },
      )),
  );
}

async function main() {
  const manifest = await (await get("demo.json")).json();
  const { file, input } = manifest;
  document.title = `${file.name} – jaxmini demo`;
  byId("name").textContent = file.name;
  const content = new Uint8Array(await (await get(file.path)).arrayBuffer());
  const digest = await sha256(content);
  if (digest !== null && digest !== file.sha256)
    throw new Error(`${file.path} is not the file this page was written for: its SHA-256 is ${digest}`);
  const { builds } = manifest.runtime;
  const build = new URLSearchParams(location.search).get("build") ?? chooseBuild(builds);
  if (!Object.hasOwn(builds, build))
    throw new Error(`there is no build "${build}" of LiteRT.js here; there are ${Object.keys(builds).join(", ")}`);
  const network = await Network.open(manifest, content, builds[build].script);
  const kernels = `LiteRT.js ${manifest.runtime.version}, ${build}, ${network.threads} ` +
    `thread${network.threads > 1 ? "s" : ""}`;
  showFacts(facts(manifest, digest, build, kernels));
  const found = await answerAll(manifest, network);
  const milliseconds = await time(network, found[0].pixels);
  tell(manifest, found, milliseconds, kernels);
  byId("main").hidden = false;
  const pad = new Pad(byId("pad"), input, manifest.drawing, (pixels) => trial(pixels));
  const trial = makeTrial(manifest, network);
  const forget = listen(manifest, pad, trial, decode);
  showPictures(manifest, found, (each) => {
    forget();
    pad.show(toCanvas(each.pixels, input), true);
    trial(each.pixels);
  });
  byId("input-size").textContent = `${input.width}×${input.height} ${input.channels === 1 ? "grey levels" : "pixels"}`;
  byId("pictures").querySelector("button").click();
  return { build, threads: network.threads, digest, milliseconds, ...summary(manifest, found),
    answers: found.map(({ answer }) => Array.from(answer)) };
}

// For whoever looks on from outside, a test or a console: what was found, or why not.
self.jaxmini = main().catch((error) => {
  byId("outcome").textContent = `This page cannot run: ${error.message ?? error}`;
  byId("outcome").classList.add("bad");
  byId("main").hidden = true;
  return { error: String(error.message ?? error) };
});
