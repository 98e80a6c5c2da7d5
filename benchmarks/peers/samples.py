"""The samples that every contestant sees; `examples/zoo` follows the same rules.

CIFAR-10 (`cifar10/`)
    Test: all 461 records of `test_lossless_461.bin`. Calibration: the first N (default 256) records of
    `train_lossless_3805.bin`.
ImageNet sample (`imagenet_sample/`)
    With `count` rows in `labels.csv` (500), in the file's order: calibration takes N (default 64) images, those with
    the indices 0, s, 2s, ... (N - 1) s where s = count // N (7: 0, 7, ... 441). Test: all remaining images (436), in
    order. The centre `size` x `size` of each 256 x 256 image, offset (256 - size) // 2.
SST-2 (`sst2/`)
    Test: all 872 lines of `dev.tsv`. Calibration: the first N (default 128) lines of `train.tsv`. WordPiece, uncased,
    at most 127 ids with [CLS] and [SEP]. Padding ([PAD], mask 0) is no part of a sample: the driver pads each set to
    its longest sentence, the peers calibrate and are tested one sentence at a time without any, which is kinder to
    those that quantize the masked scores.

Pixels are 0..255, then `(pixel - mean) / divisor` per channel. JPEGs are decoded by Pillow here and by another decoder
in the driver; the last bit of a pixel may differ, so every contestant is compared with its own float model.
"""

from __future__ import annotations

import csv
import unicodedata
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

Feed = dict[str, np.ndarray]

CIFAR_RECORD = 1 + 3 * 32 * 32


@dataclass(frozen=True)
class ImageFormat:
    """Side of the crop and normalisation of pixels of 0..255."""

    size: int
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    divisor: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def normalise(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 or float `[N, 3, H, W]` -> float32 of the same shape."""
        mean = np.float32(self.mean).reshape(1, 3, 1, 1)
        divisor = np.float32(self.divisor).reshape(1, 3, 1, 1)
        return np.ascontiguousarray((pixels.astype(np.float32) - mean) / divisor)


@dataclass(frozen=True)
class Samples:
    """Test inputs by name, samples along the first axis, their labels, and calibration inputs one sample each."""

    test: Feed
    labels: np.ndarray
    calibration: list[Feed]


@dataclass(frozen=True)
class Source:
    """Which files a network is tested and calibrated on, as paths below PARE_DATA, and how many to calibrate with."""

    test: str
    calibration: str
    count: int


CIFAR = Source("cifar10/test_lossless_461.bin", "cifar10/train_lossless_3805.bin", 256)
IMAGENET = Source("imagenet_sample", "imagenet_sample", 64)
SST2 = Source("sst2/dev.tsv", "sst2/train.tsv", 128)
VOCABULARY = "minilm_l6_sst2/vocab.txt"


def one_by_one(feed: Feed) -> list[Feed]:
    """A batch as a list of batches of one."""
    count = len(next(iter(feed.values())))
    return [{name: values[i : i + 1] for name, values in feed.items()} for i in range(count)]


def unpadded(feed: Feed) -> list[Feed]:
    """Sentences one by one, each at its own length."""
    lengths = feed["mask"].sum(1)
    pairs = zip(one_by_one(feed), lengths)
    return [{name: values[:, :length] for name, values in one.items()} for one, length in pairs]


def load(source: Source, image: ImageFormat | None, data: Path) -> Samples:
    """Reads the samples of a source by the rules above; `image` is None for sentences."""
    if source is SST2:
        tokenizer = WordPiece(data / VOCABULARY)
        test, labels = _sentences(data / source.test, tokenizer, None)
        calibration, _ = _sentences(data / source.calibration, tokenizer, source.count)
        return Samples(test, labels, unpadded(calibration))
    if image is None:
        raise ValueError(f"{source.test}: pictures need an ImageFormat")
    if source is IMAGENET:
        pixels, labels = _image_folder(data / source.test, image.size)
        step = len(labels) // source.count
        chosen = np.arange(source.count) * step
        rest = np.setdiff1d(np.arange(len(labels)), chosen)
        calibration = one_by_one({"image": image.normalise(pixels[chosen])})
        return Samples({"image": image.normalise(pixels[rest])}, labels[rest], calibration)
    pixels, labels = _cifar(data / source.test)
    calibration_pixels, _ = _cifar(data / source.calibration)
    calibration = one_by_one({"image": image.normalise(calibration_pixels[: source.count])})
    return Samples({"image": image.normalise(pixels)}, labels, calibration)


def _cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    records = np.fromfile(path, dtype=np.uint8).reshape(-1, CIFAR_RECORD)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0].astype(np.int64)


def _image_folder(folder: Path, size: int) -> tuple[np.ndarray, np.ndarray]:
    pixels, labels = [], []
    with open(folder / "labels.csv", newline="") as table:
        for row in csv.DictReader(table):
            with Image.open(folder / "images" / row["file"]) as picture:
                array = np.asarray(picture.convert("RGB"))
            top, left = (array.shape[0] - size) // 2, (array.shape[1] - size) // 2
            pixels.append(array[top : top + size, left : left + size].transpose(2, 0, 1))
            labels.append(int(row["class_index"]))
    return np.stack(pixels), np.array(labels, dtype=np.int64)


def _sentences(path: Path, tokenizer: WordPiece, count: int | None) -> tuple[Feed, np.ndarray]:
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [line.rstrip("\r").rsplit("\t", 1) for line in lines if line][:count]
    encoded = [tokenizer.encode(sentence) for sentence, _ in rows]
    ids = np.full((len(rows), max(map(len, encoded))), tokenizer.padding, dtype=np.int64)
    mask = np.zeros_like(ids)
    for i, pieces in enumerate(encoded):
        ids[i, : len(pieces)] = pieces
        mask[i, : len(pieces)] = 1
    return {"ids": ids, "mask": mask}, np.array([int(label) for _, label in rows], dtype=np.int64)


class WordPiece:
    """BERT's uncased tokenizer over a `vocab.txt` with one piece a line."""

    def __init__(self, vocabulary: Path, longest: int = 127) -> None:
        pieces = vocabulary.read_text(encoding="utf-8").split("\n")
        self._ids = {piece.rstrip("\r"): i for i, piece in enumerate(pieces) if piece}
        self._longest = longest
        self.padding = self._ids["[PAD]"]

    def encode(self, text: str) -> list[int]:
        """[CLS], the pieces, [SEP]."""
        pieces = [piece for word in self._words(text) for piece in self._split(word)]
        return [self._ids["[CLS]"], *pieces[: self._longest - 2], self._ids["[SEP]"]]

    @staticmethod
    def _words(text: str) -> list[str]:
        spaced = []
        for letter in unicodedata.normalize("NFD", text.lower()):
            category = unicodedata.category(letter)
            if category == "Mn" or (category.startswith("C") and letter not in "\t\n\r"):
                continue
            code = ord(letter)
            ascii_punctuation = code < 128 and code > 32 and not letter.isalnum()
            alone = ascii_punctuation or category.startswith("P") or 0x4E00 <= code <= 0x9FFF
            spaced.append(f" {letter} " if alone else letter)
        return "".join(spaced).split()

    def _split(self, word: str) -> list[int]:
        if len(word) > 100:
            return [self._ids["[UNK]"]]
        pieces, start = [], 0
        while start < len(word):
            prefix = "##" if start else ""
            end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in self._ids), None)
            if end is None:
                return [self._ids["[UNK]"]]
            pieces.append(self._ids[prefix + word[start:end]])
            start = end
        return pieces
