"""Multiply-accumulates of one call of a layer or an operation, from the shapes that it sees.

Shapes are those of one sample: the batch is 1. What is not in these tables is free, is opened,
or is refused; `exit_costs.node_cost` decides.
"""

import math

import keras
import numpy as np

L = keras.layers


def _layers(names):
    return tuple(getattr(L, name) for name in names.split())


# element by element, moving data, or at rest once the network is trained
FREE = _layers(
    "InputLayer BatchNormalization LayerNormalization GroupNormalization RMSNormalization "
    "UnitNormalization Normalization Rescaling Dropout SpatialDropout1D SpatialDropout2D "
    "SpatialDropout3D AlphaDropout GaussianDropout GaussianNoise ActivityRegularization Masking "
    "Flatten Reshape Permute RepeatVector Identity ZeroPadding1D ZeroPadding2D ZeroPadding3D "
    "Cropping1D Cropping2D Cropping3D CenterCrop UpSampling1D UpSampling2D UpSampling3D Resizing "
    "Concatenate Add Subtract Multiply Average Maximum Minimum Embedding CategoryEncoding "
    "Discretization Hashing HashedCrossing IntegerLookup StringLookup TextVectorization "
    "RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop "
    "RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur RandomGrayscale RandomHue "
    "RandomInvert RandomPerspective RandomPosterization RandomRotation RandomSaturation "
    "RandomSharpness RandomShear RandomTranslation RandomZoom AugMix AutoContrast CutMix MixUp "
    "RandAugment Equalization Solarization"
)

CONVOLUTIONS = (L.Conv1D, L.Conv2D, L.Conv3D, L.DepthwiseConv1D, L.DepthwiseConv2D)
TRANSPOSED = (L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose)
SEPARABLE = (L.SeparableConv1D, L.SeparableConv2D)
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, *SEPARABLE, L.Dense, L.EinsumDense)


def positions(shape, data_format):
    """Returns how many places a tensor `(1, ..., channels)` has."""
    channels = shape[1 if data_format == "channels_first" else -1]
    return math.prod(shape) // channels


def einsum_macs(equation, *shapes):
    """Returns the multiply-accumulates of an einsum.

    A product of two tensors has one for each choice of all its indices; more than two are
    multiplied pair by pair, in numpy's greedy order. An index that one factor alone has, and the
    result has not, is summed first.

    Example:

    >>> einsum_macs("bij,bjk->bik", (1, 2, 3), (1, 3, 5))
    30
    >>> einsum_macs("...ij->...ji", (1, 2, 3))
    0
    """
    if len(shapes) < 2:
        return 0
    factors = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
    _, steps = np.einsum_path(equation, *factors, optimize="greedy", einsum_call=True)
    left, right = _without_ellipsis(equation.replace(" ", ""), shapes)
    sizes = _sizes(left, shapes)
    total, terms = 0, list(left)
    for step in steps:
        pair = [set(terms.pop(i)) for i in sorted(step[0], reverse=True)]
        elsewhere = set("".join(terms)) | set(right)
        if len(pair) == 2:
            used = (pair[0] & pair[1]) | ((pair[0] | pair[1]) & elsewhere)
            total += math.prod(sizes[index] for index in used)
        terms.append("".join(sorted(set().union(*pair) & elsewhere)))
    return total


def einsum_shape(equation, *shapes):
    """Returns the shape of an einsum's result.

    Example:

    >>> einsum_shape("abc,cde->abde", (1, 7, 6), (6, 3, 4))
    (1, 7, 3, 4)
    """
    left, right = _without_ellipsis(equation.replace(" ", ""), shapes)
    sizes = _sizes(left, shapes)
    return tuple(sizes[index] for index in right)


def _sizes(terms, shapes):
    sizes = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, size in zip(term, shape, strict=True):
            sizes[index] = max(sizes.get(index, 1), size)
    return sizes


def _without_ellipsis(equation, shapes):
    """Returns the terms of both sides, with a letter for each axis behind an ellipsis."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    unused = [chr(ord("À") + i) for i in range(32)]
    widest = 0
    for i, (term, shape) in enumerate(zip(terms, shapes, strict=True)):
        if "..." in term:
            hidden = len(shape) - len(term) + 3
            widest = max(widest, hidden)
            terms[i] = term.replace("...", "".join(unused[:hidden][::-1]))
    if not arrow:
        letters = "".join(terms)
        right = "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return terms, right.replace("...", "".join(unused[:widest][::-1]))


def matmul_macs(a, b):
    """Returns the multiply-accumulates of a matrix product of two shapes, batches broadcast."""
    rows = a[-2] if len(a) > 1 else 1
    columns = b[-1] if len(b) > 1 else 1
    return math.prod(np.broadcast_shapes(a[:-2], b[:-2])) * rows * a[-1] * columns


def _convolution(layer, inputs, outputs):
    return positions(outputs[0], layer.data_format) * math.prod(layer.kernel.shape)


def _transposed(layer, inputs, outputs):
    return positions(inputs[0], layer.data_format) * math.prod(layer.kernel.shape)


def _separable(layer, inputs, outputs):
    kernels = math.prod(layer.depthwise_kernel.shape) + math.prod(layer.pointwise_kernel.shape)
    return positions(outputs[0], layer.data_format) * kernels


def _dense(layer, inputs, outputs):
    return math.prod(outputs[0]) * inputs[0][-1]


def _einsum_dense(layer, inputs, outputs):
    return einsum_macs(layer.equation, inputs[0], layer.kernel.shape)


def _dot(layer, inputs, outputs):
    axes = layer.axes if isinstance(layer.axes, (tuple, list)) else (layer.axes, layer.axes)
    return math.prod(outputs[0]) * inputs[0][axes[0]]


def _gated_cell(layer, inputs, outputs):
    rows = inputs[0][0]
    return rows * (math.prod(layer.kernel.shape) + math.prod(layer.recurrent_kernel.shape))


LAYERS = {
    **dict.fromkeys(CONVOLUTIONS, _convolution),
    **dict.fromkeys(TRANSPOSED, _transposed),
    **dict.fromkeys(SEPARABLE, _separable),
    L.Dense: _dense,
    L.EinsumDense: _einsum_dense,
    L.Dot: _dot,
    L.SimpleRNNCell: _gated_cell,
    L.GRUCell: _gated_cell,
    L.LSTMCell: _gated_cell,
}
"""MACs of layers: functions of the layer, and the lists of shapes it reads and returns."""


def _conv(operation, inputs, outputs):
    return positions(outputs[0], _format(operation)) * math.prod(inputs[1])


def _conv_transpose(operation, inputs, outputs):
    return positions(inputs[0], _format(operation)) * math.prod(inputs[1])


def _separable_conv(operation, inputs, outputs):
    kernels = math.prod(inputs[1]) + math.prod(inputs[2])
    return positions(outputs[0], _format(operation)) * kernels


def _format(operation):
    return operation.data_format or keras.config.image_data_format()


def _tensordot(operation, inputs, outputs):
    axes, a = operation.axes, inputs[0]
    if isinstance(axes, int):
        contracted = math.prod(a[len(a) - axes :])
    else:
        contracted = math.prod(a[axis] for axis in np.atleast_1d(axes[0]))
    return math.prod(outputs[0]) * contracted


def _np_dot(operation, inputs, outputs):
    a, b = inputs
    return math.prod(outputs[0]) * (a[-1] if a and b else 1)


def _attention(operation, inputs, outputs):
    query, key, value = inputs[:3]  # (batch, steps, heads, size)
    return math.prod(query[:3]) * key[1] * (query[-1] + value[-1])


OPERATIONS = {
    "Conv": _conv,
    "DepthwiseConv": _conv,
    "ConvTranspose": _conv_transpose,
    "SeparableConv": _separable_conv,
    "Matmul": lambda operation, inputs, outputs: matmul_macs(*inputs),
    "Einsum": lambda operation, inputs, outputs: einsum_macs(operation.subscripts, *inputs),
    "Dot": _np_dot,
    "Inner": lambda operation, inputs, outputs: math.prod(outputs[0]) * inputs[0][-1],
    "Outer": lambda operation, inputs, outputs: math.prod(outputs[0]),
    "Kron": lambda operation, inputs, outputs: math.prod(outputs[0]),
    "Vdot": lambda operation, inputs, outputs: math.prod(inputs[0]),
    "Tensordot": _tensordot,
    "DotProductAttention": _attention,
    "ExtractPatches": lambda operation, inputs, outputs: math.prod(outputs[0]) * outputs[0][-1],
    "RGBToGrayscale": lambda operation, inputs, outputs: math.prod(inputs[0]),
}
"""MACs of the products among keras.ops, by the name of the operation.

Patches are extracted by a convolution, and gray is a product with three weights.
"""

_UNKNOWN = (
    "Map Scan AssociativeScan Switch WhileLoop ForiLoop Cond VectorizedMap CustomGradient "
    "AffineTransform PerspectiveTransform GaussianBlur ElasticTransform ScaleAndTranslate "
    "SobelEdges SSIM Cholesky CholeskyInverse Det Eig Eigh Inv LuFactor Qr Solve SolveTriangular "
    "SVD Lstsq MatrixRank Pinv JVP Logdet Slogdet CDist FFT FFT2 IFFT2 RFFT IRFFT STFT ISTFT "
    "Corrcoef Correlate CTCLoss CTCDecode"
)
UNKNOWN = frozenset(_UNKNOWN.split())
"""Operations of keras.ops that multiply and sum, or call functions, and have no formula here."""
