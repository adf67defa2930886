// The page: takes files and recordings, sends them one after the other, shows what comes back.

import { Recorder } from "./recorder.js";
import { Transcript, clock } from "./transcript.js";

const element = (id) => document.getElementById(id);
const settings = await (await fetch("settings")).json();
const loopback = /^(localhost|127\..*|\[::1\])$/.test(location.hostname);
let last = Promise.resolve(); // of the files that were added

element("model").textContent = settings.model;
document.title = `${settings.model} - speechssl`;
element("files").accept = `audio/*,${settings.endings.join(",")}`;
element("limits").textContent =
  `Up to ${Math.round(settings.max_bytes / 1e6)} MB and ${hours(settings.max_seconds)} each. ` +
  (loopback
    ? "Nothing leaves this computer."
    : `They are sent to ${location.hostname} only, and removed there once they are transcribed.`);

function hours(seconds) {
  return seconds % 3600 === 0 ? `${seconds / 3600} h` : `${Math.round(seconds / 60)} min`;
}

// --- adding files ---------------------------------------------------------------------------

element("files").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = ""; // so that the same file can be chosen again
});

for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    document.body.classList.add("dropping");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  add([...event.dataTransfer.files]);
});

function add(files) {
  element("problems").replaceChildren();
  for (const file of files) {
    const wrong = refusal(file);
    if (wrong) {
      complain(`${file.name}: ${wrong}`);
    } else {
      const transcript = new Transcript(file, settings.formats);
      element("transcripts").prepend(transcript.article);
      last = last.then(() => transcribe(file, transcript));
    }
  }
}

// What the server would answer too, but only after the file is sent.
function refusal(file) {
  const name = file.name.toLowerCase();
  if (!settings.endings.some((ending) => name.endsWith(ending))) {
    return `is no audio by its name; known endings are ${settings.endings.join(" ")}.`;
  }
  if (file.size > settings.max_bytes) {
    return `is larger than the ${Math.round(settings.max_bytes / 1e6)} MB that this server takes.`;
  }
  return file.size ? "" : "is empty (0 bytes).";
}

function complain(message) {
  const line = document.createElement("p");
  line.className = "problem";
  line.textContent = message;
  element("problems").append(line);
}

// --- transcribing ---------------------------------------------------------------------------

async function transcribe(file, transcript) {
  const { signal } = transcript.stop;
  if (signal.aborted) return;
  let finished = false;
  try {
    const response = await fetch(`transcriptions?name=${encodeURIComponent(file.name)}`, {
      method: "POST",
      headers: { "Content-Type": "application/octet-stream" },
      body: file,
      signal,
    });
    if (!response.ok) {
      const { message } = await response.json().catch(() => ({}));
      throw new Error(message ?? `The server failed (${response.status}); its terminal may say why.`);
    }
    for await (const line of lines(response.body)) {
      const event = JSON.parse(line);
      finished ||= event.event === "done" || event.event === "error";
      transcript.receive(event);
    }
    if (!finished) throw new Error("The server broke off; its terminal may say why.");
  } catch (error) {
    if (signal.aborted) return; // the visitor's wish
    const gone = error instanceof TypeError; // how fetch says that nobody answers
    transcript.fail(gone ? "The server does not answer; is speechssl serve running?" : error.message);
  }
}

async function* lines(stream) {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const split = (rest + decoder.decode(value, { stream: true })).split("\n");
    rest = split.pop();
    yield* split;
  }
}

// --- recording ------------------------------------------------------------------------------

const record = element("record");
let recorder = null;

if (!navigator.mediaDevices?.getUserMedia) {
  record.disabled = true;
  record.title = "Browsers let pages record only at localhost or over HTTPS.";
}

record.addEventListener("click", async () => {
  if (recorder) {
    stopRecording();
    return;
  }
  element("problems").replaceChildren();
  record.disabled = true; // while the browser asks for permission
  try {
    recorder = await Recorder.start((seconds, level, bytes) => {
      element("recorded").textContent = clock(seconds);
      element("level").value = level;
      const full = seconds >= settings.max_seconds - 1 || bytes >= settings.max_bytes - 1e6;
      if (recorder && full) stopRecording();
    });
    show(true);
  } catch (error) {
    complain(
      error.name === "NotAllowedError"
        ? "The browser may not use the microphone; allow it in the address bar."
        : `The microphone cannot be used (${error.message}).`,
    );
  }
  record.disabled = false;
});

function show(recording) {
  record.textContent = recording ? "Stop and transcribe" : "Record";
  record.classList.toggle("primary", recording);
  element("choose").classList.toggle("primary", !recording);
  element("recording").hidden = !recording;
}

async function stopRecording() {
  const stopped = recorder;
  recorder = null;
  show(false);
  add([await stopped.stop()]);
}
