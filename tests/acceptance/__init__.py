"""Real trained models, from packages of the registry, against onnxruntime: see `__main__.py`."""
