// oneDNN's bf16 matmul, f32 out, with weights in whatever layout it likes best: what PyTorch runs on a CPU. Only for the comparison in
// `matmul prefill`, and only if compiled in with -DWITH_ONEDNN and its headers.
#pragma once

#include <cstring>
#include <dnnl.hpp>

class OneDnnMatmul {
 public:
  OneDnnMatmul(int rows, int n, int k) {
    using dnnl::memory;
    const memory::desc x({rows, k}, memory::data_type::bf16, memory::format_tag::ab);
    const memory::desc w({k, n}, memory::data_type::bf16, memory::format_tag::any);
    const memory::desc y({rows, n}, memory::data_type::f32, memory::format_tag::ab);
    const dnnl::matmul::primitive_desc problem(engine_, x, w, y);
    matmul_ = dnnl::matmul(problem);
    x_ = memory(x, engine_);
    w_ = memory(problem.weights_desc(), engine_);
    y_ = memory(y, engine_);
    std::memset(x_.get_data_handle(), 0x3c, x.get_size());
    std::memset(w_.get_data_handle(), 0x3c, problem.weights_desc().get_size());
  }
  void run() {
    matmul_.execute(stream_, {{DNNL_ARG_SRC, x_}, {DNNL_ARG_WEIGHTS, w_}, {DNNL_ARG_DST, y_}});
    stream_.wait();
  }

 private:
  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream_{engine_};
  dnnl::matmul matmul_;
  dnnl::memory x_, w_, y_;
};
