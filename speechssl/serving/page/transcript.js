// One recording on the page: its progress, its words, and the sound of each.

const PAUSE_SECONDS = 1; // after which a new paragraph begins, as in the text format
const UNSURE = 0.5; // words of less confidence are dotted

export function clock(seconds) {
  const whole = Math.floor(seconds);
  const two = (number) => String(number).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

export class Transcript {
  constructor(file, formats) {
    this.stop = new AbortController();
    this.file = file;
    this.formats = formats;
    this.words = []; // {text, start, end, confidence, element}
    this.seconds = null;
    this.now = null; // the word that is heard
    this.until = Infinity; // where playing stops

    this.article = document.getElementById("transcript").content.cloneNode(true).firstElementChild;
    this.find = (selector) => this.article.querySelector(selector);
    this.find("h2").textContent = file.name;
    this.status("Waiting");
    this.find(".cancel").addEventListener("click", () => this.cancel());
    this.find(".copy").addEventListener("click", () => this.copy());
    this.find(".copy").hidden = !navigator.clipboard; // browsers have it at localhost and over HTTPS
    this.prepareSound();
    this.prepareWords();
  }

  status(text) {
    this.find(".status").textContent = text;
  }

  // --- what the server says -----------------------------------------------------------------

  receive(event) {
    if (event.event === "waiting") this.waiting(event);
    else if (event.event === "started") this.started(event);
    else if (event.event === "words") this.found(event);
    else if (event.event === "done") this.done(event);
    else if (event.event === "error") this.fail(event.message);
  }

  waiting({ ahead }) {
    this.status(ahead === 1 ? "Waiting for another recording" : `Waiting for ${ahead} others`);
  }

  started({ seconds }) {
    this.seconds = seconds; // null where the file does not tell
    this.status("Transcribing");
  }

  found({ words, until }) {
    for (const word of words) this.append(word);
    this.status(`${clock(until)}${this.seconds ? ` of ${clock(this.seconds)}` : ""}`);
    if (this.seconds) this.find("progress").value = Math.min(1, until / this.seconds);
  }

  done({ id, seconds, computing_seconds }) {
    this.find(".working").remove();
    const took = `${clock(seconds)} of audio, transcribed in ${computing_seconds.toFixed(1)} s`;
    this.status(this.words.length ? took : `No words found in ${clock(seconds)} of audio`);
    const downloads = this.find(".downloads");
    for (const { name, suffix } of this.formats) {
      const link = document.createElement("a");
      link.className = "button";
      link.href = `transcriptions/${id}/${name}`;
      link.download = ""; // the server says the name
      link.textContent = suffix.slice(1);
      downloads.append(link);
    }
    downloads.hidden = false;
  }

  fail(message) {
    this.find(".working")?.remove();
    if (!this.words.length) this.find(".sound").remove(); // there is nothing to compare it with
    this.status(message);
    this.find(".status").className = "problem";
  }

  cancel() {
    this.stop.abort();
    this.find(".working").remove();
    this.status("Cancelled");
  }

  // --- words --------------------------------------------------------------------------------

  append(word) {
    const before = this.words.at(-1);
    if (!before || word.start - before.end >= PAUSE_SECONDS) this.newParagraph(word.start);
    word.element = document.createElement("span");
    word.element.className = word.confidence < UNSURE ? "word unsure" : "word";
    word.element.textContent = word.text;
    word.element.setAttribute("role", "button");
    word.element.title = `${word.start.toFixed(2)} s, confidence ${Math.round(100 * word.confidence)} %`;
    word.element.tabIndex = before ? -1 : 0; // the tab key finds one word, arrows the others
    word.element.dataset.index = this.words.length;
    this.words.push(word);
    this.paragraph.append(word.element, " ");
    this.find(".legend").hidden = false;
  }

  newParagraph(seconds) {
    const line = document.createElement("p");
    const time = document.createElement("span");
    time.className = "time";
    time.textContent = clock(seconds);
    this.paragraph = document.createElement("span");
    line.append(time, this.paragraph);
    this.find(".text").append(line);
  }

  prepareWords() {
    const text = this.find(".text");
    const wordOf = (event) => this.words[event.target.dataset.index];
    text.addEventListener("click", (event) => {
      const word = wordOf(event);
      if (word) this.play(word);
    });
    text.addEventListener("keydown", (event) => {
      const word = wordOf(event);
      if (!word || event.ctrlKey || event.metaKey || event.altKey) return;
      const index = this.words.indexOf(word);
      const moves = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: this.words.length - 1 };
      if (event.key === "Enter" || event.key === " ") this.play(word);
      else if (event.key === "Escape") this.audio.pause();
      else if (event.key in moves) this.focus(this.words[moves[event.key]]);
      else return;
      event.preventDefault();
    });
    text.addEventListener("focusin", (event) => {
      text.querySelector('[tabindex="0"]').tabIndex = -1;
      event.target.tabIndex = 0;
    });
  }

  focus(word) {
    word?.element.focus();
  }

  async copy() {
    const paragraphs = [...this.find(".text").querySelectorAll("p > span:last-child")];
    await navigator.clipboard.writeText(paragraphs.map((p) => p.textContent.trim()).join("\n"));
    this.find(".copy").textContent = "Copied";
  }

  // --- sound --------------------------------------------------------------------------------

  prepareSound() {
    this.audio = this.find("audio");
    this.audio.src = URL.createObjectURL(this.file);
    this.audio.addEventListener("error", () => {
      const line = document.createElement("p");
      line.className = "hint";
      line.textContent = "This browser cannot play this format.";
      this.audio.replaceWith(line);
      this.article.classList.add("mute");
    });
    this.audio.addEventListener("play", () => this.follow());
    this.audio.addEventListener("seeking", () => {
      if (Math.abs(this.audio.currentTime - this.wanted) > 0.01) this.until = Infinity; // the visitor's own
    });
    this.audio.addEventListener("pause", () => this.mark(null));
  }

  play(word) {
    if (this.article.classList.contains("mute")) return;
    this.wanted = this.audio.currentTime = word.start;
    this.until = word.end;
    this.audio.play();
  }

  // While it plays: marks the word that is heard, and stops behind the one that was clicked.
  follow() {
    const { currentTime, paused, seeking } = this.audio;
    if (paused) return;
    if (!seeking && currentTime >= this.until) {
      this.until = Infinity;
      this.audio.pause();
      return;
    }
    if (!seeking) this.mark(this.at(currentTime));
    requestAnimationFrame(() => this.follow());
  }

  at(seconds) {
    let [low, high] = [0, this.words.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.words[middle].end <= seconds) low = middle + 1;
      else high = middle;
    }
    const word = this.words[low];
    return word && word.start <= seconds ? word : null;
  }

  mark(word) {
    if (word === this.now) return;
    this.now?.element.classList.remove("now");
    word?.element.classList.add("now");
    this.now = word;
  }
}
