// The CUDA kernels on this machine's GPU, each against float64 on the host.
//
//   npm run test:gpu [-- filter] [-- --sanitize] [-- --build]         needs `npm run build` first
//
// Then random draws (bench/gpu/draw.cu), and a decode step in one launch against the launches that it replaces (bench/gpu/persistent.cu), without a filter, or with `draw` or `persistent`.
// Builds them with the nvcc that the compiler would use (CUDA_HOME, PATH, or the folder of `ernie-compile toolchain install cuda`) and runs them.
// --sanitize: under compute-sanitizer's memcheck, racecheck and synccheck, on the small shapes. --build: no run, for a machine without a GPU.
import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { execa } from "execa";
import { findNvcc } from "../dist/toolchain/nvcc.js";

const SMALL = [
  "linear 300",
  "linear_swiglu 256",
  "attention decode 8",
  "attention decode 3",
  "moe_ffn 128 64 8 3 3",
  "moe_router 16",
  "norm_router 16",
  "router_swiglu 16",
  "wide 300",
  "wide 192",
  "wide head 300",
  "elementwise 7",
];
const root = fileURLToPath(new URL("../", import.meta.url));
const args = process.argv.slice(2);
const filter = args.find((arg) => !arg.startsWith("--")) ?? "";

try {
  const nvcc = await findNvcc();
  const folder = join(root, "build", "gpu");
  mkdirSync(folder, { recursive: true });
  const flags = ["-std=c++20", "-O3", "--expt-relaxed-constexpr", "-gencode=arch=compute_90a,code=sm_90a", "-cudart", "static"];
  const build = async (name) => {
    const program = join(folder, name);
    await execa(nvcc.command, [...flags, ...libraryFlags(nvcc.command), "-o", program, join(root, `bench/gpu/${name}.cu`)], {
      stdio: "inherit",
    });
    return program;
  };
  const program = await build("check");
  const [draw, persistent] = [await build("draw"), await build("persistent")];
  if (args.includes("--build")) process.exit(0);
  if (args.includes("--sanitize")) {
    for (const tool of ["memcheck", "racecheck", "synccheck"]) {
      for (const shape of SMALL) {
        await execa("compute-sanitizer", ["--tool", tool, "--error-exitcode", "1", program, shape], { stdio: "inherit" });
      }
    }
  } else {
    if (!["draw", "persistent"].includes(filter)) await execa(program, [filter], { stdio: "inherit" });
    if (filter === "" || filter === "draw") await execa(draw, { stdio: "inherit" });
    if (filter === "" || filter === "persistent") await execa(persistent, ["check"], { stdio: "inherit" });
  }
} catch (error) {
  console.error(error.shortMessage ?? error.message);
  process.exit(1);
}

/** nvcc from wheels has its libraries in lib, where it does not look by itself. */
function libraryFlags(command) {
  return command.includes("/") ? ["lib", "lib64"].map((name) => `-L${join(command, "../..", name)}`) : [];
}
