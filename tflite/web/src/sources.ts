/** What a page has of a picture: files, elements, frames of a camera; their pixels. */

import { checkSize, type Picture } from "./pixels.js";

/** What the browser can draw. */
export type Drawable =
  | HTMLImageElement
  | HTMLCanvasElement
  | HTMLVideoElement
  | OffscreenCanvas
  | ImageBitmap
  | VideoFrame;

type Context = OffscreenCanvasRenderingContext2D | CanvasRenderingContext2D;

const DRAWABLE = [
  "HTMLImageElement",
  "HTMLCanvasElement",
  "HTMLVideoElement",
  "OffscreenCanvas",
  "ImageBitmap",
  "VideoFrame",
];

/** Whether a value is of one of the platform's classes, of those that there are here. */
function isOf(value: object, names: string[]): boolean {
  return names.some((name) => {
    const known = (globalThis as Record<string, unknown>)[name];
    return typeof known === "function" && value instanceof known;
  });
}

export function isDrawable(value: unknown): value is Drawable {
  return typeof value === "object" && value !== null && isOf(value, DRAWABLE);
}

export function isPicture(value: unknown): value is Picture {
  if (typeof value !== "object" || value === null) return false;
  const { data, width, height } = value as Partial<Picture>;
  if (width === undefined || height === undefined) return false; // an input may be called data
  return data instanceof Uint8Array || data instanceof Uint8ClampedArray;
}

/** Decodes a file of a picture, turned as its EXIF data says. */
export async function decoded(file: Blob): Promise<Picture> {
  let bitmap: ImageBitmap;
  try {
    bitmap = await createImageBitmap(file, { premultiplyAlpha: "none" });
  } catch (error) {
    throw new TypeError(
      "`image` must be a picture that this browser can decode. " +
        `Received: a ${file.type || "file"} of ${file.size} bytes`,
      { cause: error },
    );
  }
  try {
    return drawn(bitmap);
  } finally {
    bitmap.close();
  }
}

/** The pixels of what the browser can draw, in RGBA. */
export function drawn(source: Drawable): Picture {
  const [width, height] = loadedSize(source);
  const canvas = typeof OffscreenCanvas === "undefined"
    ? Object.assign(document.createElement("canvas"), { width, height })
    : new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true }) as Context | null;
  if (!context || !holds(context, width - 1, height - 1)) {
    throw new RangeError(
      `\`image\` must be of a size that this browser can draw. Received: ${width}x${height}`,
    );
  }
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

/** Whether a canvas keeps what is drawn at a place: one that is too large stays empty silently. */
function holds(context: Context, x: number, y: number): boolean {
  context.fillRect(x, y, 1, 1);
  const opaque = context.getImageData(x, y, 1, 1).data[3] === 255;
  context.clearRect(x, y, 1, 1);
  return opaque;
}

/** Width and height; throws where drawing would leave out what is not loaded, or is too much. */
export function loadedSize(source: Drawable): [number, number] {
  const [width, height] = sizeOf(source);
  const waits =
    ("complete" in source && !source.complete) || ("readyState" in source && source.readyState < 2);
  if (waits || !(width > 0 && height > 0)) {
    throw new RangeError(
      "`image` must be loaded: an image after its `decode()`, a video after its event " +
        "`loadeddata`. Received: one that is not yet",
    );
  }
  checkSize(width, height);
  return [width, height];
}

function sizeOf(source: Drawable): [number, number] {
  if ("naturalWidth" in source) return [source.naturalWidth, source.naturalHeight];
  if ("videoWidth" in source) return [source.videoWidth, source.videoHeight];
  if ("displayWidth" in source) return [source.displayWidth, source.displayHeight];
  return [source.width, source.height];
}
