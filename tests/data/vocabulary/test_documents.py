"""Documents as token ids."""

import numpy as np

from palm_jax.data.vocabulary import documents
from palm_jax.data.vocabulary.vocabularies import Bytes


def test_documents_keep_their_order_and_size_whatever_the_batches(monkeypatch):
    texts = ['ab', '', 'é' * 7, 'c']
    expected = [[*(byte + 3 for byte in text.encode()), 1] for text in texts]
    for characters in (1, 3, 1 << 20):
        monkeypatch.setattr(documents, '_CHARACTERS', characters)
        found = list(documents.encode_documents(Bytes(), iter(texts)))
        assert [ids.tolist() for ids, _ in found] == expected and all(ids.dtype == np.int32 for ids, _ in found)
        assert [size for _, size in found] == [2, 0, 14, 1]
