/** Builds `ern-pack` for tests; the product builds it through the toolchain's cache. */

import { buildNative } from "../native/build-native.js";

export function buildPacker(): Promise<string> {
  return buildNative({ name: "ern-pack", sources: ["runtime/pack/main.cpp", "runtime/src/json.cpp"] });
}
