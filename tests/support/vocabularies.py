"""Vocabularies whose token ids can be read off their text."""


class Letters:
    """Decodes token i as chr(i + 60)."""

    def encode(self, text):
        return [ord(c) - 60 for c in text]

    def decode(self, ids):
        return ''.join(chr(i + 60) for i in ids)


class Numbers:
    """Decodes token i as its decimal digits, separated by spaces."""

    def decode(self, ids):
        return ' '.join(map(str, ids))
