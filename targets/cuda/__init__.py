"""NVIDIA GPUs: kernels become CUDA C and then machine code of certain architectures, which the runtime launches."""
