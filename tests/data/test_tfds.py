"""tensorflow-datasets without tensorflow: mocked data sets and one prepared on disk."""

import io
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from nid_jax.data import images, open_collection, to_array


def pattern(index):
    """Random pixels, of the odd ones 20x16 and of the even ones 16x20."""
    size = (20, 16) if index % 2 else (16, 20)
    return np.random.default_rng(index).integers(0, 256, (*size, 3)).astype(np.uint8)


class TinyPictures(tfds.core.GeneratorBasedBuilder):
    """Seven training and three test pictures of two sizes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"picture": tfds.features.Image(shape=(None, None, 3)), "label": np.int64}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(7), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for index in range(count):
            stream = io.BytesIO()
            Image.fromarray(pattern(index)).save(stream, "png")
            stream.seek(0)
            yield index, {"picture": stream, "label": index}


class TinyTrainOnly(TinyPictures):
    """The same without a test split."""

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(8)}


class TinyWords(tfds.core.GeneratorBasedBuilder):
    """Examples without a picture."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"word": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield 0, {"word": "one"}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("tfds")
    for builder in (TinyPictures, TinyTrainOnly, TinyWords):
        builder(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def central_square(values):
    rows, columns, _ = values.shape
    side = min(rows, columns)
    top, left = (rows - side) // 2, (columns - side) // 2
    return values[top : top + side, left : left + side]


def test_prepared_data_is_read_without_tensorflow(prepared, data_config, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # importing it now raises
    config = data_config(name="tfds:tiny_pictures", root=prepared, size=(16, 16))
    train, test = (open_collection(config, split, 0) for split in ("train", "test"))
    assert (len(train), len(test), train.shape) == (7, 3, (16, 16, 3))
    squares = [central_square(pattern(i)) / 255.0 for i in range(7)]
    # tfds shuffles examples when it prepares them: the same pictures, in its order.
    for signal in to_array(train):
        assert min(np.abs(signal - square).max() for square in squares) < 1e-6
    assert len({signal.tobytes() for signal in train}) == 7


def test_resize_gray_and_subset(prepared, data_config):
    config = data_config(name="tfds:tiny_pictures", root=prepared, size=(16, 16))
    full = open_collection(config, "train", 0)
    config.update(size=(8, 8), gray=True, num_train=4)
    small = open_collection(config, "train", 0)
    assert (len(small), small.shape) == (4, (8, 8, 1))
    expected = images.resize(images.to_channels(full[2], 1), (8, 8))
    np.testing.assert_allclose(small[2], expected, atol=1e-6)
    # A window of another aspect is cropped, not squeezed.
    config.update(size=(4, 16), gray=False)
    wide = open_collection(config, "train", 0)
    assert wide.shape == (4, 16, 3)
    raws = [pattern(i) / np.float32(255) for i in range(7)]
    (raw,) = (raw for raw in raws if np.abs(central_square(raw) - full[2]).max() < 1e-6)
    expected = images.resize(images.centre_crop(raw, (4, 16)), (4, 16))
    np.testing.assert_allclose(wide[2], expected, atol=1e-6)


def test_images_of_several_sizes_need_a_size(prepared, data_config):
    with pytest.raises(ValueError, match=r"differ in size; set data\.size"):
        open_collection(data_config(name="tfds:tiny_pictures", root=prepared), "train", 0)


def test_without_test_split_the_training_split_is_divided(prepared, data_config):
    config = data_config(name="tfds:tiny_train_only", root=prepared, size=(16, 16))
    train, test = (open_collection(config, split, 0) for split in ("train", "test"))
    assert (len(train), len(test)) == (6, 2)
    assert len({signal.tobytes() for signal in [*train, *test]}) == 8


def test_examples_without_image(prepared, data_config):
    with pytest.raises(ValueError, match=r"tfds:tiny_words.*no image but \['word'\]"):
        open_collection(data_config(name="tfds:tiny_words", root=prepared), "train", 0)


@pytest.mark.parametrize("name", ["celeb_a", "tfds:celeb_a"])
def test_celeb_a_central_square(data_config, name):
    with tfds.testing.mock_data(num_examples=5):
        config = data_config(name=name, size=(32, 32), num_train=3)
        train = open_collection(config, "train", 0)
        assert (len(train), train.shape) == (3, (32, 32, 3))
        raw = tfds.data_source("celeb_a", split="train")[2]["image"]
        square = raw[20:198].astype(np.float32) / 255
        np.testing.assert_allclose(train[2], images.resize(square, (32, 32)), atol=1e-6)
        whole = open_collection(data_config(name=name), "test", 0)
        assert whole.shape == (178, 178, 3)


def test_cifar10_subset_is_spread(data_config):
    with tfds.testing.mock_data(num_examples=20):
        few = open_collection(data_config(name="cifar10", num_train=5), "train", 0)
        assert few.names == [f"train_{i:06d}" for i in (0, 4, 9, 14, 19)]
        assert few.shape == (32, 32, 3)
        raw = tfds.data_source("cifar10", split="train")[9]["image"]
        np.testing.assert_allclose(few[2], raw / 255.0, atol=1e-6)


def test_one_channel_stays_one(data_config):
    with tfds.testing.mock_data(num_examples=2):
        assert open_collection(data_config(name="tfds:mnist"), "test", 0).shape == (28, 28, 1)


@pytest.mark.parametrize("name", ["celeb_a", "tfds:celeb_a"])
def test_unprepared_data_names_the_command(tmp_path, data_config, name):
    with pytest.raises(ValueError, match="not prepared as array_record") as caught:
        open_collection(data_config(name=name, root=tmp_path), "train", 0)
    message = str(caught.value)
    assert "\n" not in message
    command = message.split("prepare it once with: ")[1]
    assert "tensorflow" in command.split("&&")[0]
    # What it asks python to run is a program, and prepares this data set in this place.
    program = command.split('python -c "')[1].rstrip('"')
    compile(program, "command", "exec")
    assert f"tfds.builder('celeb_a', data_dir={str(tmp_path)!r}" in program
    assert not any(tmp_path.iterdir())


def test_unknown_dataset_and_config(tmp_path, data_config):
    with pytest.raises(ValueError, match=r"did you mean 'tfds:cifar100'\?") as caught:
        open_collection(data_config(name="tfds:cifar1000", root=tmp_path), "train", 0)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"data\.name='tfds:celeb_a/nope'") as caught:
        open_collection(data_config(name="tfds:celeb_a/nope", root=tmp_path), "train", 0)
    assert "\n" not in str(caught.value)
