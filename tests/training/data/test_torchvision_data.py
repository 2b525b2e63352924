"""The files of MNIST, Fashion-MNIST and CIFAR-10: reading, downloading, and what goes wrong."""

import gzip
import hashlib
import http.server
import os
import pickle
import struct
import threading
from functools import partial

import numpy as np
import pytest
import torch
from torchvision import datasets

from lr_plugins.errors import LearningRateError
from lr_plugins.training.data import CIFAR10, MNIST, FashionMNIST
from tests.training.data import gathered, ready


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    return header + array.tobytes()


def mnist_contents(train=20, test=6):
    generator = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": generator.integers(0, 256, (train, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte": (np.arange(train) % 10).astype(np.uint8),
        "t10k-images-idx3-ubyte": generator.integers(0, 256, (test, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte": (np.arange(test) % 10).astype(np.uint8),
    }


def write_mnist(folder, contents):
    folder.mkdir(parents=True)
    for name, array in contents.items():
        (folder / name).write_bytes(idx(array))


def write_cifar(folder, monkeypatch):
    folder.mkdir(parents=True)
    generator = np.random.default_rng(1)
    rows = {name: generator.integers(0, 256, (4, 3072), dtype=np.uint8) for name in [*CIFAR10.files[:-1]]}
    sums = {}
    for name, pixels in rows.items():
        content = pickle.dumps({"data": pixels, "labels": [0, 1, 2, 9]})
        (folder / name).write_bytes(content)
        sums[name] = hashlib.md5(content).hexdigest()
    meta = pickle.dumps({"label_names": [str(number) for number in range(10)]})
    (folder / "batches.meta").write_bytes(meta)
    dataset = datasets.CIFAR10
    monkeypatch.setattr(dataset, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(dataset, "test_list", [["test_batch", sums["test_batch"]]])
    monkeypatch.setattr(dataset, "meta", {**dataset.meta, "md5": hashlib.md5(meta).hexdigest()})
    return rows


@pytest.fixture
def offline(monkeypatch):
    """No network: the addresses of the data sets point at a port of this machine where nobody listens."""
    for name in ("MNIST", "FashionMNIST"):
        monkeypatch.setattr(getattr(datasets, name), "mirrors", ["http://127.0.0.1:9/", "http://127.0.0.1:9/b/"])
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_mnist_files(kind, tmp_path, offline):
    contents = mnist_contents()
    write_mnist(tmp_path / kind.__name__ / "raw", contents)
    data = ready(kind(data_dir=tmp_path, batch_size=8))
    assert (data.num_train, data.num_val) == (20, 6)
    for loader, split in ((data.evaluation_dataloader(), "train"), (data.val_dataloader(), "t10k")):
        x, y = gathered(loader)
        assert x.shape[1:] == data.input_shape
        assert x.dtype == torch.float32
        assert np.allclose(x[:, 0].numpy(), contents[f"{split}-images-idx3-ubyte"] / 255.0)
        assert y.tolist() == contents[f"{split}-labels-idx1-ubyte"].tolist()
    assert [len(y) for _, y in data.train_dataloader()] == [8, 8, 4]


def test_cifar_files(tmp_path, offline, monkeypatch):
    rows = write_cifar(tmp_path / "cifar-10-batches-py", monkeypatch)
    data = ready(CIFAR10(data_dir=tmp_path))
    assert (data.num_train, data.num_val) == (20, 4)
    x, y = gathered(data.evaluation_dataloader())
    assert x.shape[1:] == data.input_shape
    assert np.allclose(x[4:8].numpy(), rows["data_batch_2"].reshape(-1, 3, 32, 32) / 255.0)
    assert y.tolist() == [0, 1, 2, 9] * 5
    assert np.allclose(gathered(data.val_dataloader())[0].numpy(), rows["test_batch"].reshape(-1, 3, 32, 32) / 255.0)


def test_the_pixels_stay_bytes_in_memory(tmp_path):
    write_mnist(tmp_path / "MNIST" / "raw", mnist_contents())
    assert ready(MNIST(data_dir=tmp_path)).train_dataloader().x.dtype == torch.uint8


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10])
def test_without_network_one_message_says_what_to_do(kind, tmp_path, offline):
    data = kind(data_dir=tmp_path)
    with pytest.raises(LearningRateError) as caught:
        data.prepare_data()
    message = str(caught.value)
    assert message.startswith(f"{kind.__name__} could not be downloaded (")
    assert "refused" in message
    assert str(tmp_path / kind.folder) in message
    assert all(name in message for name in kind.files)
    assert "data=digits" in message
    assert "\n" not in message
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize("kind", [MNIST, FashionMNIST, CIFAR10])
def test_missing_files_with_the_download_off(kind, tmp_path):
    data = kind(data_dir=tmp_path, download=False)
    data.prepare_data()
    with pytest.raises(LearningRateError, match=r"allow the download \(download=true\)") as caught:
        data.setup()
    assert kind.files[0] in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path, offline):
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(LearningRateError, match="MNIST could not be downloaded"):
        MNIST(data_dir=tmp_path / "data").prepare_data()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder served over HTTP on this machine, as the mirror that torchvision's own downloader reads."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    resources = []
    for name, array in mnist_contents().items():
        content = gzip.compress(idx(array))
        (folder / f"{name}.gz").write_bytes(content)
        resources.append((f"{name}.gz", hashlib.md5(content).hexdigest()))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    yield folder
    server.shutdown()
    server.server_close()


def test_download(tmp_path, mirror):
    data = ready(MNIST(data_dir=tmp_path / "data"))
    assert (data.num_train, data.num_val) == (20, 6)


def test_interrupted_download_does_not_break_the_next_run(tmp_path, mirror):
    last = mirror / "t10k-labels-idx1-ubyte.gz"
    whole = last.read_bytes()
    last.write_bytes(whole[:-4])
    data = MNIST(data_dir=tmp_path / "data")
    with pytest.raises(LearningRateError, match="MNIST could not be downloaded"):
        data.prepare_data()
    raw = tmp_path / "data" / "MNIST" / "raw"
    assert not (raw / last.name).exists()
    assert (raw / "train-images-idx3-ubyte.gz").exists(), "what arrived whole is kept"
    last.write_bytes(whole)
    assert ready(MNIST(data_dir=tmp_path / "data")).num_val == 6


@pytest.mark.parametrize("length", [0, 3, 9, 100])
def test_an_extraction_cut_short_is_noticed_and_repeated(length, tmp_path, mirror):
    ready(MNIST(data_dir=tmp_path / "data"))
    images = tmp_path / "data" / "MNIST" / "raw" / "train-images-idx3-ubyte"
    os.truncate(images, length)
    with pytest.raises(LearningRateError, match="train-images-idx3-ubyte is truncated"):
        ready(MNIST(data_dir=tmp_path / "data", download=False))
    assert ready(MNIST(data_dir=tmp_path / "data")).num_train == 20


def test_copied_archives_are_enough(tmp_path, mirror, monkeypatch):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for archive in mirror.iterdir():
        (raw / archive.name).write_bytes(archive.read_bytes())
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    assert ready(MNIST(data_dir=tmp_path / "data")).num_train == 20


def test_a_copied_archive_that_is_wrong_is_not_deleted(tmp_path, mirror, monkeypatch):
    raw = tmp_path / "data" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    copied = raw / "train-images-idx3-ubyte.gz"
    copied.write_bytes(b"not what it should be")
    monkeypatch.setattr(datasets.MNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(LearningRateError, match="MNIST could not be downloaded"):
        MNIST(data_dir=tmp_path / "data").prepare_data()
    assert copied.read_bytes() == b"not what it should be"
