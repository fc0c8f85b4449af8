/** Reads and checks the metadata of a .tflite file, and the file itself. */

import { digest } from "./digest.js";
import { FileError } from "./errors.js";
import { Damaged, metadata } from "./flatbuffer.js";
import { ADDED, stoppingNetworks, wrong } from "./info.js";
import { brief, isObject, type Json, parse, plain, repr } from "./python.js";
import type { PixelRule } from "./pixels.js";
import type { Agreement, Network } from "./rule.js";
import { unlike } from "./signatures.js";
import { check, type Signature } from "./structure.js";

const FORMAT = "keras_adaptive.tflite";
const VERSIONS = [2n, 3n];
const METADATA = "keras_adaptive";
const MOST = 2 ** 31; // bytes of a file, which the format itself cannot exceed
const LARGEST = 2 ** 24; // bytes of its info
const DIGEST = new TextEncoder().encode('"sha256": "');

/** One of a network's inputs; `shape` is without the batch. */
export interface Input {
  name: string;
  shape: number[];
  dtype: "float32" | "float16" | "uint8" | "int8" | "int16" | "int32" | "int64" | "bool";
}

/** What a file says of itself; tflite/README.md describes every key. */
export interface Info {
  format: string;
  version: number;
  sha256: string;
  model?: string;
  quantize?: string | null;
  runtime?: string;
  minimum_runtime?: string | null;
  exits: number[];
  confidence: string;
  thresholds: number[];
  /** Not in files of version 2. */
  log_odds?: number[];
  temperatures: number[];
  patience: number | null;
  agreement?: Agreement | null;
  macs: number[] | null;
  stage_ms: number[] | null;
  class_names: string[] | null;
  /** Not in files of version 2. */
  inputs?: Input[];
  preprocessing: { mean: number[]; std: number[] } | null;
  pixels?: PixelRule | null;
  quantization?: unknown;
  policy?: unknown;
  [key: string]: unknown;
}

/** What the check of a file finds. */
export interface Checked {
  info: Info;
  networks: (Network | null)[] | null;
  signatures: Map<string, Signature>;
}

/**
 * Checks that a file is complete and returns its metadata; needs no interpreter.
 *
 * @throws {FileError} If it is cut, changed, of another kind, or of an unsupported version.
 */
export async function readInfo(content: Uint8Array | ArrayBuffer): Promise<Info> {
  const bytes = bytesOf(content);
  return (await checkContent(bytes, nameOf(content))).info;
}

/** What errors call a file that has no path. */
export function nameOf(content: object): string {
  return `a ${content.constructor.name}`;
}

/** The bytes of a file; `called` and `kinds` are what errors say that it must be. */
export function bytesOf(
  content: unknown,
  called = "content",
  kinds = "a Uint8Array or an ArrayBuffer",
): Uint8Array {
  if (content instanceof Uint8Array) return content;
  if (content instanceof ArrayBuffer) return new Uint8Array(content);
  const kind = content === null ? "null" : typeof content;
  throw new TypeError(`\`${called}\` must be ${kinds}. Received: ${kind}`);
}

/** What a file says of itself; throws a `FileError` unless it is complete. */
export async function checkContent(content: Uint8Array, path: string): Promise<Checked> {
  if (content.length > MOST) {
    const most = MOST.toLocaleString("en");
    throw new FileError(`\`path\` must be a file of at most ${most} bytes. Received: path=${path}`);
  }
  if (String.fromCharCode(...content.subarray(4, 8)) !== "TFL3") {
    throw new FileError(`\`path\` must be a TFLite model. Received: path=${path}`);
  }
  const place = whole(path, () => metadata(content, METADATA));
  if (place === null) {
    throw new FileError(
      "`path` must be a file of `keras_adaptive.export_tflite`. Received: " +
        `path=${path}, which is another TFLite model`,
    );
  }
  const [info, networks] = parsed(content, place, path);
  await checkDigest(content, place, info.sha256 as string, path);
  const signatures = whole(path, () => {
    const found = check(content);
    const different = unlike(info, found);
    if (different) throw new Damaged(different);
    return found;
  });
  return { info: readable(info), networks, signatures };
}

/** Returns what a function returns; a `Damaged` of it becomes a `FileError`. */
function whole<T>(path: string, run: () => T): T {
  try {
    return run();
  } catch (error) {
    if (!(error instanceof Damaged)) throw error;
    throw new FileError(
      `\`path\` must be a whole TFLite model. Received: path=${path} (${error.message})`,
    );
  }
}

function parsed(
  content: Uint8Array,
  [start, length]: [number, number],
  path: string,
): [Record<string, Json>, (Network | null)[] | null] {
  let info: Json;
  try {
    if (length > LARGEST) throw new Error(`more than ${LARGEST.toLocaleString("en")} bytes`);
    const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
    info = parse(decoder.decode(content.subarray(start, start + length)));
  } catch (error) {
    const reason = brief((error as Error).message);
    throw new FileError(
      `\`path\` must be a file whose info is JSON. Received: path=${path} (${reason})`,
    );
  }
  if (!isObject(info) || info.format !== FORMAT) {
    throw new FileError(
      `\`path\` must be a file whose info says "format": "${FORMAT}". Received: path=${path}`,
    );
  }
  const { version } = info;
  if (typeof version !== "bigint" || !VERSIONS.includes(version)) {
    const older = typeof version === "bigint" && version < VERSIONS[0];
    const advice = older ? "export it again" : "update anytime_tflite";
    throw new FileError(
      `\`path\` must be of version ${VERSIONS.join(" or ")}: ${advice}. ` +
        `Received: path=${path} of version ${brief(repr(version))}`,
    );
  }
  const found = wrong(info);
  if (found) {
    throw new FileError(
      `\`path\` must be a file whose info is complete. Received: path=${path} with ${found}`,
    );
  }
  if (version < 3) for (const key of ADDED) delete info[key];
  if ("quantisation" in info) {
    // the key in files written before 0.2
    info.quantization = info.quantisation;
    delete info.quantisation;
  }
  return [info, stoppingNetworks(info)];
}

/** The info with plain numbers; what was checked is what the type says. */
function readable(info: Record<string, Json>): Info {
  const found = plain(info) as Info;
  for (const key of ["thresholds", "log_odds"] as const) {
    if (found[key]) found[key] = found[key].map(Number); // the texts "Infinity", "-Infinity"
  }
  return found;
}

/** Throws unless the file has its digest, computed while that field is zeros. */
async function checkDigest(
  content: Uint8Array,
  [start, length]: [number, number],
  expected: string,
  path: string,
): Promise<void> {
  const at = find(content, DIGEST, start, start + length);
  let found = "";
  if (at >= 0) {
    const zeroed = new Uint8Array(content);
    zeroed.fill("0".charCodeAt(0), at + DIGEST.length, at + DIGEST.length + 64);
    found = await digest(zeroed);
  }
  if (found !== expected) {
    throw new FileError(
      "`path` must be unchanged since it was exported, by its SHA-256. Received: " +
        `path=${path}, which is damaged or was changed`,
    );
  }
}

function find(content: Uint8Array, wanted: Uint8Array, start: number, end: number): number {
  for (let at = start; at + wanted.length <= end; at++) {
    if (wanted.every((byte, i) => content[at + i] === byte)) return at;
  }
  return -1;
}
