"""ONNX to a scheduled program: the only public functions are `compile_model` and `check_model`."""
