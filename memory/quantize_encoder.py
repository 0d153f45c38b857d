"""Makes the exported encoder small: int8 weights whose results stay close to the float32 ones.

Owns which product is computed how. Most products take whole-tensor int8 inputs, whose error comes
from the few channels that are far larger than the rest; two things are done about those:

- A product that reads a layer norm or the attention's output gets its input divided, channel by
  channel, and its weights multiplied. Source: Xiao et al. 2022 (SmoothQuant, arXiv 2211.10438),
  section 4.
- The product after the activation function meets channels that are large for single tokens only.
  It quantizes its input by itself, 32 numbers and one token at a time.

Runs with the export alone; nothing at run time imports it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALPHA = 0.65
_BLOCK = 32
_INT8_INPUTS = 4
"""`accuracy_level` of MatMulNBits: inputs are quantized to int8, block by block."""


def quantize(full: Path, int8: Path, calibration: Sequence[NDArray[np.int64]]) -> None:
    """Write the int8 twin of a float32 encoder.

    Args:
        full: the ONNX file; its weights are inputs named `onnx::...` of MatMul nodes.
        int8: where the twin goes.
        calibration: token ids [1, length] of texts that show which channels are large.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(str(full))
    largest = _largest_inputs(model, calibration)
    for source, nodes in _weight_products(model.graph).items():
        if "intermediate_act_fn" in source:
            _in_blocks(model.graph, nodes)
        else:
            _smooth(model.graph, source, nodes, largest[source])
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))
    smooth = full.with_name("smooth.onnx")
    onnx.save(model, str(smooth))
    quantize_dynamic(
        str(smooth),
        str(int8),
        per_channel=True,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul", "Gather"],
        nodes_to_exclude=[
            node.name
            for node in model.graph.node
            if node.op_type == "MatMul" and any("projection" in name for name in node.input)
        ],
    )


def _weight_products(graph: Any) -> dict[str, list[Any]]:
    """Return the products with weights, by the tensor that they read."""
    stored = {weights.name for weights in graph.initializer}
    products: dict[str, list[Any]] = defaultdict(list)
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in stored and "onnx::" in node.input[1]:
            products[node.input[0]].append(node)
    return products


def _largest_inputs(
    model: Any, calibration: Sequence[NDArray[np.int64]]
) -> dict[str, NDArray[np.float32]]:
    """Return how large each channel of each product's input gets in a text, on average."""
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    names = list(_weight_products(model.graph))
    del probe.graph.output[:]
    for name in names:
        probe.graph.output.append(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        )
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    totals: dict[str, Any] = dict.fromkeys(names, 0.0)
    for ids in calibration:
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        for name, values in zip(names, session.run(names, feed), strict=True):
            totals[name] = totals[name] + np.abs(values[0]).max(0)
    return {name: total / len(calibration) for name, total in totals.items()}


def _smooth(graph: Any, source: str, nodes: Sequence[Any], largest: NDArray[np.float32]) -> None:
    """Divide the channels of the input and multiply the weights that meet them."""
    from onnx import helper, numpy_helper

    stored = {weights.name: weights for weights in graph.initializer}
    matrices = [numpy_helper.to_array(stored[node.input[1]]) for node in nodes]
    heaviest = np.abs(np.concatenate(matrices, 1)).max(1)
    scale = np.maximum(largest, 1e-4) ** _ALPHA / np.maximum(heaviest, 1e-4) ** (1 - _ALPHA)
    scale = (scale / np.exp(np.log(scale).mean())).astype(np.float32)
    for node, matrix in zip(nodes, matrices, strict=True):
        weights = stored[node.input[1]]
        weights.CopyFrom(numpy_helper.from_array(matrix * scale[:, None], weights.name))
        node.input[0] = f"{source}_smooth"
    graph.initializer.append(numpy_helper.from_array(1 / scale, f"{source}_divisors"))
    product = helper.make_node("Mul", [source, f"{source}_divisors"], [f"{source}_smooth"])
    graph.node.insert(list(graph.node).index(nodes[0]), product)


def _in_blocks(graph: Any, nodes: Sequence[Any]) -> None:
    """Turn products into ones of 8 bits with a scale for each 32 numbers."""
    from onnx import helper, numpy_helper

    for node in nodes:
        weights = next(w for w in graph.initializer if w.name == node.input[1])
        columns = numpy_helper.to_array(weights).T
        n_out, n_in = columns.shape
        blocks = columns.reshape(n_out, n_in // _BLOCK, _BLOCK)
        scales = (np.abs(blocks).max(-1) / 127).astype(np.float32)
        numbers = np.round(blocks / scales[..., None]) + 128
        graph.initializer.remove(weights)
        graph.initializer.append(
            numpy_helper.from_array(numbers.astype(np.uint8), f"{weights.name}_8bit")
        )
        graph.initializer.append(numpy_helper.from_array(scales, f"{weights.name}_scales"))
        blocked = helper.make_node(
            "MatMulNBits",
            [node.input[0], f"{weights.name}_8bit", f"{weights.name}_scales"],
            list(node.output),
            name=node.name,
            domain="com.microsoft",
            K=n_in,
            N=n_out,
            bits=8,
            block_size=_BLOCK,
            accuracy_level=_INT8_INPUTS,
        )
        at = list(graph.node).index(node)
        graph.node.remove(node)
        graph.node.insert(at, blocked)
