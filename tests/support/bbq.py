"""A question in the form of BBQ (Parrish et al., arXiv 2110.08193)."""

QUESTION = {
    'context': 'a b', 'question': 'c?', 'ans0': 'old', 'ans1': 'young', 'ans2': 'Unknown', 'label': 2,
    'answer_info': {'ans0': ['old', 'old'], 'ans1': ['young', 'nonOld'], 'ans2': ['unknown', 'unknown']},
    'question_polarity': 'neg', 'context_condition': 'ambig', 'category': 'Age',
    'additional_metadata': {'stereotyped_groups': ['old']},
}  # fmt: skip
