/** The demo page, with a tiny network: by mouse, by keyboard, with files and a camera. */

import assert from "node:assert/strict";
import { request } from "node:http";
import { test } from "node:test";
import zlib from "node:zlib";

import { openPage, serve, skip, withBrowser } from "./browser.mjs";
import { answers, bytes } from "./testdata.mjs";

/** A gray PNG. */
function png(pixels, width, height) {
  const chunk = (type, data) => {
    const body = Buffer.concat([Buffer.from(type), data]);
    const [length, check] = [Buffer.alloc(4), Buffer.alloc(4)];
    length.writeUInt32BE(data.length);
    check.writeUInt32BE(crc(body));
    return Buffer.concat([length, body, check]);
  };
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header[8] = 8;
  const rows = Array.from({ length: height }, (_, y) =>
    Buffer.concat([Buffer.of(0), Buffer.from(pixels.subarray(y * width, (y + 1) * width))]));
  return Buffer.concat([
    Buffer.from("89504e470d0a1a0a", "hex"),
    chunk("IHDR", header),
    chunk("IDAT", zlib.deflateSync(Buffer.concat(rows))),
    chunk("IEND", Buffer.alloc(0)),
  ]);
}

/** The check of a PNG's parts; Node 20's zlib may have none. */
function crc(data) {
  if (zlib.crc32) return zlib.crc32(data);
  let found = -1;
  for (const byte of data) {
    found ^= byte;
    for (let i = 0; i < 8; i++) found = (found >>> 1) ^ (found & 1 ? 0xedb88320 : 0);
  }
  return ~found >>> 0;
}

const tiny = answers().find(({ file }) => file === "float32.tflite");
const COLUMNS = 4;

/** What prepare.py writes, of a tiny network and its images. */
function assets() {
  const rows = Math.ceil(tiny.images.length / COLUMNS);
  const sheet = new Uint8Array(rows * COLUMNS * 64);
  tiny.images.forEach(({ image }, i) => {
    const [left, top] = [(i % COLUMNS) * 8, Math.floor(i / COLUMNS) * 8];
    for (let y = 0; y < 8; y++) {
      sheet.set(image.subarray(8 * y, 8 * y + 8), (top + y) * COLUMNS * 8 + left);
    }
  });
  const labels = tiny.expected.map(({ label }) => label);
  const curve = [[-1, 3000, 0.5], [0, 5000, 0.7], [1, 9000, 0.8]];
  const about = { name: "tiny", from: "A tiny network.", curve, tested: 12,
    images: { file: "images.png", height: 8, width: 8, labels } };
  const own = { name: "Your own", from: "Another.", images: null, curve: null, tested: 0 };
  return {
    "demo/assets/index.json": '["cifar10", "own"]',
    "demo/assets/cifar10/about.json": JSON.stringify(about),
    "demo/assets/cifar10/images.png": png(sheet, COLUMNS * 8, rows * 8),
    "demo/assets/cifar10/network.tflite": bytes("files/float32.tflite"),
    "demo/assets/own/about.json": JSON.stringify(own),
    "demo/assets/own/network.tflite": bytes("files/patience.tflite"),
  };
}

test("the demo shows where pictures leave", { skip }, async () => {
  const server = await serve(assets());
  try {
    await withBrowser(async (browser) => {
      const { page, errors } = await openPage(browser, "about:blank");
      const outside = [];
      page.on("request", (request) => {
        if (!/^(data|blob):/.test(request.url()) && !request.url().startsWith(server.url)) {
          outside.push(request.url());
        }
      });
      await page.goto(server.url);
      const text = (selector) => page.locator(selector).textContent();
      await page.waitForFunction(() => /12 images/.test(totals.textContent));

      // all images are right, and stand where they leave
      assert.match(await text("#totals"), /12 images, 100 % right/);
      const counts = [0, 1, 2].map((k) => tiny.expected.filter(({ exit }) => exit === k).length);
      const titles = await page.locator("#strip h3").allTextContents();
      assert.deepEqual(titles, counts.map((count, k) => `Exit ${k + 1}: ${count}`));

      // a picture shows its stages
      await page.locator("#strip ul").nth(2).getByRole("button").first().click();
      await page.waitForFunction(() => /Left at exit 3/.test(why.textContent));
      assert.equal(await page.locator("#stages .done").count(), 3);

      // by keyboard: no time at all
      await page.locator("#deadline").focus();
      await page.keyboard.press("Home");
      await page.waitForFunction(() => /Exit 1: 12/.test(strip.textContent));
      assert.match(await text("#why"), /Left at exit 1 .*(no time|confident enough)/);
      await page.keyboard.press("End");
      await page.locator("#shift").focus();
      await page.keyboard.press("End");
      await page.waitForFunction(() => /Exit 3: 12/.test(strip.textContent));
      assert.match(await text("#curve-text"), /80\.0 % right/);

      // own files, one that is none, a drop
      await page.locator("#file").setInputFiles({ name: "a.png", mimeType: "image/png",
        buffer: png(new Uint8Array(400).fill(90), 20, 20) });
      // the tiny file has no rule for other sizes
      await page.waitForFunction(() => /Left at|scaled/.test(why.textContent + label.textContent));
      await page.locator("#file").setInputFiles({ name: "b.png", mimeType: "image/png",
        buffer: Buffer.from("no picture") });
      await page.waitForFunction(() => /b\.png is no picture/.test(label.textContent));

      // the camera of a browser under test
      await page.getByRole("button", { name: "Camera" }).click();
      await page.waitForFunction(() => Number(camera.dataset.frames) > 20);
      await page.getByRole("button", { name: "Camera" }).click();
      assert.equal(await page.locator("#camera").getAttribute("aria-pressed"), "false");

      // the user's own network
      let load;
      const loading = new Promise((resolve) => (load = resolve));
      await page.route("**/own/network.tflite", async (route) => (await loading, route.continue()));
      await page.locator("#network").selectOption("own");
      await page.locator("#deadline").focus();
      for (const key of ["Home", "End"]) await page.keyboard.press(key);
      await page.waitForTimeout(200); // the sliders have an effect after 150 ms
      assert.ok(await page.locator("#network").isDisabled());
      load();
      await page.waitForFunction(() => /not here/.test(totals.textContent));
      assert.equal(await page.locator("#stages li").count(), 3);
      assert.equal(await text("#label"), "Choose a picture");
      assert.equal(await page.locator("#label.wrong").count(), 0);
      await page.waitForFunction(() => !document.querySelector("#network").disabled);

      // everything that can be used has a name, nothing is wider than a phone
      const nameless = await page.evaluate(() =>
        [...document.querySelectorAll("button, input, select, canvas[role], svg[role]")]
          .filter((one) => !(one.getAttribute("aria-label") || one.labels?.length ||
            one.getAttribute("aria-labelledby") || one.textContent.trim() || one.closest("button")))
          .map((one) => one.outerHTML));
      assert.deepEqual(nameless, []);
      await page.setViewportSize({ width: 360, height: 740 });
      assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
      assert.deepEqual(outside, []);
      assert.deepEqual(errors, []);
    });
  } finally {
    server.close();
  }
});

test("the server gives files of its folder alone, and lives on", async () => {
  const server = await serve({ "own.txt": "own" });
  const { port } = new URL(server.url);
  const status = (path) =>
    new Promise((resolve, reject) => {
      const sent = request({ port, host: "localhost", path, timeout: 5000 }, (response) => {
        response.resume();
        response.on("end", () => resolve(response.statusCode));
      });
      sent.on("timeout", () => sent.destroy(new Error(path)));
      sent.on("error", reject);
      sent.end();
    });
  try {
    const up = "..%5C".repeat(20);
    const outside = ["/%2Fetc%2Fpasswd", "/file:///etc/passwd", `/${up}etc%5Cpasswd`,
      `/testdata/${up}etc%5Cpasswd`, "/.//etc/passwd", "/..%2Fpython%2FLICENSE",
      "/..%5Cpython%5CLICENSE", "/%", "//"];
    for (const path of outside) assert.ok([302, 404].includes(await status(path)), path);
    for (const path of ["/package.json", "/own.txt", "/testdata/files/damage.json"]) {
      assert.equal(await status(path), 200, path);
    }
  } finally {
    server.close();
  }
});
