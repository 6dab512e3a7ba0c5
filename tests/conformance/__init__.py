"""The onnx package's own backend suite, run on `clockstep.backend`: `make conformance`."""
