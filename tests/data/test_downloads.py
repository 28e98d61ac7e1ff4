"""What is downloaded is what it is known to be: checksums of data sets, revisions of models, no code and no pickles."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest

from apfl.data.decode import make_dataset
from apfl.errors import UserError
from apfl.semantics import models
from tests.helpers.bombs import Bomb

datasets = pytest.importorskip("torchvision.datasets")
from apfl.data.sources import torchvision  # noqa: E402

FASHION = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")


def refusal(name: str, folder: Path) -> str:
    with pytest.raises(UserError) as refused:
        torchvision(name, folder)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """A folder, and where it can be downloaded from."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "web"
    folder.mkdir()
    handler = type("Handler", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def mirror(web: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny Fashion-MNIST to download, whose checksums torchvision is told."""
    folder, url = web
    known = []
    for name in FASHION:
        array = np.arange(20 * 784, dtype=np.uint8).reshape(20, 28, 28) if "images" in name else np.arange(20) % 10
        head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        packed = gzip.compress(head + array.astype(np.uint8).tobytes())
        (folder / f"{name}-ubyte.gz").write_bytes(packed)
        known.append((f"{name}-ubyte.gz", hashlib.md5(packed).hexdigest()))
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [url])
    monkeypatch.setattr(datasets.FashionMNIST, "resources", known)
    return folder


def test_what_is_downloaded_once_is_read_again(mirror: Path, tmp_path: Path) -> None:
    first = make_dataset("fashion_mnist", torchvision("fashion_mnist", tmp_path / "data"))
    for file in mirror.iterdir():
        file.unlink()
    again = make_dataset("fashion_mnist", torchvision("fashion_mnist", tmp_path / "data"))
    assert len(first) == 40 and np.array_equal(first.images, again.images)


@pytest.mark.parametrize("name", FASHION)
def test_an_archive_that_was_tampered_with_is_not_taken(mirror: Path, tmp_path: Path, name: str) -> None:
    (mirror / f"{name}-ubyte.gz").write_bytes(gzip.compress(b"something else"))
    assert "torchvision cannot get it" in refusal("fashion_mnist", tmp_path / "data")
    assert not (tmp_path / "data/FashionMNIST/raw" / f"{name}-ubyte").exists(), "nothing of it was extracted"


@pytest.mark.parametrize("name", FASHION)
def test_a_file_that_was_changed_after_the_download_is_not_read(mirror: Path, tmp_path: Path, name: str) -> None:
    torchvision("fashion_mnist", tmp_path)
    file = tmp_path / "FashionMNIST/raw" / f"{name}-ubyte"
    content = file.read_bytes()
    for changed in (content[:-1] + b"\xff", content + b"\x00", content[:-1], b""):
        file.write_bytes(changed)
        assert "holds; remove" in refusal("fashion_mnist", tmp_path)
    file.write_bytes(content)
    torchvision("fashion_mnist", tmp_path)
    archive = file.with_name(f"{name}-ubyte.gz")
    archive.write_bytes(gzip.compress(content, 1))
    assert "its MD5 is not" in refusal("fashion_mnist", tmp_path)
    archive.unlink()
    assert "is not beside it; remove" in refusal("fashion_mnist", tmp_path)


def test_torch_files_of_an_old_torchvision_are_not_read(mirror: Path, tmp_path: Path) -> None:
    import torch

    folder, marker = tmp_path / "FashionMNIST/processed", tmp_path / "ran"
    folder.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        torch.save(Bomb(marker), folder / name)
    assert "and not read; remove the folder" in refusal("fashion_mnist", tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifars_pickles_are_read_only_if_they_are_the_known_ones(
    tmp_path: Path, web: tuple[Path, str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind, marker = getattr(datasets, name.upper()), tmp_path / "ran"
    bomb = pickle.dumps(Bomb(marker))
    planted = tmp_path / "data" / kind.base_folder
    planted.mkdir(parents=True)
    files = [*(file for file, _ in kind.train_list + kind.test_list), kind.meta["filename"]]
    for file in files:
        (planted / file).write_bytes(bomb)
    archive = web[0] / kind.filename
    with tarfile.open(archive, "w:gz") as made:
        for file in files:
            entry = tarfile.TarInfo(f"{kind.base_folder}/{file}")
            entry.size = len(bomb)
            made.addfile(entry, io.BytesIO(bomb))
    monkeypatch.setattr(kind, "url", web[1] + kind.filename)
    assert "torchvision cannot get it" in refusal(name, tmp_path / "data")
    assert not marker.exists()
    pickle.loads(bomb)
    assert marker.exists(), "the bomb works"


def test_the_word_vectors_are_those_of_the_checksum_and_gensims_downloaded_code_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gensim, downloader = pytest.importorskip("gensim"), pytest.importorskip("gensim.downloader")
    folder, marker = tmp_path / models.WORD2VEC, tmp_path / "ran"
    folder.mkdir()
    (folder / "__init__.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")
    keyed = gensim.models.KeyedVectors(vector_size=2)
    keyed.add_vectors(["cat"], np.ones((1, 2), np.float32))
    file = folder / f"{models.WORD2VEC}.gz"
    keyed.save_word2vec_format(str(file), binary=True)
    monkeypatch.setattr(downloader, "BASE_DIR", str(tmp_path))
    monkeypatch.setattr(downloader, "_get_filename", lambda name: file.name)
    with pytest.raises(UserError, match=f"not {models.WORD2VEC_MD5}; remove it and download it again"):
        models.word2vec(("cat",))
    monkeypatch.setattr(models, "WORD2VEC_MD5", hashlib.md5(file.read_bytes()).hexdigest())
    assert models.word2vec(("cat",)).embedding.tolist() == [[1.0, 1.0]]
    assert not marker.exists()


@pytest.mark.parametrize(
    ("model", "revision"), [(models.BERT, models.BERT_REVISION), ("a/b", "main"), ("a/b@0123abc", "0123abc")]
)
def test_bert_is_loaded_at_a_revision_from_safetensors_and_without_its_code(
    monkeypatch: pytest.MonkeyPatch, model: str, revision: str
) -> None:
    transformers = pytest.importorskip("transformers")
    asked = []

    def recorded(name: str, **options: object) -> None:
        asked.append((name, options))
        if len(asked) == 2:
            raise OSError("no network")

    stub = SimpleNamespace(from_pretrained=recorded)
    monkeypatch.setattr(transformers, "AutoTokenizer", stub)
    monkeypatch.setattr(transformers, "AutoModel", stub)
    with pytest.raises(UserError, match="cannot be loaded"):
        models.bert(("cat",), model=model)
    assert {name for name, _ in asked} == {model.partition("@")[0]}
    assert all(options["revision"] == revision and options["trust_remote_code"] is False for _, options in asked)
    assert asked[1][1]["use_safetensors"] is True


def test_clips_weights_are_safetensors_of_a_revision(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    open_clip, hub = pytest.importorskip("open_clip"), pytest.importorskip("huggingface_hub")
    asked = []
    monkeypatch.setattr(hub, "hf_hub_download", lambda *names, **options: asked.append((*names, options)) or "file")
    monkeypatch.setattr(open_clip, "create_model", lambda *names, **options: asked.append(names) or {}["no network"])
    with pytest.raises(UserError, match="cannot be loaded"):
        models.clip(("cat",))
    repository, revision = models.CLIP_WEIGHTS
    assert asked == [(repository, "open_clip_model.safetensors", {"revision": revision}), (models.CLIP, "file")]
    assert len(revision) == len(models.BERT_REVISION) == 40


@pytest.mark.parametrize("name", ["open_clip_pytorch_model.bin", "model.pth"])
def test_a_model_folder_with_pickled_weights_is_refused(tmp_path: Path, name: str) -> None:
    import torch

    pytest.importorskip("open_clip")
    marker = tmp_path / "ran"
    torch.save(Bomb(marker), tmp_path / name)
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {}, "preprocess_cfg": {}}')
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(UserError, match="may be a pickle"):
            models.clip(("cat",), path)
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="may be a pickle"):
        models.clip(("cat",), tmp_path)
    assert not marker.exists()


def test_a_bert_folder_with_pickled_weights_is_refused(tmp_path: Path) -> None:
    import torch

    transformers = pytest.importorskip("transformers")
    marker = tmp_path / "ran"
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\ncat\n")
    transformers.BertTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = transformers.BertConfig(vocab_size=6, hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
    config.save_pretrained(tmp_path)
    torch.save({"embeddings": Bomb(marker)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        models.bert(("cat",), tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["vectors.txt", "vectors.bin", "vectors.kv"])
def test_word_vectors_that_are_a_pickle_are_refused(tmp_path: Path, name: str) -> None:
    pytest.importorskip("gensim")
    marker = tmp_path / "ran"
    (tmp_path / name).write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(UserError, match=r"cannot be loaded|is a pickle"):
        models.word2vec(("cat",), tmp_path / name)
    assert not marker.exists()
