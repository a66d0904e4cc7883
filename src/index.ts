/** The narrow door: what programs may use of ernie-compile. Nothing inside imports this file. */

export { type CompileOptions, type CompileResult, compile, type Phase, type Progress } from "./compile.js";
export { Diagnostic, type DiagnosticKind } from "./diagnostics.js";
export { type CompileRequest, type RequestFlags, resolveRequest } from "./frontend/model-json.js";
export type { Level } from "./ir/ops.js";
export { ARCH_NAMES, type ArchLevel, resolveArch } from "./toolchain/arch.js";
export { Cache } from "./toolchain/cache.js";
export { type Check, diagnose } from "./toolchain/doctor.js";
