"""Reverse-mode automatic differentiation on NumPy, one primitive per ONNX operator."""
