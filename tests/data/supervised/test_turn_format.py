"""Conversations as `0 turn EOS turn EOS ...`, cut to the lengths of inputs and targets, against ids written by hand."""

from palm_jax.data.supervised.turn_format import TurnFormat
from palm_jax.data.supervised.turns import Turn
from palm_jax.data.vocabulary.vocabularies import Bytes

BOS, EOS = 0, 1


def ids(text):
    """`^` is the start token and `$` EOS; other characters are their bytes, from 3 on."""
    return [{'^': BOS, '$': EOS}.get(character, ord(character) + 3) for character in text]


def turns(*texts):
    """Turns of a dialogue, of which those in capitals are learned."""
    return [Turn(text, text.isupper()) for text in texts]


def made(lengths, *texts):
    sequences, was_truncated = TurnFormat(Bytes(), *lengths).sequences(turns(*texts))
    for sequence in sequences:
        assert len(sequence.ids) == len(sequence.is_learned) <= sum(lengths) + 1
    return [(s.ids, ''.join('x' if learned else '.' for learned in s.is_learned)) for s in sequences], was_truncated


def test_a_prompt_has_the_newest_turns_that_fit():
    of = TurnFormat(Bytes(), 8, 8).prompt_ids
    assert list(of(turns('ab', 'cd'))) == ids('^ab$cd$')
    assert list(of(turns('abc', 'de', 'fg'))) == ids('^de$fg$')  # 'abc$' would be one too many
    assert list(of(turns('x', 'abcdefghij'))) == ids('^abcdef$')  # a single turn is cut at its end
    assert list(of([])) == ids('^')


def test_what_fits_is_one_sequence_in_which_replies_are_learned():
    assert made((16, 8), 'ab', 'CD', 'e', 'F') == ([(ids('^ab$CD$e$F$'), '....xxx..xx')], False)
    assert made((16, 8), 'ab', 'CD', 'unanswered') == ([(ids('^ab$CD$'), '....xxx')], False)


def test_a_reply_is_cut_and_its_eos_is_kept():
    assert made((16, 4), 'ab', 'CDEFG') == ([(ids('^ab$CDE$'), '....xxxx')], True)


def test_a_long_dialogue_becomes_several_sequences_that_begin_with_what_was_before():
    found = made((8, 4), 'abc', 'DEF', 'ghi', 'JKL')
    assert found == ([(ids('^abc$DEF$'), '.....xxxx'), (ids('^ghi$JKL$'), '.....xxxx')], False)
    (first, second), was_truncated = made((8, 4), 'abc', 'DEF', 'ghijklmnop', 'Q')
    assert first == (ids('^abc$DEF$'), '.....xxxx') and second == (ids('^ghijkl$Q$'), '........xx') and was_truncated
