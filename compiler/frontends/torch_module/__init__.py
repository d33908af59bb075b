"""Front end for `torch.nn.Module`: captured by `torch.export`, translated by `torch.onnx`."""
