"""The data modules: contract, splits, order, resuming within an epoch, and the files of real data sets."""

import gzip
import hashlib
import http.server
import os
import pickle
import random
import struct
import threading
import time
import warnings
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, load_iris
from torchvision import datasets

from lr_plugins.errors import InvalidArgument, LearningRateError
from lr_plugins.training.data import CIFAR10, MNIST, Batches, Digits, Fake, FashionMNIST, Iris, stratified_split

LAWS = settings(deadline=None, max_examples=50)
SEEDS = st.integers(0, 2**32 - 1)


def ready(data):
    data.prepare_data()
    data.setup()
    return data


def gathered(loader):
    batches = list(loader)
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


def order(loader):
    return torch.cat([y for _, y in loader]).tolist()


# -- contract --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "shape", "classes", "train", "val"),
    [
        (Iris(), (4,), 3, 120, 30),
        (Iris(validation_fraction=0), (4,), 3, 150, 0),
        (Digits(), (1, 8, 8), 10, 1437, 360),
        (Digits(validation_fraction=0), (1, 8, 8), 10, 1797, 0),
        (Fake(), (1, 8, 8), 10, 204, 52),
        (Fake(num_samples=7, input_shape=[3], num_classes=2, validation_fraction=0), (3,), 2, 7, 0),
    ],
)
def test_contract(data, shape, classes, train, val):
    assert (data.input_shape, data.num_classes) == (shape, classes)
    ready(data)
    assert (data.num_train, data.num_val) == (train, val)
    x, y = next(iter(data.train_dataloader()))
    assert x.dtype == torch.float32
    assert y.dtype == torch.int64
    assert x.shape == (min(data.batch_size, train), *shape)
    assert (data.val_dataloader() == []) == (val == 0)
    evaluated, _ = gathered(data.evaluation_dataloader())
    trained, _ = gathered(data.train_dataloader())
    assert sorted(map(tuple, evaluated.flatten(1).tolist())) == sorted(map(tuple, trained.flatten(1).tolist()))


def test_counts_before_setup_say_what_to_do():
    with pytest.raises(LearningRateError, match=r"call Iris\.setup\(\) first"):
        _ = Iris().num_train


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Iris(batch_size=0), "Iris.batch_size"),
        (lambda: Iris(batch_size=5.0), "Iris.batch_size"),
        (lambda: Iris(batch_size=True), "Iris.batch_size"),
        (lambda: Iris(validation_fraction=1), "Iris.validation_fraction"),
        (lambda: Iris(validation_fraction=-0.1), "Iris.validation_fraction"),
        (lambda: Iris(validation_fraction=float("nan")), "Iris.validation_fraction"),
        (lambda: Iris(standardize="yes"), "Iris.standardize"),
        (lambda: Iris(shuffle=None), "Iris.shuffle"),
        (lambda: Digits(seed=-1), "Digits.seed"),
        (lambda: Digits(seed=2**32), "Digits.seed"),
        (lambda: Digits(validation_fraction="0.2"), "Digits.validation_fraction"),
        (lambda: Fake(num_samples=0), "Fake.num_samples"),
        (lambda: Fake(input_shape=()), "Fake.input_shape"),
        (lambda: Fake(input_shape="44"), "Fake.input_shape"),
        (lambda: Fake(input_shape=(4, 0)), "Fake.input_shape"),
        (lambda: Fake(num_classes=0), "Fake.num_classes"),
        (lambda: Fake(noise=0), "Fake.noise"),
        (lambda: MNIST(data_dir=""), "MNIST.data_dir"),
        (lambda: FashionMNIST(download=1), "FashionMNIST.download"),
        (lambda: CIFAR10(batch_size=-3), "CIFAR10.batch_size"),
    ],
)
def test_bad_arguments_are_refused_at_construction(make, field):
    with pytest.raises(InvalidArgument) as caught:
        make()
    assert caught.value.field == field


# -- values ----------------------------------------------------------------------------------------------------------


def test_iris_without_validation_is_sklearns_iris_in_its_order():
    data = ready(Iris(validation_fraction=0, standardize=False))
    x, y = gathered(data.evaluation_dataloader())
    features, targets = load_iris(return_X_y=True)
    assert torch.equal(x, torch.from_numpy(features).float())
    assert y.tolist() == targets.tolist()
    assert order(ready(Iris(validation_fraction=0, shuffle=False)).train_dataloader()) == targets.tolist()


def test_standardisation_knows_the_training_set_only():
    raw, scaled = ready(Iris(standardize=False, seed=3)), ready(Iris(seed=3))
    x, _ = gathered(scaled.evaluation_dataloader())
    assert torch.allclose(x.mean(0), torch.zeros(4), atol=1e-6)
    assert torch.allclose(x.std(0, correction=0), torch.ones(4), atol=1e-6)
    train, validation = (gathered(raw.evaluation_dataloader())[0], gathered(raw.val_dataloader())[0])
    expected = (validation - train.mean(0)) / train.std(0, correction=0)
    assert torch.allclose(gathered(scaled.val_dataloader())[0], expected, atol=1e-5)


def test_standardising_one_sample_leaves_no_nan():
    x, _ = gathered(ready(Iris(validation_fraction=0.999)).evaluation_dataloader())
    assert x.tolist() == [[0.0] * 4]


def test_digits_are_sklearns_digits_in_the_unit_interval():
    x, y = gathered(ready(Digits(validation_fraction=0)).evaluation_dataloader())
    pixels, targets = load_digits(return_X_y=True)
    assert torch.equal(x.flatten(1) * 16, torch.from_numpy(pixels).float())
    assert (x.min().item(), x.max().item()) == (0.0, 1.0)
    assert y.tolist() == targets.tolist()


def test_fake_samples_depend_on_the_seed_and_can_be_told_apart():
    first, again, other = (gathered(ready(Fake(seed=s)).evaluation_dataloader()) for s in (1, 1, 2))
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])
    data = ready(Fake(num_samples=500, seed=1))
    x, y = gathered(data.evaluation_dataloader())
    centres = torch.stack([x[y == c].mean(0) for c in range(10)]).flatten(1)
    x, y = gathered(data.val_dataloader())
    assert (torch.cdist(x.flatten(1), centres).argmin(1) == y).float().mean() > 0.95


# -- laws of the split -----------------------------------------------------------------------------------------------


@LAWS
@given(
    labels=st.lists(st.integers(0, 5), min_size=1, max_size=80),
    fraction=st.floats(0, 1, exclude_max=True),
    seed=SEEDS,
)
def test_stratified_split_laws(labels, fraction, seed):
    y = torch.tensor(labels)
    train, val = stratified_split(y, fraction, seed)
    assert sorted(train.tolist() + val.tolist()) == list(range(len(y)))
    assert train.tolist() == sorted(train.tolist())
    assert val.tolist() == sorted(val.tolist())
    assert len(train) >= 1
    assert len(val) == min(int(np.ceil(np.round(fraction * len(y), 9))), len(y) - 1)
    for label in set(labels):
        share = labels.count(label) * len(val) / len(labels)
        assert abs((y[val] == label).sum().item() - share) < 1
    again = stratified_split(y, fraction, seed)
    assert torch.equal(again[0], train)
    assert torch.equal(again[1], val)


def test_the_split_follows_the_seed():
    splits = {tuple(stratified_split(torch.arange(150) // 50, 0.2, seed)[1].tolist()) for seed in range(20)}
    assert len(splits) == 20


# -- order -----------------------------------------------------------------------------------------------------------


@LAWS
@given(samples=st.integers(1, 40), batch_size=st.integers(1, 50), seed=SEEDS, epoch=st.integers(0, 10**6))
def test_every_epoch_has_every_sample_once(samples, batch_size, seed, epoch):
    y = torch.arange(samples)
    loader = Batches(y.float(), y, batch_size, shuffle=True, seed=seed)
    loader.set_epoch(epoch)
    batches = list(loader)
    assert len(batches) == len(loader)
    assert all(len(y) == batch_size for _, y in batches[:-1])
    assert sorted(torch.cat([y for _, y in batches]).tolist()) == list(range(samples))
    assert all(torch.equal(x, y.float()) for x, y in batches)


def test_order_depends_on_seed_and_epoch_and_on_nothing_else():
    def orders(seed, disturb=False):
        loader = ready(Iris(seed=seed, validation_fraction=0)).train_dataloader()
        result = []
        for _ in range(3):
            if disturb:
                torch.rand(7)
                random.random()
            result.append([x.tolist() for x, _ in loader])
        return result

    torch.manual_seed(0)
    first = orders(1)
    torch.manual_seed(99)
    assert orders(1, disturb=True) == first
    assert first[0] != first[1] != first[2]
    assert orders(2)[0] != first[0]
    assert orders(2)[0] != first[1], "seed + epoch would make the runs of neighbouring seeds the same run, shifted"


def test_reading_the_data_draws_no_global_random_numbers():
    def states():
        numpys = np.random.get_state()[1].tolist()  # noqa: NPY002 the global state is what is looked at
        return torch.get_rng_state().tolist(), numpys, random.getstate()

    before = states()
    for data in (Iris(), Digits(), Fake()):
        gathered(ready(data).train_dataloader())
    assert states() == before


@LAWS
@given(batches=st.integers(0, 25), epoch=st.integers(0, 5))
def test_a_loader_continues_from_the_saved_place(batches, epoch):
    def fresh():
        y = torch.arange(23)
        return Batches(y, y, 3, shuffle=True, seed=5)

    interrupted, whole = fresh(), fresh()
    interrupted.set_epoch(epoch)
    whole.set_epoch(epoch)
    expected = [y.tolist() for _, y in whole] + [y.tolist() for _, y in whole]
    seen = [y.tolist() for _, (_, y) in zip(range(batches), interrupted, strict=False)]
    resumed = fresh()
    if batches:
        resumed.load_state_dict(interrupted.state_dict())
    else:
        resumed.set_epoch(epoch)
    rest = [y.tolist() for _, y in resumed]
    assert seen + rest == expected[: len(seen + rest)]
    assert len(rest) > 0


# -- with Lightning --------------------------------------------------------------------------------------------------


class Recorder(pl.LightningModule):
    """Learns nothing much and writes down the targets of every training batch."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(4, 3), []

    def training_step(self, batch, batch_idx):
        x, y = batch
        self.seen.append((self.current_epoch, batch_idx, x.sum().item(), y.tolist()))
        return torch.nn.functional.cross_entropy(self.layer(x), y)

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


def run(data, folder, ckpt=None, **options):
    module = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    trainer.fit(module, datamodule=data, ckpt_path=ckpt)
    return module.seen


def test_a_run_continued_from_any_step_gets_the_same_batches(tmp_path):
    def small():
        return Iris(batch_size=30, seed=4)  # 4 batches an epoch

    every_step = pl.callbacks.ModelCheckpoint(tmp_path, "{step}", save_top_k=-1, every_n_train_steps=1)
    whole = run(small(), tmp_path, max_epochs=3, callbacks=[every_step])
    assert len(whole) == 12
    assert len({str(batches) for batches in (whole[0:4], whole[4:8], whole[8:12])}) == 3
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*dataloader is not resumable.*")
        for step in range(1, 12):
            rest = run(small(), tmp_path, f"{tmp_path}/step={step}.ckpt", max_epochs=3, enable_checkpointing=False)
            assert rest == whole[step:], f"continued after step {step}"


def test_lightning_settings_that_touch_loaders(tmp_path):
    for distributed_sampler in (True, False):
        options = {"max_epochs": 2, "enable_checkpointing": False, "use_distributed_sampler": distributed_sampler}
        seen = run(Iris(), tmp_path, **options)
        assert len(seen) == 48
    data = Iris()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*requested to overfit.*")
        seen = run(data, tmp_path, max_epochs=3, overfit_batches=2, enable_checkpointing=False)
    assert [batch[1:] for batch in seen[0:2]] == [batch[1:] for batch in seen[2:4]] == [b[1:] for b in seen[4:6]]
    assert len(seen) == 6


def test_an_epoch_of_iris_costs_under_two_milliseconds():
    loader = ready(Iris(validation_fraction=0)).train_dataloader()
    costs = []
    for _ in range(50):
        start = time.perf_counter()
        count = sum(1 for _ in loader)
        costs.append(time.perf_counter() - start)
    assert count == 30
    assert min(costs) < 2e-3


# -- files of the real data sets -------------------------------------------------------------------------------------


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


def test_a_download_cut_short_leaves_nothing_that_breaks_the_next_run(tmp_path, mirror):
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
