"""cuBLAS, through PyTorch, on the shapes of bench/gpu/gemm.cu: bf16 in and out, buffers that rotate, median of six rounds."""

import torch

SHAPES = [
    *(("0.3B " + name, rows, n, k) for rows in (2048, 8192) for name, n, k in
      (("qkv", 2560, 1024), ("o", 1024, 2048), ("gate|up", 6144, 1024), ("down", 1024, 3072))),
    *(("21B " + name, rows, n, k) for rows in (2048, 8192) for name, n, k in
      (("qkv", 3584, 2560), ("o", 2560, 2560), ("shared up", 6144, 2560), ("shared", 2560, 3072))),
    ("21B gate|up", 2048, 24576, 2560), ("21B down", 2048, 2560, 12288),
]
for name, rows, n, k in SHAPES:
    sets = [(torch.randn(rows, k, device="cuda", dtype=torch.bfloat16), torch.randn(n, k, device="cuda", dtype=torch.bfloat16) * 0.05,
             torch.empty(rows, n, device="cuda", dtype=torch.bfloat16)) for _ in range(4)]
    times = []
    for _ in range(7):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for i in range(20):
            x, w, y = sets[i % 4]
            torch.matmul(x, w.t(), out=y)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 20)
    ms = sorted(times[1:])[3]
    print(f"{name:14s} rows {rows:5d} n {n:5d} k {k:5d} cuBLAS {'':22s}{ms * 1e3:8.1f} us {2e-9 * rows * n * k / ms:6.1f} TFLOP/s", flush=True)
