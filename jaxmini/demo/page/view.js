// The page's words and figures: values to elements, and nothing computed.

export const byId = (id) => document.getElementById(id);

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export const count = (number) => number.toLocaleString("en");
export const percent = (share, digits = 2) => `${(100 * share).toFixed(digits)}%`;

/** A small number with three digits that count. */
export const short = (number) => (number === 0 ? "0" : Number(number.toPrecision(3)).toString());

export function showFigures(figures) {
  byId("figures").replaceChildren(
    ...figures.map(([what, figure]) =>
      make("div", {}, make("dt", { textContent: what }), make("dd", { textContent: figure }))),
  );
}

/** Facts of [what, says, kind]: kind "wide" takes a whole row, "code" is for copying. */
export function showFacts(facts) {
  byId("facts").replaceChildren(
    ...facts.map(([what, says, kind = ""]) => {
      const value = kind.includes("code") ? make("code", { textContent: says }) : says;
      return make("div", { className: kind }, make("dt", { textContent: what }), make("dd", {}, value));
    }),
  );
}

const SHOWN_CLASSES = 12;

/** The classes as bars: all of them in their order if they are few, else the likeliest ones. */
export function showBars(shares, labels) {
  const order = shares.map((_, index) => index);
  const ranked = [...order].sort((a, b) => shares[b] - shares[a]);
  const shown = order.length <= SHOWN_CLASSES ? order : ranked.slice(0, SHOWN_CLASSES);
  const bars = byId("bars");
  bars.classList.toggle("short", labels.every((label) => label.length <= 2));
  bars.replaceChildren(
    ...shown.map((index) => {
      const bar = make("span", { className: "bar" });
      bar.style.width = percent(shares[index], 1);
      return make(
        "li", { className: index === ranked[0] ? "top" : "" },
        make("span", { className: "name", textContent: labels[index], title: labels[index] }),
        make("span", { className: "track", ariaHidden: "true" }, bar),
        make("span", { className: "share", textContent: percent(shares[index], 1) }),
      );
    }),
  );
}

/** One test picture: what it is, what the network takes it for, and whether this browser answers alike. */
export function pictureCard(canvas, { label, taken, isAlike }, chosen) {
  const isWrong = label !== null && label !== taken;
  const lines = [label === null ? make("span", { textContent: taken }) : make("span", { textContent: label })];
  if (isWrong) lines.push(make("br"), make("span", { className: "bad", textContent: `✕ ${taken}` }));
  if (!isAlike) lines.push(make("br"), make("span", { className: "bad", textContent: "other numbers" }));
  const told = [label === null ? "" : label, isWrong || label === null ? `taken for ${taken}` : "recognised"];
  const button = make("button", { type: "button", ariaLabel: told.filter(Boolean).join(", ") }, canvas, ...lines);
  button.addEventListener("click", () => chosen(button));
  return make("li", {}, button);
}
