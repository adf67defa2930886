// Records the microphone as a WAV file of 16-bit samples, which the server reads without FFmpeg.

const HEADER_BYTES = 44;

export class Recorder {
  // Asks for the microphone. While it records, tell(seconds, loudness 0 to 1, bytes) is called.
  static async start(tell) {
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    try {
      const context = new AudioContext();
      await context.audioWorklet.addModule("worklet.js");
      await context.resume();
      return new Recorder(stream, context, tell);
    } catch (error) {
      release(stream);
      throw error;
    }
  }

  constructor(stream, context, tell) {
    this.stream = stream;
    this.context = context;
    this.blocks = []; // Int16Array
    let samples = 0;
    this.node = new AudioWorkletNode(context, "samples", { numberOfOutputs: 0 });
    this.node.port.onmessage = ({ data }) => {
      this.blocks.push(toInt16(data));
      samples += data.length;
      tell(samples / context.sampleRate, loudness(data), HEADER_BYTES + 2 * samples);
    };
    context.createMediaStreamSource(stream).connect(this.node);
  }

  // Returns the recording as a File.
  async stop() {
    release(this.stream);
    await this.context.close();
    const now = new Date();
    const local = new Date(now - now.getTimezoneOffset() * 60_000).toISOString();
    const name = `recording ${local.slice(0, 10)} ${local.slice(11, 19).replaceAll(":", "-")}.wav`;
    const bytes = this.blocks.reduce((sum, block) => sum + block.byteLength, 0);
    return new File([header(bytes, this.context.sampleRate), ...this.blocks], name, { type: "audio/wav" });
  }
}

function release(stream) {
  for (const track of stream.getTracks()) track.stop();
}

function toInt16(samples) {
  return Int16Array.from(samples, (value) => Math.max(-1, Math.min(1, value)) * 32767);
}

// The root mean square in decibels, from -60 (0) to 0 (1).
function loudness(samples) {
  const power = samples.reduce((sum, value) => sum + value * value, 0) / samples.length;
  return Math.max(0, 1 + (10 * Math.log10(power + 1e-9)) / 60);
}

// The beginning of a WAV file: one channel, 16 bits, little-endian.
function header(bytes, rate) {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES));
  const text = (at, letters) => [...letters].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, HEADER_BYTES - 8 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of what follows
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true); // bytes per second
  view.setUint16(32, 2, true); // bytes per sample
  view.setUint16(34, 16, true); // bits per sample
  text(36, "data");
  view.setUint32(40, bytes, true);
  return view;
}
