// The plan: everything that the runtime knows of a model, as constant data that the code generator writes into
// src/plan.cpp. Types only; who walks them is engine.cpp, and what a kernel is to the runtime is device/cpu/kernel.hpp.
// All offsets and sizes are bytes unless a field says otherwise.
//
// The generated file defines one object, constant-initialised, so that nothing runs before the CPU was checked:
//
//   namespace ern { constinit const Plan model_plan = { .abi = plan_abi, ... }; }
//
// Pointers in it point at arrays of the same file. Every index a kernel sees is filled by the runtime and in range, so
// kernels check nothing.
#pragma once

#include <cstdint>

#include "device/cpu/kernel.hpp"
#include "device_plan.hpp"

namespace ern {

// Raised when a field changes its meaning; Engine::create refuses a plan of another number.
inline constexpr uint32_t plan_abi = 2;

// Memory that arguments point into. Bases are aligned to 4096, so an offset's alignment is the pointer's up to that.
enum class Space : uint32_t {
  weights,  // the data of the weights file (after its header), read-only
  arena,    // scratch of one step, Program::arena_bytes; undefined at the start of a step, shared by all programs
  inputs,   // what the runtime fills before a step: Program::inputs
  kv,       // the pool: block b begins at b * kv_block_bytes; an argument gives the place of its layer in block 0
};

struct Arg {
  Space space;
  uint64_t offset;
};

// One call of one generated function by every thread of the team; a barrier follows. The runtime chooses the team's
// size from step to step, so kernels give the same bits whatever it is. `args` become the void* const* of KernelFn, in
// order. On a GPU: one launch, whose parameters are the step and then the pointers.
struct Launch {
  const char* name;  // for people and profiles; static text
  KernelFn fn;       // nullptr on a GPU
  const Arg* args;
  uint32_t arg_count;
  const DeviceLaunch* device = nullptr;
};

enum class ProgramKind : uint32_t {
  prefill,  // sequences with any number of rows each, one-row ones among them; logits and next_ids of each sequence's
            // last row
  decode,   // one row a sequence: tokens == sequences, row i belongs to sequence i; logits and next_ids of every row
  score,    // as prefill, but logits and next_ids of all rows
  trace,    // as score, and the traced tensors
};

// Where the inputs lie in space `inputs`, each an array of int32. T = Step::tokens, S = Step::sequences.
struct Inputs {
  uint64_t ids;          // [T] in [0, embedding_rows)
  uint64_t positions;    // [T, 3] the three are equal for text
  uint64_t slots;        // [T] block * kv_block_size + place in the block: where this row's k and v go
  uint64_t kinds;        // [T] 0 = text
  uint64_t query_start;  // [S + 1] first row of each sequence; the last entry is T
  uint64_t context;      // [S] tokens in the cache after this step, this step's among them
  uint64_t block_table;  // [S, block_stride] blocks of each sequence in order; entries past its context repeat a block
                         // of its own
  uint64_t last_rows;    // [S] query_start[s + 1] - 1
  uint64_t bytes;        // of all of it. Room for block_table: max_sequences * ceil(max_context / kv_block_size)
                         // entries; Step::block_stride is at most that width and changes from step to step
};

enum class Dtype : uint32_t { f32, i32, bf16 };

enum class Role : uint32_t {
  logits,    // f32 [rows, vocab_size]; each program has exactly one
  next_ids,  // i32 [rows]: argmax of the logits, lowest id on ties, a NaN never wins; each program has at most one
             // (without it the runtime looks itself)
  traced,    // f32, bf16 or i32 [T, columns], handed to whoever asked, by name
};

// A result that the runtime reads after the last launch, in the arena. Rows are the sequences (prefill, decode) or the
// tokens (score, trace).
struct Output {
  Role role;
  Dtype dtype;
  const char* name;     // of a traced tensor, as the goldens call it; static text made by the compiler
  uint64_t offset;      // in the arena
  uint64_t columns;     // elements
  uint64_t row_stride;  // elements from row to row, >= columns (padding may follow a row)
};

// One bucket of one program. A step takes the bucket of its kind with the fewest max_tokens (then max_sequences) that
// holds it.
struct Program {
  const char* name;
  ProgramKind kind;
  int32_t max_tokens;     // T never exceeds it. Of some prefill bucket: at least max(prefill_chunk, max_batch)
  int32_t max_sequences;  // S never exceeds it. decode: equal to max_tokens. Some decode and some prefill bucket hold
                          // max_batch; score, trace: 1 is enough
  const Launch* launches;
  uint32_t launch_count;
  uint64_t arena_bytes;
  Inputs inputs;
  const Output* outputs;
  uint32_t output_count;
};

// Weakest first, as src/toolchain/arch.ts lists them.
enum class ArchLevel : uint32_t { x86_64_v3, x86_64_v4, x86_64_v4_vnni, x86_64_v4_bf16 };

// The packed file in the package's build folder; without a name the weights are synthetic.
struct WeightsFile {
  const char* name;           // plain file name, or nullptr
  uint64_t bytes;             // of the file
  uint64_t data_offset;       // of space `weights` in it: where the safetensors header ends; a multiple of 256
  const char* header_sha256;  // 64 hex digits, over the first data_offset bytes
};

// How one weight is made up when there is no checkpoint (synthetic.hpp says which numbers come out).
enum class Fill : uint32_t {
  constant,  // every element is `scale`
  uniform,   // [-scale, scale)
  normal,    // mean 0, standard deviation `scale`, cut off at 3.7 deviations
};
struct SyntheticWeight {
  uint64_t offset;    // in space `weights`
  uint64_t elements;  // padding of the layout included: it is filled like the rest, so kernels must not let padding
                      // reach a result
  Dtype dtype;        // f32 or bf16
  Fill fill;
  float scale;
};

struct Plan {
  uint32_t abi;           // plan_abi
  ArchLevel arch;         // what the kernels were compiled for, on a CPU
  const char* build_id;   // equals manifest.json's "build_id"
  // A JSON object of what only the compiler knows ("model", "target", "arch", "activations", "version"...): ern_info
  // adds its members to it and looks no deeper. Numbers and words of the compiler's own; text from a model folder must
  // not come in.
  const char* info_json;

  int32_t vocab_size;      // columns of the logits
  int32_t embedding_rows;  // ids are below it; at least vocab_size
  int32_t max_context;     // tokens of one sequence, prompt and completion together
  int32_t max_batch;       // sequences in one step
  int32_t prefill_chunk;   // tokens in one step
  int32_t threads;         // 0: all cores that the process may use

  int32_t kv_block_size;    // tokens
  uint64_t kv_block_bytes;  // all layers, K and V; a multiple of 64
  int64_t kv_tokens;        // default size of the pool, in tokens; rounded up to blocks. Space kv has as many blocks as
                            // that, or a load option, asks for

  uint64_t weights_bytes;  // of space `weights`; with a file: bytes - data_offset
  WeightsFile weights_file;
  uint64_t synthetic_seed;
  const SyntheticWeight* synthetic;  // nullptr with a file
  uint32_t synthetic_count;

  const Program* programs;  // decode and prefill, at least; without score or trace, ern_logits refuses what needs them
  uint32_t program_count;

  const DevicePlan* device = nullptr;  // of a GPU; without it kernels are functions of this library
};

// Defined by the generated src/plan.cpp.
extern const Plan model_plan;

}  // namespace ern
