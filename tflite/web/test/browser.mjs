/** A real Chromium, headless. */

import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { chromium } from "playwright-core";

export { serve } from "../demo/server.mjs";

const PLACES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const ABSENT = "Chromium is not installed. Install it: apt-get install chromium";

export const executable = process.env.CHROMIUM ?? PLACES.find((path) => existsSync(path));

/** Why the tests in a browser are left out, or `false`; under CI their absence is a failure. */
export const skip = !executable && !process.env.CI ? ABSENT : false;

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
