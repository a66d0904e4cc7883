// The pack plan as the packer reads it: the JSON that src/weights/pack-plan.ts writes, whose types say what each field
// means. Read and checked here, against itself and, through `Part` ranges, against the sizes of the source files;
// nothing is opened or moved here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "device/layout/panel.hpp"
#include "device/layout/row.hpp"
#include "error.hpp"
#include "src/json.hpp"

namespace ern::pack {

enum class DType : uint8_t { bf16, f16, f32 };
inline int64_t size_of(DType dtype) { return dtype == DType::f32 ? 4 : 2; }

enum class Layout : uint8_t { row, panel64 };

struct Part {
  int64_t file, offset, rows, cols, row_start, row_count;
  DType dtype;
  bool transposed;
  int64_t n() const { return transposed ? cols : rows; }
  int64_t k() const { return transposed ? rows : cols; }
};

struct Weight {
  std::string id;
  DType dtype;
  Layout layout;
  int64_t slabs, n, k;
  int64_t offset;                        // of slab 0, from the start of the data
  int64_t interleave;                    // 0: parts one after the other
  std::vector<std::vector<Part>> parts;  // of each slab

  // The layouts' own arithmetic, in elements from the start of a slab; only one of the two is this weight's.
  layout::Row in_rows() const { return {n, k}; }
  layout::Panel64 in_panels() const { return {n, k}; }
  int64_t padded_n() const { return layout == Layout::row ? n : in_panels().padded_rows(); }
  int64_t padded_k() const { return layout == Layout::row ? k : in_panels().padded_cols(); }
  int64_t element_offset(int64_t row, int64_t col) const {
    return layout == Layout::row ? in_rows().offset(row, col) : in_panels().offset(row, col);
  }
  int64_t slab_bytes() const {
    return (layout == Layout::row ? in_rows().elements() : in_panels().elements()) * size_of(dtype);
  }
};

struct Source {
  std::string path;
  int64_t bytes;
};

struct Plan {
  std::string head;  // the file's first bytes: u64 length, then the safetensors header
  int64_t data_bytes;
  std::vector<Source> files;
  std::vector<Weight> weights;
  int64_t head_bytes() const { return static_cast<int64_t>(head.size()); }
  int64_t file_bytes() const { return head_bytes() + data_bytes; }
};

// Sizes and offsets stay below 2^53, as they come from JavaScript; products are checked in 128 bits before they are
// used.
inline constexpr int64_t most = int64_t{1} << 53;

class PlanReader {
 public:
  Failure read(std::string_view document, Plan& plan) {
    json::Limits limits;
    limits.bytes = size_t{1} << 30;
    limits.values = UINT32_MAX;
    auto parsed = json::Document::parse(document, limits);
    if (!parsed.ok()) return Error{"plan", parsed.status().message(), ""};
    const json::Value root = parsed.value().root();
    if (text(root, "format") != "ern-pack-1") return Error{"plan", "found another format, expected ern-pack-1", ""};
    read_head(text(root, "head"), plan);
    plan.data_bytes = integer(root, "dataBytes");
    each(root, "files",
         [&](const json::Value& file) { plan.files.push_back({text(file, "path"), integer(file, "bytes")}); });
    each(root, "weights", [&](const json::Value& weight) { read_weight(weight, plan); });
    if (plan.data_bytes < end_) fail("weights end at " + std::to_string(end_) + ", past the data");
    return failure_;
  }

 private:
  void read_head(const std::string& header, Plan& plan) {
    const auto length = static_cast<uint64_t>(header.size());
    for (int byte = 0; byte < 8; byte++) plan.head += static_cast<char>(length >> (8 * byte) & 0xff);
    plan.head += header;
    if (plan.head.size() % 256 != 0)
      fail("the head has " + std::to_string(plan.head.size()) + " bytes, expected a multiple of 256");
  }

  void read_weight(const json::Value& value, Plan& plan) {
    Weight weight;
    weight.id = text(value, "id");
    place_ = weight.id;
    weight.dtype = dtype(value);
    if (weight.dtype == DType::f16) fail("a packed weight of dtype f16");
    const std::string layout = text(value, "layout");
    weight.layout = layout == "panel64" ? Layout::panel64 : Layout::row;
    if (layout != "row" && layout != "panel64") fail("layout " + layout);
    std::vector<int64_t> shape;
    each(value, "shape", [&](const json::Value& size) { shape.push_back(checked(size.integer(), "shape")); });
    if (shape.size() != 3 || shape[0] == 0 || shape[1] == 0 || shape[2] == 0) return fail("shape is not [slabs, N, K]");
    weight.slabs = shape[0], weight.n = shape[1], weight.k = shape[2];
    if (!fits({weight.slabs, weight.n + 15, weight.k + 1, 4})) return fail("shape is too large");
    weight.offset = integer(value, "offset");
    weight.interleave = integer(value, "interleave");
    if (weight.offset % 256 != 0 || weight.offset < end_) return fail("offset " + std::to_string(weight.offset));
    end_ = weight.offset + weight.slabs * weight.slab_bytes();
    each(value, "slabs", [&](const json::Value& slab) { read_slab(slab, weight, plan); });
    if (std::ssize(weight.parts) != weight.slabs) fail("lists of parts do not match the slabs");
    plan.weights.push_back(std::move(weight));
  }

  void read_slab(const json::Value& slab, Weight& weight, const Plan& plan) {
    std::vector<Part> parts;
    int64_t rows = 0;
    for (auto value = slab.first(); value; value = value->next()) {
      Part part{};
      part.file = integer(*value, "file"), part.offset = integer(*value, "offset");
      part.rows = integer(*value, "rows"), part.cols = integer(*value, "cols");
      part.row_start = integer(*value, "rowStart"), part.row_count = integer(*value, "rowCount");
      part.dtype = dtype(*value);
      const auto transposed = value->find("transposed");
      part.transposed = transposed && transposed->boolean().value_or(false);
      const bool in_rows = part.row_count > 0 && part.row_start + part.row_count <= part.n();
      if (part.k() != weight.k || !in_rows) return fail("a part's rows or width do not match its source or the weight");
      const bool in_file = part.file < std::ssize(plan.files) && fits({part.rows, part.cols, size_of(part.dtype)}) &&
                           part.offset + part.rows * part.cols * size_of(part.dtype) <= plan.files[part.file].bytes;
      if (!in_file) return fail("a part lies outside its file");
      rows += part.row_count;
      parts.push_back(part);
    }
    if (rows != weight.n)
      return fail("the parts have " + std::to_string(rows) + " rows, N is " + std::to_string(weight.n));
    if (weight.interleave != 0) {
      const bool pair =
          parts.size() == 2 && parts[0].row_count == parts[1].row_count && parts[0].row_count % weight.interleave == 0;
      if (!pair) return fail("interleaved parts that are not two of equal height, in whole groups");
    }
    weight.parts.push_back(std::move(parts));
  }

  static bool fits(std::initializer_list<int64_t> factors) {
    __extension__ __int128 product = 1;
    for (const int64_t factor : factors) {
      product *= factor;
      if (product > most) return false;
    }
    return true;
  }

  template <class Use>
  void each(const json::Value& object, std::string_view name, Use use) {
    const auto list = object.find(name);
    if (!list || !list->is(json::Kind::array)) return fail("no array " + std::string(name));
    for (auto value = list->first(); value && !failure_; value = value->next()) use(*value);
  }

  std::string text(const json::Value& object, std::string_view name) {
    const auto value = object.find(name);
    const auto text = value ? value->string() : std::nullopt;
    if (!text) fail("no text " + std::string(name));
    return std::string(text.value_or(""));
  }

  int64_t integer(const json::Value& object, std::string_view name) {
    const auto value = object.find(name);
    return checked(value ? value->integer() : std::nullopt, name);
  }

  int64_t checked(std::optional<int64_t> value, std::string_view name) {
    if (value && *value >= 0 && *value <= most) return *value;
    fail("no size or offset " + std::string(name));
    return 0;
  }

  DType dtype(const json::Value& object) {
    const std::string name = text(object, "dtype");
    if (name != "bf16" && name != "f16" && name != "f32") fail("dtype " + name);
    return name == "bf16" ? DType::bf16 : name == "f16" ? DType::f16 : DType::f32;
  }

  void fail(std::string message) {
    if (!failure_) failure_ = Error{"plan", std::move(message), place_};
  }

  Failure failure_;
  std::string place_;
  int64_t end_ = 0;
};

}  // namespace ern::pack
