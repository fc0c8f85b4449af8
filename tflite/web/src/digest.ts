/** SHA-256, also where the platform's own is missing: on pages that are not served by HTTPS. */

/** The digest of some bytes, as 64 hexadecimal digits. */
export async function digest(content: Uint8Array<ArrayBuffer>): Promise<string> {
  const { subtle } = globalThis.crypto ?? {};
  const found = subtle
    ? new Uint8Array(await subtle.digest("SHA-256", content))
    : sha256(content);
  return Array.from(found, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** The bits behind the point of roots of the first primes, which SHA-256 begins with. */
function roots(count: number, power: number): Uint32Array {
  const found: number[] = [];
  for (let n = 2; found.length < count; n++) {
    let prime = true;
    for (let i = 2; i * i <= n; i++) if (n % i === 0) prime = false;
    if (prime) found.push((n ** power % 1) * 2 ** 32);
  }
  return Uint32Array.from(found);
}

const FIRST = roots(8, 1 / 2);
const ROUNDS = roots(64, 1 / 3);

/** SHA-256 as FIPS 180-4 says. */
export function sha256(content: Uint8Array): Uint8Array {
  const hash = Uint32Array.from(FIRST);
  const words = new Uint32Array(64);
  const rest = content.length % 64;
  const tail = new Uint8Array(rest < 56 ? 64 : 128);
  tail.set(content.subarray(content.length - rest));
  tail[rest] = 0x80;
  new DataView(tail.buffer).setBigUint64(tail.length - 8, BigInt(content.length) * 8n);
  const block = (bytes: Uint8Array) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    for (let at = 0; at < bytes.length - (bytes.length % 64); at += 64) mix(hash, words, view, at);
  };
  block(content);
  block(tail);
  const found = new DataView(new ArrayBuffer(32));
  hash.forEach((word, i) => found.setUint32(4 * i, word));
  return new Uint8Array(found.buffer);
}

function mix(hash: Uint32Array, w: Uint32Array, view: DataView, at: number): void {
  const turn = (x: number, n: number) => (x >>> n) | (x << (32 - n));
  for (let i = 0; i < 16; i++) w[i] = view.getUint32(at + 4 * i);
  for (let i = 16; i < 64; i++) {
    const [x, y] = [w[i - 15], w[i - 2]];
    const low = turn(x, 7) ^ turn(x, 18) ^ (x >>> 3);
    const high = turn(y, 17) ^ turn(y, 19) ^ (y >>> 10);
    w[i] = w[i - 16] + low + w[i - 7] + high;
  }
  let [a, b, c, d, e, f, g, h] = hash;
  for (let i = 0; i < 64; i++) {
    const one = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
    const first = (h + one + ((e & f) ^ (~e & g)) + ROUNDS[i] + w[i]) | 0;
    const zero = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
    const second = (zero + ((a & b) ^ (a & c) ^ (b & c))) | 0;
    [h, g, f, e, d, c, b, a] = [g, f, e, (d + first) | 0, c, b, a, (first + second) | 0];
  }
  [a, b, c, d, e, f, g, h].forEach((word, i) => {
    hash[i] += word;
  });
}
