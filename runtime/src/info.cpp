#include "info.hpp"

#include <cstdint>
#include <cstdio>
#include <optional>
#include <string_view>

namespace ern {
namespace {

// Members of one JSON object, in the order in which they are added.
class Members {
 public:
  void add(std::string_view name, int64_t value) { put(name, std::to_string(value)); }
  void add(std::string_view name, std::string_view text) {
    std::string quoted = "\"";
    for (const char c : text) {
      // What is quoted here is the compiler's own; anything that would need an escape is left out rather than trusted.
      if (static_cast<unsigned char>(c) >= 0x20 && c != '"' && c != '\\') quoted += c;
    }
    put(name, quoted + '"');
  }
  void add(std::string_view name, double value) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%.9g", value);  // finite: text.json holds no other numbers
    put(name, digits);
  }
  void add(std::string_view name, const Members& object) { put(name, object.text()); }
  std::string text() const { return "{" + members_ + "}"; }
  const std::string& members() const { return members_; }

 private:
  void put(std::string_view name, std::string_view value) {
    if (!members_.empty()) members_ += ',';
    members_ += '"';
    members_ += name;
    members_ += "\":";
    members_ += value;
  }
  std::string members_;
};

// generation_config.json says "don't sample" in a word of its own; for us that is temperature 0.
Members generation(const GenerationDefaults& defaults) {
  Members members;
  const auto add = [&](const char* name, const std::optional<double>& value) {
    if (value) members.add(name, *value);
  };
  if (defaults.do_sample == false) members.add("temperature", int64_t{0});
  else add("temperature", defaults.temperature);
  add("topP", defaults.top_p);
  if (defaults.top_k) members.add("topK", int64_t{*defaults.top_k});
  add("minP", defaults.min_p);
  add("repetitionPenalty", defaults.repetition_penalty);
  add("frequencyPenalty", defaults.frequency_penalty);
  add("presencePenalty", defaults.presence_penalty);
  return members;
}

}  // namespace

std::string info_json(const Engine& engine) {
  const Plan& plan = engine.plan();
  Members members;
  members.add("threads", int64_t{engine.options().threads});
  members.add("maxContext", int64_t{plan.max_context});
  members.add("maxBatch", int64_t{engine.options().max_batch});
  members.add("prefillChunk", int64_t{engine.options().prefill_chunk});
  members.add("kvTokens", engine.options().kv_tokens);
  members.add("kvBlockSize", int64_t{plan.kv_block_size});
  members.add("kvFreeBlocks", static_cast<int64_t>(engine.counters().free_blocks));
  members.add("weightBytes", static_cast<int64_t>(plan.weights_bytes));
  members.add("weights", !plan.weights_file.name                     ? "synthetic"
                         : engine.weights_mode() == WeightsMode::map ? "map"
                                                                     : "copy");
  members.add("buildId", std::string_view(plan.build_id));
  members.add("runtime", std::string_view(runtime_version));
  members.add("generation", generation(engine.text().generation));
  // The compiler's object, with ours added before its closing brace.
  std::string_view facts = plan.info_json;
  const size_t end = facts.rfind('}');
  if (end == facts.npos) return members.text();
  facts = facts.substr(0, end);
  const bool empty = facts.find('"') == facts.npos;
  return std::string(facts) + (empty ? "" : ",") + members.members() + "}";
}

}  // namespace ern
