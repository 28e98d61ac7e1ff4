"""The readers of files, each as a function from a path to what was read, and good files for them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from apfl.errors import UserError
from apfl.storage.run_folder import Record

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SETTING = "dirichlet-alpha0.5-clients3-min2"
RUN = "tiny/runs/digits/dirichlet-alpha0.1-clients3/fedavg/seed0"
Bombs = Iterator[tuple[str, bytes]]


def _digest(*parts: Any) -> str:
    """A text that two readings share if they have read the same."""
    total = hashlib.sha256()
    for part in parts:
        array = part if isinstance(part, np.ndarray) else np.array(json.dumps(part, sort_keys=True, default=str))
        total.update(f"{array.dtype} {array.shape}".encode() + array.tobytes())
    return total.hexdigest()


def digits(count: int = 60) -> Any:
    """The first of the embedded digits, as a data set."""
    from apfl.data.decode import make_dataset
    from apfl.data.sources import digits as source

    return make_dataset("digits", source("digits"), max_samples=count)


def dataset(path: Path) -> str:
    from apfl.data.dataset import load_dataset

    found = load_dataset(path)
    return _digest(found.images, found.labels, found.class_names, found.name, found.source)


def partition(path: Path) -> str:
    from apfl.data.partition import load_partition

    found = load_partition(path)
    return _digest(found.client, found.is_train, found.counts, found.dropout, found.unseen, found.specification)


def embedding(path: Path) -> str:
    from apfl.semantics.table import load_semantics

    return _digest(load_semantics(path, NAMES))


def state(path: Path) -> str:
    import torch

    from apfl.stages.handover import load_base

    return _models(load_base(path.parent, (1,), torch.device("cpu"), _parameters())[1])


def _parameters() -> dict[str, Any]:
    import torch

    return {"body.weight": torch.arange(12.0).view(3, 4), "head.bias": torch.ones(5)}


def _models(base: Any) -> str:
    every = {"global": base.global_model, **{str(key): one for key, one in base.local_models.items()}}
    return _digest(*(value.numpy() for one in every.values() for _, value in sorted(one.items())), sorted(every))


RECORD = Record("federate", {"method": "fedavg"}, {}, "abc")


def checkpoint(path: Path) -> str | None:
    from apfl.stages.checkpoint import read_checkpoint
    from apfl.storage.tensors import flatten

    found = read_checkpoint(path, RECORD, "cpu")
    if found is None:  # damaged: the run starts again
        return None
    now, saved, fields = found
    tensors = flatten({"state": now.state, "latest": {str(key): one for key, one in now.latest.items()}}) | saved
    return _digest(*(value.numpy() for _, value in sorted(tensors.items())), sorted(tensors), now.round, fields)


def metrics(path: Path) -> str:
    from apfl.paper.numbers.metrics import averages, collect

    frame = collect(path.parents[len(Path(RUN).parts)], [RUN]).frames[RUN]
    return averages(frame, "global", "pooled", "non_dropout").to_json()


def images(path: Path) -> str:
    from apfl.data.decode import make_dataset
    from apfl.data.parquet import parquet

    return str(make_dataset("pets", parquet("pets", path.parent), max_samples=12).images.shape)


def picture(path: Path) -> str:
    from apfl.data.decode import to_pixels
    from apfl.data.raw import decode

    return str(to_pixels(decode(path.read_bytes(), str(path))).shape)


def study(path: Path) -> str:
    from apfl.study.load import load_study

    found = load_study(path)
    assert found.name and found.seeds and found.methods and found.training["rounds"] >= 1
    return found.name


def record(path: Path) -> str:
    from apfl.storage.files import read_record

    return str(len(read_record(path)))


def trace(path: Path) -> str:
    from apfl.clock.schedule import Schedule
    from apfl.clock.timeline import plan
    from apfl.study.schedules import read_trace

    rows = read_trace(path)
    last = max(row[0] for row in rows)
    return str(len(plan(Schedule(latency="trace", trace=tuple(rows)), range(min(last, 50) + 1), 2, 0).arrivals))


# Each reader, and whether what it reads must be what was written: no format but those with checksums can promise that.
READERS: dict[str, tuple[Callable[[Path], str | None], bool]] = {
    "dataset.npz": (dataset, True),
    "partition.npz": (partition, True),
    "embedding.npz": (embedding, True),
    "state.safetensors": (state, True),
    "checkpoint.safetensors": (checkpoint, True),
    "metrics.parquet": (metrics, False),
    "images.parquet": (images, False),
    "real.parquet": (images, False),
    "picture.png": (picture, False),
    "picture.jpeg": (picture, False),
    "picture.webp": (picture, False),
    "study.yaml": (study, False),
    "study.json": (study, False),
    "run.json": (record, False),
    "trace.csv": (trace, False),
}


def place(folder: Path, reader: str) -> Path:
    """Where a reader expects its file."""
    if reader == "metrics.parquet":
        path = folder / "results" / RUN / reader
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "run.json").write_text('{"stage": "federate", "specification": {}, "code": "a"}')
        return path
    if reader.endswith(".parquet"):
        (folder / "pets").mkdir(exist_ok=True)
        return folder / "pets" / "train.parquet"
    return folder / reader


def make(reader: str, path: Path) -> None:
    """A good file."""
    kind = reader.partition(".")[2]
    {"npz": _npz, "safetensors": _tensors, "parquet": _parquet}.get(kind, _other)(reader, path)


def _npz(reader: str, path: Path) -> None:
    from apfl.data.dataset import save_dataset
    from apfl.data.partition import make_partition, save_partition
    from apfl.semantics.packaged import packaged
    from apfl.semantics.table import save_semantics

    data = digits()
    if reader == "dataset.npz":
        save_dataset(path, data)
    elif reader == "partition.npz":
        save_partition(path, make_partition(data, SETTING, 0))
    else:
        save_semantics(path, packaged(NAMES))


def _tensors(reader: str, path: Path) -> None:
    from apfl.federation.synchronous import Round
    from apfl.stages.checkpoint import asked, write_checkpoint
    from apfl.storage.tensors import flatten, write_tensors

    params = _parameters()
    if reader == "state.safetensors":
        write_tensors(path, flatten({"round1": {"global": params, "local": {"0": params, "2": params}}}), {"a": 1})
    else:
        fields = {"asked": asked(RECORD), "code": RECORD.code, "rows": [{"accuracy": 0.5}], "seconds": 1.5}
        write_checkpoint(
            path, Round(2, {"global": params}, {0: params}), {"round1/global/w": params["head.bias"]}, fields
        )


def _parquet(reader: str, path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    if reader == "metrics.parquet":
        from apfl.storage.metrics_table import metrics_frame
        from apfl.storage.tables import write_parquet

        row = {"virtual_time": 1.0, "client_role": "non_dropout", "model": "global", "test": "pooled", "loss": 1.0}
        rows = [row | {"round": n // 5, "client": n % 5, "accuracy": n / 40, "samples": 9, "train_samples": 90 + n}
                for n in range(40)]  # fmt: skip
        ours = {"dataset": "digits", "setting": SETTING, "method": "fedavg", "semantics": "", "reading": "", "seed": 0}
        write_parquet(path, metrics_frame(rows, **ours))
        return
    data = digits(40)
    encoded = []
    for number, image in enumerate(data.images):
        buffer = io.BytesIO()
        Image.fromarray(image[0]).save(buffer, ("PNG", "JPEG", "WEBP")[number % 3])
        encoded.append({"bytes": buffer.getvalue(), "path": f"{NAMES[data.labels[number]]}/{number}.png"})
    features = {"info": {"features": {"label": {"names": list(NAMES)}}}}
    table = pa.table({"img": encoded, "label": data.labels})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), path, row_group_size=16)


def _other(reader: str, path: Path) -> None:
    import yaml
    from PIL import Image

    from tests.helpers.studies import tiny

    if reader.startswith("picture"):
        with path.open("wb") as stream:
            Image.fromarray(digits(10).images[0, 0]).resize((48, 40)).convert("RGB").save(stream, reader.split(".")[1])
    elif reader == "trace.csv":
        rows = (f"{client},{2 * cycle},{2 * cycle + 1.5}" for client in range(4) for cycle in range(9))
        path.write_text("client,start,arrival\n" + "\n".join(rows) + "\n")
    elif reader == "study.yaml":
        path.write_text(yaml.safe_dump(tiny(), sort_keys=False))
    else:
        path.write_text(json.dumps(tiny(), indent=1))


def smallest_real(root: Path, target: Path) -> None:
    """The smallest Parquet file with images under the folder of real data."""
    found = sorted(root.glob("*/t*.parquet"), key=lambda path: path.stat().st_size)
    if not found:
        raise UserError(f"{root}: has no Parquet file; correct the path")
    shutil.copy(found[0], target)


def zip_bombs(data: bytes) -> Bombs:
    """The same archive with arrays that say that they hold gigabytes, of which a few kilobytes are there."""
    for size in (1 << 30, 1 << 32, 1 << 36, 1 << 45):
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(data)) as there, zipfile.ZipFile(buffer, "w") as archive:
            for name in there.namelist():
                content = there.read(name)
                if name == there.namelist()[0]:
                    head = io.BytesIO()
                    shape = {"descr": "|u1", "fortran_order": False, "shape": (size,)}
                    np.lib.format.write_array_header_1_0(head, shape)
                    content = head.getvalue() + bytes(4096)
                    length = len(head.getvalue()) + size
                archive.writestr(name, content, zipfile.ZIP_DEFLATED)
        # What the directory says of the first member's size, where 32 bits are enough for the lie.
        out = bytearray(buffer.getvalue())
        yield f"{size:,} bytes in a header", bytes(out)
        place = out.find(b"PK\1\2") + 24
        out[place : place + 4] = struct.pack("<I", min(length, 0xFFFFFFFE))
        yield f"{size:,} bytes in a header and the directory", bytes(out)


def header_bombs(data: bytes) -> Bombs:
    """A header of safetensors that says that it, or a tensor, is larger than the file."""
    length = struct.unpack("<Q", data[:8])[0]
    for size in (length + 1, 1 << 30, 1 << 40, 1 << 63):
        yield f"header of {size:,} bytes", struct.pack("<Q", size) + data[8:]
    fields = json.loads(data[8 : 8 + length])
    name = next(name for name in fields if name != "__metadata__")
    for shape, end in (([1 << 40], 1 << 42), ([1 << 62, 1 << 62], 4), ([-1], -4), ([10**30], 10**31)):
        fields[name] = {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}
        text = json.dumps(fields).encode()
        yield f"tensor of shape {shape}", struct.pack("<Q", len(text)) + text + data[8 + length :]


BOMBS: dict[str, Callable[[bytes], Bombs]] = {
    "dataset.npz": zip_bombs,
    "partition.npz": zip_bombs,
    "embedding.npz": zip_bombs,
    "state.safetensors": header_bombs,
    "checkpoint.safetensors": header_bombs,
}
