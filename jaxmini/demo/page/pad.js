// The pad: a square to draw on, and what is drawn as the network takes it.

// Width of a stroke, as a share of the pad: that of a thick pen, and about a pixel of the network at least.
const PEN = 0.085, PIXELS = 0.9;

export class Pad {
  #canvas; #context; #size; #drawing; #last = null; #isDrawn = false; #told;

  /** `drawing` is where figures stand in the network's pictures; null = nobody can draw. */
  constructor(canvas, size, drawing, told) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d", { willReadFrequently: true });
    this.#size = size;
    this.#drawing = drawing;
    this.#told = told;
    this.clear();
    if (drawing) this.#listen();
  }

  clear() {
    const { width, height } = this.#canvas;
    this.#context.fillStyle = this.#drawing?.ground ? "#fff" : "#000";
    this.#context.fillRect(0, 0, width, height);
    this.#isDrawn = false;
  }

  /** Show a picture: all of it if it has the network's shape, else its largest central part. */
  show(source, isDots = false) {
    const width = source.videoWidth || source.width, height = source.videoHeight || source.height;
    const scale = Math.max(this.#canvas.width / width, this.#canvas.height / height);
    this.clear();
    this.#context.imageSmoothingEnabled = !isDots;
    this.#context.drawImage(
      source,
      (this.#canvas.width - width * scale) / 2, (this.#canvas.height - height * scale) / 2,
      width * scale, height * scale,
    );
  }

  #listen() {
    this.#canvas.addEventListener("pointerdown", (event) => {
      this.#canvas.setPointerCapture(event.pointerId);
      if (!this.#isDrawn) this.clear();
      this.#isDrawn = true;
      this.#last = null;
      this.#stroke(event);
    });
    this.#canvas.addEventListener("pointermove", (event) => {
      if (!event.buttons) return;
      const between = event.getCoalescedEvents?.() ?? [];
      for (const each of between.length ? between : [event]) this.#stroke(each);
    });
    for (const end of ["pointerup", "pointercancel"])
      this.#canvas.addEventListener(end, () => (this.#last = null));
  }

  #stroke(event) {
    const box = this.#canvas.getBoundingClientRect();
    const scale = this.#canvas.width / box.width;
    const point = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
    const context = this.#context;
    context.strokeStyle = this.#drawing.ground ? "#000" : "#fff";
    context.lineWidth = this.#canvas.width * Math.max(PEN, PIXELS / Math.min(this.#size.width, this.#size.height));
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(...(this.#last ?? point));
    context.lineTo(...point);
    context.stroke();
    this.#last = point;
    this.#told(this.pixels());
  }

  /** What is drawn, moved and scaled to where the network's figures stand, averaged into its pixels. */
  pixels() {
    const { width, height } = this.#canvas;
    const rgba = this.#context.getImageData(0, 0, width, height).data;
    const { ground, extent, center } = this.#drawing;
    const ink = Float32Array.from({ length: width * height }, (_, i) => Math.abs(rgba[4 * i] - ground));
    const box = inkBox(ink, width, height);
    const pixels = new Uint8Array(this.#size.width * this.#size.height).fill(ground);
    if (!box) return pixels;
    // Points of the pad that one pixel of the network stands for.
    const short = Math.min(this.#size.width, this.#size.height);
    const step = Math.max(box.right - box.left, box.bottom - box.top) / (extent * short);
    const left = (box.left + box.right) / 2 - center[1] * this.#size.width * step;
    const top = (box.top + box.bottom) / 2 - center[0] * this.#size.height * step;
    for (let y = 0; y < this.#size.height; y++)
      for (let x = 0; x < this.#size.width; x++) {
        const level = mean(ink, width, height, left + x * step, top + y * step, step);
        pixels[y * this.#size.width + x] = Math.round(Math.abs(ground - level));
      }
    return pixels;
  }
}

/** Ends of what is inked; null for a blank pad. */
function inkBox(ink, width, height) {
  const box = { left: width, top: height, right: 0, bottom: 0 };
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++)
      if (ink[y * width + x] > 64) {
        box.left = Math.min(box.left, x);
        box.right = Math.max(box.right, x + 1);
        box.top = Math.min(box.top, y);
        box.bottom = Math.max(box.bottom, y + 1);
      }
  return box.right > box.left ? box : null;
}

/** Mean of the ink in a square of the pad; what lies outside is ground. */
function mean(ink, width, height, left, top, side) {
  let sum = 0;
  for (let y = Math.max(0, Math.floor(top)); y < Math.min(height, top + side); y++) {
    const down = Math.min(y + 1, top + side) - Math.max(y, top);
    for (let x = Math.max(0, Math.floor(left)); x < Math.min(width, left + side); x++)
      sum += ink[y * width + x] * down * (Math.min(x + 1, left + side) - Math.max(x, left));
  }
  return sum / (side * side);
}
