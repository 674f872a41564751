// The card: what the file says of itself.

import { count, make, short } from "./view.js";

/** Facts of [what, says, kind] for `showFacts`. */
export function facts(manifest, digest, build, kernels) {
  const { file, input, output, labels, description } = manifest;
  const checked = digest === null ? "as written; this browser computes it on https and localhost only"
    : "computed here, of the bytes that run";
  return [
    ["size", `${count(file.bytes)} bytes`],
    ["kernels", kernelsAndOthers(manifest.runtime, build, kernels)],
    ["input", `${input.height}×${input.width}×${input.channels} ${input.dtype}, ${input.encoding}`],
    ["output", `${labels.length} ${output.dtype}${scale(output)}`],
    ["classes", labels.join(", "), "wide"],
    [`SHA-256, ${checked}`, digest ?? file.sha256, "wide code"],
    ...described(description),
  ];
}

/** The build that runs, and the page again with each of the others. */
function kernelsAndOthers({ builds }, running, kernels) {
  const others = Object.entries(builds).filter(([build]) => build !== running);
  const links = others.map(([build, { bytes }]) =>
    make("a", { href: `?build=${build}`, title: `${count(bytes)} bytes`, textContent: build }));
  return make("span", {}, kernels, make("br"), "again with ", ...links.flatMap((link) => [link, " "]));
}

function scale({ dtype, scale, zero_point }) {
  return dtype === "float32" ? "" : `, (number ${zero_point < 0 ? "+" : "−"} ${Math.abs(zero_point)}) × ${short(scale)}`;
}

/** What the metadata that jaxmini writes into a file holds. */
function described({ variant, backend, normalization, provenance }) {
  if (variant === undefined)
    return [["origin", "not written by jaxmini: it names no classes, and how it wants its pixels scaled is a guess", "wide"]];
  return [
    ["numbers", variant],
    ["written by", backend],
    ["normalisation, inside the file", `mean ${short(normalization.mean)}, standard deviation ${short(normalization.std)}`],
    ...Object.entries(provenance).map(([name, value]) => [name, value, "code"]),
  ];
}
