"""cuBLAS through PyTorch on the shapes of gemm.cu: bf16 in and out, f32 accumulate, four buffer sets in turn, median of graph replays."""
import torch

def time(rows, n, k, sets=4, repeat=5):
    x = [torch.randn(rows, k, device="cuda", dtype=torch.bfloat16) for _ in range(sets)]
    w = [torch.randn(n, k, device="cuda", dtype=torch.bfloat16) for _ in range(sets)]
    y = [torch.empty(rows, n, device="cuda", dtype=torch.bfloat16) for _ in range(sets)]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for i in range(sets): torch.mm(x[i], w[i].t(), out=y[i])
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(repeat):
                for i in range(sets): torch.mm(x[i], w[i].t(), out=y[i])
        times = []
        for i in range(35):
            a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            a.record(stream); graph.replay(); b.record(stream); stream.synchronize()
            if i >= 5: times.append(a.elapsed_time(b) * 1000 / repeat / sets)
    us = sorted(times)[len(times) // 2]
    print(f"cuBLAS rows {rows:5} n {n:6} k {k:6}: {us:8.1f} us {2 * rows * n * k / us / 1e6:6.0f} TFLOP/s", flush=True)

for rows in (2048, 16384):
    for n, k in ((2560, 1024), (1024, 2048), (6144, 1024), (1024, 3072)): time(rows, n, k)
for n, k in ((3584, 2560), (2560, 2560), (24576, 2560), (2560, 12288), (6144, 2560), (2560, 3072)): time(2048, n, k)
time(8192, 8192, 8192)
