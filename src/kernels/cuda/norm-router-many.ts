/** The norm and the router of many rows in one launch: runtime/device/cuda/norm_router_many.cuh. */

import { joinName } from "../common.js";
import { ONE, perRows } from "../cuda-launch.js";
import { type KernelParams, numberParam } from "../kernel-def.js";
import { BF16_ROWS, ceilDiv, defineCuda, F32_ROWS } from "./define.js";
import { fitRouter, routerArgs, routerCost, routerName, routerView } from "./norm-router.js";

/** Up to so many rows the kernel that reads the gate for 16 of them is as good. */
const FEW_ROWS = 64;
/** `RouteTile` of norm_router_many.cuh. */
const TILE = { tokens: 64, experts: 64, k: 64, stages: 3, cluster: 8, threads: 256, residents: 2 } as const;

/** `norm_router_many_shared`, which the template compares. */
function sharedBytes(params: KernelParams): number {
  const ownK = ceilDiv(ceilDiv(numberParam(params, "hidden"), TILE.k), TILE.cluster) * TILE.k;
  const stages = TILE.stages * (TILE.tokens + TILE.experts) * TILE.k;
  return 4 * (stages + ownK + (TILE.tokens / TILE.cluster) * numberParam(params, "experts"));
}

export const normRouterMany = defineCuda("norm_router", {
  name: "norm_router_many",
  leastRows: FEW_ROWS + 1,
  only: "sm_90a",
  order: "sliced-k",
  weights: { norm: BF16_ROWS, gate: F32_ROWS, correction: F32_ROWS },
  fit: fitRouter,
  args: (params) => routerArgs(params),
  cost: routerCost,
  file: (params) => joinName(routerName("norm_router", params), "many"),
  launch: (params) => ({
    threads: TILE.threads,
    grid: [{ constant: TILE.cluster }, perRows(TILE.tokens), ONE],
    sharedBytes: sharedBytes(params),
    cluster: TILE.cluster,
    blocksPerMultiprocessor: TILE.residents,
  }),
  view: (params) => ({ ...routerView(params), shared_bytes: sharedBytes(params) }),
});
