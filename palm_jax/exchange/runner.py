"""Labels texts with the exported model in this folder, as the program did that trained it.

    python run.py "a text" "another text"
    python run.py < texts.txt                a text per line
    python run.py --model=model_int8.tflite "a text"

Prints a JSON value per text: probabilities by label, a number, or entities with their places. A model of pairs takes
two texts for each prediction. `import run; run.predict(['a text'])` does the same in Python. model.json describes the
arrays that the model takes and gives. Needs NumPy; jax for model.stablehlo, ai-edge-litert or tensorflow for a .tflite
file; and sentencepiece or tokenizers, if the vocabulary is one of theirs.
"""

import functools
import json
import pathlib
import re
import sys

import numpy as np

FOLDER = pathlib.Path(__file__).resolve().parent
SPACE_MARK = '▁'  # U+2581 represents the space inside SentencePiece, so in text it is encoded as bytes


@functools.cache
def about():
    """Return the content of model.json."""
    return json.loads((FOLDER / 'model.json').read_text(encoding='utf-8'))


@functools.cache
def load_model(name=None):
    """Return a function from token ids [1, L] and segment ids [1, L] to scores."""
    name = name or next(n for n in ('model.stablehlo', 'model.tflite') if (FOLDER / n).is_file())
    if name.endswith('.stablehlo'):
        import jax

        call = jax.jit(jax.export.deserialize(bytearray((FOLDER / name).read_bytes())).call)
        return lambda *arrays: np.asarray(call(*arrays))
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tensorflow.lite.python.interpreter import Interpreter
    interpreter = Interpreter(str(FOLDER / name))
    interpreter.allocate_tensors()
    inputs = sorted(interpreter.get_input_details(), key=lambda detail: detail['name'])
    (output,) = interpreter.get_output_details()

    def call(*arrays):
        for detail, array in zip(inputs, arrays, strict=True):
            interpreter.set_tensor(detail['index'], array)
        interpreter.invoke()
        return interpreter.get_tensor(output['index'])

    return call


@functools.cache
def load_encoder():
    """Return a function from a text to its token ids."""
    vocabulary = about()['vocabulary']
    if vocabulary['kind'] == 'bytes':
        return lambda text: [byte + vocabulary['first_byte'] for byte in text.encode('utf-8', errors='surrogatepass')]
    if vocabulary['kind'] == 'sentencepiece':
        import sentencepiece

        pieces = sentencepiece.SentencePieceProcessor(model_file=str(FOLDER / vocabulary['file']))
        mark = [pieces.piece_to_id(f'<0x{byte:02X}>') for byte in SPACE_MARK.encode()]

        def encode(text):
            first, *rest = pieces.encode(text.split(SPACE_MARK))
            return first + [i for ids in rest for i in (*mark, *ids)]

        return encode
    from tokenizers import Tokenizer

    content = json.loads((FOLDER / vocabulary['file']).read_text(encoding='utf-8'))
    tokenizer = Tokenizer.from_str(json.dumps(content.get('tokenizer', content)))
    renumbered = {int(there): here for there, here in vocabulary['renumbered'].items()}

    def encode_renumbered(text):
        ids = tokenizer.encode(text, add_special_tokens=False).ids if text else []
        return [renumbered.get(i, i) for i in ids]

    return encode_renumbered


def predict(inputs, model=None):
    """Return the prediction for each input: a text, for models of pairs two texts, for taggers also a list of words."""
    run = label_words if about()['task'] == 'tag words' else label_text
    for number, given in enumerate(inputs):
        check(given, f'Input {number}')
    return [run(given, load_model(model)) for given in inputs]


def check(given, name):
    """Raise ValueError if an input, or one of the texts of a pair, is empty or white space alone."""
    parts = list(given) if about()['reads_pairs'] else [given if isinstance(given, str) else ''.join(given)]
    if not all(part.strip() for part in parts):
        raise ValueError(f'{name} is empty, so there is nothing to predict. Leave it out.')


def label_text(given, model):
    """Return probabilities by label, the likeliest first; of a model of numbers the number."""
    encode, eos, length = load_encoder(), about()['eos_id'], about()['length']
    parts = [encode(text) for text in ([given] if isinstance(given, str) else given)]
    start = about()['start_ids']
    for _ in range(sum(map(len, parts)) + len(parts) + len(start) - length):
        max(parts, key=len).pop()
    (scores,) = model(*arrays(start + [i for part in parts for i in (*part, eos)]))
    scores = scores.astype(np.float64)
    if about()['activation'] == 'none':
        return float(scores[0])
    if about()['activation'] == 'softmax':
        p = np.exp(scores - scores.max())
        p /= p.sum()
    else:
        p = 1 / (1 + np.exp(-scores))
    return {about()['labels'][c]: float(p[c]) for c in np.argsort(-p, kind='stable')}


def label_words(given, model):
    """Return the entities of a text as {'type', 'text', 'start', 'end'}; each is text[start:end]."""
    encode, separator = load_encoder(), about()['word_separator']
    text = given if isinstance(given, str) else separator.join(given)
    words = list(re.finditer(about()['word_pattern'], text))
    ids, ends = list(about()['start_ids']), []
    for number, word in enumerate(words):
        pieces = encode(word.group() if number == 0 else separator + word.group())
        if len(ids) + len(pieces) > about()['length']:
            break
        ids += pieces
        ends.append(len(ids) - 1)
    (scores,) = model(*arrays(ids))
    tags = [about()['labels'][i] for i in scores[ends].argmax(axis=-1)] if ends else []
    spans = [(kind, words[first].start(), words[last - 1].end()) for kind, first, last in entities(tags)]
    return [{'type': kind, 'text': text[start:end], 'start': start, 'end': end} for kind, start, end in spans]


def arrays(ids):
    """Return token ids and segment ids, int32 [1, L], padded with 0."""
    tokens, segments = np.zeros((2, 1, about()['length']), np.int32)
    tokens[0, : len(ids)], segments[0, : len(ids)] = ids, 1
    return tokens, segments


def entities(tags):
    """Return (type, first word, word after the last) of the entities in BIO tags, also with E and S."""
    found, first, kind, is_open = [], 0, '', False
    for number, tag in enumerate([*tags, 'O']):
        prefix, _, name = tag.partition('-')
        continues = is_open and prefix in ('I', 'E') and name == kind
        if is_open and not continues:
            found.append((kind, first, number))
        if prefix != 'O' and not continues:
            first, kind = number, name
        is_open = prefix != 'O'
        if prefix in ('E', 'S'):
            found.append((kind, first, number + 1))
            is_open = False
    return found


def main(arguments):
    """Print a prediction per text."""
    model = next((a.removeprefix('--model=') for a in arguments if a.startswith('--model=')), None)
    texts = [a for a in arguments if not a.startswith('--model=')] or [line.rstrip('\r\n') for line in sys.stdin]
    if about()['reads_pairs']:
        if len(texts) % 2:
            sys.exit('This model labels pairs of texts: give two texts for each.')
        texts = list(zip(texts[::2], texts[1::2], strict=True))
    try:
        for number, text in enumerate(texts):
            check(text, f'Input {number}')
    except ValueError as error:
        sys.exit(str(error))
    for text in texts:
        print(json.dumps(predict([text], model)[0], ensure_ascii=False))


if __name__ == '__main__':
    main(sys.argv[1:])
