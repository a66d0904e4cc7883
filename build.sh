CU=/work/h/tools/cuda/lib/python3.11/site-packages/nvidia/cu13
timeout 580 $CU/bin/nvcc -O3 -std=c++20 --expt-relaxed-constexpr -I runtime -gencode=arch=compute_90a,code=sm_90a -Xptxas -v -L $CU/lib -o build/gemm bench/gpu/gemm.cu > build/gemm.log 2>&1
