/** The demo: one picture, sliders, and test images by where they leave. */

import { resize } from "../dist/index.js";
import { decoded } from "../dist/sources.js";
import { AnytimeWorker } from "../dist/worker.js";
import { drawCurve } from "./curve.js";
import { confidenceOf, shifted } from "./thresholds.js";

const WASM = "../node_modules/@litertjs/core/wasm/";
const NO_DEADLINE = 40; // the slider's last place
const WARM = 5; // runs of the whole network that say how long it takes

const $ = (id) => document.getElementById(id);
const percent = (share) => `${Math.round(100 * share)} %`;
const ms = (time) => `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;
const macs = (count) =>
  count >= 1e6 ? `${(count / 1e6).toFixed(1)} M` : `${Math.round(count / 1e3)} k`;

/** The network that is shown: what is known of it, and of the device. */
let shown = null;
/** The picture that is shown: `{picture, name}`. */
let current = null;
let camera = null;

function failed(error) {
  $("label").textContent = error.message;
  $("label").classList.add("wrong");
  $("why").textContent = "\u00a0";
}

// ---- settings

function settings() {
  const place = Number($("deadline").value);
  const deadlineMs = place >= NO_DEADLINE ? null : (place / 20) * shown.fullMs;
  const shift = Number($("shift").value);
  const thresholds = shift ? shifted(shown.model.info, shift) : null;
  return { deadlineMs, shift, thresholds };
}

function showSettings() {
  const { deadlineMs, shift } = settings();
  $("deadline-value").textContent = deadlineMs === null ? "none" : ms(deadlineMs);
  const said = shift === 0 ? "as calibrated" : confidenceOf(shown.model.info, shift);
  $("shift-value").textContent = said;
  $("shift").setAttribute("aria-valuetext", said);
  $("deadline").setAttribute("aria-valuetext", $("deadline-value").textContent);
  drawCurve($("curve"), $("curve-text"), shown, shift);
}

// ---- one picture

/** The pixels as the network sees them. */
function seen(picture) {
  const { info, inputShape } = shown.model;
  const [height, width, channels] = inputShape;
  const rule = info.pixels ?? { height, width, channels, margin: 1 };
  return resize(picture, rule);
}

function draw(canvas, pixels) {
  const [height, width, channels] = shown.model.inputShape;
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let c = 0; c < 3; c++) {
      data.data[4 * i + c] = pixels[channels * i + (channels > 1 ? c : 0)];
    }
    data.data[4 * i + 3] = 255;
  }
  Object.assign(canvas, { width, height });
  canvas.getContext("2d").putImageData(data, 0, 0);
}

function showAnswer({ label, className, probabilities, exit, stoppedBy, elapsedMs, cost }) {
  const stage = shown.model.exits.indexOf(exit);
  $("label").classList.remove("wrong");
  $("label").textContent = `${className ?? `class ${label}`}, ${percent(probabilities[label])}`;
  const reasons = {
    confidence: "confident enough",
    patience: "enough answers agree",
    deadline: "no time for another stage",
    cancelled: "cancelled",
    end: "the whole network has run",
  };
  $("why").textContent = `Left at exit ${exit + 1} after ${ms(elapsedMs)}: ${reasons[stoppedBy]}.`;
  [...$("stages").children].forEach((bar, i) => {
    bar.classList.toggle("done", i <= stage);
    bar.lastChild.textContent = i <= stage ? "run" : "not run";
  });
  const [total, saved] = [shown.macs.at(-1), shown.macs.at(-1) - (cost ?? 0)];
  const late = Math.max(0, shown.fullMs - elapsedMs);
  $("saved").textContent =
    `Saved: ${percent(saved / total)} of ${macs(total)} MACs, ` +
    `${ms(late)} of ${ms(shown.fullMs)}.`;
}

async function showPicture() {
  if (!current || !shown) return;
  const [network, { picture, name }] = [shown, current];
  const { deadlineMs, thresholds } = settings();
  try {
    const pixels = seen(picture);
    draw($("seen"), pixels);
    $("seen").setAttribute("aria-label", name);
    const answer = await network.model.classify(pixels, { deadlineMs, thresholds });
    if (network === shown) showAnswer(answer);
  } catch (error) {
    if (network === shown) failed(error);
  }
}

async function showFile(file) {
  stopCamera();
  const name = file.name ?? "This";
  try {
    current = { picture: await decoded(file), name: `Your picture ${file.name ?? ""}` };
  } catch (error) {
    const isNone = error instanceof TypeError;
    failed(isNone ? new Error(`${name} is no picture that this browser can show`) : error);
    return;
  }
  await showPicture();
}

function showBars() {
  const before = [0, ...shown.macs];
  $("stages").replaceChildren(
    ...shown.macs.map((cost, i) => {
      const bar = document.createElement("li");
      bar.style.flex = `${cost - before[i]} 1 0`;
      const [title, state] = [document.createElement("span"), document.createElement("div")];
      title.textContent = `${macs(cost - before[i])}`;
      title.title = `Stage ${i + 1}: ${macs(cost - before[i])} MACs`;
      state.className = "quiet";
      state.textContent = "not run";
      bar.append(title, state);
      return bar;
    }),
  );
}

// ---- camera

async function startCamera() {
  try {
    const wanted = { video: { facingMode: "environment" } };
    const stream = await navigator.mediaDevices.getUserMedia(wanted);
    const video = $("video");
    video.srcObject = stream;
    await video.play();
    video.hidden = false;
    camera = stream;
    $("camera").setAttribute("aria-pressed", "true");
    $("label").removeAttribute("aria-live"); // it would be read without end
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight);
    const context = canvas.getContext("2d", { willReadFrequently: true });
    let frames = 0;
    while (camera === stream) {
      context.drawImage(video, 0, 0);
      const picture = context.getImageData(0, 0, canvas.width, canvas.height);
      current = { picture, name: "Camera" };
      await showPicture();
      $("camera").dataset.frames = ++frames;
      await new Promise((resolve) => requestAnimationFrame(resolve));
    }
  } catch (error) {
    stopCamera();
    failed(new Error(`There must be a camera that this page may use (${error.message})`));
  }
}

function stopCamera() {
  camera?.getTracks().forEach((track) => track.stop());
  camera = null;
  $("video").hidden = true;
  $("camera").setAttribute("aria-pressed", "false");
  $("label").setAttribute("aria-live", "polite");
}

// ---- test images

async function testImages(folder, { file, height, width, labels }) {
  const sheet = await decoded(await (await fetch(folder + file)).blob());
  const columns = sheet.width / width;
  return labels.map((label, i) => {
    const [left, top] = [(i % columns) * width, Math.floor(i / columns) * height];
    const data = new Uint8ClampedArray(4 * width * height);
    for (let y = 0; y < height; y++) {
      const start = 4 * ((top + y) * sheet.width + left);
      data.set(sheet.data.subarray(start, start + 4 * width), 4 * y * width);
    }
    return { data, width, height, label };
  });
}

function showImage(i) {
  current = { picture: shown.images[i], name: shown.buttons[i].name };
  void showPicture();
}

/** A button for each test image, made once. */
function thumbnails() {
  return shown.images.map((picture, i) => {
    const item = document.createElement("li");
    const [button, canvas] = [document.createElement("button"), document.createElement("canvas")];
    const name = shown.model.info.class_names?.[picture.label] ?? `class ${picture.label}`;
    button.type = "button";
    draw(canvas, seen(picture));
    button.append(canvas);
    button.addEventListener("click", () => {
      stopCamera();
      showImage(i);
    });
    item.append(button);
    return { item, button, name: `Test image ${i + 1}, ${name}` };
  });
}

function showGroups() {
  const { exits } = shown.model;
  $("strip").replaceChildren(
    ...exits.flatMap((exit) => {
      const [title, list] = [document.createElement("h3"), document.createElement("ul")];
      title.id = `exit-${exit}`;
      list.setAttribute("aria-labelledby", title.id);
      return [title, list];
    }),
  );
}

let round = 0;

/** Classifies all test images anew, and puts each to its exit. */
async function sortImages() {
  const own = ++round;
  const { images, model, buttons, fullMs, macs: costs } = shown;
  if (!images.length) return;
  const { deadlineMs, thresholds } = settings();
  const groups = model.exits.map(() => []);
  let [cost, time, right] = [0, 0, 0];
  for (const [i, picture] of images.entries()) {
    const pixels = seen(picture);
    const answer = await model.classify(pixels, { deadlineMs, thresholds }).catch((error) => {
      if (own === round) throw error; // and not because another network was chosen
    });
    if (own !== round) return; // the sliders have moved on
    const { item, button, name } = buttons[i];
    const wrong = answer.label !== picture.label;
    button.classList.toggle("wrong", wrong);
    const said = wrong ? `, taken for ${answer.className ?? answer.label}` : "";
    button.setAttribute("aria-label", name + said);
    button.title = name + said;
    groups[model.exits.indexOf(answer.exit)].push(item);
    cost += answer.cost ?? 0;
    time += Math.min(answer.elapsedMs, fullMs);
    right += wrong ? 0 : 1;
  }
  const focused = document.activeElement;
  const [titles, lists] = [$("strip").querySelectorAll("h3"), $("strip").querySelectorAll("ul")];
  groups.forEach((items, i) => {
    titles[i].textContent = `Exit ${model.exits[i] + 1}: ${items.length}`;
    lists[i].replaceChildren(...items);
  });
  focused?.focus?.();
  const count = images.length;
  $("totals").textContent =
    `${count} images, ${percent(right / count)} right (red: wrong). Saved: ` +
    `${percent(1 - cost / count / costs.at(-1))} of the MACs, ` +
    `${percent(1 - time / count / fullMs)} of the time.`;
}

let waiting = 0;

function changed() {
  if (!shown) return; // another network is being loaded, which shows itself
  showSettings();
  void showPicture();
  clearTimeout(waiting);
  waiting = setTimeout(() => sortImages().catch(failed), 150);
}

// ---- networks

async function show(name) {
  const folder = `assets/${name}/`;
  const about = await (await fetch(`${folder}about.json`)).json();
  shown?.model.close();
  shown = null;
  round++;
  clearTimeout(waiting);
  const model = await AnytimeWorker.load(`${folder}network.tflite`, { wasm: WASM });
  shown = { model, about, images: [], buttons: [], fullMs: 1, macs: model.info.macs };
  const size = model.inputShape.reduce((product, n) => product * n, 1);
  const never = model.info.thresholds.map(() => Infinity); // the last is not looked at
  const times = [];
  for (let i = 0; i < WARM; i++) {
    const full = { thresholds: never };
    times.push((await model.classify(new Float32Array(size), full)).elapsedMs);
  }
  shown.fullMs = Math.max(Math.min(...times), 0.1);
  $("about").textContent = about.from;
  $("shift").closest(".slider").hidden = !shifted(model.info, 1);
  showBars();
  showGroups();
  showSettings();
  if (about.images) {
    shown.images = await testImages(folder, about.images);
    shown.buttons = thumbnails();
  } else {
    current = null;
    $("totals").textContent = "The test images are not here: see the README.";
    $("label").textContent = "Choose a picture";
    $("label").classList.remove("wrong");
  }
  await sortImages();
  // one that leaves early says at once what this is about
  const early = $("strip").querySelector("ul button");
  if (early) showImage(shown.buttons.findIndex(({ button }) => button === early));
  else await showPicture();
}

/** Shows a network; another can be chosen after that. */
async function choose(name) {
  $("network").disabled = true;
  await show(name).catch(failed);
  $("network").disabled = false;
}

async function begin() {
  const names = await (await fetch("assets/index.json")).json();
  const picker = $("network");
  for (const name of names) {
    const option = document.createElement("option");
    Object.assign(option, { value: name, textContent: name === "own" ? "Your own" : "CIFAR-10" });
    picker.append(option);
  }
  $("choice").hidden = names.length < 2;
  picker.addEventListener("change", () => {
    stopCamera();
    void choose(picker.value);
  });
  for (const id of ["shift", "deadline"]) $(id).addEventListener("input", changed);
  $("file").addEventListener("change", ({ target }) => {
    if (target.files.length) void showFile(target.files[0]);
  });
  $("camera").addEventListener("click", () => (camera ? stopCamera() : void startCamera()));
  const panel = $("picture");
  panel.addEventListener("dragover", (event) => {
    event.preventDefault();
    panel.classList.add("over");
  });
  panel.addEventListener("dragleave", () => panel.classList.remove("over"));
  panel.addEventListener("drop", (event) => {
    event.preventDefault();
    panel.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) void showFile(file);
  });
  addEventListener("paste", ({ clipboardData }) => {
    const [file] = clipboardData.files;
    if (file) void showFile(file);
  });
  await choose(names[0]);
}

begin().catch(failed);
