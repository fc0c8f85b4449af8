/** Runs a network in one .tflite file stage by stage, until it is confident or out of time. */

export { AnytimeModel } from "./anytime.js";
export type {
  Answer, ClassifyOptions, LoadOptions, PredictOptions, StreamOptions,
} from "./anytime.js";
export type { Image, Numbers } from "./arguments.js";
export { FileError } from "./errors.js";
export { readInfo } from "./file.js";
export type { Info, Input } from "./file.js";
export { resize } from "./pixels.js";
export type { Picture, PixelRule } from "./pixels.js";
export type { Agreement, StoppedBy } from "./rule.js";
export type { Drawable } from "./sources.js";
