"""Text embedders: the hashed one, and what a folder of a model must be."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from vpt_jax.data.text_embedders import EmbedderIdentity, TextEmbedderError, embed_by_hashing, load_text_embedder


def test_hashed_vectors_are_the_same_in_every_process():
    vector = embed_by_hashing("Open the door")
    np.testing.assert_allclose(np.linalg.norm(vector), 1, rtol=1e-6)
    assert (vector.argmax(), vector[12].round(4)) == (12, np.float32(0.5107))
    np.testing.assert_array_equal(embed_by_hashing("  OPEN the\tdoor!"), vector)


def test_texts_with_common_words_are_near():
    door, doors, fight = map(embed_by_hashing, ("open the door", "open both doors", "fight the monster"))
    assert door @ doors > 0.3 > door @ fight


@pytest.mark.parametrize("text", ["", "...", "\ud800", "\x00"])
def test_a_text_without_words_is_the_zero_vector(text):
    assert not embed_by_hashing(text).any()


def test_another_embedder_than_in_training_is_refused():
    trained = EmbedderIdentity("elsewhere", "hashed-1", 256)
    assert load_text_embedder("hashed", trained).identity.name == "hashed"
    with pytest.raises(TextEmbedderError, match=r"trained with, old \(hashed-0\)"):
        load_text_embedder("hashed", EmbedderIdentity("old", "hashed-0", 256))


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(TextEmbedderError, match="safetensors"):
        load_text_embedder(str(tmp_path))
    with pytest.raises(TextEmbedderError, match="there is no text embedder"):
        load_text_embedder("hashd")


class _Tensor(np.ndarray):
    """As much of a torch tensor as the embedder uses."""

    def float(self):
        return self.astype(np.float32)

    def numpy(self):
        return np.asarray(self)


def test_a_model_is_read_without_network_and_code_and_averaged_over_its_tokens(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    options = []

    class Model:
        config = SimpleNamespace(hidden_size=2)

        def eval(self):
            return self

        def __call__(self, input_ids, attention_mask):
            return SimpleNamespace(last_hidden_state=np.stack([input_ids, 2 * input_ids], -1).view(_Tensor))

    def tokenizer(texts, **_):
        ids, mask = np.zeros((len(texts), 4)), np.zeros((len(texts), 4))
        for i, text in enumerate(texts):
            ids[i, :], mask[i, : len(text)] = 9, 1
            ids[i, : len(text)] = 3
        return {"input_ids": ids.view(_Tensor), "attention_mask": mask.view(_Tensor)}

    tokenizer.model_max_length = 8

    def loader(made):
        return SimpleNamespace(from_pretrained=lambda folder, **given: options.append(given) or made)

    transformers, torch = ModuleType("transformers"), ModuleType("torch")
    transformers.AutoModel, transformers.AutoTokenizer = loader(Model()), loader(tokenizer)
    torch.no_grad = lambda: np.errstate()
    monkeypatch.setitem(sys.modules, "transformers", transformers)
    monkeypatch.setitem(sys.modules, "torch", torch)
    embedder = load_text_embedder(str(tmp_path))
    assert all(given["local_files_only"] and not given["trust_remote_code"] for given in options)
    assert options[1]["use_safetensors"]
    np.testing.assert_allclose(embedder.embed(["ab", "c"]), [[5**-0.5, 2 * 5**-0.5]] * 2, rtol=1e-6)
    assert embedder.identity.features == 2


def test_a_model_of_transformers_gives_each_text_the_same_vector_in_any_company(tmp_path):
    """Vectors of a real model, of random parameters and without a limit in its tokenizer (extra `text`)."""
    transformers = pytest.importorskip("transformers", reason="pip install -e '.[text]'")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "open", "the", "door", "fight", "collect", "ammo"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    transformers.BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.BertConfig(vocab_size=len(words), max_position_embeddings=16, **size)
    transformers.BertModel(config).save_pretrained(tmp_path)

    embedder = load_text_embedder(str(tmp_path))
    texts = ["open the door", "fight", "collect ammo " * 40]
    vectors = embedder.embed(texts)
    assert vectors.shape == (3, embedder.identity.features) == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(vectors, np.concatenate([embedder.embed([text]) for text in texts]), atol=1e-6)
    assert np.abs(vectors[0] - vectors[1]).max() > 0.01
