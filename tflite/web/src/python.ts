/**
 * JSON with integers and floats told apart, and values as Python writes them.
 *
 * The check of a file is held to the words of `anytime_tflite`, which is written in Python. So
 * integers are `bigint` here, floats are `number`.
 */

export type Json = null | boolean | bigint | number | string | Json[] | { [key: string]: Json };

const DEEPEST = 100; // lists and objects within each other
const DIGITS = 40; // of an integer

/** What JSON says. Throws an `Error` if it is none, or is nested too deep. */
export function parse(text: string): Json {
  let at = 0;

  function fail(what: string): never {
    throw new Error(`${what}: char ${at}`);
  }

  function space(): void {
    while (at < text.length && " \t\n\r".includes(text[at])) at++;
  }

  function value(depth: number): Json {
    if (depth > DEEPEST) fail(`nested more than ${DEEPEST} deep`);
    space();
    const first = text[at];
    if (first === "{") return object(depth + 1);
    if (first === "[") return list(depth + 1);
    if (first === '"') return string();
    for (const [word, meaning] of [["null", null], ["true", true], ["false", false]] as const) {
      if (text.startsWith(word, at)) {
        at += word.length;
        return meaning;
      }
    }
    return number();
  }

  function number(): Json {
    const pattern = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?/y;
    pattern.lastIndex = at;
    const found = pattern.exec(text);
    if (!found) return fail("Expecting value");
    at += found[0].length;
    if (found[1] || found[2]) return Number(found[0]);
    if (found[0].length > DIGITS) fail(`an integer of ${found[0].length} digits`);
    return BigInt(found[0]);
  }

  function string(): string {
    const start = at++;
    while (text[at] !== '"') {
      if (at >= text.length) fail("Unterminated string");
      at += text[at] === "\\" ? 2 : 1;
    }
    at++;
    return JSON.parse(text.slice(start, at)) as string; // checks escapes and control characters
  }

  function list(depth: number): Json[] {
    const found: Json[] = [];
    at++;
    space();
    if (text[at] === "]") {
      at++;
      return found;
    }
    for (;;) {
      found.push(value(depth));
      space();
      const next = text[at++];
      if (next === "]") return found;
      if (next !== ",") fail("Expecting ',' delimiter");
    }
  }

  function object(depth: number): { [key: string]: Json } {
    const found: { [key: string]: Json } = Object.create(null); // no key means anything here
    at++;
    space();
    if (text[at] === "}") {
      at++;
      return found;
    }
    for (;;) {
      space();
      if (text[at] !== '"') fail("Expecting property name enclosed in double quotes");
      const key = string();
      space();
      if (text[at++] !== ":") fail("Expecting ':' delimiter");
      found[key] = value(depth);
      space();
      const next = text[at++];
      if (next === "}") return found;
      if (next !== ",") fail("Expecting ',' delimiter");
    }
  }

  const found = value(0);
  space();
  if (at < text.length) fail("Extra data");
  return found;
}

/** The same value with plain numbers. */
export function plain(value: Json): unknown {
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(plain);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, plain(each)]));
  }
  return value;
}

export function isObject(value: Json | undefined): value is { [key: string]: Json } {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

/** A value as Python's `repr` writes it. */
export function repr(value: Json | undefined): string {
  if (value === null || value === undefined) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value === "bigint") return value.toString();
  if (typeof value === "number") return float(value);
  if (typeof value === "string") return text(value);
  if (Array.isArray(value)) return `[${value.map(repr).join(", ")}]`;
  const entries = Object.entries(value).map(([key, each]) => `${text(key)}: ${repr(each)}`);
  return `{${entries.join(", ")}}`;
}

function float(value: number): string {
  if (Number.isNaN(value)) return "nan";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  if (Object.is(value, -0)) return "-0.0";
  const [digits, power] = value.toExponential().split("e");
  const exponent = Number(power);
  if (value !== 0 && (exponent < -4 || exponent >= 16)) {
    return `${digits}e${exponent < 0 ? "-" : "+"}${String(Math.abs(exponent)).padStart(2, "0")}`;
  }
  const written = value.toString();
  if (written.includes("e")) {
    return value.toFixed(Math.max(1, digits.replace(/^-?\d\.?/, "").length - exponent));
  }
  return written.includes(".") ? written : `${written}.0`;
}

function text(value: string): string {
  const quote = value.includes("'") && !value.includes('"') ? '"' : "'";
  let found = "";
  for (const letter of value) {
    const code = letter.codePointAt(0)!;
    if (letter === quote || letter === "\\") found += `\\${letter}`;
    else if (letter === "\n") found += "\\n";
    else if (letter === "\r") found += "\\r";
    else if (letter === "\t") found += "\\t";
    else if (/[\p{C}\p{Z}]/u.test(letter) && letter !== " ") {
      const width = code < 0x100 ? 2 : code < 0x10000 ? 4 : 8;
      found += `\\${{ 2: "x", 4: "u", 8: "U" }[width]}${code.toString(16).padStart(width, "0")}`;
    } else found += letter;
  }
  return quote + found + quote;
}

/** A tuple of integers as Python writes it. */
export function tuple(values: readonly number[]): string {
  return values.length === 1 ? `(${values[0]},)` : `(${values.join(", ")})`;
}

/** A value as one line of an error shows it. */
export function brief(value: string, most = 200): string {
  return value.length <= most ? value : `${value.slice(0, most - 3)}...`;
}
