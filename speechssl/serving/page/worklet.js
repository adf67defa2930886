// Runs in the browser's audio thread: passes samples on, in blocks of about a tenth of a second.

class Samples extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Float32Array(Math.round(sampleRate / 10));
    this.filled = 0;
  }

  process([[channel]]) {
    for (const value of channel ?? []) {
      this.block[this.filled++] = value;
      if (this.filled === this.block.length) {
        this.port.postMessage(this.block);
        this.filled = 0; // postMessage has copied
      }
    }
    return true;
  }
}

registerProcessor("samples", Samples);
