"""BERT-family sentence encoders as one ONNX graph: tokens in, unit vectors out.

The graph is written by hand instead of traced so that pooling and norm are inside it, attention keeps the operators that
ONNX Runtime runs fastest, and the int8 form fits the encoder. Architecture: Devlin et al. 2019, post-norm; roberta and
xlm-roberta differ in the first position only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aihub.embeddings.quantization import InputRange, QuantizedInput, quantize_columns, quantize_input

Array = NDArray[np.float32]
Pooling = Literal["mean", "cls"]

OPSET = 20
MASKED_SCORE = -1e4


@dataclass(frozen=True, slots=True)
class BertShape:
    """Sizes of the encoder, from its `config.json`.

    Attributes:
        first_position: Row of the position table that belongs to the first token.
    """

    layers: int
    heads: int
    width: int
    epsilon: float
    first_position: int
    pooling: Pooling


@dataclass(frozen=True, slots=True)
class _Linear:
    weight: Array  # (inputs, outputs)
    bias: Array


def build_bert_graph(
    shape: BertShape, weights: Mapping[str, Array], ranges: Mapping[str, InputRange] | None = None, *, expose_inputs: bool = False
) -> Any:
    """Return the encoder as `onnx.ModelProto` with inputs `input_ids`, `attention_mask` and output `embedding`.

    Args:
        shape: Sizes of the encoder.
        weights: Tensors by their transformers name without the `bert.` prefix.
        ranges: Of every quantised input, by `input_names`; float32 throughout when None.
        expose_inputs: Also output the values whose ranges are needed.
    """
    return _BertGraph(shape, weights, ranges).build(expose_inputs=expose_inputs)


def input_names(layers: int) -> list[str]:
    """Names of the matrix inputs that are quantised, four per layer."""
    return [f"layer{i}.{part}" for i in range(layers) for part in ("attention", "context", "intermediate", "output")]


class _BertGraph:
    def __init__(self, shape: BertShape, weights: Mapping[str, Array], ranges: Mapping[str, InputRange] | None) -> None:
        self._shape = shape
        self._weights = weights
        self._ranges = ranges
        self._nodes: list[Any] = []
        self._constants: dict[str, NDArray[Any]] = {}
        self._exposed: dict[str, str] = {}
        self._shared: dict[tuple[str, ...], str] = {}

    def build(self, *, expose_inputs: bool) -> Any:
        from onnx import TensorProto, helper, numpy_helper

        mask = self._node("Cast", ["attention_mask"], to=TensorProto.FLOAT)
        hidden = self._embed_tokens()
        bias = self._mask_bias(mask)
        for index in range(self._shape.layers):
            hidden = self._layer(index, hidden, bias)
        pooled = self._pool(hidden, mask)
        self._nodes.append(helper.make_node("LpNormalization", [pooled], ["embedding"], axis=-1, p=2))
        outputs = [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", self._shape.width])]
        if expose_inputs:
            outputs += [helper.make_tensor_value_info(value, TensorProto.FLOAT, None) for value in self._exposed.values()]
        graph = helper.make_graph(
            self._nodes,
            "encoder",
            [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "tokens"]) for n in ("input_ids", "attention_mask")],
            outputs,
            [numpy_helper.from_array(value, name) for name, value in self._constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)

    def _embed_tokens(self) -> str:
        words = self._node("Gather", [self._constant("words", self._weights["embeddings.word_embeddings.weight"]), "input_ids"])
        # The only token type ever used is 0, so its row joins the positions.
        table = self._weights["embeddings.position_embeddings.weight"][self._shape.first_position :]
        positions = self._constant("positions", table + self._weights["embeddings.token_type_embeddings.weight"][0])
        length = self._node("Shape", ["input_ids"], start=1, end=2)
        rows = self._node("Slice", [positions, self._integers("zero", [0]), length, self._integers("first_axis", [0])])
        return self._normalize(self._node("Add", [words, rows]), "embeddings.LayerNorm")

    def _mask_bias(self, mask: str) -> str:
        """Scores added to masked tokens: 0 where a token is, a large negative number where padding is."""
        absent = self._node("Sub", [self._constant("one", np.float32(1.0)), mask])
        spread = self._node("Unsqueeze", [absent, self._integers("head_axes", [1, 2])])
        return self._node("Mul", [spread, self._constant("masked", np.float32(MASKED_SCORE))])

    def _layer(self, index: int, hidden: str, bias: str) -> str:
        prefix = f"encoder.layer.{index}"
        context = self._attend(index, hidden, bias)
        projected = self._project(f"layer{index}.context", context, [self._linear(f"{prefix}.attention.output.dense")])[0]
        hidden = self._normalize(self._node("Add", [projected, hidden]), f"{prefix}.attention.output.LayerNorm")
        inner = self._linear(f"{prefix}.intermediate.dense")
        wide = self._project(f"layer{index}.intermediate", hidden, [inner], with_bias=False)[0]
        wide = self._node("BiasGelu", [wide, self._constant(f"{prefix}.gelu_bias", inner.bias)], domain="com.microsoft")
        narrow = self._project(f"layer{index}.output", wide, [self._linear(f"{prefix}.output.dense")])[0]
        return self._normalize(self._node("Add", [narrow, hidden]), f"{prefix}.output.LayerNorm")

    def _attend(self, index: int, hidden: str, bias: str) -> str:
        prefix = f"encoder.layer.{index}.attention.self"
        heads, width = self._shape.heads, self._shape.width
        scale = np.float32((width // heads) ** -0.5)
        query, key, value = (self._linear(f"{prefix}.{part}") for part in ("query", "key", "value"))
        query = _Linear(query.weight * scale, query.bias * scale)
        smoothing = self._context_smoothing(index)
        if smoothing is not None:
            # The context is a mix of values, so dividing the values divides it too, at no cost.
            value = _Linear(value.weight / smoothing, value.bias / smoothing)
        split = self._integers("split_heads", [0, 0, heads, width // heads])
        queries, keys, values = (
            self._node("Transpose", [self._node("Reshape", [part, split])], perm=order)
            for part, order in zip(
                self._project(f"layer{index}.attention", hidden, [query, key, value]),
                ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]),
                strict=True,
            )
        )
        scores = self._node("Add", [self._node("MatMul", [queries, keys]), bias])
        mixed = self._node("MatMul", [self._node("Softmax", [scores], axis=-1), values])
        merged = self._node("Transpose", [mixed], perm=[0, 2, 1, 3])
        return self._node("Reshape", [merged, self._integers("merge_heads", [0, 0, width])])

    def _context_smoothing(self, index: int) -> Array | None:
        if self._ranges is None:
            return None
        output = self._linear(f"encoder.layer.{index}.attention.output.dense")
        return quantize_input(self._ranges[f"layer{index}.context"], [output.weight]).smoothing

    def _project(self, name: str, value: str, linears: Sequence[_Linear], *, with_bias: bool = True) -> list[str]:
        """Multiply one value by one or more matrices."""
        self._exposed[name] = value
        if self._ranges is None:
            products = [
                self._node("MatMul", [value, self._constant(f"{name}.weight{i}", linear.weight)])
                for i, linear in enumerate(linears)
            ]
            if not with_bias:
                return products
            biases = [self._constant(f"{name}.bias{i}", linear.bias) for i, linear in enumerate(linears)]
            return [self._node("Add", list(pair)) for pair in zip(products, biases, strict=True)]
        form = quantize_input(self._ranges[name], [linear.weight for linear in linears])
        if not name.endswith(".context"):
            value = self._node("Mul", [value, self._constant(f"{name}.smoothing", 1.0 / form.smoothing)])
        return [self._multiply_int8(f"{name}.{i}", value, linear, form, with_bias) for i, linear in enumerate(linears)]

    def _multiply_int8(self, name: str, value: str, linear: _Linear, form: QuantizedInput, with_bias: bool) -> str:
        """Multiply a smoothed value; the few outlier rows in float32."""
        rows = linear.weight * form.smoothing[:, None]
        exact = rows[form.outliers]
        rows[form.outliers] = 0.0
        weight, weight_scale = quantize_columns(rows)
        scale = self._constant(f"{value}.scale", np.float32(form.scale))
        zero = self._constant(f"{value}.zero", np.uint8(form.zero_point))
        inputs = [
            self._once("QuantizeLinear", [value, scale, zero]),
            self._constant(f"{name}.weight", weight),
            scale,
            self._constant(f"{name}.weight_scale", weight_scale),
            zero,
            self._constant(f"{name}.weight_zero", np.zeros(weight_scale.shape, np.int8)),
        ]
        if with_bias:
            inputs.append(self._constant(f"{name}.bias", linear.bias))
        product = self._node("MatMulIntegerToFloat", inputs, domain="com.microsoft")
        if not form.outliers.size:
            return product
        picked = self._once("Gather", [value, self._constant(f"{value}.outliers", form.outliers)], axis=-1)
        return self._node("Add", [product, self._node("MatMul", [picked, self._constant(f"{name}.exact", exact)])])

    def _pool(self, hidden: str, mask: str) -> str:
        """Sum (which has the direction of the mean) or first token; the norm that follows removes the length."""
        if self._shape.pooling == "cls":
            return self._node("Gather", [hidden, self._constant("first_token", np.int64(0))], axis=1)
        axis = self._integers("token_axis", [1])
        row = self._node("Unsqueeze", [mask, axis])
        return self._node("Squeeze", [self._node("MatMul", [row, hidden]), axis])

    def _normalize(self, value: str, name: str) -> str:
        scale = self._constant(f"{name}.weight", self._weights[f"{name}.weight"])
        shift = self._constant(f"{name}.bias", self._weights[f"{name}.bias"])
        return self._node("LayerNormalization", [value, scale, shift], axis=-1, epsilon=self._shape.epsilon)

    def _linear(self, name: str) -> _Linear:
        return _Linear(self._weights[f"{name}.weight"].T, self._weights[f"{name}.bias"])

    def _node(self, operator: str, inputs: list[str], *, domain: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = f"{operator}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, inputs, [output], name=output, domain=domain, **attributes))
        return output

    def _once(self, operator: str, inputs: list[str], **attributes: Any) -> str:
        """Return the output of an equal node made before, or of a new one."""
        key = (operator, *inputs)
        if key not in self._shared:
            self._shared[key] = self._node(operator, inputs, **attributes)
        return self._shared[key]

    def _constant(self, name: str, value: Any) -> str:
        self._constants[name] = np.asarray(value, order="C")
        return name

    def _integers(self, name: str, values: list[int]) -> str:
        return self._constant(name, np.array(values, np.int64))
