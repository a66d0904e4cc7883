/** */
import type { Backend } from "./backend.js";
export async function openQueue(_: { url: string; device: string; build: string; onNote: (text: string) => void }): Promise<Backend> {
  throw new Error("not yet");
}
