// Where pictures come from: the pad, a file that is chosen, dropped or pasted, the camera.

import { fromPicture } from "./pixels.js";
import { byId } from "./view.js";

/** Connect every way in to `trial(pixels)`; the function given ends what is shown now. */
export function listen(manifest, pad, trial, decode) {
  const { input, drawing } = manifest;
  const isGrey = input.channels === 1;
  const camera = new Camera((frame) => take(frame));
  let inverted = false, shown = null;

  function forget() {
    camera.stop();
    shown = null;
  }

  function take(source) {
    shown = source;
    pad.show(source);
    const pixels = fromPicture(source, input);
    trial(inverted ? pixels.map((pixel) => 255 - pixel) : pixels);
  }

  async function open(file) {
    camera.stop();
    try {
      take(await decode(file));
    } catch (error) {
      byId("hint").textContent = `${file.name || "this"} is no picture that this browser reads.`;
    }
  }

  byId("hint").textContent = drawing
    ? "Draw above, or drop a picture on it. A drawing is centred and scaled as the test pictures are."
    : "Drop a picture above, paste one, or choose one. Its largest central part is what the network sees.";
  byId("pad").classList.toggle("drawable", drawing !== null);
  byId("pad").setAttribute("aria-label", drawing ? "draw here, or drop a picture" : "drop a picture here");
  byId("pad").addEventListener("pointerdown", forget);

  byId("clear").hidden = drawing === null;
  byId("clear").addEventListener("click", () => {
    forget();
    pad.clear();
    trial(pad.pixels());
  });

  byId("invert").hidden = !isGrey;
  byId("invert").addEventListener("click", () => {
    inverted = !inverted;
    byId("invert").setAttribute("aria-pressed", String(inverted));
    if (shown && !camera.isOn) take(shown);
  });

  byId("choose").addEventListener("click", () => byId("picture").click());
  byId("picture").addEventListener("change", ({ target }) => target.files[0] && open(target.files[0]));
  document.addEventListener("paste", ({ clipboardData }) => clipboardData.files[0] && open(clipboardData.files[0]));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    byId("pad").classList.add("over");
  });
  document.addEventListener("dragleave", () => byId("pad").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("pad").classList.remove("over");
    if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
  });

  // A browser gives its camera to https and localhost only.
  byId("camera").hidden = !navigator.mediaDevices?.getUserMedia;
  byId("camera").addEventListener("click", async () => {
    if (camera.isOn) return camera.stop();
    try {
      await camera.start();
    } catch (error) {
      byId("hint").textContent = `The camera cannot be used: ${error.message}.`;
    }
  });
  return forget;
}

/** The camera, a frame at a time. */
class Camera {
  #video = document.createElement("video");
  #told;

  constructor(told) {
    this.#told = told;
    Object.assign(this.#video, { muted: true, playsInline: true });
  }

  get isOn() {
    return this.#video.srcObject !== null;
  }

  async start() {
    this.#video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    await this.#video.play();
    byId("camera").setAttribute("aria-pressed", "true");
    this.#next();
  }

  stop() {
    this.#video.srcObject?.getTracks().forEach((track) => track.stop());
    this.#video.srcObject = null;
    byId("camera").setAttribute("aria-pressed", "false");
  }

  #next() {
    if (!this.isOn) return;
    this.#told(this.#video);
    requestAnimationFrame(() => this.#next());
  }
}
