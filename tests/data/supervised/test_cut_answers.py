"""Answers that are quoted from their input, and how many of them the cut removes."""

from palm_jax.data.supervised.cut_answers import CutAnswers


def counted(*examples):
    answers = CutAnswers()
    for text, kept, references in examples:
        answers.add(text, kept, references)
    return answers


def test_removed_answers_are_counted_among_the_quoted_ones():
    text = 'The river Elbe flows\nthrough Hamburg.'
    answers = counted(
        (text, text[:20], ['Hamburg']),  # removed
        (text, text[:20], ['the  RIVER elbe']),  # kept: case and white space do not count
        (text, text[:20], ['Bremen', 'through hamburg']),  # one of its answers is quoted, and removed
        (text, text, ['Hamburg']),
        (text, text[:20], ['Rhine']),  # not quoted
    )
    assert answers.warning('the examples').startswith('2 of 4 answers in the inputs of the examples (50.0%)')


def test_nothing_is_said_where_no_answer_is_removed_or_most_are_not_quoted():
    assert counted().warning('') == counted(('a b', 'a b', ['b'])).warning('') == ''
    assert counted(('a b', 'a', ['b']), ('a b', 'a', ['c'])).warning('')
    assert counted(('a b', 'a', ['b']), ('a b', 'a', ['c']), ('a b', 'a', ['d'])).warning('') == ''
    assert counted(('a b', 'a', [' '])).warning('') == ''  # a blank is in every text
