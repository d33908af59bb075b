"""ONNX: from a file, a `ModelProto` or an `onnx_ir.Model` to a checked graph in opset 25."""
