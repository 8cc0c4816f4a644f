"""From a run to a bundle: one ONNX graph, one manifest. Downstream stages import only `contract`."""
