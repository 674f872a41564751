// Pictures to the pixels a network takes, by the rules of jaxmini's data.folder: the largest central square,
// resized as Pillow resizes (triangle filter, 22 bits of precision, rounded after each direction). Pillow 13
// filters some high pictures in the other order, which moves pixels by one level; a JPEG's pixels are those
// of the browser's decoder; and more than 8 bits a channel, which data.folder refuses, lose what is beyond.

const PRECISION = 22;

/**
 * The pixels of anything a canvas can draw, as the network takes them: bytes of [H, W, C].
 * Transparent parts become black. `size` is {height, width, channels}.
 */
export function fromPicture(source, size) {
  const { data, width, height } = read(source);
  const planes = separate(data, size.channels);
  const crop = centre(width, height, size);
  return join(planes.map((plane) => resize(plane, width, height, crop, size)));
}

/** RGBA bytes of a source, on black. */
export function read(source) {
  const width = source.videoWidth || source.naturalWidth || source.width;
  const height = source.videoHeight || source.naturalHeight || source.height;
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0);
  return context.getImageData(0, 0, width, height);
}

/** One plane a channel; grey by Pillow's weights. */
function separate(rgba, channels) {
  const pixels = rgba.length / 4;
  if (channels === 1) {
    const grey = new Uint8Array(pixels);
    for (let i = 0, k = 0; i < pixels; i++, k += 4)
      grey[i] = (rgba[k] * 19595 + rgba[k + 1] * 38470 + rgba[k + 2] * 7471 + 0x8000) >> 16;
    return [grey];
  }
  return [0, 1, 2].map((channel) => {
    const plane = new Uint8Array(pixels);
    for (let i = 0, k = channel; i < pixels; i++, k += 4) plane[i] = rgba[k];
    return plane;
  });
}

/** The largest central part of the size's shape: ends [left, top, right, bottom], not whole numbers. */
function centre(width, height, size) {
  const shape = size.width / size.height;
  const across = width / height >= shape ? shape * height : width;
  const down = width / height >= shape ? height : width / shape;
  const left = (width - across) * 0.5, top = (height - down) * 0.5;
  return [left, top, left + across, top + down];
}

function resize(plane, width, height, [left, top, right, bottom], size) {
  const whole = !left && !top && right === width && bottom === height;
  if (whole && width === size.width && height === size.height) return plane;
  // A direction that stays as it is, is not filtered.
  const rows = left || right !== width || width !== size.width
    ? filter(plane, height, width, 1, taps(width, left, right, size.width)) : plane;
  return top || bottom !== height || height !== size.height
    ? filter(rows, size.width, 1, size.width, taps(height, top, bottom, size.height)) : rows;
}

/** For each output: where its inputs begin, and their weights as integers of PRECISION bits. */
function taps(length, from, to, count) {
  const start = Math.fround(from), scale = Math.fround(Math.fround(to) - start) / count;
  const support = Math.max(scale, 1);
  return Array.from({ length: count }, (_, index) => {
    const middle = start + (index + 0.5) * scale;
    const first = Math.max(0, Math.trunc(middle - support + 0.5));
    const last = Math.min(length, Math.trunc(middle + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, k) =>
      Math.max(0, 1 - Math.abs((k + first - middle + 0.5) * (1 / support))));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => Math.trunc(0.5 + (weight / sum) * 2 ** PRECISION)) };
  });
}

/**
 * Filter every line of a plane. Lines lie `line` bytes apart and their elements `element` bytes apart:
 * rows are (width, 1); columns (1, width). The result has the same layout at its new length.
 */
function filter(plane, lines, line, element, taps) {
  const isRows = element === 1;
  const result = new Uint8Array(lines * taps.length);
  for (let n = 0; n < lines; n++) {
    taps.forEach(({ first, weights }, index) => {
      let sum = 1 << (PRECISION - 1), at = n * line + first * element;
      for (const weight of weights) {
        sum += plane[at] * weight;
        at += element;
      }
      const place = isRows ? n * taps.length + index : index * lines + n;
      result[place] = Math.min(255, Math.max(0, sum >> PRECISION));
    });
  }
  return result;
}

function join(planes) {
  if (planes.length === 1) return planes[0];
  const pixels = new Uint8Array(planes[0].length * planes.length);
  planes.forEach((plane, channel) => plane.forEach((level, i) => (pixels[i * planes.length + channel] = level)));
  return pixels;
}

/** The picture of some pixels, each a dot of a canvas. */
export function toCanvas(pixels, size, canvas = document.createElement("canvas")) {
  Object.assign(canvas, { width: size.width, height: size.height });
  const picture = new ImageData(size.width, size.height);
  for (let i = 0; i < size.width * size.height; i++)
    for (let channel = 0; channel < 4; channel++)
      picture.data[4 * i + channel] = channel === 3 ? 255 : pixels[i * size.channels + (channel % size.channels)];
  canvas.getContext("2d", { willReadFrequently: true }).putImageData(picture, 0, 0);
  return canvas;
}

/** CRC-32 of bytes, as zlib counts it. */
export function crc32(bytes) {
  let crc = -1;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
  }
  return ~crc >>> 0;
}
