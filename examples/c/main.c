/* Asks a compiled ERNIE model one question and prints the answer while it comes: all of include/ern.h that a program needs.
 *
 *   ask <package folder> <question> [most tokens]
 *
 * How to build it is in README.md beside this file. */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ern.h"

/* What the engine's thread tells the main thread. */
typedef struct answer {
  ern_engine* engine;
  pthread_mutex_t lock;
  pthread_cond_t ended;
  ern_finish finish;
  int64_t prompt_tokens, completion_tokens, prefill_ns, decode_ns;
} answer;

/* On the engine's thread: print, say that the tokens are read, and go. A program with more to do would hand the text to a queue. */
static void on_event(void* user, const ern_event* event) {
  answer* self = user;
  fwrite(event->text, 1, event->text_bytes, stdout);
  fflush(stdout);
  ern_ack(self->engine, event->request, (int64_t)event->id_count);
  if (event->finish == ERN_RUNNING) return;
  if (event->finish == ERN_FINISH_ERROR) fprintf(stderr, "\n%s\n", event->message);
  pthread_mutex_lock(&self->lock);
  self->finish = event->finish;
  self->prompt_tokens = event->prompt_tokens;
  self->completion_tokens = event->completion_tokens;
  self->prefill_ns = event->prefill_ns;
  self->decode_ns = event->decode_ns;
  pthread_cond_signal(&self->ended);
  pthread_mutex_unlock(&self->lock);
}

static int failed(const char* what) {
  fprintf(stderr, "%s: %s\n", what, ern_last_message());
  return 1;
}

/* The prompt in ERNIE's chat form: special tokens count in template parts only, so nothing that the user types can become one. */
static int ask(ern_engine* engine, const char* question, int64_t max_tokens) {
  const char* before = "<|begin_of_sentence|>User: ";
  const char* after = "\nAssistant: ";
  const ern_part parts[] = {
      {ERN_PART_TEMPLATE, before, strlen(before)},
      {ERN_PART_USER, question, strlen(question)},
      {ERN_PART_TEMPLATE, after, strlen(after)},
  };
  answer state = {.engine = engine, .lock = PTHREAD_MUTEX_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER, .finish = ERN_RUNNING};
  const ern_request request = {
      .size = sizeof request,
      .parts = parts,
      .part_count = sizeof parts / sizeof parts[0],
      .max_tokens = max_tokens,
      .on_event = on_event,
      .user = &state,
  };
  uint64_t number;
  if (ern_submit(engine, &request, &number) != ERN_OK) return failed("ern_submit");
  pthread_mutex_lock(&state.lock);
  while (state.finish == ERN_RUNNING) pthread_cond_wait(&state.ended, &state.lock);
  pthread_mutex_unlock(&state.lock);
  if (state.finish == ERN_FINISH_ERROR) return 1;
  fprintf(stderr, "\n%" PRId64 " prompt tokens in %.1f ms, %" PRId64 " generated in %.1f ms\n", state.prompt_tokens, (double)state.prefill_ns / 1e6,
          state.completion_tokens, (double)state.decode_ns / 1e6);
  return 0;
}

int main(int count, char** arguments) {
  if (count < 3) {
    fprintf(stderr, "use: %s <package folder> <question> [most tokens]\n", arguments[0]);
    return 2;
  }
  ern_engine* engine;
  if (ern_engine_create(arguments[1], NULL, &engine) != ERN_OK) return failed(arguments[1]);
  const int code = ask(engine, arguments[2], count > 3 ? strtoll(arguments[3], NULL, 10) : 256);
  ern_engine_destroy(engine);
  return code;
}
