/** What measures kernels and what measures whole packages, as one: each is asked about its own. */

import { isStepOp } from "../kernels/steps.js";
import type { TuningRow } from "../kernels/tuning.js";
import type { Backend, FinalRequest, TrialRequest } from "./backend.js";
import type { Finalist, Measured } from "./records.js";
import type { Task } from "./task.js";

export class JoinedBackend implements Backend {
  constructor(
    private readonly kernels: Backend,
    private readonly steps: Backend,
  ) {}

  trial(request: TrialRequest): Promise<Measured> {
    return this.#for(request.task).trial(request);
  }
  final(request: FinalRequest): Promise<readonly Finalist[]> {
    return this.#for(request.task).final(request);
  }
  useRows(rows: () => readonly TuningRow[]): void {
    this.steps.useRows?.(rows);
  }
  async close(): Promise<void> {
    await Promise.all([this.kernels.close(), this.steps.close()]);
  }

  #for({ op }: Task): Backend {
    return isStepOp(op) ? this.steps : this.kernels;
  }
}
