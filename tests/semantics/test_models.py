"""Embeddings by gensim, transformers and open_clip, on tiny models made here, against the same mathematics by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from apfl.errors import UserError
from apfl.semantics.models import bert, clip, word2vec

NAMES = ("cat", "aquarium_fish", "T-shirt/top")


@pytest.fixture(scope="module")
def vectors():
    gensim = pytest.importorskip("gensim.models")
    keyed = gensim.KeyedVectors(vector_size=4)
    keys = ["cat", "aquarium", "fish", "t_shirt", "A", "Owl"]
    keyed.add_vectors(keys, np.random.default_rng(0).standard_normal((len(keys), 4)).astype(np.float32))
    return keyed


@pytest.fixture(scope="module", params=["w2v.txt", "w2v.bin", "w2v.bin.gz"])
def vector_file(request, vectors, tmp_path_factory):
    path = tmp_path_factory.mktemp("w2v") / request.param
    vectors.save_word2vec_format(str(path), binary=".bin" in path.suffixes)
    return path


def test_word2vec_averages_the_words_of_a_name(vectors, vector_file):
    made = word2vec(NAMES, vector_file)
    expected = [vectors["cat"], (vectors["aquarium"] + vectors["fish"]) / 2, vectors["t_shirt"]]
    assert made.embedding.dtype == np.float32 and np.allclose(made.embedding, expected, atol=1e-6)
    assert made.texts == ("cat", "aquarium fish", "t_shirt") and made.names == NAMES
    assert made.source["model"] == vector_file.name


def test_gensims_own_format_is_refused_because_it_is_a_pickle(vectors, tmp_path):
    vectors.save(str(tmp_path / "w2v.kv"))
    with pytest.raises(UserError, match="is a pickle; save it with gensim's save_word2vec_format"):
        word2vec(("cat",), tmp_path / "w2v.kv")


def test_word2vec_finds_capitalised_words_and_names_the_words_it_lacks(vectors, vector_file):
    assert word2vec(("a", "owl"), vector_file).texts == ("A", "Owl")
    with pytest.raises(UserError, match="lack dragon, pine; use other vectors"):
        word2vec(("cat", "pine_fish", "dragon"), vector_file)


def attention(x, weights, biases, out, heads, mask):
    """Multi-head attention: x [n, t, w]; weights and biases of query, key and value; mask [t, t], added."""
    n, t, width = x.shape
    parts = [x @ weight.T + bias for weight, bias in zip(weights, biases, strict=True)]
    q, k, v = (part.reshape(n, t, heads, width // heads).transpose(1, 2) for part in parts)
    scores = q @ k.transpose(-1, -2) / (width // heads) ** 0.5 + mask
    mixed = (torch.softmax(scores, dim=-1) @ v).transpose(1, 2).reshape(n, t, width)
    return mixed @ out[0].T + out[1]


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cat", "aquarium", "fish", "t", "-", "shirt", "a", "photo"]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12
    )
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def bert_by_hand(folder, words: list[str]) -> np.ndarray:
    """Mean over [CLS], words and [SEP] of the last hidden state of a one-layer BERT with two heads; float32 [8]."""
    from safetensors.torch import load_file

    p = load_file(folder / "model.safetensors")
    vocabulary = (folder / "vocab.txt").read_text().split()
    ids = torch.tensor([[vocabulary.index(word) for word in ["[CLS]", *words, "[SEP]"]]])
    tables = [p[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")]
    x = tables[0][ids] + tables[1][: ids.shape[1]] + tables[2][0]

    def norm(x, name):
        return F.layer_norm(x, (8,), p[f"{name}.weight"], p[f"{name}.bias"], 1e-12)

    x = norm(x, "embeddings.LayerNorm")
    layer = "encoder.layer.0"
    own = [f"{layer}.attention.self.{name}" for name in ("query", "key", "value")]
    out = p[f"{layer}.attention.output.dense.weight"], p[f"{layer}.attention.output.dense.bias"]
    mixed = attention(x, [p[f"{name}.weight"] for name in own], [p[f"{name}.bias"] for name in own], out, 2, 0.0)
    x = norm(x + mixed, f"{layer}.attention.output.LayerNorm")
    inner = F.gelu(x @ p[f"{layer}.intermediate.dense.weight"].T + p[f"{layer}.intermediate.dense.bias"])
    x = x + inner @ p[f"{layer}.output.dense.weight"].T + p[f"{layer}.output.dense.bias"]
    return norm(x, f"{layer}.output.LayerNorm")[0].mean(dim=0).numpy()


def test_bert_is_the_mean_of_the_last_hidden_states_without_padding(bert_folder):
    made = bert(NAMES, bert_folder)
    words = [["cat"], ["aquarium", "fish"], ["t", "-", "shirt"]]
    expected = [bert_by_hand(bert_folder, own) for own in words]
    assert made.embedding.dtype == np.float32 and np.allclose(made.embedding, expected, atol=1e-5)
    assert made.texts == ("cat", "aquarium fish", "t-shirt")


def test_bert_averages_over_prompt_templates(bert_folder):
    made = bert(("cat",), bert_folder, template=("a {}", "a photo {}"))
    expected = (bert_by_hand(bert_folder, ["a", "cat"]) + bert_by_hand(bert_folder, ["a", "photo", "cat"])) / 2
    assert np.allclose(made.embedding[0], expected, atol=1e-5) and made.texts == ("a cat | a photo cat",)
    with pytest.raises(UserError, match="has no place for the class name"):
        bert(("cat",), bert_folder, template=("a photo",))


CLIP_CONFIG = {
    "embed_dim": 6,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 16},
    "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 8, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    open_clip = pytest.importorskip("open_clip")
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    network = open_clip.model.CLIP(**CLIP_CONFIG)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP_CONFIG, "preprocess_cfg": {}}))
    return folder


def clip_by_hand(folder, text: str) -> np.ndarray:
    """Text features of a one-layer CLIP with two heads, at the end-of-text token; float32 [6]."""
    from open_clip.tokenizer import SimpleTokenizer
    from safetensors.torch import load_file

    p = load_file(folder / "open_clip_model.safetensors")
    codes = SimpleTokenizer()
    ids = [49406, *codes.encode(text), 49407]
    x = p["token_embedding.weight"][torch.tensor([ids])] + p["positional_embedding"][: len(ids)]

    def norm(x, name):
        return F.layer_norm(x, (8,), p[f"{name}.weight"], p[f"{name}.bias"])

    layer = "transformer.resblocks.0"
    weights, biases = p[f"{layer}.attn.in_proj_weight"].split(8), p[f"{layer}.attn.in_proj_bias"].split(8)
    out = p[f"{layer}.attn.out_proj.weight"], p[f"{layer}.attn.out_proj.bias"]
    causal = torch.full((len(ids), len(ids)), -torch.inf).triu(1)
    x = x + attention(norm(x, f"{layer}.ln_1"), weights, biases, out, 2, causal)
    inner = F.gelu(norm(x, f"{layer}.ln_2") @ p[f"{layer}.mlp.c_fc.weight"].T + p[f"{layer}.mlp.c_fc.bias"])
    x = x + inner @ p[f"{layer}.mlp.c_proj.weight"].T + p[f"{layer}.mlp.c_proj.bias"]
    return (norm(x, "ln_final")[0, -1] @ p["text_projection"]).numpy()


def test_clip_gives_the_features_of_the_prompt_not_normalised(clip_folder):
    made = clip(NAMES, clip_folder)
    prompts = ["a photo of a cat.", "a photo of a aquarium fish.", "a photo of a t-shirt."]
    expected = np.stack([clip_by_hand(clip_folder, prompt) for prompt in prompts])
    assert np.allclose(made.embedding, expected, atol=1e-5) and made.texts == tuple(prompts)
    assert made.source["model"] == clip_folder.name


def test_clip_loads_a_checkpoint_of_a_named_configuration(clip_folder, tmp_path):
    open_clip = pytest.importorskip("open_clip")
    (tmp_path / "tiny-clip.json").write_text(json.dumps(CLIP_CONFIG))
    open_clip.add_model_config(tmp_path)
    made = clip(("cat",), clip_folder / "open_clip_model.safetensors", model="tiny-clip", template=("{}",))
    assert np.allclose(made.embedding[0], clip_by_hand(clip_folder, "cat"), atol=1e-5)


@pytest.mark.parametrize("model", [bert, clip, word2vec])
def test_a_model_that_cannot_be_loaded_is_one_line_with_a_remedy(model, tmp_path, caplog):
    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "w2v.bin" if model is word2vec else folder
    with pytest.raises(UserError, match=r"cannot be loaded .*give a model with --path") as refused:
        model(NAMES, path)
    assert "\n" not in str(refused.value) and not caplog.records


def test_a_clip_folder_without_weights_is_refused(clip_folder, tmp_path):
    (tmp_path / "open_clip_config.json").write_bytes((clip_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(UserError, match="cannot be loaded"):
        clip(NAMES, tmp_path)


def test_a_package_that_is_not_installed_is_one_line(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match=r"semantics clip: needs the package open_clip .*apfl-bench\[full\]"):
        clip(NAMES)
