"""Embeddings of class names by language models: word2vec, BERT and CLIP's text encoder.

Each reads its model from a local path, or downloads the named one where there is a network. What is read is numbers and
text: weights as safetensors, words as word2vec's formats; no pickle is loaded and no downloaded code is run. The usual
models are downloaded at a revision that stands here, and so does the checksum of word2vec's.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apfl.errors import UserError
from apfl.optional import optional
from apfl.semantics.table import Semantics, class_texts
from apfl.storage.files import first_line

if TYPE_CHECKING:
    import torch
    from gensim.models import KeyedVectors

WORD2VEC, BERT, CLIP = "word2vec-google-news-300", "bert-base-uncased", "ViT-B-32-quickgelu"
WORD2VEC_MD5 = "a5e5354d40acb95f9ec66d5977d140ef"
BERT_REVISION = "86b5e0934494bd15c9632b12f734a8a67f723594"
CLIP_WEIGHTS = ("timm/vit_base_patch32_clip_224.openai", "a6f597a30f7b82c51704746581f9a4e41421e878")
"""Repository of OpenAI's weights for `CLIP`, and its revision."""
CLIP_FILE = "open_clip_model.safetensors"
"""The file of weights that open_clip prefers to all others."""
BATCH = 64


def word2vec(class_names: Sequence[str], path: Path | None = None, model: str = WORD2VEC) -> Semantics:
    """Word vectors by gensim: the mean over the words of a name, each as it is or capitalised.

    path: a file in word2vec's text format or its binary format (.bin, .bin.gz); gensim's own format (.kv) is a pickle,
    which could run any code, and is refused. Mikolov et al., "Distributed representations of words and phrases and
    their compositionality", 2013.
    """
    gensim = optional("gensim.models", "semantics w2v")
    file = _downloaded_vectors(model) if path is None else path
    if file.suffix == ".kv":
        raise UserError(f"semantics w2v: {file} is a pickle; save it with gensim's save_word2vec_format instead")
    binary = ".bin" in file.suffixes or (path is None and model == WORD2VEC)
    read = gensim.KeyedVectors.load_word2vec_format
    vectors = _load(f"semantics w2v: {path or model}", lambda: read(str(file), binary=binary))
    words = [text.split() for text in class_texts(class_names)]
    wanted = sorted({word for name in words for word in name})
    keys = {word: key for word in wanted if (key := _key(vectors, word)) is not None}
    if unknown := [word for word in wanted if word not in keys]:
        raise UserError(f"semantics w2v: the vectors lack {', '.join(unknown)}; use other vectors, or --source table")
    rows = np.stack([np.mean([vectors[keys[word]] for word in name], axis=0) for name in words])
    texts = tuple(" ".join(keys[word] for word in name) for name in words)
    return Semantics(rows.astype(np.float32), tuple(class_names), texts, {"kind": "w2v", "model": _origin(path, model)})


def _downloaded_vectors(model: str) -> Path:
    """The file of one of gensim's models; the code that gensim downloads with it to load it is not run."""
    downloader = optional("gensim.downloader", "semantics w2v")
    file = Path(_load(f"semantics w2v: model {model}", lambda: downloader.load(model, return_path=True)))
    if model == WORD2VEC:
        with file.open("rb") as stream:
            md5 = hashlib.file_digest(stream, "md5").hexdigest()
        if md5 != WORD2VEC_MD5:
            raise UserError(f"semantics w2v: {file} has MD5 {md5}, not {WORD2VEC_MD5}; remove it and download it again")
    return file


def _key(vectors: KeyedVectors, word: str) -> str | None:
    """A word's key: as it is, joined otherwise (t_shirt, tshirt), or capitalised (as letters are in Google News)."""
    forms = (word, word.replace("-", "_"), word.replace("-", ""))
    keys = [change(form) for change in (str, str.capitalize) for form in forms]
    return next((key for key in keys if key in vectors), None)


def bert(
    class_names: Sequence[str], path: Path | None = None, model: str = BERT, template: Sequence[str] = ("{}",)
) -> Semantics:
    """Last hidden states by transformers, averaged over the tokens of a text with [CLS] and [SEP].

    path: a folder written by ``save_pretrained``, with its weights as safetensors; model: a name on the Hugging Face
    Hub, with ``@`` and a revision if not its newest is wanted. Devlin et al., "BERT: pre-training of deep bidirectional
    transformers for language understanding", 2018.
    """
    transformers = optional("transformers", "semantics bert")
    name, _, revision = model.partition("@")
    revision = revision or (BERT_REVISION if name == BERT else "main")
    place, options = (name, {"revision": revision}) if path is None else (str(path), {"local_files_only": True})
    where, options = f"semantics bert: {path or model}", options | {"trust_remote_code": False}
    tokenizer = _load(where, lambda: transformers.AutoTokenizer.from_pretrained(place, **options))
    load = transformers.AutoModel.from_pretrained
    network = _load(where, lambda: load(place, use_safetensors=True, **options)).eval()

    def encode(texts: list[str]) -> torch.Tensor:
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
        states, mask = network(**batch).last_hidden_state, batch["attention_mask"].unsqueeze(-1)
        means: torch.Tensor = (states * mask).sum(dim=1) / mask.sum(dim=1)
        return means

    source = {"kind": "bert", "model": _origin(path, model), "template": list(template)}
    return _embedded(class_names, template, encode, source)


def clip(
    class_names: Sequence[str],
    path: Path | None = None,
    model: str = CLIP,
    template: Sequence[str] = ("a photo of a {}.",),
) -> Semantics:
    """CLIP's text encoder by open_clip, OpenAI's weights, not normalised.

    path: a folder with open_clip_config.json and weights, or a checkpoint of ``model``, as safetensors. The default is
    ViT-B/32 with the activation that OpenAI's weights were trained with; open_clip's plain ViT-B-32 has another.
    Radford et al., "Learning transferable visual models from natural language supervision", 2021.
    """
    open_clip = optional("open_clip", "semantics clip")
    where = f"semantics clip: {path or model}"
    name = f"local-dir:{path}" if path is not None and path.is_dir() else model
    if path is not None:
        _check_safetensors(path, where)
    weights = str(path or (_load(where, _openai_weights) if model == CLIP else "openai"))
    network = _load(where, lambda: open_clip.create_model(name, weights, require_pretrained=True)).eval()
    tokenizer = _load(where, lambda: open_clip.get_tokenizer(name))
    source = {"kind": "clip", "model": _origin(path, model), "template": list(template)}
    return _embedded(class_names, template, lambda texts: network.encode_text(tokenizer(texts)), source)


def _openai_weights() -> str:
    """The file of `CLIP`'s weights, downloaded unless it is there."""
    hub = optional("huggingface_hub", "semantics clip")
    repository, revision = CLIP_WEIGHTS
    return str(hub.hf_hub_download(repository, CLIP_FILE, revision=revision))


def _check_safetensors(path: Path, where: str) -> None:
    """A `UserError` unless the weights are safetensors: open_clip would take other files too, which may be pickles."""
    found = [path] if path.is_file() else sorted(file for file in path.glob("*") if file.suffix in (".bin", ".pth"))
    others = [file for file in found if file.suffix != ".safetensors"]
    if others and not (path / CLIP_FILE).is_file():
        raise UserError(f"{where}: {others[0].name} may be a pickle, which could run any code; save it as safetensors")


def _embedded(
    class_names: Sequence[str],
    templates: Sequence[str],
    encode: Callable[[list[str]], torch.Tensor],
    source: dict[str, Any],
) -> Semantics:
    """Encode every name in every template; the embedding of a class is the mean over the templates."""
    import torch

    if bad := [template for template in templates if "{}" not in template]:
        raise UserError(f"template {bad[0]!r}: has no place for the class name; write {{}} where it goes")
    words = class_texts(class_names)
    total = np.zeros(())
    for template in templates:
        texts = [template.replace("{}", word) for word in words]
        with torch.inference_mode():
            parts = [encode(texts[start : start + BATCH]).float().numpy() for start in range(0, len(texts), BATCH)]
        total = total + np.concatenate(parts) / len(templates)
    texts = tuple(" | ".join(template.replace("{}", word) for template in templates) for word in words)
    return Semantics(total.astype(np.float32), tuple(class_names), texts, source)


def _load(what: str, load: Callable[[], Any]) -> Any:
    """Call ``load``; whatever it raises becomes a `UserError`, and what it logs on the way is not shown."""
    logged = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        return load()
    except Exception as error:  # downloads, damaged files and wrong configurations raise many kinds
        remedy = "give a model with --path, or use a machine with a network, or another --source"
        raise UserError(f"{what}: cannot be loaded ({first_line(error)}); {remedy}") from None
    finally:
        logging.disable(logged)


def _origin(path: Path | None, model: str) -> str:
    return model if path is None else path.name
