/** Serves the demo: node demo/serve.mjs [port] */

import { serve } from "./server.mjs";

const port = Number(process.argv[2] ?? process.env.PORT ?? 8080);
try {
  const { url } = await serve({}, {}, port);
  console.log(`The demo is at ${url} (Ctrl+C ends it)`);
} catch (error) {
  console.error(`Port ${port} must be free: ${error.message}. Another one: make web PORT=8081`);
  process.exitCode = 1;
}
