/** A real Chromium, headless, and a server of this folder on localhost. */

import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

const ROOT = new URL("../", import.meta.url);
const PLACES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const TYPES = {
  html: "text/html", js: "text/javascript", wasm: "application/wasm", json: "application/json",
  css: "text/css", png: "image/png",
};

const ABSENT = "Chromium is not installed. Install it: apt-get install chromium";

export const executable = process.env.CHROMIUM ?? PLACES.find((path) => existsSync(path));

/** Why the tests in a browser are left out, or `false`; under CI their absence is a failure. */
export const skip = !executable && !process.env.CI ? ABSENT : false;

/**
 * Serves this folder, and `../testdata` as `testdata/`.
 *
 * @param pages Further pages: path to content, or to `{status, type, headers, body}`.
 */
export async function serve(pages = {}, headers = {}) {
  const server = createServer(async (request, response) => {
    const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname.slice(1));
    try {
      const own = pages[path];
      const { status = 200, body, ...more } =
        typeof own === "object" ? own : { body: own ?? (await content(path)) };
      const type = more.type ?? TYPES[path.split(".").at(-1)] ?? "application/octet-stream";
      response.writeHead(status, { "content-type": type, ...headers, ...more.headers });
      response.end(body);
    } catch {
      response.writeHead(404, { "content-type": "text/plain" });
      response.end("there is no such file");
    }
  });
  await new Promise((resolve) => server.listen(0, "localhost", resolve));
  return { url: `http://localhost:${server.address().port}/`, close: () => server.close() };
}

function content(path) {
  if (path.split("/").includes("..")) throw new Error("outside of the folder");
  const inside = path.startsWith("testdata/") ? `../${path}` : path;
  return readFile(new URL(inside, ROOT));
}

/** Runs a function with a browser, and ends it. */
export async function withBrowser(run, flags = []) {
  if (!executable) throw new Error(ABSENT);
  const profile = mkdtempSync(join(tmpdir(), "anytime-tflite-"));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: executable,
    headless: true,
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
      "--disable-background-networking", "--disable-component-update",
      "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", ...flags,
    ],
  });
  try {
    return await run(browser);
  } finally {
    await browser.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  }
}

/** A page that has the package as `anytime-tflite`, and what of it goes wrong. */
export async function openPage(browser, url) {
  const page = await browser.newPage();
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.message));
  page.on("console", (said) => said.type() === "error" && errors.push(said.text()));
  await page.goto(url);
  return { page, errors };
}
