"""From a run to a bundle: one ONNX graph, one manifest."""
