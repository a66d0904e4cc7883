/* The C interface of a compiled ERNIE model: one library for each model, the same interface for all.
 *
 * Threads: every function may be called from any thread, and several at once, except where it says otherwise. Each
 * engine has a thread of its own that runs the model and calls ern_event_fn; that callback must return soon and must
 * not call ern_engine_destroy or ern_logits.
 * Ownership: pointers that go in are only read during the call. Pointers that a callback receives are valid until it
 * returns.
 * Failure: a status; ern_last_message() then says more. No exception leaves the library, and it never ends the process.
 * Structs that begin with their size: set it to sizeof, zero the rest, and the defaults hold. */
#ifndef ERN_H
#define ERN_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ERN_API __attribute__((visibility("default")))
#define ERN_API_VERSION 1u

typedef enum ern_status {
  ERN_OK = 0,
  ERN_INVALID_ARGUMENT, /* the caller's mistake: a prompt that is empty or too long, an id out of range, ... */
  ERN_NOT_FOUND,        /* a file that should be there is not */
  ERN_CORRUPT,          /* the package was changed, or is not one */
  ERN_UNSUPPORTED,      /* not on this CPU, or not with this package */
  ERN_OUT_OF_MEMORY,
  ERN_BUSY,             /* the queue is full: try again later */
  ERN_CANCELLED,        /* the engine was destroyed meanwhile, or a callback said stop */
  ERN_IO,
  ERN_INTERNAL,
  ERN_DEVICE            /* the GPU failed: the engine has ended, the process lives on */
} ern_status;

typedef struct ern_engine ern_engine;

/* ---- Engines ---- */

enum { ERN_WEIGHTS_AUTO = 0, ERN_WEIGHTS_MAP = 1, ERN_WEIGHTS_COPY = 2 };

typedef struct ern_engine_options {
  size_t size;
  int32_t threads;       /* of the engine, its own included; 0: the package's, else all cores that it may use */
  int32_t weights;       /* ERN_WEIGHTS_MAP leaves them in the page cache, _COPY reads them into huge pages */
  int32_t verify;        /* not 0: check every byte of the package, weights too */
  int32_t max_batch;     /* sequences in one step; 0, or more than the package's: the package's */
  int64_t kv_tokens;     /* tokens that the KV cache holds, for all sequences together; 0: the package's */
  int32_t prefill_chunk; /* prompt tokens in one step; 0, or more than the package's: the package's */
  int32_t max_queue;     /* requests that may wait for their first step; 0: 256. Beyond: ERN_BUSY */
  int32_t max_unread;    /* tokens of a request that may wait for ern_ack; 0: 64. Then that sequence alone pauses */
} ern_engine_options;

/* `package_dir` holds manifest.json. `options` may be NULL. On success the engine is the caller's, to be destroyed with
 * ern_engine_destroy. */
ERN_API ern_status ern_engine_create(const char* package_dir, const ern_engine_options* options, ern_engine** engine);

/* Ends every request (their last event comes before this returns), waits for the engine's threads and frees everything.
 * NULL is fine. No other call with this engine may begin once this has; an ern_logits that waits returns ERN_CANCELLED.
 * Not from a callback. */
ERN_API void ern_engine_destroy(ern_engine* engine);

/* ---- Text ---- */

typedef enum ern_part_kind {
  ERN_PART_TOKENS = 0,  /* data: int32_t ids; count: ids */
  ERN_PART_TEMPLATE,    /* data: UTF-8 in which special tokens count; count: bytes */
  ERN_PART_USER         /* data: UTF-8 that never becomes a special token; count: bytes */
} ern_part_kind;

/* A stretch of a prompt. Neighbouring texts are encoded as one string, whatever their kinds. */
typedef struct ern_part {
  int32_t kind; /* ern_part_kind */
  const void* data;
  size_t count;
} ern_part;

/* Allocates *ids, to be freed with ern_free. */
ERN_API ern_status ern_tokenize(ern_engine* engine, const ern_part* parts, size_t part_count, int32_t** ids,
                                size_t* count);
/* Allocates *text, NUL-terminated UTF-8 of *bytes bytes, to be freed with ern_free. */
ERN_API ern_status ern_detokenize(ern_engine* engine, const int32_t* ids, size_t count, int32_t keep_specials,
                                  char** text, size_t* bytes);
ERN_API void ern_free(void* memory);

/* ---- Generation ---- */

typedef struct ern_sampling {
  size_t size;
  float temperature;        /* 0: greedy, the exact argmax, lowest id on ties */
  float top_p;              /* (0, 1]; 0 stands for 1 */
  int32_t top_k;            /* 0: off */
  float min_p;              /* [0, 1] */
  float repetition_penalty; /* > 0; 0 stands for 1. On prompt and output */
  float frequency_penalty;  /* on output, as is presence_penalty */
  float presence_penalty;
  uint64_t seed;            /* same seed, same prompt, same options: same tokens */
  const int32_t* bias_ids;  /* bias_values[i] is added to the logit of bias_ids[i] */
  const float* bias_values;
  size_t bias_count;
  int32_t logprobs;         /* 0: none; n + 1: of the token and of the n most probable ones, n <= 20 */
} ern_sampling;

typedef enum ern_finish {
  ERN_RUNNING = 0,
  ERN_FINISH_STOP,
  ERN_FINISH_LENGTH,
  ERN_FINISH_CANCELLED,
  ERN_FINISH_ERROR
} ern_finish;

typedef struct ern_logprob {
  int32_t id;
  float logprob; /* natural log, before bias, penalties and temperature */
} ern_logprob;

/* What a request has to tell: tokens, its end, or both. */
typedef struct ern_event {
  uint64_t request;
  const char* text; /* NUL-terminated UTF-8, whole characters; what may begin a stop string waits for a later event */
  size_t text_bytes;
  const int32_t* ids; /* a stop id is among them, though never in the text */
  size_t id_count;
  const ern_logprob* logprobs; /* for each id 1 + top entries: the token itself, then the most probable; or NULL */
  size_t logprob_top;
  ern_finish finish; /* not ERN_RUNNING: the last event of this request. What follows is set then only */
  const char* message; /* of ERN_FINISH_ERROR, else "" */
  int64_t prompt_tokens, cached_tokens, completion_tokens; /* cached: prompt tokens that were not computed again */
  int64_t queue_ns, prefill_ns, decode_ns; /* submit to first step; to first token; first token to last */
} ern_event;

/* On the engine's thread, in order for each request. */
typedef void (*ern_event_fn)(void* user, const ern_event* event);

typedef struct ern_request {
  size_t size;
  const ern_part* parts; /* the prompt: at least one token in all, shorter than the context */
  size_t part_count;
  const ern_sampling* sampling; /* NULL: greedy */
  int64_t max_tokens;    /* 0, or more than the context and the KV cache hold: as many as they hold */
  int64_t min_tokens;    /* stop ids are not sampled before this many */
  const char* const* stops; /* stop strings, NUL-terminated */
  size_t stop_count;
  const int32_t* stop_ids; /* besides the model's own */
  size_t stop_id_count;
  int32_t keep_specials; /* not 0: special tokens show in the text (a stop id never does) */
  ern_event_fn on_event; /* may be called before ern_submit returns */
  void* user;
} ern_request;

/* Gives the request a number, which is never used again. Does not wait. ERN_BUSY: nothing was queued, and there will be
 * no event. */
ERN_API ern_status ern_submit(ern_engine* engine, const ern_request* request, uint64_t* number);
/* The request ends soon, with ERN_FINISH_CANCELLED unless it was just done. Fine for a request that has ended. */
ERN_API ern_status ern_cancel(ern_engine* engine, uint64_t number);
/* The reader has taken `tokens` more tokens: see max_unread. Fine for a request that has ended. */
ERN_API ern_status ern_ack(ern_engine* engine, uint64_t number, int64_t tokens);

/* ---- Forward passes ---- */

typedef struct ern_tensor {
  const char* name;
  const float* f32; /* [rows, columns], row_stride elements apart; one of the two is set */
  const int32_t* i32;
  size_t rows, columns, row_stride;
} ern_tensor;

typedef struct ern_logits_chunk {
  int32_t greedy; /* 0: rows `start` and on of the prompt. 1: the row that greedy token `start` was taken from */
  int64_t start;
  ern_tensor logits;       /* columns: the vocabulary */
  const int32_t* next_ids; /* [rows]: the greedy choice after each row */
  const ern_tensor* trace; /* for prompt rows, when asked for */
  size_t trace_count;
} ern_logits_chunk;

/* On the thread that called ern_logits, which may take its time: the engine goes on with other requests. Not 0 ends the
 * pass with ERN_CANCELLED. */
typedef int (*ern_logits_fn)(void* user, const ern_logits_chunk* chunk);

typedef struct ern_logits_request {
  size_t size;
  const int32_t* ids;
  size_t id_count; /* together with `greedy` at most the context */
  int32_t chunk;   /* tokens in one step; 1 goes through decode (unless traced); 0: as many as suit the engine */
  int32_t trace;   /* not 0: hidden states and router tensors, too */
  int64_t greedy;  /* continues for this many tokens through decode; stop ids don't end it */
  ern_logits_fn on_chunk;
  void* user;
} ern_logits_request;

/* Logits of every position; waits until all are delivered. Steps of running requests go on in between. Takes nothing
 * from the cache of prefixes and leaves nothing there. */
ERN_API ern_status ern_logits(ern_engine* engine, const ern_logits_request* request);

/* ---- Where the time of a step goes ---- */

typedef struct ern_kernel_time {
  const char* kernel; /* static; NULL: the step as it is usually run, where launches may overlap */
  int32_t launches;   /* of it in a step */
  double us;          /* all of them, each timed from the end of the launch before it: the median of several steps */
} ern_kernel_time;

typedef struct ern_profile_request {
  size_t size;     /* set by the caller */
  int32_t batch;   /* sequences, 1 .. max_batch */
  int32_t rows;    /* 1: a step of decode; more: of prefill, so many rows of each */
  int64_t context; /* tokens of each sequence after the step, >= rows */
  void (*on_kernel)(void* user, const ern_kernel_time* time); /* in the order of the step, on the caller's thread */
  void* user;
} ern_profile_request;

/* Times the kernels of a step over made-up sequences, and waits for it: requests stand still meanwhile, and may lose
 * their place in the cache for a while. ERN_INVALID_ARGUMENT, ERN_OUT_OF_MEMORY (no room in the cache),
 * ERN_CANCELLED, ERN_DEVICE. Not in a callback. */
ERN_API ern_status ern_profile(ern_engine* engine, const ern_profile_request* request);

/* ---- Facts ---- */

typedef struct ern_memory {
  size_t size; /* set by the caller */
  uint64_t weight_bytes, arena_bytes, kv_bytes, kv_block_bytes; /* reserved; the pool is touched only as it is used */
  int32_t weights; /* ERN_WEIGHTS_MAP or _COPY: what was chosen */
  int32_t kv_block_size, kv_blocks;
  int32_t kv_free_blocks;   /* not held by a sequence; kv_cached_blocks of these keep prefixes that may be used again */
  int32_t kv_cached_blocks;
} ern_memory;

/* Sums since the engine was created. */
typedef struct ern_timings {
  size_t size; /* set by the caller */
  uint64_t load_ns;
  uint64_t prefill_steps, prefill_tokens, prefill_ns; /* steps with at least one sequence of several rows */
  uint64_t decode_steps, decode_tokens, decode_ns;    /* steps of one row a sequence */
  uint64_t sample_ns;
  uint64_t preemptions, cached_tokens;
  uint64_t running, waiting; /* requests, now */
} ern_timings;

ERN_API ern_status ern_get_memory(ern_engine* engine, ern_memory* memory);
ERN_API ern_status ern_get_timings(ern_engine* engine, ern_timings* timings);
/* Allocates *json, an object: the compiler's facts (model, target, arch, ...), the engine's sizes, and the sampling
 * defaults under "generation". Free with ern_free. */
ERN_API ern_status ern_info(ern_engine* engine, char** json);
/* Of the runtime, static. */
ERN_API const char* ern_version(void);
/* Of the last call in this thread that failed; "" before. Valid until the thread's next call. */
ERN_API const char* ern_last_message(void);

/* ---- The same as one table, for a program that opens libraries of several models with dlopen ---- */

typedef struct ern_api {
  size_t size;
  uint32_t version;
  ern_status (*engine_create)(const char*, const ern_engine_options*, ern_engine**);
  void (*engine_destroy)(ern_engine*);
  ern_status (*tokenize)(ern_engine*, const ern_part*, size_t, int32_t**, size_t*);
  ern_status (*detokenize)(ern_engine*, const int32_t*, size_t, int32_t, char**, size_t*);
  void (*free)(void*);
  ern_status (*submit)(ern_engine*, const ern_request*, uint64_t*);
  ern_status (*cancel)(ern_engine*, uint64_t);
  ern_status (*ack)(ern_engine*, uint64_t, int64_t);
  ern_status (*logits)(ern_engine*, const ern_logits_request*);
  ern_status (*get_memory)(ern_engine*, ern_memory*);
  ern_status (*get_timings)(ern_engine*, ern_timings*);
  ern_status (*info)(ern_engine*, char**);
  const char* (*runtime_version)(void);
  const char* (*last_message)(void);
  ern_status (*profile)(ern_engine*, const ern_profile_request*);
} ern_api;

/* Static; NULL if this library has no such version. */
ERN_API const ern_api* ern_get_api(uint32_t version);

#ifdef __cplusplus
}
#endif

#endif
