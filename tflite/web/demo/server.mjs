/** A server of the package's folder on localhost, for the demo and the tests. */

import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

const ROOT = new URL("../", import.meta.url);
const TYPES = {
  html: "text/html; charset=utf-8", js: "text/javascript", wasm: "application/wasm",
  json: "application/json", css: "text/css", png: "image/png", svg: "image/svg+xml",
};

/**
 * Serves the folder, and `../testdata` as `testdata/`; `/` leads to the demo.
 *
 * @param pages Further pages: path to content, or to `{status, type, headers, body}`.
 * @param headers Sent with everything.
 * @param port 0: any that is free.
 */
export async function serve(pages = {}, headers = {}, port = 0) {
  const server = createServer(async (request, response) => {
    try {
      const { pathname } = new URL(`http://localhost${request.url}`);
      const path = decodeURIComponent(pathname.slice(1));
      if (!path) {
        response.writeHead(302, { location: "demo/index.html" }).end();
        return;
      }
      const own = pages[path];
      const { status = 200, body, ...more } =
        own?.body === undefined ? { body: own ?? (await content(path)) } : own;
      const type = more.type ?? TYPES[path.split(".").at(-1)] ?? "application/octet-stream";
      response.writeHead(status, { "content-type": type, ...headers, ...more.headers });
      response.end(body);
    } catch {
      response.writeHead(404, { "content-type": "text/plain" });
      response.end("there is no such file");
    }
  });
  await new Promise((resolve, reject) => {
    server.on("error", reject);
    server.listen(port, "localhost", resolve);
  });
  return { url: `http://localhost:${server.address().port}/`, close: () => server.close() };
}

/** A file of the folder: whatever else a path may mean, it leads nowhere. */
async function content(path) {
  const data = path.startsWith("testdata/");
  const file = new URL(data ? `../${path}` : path, ROOT);
  const folder = data ? new URL("../testdata/", ROOT) : ROOT;
  if (!file.href.startsWith(folder.href)) throw new Error("outside of the folder");
  return readFile(file);
}
