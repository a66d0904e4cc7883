/**
 * Puts one launch in the place of all calls of a decode program, where the program is that of a dense model and its bucket small: in a step of one sequence
 * waiting for launches takes a third of the time. Only where a request asks for it, or a measured row says that it is faster. The launch needs a GPU that runs all
 * its blocks at once, and not each of an arch does: where a measurement chose it, the program with launches stays behind it, and the runtime takes the first that
 * its GPU can run.
 *
 *   embedding; (linear; rope_attention; linear; linear_swiglu; linear) a layer; head_argmax   =>   persistent_decode
 */

import { bug } from "../../diagnostics.js";
import type { Graph, Node, NodeOf, Value } from "../../ir/graph.js";
import { maxDim, type TensorType } from "../../ir/types.js";
import {
  LAYER_ARGUMENTS,
  type LayerArgument,
  PERSISTENT_DECODE,
  PERSISTENT_TOKENS,
  type PersistentSizes,
  persistentParams,
  STEP_ARGUMENTS,
  type StepArgument,
} from "../../kernels/cuda/persistent.js";
import {
  functionArgs,
  type KernelFunction,
  type KernelParams,
  kernelFunctions,
  numberParam,
  type UsedKernel,
} from "../../kernels/kernel-def.js";
import type { ArchLevel } from "../../toolchain/arch.js";
import { copyGraph } from "../lower/copy-graph.js";
import { definePass, type ProgramsPass } from "../pass.js";

export interface PersistOptions {
  /** Of a step of so many sequences: values of the launch's tunables, or undefined where it stays as it is. */
  readonly wanted: (sequences: number) => KernelParams | undefined;
  /** Programs stay beside the ones with one launch. */
  readonly alternatives: boolean;
  readonly arch: ArchLevel;
  /** What select-kernels chose, by the time that the pass runs. */
  readonly kernels: () => readonly UsedKernel[];
  /** The kernels of the programs that it leaves. */
  readonly onKernels: (kernels: readonly UsedKernel[]) => void;
  /** A program of few sequences that keeps its launches, and why. */
  readonly onRefused?: (program: string, reason: string) => void;
}

export function persistDecode(options: PersistOptions): ProgramsPass {
  return definePass({
    name: "persist-decode",
    needs: "plan",
    leaves: "plan",
    runAll: (graphs) => run(graphs, options),
  });
}

function run(graphs: readonly Graph[], { wanted, alternatives, arch, kernels, onKernels, onRefused }: PersistOptions): readonly Graph[] {
  const used = kernels();
  const called = new Map(used.flatMap((kernel) => kernel.functions.map((entry) => [entry.name, { kernel, called: entry }] as const)));
  const made = new Map<string, UsedKernel>();
  const persisted = new Set<string>();
  const changed = graphs.flatMap((graph) => {
    const tokens = maxDim({ symbol: "T", times: 1, plus: 0 }, graph.bounds);
    const tuned = graph.name.startsWith("decode") && tokens <= PERSISTENT_TOKENS ? wanted(tokens) : undefined;
    if (!tuned) return graph;
    const step = arch === "sm_90a" ? findStep(graph, called) : `it takes sm_90a, not ${arch}`;
    const params = typeof step === "string" ? step : persistentParams(step.sizes, tokens, tuned);
    if (typeof step === "string" || typeof params === "string") {
      onRefused?.(graph.name, String(typeof step === "string" ? step : params));
      return graph;
    }
    const [entry] = kernelFunctions(PERSISTENT_DECODE, params) as [KernelFunction];
    const name = alternatives ? `${graph.name}_persistent` : graph.name;
    made.set(entry.name, { name: entry.name, kernel: PERSISTENT_DECODE, params, functions: [entry], launches: { [name]: 1 } });
    const persistent = oneCall(graph, name, entry.name, step.args);
    if (alternatives) return [persistent, graph];
    persisted.add(graph.name);
    return persistent;
  });
  if (made.size === 0) return graphs;
  const left = used.flatMap((kernel) => {
    const launches = Object.fromEntries(Object.entries(kernel.launches).filter(([program]) => !persisted.has(program)));
    return Object.keys(launches).length > 0 ? [{ ...kernel, launches }] : [];
  });
  onKernels([...left, ...made.values()].sort((a, b) => (a.name < b.name ? -1 : 1)));
  return changed;
}

/** The program with one call at its end, under that name; buffers that nobody reads any more go. */
function oneCall(graph: Graph, name: string, kernel: string, args: readonly Value[]): Graph {
  const last = graph.nodes.findLast((node) => node.op === "call");
  const kept = new Set([...args, ...graph.returns.map(({ value }) => value)]);
  const made = copyGraph(graph, (node, { build, keep, value }) => {
    if (node.op === "call") {
      if (node === last) build.nodeUnchecked("call", { args: args.map(value) }, { kernel }, [], node.origin);
      return null;
    }
    return node.results.some((result) => kept.has(result)) ? keep(node) : null;
  });
  return Object.freeze({ ...made, name });
}

// --- what a program computes --------------------------------------------------------------------------------------------

interface Called {
  readonly kernel: UsedKernel;
  readonly called: KernelFunction;
}

interface FoundStep {
  readonly sizes: PersistentSizes;
  /** In the order of the kernel's arguments. */
  readonly args: readonly Value[];
}

/** A call that is not what a dense step has at its place. */
class Unlike extends Error {}

/** The step that the calls of a program make, by their order and by what they hand to one another; or why it is none that we know. */
function findStep(graph: Graph, known: ReadonlyMap<string, Called>): FoundStep | string {
  const calls = graph.nodes.filter((node): node is NodeOf<"call"> => node.op === "call");
  try {
    return readStep(new CallReader(calls, known));
  } catch (error) {
    if (error instanceof Unlike) return error.message;
    throw error;
  }
}

/** Reads calls one after the other, each by the op that it stands for. */
class CallReader {
  #next = 0;
  readonly #calls: readonly NodeOf<"call">[];
  readonly #known: ReadonlyMap<string, Called>;

  constructor(calls: readonly NodeOf<"call">[], known: ReadonlyMap<string, Called>) {
    this.#calls = calls;
    this.#known = known;
  }

  opOfNext(): string | undefined {
    const node = this.#calls[this.#next];
    return node && this.#found(node).kernel.kernel.op;
  }

  take(ops: readonly Node["op"][], fused: { readonly norm?: boolean; readonly residual?: boolean } = {}): ReadCall {
    const node = this.#calls[this.#next];
    if (!node) throw new Unlike(`calls end where ${ops[0]} is expected`);
    this.#next += 1;
    const { kernel, called } = this.#found(node);
    const { op } = kernel.kernel;
    if (!ops.includes(op)) throw new Unlike(`found ${op} where ${ops[0]} is expected`);
    const { params } = kernel;
    if (params.bias === true) throw new Unlike(`a bias in ${op}`);
    if ((params.norm === true) !== (fused.norm ?? false)) throw new Unlike(`${op} ${fused.norm ? "without" : "with"} a norm in front`);
    if ((params.residual === true) !== (fused.residual ?? false))
      throw new Unlike(`${op} ${fused.residual ? "without" : "with"} a residual`);
    const names = functionArgs(kernel.kernel, params, called.phase).map(({ name }) => name);
    return new ReadCall(op, params, new Map(names.map((name, i) => [name, node.operands.args[i] as Value])));
  }

  #found({ attrs }: NodeOf<"call">): Called {
    const found = this.#known.get(attrs.kernel);
    if (!found) throw bug(`a call of ${attrs.kernel}, which no kernel has`);
    return found;
  }
}

class ReadCall {
  readonly params: KernelParams;
  readonly #op: string;
  readonly #args: ReadonlyMap<string, Value>;

  constructor(op: string, params: KernelParams, args: ReadonlyMap<string, Value>) {
    this.#op = op;
    this.params = params;
    this.#args = args;
  }

  arg(name: string): Value {
    const value = this.#args.get(name);
    if (!value) throw bug(`${this.#op} takes no ${name}`);
    return value;
  }

  number(name: string): number {
    return numberParam(this.params, name);
  }

  /** That an argument is what an earlier call wrote. */
  reads(name: string, value: Value): void {
    if (this.arg(name) !== value) throw new Unlike(`${this.#op} reads other ${name} than what was written before it`);
  }
}

type Layer = { readonly [K in LayerArgument]: Value };

function readStep(calls: CallReader): FoundStep {
  const embedding = calls.take(["embedding"]);
  const table = embedding.arg("table");
  if ((table.type as TensorType).dtype !== "bf16") throw new Unlike("an embedding that is not bf16");
  const layers: Layer[] = [];
  const layerSizes: string[] = [];
  let x = embedding.arg("out");
  let sizes: PersistentSizes | undefined;
  let inputs: { readonly [K in "positions" | "slots" | "block_table" | "context"]: Value } | undefined;
  while (calls.opOfNext() !== "head_argmax") {
    const qkv = calls.take(["linear", "projection"], { norm: true });
    qkv.reads("x", x);
    const attention = calls.take(["rope_attention"]);
    attention.reads("qkv", qkv.arg("out"));
    const o = calls.take(["linear", "projection"], { residual: true });
    o.reads("x", attention.arg("out"));
    o.reads("residual", x);
    const up = calls.take(["linear_swiglu"], { norm: true });
    up.reads("x", o.arg("out"));
    const down = calls.take(["linear", "projection"], { residual: true });
    down.reads("x", up.arg("out"));
    down.reads("residual", o.arg("out"));
    x = down.arg("out");
    layers.push({
      attention_norm: qkv.arg("norm"),
      qkv: qkv.arg("weight"),
      o: o.arg("weight"),
      ffn_norm: up.arg("norm"),
      up: up.arg("weight"),
      down: down.arg("weight"),
      kv: attention.arg("cache"),
    });
    inputs = {
      positions: attention.arg("positions"),
      slots: attention.arg("slots"),
      block_table: attention.arg("block_table"),
      context: attention.arg("context"),
    };
    const { params } = attention;
    sizes = {
      layers: layers.length,
      hidden: qkv.number("k"),
      heads: numberParam(params, "heads"),
      kv_heads: numberParam(params, "kv_heads"),
      head_dim: numberParam(params, "head_dim"),
      ffn: down.number("k"),
      vocab: 0,
      group: up.number("group"),
      eps: qkv.number("eps"),
      scale: numberParam(params, "scale"),
      theta: numberParam(params, "theta"),
      block_size: numberParam(params, "block_size"),
      kv_block_bytes: numberParam(params, "kv_block_bytes"),
    };
    layerSizes.push(JSON.stringify({ ...sizes, layers: 0, epsilon: up.number("eps"), n: qkv.number("n"), out: o.number("n") }));
  }
  const head = calls.take(["head_argmax"], { norm: true });
  head.reads("x", x);
  if (calls.opOfNext() !== undefined) throw new Unlike("calls behind the head");
  if (!sizes || !inputs) throw new Unlike("no layers");
  if (new Set(layerSizes).size > 1) throw new Unlike("layers of several sizes");
  if (head.number("eps") !== sizes.eps) throw new Unlike("norms of several eps");
  const step: { readonly [K in StepArgument]: Value } = {
    ...inputs,
    ids: embedding.arg("ids"),
    logits: head.arg("logits"),
    next: head.arg("ids"),
    embedding: table,
    norm: head.arg("norm"),
    head: head.arg("weight"),
  };
  return {
    sizes: { ...sizes, vocab: head.number("n") },
    args: [...STEP_ARGUMENTS.map(({ name }) => step[name]), ...layers.flatMap((layer) => LAYER_ARGUMENTS.map(({ name }) => layer[name]))],
  };
}
