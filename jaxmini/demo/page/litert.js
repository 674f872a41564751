// The very .tflite file in LiteRT.js. Its WebAssembly is called through its bindings: the layer above them
// (version 2.5.3) knows no int8 tensors.

// A function of two operations of relaxed SIMD, as WebAssembly: (v128, v128) -> i8x16.relaxed_swizzle.
const RELAXED_SIMD = new Uint8Array([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 7, 1, 96, 2, 123, 123, 1, 123, 3, 2, 1, 0, 10, 11, 1, 9, 0, 32, 0, 32, 1,
  253, 128, 2, 11,
]);
const ARRAYS = { float32: Float32Array, int8: Int8Array, uint8: Uint8Array };

/** The build of LiteRT.js that this browser can run: a key of the manifest's builds. */
export function chooseBuild(builds) {
  if (!WebAssembly.validate(RELAXED_SIMD)) return "compat";
  const threads = builds.threads && self.crossOriginIsolated && navigator.hardwareConcurrency > 1;
  return threads ? "threads" : "simd";
}

/** A network that runs: `run(pixels)` gives the file's own numbers. */
export class Network {
  #wasm; #model; #input; #Answer; #Input; #offset;

  constructor(wasm, model, input, manifest) {
    this.#wasm = wasm;
    this.#model = model;
    this.#input = input;
    this.#Input = ARRAYS[manifest.input.dtype];
    this.#Answer = ARRAYS[manifest.output.dtype];
    this.#offset = manifest.input.offset;
    this.threads = wasm.getThreadCount();
  }

  /** Compile a file's bytes with a build's script. */
  static async open(manifest, content, script) {
    const wasm = await start(script);
    const address = wasm._malloc(content.length);
    wasm.HEAPU8.set(content, address);
    const environment = wasm.LiteRtEnvironment.create(null);
    const file = wasm.loadModel(environment, address, content.length);
    const model = await wasm.compileModel(environment, file, {
      environment: {},
      accelerator: "wasm",
      cpuOptions: { numThreads: wasm.getThreadCount() },
      gpuOptions: {},
      webNNOptions: {},
    });
    const type = file.getInputTensorType(0, 0);
    const memory = wasm.LiteRtTensorBufferType.HOST_MEMORY;
    const input = wasm.LiteRtTensorBuffer.createManaged(environment, memory, type, type.bytes());
    return new Network(wasm, model, input, manifest);
  }

  /** Pixels, bytes of [H, W, C], to the file's own numbers: Int8Array, Uint8Array or Float32Array. */
  async run(pixels) {
    const { READ, WRITE } = this.#wasm.LiteRtTensorBufferLockMode;
    const levels = Float32Array.from(pixels, (pixel) => pixel - this.#offset);
    const encoded = this.#Input === Float32Array ? levels : this.#Input.from(levels);
    const into = this.#input.lock(WRITE);
    this.#wasm.HEAPU8.set(new Uint8Array(encoded.buffer), into);
    this.#input.unlock();
    const [output] = await this.#model.run(0, [this.#input]);
    const from = output.lock(READ);
    const bytes = this.#wasm.HEAPU8.slice(from, from + output.packedSize());
    output.unlock();
    output.delete();
    return new this.#Answer(bytes.buffer);
  }
}

/** The build's module: its script defines the global `ModuleFactory`. */
async function start(script) {
  await new Promise((resolve, reject) => {
    const element = document.createElement("script");
    element.src = script;
    element.onload = resolve;
    element.onerror = () => reject(new Error(`${script} cannot be loaded`));
    document.head.append(element);
  });
  // It tells all it does; only what goes wrong is worth the console.
  const printErr = (line) => /^(ERROR|FATAL)/.test(line) && console.error(line);
  const wasm = await self.ModuleFactory({ print() {}, printErr });
  wasm.setupLogging();
  return wasm;
}
